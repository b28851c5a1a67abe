"""What happens when a subscription's buffer is full, and how it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.helpers import memory_client, numbered, wait_until, warned
from support.peers import connected_to_script

import hyps
from hyps import Gap, Message

if TYPE_CHECKING:
    from typing import TypeAlias

    Overflow: TypeAlias = Literal["drop_newest", "drop_oldest", "latest", "close"]
    Item: TypeAlias = Message | Gap

pytestmark = pytest.mark.anyio


def numbers(channel: str, *data: int) -> list[Item]:
    return [Message(channel, b"%d" % number) for number in data]


def missed(channel: str, count: int) -> list[Item]:
    return [Gap(channel, count, "client")]


async def read_all(client: hyps.Client, overflow: Overflow, **bounds: Any) -> list[Item]:
    """Publish six messages in two channels, read them and the gaps, and check the count."""
    async with client.subscribe("a", "b", gaps=True, overflow=overflow, **bounds) as subscription:
        await client.publish_many([*numbered("a", 3), *numbered("b", 1), *numbered("a", 2)])
        items = await subscription.receive_many()
        with pytest.raises(hyps.WouldBlock):
            subscription.receive_nowait()
        gaps = [item.missed or 0 for item in items if isinstance(item, Gap)]
        assert subscription.missed == sum(gaps)
        assert len(items) - len(gaps) + sum(gaps) == 6
        return items


ALL = [*numbers("a", 0, 1, 2), *numbers("b", 0), *numbers("a", 0, 1)]


@pytest.mark.parametrize(
    ("overflow", "most", "expected"),
    [
        ("drop_newest", 6, ALL),
        ("drop_newest", 5, [*ALL[:5], *missed("a", 1)]),
        # A gap grows until a message of its channel is behind it.
        ("drop_newest", 2, [*ALL[:2], *missed("a", 3), *missed("b", 1)]),
        ("drop_oldest", 6, ALL),
        ("drop_oldest", 5, [*missed("a", 1), *ALL[1:]]),
        ("drop_oldest", 1, [*missed("a", 4), *missed("b", 1), *ALL[5:]]),
        ("latest", 6, [*numbers("b", 0), *missed("a", 4), *numbers("a", 1)]),
        ("latest", 1, [*missed("b", 1), *missed("a", 4), *numbers("a", 1)]),
    ],
)
async def test_each_policy_drops_what_it_says(
    overflow: Overflow, most: int, expected: list[Item]
) -> None:
    async with memory_client() as client:
        assert await read_all(client, overflow, max_messages=most) == expected


async def test_close_ends_the_subscription(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        memory_client() as client,
        client.subscribe("a", "b", overflow="close", max_messages=2) as subscription,
        client.subscribe("a", max_messages=10) as neighbour,
    ):
        await client.publish_many(numbered("a", 2))
        await client.publish("b", b"one too many")
        await client.publish_many(numbered("a", 2))
        # What it has is read first; then it raises, each time.
        assert await subscription.receive_many() == numbers("a", 0, 1)
        for _ in range(2):
            with pytest.raises(hyps.SubscriptionOverflow):
                await subscription.receive()
        with pytest.raises(hyps.SubscriptionOverflow):
            await subscription.subscribe("c")
        assert subscription.channels == frozenset()
        assert await neighbour.receive_many() == [*numbers("a", 0, 1), *numbers("a", 0, 1)]
        assert neighbour.missed == 0
    assert "messages missed: 1 " in warned(caplog, "hyps.client")[0]


async def test_a_closed_subscription_leaves_its_channels() -> None:
    async with (
        hyps.Server(port=0) as server,
        hyps.connect(server.urls[0]) as client,
        client.subscribe("a", overflow="close", max_messages=1),
    ):
        await client.publish_many(numbered("a", 2))
        await wait_until(lambda: not server.broker.channels)


async def test_messages_that_latest_skips_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        memory_client() as client,
        client.subscribe("a", overflow="latest") as subscription,
    ):
        await client.publish_many(numbered("a", 3))
        await client.publish("a", b"3")
        assert await subscription.receive_many() == numbers("a", 3)
        assert subscription.missed == 3
    assert not warned(caplog, "hyps.client")


async def test_unknown_policy() -> None:
    async with memory_client() as client:
        with pytest.raises(ValueError, match="drop_newest, drop_oldest, latest, close"):
            client.subscribe("a", overflow="drop_some")  # type: ignore[call-overload]


async def test_gaps_of_the_hub_stand_in_place() -> None:
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe("a", gaps=True), "a")
        latest = client.subscribe("a", gaps=True, overflow="latest")
        async with latest:
            await session.deliver("a", b"0")
            await session.gap("a", b"script:3")
            await session.deliver("a", b"3")
            await session.gap("a", b"script:9")
            expected = [
                *numbers("a", 0),
                Gap("a", 2, "hub"),
                *numbers("a", 3),
                Gap("a", 5, "hub"),
            ]
            received: list[Item] = []
            while len(received) < 4:
                received += await subscription.receive_many()
            assert received == expected
            assert subscription.missed == latest.missed - 1 == 7
            assert await latest.receive_many() == [
                *missed("a", 1),
                Gap("a", 2, "hub"),
                *numbers("a", 3),
                Gap("a", 5, "hub"),
            ]
            await session.gap("a", b"another:1")
            assert await subscription.receive() == Gap("a", None, "hub")
            assert subscription.missed_unknown


async def test_raw_records_have_no_gaps() -> None:
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe("a", gaps=True), "a")
        await session.gap("a", b"script:3")
        await session.deliver("a", b"3")
        raw = await subscription.receive_raw()
        assert list(hyps.protocol.records(raw)) == [("a", b"3")]
        assert subscription.missed == 3


async def test_a_gap_ends_the_wait_only_of_who_asked_for_gaps() -> None:
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe("a"), "a")
        await session.gap("a", b"script:3")
        await session.deliver("a", b"3")
        assert await subscription.receive() == Message("a", b"3")
        assert subscription.missed == 3


STEPS = st.lists(
    st.one_of(
        # The sizes of the messages.
        st.tuples(
            st.sampled_from("abc"), st.lists(st.sampled_from([0, 40]), min_size=1, max_size=6)
        ),
        # How many are read.
        st.tuples(st.just(""), st.integers(1, 3)),
    ),
    max_size=30,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=STEPS,
    overflow=st.sampled_from(["drop_newest", "drop_oldest", "latest"]),
    max_messages=st.sampled_from([1, 2, 3, 7, 1000]),
    max_bytes=st.sampled_from([1, 20, 50, 10_000]),
)
# The first of a run is too large to stay, and what is older was not.
@example(
    steps=[("a", [0]), ("a", [40, 0, 0])], overflow="drop_oldest", max_messages=1000, max_bytes=50
)
async def test_each_message_is_read_or_in_a_gap(
    steps: list[tuple[str, list[int] | int]], overflow: Overflow, max_messages: int, max_bytes: int
) -> None:
    published = dict.fromkeys("abc", 0)
    seen = dict.fromkeys("abc", 0)

    def look(item: Item) -> None:
        if isinstance(item, Gap):
            assert item.missed
            seen[item.channel] += item.missed
        else:
            assert int(item.data) == seen[item.channel]
            seen[item.channel] += 1

    def read_some(subscription: hyps.Subscription[Item], most: float) -> None:
        while most > 0:
            most -= 1
            try:
                look(subscription.receive_nowait())
            except hyps.WouldBlock:
                break

    async with (
        memory_client() as client,
        client.subscribe(
            *"abc", gaps=True, overflow=overflow, max_messages=max_messages, max_bytes=max_bytes
        ) as subscription,
    ):
        for channel, step in steps:
            if isinstance(step, int):
                read_some(subscription, step)
                continue
            start = published[channel]
            published[channel] += len(step)
            await client.publish_many(
                (channel, (b"%d" % number).ljust(size)) for number, size in enumerate(step, start)
            )
        read_some(subscription, float("inf"))
    assert seen == published
