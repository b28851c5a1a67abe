"""What is done with a system, and what is noted of it."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Final

import anyio

if TYPE_CHECKING:
    from .loads import Load
    from .systems.base import Session, System

#: Messages that are published with one call, in the stream.
WINDOW: Final = 1_000

# One loop publishes and reads, so publishing must pause or the reader falls behind without end, and
# what was measured is who drops last. So the next window goes out when all but SLACK messages of
# those before have been read, for every system alike. With none each window would wait for a whole
# way there and back, and latency would be measured once more. With a window's worth the server has
# work while the client reads, and at most two windows are under way: a few megabytes of the largest
# messages, which is within what every system buffers by default, so nothing need be lost. From half
# a window up to four, the slack made no difference to any system.
SLACK: Final = WINDOW

#: Windows that go through before the clock starts.
_WARM_UP: Final = 3

#: Windows that are made; they are published over and over.
_WINDOWS: Final = 16

#: Seconds without an awaited message after which it counts as lost.
_PATIENCE: Final = 3.0


@dataclass(frozen=True, slots=True)
class Budget:
    """When one measurement ends: at so many messages, or after so many seconds."""

    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement.

    :param values: by the name of what was measured
    :param published: messages that the server ACKed, those before the clock started included
    :param delivered: messages that were read
    """

    values: dict[str, float]
    published: int
    delivered: int


class Workload(ABC):
    """Something that is done with a system.

    :param load: what is published
    """

    name: ClassVar[str]
    #: What is measured, and whether more of it is better.
    metrics: ClassVar[dict[str, bool]]

    def __init__(self, load: Load) -> None:
        self.load = load

    def __str__(self) -> str:
        return f"{self.name} {self.load}"

    async def measure(self, system: System, budget: Budget) -> Outcome:
        """Connect, measure once, and disconnect."""
        gc.collect()
        async with system.session() as session:
            return await self._measure(session, budget)

    @abstractmethod
    async def _measure(self, session: Session, budget: Budget) -> Outcome: ...


class _Watch:
    """Notes when a message arrived, and wakes who waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self.at = 0.0
        self.event = anyio.Event()

    def take(self, data: bytes) -> None:
        self.at = perf_counter()
        self.count += 1
        self.event.set()


class Pingpong(Workload):
    """One message at a time: from the call of publish until the subscriber has it."""

    name = "pingpong"
    metrics: ClassVar[dict[str, bool]] = {"p50_us": False, "p99_us": False}

    async def _measure(self, session: Session, budget: Budget) -> Outcome:
        watch = _Watch()
        published = 0
        latencies: list[float] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.read, watch.take)
            deadline = perf_counter() + budget.seconds
            for data in self.load.messages(budget.messages):
                watch.event = anyio.Event()
                start = perf_counter()
                if start > deadline:
                    break
                await session.publish(data)
                published += 1
                with anyio.move_on_after(_PATIENCE):
                    await watch.event.wait()
                if not watch.event.is_set():
                    break
                latencies.append((watch.at - start) * 1e6)
            tasks.cancel_scope.cancel()
        latencies.sort()
        values = {
            name: latencies[int(len(latencies) * part)]
            for name, part in (("p50_us", 0.5), ("p99_us", 0.99))
            if latencies
        }
        return Outcome(values, published, watch.count)


class _Arrivals:
    """Counts what arrives, and wakes the publisher when it was waiting for that."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._awaited = 0
        self._event = anyio.Event()

    def take(self, data: bytes) -> None:
        # Per message, of every system.
        self.size += len(data)
        self.count += 1
        if self.count == self._awaited:
            self._event.set()

    async def wait_for(self, count: int) -> bool:
        """Wait for so many; False if they do not come."""
        if self.count < count:
            self._awaited = count
            self._event = anyio.Event()
            before = -1
            while before < self.count < count:
                before = self.count
                with anyio.move_on_after(_PATIENCE):
                    await self._event.wait()
        return self.count >= count


class Stream(Workload):
    """As many messages as will go, from one publisher to one subscriber, with ACKs awaited."""

    name = "stream"
    metrics: ClassVar[dict[str, bool]] = {"messages_per_s": True}

    async def _measure(self, session: Session, budget: Budget) -> Outcome:
        messages = self.load.messages(WINDOW * _WINDOWS)
        windows = cycle(
            [messages[start : start + WINDOW] for start in range(0, len(messages), WINDOW)]
        )
        arrivals = _Arrivals()
        published = size = before = 0
        start = deadline = 0.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.read, arrivals.take)
            for number, window in enumerate(windows):
                if number == _WARM_UP:
                    if not await arrivals.wait_for(published):
                        break
                    before = published
                    start = perf_counter()
                    deadline = start + budget.seconds
                elif number > _WARM_UP and (
                    published - before >= budget.messages or perf_counter() > deadline
                ):
                    break
                await session.publish_many(window)
                published += len(window)
                size += sum(map(len, window))
                if not await arrivals.wait_for(published - SLACK):
                    break
            complete = await arrivals.wait_for(published)
            seconds = perf_counter() - start
            tasks.cancel_scope.cancel()
        if complete and arrivals.size != size:
            raise RuntimeError(f"{arrivals.size} bytes were delivered of {size} published")
        # A rate over messages that never came would be a rate of waiting.
        values = {"messages_per_s": (arrivals.count - before) / seconds} if complete else {}
        return Outcome(values, published, arrivals.count)
