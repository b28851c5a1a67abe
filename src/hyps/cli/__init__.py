"""The command ``hyps``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ("main",)


def main() -> NoReturn:
    """Run the command that the process's arguments name, and end the process."""
    # Before the imports below, which take the most time of a short command.
    from ._signals import signals

    signals.take()
    from ._main import run

    run()
