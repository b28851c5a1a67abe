"""Windows of messages, one after the other: stream, each, mixed, fan-out, connections."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Final

import anyio

from ..processes import CpuClock
from ..systems.base import CHANNEL
from .base import PATIENCE, UVLOOP, Budget, Outcome, Workload, percentiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from ..loads import Load
    from ..systems.base import Pair, Reader, Session, System


@dataclass(frozen=True, slots=True)
class Pace:
    """How windows follow each other.

    One loop publishes and reads, so publishing must pause or the reader falls behind without end,
    and what was measured is who drops last. So the next window goes out when all but ``slack``
    windows of those before have been read, for every system alike. With none each window waits for
    a whole way there and back, and it is latency that is measured. With one the server has work
    while the client reads, and at most two windows are under way, which is within what every system
    buffers, so nothing need be lost. From half a window up to four, it made no difference to any
    system.

    :param window: messages that are published with one call
    :param slack: windows that may be unread when the next one is published
    :param warm_up: windows that go through before the clock starts
    :param made: windows that are made; they are published over and over
    """

    window: int
    slack: int = 1
    warm_up: int = 3
    made: int = 16


@dataclass(slots=True)
class Flow:
    """What became of windows: how much was read, in what time, by whose work."""

    due: int = 0
    delivered: int = 0
    #: What was measured while the clock ran. If a message was lost there is nothing: a rate over
    #: messages that never came would be a rate of waiting.
    values: dict[str, float] = field(default_factory=dict)


class _Arrivals:
    """Counts what arrives at all readers, and wakes the publisher when it waits for that."""

    def __init__(self, windows: Sequence[Sequence[Pair]]) -> None:
        #: The last message of each window, to compare.
        self.lasts = [window[-1][1] for window in windows]
        self.size = len(windows[0])
        self.count = 0
        self.wrong = 0
        #: When each window was published.
        self.starts: list[float] = []
        self.latencies: list[float] = []
        self._awaited = 0
        self._event = anyio.Event()

    def seat(self) -> Callable[[int, bytes], None]:
        """Give what one reader tells of what it read."""
        index = 0

        def tally(count: int, data: bytes) -> None:
            # Per window and reader.
            nonlocal index
            if count == self.size:
                self.latencies.append(perf_counter() - self.starts[index])
                if data != self.lasts[index % len(self.lasts)]:
                    self.wrong += 1
                index += 1
            self.count += count
            if self.count >= self._awaited:
                self._event.set()

        return tally

    async def wait_for(self, count: int) -> bool:
        """Wait for so many; False if they do not come."""
        if self.count < count:
            self._awaited = count
            self._event = anyio.Event()
            before = -1
            while before < self.count < count:
                before = self.count
                with anyio.move_on_after(PATIENCE):
                    await self._event.wait()
        return self.count >= count


async def flow(
    publish: Callable[[Sequence[Pair]], Awaitable[None]],
    readers: Sequence[Reader],
    windows: Sequence[Sequence[Pair]],
    pace: Pace,
    budget: Budget,
    system: System,
) -> tuple[Flow, list[float]]:
    """Publish windows until the budget is spent, and read everything.

    :return: what became of them; seconds from the call that published a window until a reader had
        its last message, of each
    """
    arrivals = _Arrivals(windows)
    found = Flow()
    share = pace.window * len(readers)
    before = 0
    start = deadline = 0.0
    clock = CpuClock(system.pid)
    async with anyio.create_task_group() as tasks:
        for reader in readers:
            tasks.start_soon(reader, pace.window, arrivals.seat())
        for number, window in enumerate(cycle(windows)):
            if number == pace.warm_up:
                if not await arrivals.wait_for(found.due):
                    break
                before = found.due
                arrivals.latencies.clear()
                clock = CpuClock(system.pid)
                start = perf_counter()
                deadline = start + budget.seconds
            elif number > pace.warm_up and (
                (number - pace.warm_up) * pace.window >= budget.messages
                or perf_counter() > deadline
            ):
                break
            arrivals.starts.append(perf_counter())
            await publish(window)
            found.due += share
            if not await arrivals.wait_for(found.due - pace.slack * share):
                break
        if await arrivals.wait_for(found.due) and start:
            seconds = perf_counter() - start
            counted = arrivals.count - before
            found.values = {"rate": counted / seconds, **clock.each(counted)}
        tasks.cancel_scope.cancel()
    found.delivered = arrivals.count
    is_ordered = system.orders_channels or len({channel for channel, _ in windows[0]}) == 1
    if found.values and is_ordered and arrivals.wrong:
        raise RuntimeError("other messages were delivered than were published")
    return found, arrivals.latencies


class Windows(Workload):
    """As many windows as will go, with their ACKs awaited."""

    metrics: ClassVar[Sequence[str]] = ("rate",)
    pace: Pace

    async def _measure(self, system: System, budget: Budget) -> Outcome:
        async with self._session(system) as session:
            found, latencies = await flow(
                self._publish(session),
                self._readers(session),
                self._windows(),
                self.pace,
                budget,
                system,
            )
        return Outcome(found.values | percentiles(latencies), found.due, found.delivered)

    @asynccontextmanager
    async def _session(self, system: System) -> AsyncIterator[Session]:
        async with system.session(self._channels()) as session:
            yield session

    def _publish(self, session: Session) -> Callable[[Sequence[Pair]], Awaitable[None]]:
        return session.publish_many

    def _readers(self, session: Session) -> Sequence[Reader]:
        return session.readers

    def _channels(self) -> Sequence[str]:
        return (CHANNEL,)

    def _windows(self) -> list[list[Pair]]:
        return make_windows(self.load, self._channels(), self.pace)


def make_windows(load: Load, channels: Sequence[str], pace: Pace) -> list[list[Pair]]:
    """Make windows of messages, with the channels in turn."""
    messages = list(zip(cycle(channels), load.messages(pace.window * pace.made)))
    return [messages[start : start + pace.window] for start in range(0, len(messages), pace.window)]


class Stream(Windows):
    """One publisher, one subscriber, one channel."""

    name = "stream"
    pace = Pace(1_000)


class Each(Stream):
    """The same, published one by one, with ACKs awaited once a window."""

    name = "each"

    def _publish(self, session: Session) -> Callable[[Sequence[Pair]], Awaitable[None]]:
        return session.publish_each


class Mixed(Stream):
    """The stream over a thousand channels: no two neighbours are of the same one."""

    name = "mixed"

    def _channels(self) -> Sequence[str]:
        return [f"channel-{number:04}" for number in range(1_000)]


#: Subscriptions of one client.
_SUBSCRIPTIONS: Final = 1_000


class Fanout(Windows):
    """One publisher, and a thousand subscriptions of one client, each read by a task of its own."""

    name = "fanout"
    # In smaller windows, as each message is delivered a thousand times.
    pace = Pace(100, warm_up=1)
    most_rounds = 3

    @asynccontextmanager
    async def _session(self, system: System) -> AsyncIterator[Session]:
        async with system.group(_SUBSCRIPTIONS, shared=True) as session:
            yield session


class FanoutMany(Fanout):
    """The same, read with ``receive_many()``."""

    name = "fanout, receive_many"
    is_ours = True

    def _readers(self, session: Session) -> Sequence[Reader]:
        return session.batch_readers


#: Clients with a connection of their own.
_CONNECTIONS: Final = 100


class Connections(Windows):
    """One publisher and a hundred clients: what a delivery costs the server.

    Each window is read by all before the next one goes out, so that there are as many messages at
    once as the window has and not more.
    """

    name = "connections"
    metrics = ("server_ns", "rate")
    most_rounds = 3

    def __init__(self, load: Load, window: int, loops: Sequence[str] = UVLOOP) -> None:
        super().__init__(load, loops)
        self.pace = Pace(window, slack=0, warm_up=5)

    def __str__(self) -> str:
        return f"{self.name}, windows of {self.pace.window} {self.load}"

    @asynccontextmanager
    async def _session(self, system: System) -> AsyncIterator[Session]:
        async with system.group(_CONNECTIONS, shared=False) as session:
            yield session
