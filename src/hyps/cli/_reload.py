"""SIGHUP: ``hyps serve`` reads its configuration again. A faulty one changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from .._logs import Log
from .._text import one_line
from ._faults import ConfigFaults
from ._rules import make_rules
from ._signals import signals
from ._systemd import systemd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import Server

#: What :class:`.Rules` is made of. All other options need a restart.
_CHANGEABLE: Final = frozenset({"config", "token", "cert", "key", "client_ca", "limits"})


class Reloader:
    """Reads the options and the file of a command again, at each SIGHUP.

    :param context: of the command, as Click made it
    :param arguments: the command's
    """

    def __init__(self, context: click.Context, arguments: Sequence[str]) -> None:
        self._command = context.command
        self._name = context.info_name
        self._parent = context.parent
        self._arguments = list(arguments)
        self._options: dict[str, Any] = context.params
        # An operator's own doing is told however often it happens.
        self._log = Log("hyps.server", burst=10_000, interval=0.001)

    async def run(self, server: Server) -> None:
        """Watch for the signal until cancelled."""
        while True:
            event = anyio.Event()
            with signals.telling_hangups(event.set):
                await event.wait()
            await self.reload(server)

    async def reload(self, server: Server) -> None:
        """Apply what the options and the file say now; if they are faulty, log why."""
        systemd.reloading()
        status = "not reloaded: see the log"
        try:
            if await self._reload(server):
                status = f"listening at {', '.join(server.urls)}"
        finally:
            systemd.ready(status)

    async def _reload(self, server: Server) -> bool:
        try:
            with self._command.make_context(
                self._name, list(self._arguments), parent=self._parent
            ) as context:
                options = context.params
                rules = make_rules(context, is_strict=True)
            await rules.apply(server)
        except (click.ClickException, ValueError) as error:
            why = error.format_message() if isinstance(error, click.ClickException) else str(error)
            faults = error.faults if isinstance(error, ConfigFaults) else [one_line(why)]
            for fault in faults:
                self._log.error("not reloaded: %s", fault)
            return False
        except Exception:
            self._log.exception("not reloaded: internal error")
            return False
        for name in sorted(options.keys() - _CHANGEABLE):
            if options[name] != self._options[name]:
                self._log.warning("%s has changed, and needs a restart", name)
        self._log.info("reloaded")
        return True
