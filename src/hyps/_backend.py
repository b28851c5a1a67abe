"""The things that AnyIO does not have. Nothing else asks which event loop runs.

A task outside of every task group, because a client may be connected by one task, used by others
and shut down by a third. And a waiter for one task, because with ``anyio.Event``
waiting takes one and a half times to twice as long, and there is one for each awaited operation.
And a call from where nothing may be awaited or changed: the garbage collector's.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

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


class _TrioWaiter:
    """What an asyncio future does, as far as it is used here."""

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
            # It is awaited, as far as a plain method can.
            sleep = trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105
            yield from sleep.__await__()

    def _abort(self, _: Callable[[], BaseException]) -> trio.lowlevel.Abort:
        import trio

        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


Waiter = asyncio.Future[None] | _TrioWaiter


def waiter_type() -> Callable[[], Waiter]:
    """Give what makes, for this event loop, what one task waits for.

    Each may be awaited once, before or after :func:`wake`; after it, that does not let other tasks
    run.
    """
    return asyncio.get_running_loop().create_future if _on_asyncio() else _TrioWaiter


def wake(waiter: Waiter) -> None:
    """End a wait. Harmless if it has ended."""
    if not waiter.done():
        waiter.set_result(None)


def call_soon() -> Callable[[Callable[[], None]], object]:
    """Give what lets this event loop call something, from any thread and in the middle of anything.

    It raises RuntimeError if the loop is closed.
    """
    if _on_asyncio():
        return asyncio.get_running_loop().call_soon_threadsafe
    import trio

    return trio.lowlevel.current_trio_token().run_sync_soon
