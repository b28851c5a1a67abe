"""Hubs that let a client wait, or send it away again and again: nothing waits for them for ever."""

from __future__ import annotations

import socket
import ssl

import anyio
import pytest
from support.helpers import PATIENCE, begin, let_others_run, port_of, reason_of_loss, wait_until
from support.peers import GOAWAY, scripted_hub

import hyps
from hyps import Connected, Disconnected, Gap, Message
from hyps.protocol import Kind
from hyps.testing import MemoryHub

pytestmark = pytest.mark.anyio

#: The client's own; for what it waits in vain.
LIMITS = hyps.Limits(hello_timeout=0.5, close_timeout=0.1)


async def test_a_tls_handshake_that_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client = hyps.connect(
            f"hypss://127.0.0.1:{port}", ssl_context=ssl.create_default_context(), limits=LIMITS
        )
        with anyio.fail_after(PATIENCE), pytest.raises(hyps.ConnectionRefused, match="in time"):
            await client.connect()


@pytest.mark.parametrize("answers_hello", [False, True])
async def test_the_next_host_is_tried_when_one_does_not_answer(answers_hello: bool) -> None:
    async with scripted_hub() as first, hyps.Server(port=0) as second:
        url = f"{first.url},127.0.0.1:{port_of(second)}"
        client = hyps.connect(url, limits=LIMITS, reconnect_max_delay=0.01)
        async with anyio.create_task_group() as tasks:
            opening = begin(tasks, client.connect)
            session = await first.accept()
            await session.welcome()
            await opening.get()
            subscription = client.subscribe("a", gaps=True)
            await session.enter(subscription, "a")
            await session.reset()
            session = await first.accept()
            if answers_hello:
                await session.welcome()
                # It is never answered.
                await session.expect(Kind.SUBSCRIBE)
            with anyio.fail_after(PATIENCE):
                assert await subscription.receive() == Gap("a", None, "reconnect")
        assert second.broker.channels == 1
        await client.shutdown()


async def test_many_are_not_published_behind_a_loss() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url, reconnect_max_delay=0.01)
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.welcome()
        await opening.get()
        # More than what is queued at once.
        publishing = begin(tasks, client.publish_many, [("a", bytes(50_000))] * 200)
        await session.expect(Kind.PUBLISH)
        await session.send(GOAWAY)
        # Its answers never come, and so no hub is waited for to publish the others at.
        await session.stream.aclose()
        with pytest.raises(hyps.ConnectionLost):
            await publishing.get()
        await client.shutdown()


async def test_a_count_beyond_all_bounds_is_a_violation() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url, limits=LIMITS, reconnect_max_delay=0.01)
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.welcome()
        await opening.get()
        subscription = client.subscribe("a", gaps=True)
        entering = begin(tasks, subscription.__aenter__)
        await session.grant("a", answer=b"kscript:%d" % (2**63 - 1))
        await entering.get()
        await session.deliver("a", b"one too many")
        assert "counted" in await reason_of_loss(client)
        session = await hub.accept()
        await session.welcome()
        await session.grant("a", answer=b"kanother:0")
        assert await subscription.receive() == Gap("a", None, "reconnect")
        await client.shutdown()


async def test_shutdown_does_not_wait_for_a_stalled_hub(hyps_hub: MemoryHub) -> None:
    client = hyps.connect(hyps_hub.url, limits=LIMITS)
    await client.connect()
    hyps_hub.stall()
    client.publish_nowait("a", b"")
    with anyio.fail_after(PATIENCE):
        await client.shutdown()
    assert hyps_hub.connections == ()


async def test_watching_a_client_that_was_shut_down(hyps_hub: MemoryHub) -> None:
    client = hyps.connect(hyps_hub.url)
    early = client.events()
    async with client:
        assert await anext(early) == Connected(hyps_hub.url)
    late = client.events()
    with anyio.fail_after(PATIENCE):
        assert [event async for event in late] == []
        # Connected anew it can be watched again.
        async with client:
            assert await anext(client.events()) == Connected(hyps_hub.url)
        assert [type(event) async for event in early] == [Disconnected]


async def test_a_client_is_connected_anew_while_it_is_shut_down(hyps_hub: MemoryHub) -> None:
    client = hyps.connect(hyps_hub.url)
    await client.connect()
    async with anyio.create_task_group() as tasks:
        hyps_hub.stall()
        client.publish_nowait("a", b"")
        closing = begin(tasks, client.shutdown)
        await let_others_run()
        await client.connect()
        events = client.events()
        hyps_hub.resume()
        await closing.get()
        with anyio.fail_after(PATIENCE):
            assert await anext(events) == Connected(hyps_hub.url)
        assert client.connected
    await client.shutdown()


def test_a_hub_in_memory_for_one_event_loop_after_the_other() -> None:
    async def go_round(url: str) -> Message:
        async with hyps.connect(url) as client, client.subscribe("a") as subscription:
            await client.publish("a", b"1")
            return await subscription.receive()

    with MemoryHub() as hub:
        for _ in range(2):
            assert anyio.run(go_round, hub.url) == Message("a", b"1")


async def test_gaps_of_several_reasons_are_kept_together(hyps_hub: MemoryHub) -> None:
    async with (
        hyps.connect(hyps_hub.url, reconnect_max_delay=0.01) as client,
        client.subscribe("a", gaps=True, max_messages=1) as subscription,
        client.subscribe("a") as neighbour,
    ):
        await client.publish("a", b"0")
        for _ in range(20):
            hyps_hub.drop_next(1)
            await client.publish_many([("a", b"dropped"), ("a", b"no room")])
        await wait_until(lambda: subscription.missed == 40)
        for _ in range(20):
            assert (await neighbour.receive()).data in (b"0", b"no room")
        assert await subscription.receive_many() == [
            Message("a", b"0"),
            Gap("a", 20, "hub"),
            Gap("a", 20, "client"),
        ]
