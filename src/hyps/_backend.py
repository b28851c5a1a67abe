"""The two things that AnyIO does not have. Nothing else asks which event loop runs.

A task outside of every task group, because a client may be connected by one task, used by others
and shut down by a third. And a waiter for one task, because with ``anyio.Event``
waiting takes one and a half times to twice as long, and there is one for each awaited operation.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint, current_token

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import trio

_tasks: set[asyncio.Task[None]] = set()


def _on_asyncio() -> bool:
    # Only trio has its loop's module imported when it runs; so most programs skip the question.
    if "trio" not in sys.modules:
        return True
    return isinstance(current_token().native_token, asyncio.AbstractEventLoop)


def spawn(function: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    """Start a task that nobody waits for. It must not raise.

    :param function: called without arguments
    :param name: shown by debuggers
    """
    if _on_asyncio():
        # The event loop keeps weak references only.
        task = asyncio.get_running_loop().create_task(function(), name=name)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    else:
        import trio

        trio.lowlevel.spawn_system_task(function, name=name)


class _AsyncioWaiter:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        if self._future.done():
            await checkpoint()
        await self._future


class _TrioWaiter:
    __slots__ = ("_is_set", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        if self._task is not None:
            sys.modules["trio"].lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> None:
        import trio

        if self._is_set:
            await trio.lowlevel.checkpoint()
            return
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: Callable[[], BaseException]) -> trio.lowlevel.Abort:
        import trio

        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


Waiter = _AsyncioWaiter | _TrioWaiter


def waiter_type() -> type[Waiter]:
    """Give the class for this event loop of what one task waits for.

    Each is for one ``wait()``, which ``set()`` ends, before or after it begins.
    """
    return _AsyncioWaiter if _on_asyncio() else _TrioWaiter
