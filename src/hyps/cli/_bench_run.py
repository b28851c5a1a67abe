"""The run of ``hyps bench``: publishers and subscribers, on own or shared connections."""

from __future__ import annotations

import os
import random
import struct
import time
from abc import ABC, abstractmethod
from array import array
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from .. import ConnectionLost, Disconnected, HypsError, connect

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from .. import Client, Message, Subscription

#: Durations of each kind that are kept, at most. Half of them are enough for p99.
_MAX_SAMPLES: Final = 20_000
#: Seconds between two looks at how far it is.
_TICK: Final = 0.1
#: Connections that are opened at once, which a hub on a small machine can take.
_MAX_OPENING: Final = 64
#: Different messages, if their sizes are random. A prime, so that it goes with no number of
#: channels.
_BODIES: Final = 101
#: The publisher's number and the time of publishing. Messages too small for it carry none.
_STAMP: Final = struct.Struct(">4sd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does.

    :param url: of the hub
    :param token: for the hub
    :param ssl_context: for TLS
    :param channels: their names
    :param publishers: their number
    :param subscribers: their number
    :param messages: all that are published, and that each subscriber expects
    :param sizes: the least and the most bytes of a message
    :param batch: messages that are published before their ACKs are awaited
    :param connections: for all publishers, and for all subscribers; None is one for each
    :param idle: seconds without a message after which no more are expected
    """

    url: str
    token: str | None = field(repr=False)
    ssl_context: ssl.SSLContext | None
    channels: tuple[str, ...]
    publishers: int
    subscribers: int
    messages: int
    sizes: tuple[int, int]
    batch: int
    connections: int | None
    idle: float

    def count_connections(self, workers: int) -> int:
        """Count the connections of a number of publishers or subscribers."""
        return workers if self.connections is None else min(workers, self.connections)


class Watcher(Protocol):
    """What a run reports its progress to."""

    def begin(self, now: float) -> None: ...

    def show(
        self, now: float, publishers: Sequence[Publisher], subscribers: Sequence[Subscriber]
    ) -> None: ...

    def end(self, publishers: Sequence[Publisher], subscribers: Sequence[Subscriber]) -> None: ...


class Samples:
    """A bounded, uniform sample of durations."""

    def __init__(self) -> None:
        #: One of this many is kept.
        self.step = 1
        self.seconds = array("d")

    def offer(self, seconds: float) -> None:
        """Add a duration, or skip it."""
        if self.step == 1 or random.random() * self.step < 1:
            self.take(seconds)

    def take(self, seconds: float) -> None:
        """Add a duration that :attr:`step` selected."""
        self.seconds.append(seconds)
        if len(self.seconds) == _MAX_SAMPLES:
            self.seconds = self.seconds[::2]
            self.step *= 2


class Worker(ABC):
    """A publisher or a subscriber, and its counters.

    :param expected: messages that it will publish or receive
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        #: Messages that were ACKed, or received, and the bytes in them.
        self.messages = 0
        self.size = 0
        #: When it began, and when the last message was ACKed or received.
        self.began = self.ended = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @abstractmethod
    async def run(self, client: Client, wait_for_all: Callable[[], Awaitable[None]]) -> None:
        """Do the work.

        :param client: with a connection
        :param wait_for_all: to be awaited when it is ready; returns when all are
        """


class Publisher(Worker):
    """Publishes its share of the messages."""

    def __init__(self, plan: Plan, expected: int, source: bytes, acks: Samples) -> None:
        super().__init__(expected)
        self._batch = plan.batch
        self._source = source
        self._acks = acks
        self._channels = cycle(plan.channels)
        least, most = plan.sizes
        self._stamp_size = _STAMP.size if least >= _STAMP.size else 0
        # The same sequence in every run. Messages of one size flatter code that depends on sizes,
        # so sizes may vary.
        chance = random.Random(most)
        sizes = {least} if least == most else [chance.randint(least, most) for _ in range(_BODIES)]
        bodies = [chance.randbytes(size - self._stamp_size) for size in sizes]
        self._bodies: Iterator[bytes] | None = cycle(bodies) if len(bodies) > 1 else None
        self._body = bodies[0]
        #: Messages that were sent, ACKed or not.
        self.sent = 0

    @property
    def unknown(self) -> int:
        """Messages whose ACK did not arrive: the hub may have taken them."""
        return self.sent - self.messages

    async def run(self, client: Client, wait_for_all: Callable[[], Awaitable[None]]) -> None:
        await wait_for_all()
        self.began = self.ended = time.perf_counter()
        while self.messages < self.expected:
            began = time.perf_counter()
            window = self._make_window(min(self._batch, self.expected - self.messages), began)
            self.sent += len(window)
            try:
                if self._batch == 1:
                    await client.publish(*window[0])
                else:
                    await client.publish_many(window)
            except ValueError:
                # The client has refused a message, and sent none.
                self.sent -= len(window)
                raise
            self.ended = time.perf_counter()
            self._acks.offer(self.ended - began)
            self.messages += len(window)
            self.size += sum([len(data) for _, data in window])

    def _make_window(self, count: int, now: float) -> list[tuple[str, bytes]]:
        # Make the batch before the first send: that is cheaper than making each message on demand.
        stamp = _STAMP.pack(self._source, now) if self._stamp_size else b""
        channels = islice(self._channels, count)
        if self._bodies is None:
            data = stamp + self._body
            return [(channel, data) for channel in channels]
        return [
            (channel, stamp + body) for channel, body in zip(channels, self._bodies, strict=False)
        ]


class Subscriber(Worker):
    """Receives all messages.

    :param source: whose messages tell when they were published; nobody's if empty
    """

    def __init__(self, plan: Plan, source: bytes, deliveries: Samples) -> None:
        super().__init__(plan.messages)
        self._channels = plan.channels
        self._waits_for_first = not plan.publishers
        # Messages of other publishers may have any size.
        is_known = plan.publishers and plan.sizes[0] == plan.sizes[1]
        self._message_size = plan.sizes[0] if is_known else None
        self._source = source
        self._deliveries = deliveries
        self._subscription: Subscription[Message] | None = None
        self._scope: anyio.CancelScope | None = None

    @property
    def missed(self) -> int:
        return self._subscription.missed if self._subscription is not None else 0

    @property
    def missed_unknown(self) -> bool:
        return self._subscription is not None and self._subscription.missed_unknown

    @property
    def outstanding(self) -> int:
        """Messages that neither arrived nor were counted as missed."""
        return max(0, self.expected - self.messages - self.missed)

    def stop(self) -> None:
        """Stop waiting for messages."""
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, client: Client, wait_for_all: Callable[[], Awaitable[None]]) -> None:
        async with client.subscribe(*self._channels) as subscription:
            self._subscription = subscription
            await wait_for_all()
            self.began = self.ended = time.perf_counter()
            with anyio.CancelScope() as self._scope:
                while self.messages < self.expected:
                    self._take(await subscription.receive_many())

    def _take(self, messages: Sequence[Message]) -> None:
        self.ended = now = time.perf_counter()
        if self._waits_for_first and not self.messages:
            # Another process publishes, and may have begun at any time.
            self.began = now
        self.messages += len(messages)
        if self._message_size is None:
            self.size += sum([len(message.data) for message in messages])
        else:
            self.size += self._message_size * len(messages)
        if self._source:
            step = self._deliveries.step
            start = int(random.random() * step) if step > 1 else 0
            for message in messages[start::step]:
                if len(message.data) >= _STAMP.size:
                    source, published = _STAMP.unpack_from(message.data)
                    if source == self._source:
                        self._deliveries.take(now - published)


