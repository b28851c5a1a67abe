"""The event loop in a thread of its own, in which the clients of a process run.

A process has one such thread at most, from the first call on. After a fork the child has none, and
starts its own when it needs one: the parent's thread, and its connections, are the parent's.
"""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

from .._net.backend import this_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from anyio.from_thread import BlockingPortal

_T = TypeVar("_T")


class Loop:
    """An event loop in a thread of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._context: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None
        self._at_exit: list[Callable[[], object]] = []

    def run(self, function: Callable[[], Awaitable[_T]], timeout: float | None) -> _T:
        """Run a function in the event loop, and wait for it.

        :param function: called without arguments, and awaited
        :param timeout: seconds; None is no bound
        :raises TimeoutError: if it takes longer; it is cancelled then
        """

        async def run() -> _T:
            with anyio.fail_after(timeout):
                return await function()

        future = self._start().start_task_soon(run)
        try:
            return future.result()
        except TimeoutError:
            if timeout is None:
                raise
            raise TimeoutError(f"it took more than {timeout:g} seconds") from None
        except BaseException:
            # Such as KeyboardInterrupt: nobody waits for the result any more.
            future.cancel()
            raise

    def at_exit(self, function: Callable[[], object]) -> None:
        """Call a function before the interpreter ends, while the event loop still runs."""
        self._at_exit.append(function)

    def _start(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                self._context = start_blocking_portal("asyncio", name="hyps.sync")
                self._portal = self._context.__enter__()
                atexit.register(self._stop)
            return self._portal

    def _stop(self) -> None:
        # A forked child inherits what is registered.
        if self is not _loops.get(this_process()) or self._context is None:
            return
        for function in self._at_exit:
            function()
        self._context.__exit__(None, None, None)


#: By process. In a forked child the parent's stays here, and nobody touches it.
_loops: dict[object, Loop] = {}


def get_loop() -> Loop:
    """Return the event loop of this process."""
    process = this_process()
    return _loops.get(process) or _loops.setdefault(process, Loop())
