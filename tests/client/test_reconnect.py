"""Connecting again: what waits, what is told, what is restored, and when it is given up."""

from __future__ import annotations

import contextlib
import socket
from contextlib import asynccontextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import (
    Outcome,
    begin,
    let_others_run,
    numbered,
    port_of,
    reason_of_loss,
    take_data,
    wait_until,
    warned,
)
from support.peers import GOAWAY, frame, scripted_hub, welcome_frame

import hyps
from hyps import Connected, Disconnected, Gap, Message, Reconnected
from hyps.protocol import Kind, encode_frame, records
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.peers import Peer, ScriptedHub

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(
    hub: ScriptedHub, *channels: str
) -> AsyncIterator[tuple[hyps.Client, Peer, hyps.Subscription[Message | Gap]]]:
    """Connect a client that connects again to a scripted hub, and subscribe channels."""
    client = hyps.connect(hub.url, reconnect_max_delay=0.01)
    async with anyio.create_task_group() as tasks:
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.welcome()
        await opening.get()
    subscription = client.subscribe(*channels, gaps=True)
    await (session.enter(subscription, *channels) if channels else subscription.__aenter__())
    try:
        yield client, session, subscription
    finally:
        await hub.close()
        await client.shutdown()


async def test_the_channels_are_restored_in_one_batch_before_it_counts_as_connected() -> None:
    async with scripted_hub() as hub, connected(hub, "a", "b") as (client, session, subscription):
        await session.deliver("a", b"1")
        assert await subscription.receive() == Message("a", b"1")
        await session.reset()
        session = await hub.accept()
        await session.welcome()
        assert await session.expect_messages(Kind.SUBSCRIBE) == [
            ("a", b"script:1"),
            ("b", b"script:0"),
        ]
        await let_others_run()
        assert not client.connected
        await session.answer_subscribe("a", answer=b"kscript:3")
        await let_others_run()
        assert not client.connected
        await session.answer_subscribe("b", answer=b"kanother:3")
        assert await subscription.receive() == Gap("a", 2, "reconnect")
        assert await subscription.receive() == Gap("b", None, "reconnect")
        assert client.connected
        assert (subscription.missed, subscription.missed_unknown) == (2, True)


async def test_the_gap_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_hub() as hub, connected(hub, "a", "b", "c") as (client, session, _):
        await session.reset()
        session = await hub.accept()
        await session.welcome()
        await session.expect(Kind.SUBSCRIBE)
        await session.answer_subscribe("a", "b", answer=b"kscript:3")
        await session.answer_subscribe("c", answer=b"kanother:0")
        await wait_until(lambda: client.connected)
        lost, missed = warned(caplog, "hyps.client")
    assert "connecting again" in lost
    assert "6 messages in 2 gaps and an unknown number of messages in 1 gap" in missed


async def test_who_joined_later_is_not_told_of_the_gap() -> None:
    with MemoryHub() as hub:
        async with (
            hyps.connect(hub.url, reconnect_max_delay=0.01) as client,
            client.subscribe("a", gaps=True) as before,
        ):
            hub.restart()
            await reason_of_loss(client)
            async with client.subscribe("a", gaps=True) as after:
                assert await before.receive() == Gap("a", None, "reconnect")
                await client.publish("a", b"1")
                assert await after.receive() == Message("a", b"1")


async def test_operations_wait_for_the_next_connection() -> None:
    async with scripted_hub() as hub, connected(hub, "a") as (client, session, subscription):
        await session.reset()
        await reason_of_loss(client)
        async with anyio.create_task_group() as tasks:
            publishing = begin(tasks, client.publish, "b", b"1")
            publishing_many = begin(tasks, client.publish_many, [("b", b"1")])
            joining = begin(tasks, subscription.subscribe, "b")
            connecting = begin(tasks, client.connect)
            with pytest.raises(hyps.WouldBlock, match="not connected"):
                client.publish_nowait("b", b"3")
            # Nothing is under way.
            await client.flush()
            session = await hub.accept()
            await session.welcome()
            await session.grant("a")
            await connecting.get()
            # They go on in any order.
            published = 0
            while published < 2 or not joining.is_known:
                kind, body = await session.next_frame()
                if kind is Kind.SUBSCRIBE:
                    await session.answer_subscribe("b")
                    await joining.get()
                else:
                    count = len(list(records(body)))
                    await session.send(encode_frame(Kind.PUBLISH_ACK, b"k" * count))
                    published += count
            await publishing.get()
            await publishing_many.get()
        assert subscription.channels == {"a", "b"}