class Bench:
    """A run of the command.

    :param plan: the scenarios and sizes to run
    :param progress: shows how far it is
    """

    def __init__(self, plan: Plan, progress: Watcher) -> None:
        self.plan = plan
        #: From the call that published a batch to its ACK; and the same to each message's delivery.
        self.acks = Samples()
        self.deliveries = Samples()
        least = plan.sizes[0]
        source = os.urandom(4) if plan.publishers and least >= _STAMP.size else b""
        each, rest = divmod(plan.messages, plan.publishers or 1)
        self.publishers = [
            Publisher(plan, each + (number < rest), source, self.acks)
            for number in range(plan.publishers)
        ]
        self.subscribers = [
            Subscriber(plan, source, self.deliveries) for _ in range(plan.subscribers)
        ]
        self._progress = progress
        self._preparing = plan.publishers + plan.subscribers
        self._begun = anyio.Event()
        self._opening = anyio.CapacityLimiter(_MAX_OPENING)
        self._scope: anyio.CancelScope | None = None
        self._error: Exception | None = None

    @property
    def has_begun(self) -> bool:
        """Whether all workers have connected."""
        return self._preparing == 0

    @property
    def lost(self) -> int:
        """Messages that were missed or did not arrive, if the run was complete."""
        return sum(each.missed + each.outstanding for each in self.subscribers)

    async def run(self) -> None:
        """Run to the end.

        :raises HypsError: if the hub is not there, goes away or refuses something
        """
        try:
            with anyio.CancelScope() as self._scope:
                await self._run()
        finally:
            if self.publishers:
                # After an early end the remaining messages will not come.
                sent = sum(each.sent for each in self.publishers)
                for each in self.subscribers:
                    each.expected = sent
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            async with anyio.create_task_group() as connections:
                for workers in (self.publishers, self.subscribers):
                    count = self.plan.count_connections(len(workers))
                    for number in range(count):
                        connections.start_soon(self._connect, workers[number::count])
            tasks.cancel_scope.cancel()

    def _fail(self, error: Exception) -> None:
        # Keep the first error: a task group would raise a group of all of them.
        if self._error is None:
            self._error = error
        if self._scope is not None:
            self._scope.cancel()

    async def _connect(self, workers: Sequence[Worker]) -> None:
        plan = self.plan
        client = connect(
            plan.url, token=plan.token, ssl_context=plan.ssl_context, when_disconnected="raise"
        )
        try:
            async with AsyncExitStack() as stack:
                async with self._opening:
                    await stack.enter_async_context(client)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch_connection, client)
                    async with anyio.create_task_group() as group:
                        for worker in workers:
                            group.start_soon(self._work, worker, client)
                    tasks.cancel_scope.cancel()
        except HypsError as error:
            self._fail(error)

    async def _watch_connection(self, client: Client) -> None:
        async for event in client.events():
            if isinstance(event, Disconnected):
                self._fail(ConnectionLost(event.reason))

    async def _work(self, worker: Worker, client: Client) -> None:
        try:
            await worker.run(client, self._wait_for_all)
        except HypsError as error:
            self._fail(error)

    async def _wait_for_all(self) -> None:
        self._preparing -= 1
        if self._preparing == 0:
            self._progress.begin(time.perf_counter())
            self._begun.set()
        await self._begun.wait()

    async def _watch(self) -> None:
        """Show the progress, and stop subscribers that wait in vain."""
        await self._begun.wait()
        last_count = 0
        changed = time.perf_counter()
        try:
            while True:
                await anyio.sleep(_TICK)
                now = time.perf_counter()
                self._progress.show(now, self.publishers, self.subscribers)
                workers = chain(self.publishers, self.subscribers)
                count = sum([worker.messages for worker in workers])
                if count != last_count or self._is_waiting:
                    last_count = count
                    changed = now
                waits_in_vain = now - changed > self.plan.idle
                if waits_in_vain or not any(each.outstanding for each in self.subscribers):
                    for each in self.subscribers:
                        each.stop()
        finally:
            self._progress.end(self.publishers, self.subscribers)

    @property
    def _is_waiting(self) -> bool:
        """Whether messages may still come: this run, or another process, still publishes."""
        if not self.publishers:
            return not any(each.messages or each.missed for each in self.subscribers)
        return any(each.messages < each.expected for each in self.publishers)
