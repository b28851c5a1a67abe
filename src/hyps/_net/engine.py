"""The engine: it flushes connections at the end of each pass of the event loop, and tells the time.

An idle connection is a single task, which waits to receive. The engine's two tasks serve all
connections: one flushes, and one keeps the alarms.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio.lowlevel import checkpoint

from .backend import Waiter, waiter_type, wake
from .clock import Clock, LoopClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: Rebuild the heap once cancelled alarms outnumber live ones by this many.
_SPARE_ALARMS: Final = 64

#: Orders alarms with equal deadlines.
_numbers: Final = count()


#: The engine flushes about this many bytes in one pass of the event loop, which is some
#: milliseconds of work.
#: Flushing a connection costs as much as sending this many bytes.
_PASS_SIZE: Final = 2_097_152
_FLUSH_COST: Final = 8_192

#: A connection with a larger backlog, in bytes, is flushed after those with a smaller one.
_MUCH: Final = 65_536

#: The engine yields to other tasks after as many alarms.
_TOLD_AT_ONCE: Final = 64


class Sender(Protocol):
    """A connection that can have output."""

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""

    def flush(self) -> None:
        """Send what the socket takes at once."""


class Timed(Protocol):
    """Something with a deadline."""

    async def tick(self) -> None:
        """Act on the deadline, and set the next alarm."""


class Alarm:
    """A deadline, and what to call at it."""

    __slots__ = ("_number", "deadline", "timed")

    def __init__(self, deadline: float, timed: Timed) -> None:
        self.deadline = deadline
        #: None once the alarm is cancelled.
        self.timed: Timed | None = timed
        self._number = next(_numbers)

    def __lt__(self, other: Alarm) -> bool:
        return (self.deadline, self._number) < (other.deadline, other._number)


class Engine(anyio.AsyncContextManagerMixin):
    """Serves connections while it is entered. Cancellation does not stop it, but leaving it does.

    :param clock: the clock of its connections
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or LoopClock()
        #: Starts a task that ends with the engine.
        self.start_soon: Callable[..., object]
        # The context variables of the task that entered it.
        self._context: Context
        self._new_waiter = waiter_type()
        self._waiter: Waiter | None = None
        # Connections with output to flush; and those of them with much, which others overtook.
        self._waiting: list[Sender] = []
        self._late: deque[Sender] = deque()
        self._has_flushed = False
        self._alarms: list[Alarm] = []
        # How many of them are cancelled.
        self._cancelled = 0
        self._sleep = anyio.CancelScope()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Engine]:
        error: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            self.start_soon = tasks.start_soon
            self._context = copy_context()
            scopes = [self.start(self._flush_each_pass), self.start(self._keep_time)]
            try:
                yield self
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as caught:
                # Raise it outside of the task group, which would wrap it into an exception group.
                error = caught
            finally:
                for scope in scopes:
                    scope.cancel()
                tasks.cancel_scope.cancel()
        if error is not None:
            raise error

    def start(self, function: Callable[[], Awaitable[None]]) -> anyio.CancelScope:
        """Run a function in a task of its own.

        :return: a scope that cancels the task
        """
        scope = anyio.CancelScope(shield=True)
        # The task outlives the caller, whose context variables must not live as long.
        self._context.copy().run(self.start_soon, _run_within, scope, function)
        return scope

    # The end of a pass

    def note_output(self, sender: Sender) -> None:
        """Note that a connection has output, to flush it before the event loop waits."""
        self._waiting.append(sender)
        if self._waiter is not None:
            wake(self._waiter)
            self._waiter = None

    def flush(self, first: Sender | None = None) -> None:
        """Flush all connections with output; further calls in the same pass do nothing.

        A lone message leaves at once, which keeps the latency low. What follows in the same pass
        leaves together at its end. That is the batching, and it needs no timer.

        :param first: the connection that has just received something; it goes before the others
        """
        if self._waiting and not self._has_flushed:
            self._has_flushed = True
            if first is not None and len(self._waiting) > 1:
                first.flush()
            self._flush()

    def _flush(self) -> None:
        """Flush as many as a pass allows: a message to thousands must not delay everything else."""
        waiting, self._waiting = self._waiting, []
        room = _PASS_SIZE
        for index, sender in enumerate(waiting):
            if room <= 0:
                self._waiting = waiting[index:] + self._waiting
                break
            size = sender.backlog
            if size >= _MUCH and len(waiting) > 1:
                # Last: a short answer should not wait for others' large messages.
                self._late.append(sender)
            else:
                room -= size + _FLUSH_COST
                sender.flush()
        late = self._late
        if late:
            # At least one, however many others there were.
            while True:
                sender = late.popleft()
                room -= min(sender.backlog, _PASS_SIZE) + _FLUSH_COST
                sender.flush()
                if not late or room <= 0:
                    break

    async def _flush_each_pass(self) -> None:
        while True:
            self._has_flushed = False
            self._flush()
            if self._waiting or self._late:
                await checkpoint()
            else:
                self._waiter = self._new_waiter()
                await self._waiter

    # Time

    def watch(self, timed: Timed, deadline: float) -> Alarm:
        """Set an alarm."""
        alarm = Alarm(deadline, timed)
        heappush(self._alarms, alarm)
        if alarm is self._alarms[0]:
            self._sleep.cancel()
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        """Cancel an alarm."""
        alarm.timed = None
        self._cancelled += 1
        if 2 * self._cancelled > len(self._alarms) + _SPARE_ALARMS:
            # Removing each by itself would take a search of the heap.
            self._alarms = [each for each in self._alarms if each.timed is not None]
            heapify(self._alarms)
            self._cancelled = 0

    async def _tick(self) -> None:
        """Call what is due."""
        now = self.clock.now()
        due: list[Alarm] = []
        while self._alarms and self._alarms[0].deadline <= now:
            due.append(heappop(self._alarms))
        self._cancelled -= sum([alarm.timed is None for alarm in due])
        # Each alarm rings once here. One that is set again for the present
        # time rings only after other tasks have run.
        for told, alarm in enumerate(due, 1):
            if alarm.timed is not None:
                await alarm.timed.tick()
            if not told % _TOLD_AT_ONCE:
                await checkpoint()

    async def _keep_time(self) -> None:
        while True:
            await self._tick()
            with anyio.CancelScope() as self._sleep:
                deadline = self._alarms[0].deadline if self._alarms else math.inf
                await self.clock.sleep_until(deadline)


async def _run_within(scope: anyio.CancelScope, function: Callable[[], Awaitable[Any]]) -> None:
    with scope:
        await function()
