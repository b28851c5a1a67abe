"""A client with the hub of Hyps for Nim, as far as that one is known."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import (
    PATIENCE,
    begin,
    data_of,
    let_others_run,
    numbered,
    reason_of_loss,
    take,
    take_data,
    wait_until,
    warned,
)
from support.nim import MESSAGES, PUBLISH, SUBSCRIBE
from support.nim_server import connected_to_nim, nim_server

import hyps
from hyps import Gap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.nim_server import Session

pytestmark = pytest.mark.anyio

PATHS = (SUBSCRIBE, PUBLISH, MESSAGES)


async def test_publish_subscribe_receive() -> None:
    async with (
        connected_to_nim() as (client, session),
        client.subscribe("foo_ch", "bar_ch") as subscription,
    ):
        assert session.hub.channels == ["foo_ch", "bar_ch"]
        await client.publish("foo_ch", b"foo_msg")
        await client.publish_many(numbered("bar_ch", 1_000))
        sent = [("foo_ch", b"foo_msg"), *numbered("bar_ch", 1_000)]
        assert session.hub.published == sent
        await session.deliver("bar_ch", b"1", b"", b"\n")
        assert await take_data(subscription, 3) == [b"1", b"", b"\n"]
        # What it drops it does not tell.
        assert subscription.missed_unknown
        assert subscription.missed == 0


@pytest.mark.parametrize("size", [40_000, 1024 * 1024])
async def test_large_messages(size: int) -> None:
    async with (
        connected_to_nim() as (client, session),
        client.subscribe("foo_ch") as subscription,
    ):
        message = bytes(range(256)) * (size // 256)
        await client.publish("foo_ch", message)
        await client.publish_many([("foo_ch", message)] * 8)
        assert session.hub.published == [("foo_ch", message)] * 9
        for _ in range(3):
            await session.deliver("foo_ch", message)
            assert await take_data(subscription, 1) == [message]


async def test_many_channels() -> None:
    channels = [f"channel {number}" for number in range(10_000)]
    async with (
        connected_to_nim() as (client, session),
        client.subscribe(*channels) as subscription,
    ):
        assert session.hub.channels == channels
        for channel in (channels[0], channels[-1]):
            await session.deliver(channel, b"1")
            assert await take(subscription, 1) == [hyps.Message(channel, b"1")]


async def test_answers_on_two_streams() -> None:
    async with (
        connected_to_nim(held=(PUBLISH, SUBSCRIBE)) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        hub = session.hub
        publishing = begin(tasks, client.publish, "c", b"1")
        await wait_until(lambda: PUBLISH in hub.streams and hub.streams[PUBLISH].owed)
        entering = begin(tasks, client.subscribe("c").__aenter__)
        await wait_until(lambda: hub.streams[SUBSCRIBE].owed)
        await session.answer(SUBSCRIBE, b"k")
        await session.deliver("c", b"first")
        assert not publishing.is_known
        assert not entering.is_known
        await session.answer(PUBLISH, b"k")
        await publishing.get()
        subscription = await entering.get()
        assert await take_data(subscription, 1) == [b"first"]


async def test_refusals() -> None:
    async with (
        connected_to_nim(held=(PUBLISH, SUBSCRIBE)) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        hub = session.hub
        for code, error in ((b"d", hyps.PermissionDenied), (b"?", hyps.HypsError)):
            publishing = begin(tasks, client.publish, "c", b"1")
            await wait_until(lambda: hub.streams[PUBLISH].owed)
            await session.answer(PUBLISH, code)
            with pytest.raises(error):
                await publishing.get()
            entering = begin(tasks, client.subscribe("c").__aenter__)
            await wait_until(lambda: hub.streams[SUBSCRIBE].owed)
            await session.answer(SUBSCRIBE, code)
            with pytest.raises(error):
                await entering.get()


async def test_unsubscribing_with_nothing_else_under_way() -> None:
    async with (
        connected_to_nim() as (client, session),
        client.subscribe("a", "b") as subscription,
    ):
        await subscription.unsubscribe("a")
        assert subscription.channels == {"b"}
        await session.deliver("a", b"not wanted")
        await session.deliver("b", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        await subscription.subscribe("a")
        await session.deliver("a", b"2")
        assert await take_data(subscription, 1) == [b"2"]
        await subscription.unsubscribe("a", "b")
        await client.flush()
        assert session.hub.channels == ["a", "b", "a"]


async def test_two_subscriptions_of_one_channel() -> None:
    async with connected_to_nim() as (client, session):
        async with client.subscribe("a") as first:
            async with client.subscribe("a", "b") as second:
                await session.deliver("a", b"1")
                assert await take_data(first, 1) == await take_data(second, 1) == [b"1"]
            await session.deliver("a", b"2")
            assert await take_data(first, 1) == [b"2"]
        async with client.subscribe("a") as third:
            await session.deliver("a", b"3")
            assert await take_data(third, 1) == [b"3"]


async def test_more_messages_than_windows_hold() -> None:
    async with (
        connected_to_nim() as (client, session),
        client.subscribe("c") as subscription,
    ):
        sent = 0
        for number in range(200):
            batch = [str(number).encode() * 1_000] * 20
            before = session.hub.dropped
            await session.deliver("c", *batch)
            # In the hub's buffer there is only so much room.
            count = len(batch) - (session.hub.dropped - before)
            assert await take_data(subscription, count) == batch[:count]
            sent += count
        assert sent > 3_000


# Endings


END_OF_HUB: dict[str, Callable[[Session], Awaitable[None]]] = {}


def ends_hub(function: Callable[[Session], Awaitable[None]]) -> None:
    END_OF_HUB[function.__name__] = function


@ends_hub
async def leaves(session: Session) -> None:
    await session.leave()


@ends_hub
async def says_goodbye_and_stays(session: Session) -> None:
    session.hub.leave()
    await session.flush()


@ends_hub
async def closes(session: Session) -> None:
    await session.close()


@ends_hub
async def resets(session: Session) -> None:
    await session.reset()


@ends_hub
async def sends_junk(session: Session) -> None:
    session.hub.send_frame(0xFF, 0xFF, 0xFFFFFFFF, b"\xff" * 20_000)
    await session.flush()


@ends_hub
async def sends_a_malformed_record(session: Session) -> None:
    session.hub.send(MESSAGES, bytes(4))
    await session.flush()


@ends_hub
async def sends_codes_for_nothing(session: Session) -> None:
    session.hub.send(SUBSCRIBE, b"k")
    await session.flush()


async def end_stream(path: str, session: Session) -> None:
    session.hub.end(path)
    await session.flush()


async def reset_stream(path: str, session: Session) -> None:
    session.hub.reset(path)
    await session.flush()


for each in PATHS:
    END_OF_HUB[f"ends {each}"] = partial(end_stream, each)
    END_OF_HUB[f"resets {each}"] = partial(reset_stream, each)


@pytest.mark.parametrize("end", END_OF_HUB.values(), ids=END_OF_HUB)
async def test_it_ends_and_the_client_connects_again(
    end: Callable[[Session], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        nim_server() as server,
        hyps.connect(server.url, reconnect_max_delay=0.001) as client,
        client.subscribe("a", "b", gaps=True) as subscription,
    ):
        first = await server.accept()
        await first.deliver("a", b"1")
        await wait_until(lambda: not first.hub.is_blocked)
        await end(first)
        assert server.url in await reason_of_loss(client)
        second = await server.accept()
        await wait_until(lambda: client.connected)
        # Without positions: this hub does not know what they are.
        assert sorted(second.hub.channels) == ["a", "b"]
        await second.deliver("b", b"2")
        with anyio.fail_after(10):
            found = [await subscription.receive() for _ in range(4)]
        assert found[0] == hyps.Message("a", b"1")
        assert sorted(map(repr, found[1:3])) == [
            repr(Gap("a", None, "reconnect")),
            repr(Gap("b", None, "reconnect")),
        ]
        assert found[3] == hyps.Message("b", b"2")
        assert subscription.missed_unknown
        await client.publish("a", b"3")
        assert second.hub.published == [("a", b"3")]
        await second.close()
    assert warned(caplog, "hyps.client")


async def test_an_operation_that_is_not_answered_is_lost() -> None:
    async with (
        connected_to_nim(held=PATHS) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        publishing = begin(tasks, client.publish, "a", b"1")
        entering = begin(tasks, client.subscribe("a").__aenter__)
        await wait_until(lambda: session.hub.published and session.hub.channels)
        await session.leave()
        for outcome in (publishing, entering):
            with pytest.raises(hyps.ConnectionLost, match="leaving"):
                await outcome.get()


async def test_answers_that_come_after_its_goodbye() -> None:
    async with (
        connected_to_nim(held=PATHS) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        publishing = begin(tasks, client.publish, "a", b"1")
        await wait_until(lambda: session.hub.published)
        session.hub.leave()
        await session.flush()
        await wait_until(lambda: not client.connected)
        await session.answer(PUBLISH, b"k")
        await publishing.get()
        # The client closes first.
        await session.expect_end()


async def test_a_goodbye_after_which_it_neither_answers_nor_closes() -> None:
    limits = hyps.Limits(close_timeout=0.02, max_backlog=64 * 1024 * 1024)
    async with (
        connected_to_nim(held=PATHS, limits=limits) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        publishing = begin(tasks, client.publish, "a", b"1")
        await wait_until(lambda: session.hub.published)
        session.hub.leave()
        await session.flush()
        with pytest.raises(hyps.ConnectionLost):
            await publishing.get()
        await session.expect_end()


@pytest.mark.parametrize("goes_away", [False, True])
async def test_the_end_is_bounded_when_it_lets_nothing_be_sent(goes_away: bool) -> None:
    limits = hyps.Limits(close_timeout=0.02)
    async with connected_to_nim(grants_window=False, limits=limits) as (client, session):
        for _ in range(32):
            client.publish_nowait("c", bytes(100_000))
        await wait_until(lambda: session.hub.streams[PUBLISH].rest)
        if goes_away:
            session.hub.leave()
            await session.flush()
            assert "leaving" in await reason_of_loss(client)
            await session.expect_end()
        with anyio.fail_after(5):
            await client.shutdown()
        await session.expect_end()


async def test_publishing_waits_for_room_when_windows_are_full() -> None:
    limits = hyps.Limits(max_backlog=300_000)
    async with (
        connected_to_nim(grants_window=False, limits=limits) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        # The first one leaves at once, for the most part.
        for _ in range(7):
            client.publish_nowait("c", bytes(50_000))
        with pytest.raises(hyps.WouldBlock):
            client.publish_nowait("c", b"")
        publishing = begin(tasks, client.publish, "c", b"last")
        await wait_until(lambda: session.hub.streams[PUBLISH].rest)
        await let_others_run()
        assert not publishing.is_known
        await session.close()
        with pytest.raises(hyps.ConnectionLost):
            await publishing.get()


async def test_what_is_queued_at_the_shutdown_is_sent_and_answered() -> None:
    async with nim_server() as server:
        client = hyps.connect(server.url)
        await client.connect()
        session = await server.accept()
        for _, data in numbered("c", 1_000):
            client.publish_nowait("c", data)
        client.publish_nowait("c", bytes(300_000))
        await client.shutdown()
        assert data_of(session.hub.published) == [*data_of(numbered("c", 1_000)), bytes(300_000)]
        await session.expect_end()


async def test_shutdown_is_bounded() -> None:
    limits = hyps.Limits(close_timeout=0.02)
    async with nim_server(held=PATHS) as server:
        client = hyps.connect(server.url, limits=limits)
        await client.connect()
        session = await server.accept()
        client.publish_nowait("c", b"1")
        with anyio.fail_after(5):
            await client.shutdown()
        assert session.hub.published == [("c", b"1")]
        await session.expect_end()


# It takes seconds, and what tells the time is the same on all event loops.
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_only_a_hub_that_has_answered_a_ping_is_given_up_for_its_silence() -> None:
    limits = hyps.Limits(heartbeat=1, close_timeout=0.1)
    async with (
        connected_to_nim(answers_ping=False, limits=limits) as (other_client, other),
        connected_to_nim(limits=limits) as (client, session),
    ):
        await wait_until(lambda: session.hub.pings and other.hub.pings)
        session.hub.answers_ping = False
        assert "nothing from the hub" in await reason_of_loss(client)
        await session.expect_end()
        # In the same time this one was silent too, and it always was.
        assert other.hub.pings == 1
        await other_client.publish("c", b"1")
        assert other.hub.published == [("c", b"1")]


async def test_too_large_a_message_is_a_gap_and_costs_no_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = hyps.Limits(max_message=1_000)
    async with (
        connected_to_nim(limits=limits) as (client, session),
        client.subscribe("foo_ch", gaps=True) as subscription,
    ):
        await session.deliver("foo_ch", b"1")
        await session.deliver("foo_ch", bytes(limits.max_frame))
        await session.deliver("foo_ch", b"2")
        with anyio.fail_after(PATIENCE):
            found = [await subscription.receive() for _ in range(3)]
        assert found == [
            hyps.Message("foo_ch", b"1"),
            Gap("foo_ch", 1, "client"),
            hyps.Message("foo_ch", b"2"),
        ]
        assert subscription.missed == 1
        assert client.connected
        with pytest.raises(hyps.MessageTooLarge, match=r"own Limits\.max_message"):
            await client.publish("foo_ch", bytes(1_001))
    [line] = [line for line in warned(caplog, "hyps.client") if "Limits.max_message" in line]
    assert "this client's own" in line
    assert "1 message in 1 gap" in line