async def test_operations_do_not_wait_if_that_was_chosen() -> None:
    with MemoryHub() as hub:
        client = hyps.connect(hub.url, when_disconnected="raise", reconnect_max_delay=0.01)
        async with client, client.subscribe("a") as subscription:
            hub.cut()
            await reason_of_loss(client)
            for _ in range(2):
                with pytest.raises(hyps.ConnectionLost, match="broke"):
                    await client.publish("a", b"")
                with pytest.raises(hyps.ConnectionLost, match="broke"):
                    await client.publish_many([("a", b"")])
                with pytest.raises(hyps.ConnectionLost, match="broke"):
                    client.publish_nowait("a", b"")
                with pytest.raises(hyps.ConnectionLost, match="broke"):
                    await subscription.subscribe("b")
                with pytest.raises(hyps.ConnectionLost, match="broke"):
                    await client.subscribe("b").__aenter__()
            # This one needs no hub.
            await subscription.unsubscribe("a")
            hub.restore()
            await client.connect()
            assert hub.broker.channels == 0
            await client.publish("a", b"")


async def test_what_was_in_flight_is_lost_and_never_sent_again() -> None:
    async with (
        scripted_hub() as hub,
        connected(hub, "a") as (client, session, subscription),
        anyio.create_task_group() as tasks,
    ):
        client.publish_nowait("a", b"1")
        pending: list[Outcome[Any]] = [
            begin(tasks, client.publish, "a", b"2"),
            begin(tasks, client.publish_many, [("a", b"3")]),
            begin(tasks, subscription.subscribe, "b"),
            begin(tasks, client.subscribe("c").__aenter__),
        ]
        await session.expect(Kind.PUBLISH)
        # The first may have come alone.
        await let_others_run()
        await session.reset()
        for outcome in pending:
            with pytest.raises(hyps.ConnectionLost):
                await outcome.get()
        session = await hub.accept()
        await session.welcome()
        await session.grant("a")
        publishing = begin(tasks, client.publish, "a", b"4")
        assert await session.answer_publish(b"k") == [b"4"]
        await publishing.get()
        assert subscription.channels == {"a"}
        # What nobody awaited is told once, on whichever connection.
        with pytest.raises(hyps.ConnectionLost):
            await client.flush()
        await client.flush()


async def test_channels_that_are_left_meanwhile_are_not_restored() -> None:
    async with scripted_hub() as hub, connected(hub, "a", "b", "c") as (client, session, first):
        second = await session.enter(client.subscribe("c", "d"), "d")
        await session.reset()
        await reason_of_loss(client)
        await first.unsubscribe("b")
        await second.__aexit__(None, None, None)
        session = await hub.accept()
        await session.welcome()
        await session.grant("a", "c")
        await wait_until(lambda: client.connected)
        # And between WELCOME and the answer the hub is told.
        await session.reset()
        session = await hub.accept()
        await session.welcome()
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a", "c"]
        await let_others_run()
        async with anyio.create_task_group() as tasks:
            leaving = begin(tasks, first.unsubscribe, "a")
            assert await session.expect_channels(Kind.UNSUBSCRIBE) == ["a"]
            await session.answer_subscribe("a", "c")
            await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"))
            await leaving.get()
        assert first.channels == {"c"}


async def test_a_connection_that_is_lost_while_it_is_restored_keeps_the_positions() -> None:
    async with scripted_hub() as hub, connected(hub, "a", "b") as (_, session, subscription):
        await session.deliver("a", b"1")
        await session.deliver("b", b"1")
        await session.reset()
        session = await hub.accept()
        await session.welcome()
        await session.expect(Kind.SUBSCRIBE)
        # Only one of them is answered.
        await session.answer_subscribe("a", answer=b"kscript:4")
        assert [await subscription.receive() for _ in range(3)][2] == Gap("a", 3, "reconnect")
        await session.reset()
        session = await hub.accept()
        await session.welcome()
        assert await session.expect_messages(Kind.SUBSCRIBE) == [
            ("a", b"script:4"),
            ("b", b"script:1"),
        ]


