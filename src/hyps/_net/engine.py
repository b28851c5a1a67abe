"""What connections share: the end of the event loop's pass, the time, and tasks for the rest.

A connection that has nothing to do is one task, which waits to receive. Whatever else it needs is
done for it by the two tasks here.
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

#: Alarms that were dropped and may stay until they are due, besides as many as there are others.
_FEW: Final = 64

#: Orders alarms of the same time.
_numbers: Final = count()


#: Bytes that are sent in a pass of the event loop, about, and what each connection costs besides:
#: some milliseconds of work.
_PASS_SIZE: Final = 2_097_152
_FLUSH_COST: Final = 8_192

#: Bytes from which on a connection has much to send, and waits until others have sent their little.
_MUCH: Final = 65_536

#: Alarms that are told the time before others have their turn.
_TOLD_AT_ONCE: Final = 64


class Sender(Protocol):
    """A connection that has something to send now and then."""

    @property
    def backlog(self) -> int:
        """Bytes that wait."""

    def flush(self) -> None:
        """Send what can be sent at once."""


class Timed(Protocol):
    """What wants to be told the time."""

    async def tick(self) -> None:
        """Judge what the time means, and ask for the next alarm."""


class Alarm:
    """When somebody wants to be told the time."""

    __slots__ = ("_number", "deadline", "timed")

    def __init__(self, deadline: float, timed: Timed) -> None:
        self.deadline = deadline
        #: None when it was dropped.
        self.timed: Timed | None = timed
        self._number = next(_numbers)

    def __lt__(self, other: Alarm) -> bool:
        return (self.deadline, self._number) < (other.deadline, other._number)


class Engine(anyio.AsyncContextManagerMixin):
    """Serves connections while it is entered. Being cancelled does not stop it, leaving it does.

    :param clock: the time by which its connections are judged
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or LoopClock()
        #: Starts a task that ends with the engine.
        self.start_soon: Callable[..., object]
        # Of the task that entered it.
        self._context: Context
        self._new_waiter = waiter_type()
        self._waiter: Waiter | None = None
        # Those with output that was not sent yet; and of these who has much, and was passed over.
        self._waiting: list[Sender] = []
        self._late: deque[Sender] = deque()
        self._has_flushed = False
        self._alarms: list[Alarm] = []
        # How many of them were dropped.
        self._dropped = 0
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
                # Raised below: within the group it would come out as one.
                error = caught
            finally:
                for scope in scopes:
                    scope.cancel()
                tasks.cancel_scope.cancel()
        if error is not None:
            raise error

    def start(self, function: Callable[[], Awaitable[None]]) -> anyio.CancelScope:
        """Run something until the scope that is returned is cancelled, or it ends."""
        scope = anyio.CancelScope(shield=True)
        # It outlives the caller, whose context variables are not to live as long.
        self._context.copy().run(self.start_soon, _run_within, scope, function)
        return scope

    # The end of a pass

    def note_output(self, sender: Sender) -> None:
        """Note that a connection has something to send. It is flushed before the loop waits."""
        self._waiting.append(sender)
        if self._waiter is not None:
            wake(self._waiter)
            self._waiter = None

    def flush(self, first: Sender | None = None) -> None:
        """Flush all that have output, once in a pass of the event loop.

        What is alone goes out at once, for the latency. What follows in the same pass goes out
        together at its end: that is the batching, and it needs no timer.

        :param first: is flushed before all others if these are many, as it was heard just now
        """
        if self._waiting and not self._has_flushed:
            self._has_flushed = True
            if first is not None and len(self._waiting) > 1:
                first.flush()
            self._flush()

    def _flush(self) -> None:
        """Flush as many as a pass allows: a message to thousands must not hold all others."""
        waiting, self._waiting = self._waiting, []
        room = _PASS_SIZE
        for index, sender in enumerate(waiting):
            if room <= 0:
                self._waiting = waiting[index:] + self._waiting
                break
            size = sender.backlog
            if size >= _MUCH and len(waiting) > 1:
                # Behind those with little: an answer does not wait for what others are sent.
                self._late.append(sender)
            else:
                room -= size + _FLUSH_COST
                sender.flush()
        late = self._late
        if late:
            # One at the least, however many have little.
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
        """Tell somebody the time when it is so late."""
        alarm = Alarm(deadline, timed)
        heappush(self._alarms, alarm)
        if alarm is self._alarms[0]:
            self._sleep.cancel()
        return alarm

    def drop(self, alarm: Alarm) -> None:
        """Do not tell the time after all."""
        alarm.timed = None
        self._dropped += 1
        if 2 * self._dropped > len(self._alarms) + _FEW:
            # Not each by itself, which would take a search.
            self._alarms = [each for each in self._alarms if each.timed is not None]
            heapify(self._alarms)
            self._dropped = 0

    async def _tick(self) -> None:
        """Tell those the time who are to be told now."""
        now = self.clock.now()
        due: list[Alarm] = []
        while self._alarms and self._alarms[0].deadline <= now:
            due.append(heappop(self._alarms))
        self._dropped -= sum([alarm.timed is None for alarm in due])
        # Each once, as one that is to be told again at once wants others to run in between.
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
