"""What a client tells of itself: its counts, the hub's greeting, and the round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio
import pytest
from anyio import to_thread
from support.helpers import begin, let_others_run, memory_client, numbered, wait_until
from support.peers import GOAWAY, connected_to_script, scripted_hub

import hyps
from hyps import ClientStats, Limits
from hyps.protocol import Kind, encode_frame
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from typing import TypeAlias

    Overflow: TypeAlias = Literal["drop_newest", "drop_oldest", "latest", "close"]

pytestmark = pytest.mark.anyio

NOTHING = ClientStats(
    connected=False,
    url=None,
    reconnects=0,
    round_trip=None,
    subscriptions=0,
    channels=0,
    buffered=0,
    missed_hub=0,
    missed_client=0,
    missed_reconnect=0,
    unknown_gaps=0,
    published=0,
    in_flight=0,
    queued=0,
)


async def test_a_client_that_was_never_connected() -> None:
    client = hyps.connect("memory://nobody")
    assert client.stats() == NOTHING
    assert client.welcome is None
    with pytest.raises(hyps.ConnectionLost):
        await client.ping()


async def test_what_it_has(server: hyps.Server, client: hyps.Client) -> None:
    async with client.subscribe("a", "b") as one, client.subscribe("b", "c"):
        await client.publish_many([*numbered("a", 2), *numbered("b", 3)])
        # Each of the two has those of b.
        await wait_until(lambda: client.stats().buffered == 8)
        stats = client.stats()
        assert (stats.connected, stats.url) == (True, server.urls[0])
        assert (stats.subscriptions, stats.channels, stats.published) == (2, 3, 5)
        assert (stats.in_flight, stats.reconnects, stats.missed) == (0, 0, 0)
        await one.receive()
        assert client.stats().buffered == 7
    assert client.stats().subscriptions == client.stats().channels == client.stats().buffered == 0


async def test_any_thread_may_ask(client: hyps.Client) -> None:
    async with client.subscribe("a"):
        stats = await to_thread.run_sync(client.stats)
        assert (stats.connected, stats.subscriptions) == (True, 1)


async def test_what_is_on_its_way() -> None:
    async with connected_to_script() as (client, session):
        client.publish_nowait("a", b"")
        for _ in range(2):
            client.publish_nowait("b", bytes(1000))
        # The first one has left at once.
        stats = client.stats()
        assert (stats.in_flight, stats.published) == (1, 0)
        assert 2_000 < stats.queued < 3_000
        await session.answer_publish()
        await session.answer_publish(b"kd")
        with pytest.raises(hyps.PermissionDenied):
            await client.flush()
        # A refusal is an answer too.
        stats = client.stats()
        assert (stats.in_flight, stats.queued, stats.published) == (0, 0, 3)


@pytest.mark.parametrize(
    ("overflow", "most"),
    [("drop_newest", 3), ("drop_oldest", 3), ("latest", 4), ("close", 3)],
)
async def test_what_subscriptions_missed_outlives_them(overflow: Overflow, most: int) -> None:
    async with memory_client() as client:
        missed = 0
        for _ in range(2):
            async with client.subscribe("a", overflow=overflow, max_messages=2) as subscription:
                await client.publish_many(numbered("a", 5))
                missed += most
                await wait_until(lambda: client.stats().missed == missed)  # noqa: B023
                assert subscription.missed == most
        assert client.stats().missed_client == missed
        assert client.stats().missed == missed
    assert client.stats().missed == missed


async def test_what_the_hub_dropped_and_what_it_did_not_say() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url, reconnect_max_delay=0.01)
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.welcome()
        await opening.get()
        subscription = client.subscribe("a", "b", gaps=True)
        await session.enter(subscription, "a", "b")
        await session.gap("a", b"script:2")
        assert await subscription.receive() == hyps.Gap("a", 2, "hub")
        await session.reset()
        await wait_until(lambda: not client.connected)
        assert client.stats().url is None
        assert client.welcome is None
        session = await hub.accept()
        await session.welcome()
        await session.expect(Kind.SUBSCRIBE)
        await session.answer_subscribe("a", answer=b"kscript:5")
        await session.answer_subscribe("b", answer=b"kanother:0")
        await wait_until(lambda: client.connected)
        stats = client.stats()
        assert (stats.missed_hub, stats.missed_reconnect, stats.missed_client) == (2, 3, 0)
        assert (stats.missed, stats.unknown_gaps, stats.reconnects) == (5, 1, 1)
        await hub.close()
        await client.shutdown()
        assert client.stats().missed == 5


async def test_counts_go_on_over_connections_and_when_it_is_connected_anew() -> None:
    with MemoryHub() as hub:
        client = hyps.connect(hub.url, reconnect_max_delay=0.01)
        async with client:
            await client.publish("a", b"")
            await client.ping()
            hub.restart()
            await wait_until(lambda: client.stats().reconnects == 1)
            await client.publish("a", b"")
            assert client.stats().published == 2
        ended = client.stats()
        assert (ended.published, ended.reconnects, ended.connected) == (2, 1, False)
        assert ended.round_trip is not None
        async with client:
            await client.publish("a", b"")
            # The first connection of a client that was shut down is none that it has again.
            assert (client.stats().published, client.stats().reconnects) == (3, 1)


@pytest.mark.native_wire
async def test_what_the_hub_said(client: hyps.Client) -> None:
    welcome = client.welcome
    assert welcome is not None
    assert hyps.__version__ in welcome.server
    assert welcome.max_message == Limits().max_message
    await client.shutdown()
    assert client.welcome is None


# The round trip


async def test_ping(client: hyps.Client) -> None:
    assert client.stats().round_trip is None
    seconds = await client.ping()
    # Finer than the milliseconds of some event loops.
    assert 0 < seconds < 30
    assert client.stats().round_trip == seconds


async def test_ping_among_messages(client: hyps.Client) -> None:
    async with client.subscribe("a") as subscription, anyio.create_task_group() as tasks:
        pings = [begin(tasks, client.ping) for _ in range(3)]
        await client.publish_many(numbered("a", 1_000))
        for ping in pings:
            assert await ping.get() >= 0
        assert len(await subscription.receive_many(1_000)) == 1_000


async def test_tasks_share_a_ping() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        pings = [begin(tasks, client.ping) for _ in range(3)]
        first = await session.expect(Kind.PING)
        await let_others_run()
        pings.append(begin(tasks, client.ping))
        await let_others_run()
        await session.send(encode_frame(Kind.PONG, first))
        took = {await ping.get() for ping in pings}
        assert took == {client.stats().round_trip}
        again = begin(tasks, client.ping)
        second = await session.expect(Kind.PING)
        assert second != first
        await session.send(encode_frame(Kind.PONG, second))
        await again.get()


async def test_a_ping_that_is_cancelled_leaves_no_trace() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        cancelled = begin(tasks, client.ping)
        body = await session.expect(Kind.PING)
        cancelled.scope.cancel()
        other = begin(tasks, client.ping)
        await let_others_run()
        assert cancelled.is_known
        await session.send(encode_frame(Kind.PONG, body))
        await other.get()
        assert client.connected


@pytest.mark.parametrize("is_told", [False, True])
async def test_the_connection_ends_before_the_answer(is_told: bool) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        ping = begin(tasks, client.ping)
        await session.expect(Kind.PING)
        if is_told:
            await session.send(GOAWAY)
        await session.reset()
        with pytest.raises(hyps.ConnectionLost):
            await ping.get()
        with pytest.raises(hyps.ConnectionLost):
            await client.ping()


async def test_the_heartbeat_measures_too() -> None:
    # The hub's heartbeat counts from the opening, whatever the time for opening may be.
    limits = Limits(hello_timeout=3600)
    async with connected_to_script(limits=limits, heartbeat=1) as (client, session):
        body = await session.expect(Kind.PING)
        assert client.stats().round_trip is None
        await session.send(encode_frame(Kind.PONG, body))
        await wait_until(lambda: client.stats().round_trip is not None)