async def test_a_channel_that_is_refused_ends_its_subscriptions() -> None:
    async with scripted_hub() as hub, connected(hub, "a", "b") as (client, session, subscription):
        other = await client.subscribe("a").__aenter__()
        await session.reset()
        session = await hub.accept()
        await session.welcome()
        await session.expect(Kind.SUBSCRIBE)
        await session.answer_subscribe("a")
        await session.answer_subscribe("b", answer=b"d")
        for _ in range(2):
            with pytest.raises(hyps.PermissionDenied):
                await subscription.receive()
        assert subscription.channels == frozenset()
        assert client.connected
        await session.deliver("a", b"1")
        assert await take_data(other, 1) == [b"1"]


@pytest.mark.parametrize("long", [["long"], ["long", "more"]])
async def test_channels_that_are_too_long_for_the_next_hub_end_their_subscriptions(
    long: list[str],
) -> None:
    async with scripted_hub() as hub, connected(hub, "a", *long) as (client, session, first):
        other = await client.subscribe("a").__aenter__()
        await session.reset()
        session = await hub.accept()
        await session.welcome(max_channel=3)
        await session.grant("a")
        with pytest.raises(hyps.InvalidChannel, match="4 bytes"):
            await first.receive()
        assert other.channels == {"a"}
        await wait_until(lambda: client.connected)


async def test_a_hub_that_does_not_take_the_channels_now_is_left() -> None:
    async with scripted_hub() as hub, connected(hub, "a") as (client, session, subscription):
        await session.reset()
        session = await hub.accept()
        await session.welcome()
        await session.grant("a", answer=b"u")
        await session.expect_end()
        await session.stream.aclose()
        assert not client.connected
        session = await hub.accept()
        await session.welcome()
        await session.grant("a")
        await wait_until(lambda: client.connected)
        assert subscription.channels == {"a"}


async def test_a_hub_that_leaves_is_left_when_it_has_said_all() -> None:
    async with scripted_hub() as hub, connected(hub, "a") as (client, session, subscription):
        await session.send(GOAWAY)
        await session.expect_end()
        # Its last messages come, and no number is counted twice.
        await session.deliver("a", b"1", b"2")
        await session.stream.aclose()
        session = await hub.accept()
        await session.welcome()
        assert await session.expect_messages(Kind.SUBSCRIBE) == [("a", b"script:2")]
        await session.answer_subscribe("a", answer=b"kscript:2")
        assert await subscription.receive_many() == [Message("a", b"1"), Message("a", b"2")]
        await wait_until(lambda: client.connected)
        assert subscription.missed == 0


async def test_how_long_a_hub_asks_to_stay_away_is_bounded() -> None:
    async with scripted_hub() as hub, connected(hub) as (client, session, _):
        await session.send(frame(Kind.GOAWAY, reason="a test", reconnect_after=3600))
        await session.expect_end()
        await session.stream.aclose()
        session = await hub.accept()
        await session.welcome()
        await wait_until(lambda: client.connected)


