"""The event loop in a thread of its own, in which the clients of a process run.

A process has one such thread at most, from the first call on. After a fork the child has none, and
starts its own when it needs one: the parent's thread, and its connections, are the parent's.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

from .._errors import ConnectionLost
from .._net.backend import this_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from anyio.from_thread import BlockingPortal

    from .._client.client import Client

_T = TypeVar("_T")

# AnyIO imports this in the thread, at the first call. A child that is forked in that moment would
# inherit half of a module, and an import lock that nobody releases.
importlib.import_module("anyio._backends._asyncio")

#: At the end of the interpreter all clients together have this many seconds to say goodbye.
_FAREWELL_TIME = 6.0


class _Call:
    """A function that a thread waits for, and that it may give up at any moment."""

    def __init__(self, function: Callable[[], Awaitable[Any]], timeout: float | None) -> None:
        self._function = function
        self._timeout = timeout
        self._scope: anyio.CancelScope | None = None
        self._is_abandoned = False

    async def run(self) -> Any:
        with anyio.CancelScope() as self._scope:
            if self._is_abandoned:
                self._scope.cancel()
            with anyio.fail_after(self._timeout):
                return await self._function()
        return None

    def abandon(self) -> None:
        """Cancel it, in the event loop: nobody waits any more."""
        self._is_abandoned = True
        if self._scope is not None:
            self._scope.cancel()


class Loop:
    """An event loop in a thread of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._context: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # The threads that are in a call.
        self._callers: set[int] = set()
        # Whether the interpreter ends, and the event loop with it.
        self._has_stopped = False
        # Clients that were not closed.
        self._clients: set[Client] = set()

    def run(self, function: Callable[[], Awaitable[_T]], timeout: float | None) -> _T:
        """Run a function in the event loop, and wait for it.

        :param function: called without arguments, and awaited
        :param timeout: seconds; None is no bound
        :raises TimeoutError: if it takes longer; it is cancelled then
        :raises ConnectionLost: if the interpreter is ending
        :raises RuntimeError: if this thread is in the middle of another call
        """
        thread = threading.get_ident()
        if thread in self._callers:
            # The interrupted call holds locks that this one would wait for.
            raise RuntimeError(
                "hyps.sync was called in the middle of another call, as in a signal handler; "
                "let the handler set a flag, and call it later"
            )
        if self._has_stopped:
            raise ConnectionLost("the interpreter is ending")
        call = _Call(function, timeout)
        self._callers.add(thread)
        try:
            future: Future[Any] = self._start().start_task_soon(call.run)
            result: _T = future.result()
        except CancelledError:
            # The event loop has ended under the call.
            raise ConnectionLost("the interpreter is ending") from None
        except TimeoutError:
            if timeout is None:
                raise
            raise TimeoutError(f"it took more than {timeout:g} seconds") from None
        except BaseException:
            # Such as KeyboardInterrupt, which may come at any moment.
            self.call_soon(call.abandon)
            raise
        finally:
            self._callers.discard(thread)
        return result

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the event loop, and do not wait. Any thread may do this."""
        if self._loop is not None:
            # The event loop may be closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    # Clients

    def keep(self, client: Client) -> None:
        """Note a client, to shut it down at the end of the interpreter."""
        self._clients.add(client)

    def forget(self, client: Client) -> None:
        """Note that a client was shut down."""
        self._clients.discard(client)

    def drop(self, client: Client) -> None:
        """Shut a client down soon. The garbage collector calls this, in any thread."""
        if client in self._clients:
            self._clients.discard(client)
            self.call_soon(lambda: self._shut_down_soon(client))

    def _shut_down_soon(self, client: Client) -> None:
        task = asyncio.ensure_future(client.shutdown())
        # The event loop keeps only weak references to its tasks.
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    def _start(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                self._context = start_blocking_portal("asyncio", name="hyps.sync")
                self._portal = self._context.__enter__()
                self._loop = self._portal.call(asyncio.get_running_loop)
                atexit.register(self._stop)
            return self._portal

    def _stop(self) -> None:
        # A forked child inherits what is registered.
        if self is not _loops.get(this_process()) or self._portal is None or self._context is None:
            return
        clients = list(self._clients)
        self._has_stopped = True

        async def shut_down() -> None:
            with anyio.move_on_after(_FAREWELL_TIME):
                async with anyio.create_task_group() as tasks:
                    for client in clients:
                        tasks.start_soon(client.shutdown)

        with suppress(Exception):
            self._portal.call(shut_down)
        # Daemon threads may still wait for a message.
        with suppress(RuntimeError):
            self._portal.call(self._portal.stop, True)
        self._context.__exit__(None, None, None)


_tasks: set[asyncio.Task[None]] = set()

#: By process. In a forked child the parent's stays here, and nobody touches it.
_loops: dict[object, Loop] = {}


def get_loop() -> Loop:
    """Return the event loop of this process."""
    process = this_process()
    return _loops.get(process) or _loops.setdefault(process, Loop())
