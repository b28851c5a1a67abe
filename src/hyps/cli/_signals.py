"""SIGINT and SIGTERM, which one handler has for as long as a command lives.

The first one asks a command that runs on an event loop to end. Every other ends the process at
once: a second one, and one that comes before or after the loop has run, when there is nothing to
close.

The handler is never changed or taken away. Python runs handlers some time after the signal, and
one that was replaced by then is reported as "Signal 2 ignored due to race condition", or raises
KeyboardInterrupt wherever the process happens to be. Event loops leave a SIGINT alone that has a
handler already.
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
        #: The one that asked the command to end.
        self.received: int | None = None
        self._waker: socket.socket | None = None
        # The handler may be interrupted by itself, so it counts in one step.
        self._counted = count()

    def take(self) -> None:
        """Handle them from now on, but for those that the parent process has ignored: nohup."""
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        waker = self._waker
        if waker is None or next(self._counted):
            # As if the signal had done it. No Python code of this process runs any more.
            os._exit(128 + number)
        self.received = number
        try:
            waker.send(b"\0")
        except BlockingIOError:
            pass  # there is something to be read already

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let the first one ask, as :meth:`watch` does, instead of ending the process."""
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
        """Wait until cancelled.

        :param on_signal: called when the first one has come
        """
        import anyio

        assert self._waker is not None
        # A signal that comes just before the event loop begins to wait does not end the waiting,
        # and the handler would run later: what is written at once does. After the first one too.
        loops_own = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            while True:
                if self.received is not None:
                    on_signal()
                await anyio.wait_readable(self._reader)
                self._reader.recv(4096)
        finally:
            signal.set_wakeup_fd(loops_own)


#: Of this process.
signals: Final = _Signals()