@pytest.mark.parametrize("code", ["auth", "version"])
async def test_a_token_or_a_version_that_is_refused_later_is_tried_again(
    code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_hub() as hub, connected(hub, "a") as (client, session, subscription):
        events = client.events()
        await session.reset()
        await wait_until(lambda: not client.connected)
        async with anyio.create_task_group() as tasks:
            publishing = begin(tasks, client.publish, "a", b"")
            for _ in range(3):
                session = await hub.accept()
                await session.expect(Kind.HELLO)
                await session.send(frame(Kind.ERROR, code=code, message="not now"))
                await session.stream.aclose()
            session = await hub.accept()
            await wait_until(lambda: "not now" in repr(client))
            await session.welcome()
            await session.grant("a")
            assert await session.answer_publish(b"k") == [b""]
            await publishing.get()
        assert subscription.channels == {"a"}
        seen = [await anext(events) for _ in range(4)]
        assert [type(event) for event in seen] == [
            Connected,
            Disconnected,
            Disconnected,
            Reconnected,
        ]
        assert isinstance(seen[2], Disconnected)
        assert f"refused ({code}): not now" in seen[2].reason
        assert "not now" not in repr(client)
        # Once, and not at each attempt.
        assert ["not now" in line for line in warned(caplog, "hyps.client")] == [False, True]


async def test_a_token_that_is_refused_while_connected_costs_the_connection() -> None:
    async with scripted_hub() as hub, connected(hub, "a") as (client, session, subscription):
        async with anyio.create_task_group() as tasks:
            publishing = begin(tasks, client.publish, "a", b"")
            await session.expect(Kind.PUBLISH)
            await session.send(frame(Kind.ERROR, code="auth", message="revoked"))
            await session.stream.aclose()
            # The outcome is unknown, as with every loss.
            with pytest.raises(hyps.ConnectionLost, match="revoked"):
                await publishing.get()
        session = await hub.accept()
        await session.welcome()
        await session.grant("a")
        await wait_until(lambda: client.connected)
        assert subscription.channels == {"a"}


async def test_why_there_is_no_connection_again_is_told_once_for_each_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url, reconnect_max_delay=0.001) as client:
            hub.cut()
            await wait_until(lambda: "cut off" in repr(client))
            await let_others_run(500)
            # Who comes later sees the last reason.
            assert await anext(client.events()) == Disconnected(
                hub.url, f"no hub at {hub.url}: it is cut off"
            )
            hub.restore()
            await wait_until(lambda: client.connected)
            assert repr(client) == f"<hyps.Client of {hub.url}, connected>"
            hub.cut()
            await wait_until(lambda: "cut off" in repr(client))
        assert repr(client) == (
            f"<hyps.Client of {hub.url}, not connected: the client was shut down>"
        )
    told = [line for line in warned(caplog, "hyps.client") if "cannot connect again" in line]
    # Once for each loss.
    assert told == [f"cannot connect again: no hub at {hub.url}: it is cut off; trying on"] * 2


async def test_a_shutdown_does_not_say_that_it_connects_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        scripted_hub() as hub,
        connected(hub) as (client, session, _),
        anyio.create_task_group() as tasks,
    ):
        closing = begin(tasks, client.shutdown)
        await session.expect_end()
        await session.reset()
        await closing.get()
    assert warned(caplog, "hyps.client") == []


async def test_shut_down_while_it_connects_again() -> None:
    with MemoryHub() as hub:
        client = hyps.connect(hub.url)
        await client.connect()
        subscription = await client.subscribe("a").__aenter__()
        hub.cut()
        await reason_of_loss(client)
        async with anyio.create_task_group() as tasks:
            publishing = begin(tasks, client.publish, "a", b"")
            await let_others_run()
            with anyio.fail_after(5):
                await client.shutdown()
            with pytest.raises(hyps.ConnectionLost, match="shut down"):
                await publishing.get()
        assert [message async for message in subscription] == []


async def test_a_cancelled_wait_for_the_connection_leaves_it_alone() -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url, reconnect_max_delay=0.01) as client:
            hub.cut()
            await reason_of_loss(client)
            async with anyio.create_task_group() as tasks:
                for call in (client.connect, client.subscribe("a").__aenter__):
                    waiting = begin(tasks, call)
                    await let_others_run()
                    await waiting.cancel()
            hub.restore()
            await client.publish("a", b"")
            assert hub.broker.channels == 0


async def test_a_subscription_that_is_left_while_it_waits_to_join() -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url, reconnect_max_delay=0.01) as client:
            async with anyio.create_task_group() as tasks, client.subscribe("a") as subscription:
                hub.cut()
                await reason_of_loss(client)
                joining = begin(tasks, subscription.subscribe, "b")
                await let_others_run()
                await subscription.__aexit__(None, None, None)
                hub.restore()
                with pytest.raises(hyps.SubscriptionClosed):
                    await joining.get()
            await client.flush()
            assert hub.broker.channels == 0


async def test_those_who_wait_for_room_wait_for_the_next_connection() -> None:
    limits = hyps.Limits(max_backlog=1_000)
    with MemoryHub() as hub:
        client = hyps.connect(hub.url, limits=limits, reconnect_max_delay=0.01)
        async with client, anyio.create_task_group() as tasks:
            hub.stall()
            client.publish_nowait("a", bytes(10_000))
            with contextlib.suppress(hyps.WouldBlock):
                while True:
                    client.publish_nowait("a", bytes(10_000))
                    await let_others_run()
            one = begin(tasks, client.publish, "a", b"1")
            many = begin(tasks, client.publish_many, numbered("a", 2))
            await let_others_run()
            published = hub.broker.published
            hub.connections[0].cut()
            await one.get()
            await many.get()
            assert hub.broker.published == published + 3
            with pytest.raises(hyps.ConnectionLost):
                await client.flush()


