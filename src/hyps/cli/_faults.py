"""What is wrong with the options of ``hyps serve``, told by where each one comes from."""

from __future__ import annotations

from typing import IO, Any

import click
from click.core import ParameterSource


class ConfigFaults(click.ClickException):
    """A configuration file is wrong.

    :param faults: what, and where, a line for each
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults

    def show(self, file: IO[Any] | None = None) -> None:
        for fault in self.faults:
            click.echo(f"Error: {fault}", file=file, err=file is None)


class Faults:
    """Collects the faults of options, beside those that their configuration file has already.

    :param context: of the command, whose options are parsed
    """

    def __init__(self, context: click.Context) -> None:
        self._context = context
        self._config = context.params["config"]
        # Options that the file has wrong. They have no value here, so that what others miss of
        # them is no further fault.
        self._wrong: set[str] = set()
        self._told: list[str] = []
        self._is_of_file = False
        if self._config is not None:
            self._wrong = {place for place, _ in self._config.faults}
            self._is_of_file = bool(self._wrong)
            self._told = [
                f"{self._config.path}: {each}: {what}" for each, what in self._config.faults
            ]

    def are_sound(self, *names: str) -> bool:
        """Tell whether the file has none of these options wrong."""
        return self._wrong.isdisjoint(names)

    def call(self, name: str, beside: str) -> str:
        """Spell the name of an option as the place does that another one comes from."""
        return name if self._is_from_file(beside) else _flag(name)

    def add(self, name: str, what: str) -> None:
        """Add the fault of an option."""
        if self._is_from_file(name):
            self._is_of_file = True
            self._told.append(f"{self._config.path}: {name}: {what}")
        else:
            self._told.append(f"{_flag(name)}: {what}")

    def throw(self) -> None:
        """Raise what there is.

        :raises ConfigFaults: if some are of the file
        :raises click.UsageError: if all are of the command line or the environment
        """
        if self._is_of_file:
            raise ConfigFaults(self._told)
        if self._told:
            raise click.UsageError(self._told[0], self._context)

    def _is_from_file(self, name: str) -> bool:
        return self._context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
