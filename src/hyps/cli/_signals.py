"""SIGINT and SIGTERM: one handler serves them for the whole life of a command. SIGHUP, for a hub.

The first signal asks a command that runs on an event loop to end. Any other signal ends the process
at once: a second one, and one before or after the loop runs, when there is nothing to close.

Nothing ever replaces or removes the handler. Python runs handlers some time after the signal. If a
handler is replaced in between, Python reports "Signal 2 ignored due to race condition" or raises
KeyboardInterrupt at an arbitrary place. Event loops do not touch a SIGINT that has a handler.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM)


class _Signals:
    def __init__(self) -> None:
        #: The signal that asked the command to end.
        self.received: int | None = None
        self._waker: socket.socket | None = None
        # Whether SIGHUP came, and what to call then.
        self._hung_up = False
        self._on_hangup: Callable[[], object] | None = None
        # The handler may interrupt itself, so it must count in one step.
        self._counted = count()

    def take(self) -> None:
        """Install the handler, except for signals that the parent ignores, as nohup does."""
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        waker = self._waker
        if waker is None or next(self._counted):
            # End like a process that the signal killed; no more Python code runs.
            os._exit(128 + number)
        self.received = number
        self._wake(waker)

    def _handle_hangup(self, number: int, _: FrameType | None) -> None:
        self._hung_up = True
        if self._waker is not None:
            self._wake(self._waker)

    @staticmethod
    def _wake(waker: socket.socket) -> None:
        try:
            waker.send(b"\0")
        except BlockingIOError:
            pass  # an earlier byte already wakes the reader

    @contextmanager
    def telling_hangups(self, on_hangup: Callable[[], object]) -> Iterator[None]:
        """Call a function when SIGHUP comes, which ends the process otherwise.

        A signal that comes between two of these is told to the second one. To have an effect,
        :meth:`watch` must run.
        """
        self._on_hangup = on_hangup
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._handle_hangup)
        self._tell_hangup()
        try:
            yield
        finally:
            self._on_hangup = None

    def _tell_hangup(self) -> None:
        if self._hung_up and self._on_hangup is not None:
            self._hung_up = False
            self._on_hangup()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let the first signal ask, through :meth:`watch`, instead of ending the process."""
        reader, waker = socket.socketpair()
        with reader, waker:
            reader.setblocking(False)
            waker.setblocking(False)
            self._reader = reader
            self._waker = waker
            try:
                yield
            finally:
                self._waker = None

    async def watch(self, on_signal: Callable[[], None]) -> None:
        """Watch for a signal until cancelled.

        :param on_signal: called after the first signal
        """
        import anyio

        assert self._waker is not None
        # Python runs the handler only after the event loop's wait ends. A signal just before the
        # wait would not end it, but a byte that Python writes at once does. Keep that after the
        # first signal too, for the second one.
        loops_own = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            while True:
                if self.received is not None:
                    on_signal()
                await anyio.wait_readable(self._reader)
                self._reader.recv(4096)
                self._tell_hangup()
        finally:
            signal.set_wakeup_fd(loops_own)


#: Of this process.
signals: Final = _Signals()