# Several hosts


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


async def test_hosts_are_tried_in_order() -> None:
    async with hyps.Server(port=0) as second:
        first_port = unused_port()
        url = f"hyps://127.0.0.1:{first_port},127.0.0.1:{port_of(second)}"
        async with hyps.connect(url, reconnect_max_delay=0.01) as client:
            events = client.events()
            assert await anext(events) == Connected(second.urls[0])
            async with client.subscribe("a", gaps=True) as subscription:
                async with hyps.Server(port=first_port) as first:
                    # The second one is still there, and so is the connection.
                    assert client.connected
                    for session in second.broker.sessions:
                        session.go_away("a test")
                    assert await anext(events) == Disconnected(
                        second.urls[0], f"the hub at {second.urls[0]} is leaving: a test"
                    )
                    assert await anext(events) == Reconnected(first.urls[0])
                    assert await subscription.receive() == Gap("a", None, "reconnect")
                assert isinstance(await anext(events), Disconnected)
                assert await anext(events) == Reconnected(second.urls[0])


async def test_no_host_of_several() -> None:
    ports = [unused_port(), unused_port()]
    client = hyps.connect("hyps://" + ",".join(f"127.0.0.1:{port}" for port in ports))
    with pytest.raises(hyps.ConnectionRefused) as caught:
        await client.connect()
    for port in ports:
        assert f":{port}: connection refused" in str(caught.value)


async def test_one_of_several_does_not_speak_hyps() -> None:
    async with scripted_hub() as hub, hyps.Server(port=0) as server:
        client = hyps.connect(f"{hub.url},127.0.0.1:{port_of(server)}")
        async with anyio.create_task_group() as tasks:
            opening = begin(tasks, client.connect)
            session = await hub.accept()
            await session.send(b"220 mail\r\n")
            await session.stream.aclose()
            await opening.get()
        assert len(server.broker.sessions) == 1
        await client.shutdown()


# Watching


async def test_events_begin_with_how_things_are() -> None:
    with MemoryHub() as hub:
        client = hyps.connect(hub.url, reconnect_max_delay=0.01)
        early = client.events()
        async with client:
            assert await anext(early) == await anext(client.events()) == Connected(hub.url)
            hub.cut()
            await reason_of_loss(client)
            assert isinstance(await anext(client.events()), Disconnected)
            hub.restore()
            await client.connect()
            late = client.events()
            assert await anext(late) == Reconnected(hub.url)
        # There is one Disconnected for each new reason, and attempts before restore() have theirs.
        kinds = [kind for kind, _ in groupby([type(event) async for event in early])]
        assert kinds == [Disconnected, Reconnected, Disconnected]
        assert [event async for event in late] == [
            Disconnected(hub.url, "the client was shut down")
        ]


async def test_events_that_nobody_reads_are_bounded() -> None:
    with MemoryHub() as hub:
        client = hyps.connect(hub.url, reconnect_max_delay=0.001)
        async with client:
            events, tester = client.events(), client.events()
            await anext(tester)
            for _ in range(60):
                hub.connections[0].cut()
                while not isinstance(await anext(tester), Reconnected):
                    pass
        kept = [event async for event in events]
        assert len(kept) == 100
        assert kept[-1] == Disconnected(hub.url, "the client was shut down")


@pytest.mark.parametrize("delay", [0, -1, float("inf"), float("nan")])
async def test_a_delay_that_is_none(delay: float) -> None:
    with pytest.raises(ValueError, match="reconnect_max_delay"):
        hyps.connect("memory://nobody", reconnect_max_delay=delay)


async def test_a_way_of_waiting_that_is_none() -> None:
    with pytest.raises(ValueError, match="wait, raise"):
        hyps.connect("memory://nobody", when_disconnected="hope")  # type: ignore[arg-type]


async def test_a_welcome_that_comes_after_the_shutdown() -> None:
    async with scripted_hub() as hub, connected(hub, "a") as (client, session, _):
        await session.reset()
        session = await hub.accept()
        await session.expect(Kind.HELLO)
        async with anyio.create_task_group() as tasks:
            closing = begin(tasks, client.shutdown)
            await let_others_run()
            await session.send(welcome_frame())
            await closing.get()
        assert not client.connected
        await session.expect_end()
