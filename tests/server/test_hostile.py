"""What a stranger can do to a hub, and what timing can do to both ends."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.helpers import begin, healthy_neighbours, numbered, take_data, wait_until, warned
from support.peers import connect_raw, connected_to_script, raw_client

import hyps
from hyps.protocol import PREFACE, Kind, Limits, encode_frame

pytestmark = pytest.mark.anyio

#: More than the checkpoints that opening and closing take.
MOMENTS = range(40)


async def after(moments: int) -> None:
    for _ in range(moments):
        await checkpoint()


@pytest.mark.native_wire
async def test_connections_that_are_reset_at_once(
    server: hyps.Server, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        await (await connect_raw(server.urls[0])).reset()
    async with healthy_neighbours(server):
        await wait_until(lambda: len(server.broker.sessions) == 2)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.native_wire
async def test_a_violation_and_a_reset_are_one_line(
    server: hyps.Server, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        async with raw_client(server.urls[0]) as raw:
            await raw.send(encode_frame(Kind.PUBLISH, b""))
            await raw.reset()
    await wait_until(lambda: not server.broker.sessions)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("moments", range(8))
async def test_a_server_is_left_while_it_accepts(moments: int) -> None:
    limits = Limits(close_timeout=0.2)
    with anyio.fail_after(10):
        async with hyps.Server(port=0, limits=limits) as server:
            raw = await connect_raw(server.urls[0])
            await raw.send(PREFACE + encode_frame(Kind.HELLO, b'{"client":"x"}'))
            await after(moments)
        assert not server.broker.sessions
        with pytest.raises(hyps.ConnectionRefused):
            await hyps.connect(server.urls[0]).connect()
        await raw.stream.aclose()


@pytest.mark.parametrize("transport", ["tcp", "memory"])
async def test_a_cancelled_connect_leaves_nothing(transport: str, server: hyps.Server) -> None:
    url = server.urls[0] if transport == "tcp" else "memory://cancelled"
    for moments in MOMENTS:
        client = hyps.connect(url)
        was_entered = False

        async def enter(client: hyps.Client = client) -> None:
            nonlocal was_entered
            async with client:
                was_entered = True
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            entering = begin(tasks, enter)
            await after(moments)
            with suppress(AssertionError):
                await entering.cancel()
        assert not client.connected
        await wait_until(lambda: not server.broker.sessions)
    # Late enough, it was connected.
    assert was_entered


async def test_a_cancelled_subscribe_leaves_what_was_joined_anew(client: hyps.Client) -> None:
    async with (
        client.subscribe() as subscription,
        client.subscribe() as neighbour,
        anyio.create_task_group() as tasks,
    ):
        begin(tasks, neighbour.subscribe, "a")
        first = begin(tasks, subscription.subscribe, "a")
        await wait_until(lambda: subscription.channels)
        begin(tasks, subscription.unsubscribe, "a")
        await wait_until(lambda: not subscription.channels)
        second = begin(tasks, subscription.subscribe, "a")
        await wait_until(lambda: subscription.channels)
        with suppress(AssertionError):
            await first.cancel()
        await second.get()
        assert subscription.channels == {"a"}
        await client.publish("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]


async def test_two_readers_lose_nothing_and_one_is_told(client: hyps.Client) -> None:
    count = 200
    read: list[bytes] = []
    busy = 0

    async def read_all(subscription: hyps.Subscription) -> None:
        nonlocal busy
        try:
            while len(read) < count:
                read.append((await subscription.receive()).data)
        except anyio.BusyResourceError:
            busy += 1

    async with client.subscribe("a") as subscription:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                begin(tasks, read_all, subscription)
                begin(tasks, read_all, subscription)
                for channel, data in numbered("a", count):
                    await client.publish(channel, data)
        assert busy == 1
        assert sorted(map(int, read)) == list(range(count))


async def test_an_overflow_of_many_channels_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"c{number}" for number in range(50)]
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe(*names, gaps=True), *names)
        for name in names:
            await session.gap(name, b"script:2")
        await session.deliver("c0", b"2")
        items: list[hyps.Message | hyps.Gap] = []
        while len(items) < 51:
            items += await subscription.receive_many()
        assert subscription.missed == 100
    [told] = [line for line in warned(caplog, "hyps.client") if "too slowly" in line]
    assert "100 messages in 50 gaps" in told


def test_tokens_that_cannot_be_sent() -> None:
    for token in ("x" * 20_000, "\ud800"):
        with pytest.raises(ValueError, match=r"token|surrogates"):
            hyps.connect("memory://never", token=token)
    with pytest.raises(TypeError):
        hyps.connect("memory://never", token=b"bytes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="UTF-8"):
        hyps.Server(token="\ud800")


@pytest.mark.native_wire
async def test_what_a_session_was_owed_is_forgotten_with_it(server: hyps.Server) -> None:
    """A subscriber that never reads, and vanishes: its queue is freed, and at once."""
    async with raw_client(server.urls[0]) as raw, hyps.connect(server.urls[0]) as publisher:
        await raw.send(encode_frame(Kind.SUBSCRIBE, b"\x00\x00\x00\x03a\n\n"))
        await wait_until(lambda: server.broker.channels == 1)
        [session] = [each for each in server.broker.sessions if each.channels]
        await publisher.publish_many([("a", bytes(100_000))] * 100)
        assert session.backlog > 1_000_000
        await raw.reset()
        await wait_until(lambda: session not in server.broker.sessions)
        await wait_until(lambda: session.backlog == 0)
