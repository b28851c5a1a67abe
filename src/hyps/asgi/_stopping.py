"""Noticing that the server is told to stop, before it waits for its streams.

ASGI tells an application of the end only after the last response. So a stream that never ends keeps
a server from stopping, or until it loses patience. Two things are common enough to be of use:

- Somebody sends the server SIGTERM or SIGINT, for which it has a handler in the main thread. This
  puts a handler in front of the server's, which tells the event loop and then calls the server's:
  the signal stays the server's. So it is with uvicorn, gunicorn and granian.
- The server runs its workers with :mod:`multiprocessing`, and tells them by an event. So it is with
  hypercorn.

Where there is neither, the server's own shutdown decides. ``docs/guides/web.md`` has the table.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack, asynccontextmanager
from multiprocessing import current_process
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING, Final

import anyio

from .._net.backend import here, spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import FrameType

#: SIGBREAK is what Windows has in place of SIGTERM.
_SIGNALS: Final = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
]

#: Seconds between two looks at the event of a worker process.
_POLL_INTERVAL: Final = 0.1


@asynccontextmanager
async def watch_for_stop(stop: Callable[[], object]) -> AsyncIterator[None]:
    """Call a function in this event loop when the server is told to stop.

    :param stop: may be called several times
    """
    home = here()
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            # gunicorn sends its workers SIGQUIT when it gets SIGINT itself. Elsewhere SIGQUIT may
            # mean something else, such as to print all stacks.
            more = [signal.SIGQUIT] if "gunicorn" in sys.modules else []
            for number in [*_SIGNALS, *more]:
                # Without a handler the process would end: there is nothing to be in front of.
                if callable(signal.getsignal(number)):
                    stack.callback(_Handler(number, lambda: home.call(stop)).restore)
        event = _find_event()
        if event is not None:
            stack.callback(_Poll(event, stop).cancel)
        yield


class _Handler:
    """A handler for a signal, in front of the one that is there."""

    def __init__(self, number: int, on_signal: Callable[[], object]) -> None:
        self._number = number
        self._on_signal: Callable[[], object] | None = on_signal
        self._previous = signal.getsignal(number)
        signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._on_signal is not None:
            self._on_signal()
        if callable(self._previous):
            self._previous(number, frame)

    def restore(self) -> None:
        self._on_signal = None
        # Somebody may have put another handler in front of this one meanwhile, which calls it.
        if signal.getsignal(self._number) == self._handle:
            signal.signal(self._number, self._previous)


def _find_event() -> Event | None:
    """Find the event by which hypercorn tells its worker processes to stop.

    It is an argument of the process. ``_kwargs`` is private, but has held the arguments as long as
    there is multiprocessing; if it ever does not, hypercorn's own shutdown decides.
    """
    arguments = getattr(current_process(), "_kwargs", {})
    event = arguments.get("shutdown_event") if isinstance(arguments, dict) else None
    return event if isinstance(event, Event) else None


class _Poll:
    """A task that looks at an event of multiprocessing, for which nothing in a loop can wait."""

    def __init__(self, event: Event, stop: Callable[[], object]) -> None:
        self._event = event
        self._stop = stop
        self._scope = anyio.CancelScope()
        self.cancel = self._scope.cancel
        spawn(self._run, "hyps lifespan")

    async def _run(self) -> None:
        with self._scope:
            while not self._event.is_set():  # noqa: ASYNC110 - see the class
                await anyio.sleep(_POLL_INTERVAL)
            self._stop()
