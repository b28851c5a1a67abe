"""Three things that AnyIO lacks. No other module asks which event loop runs.

- Tasks outside of every task group: one task may connect a client, others use it, and a third shut
  it down.
- A waiter for one task: waiting for an ``anyio.Event`` takes 1.5 times to twice as long, and each
  awaited operation has one.
- The identity of the event loop that a client belongs to, so cheap that each operation checks it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import _get_running_loop
from contextlib import suppress
from contextvars import Context
from threading import get_ident
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    import trio

_tasks: set[asyncio.Task[None]] = set()


def _on_asyncio() -> bool:
    # Trio cannot run without being imported, and most programs never import it.
    if "trio" not in sys.modules:
        return True
    return isinstance(current_token().native_token, asyncio.AbstractEventLoop)


def loop_name() -> str:
    """Return the name of the running event loop: asyncio, uvloop or trio."""
    loop = type(current_token().native_token)
    if not _on_asyncio():
        return loop.__module__.partition(".")[0].lstrip("_")
    # A loop may be derived from uvloop's, as that of the command line is.
    return "uvloop" if any(kind.__module__ == "uvloop" for kind in loop.__mro__) else "asyncio"


def spawn(function: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    """Start a task that nobody waits for. It must not raise.

    The task has an empty context: it outlives the caller, whose context variables must not.

    :param function: called without arguments
    :param name: name of the task, for debuggers
    """
    if _on_asyncio():
        loop = asyncio.get_running_loop()
        # Older task factories do not take create_task()'s argument ``context``.
        task = Context().run(lambda: loop.create_task(function(), name=name))
        # The event loop keeps only weak references to its tasks.
        _tasks.add(task)
        task.add_done_callback(_tasks.discard, context=Context())
    else:
        import trio

        trio.lowlevel.spawn_system_task(function, name=name, context=Context())


class _TrioWaiter:
    """For trio, the part of asyncio.Future that is used here."""

    __slots__ = ("_is_done", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, _: None) -> None:
        self._is_done = True
        if self._task is not None:
            sys.modules["trio"].lowlevel.reschedule(self._task)
            self._task = None

    def __await__(self) -> Generator[Any, None, None]:
        import trio

        if not self._is_done:
            self._task = trio.lowlevel.current_task()
            # A method that is no coroutine cannot use await.
            sleep = trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105
            yield from sleep.__await__()

    def _abort(self, _: Callable[[], BaseException]) -> trio.lowlevel.Abort:
        import trio

        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


Waiter = asyncio.Future[None] | _TrioWaiter


def waiter_type() -> Callable[[], Waiter]:
    """Return the type of waiters for this event loop.

    A waiter may be awaited once, before or after :func:`wake`. Afterwards, awaiting it does not let
    other tasks run.
    """
    return asyncio.get_running_loop().create_future if _on_asyncio() else _TrioWaiter


def wake(waiter: Waiter) -> None:
    """End a wait. Harmless if it, or its event loop, has ended."""
    if not waiter.done():
        try:
            waiter.set_result(None)
        except RuntimeError:
            # asyncio raises this if the event loop is closed.
            pass


class _Process:
    """Identifies a process: a forked child has another one."""


_process = _Process()


def _on_fork() -> None:
    global _process
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_on_fork)


def this_process() -> object:
    """Return what stands for this process: a forked child gets another object."""
    return _process


class Home:
    """The event loop, thread and process that something belongs to."""

    __slots__ = ("_process", "_thread")

    def __init__(self) -> None:
        self._process = _process
        self._thread = get_ident()

    def is_here(self) -> bool:
        """Tell whether the caller runs in it."""
        raise NotImplementedError

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in it, from any thread; do nothing if the event loop is gone."""
        raise NotImplementedError

    def _has_ended(self) -> bool:
        raise NotImplementedError

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a forked child of the one that it belongs to."""
        return self._process is not _process

    @property
    def is_gone(self) -> bool:
        """Whether nothing will ever run in it again, as far as this process is concerned."""
        return self.is_inherited or (not self.is_here() and self._has_ended())

    def advice(self) -> str:
        """Say why the caller is in the wrong place, and what works in the caller's place."""
        if self.is_inherited:
            return (
                "this client was connected before the process was forked, and the connection is "
                "the parent's; connect it anew in this process: await client.connect()"
            )
        if self._has_ended():
            return (
                "the event loop in which this client was connected has ended; "
                "connect it anew in this one: await client.connect()"
            )
        if _is_in_loop():
            return (
                "this client was connected in another event loop; "
                "make a client for each event loop: hyps.connect()"
            )
        if get_ident() == self._thread:
            return (
                "the event loop in which this client was connected is not running; "
                "call this in a task of that event loop"
            )
        return (
            "this client was connected in the event loop of another thread; "
            "anyio.from_thread.run(client.publish, channel, data, token=token) calls it there, "
            "where token is what anyio.lowlevel.current_token() gives in that event loop"
        )


class _AsyncioHome(Home):
    __slots__ = ("_loop",)

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()

    def is_here(self) -> bool:
        # Each operation calls this. A forked child may go on with its parent's event loop.
        return _get_running_loop() is self._loop and self._process is _process

    def call(self, function: Callable[[], object]) -> None:
        if not self.is_inherited:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._start, function, context=Context())

    def _start(self, function: Callable[[], object]) -> None:
        # In a task: what the function does may ask AnyIO for things of the current one.
        self._loop.create_task(_call(function))

    def _has_ended(self) -> bool:
        return self._loop.is_closed()


class _TrioHome(Home):
    __slots__ = ("_current_token", "_token")

    def __init__(self) -> None:
        import trio

        super().__init__()
        self._current_token = trio.lowlevel.current_trio_token
        self._token = self._current_token()

    def is_here(self) -> bool:
        try:
            return self._current_token() is self._token and self._process is _process
        except RuntimeError:
            return False

    def call(self, function: Callable[[], object]) -> None:
        import trio

        if not self.is_inherited:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(function)

    def _has_ended(self) -> bool:
        import trio

        try:
            self._token.run_sync_soon(bool)
        except trio.RunFinishedError:
            return True
        return False


async def _call(function: Callable[[], object]) -> None:
    function()


def here() -> Home:
    """Return the place where the caller runs."""
    return _AsyncioHome() if _on_asyncio() else _TrioHome()


def _is_in_loop() -> bool:
    if _get_running_loop() is not None:
        return True
    if "trio" not in sys.modules:
        return False
    import trio

    return trio.lowlevel.in_trio_run()
