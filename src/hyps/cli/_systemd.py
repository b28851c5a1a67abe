"""What ``hyps serve`` and systemd tell each other.

The hub tells when it is ready, reloads and stops, and that its event loop still runs: see
sd_notify(3). systemd may pass sockets that listen already: see sd_listen_fds(3). Both come in
variables of the environment, which are removed once they are read: they are not meant for a child
process of the hub.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import click

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_log: Final = logging.getLogger("hyps.systemd")

#: A busy systemd reads late. The hub waits so long, in seconds, rather than not to be heard.
_LONGEST_WAIT: Final = 1.0

#: The first descriptor that systemd passes.
_FIRST: Final = 3

#: Sockets of this name are for ``--http``.
_HTTP: Final = "http"


class Systemd:
    """Tells systemd about this process. Without systemd each call does nothing."""

    def __init__(self) -> None:
        self._address = ""
        # Seconds within which systemd wants to hear from the process.
        self._patience: float | None = None

    def take(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Take what the environment says, before anything else is called."""
        self._address = environment.pop("NOTIFY_SOCKET", "")
        patience = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        if patience.isascii() and patience.isdigit() and pid in ("", str(os.getpid())):
            self._patience = int(patience) / 1e6 or None

    def ready(self, status: str) -> None:
        """Tell that the hub serves clients, after starting or after :meth:`reloading`.

        :param status: one line for ``systemctl status``
        """
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Tell that the hub reads its files again. Call :meth:`ready` afterwards, in any case."""
        # The time lets systemd tell this reload from earlier ones. It is that of CLOCK_MONOTONIC.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the hub shuts down."""
        self._send("STOPPING=1", "STATUS=waiting for clients to leave")

    async def watch(self) -> None:
        """Tell again and again that the event loop runs, if systemd wants to know."""
        if self._patience is None:
            return
        while True:
            # If there is no room, there is for the next one.
            self._send("WATCHDOG=1", timeout=0.0)
            await anyio.sleep(self._patience / 2)

    def _send(self, *assignments: str, timeout: float = _LONGEST_WAIT) -> None:
        if not self._address:
            return
        # The first character of an abstract address, which is no file, is written as @.
        is_abstract = self._address.startswith("@")
        address = "\0" + self._address[1:] if is_abstract else self._address
        # A line would begin another assignment.
        data = "\n".join(each.replace("\n", " ") for each in assignments).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
                notifier.settimeout(timeout)
                # Only a connected socket can wait for room.
                notifier.connect(address)
                notifier.send(data)
        except (OSError, ValueError, AttributeError) as error:
            _log.debug("cannot notify systemd: %s", error)


@dataclass
class Passed:
    """Sockets that systemd passed.

    :param hub: those at which the hub listens
    :param http: those for ``--http``
    """

    hub: list[socket.socket] = field(default_factory=list)
    http: list[socket.socket] = field(default_factory=list)


def take_sockets(environment: MutableMapping[str, str] = os.environ) -> Passed:
    """Take the sockets that systemd passed to this process, if it did.

    :raises click.ClickException: if they are none
    """
    passed = Passed()
    found = {name: environment.pop(name, "") for name in list(environment) if _is_ours(name)}
    if found.get("LISTEN_PID") != str(os.getpid()):
        # They are for a process that has started this one.
        return passed
    count = found.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit()):
        raise click.ClickException(f"LISTEN_FDS is no number: {count!r}")
    names = found.get("LISTEN_FDNAMES", "").split(":")
    for index in range(int(count)):
        descriptor = _FIRST + index
        try:
            taken = socket.socket(fileno=descriptor)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise click.ClickException(
                f"LISTEN_FDS: descriptor {descriptor} is no socket: {why}"
            ) from None
        # Child processes do not inherit it.
        taken.set_inheritable(False)
        is_http = index < len(names) and names[index] == _HTTP
        (passed.http if is_http else passed.hub).append(taken)
    return passed


def _is_ours(name: str) -> bool:
    return name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


#: Of this process.
systemd: Final = Systemd()
