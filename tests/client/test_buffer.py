"""A subscription's buffer: its bounds, what is dropped, and how that is told."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.helpers import drain, memory_client, numbered, take_data, warned
from support.peers import connected_to_script, raw_client

import hyps
from hyps._client.buffer import Buffer
from hyps.protocol import Batch, Run, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    Publish: TypeAlias = Callable[[hyps.Client, int], Awaitable[None]]

pytestmark = pytest.mark.anyio

RECORD = len(encode("foo_ch", b"0"))


async def one_by_one(client: hyps.Client, count: int) -> None:
    for channel, data in numbered("foo_ch", count):
        await client.publish(channel, data)


async def at_once(client: hyps.Client, count: int) -> None:
    await client.publish_many(numbered("foo_ch", count))


BOUNDS = [
    pytest.param({"max_messages": 5}, id="messages"),
    pytest.param({"max_bytes": 5 * RECORD}, id="bytes"),
    pytest.param({"max_bytes": 6 * RECORD - 1}, id="bytes that do not fit exactly"),
    pytest.param({"max_messages": 5, "max_bytes": 5 * RECORD}, id="both"),
]


@pytest.mark.parametrize("publish", [one_by_one, at_once])
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("excess", [0, 1, 3])
async def test_messages_beyond_the_bound_are_missed(
    publish: Publish, bounds: Any, excess: int
) -> None:
    async with memory_client() as client, client.subscribe("foo_ch", **bounds) as subscription:
        await publish(client, 5 + excess)
        assert subscription.missed == excess
        assert await take_data(subscription, 5) == [b"0", b"1", b"2", b"3", b"4"]
        with pytest.raises(hyps.WouldBlock):
            subscription.receive_nowait()
        # There is room again.
        await client.publish("foo_ch", b"9")
        assert await take_data(subscription, 1) == [b"9"]
        assert subscription.missed == excess
        assert not subscription.missed_unknown


@pytest.mark.parametrize("empty", [hyps.Subscription.receive_many, hyps.Subscription.receive_raw])
async def test_reading_everything_makes_room_for_as_much(
    empty: Callable[[hyps.Subscription], Awaitable[object]],
) -> None:
    async with (
        memory_client() as client,
        client.subscribe("foo_ch", max_messages=5) as subscription,
    ):
        for _ in range(3):
            await at_once(client, 5)
            await empty(subscription)
        await at_once(client, 5)
        subscription.receive_nowait()
        await empty(subscription)
        await at_once(client, 5)
        assert subscription.missed == 0
        assert await take_data(subscription, 5) == [b"0", b"1", b"2", b"3", b"4"]


async def test_what_is_read_of_a_run_makes_room() -> None:
    async with (
        memory_client() as client,
        client.subscribe("foo_ch", max_messages=5) as subscription,
    ):
        await at_once(client, 5)
        assert await take_data(subscription, 2) == [b"0", b"1"]
        await at_once(client, 3)
        assert subscription.missed == 1
        assert await take_data(subscription, 5) == [b"2", b"3", b"4", b"0", b"1"]


async def test_an_empty_buffer_takes_a_message_of_any_size() -> None:
    large = bytes(1_000)
    async with (
        memory_client() as client,
        client.subscribe("foo_ch", max_bytes=10) as subscription,
    ):
        for _ in range(2):
            await client.publish("foo_ch", large)
            # Not a second one.
            await client.publish("foo_ch", b"")
            assert await take_data(subscription, 1) == [large]
        assert subscription.missed == 2
        # The first of several that come together.
        await client.publish_many([("foo_ch", large)] * 3)
        assert await take_data(subscription, 1) == [large]
        assert subscription.missed == 4


async def test_a_neighbour_is_not_affected() -> None:
    async with memory_client() as client:
        full = client.subscribe("foo_ch", max_messages=1)
        async with full, client.subscribe("foo_ch") as roomy:
            await at_once(client, 100)
            assert (full.missed, roomy.missed) == (99, 0)
            assert await take_data(roomy, 100) == [b"%d" % number for number in range(100)]
            assert await take_data(full, 1) == [b"0"]


async def test_losses_are_logged_once_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        memory_client() as client,
        client.subscribe("foo_ch", max_messages=1) as subscription,
    ):
        await at_once(client, 3)
        await one_by_one(client, 3)
        await subscription.receive()
        # There is room for a moment only, so it is one episode.
        await one_by_one(client, 3)
        assert warned(caplog, "hyps.client") == []
    [told] = warned(caplog, "hyps.client")
    assert "the buffer of a subscription was full: messages missed: 7 (channels: foo_ch)" in told
    assert subscription.missed == 7


async def test_without_losses_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        memory_client() as client,
        client.subscribe("foo_ch", max_messages=3) as subscription,
    ):
        await at_once(client, 3)
        await subscription.receive_many()
    assert warned(caplog, "hyps.client") == []


async def test_publishing_in_the_loop_of_a_full_subscription() -> None:
    async with (
        memory_client() as client,
        client.subscribe("foo_ch", max_messages=2) as subscription,
    ):
        await at_once(client, 10)
        read = 0
        async for _ in subscription:
            read += 1
            if read == 50:
                break
            # More than there is room for, each time.
            await at_once(client, 3)
        assert subscription.missed > 0
        assert read == 50


async def test_what_is_unread_at_the_end_is_neither_lost_nor_missed() -> None:
    async with memory_client() as client:
        async with client.subscribe("foo_ch", max_messages=3) as subscription:
            await at_once(client, 10)
        found = await drain(subscription)
        assert len(found) + subscription.missed == 10


async def test_losses_at_the_hub_are_counted_by_both() -> None:
    limits = hyps.Limits(max_buffer=1, max_message=100_000)
    async with (
        hyps.Server(port=0, limits=limits) as server,
        raw_client(server.urls[0]) as raw,
        hyps.connect(server.urls[0]) as client,
    ):
        await raw.subscribe("foo_ch")
        # More than sockets buffer, to one who does not read.
        while not server.broker.missed:
            await client.publish_many([("foo_ch", bytes(90_000))] * 10)
        await client.publish("foo_ch", b"")
        [session] = [one for one in server.broker.sessions if one.channels]
        assert session.missed == server.broker.missed
        assert server.broker.published == server.broker.delivered + server.broker.missed


async def test_gaps_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe("foo_ch"), "foo_ch")
        await session.gap("foo_ch", b"script:3")
        await session.gap("foo_ch", b"another:3")
        await session.deliver("foo_ch", b"4")
        await take_data(subscription, 1)
    # One line for all that one overflow did.
    [told] = [line for line in warned(caplog, "hyps.client") if "too slowly" in line]
    assert "3 messages" in told
    assert "unknown number" in told


class _Both:
    """Does everything twice: with neighbours that are read together, and with each by itself."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.together = Buffer(max_messages, max_bytes)
        self.by_themselves = Buffer(max_messages, max_bytes)
        self._numbers = iter(range(1_000_000))

    def put(self, channel: str, count: int) -> None:
        records = [encode(channel, b"%d" % next(self._numbers)) for _ in range(count)]
        run = Run(channel, b"".join(records), count)
        assert self.together.put(run) == self.by_themselves.put(run)

    def put_together(self, shape: list[tuple[str, int]]) -> None:
        runs = []
        for channel, count in shape:
            records = [encode(channel, b"%d" % next(self._numbers)) for _ in range(count)]
            runs.append(Run(channel, b"".join(records), count))
        stops = accumulate([len(run.records) for run in runs])
        parts = [(run.channel, stop, run.count) for run, stop in zip(runs, stops, strict=True)]
        batch = Batch(b"".join([run.records for run in runs]), parts)
        assert batch.runs == tuple(runs)
        missed = [self.by_themselves.put(run) for run in runs]
        assert self.together.put(batch) == sum(missed)

    def put_gap(self, channel: str) -> None:
        self.together.put_gap(channel, 1, "hub")
        self.by_themselves.put_gap(channel, 1, "hub")

    def read(self, count: int) -> None:
        for _ in range(count):
            assert _read(self.together) == _read(self.by_themselves)

    @property
    def is_read(self) -> bool:
        return not (self.together or self.by_themselves)


