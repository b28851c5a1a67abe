"""One message at a time: pingpong, and many tasks of which each awaits its own."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Final

import anyio

from ..processes import CpuClock
from ..systems.base import CHANNEL
from .base import PATIENCE, UVLOOP, Budget, Outcome, Workload, percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..loads import Load
    from ..systems.base import Session, System

#: Messages that are made; they are published over and over.
_MADE: Final = 4_096


class _Watch:
    """Notes when a message arrived, and wakes who waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self.at = 0.0
        self.data = b""
        self.event = anyio.Event()

    def tally(self, count: int, data: bytes) -> None:
        if count:
            self.at = perf_counter()
            self.data = data
            self.count += count
            self.event.set()


class Pingpong(Workload):
    """From the call of publish until the subscriber has the message, one at a time."""

    name = "pingpong"
    metrics: ClassVar[Sequence[str]] = ("p50_us",)

    async def _measure(self, system: System, budget: Budget) -> Outcome:
        watch = _Watch()
        published = 0
        latencies: list[float] = []
        messages = self.load.messages(_MADE)
        async with system.session() as session, anyio.create_task_group() as tasks:
            tasks.start_soon(session.readers[0], 1, watch.tally)
            clock = CpuClock(system.pid)
            deadline = perf_counter() + budget.seconds
            while (start := perf_counter()) < deadline and published < budget.messages:
                data = messages[published % _MADE]
                watch.event = anyio.Event()
                start = perf_counter()
                await session.publish(CHANNEL, data)
                published += 1
                with anyio.move_on_after(PATIENCE):
                    await watch.event.wait()
                if not watch.event.is_set():
                    break
                if watch.data != data:
                    raise RuntimeError("another message was delivered than was published")
                latencies.append(watch.at - start)
            cpu = clock.each(max(published, 1))
            tasks.cancel_scope.cancel()
        return Outcome(percentiles(latencies) | cpu, published, watch.count)


#: Tasks that publish.
_TASKS: Final = 256

#: Publishes of which one is timed: the clock takes its own time.
_TIMED: Final = 8


class Waiters(Workload):
    """Tasks that publish in a loop, each awaiting its own ACK, to a channel that one reads."""

    name = "waiters"
    metrics: ClassVar[Sequence[str]] = ("rate",)

    def __init__(self, load: Load, loops: Sequence[str] = UVLOOP) -> None:
        super().__init__(load, loops)
        self._published = 0
        self._latencies: list[float] = []

    async def _measure(self, system: System, budget: Budget) -> Outcome:
        watch = _Watch()
        self._published = 0
        self._latencies = []
        async with system.session() as session, anyio.create_task_group() as tasks:
            tasks.start_soon(session.readers[0], _TIMED, watch.tally)
            # Without the clock at first: connections are made, and what is not warm gets so.
            await self._publish(session, budget.seconds / 4, budget.messages)
            self._latencies.clear()
            clock = CpuClock(system.pid)
            before, start = self._published, perf_counter()
            await self._publish(session, budget.seconds, budget.messages)
            counted = self._published - before
            values = {"rate": counted / (perf_counter() - start), **clock.each(counted)}
            # Each task publishes whole groups, so that none is left over.
            seen = -1
            while seen < watch.count < self._published:
                seen = watch.count
                watch.event = anyio.Event()
                with anyio.move_on_after(PATIENCE):
                    await watch.event.wait()
            tasks.cancel_scope.cancel()
        return Outcome(values | percentiles(self._latencies), self._published, watch.count)

    async def _publish(self, session: Session, seconds: float, messages: int) -> None:
        deadline = perf_counter() + seconds
        last = self._published + messages
        async with anyio.create_task_group() as tasks:
            for data in self.load.messages(_TASKS):
                tasks.start_soon(self._publish_one_by_one, session, data, deadline, last)

    async def _publish_one_by_one(
        self, session: Session, data: bytes, deadline: float, last: int
    ) -> None:
        publish = session.publish
        while (start := perf_counter()) < deadline and self._published < last:
            await publish(CHANNEL, data)
            self._latencies.append(perf_counter() - start)
            for _ in range(_TIMED - 1):
                await publish(CHANNEL, data)
            self._published += _TIMED
