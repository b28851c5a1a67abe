"""``hyps.testing``: each fault does what it says, and the fixture is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import begin, let_others_run, numbered, reason_of_loss, take_data, wait_until

import hyps
from hyps import Connected, Disconnected, Gap, Message, Reconnected
from hyps.protocol import Limits
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(hyps_hub: MemoryHub, anyio_backend: object) -> AsyncIterator[hyps.Client]:
    async with hyps.connect(hyps_hub.url, reconnect_max_delay=0.01) as client:
        yield client


async def test_without_a_fault_it_is_a_hub(hyps_hub: MemoryHub, client: hyps.Client) -> None:
    async with client.subscribe("a") as subscription:
        await client.publish("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]
    assert hyps_hub.broker.published == 1
    assert len(hyps_hub.connections) == 1


async def test_two_hubs_are_not_the_same() -> None:
    with MemoryHub() as first, MemoryHub(token="secret") as second:
        async with hyps.connect(first.url), hyps.connect(first.url):
            assert len(first.broker.sessions) == 2
            with pytest.raises(hyps.AuthenticationFailed):
                await hyps.connect(second.url).connect()
            async with hyps.connect(second.url, token="secret"):
                assert len(second.broker.sessions) == 1
        assert first.connections == ()


async def test_it_is_gone_when_it_was_left() -> None:
    with MemoryHub() as hub:
        client = hyps.connect(hub.url)
        await client.connect()
    await reason_of_loss(client)
    await client.shutdown()


async def test_a_stalled_connection_holds_both_directions(
    hyps_hub: MemoryHub, client: hyps.Client
) -> None:
    async with client.subscribe("a") as subscription, hyps.connect(hyps_hub.url) as publisher:
        stalled, _ = hyps_hub.connections
        stalled.stall()
        await publisher.publish("a", b"1")
        async with anyio.create_task_group() as tasks:
            publishing = begin(tasks, client.publish, "a", b"2")
            await let_others_run()
            assert hyps_hub.broker.published == 1
            with pytest.raises(hyps.WouldBlock):
                subscription.receive_nowait()
            stalled.resume()
            await publishing.get()
        assert await take_data(subscription, 2) == [b"1", b"2"]


async def test_a_stall_can_overflow_the_buffer_at_the_hub() -> None:
    with MemoryHub(limits=Limits(max_buffer=1_000)) as hub:
        async with (
            hyps.connect(hub.url) as reader,
            hyps.connect(hub.url) as publisher,
            reader.subscribe("a", gaps=True) as subscription,
        ):
            hub.connections[0].stall()
            while not hub.broker.missed:
                await publisher.publish("a", bytes(500))
            hub.resume()
            received = 0
            while not isinstance(item := await subscription.receive(), Gap):
                received += 1
            assert item == Gap("a", hub.broker.missed, "hub")
            assert received + subscription.missed == hub.broker.published


async def test_cut_and_restored(hyps_hub: MemoryHub, client: hyps.Client) -> None:
    events = client.events()
    assert await anext(events) == Connected(hyps_hub.url)
    async with (
        client.subscribe("a", gaps=True) as subscription,
        hyps.connect(hyps_hub.url) as publisher,
    ):
        await publisher.publish("a", b"1")
        assert await subscription.receive() == Message("a", b"1")
        mine, _ = hyps_hub.connections
        mine.cut()
        assert isinstance(await anext(events), Disconnected)
        assert await anext(events) == Reconnected(hyps_hub.url)

        hyps_hub.cut()
        assert isinstance(await anext(events), Disconnected)
        await let_others_run()
        assert not client.connected
        with pytest.raises(hyps.ConnectionRefused, match="cut off"):
            await hyps.connect(hyps_hub.url).connect()
        hyps_hub.restore()
        # Before that it may say why it could not connect again.
        while isinstance(event := await anext(events), Disconnected):
            assert "cut off" in event.reason
        assert event == Reconnected(hyps_hub.url)
        await client.publish("a", b"2")
        assert await subscription.receive() == Message("a", b"2")
        assert subscription.missed == 0


async def test_neither_messages_nor_time_go_backwards(hyps_hub: MemoryHub) -> None:
    with pytest.raises(ValueError, match="-1 messages"):
        hyps_hub.drop_next(-1)
    with pytest.raises(ValueError, match="go back by 1"):
        hyps_hub.advance_clock(-1)


async def test_restarted(hyps_hub: MemoryHub, client: hyps.Client) -> None:
    async with client.subscribe("a", gaps=True) as subscription:
        hyps_hub.restart()
        assert await subscription.receive() == Gap("a", None, "reconnect")
        assert subscription.missed_unknown
        await client.publish("a", b"1")
        assert await subscription.receive() == Message("a", b"1")
        assert hyps_hub.broker.published == 1


async def test_the_next_messages_are_dropped(hyps_hub: MemoryHub, client: hyps.Client) -> None:
    async with client.subscribe("a", "b", gaps=True) as subscription:
        hyps_hub.drop_next(3)
        await client.publish_many([*numbered("a", 2), *numbered("b", 1), *numbered("a", 2)])
        expected = [
            Gap("a", 2, "hub"),
            Gap("b", 1, "hub"),
            Message("a", b"0"),
            Message("a", b"1"),
        ]
        assert [await subscription.receive() for _ in range(4)] == expected
        hyps_hub.drop_next(0)
        await client.publish("a", b"2")
        assert await subscription.receive() == Message("a", b"2")


async def test_a_gap_is_told_when_nothing_follows(hyps_hub: MemoryHub, client: hyps.Client) -> None:
    async with client.subscribe("a", gaps=True) as subscription:
        hyps_hub.drop_next(1)
        await client.publish("a", b"1")
        assert await subscription.receive() == Gap("a", 1, "hub")


async def test_time_that_goes_by_in_a_stall_ends_the_connection(
    hyps_hub: MemoryHub, client: hyps.Client
) -> None:
    heartbeat = hyps_hub.broker.limits.heartbeat
    hyps_hub.freeze_clock()
    hyps_hub.stall()
    # The PING after the first interval is not answered.
    hyps_hub.advance_clock(heartbeat)
    await let_others_run()
    assert client.connected
    hyps_hub.advance_clock(heartbeat)
    assert "nothing from the hub" in await reason_of_loss(client)
    hyps_hub.resume()
    await wait_until(lambda: client.connected)


async def test_time_that_goes_by_is_nothing_to_a_sound_connection(
    hyps_hub: MemoryHub, client: hyps.Client
) -> None:
    hyps_hub.freeze_clock()
    for _ in range(10):
        hyps_hub.advance_clock(hyps_hub.broker.limits.heartbeat / 2)
        await let_others_run()
    assert client.connected
    hyps_hub.thaw_clock()
    hyps_hub.thaw_clock()
    await client.publish("a", b"")


async def test_channels_are_forgotten_as_time_goes_by(
    hyps_hub: MemoryHub, client: hyps.Client
) -> None:
    async with client.subscribe("a"):
        pass
    await client.flush()
    assert hyps_hub.broker.kept == 1
    for _ in range(3):
        hyps_hub.advance_clock(hyps_hub.broker.limits.keep_time)
    assert hyps_hub.broker.kept == 0