def _read(buffer: Buffer) -> object:
    for message in buffer.ready:
        return message
    return buffer.take_one() if buffer else None


_channels = st.sampled_from("abc")
_counts = st.sampled_from([1, 1, 1, 2, 3])
_shapes = st.lists(st.tuples(_channels, _counts), min_size=2, max_size=8)
_steps = (
    st.tuples(st.just("put"), _channels, st.sampled_from([1, 2, 3]))
    | st.tuples(st.just("put_together"), _shapes)
    | st.tuples(st.just("put_together"), _shapes)
    | st.tuples(st.just("put_gap"), _channels)
    | st.tuples(st.just("read"), st.integers(1, 4))
)


@given(
    st.sampled_from([3, 10, 1_000]),
    st.sampled_from([30, 60, 100, 1_000]),
    st.lists(_steps, min_size=5, max_size=40),
)
def test_what_is_read_together_counts_as_if_each_was_read_by_itself(
    max_messages: int, max_bytes: int, steps: list[tuple[Any, ...]]
) -> None:
    both = _Both(max_messages, max_bytes)
    for name, *arguments in steps:
        getattr(both, name)(*arguments)
    both.read(400)
    assert both.is_read


async def test_what_was_read_of_many_channels_makes_room() -> None:
    names = [f"{number:02}" for number in range(20)]
    record = len(encode("00", b""))
    async with (
        memory_client() as client,
        client.subscribe(*names, max_bytes=20 * record) as subscription,
    ):
        await client.publish_many([(name, b"") for name in names])
        for name in names[:5]:
            assert (await subscription.receive()).channel == name
        await client.publish_many([(name, b"") for name in names[:6]])
        assert subscription.missed == 1
        channels = [message.channel for message in await subscription.receive_many()]
        assert channels == names[5:] + names[:5]


async def test_close_counts_what_stands_in_its_gap() -> None:
    async with (
        memory_client() as client,
        client.subscribe("a", "b", gaps=True, overflow="close", max_messages=3) as subscription,
    ):
        await client.publish_many([("a", b"1"), ("b", b"2")] * 4)
        read = [await subscription.receive() for _ in range(4)]
        assert read[3] == hyps.Gap("b", 1, "client")
        with pytest.raises(hyps.SubscriptionOverflow):
            await subscription.receive()
        assert subscription.missed == 1
