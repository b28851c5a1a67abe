"""Waiting for the first hub: in the call that connects, and in the background."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import audited, begin, let_others_run, wait_until, warned
from support.peers import frame, scripted_hub

import hyps
from hyps import Connected, Disconnected, Message
from hyps.protocol import Kind
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def hub() -> Iterator[MemoryHub]:
    """A hub that refuses connections, until it is restored."""
    with MemoryHub() as hub:
        hub.cut()
        yield hub


async def test_connecting_waits_for_the_first_hub(
    hub: MemoryHub, caplog: pytest.LogCaptureFixture
) -> None:
    client = hyps.connect(hub.url, wait=True, reconnect_max_delay=0.001)
    events = client.events()
    async with anyio.create_task_group() as tasks:
        connecting = begin(tasks, client.connect)
        await wait_until(lambda: "cut off" in repr(client))
        await let_others_run(100)
        assert not client.connected
        hub.restore()
        await connecting.get()
    assert client.connected
    await client.shutdown()
    # Each reason is told once, however many attempts there are.
    assert warned(caplog, "hyps.client") == [
        f"cannot connect: no hub at {hub.url}: it is cut off; trying on"
    ]
    assert [event async for event in events] == [
        Disconnected(hub.url, f"no hub at {hub.url}: it is cut off"),
        Connected(hub.url),
        Disconnected(hub.url, "the client was shut down"),
    ]


async def test_waiting_for_the_first_hub_is_cancelled(hub: MemoryHub) -> None:
    client = hyps.connect(hub.url, wait=True, reconnect_max_delay=0.001)
    with anyio.move_on_after(0.01):
        await client.connect()
    hub.restore()
    await let_others_run(100)
    assert not client.connected
    assert hub.connections == ()


async def test_a_refused_token_ends_the_waiting(hub: MemoryHub) -> None:
    hub.restore()
    with MemoryHub(token="secret") as guarded:
        client = hyps.connect(guarded.url, token="wrong", wait=True)
        with pytest.raises(hyps.AuthenticationFailed):
            await client.connect()
        assert not client.connected


async def test_operations_wait_for_a_connection_in_the_background(hub: MemoryHub) -> None:
    client = hyps.connect(hub.url, reconnect_max_delay=0.001)
    client.connect_nowait()
    async with anyio.create_task_group() as tasks:
        subscription = client.subscribe("a")
        entering = begin(tasks, subscription.__aenter__)
        publishing = begin(tasks, client.publish, "b", b"")
        await let_others_run(50)
        hub.restore()
        await entering.get()
        await publishing.get()
    await client.publish("a", b"1")
    assert await subscription.receive() == Message("a", b"1")
    await client.shutdown()


async def test_operations_that_do_not_wait_are_told_why_there_is_no_hub(hub: MemoryHub) -> None:
    client = hyps.connect(hub.url, when_disconnected="raise", reconnect_max_delay=0.001)
    client.connect_nowait()
    await wait_until(lambda: "cut off" in repr(client))
    with pytest.raises(hyps.ConnectionLost, match="cut off"):
        await client.publish("a", b"")
    await client.shutdown()


async def test_connecting_in_the_background_does_nothing_twice(hub: MemoryHub) -> None:
    hub.restore()
    client = hyps.connect(hub.url)
    client.connect_nowait()
    client.connect_nowait()
    await client.connect()
    assert len(hub.connections) == 1
    client.connect_nowait()
    await client.publish("a", b"")
    assert len(hub.connections) == 1
    await client.shutdown()


async def test_a_refused_token_is_tried_again_in_the_background(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted_hub() as hub:
        client = hyps.connect(hub.url, token="old", reconnect_max_delay=0.01)
        client.connect_nowait()
        for _ in range(3):
            session = await hub.accept()
            await session.expect(Kind.HELLO)
            await session.send(frame(Kind.ERROR, code="auth", message="not now"))
            await session.stream.aclose()
        session = await hub.accept()
        await session.welcome()
        await client.connect()
        assert client.connected
        await hub.close()
        await client.shutdown()
    assert [text for text in warned(caplog, "hyps.client") if "not now" in text] == [
        f"cannot connect: the hub at {hub.url} refused (auth): not now; trying on"
    ]


async def test_shutting_down_ends_the_waiting(hub: MemoryHub) -> None:
    client = hyps.connect(hub.url, wait=True, reconnect_max_delay=0.001)
    async with anyio.create_task_group() as tasks:
        connecting = begin(tasks, client.connect)
        await wait_until(lambda: "cut off" in repr(client))
        await client.shutdown()
        with pytest.raises(hyps.ConnectionLost, match="shut down"):
            await connecting.get()


async def test_the_log_of_the_hub_calls_a_client_by_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "hyps.audit")
    with MemoryHub() as hub:
        async with hyps.connect(hub.url, name="worker-3"):
            pass
        await wait_until(lambda: not hub.connections)
    [opened] = audited(caplog, "session opened")
    assert opened["client"] == "worker-3"


@pytest.mark.parametrize("name", ["", "\udc80", "a\nb", "x" * 201])
async def test_a_name_that_cannot_be_sent(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        hyps.connect("memory://nobody", name=name)


# Ending all subscriptions


async def test_all_subscriptions_end_and_publishing_goes_on() -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url) as client:
            async with client.subscribe("a") as one, client.subscribe("a", "b") as other:
                await client.publish("a", b"1")
                client.end_subscriptions()
                # What is in the buffer can still be read.
                assert [message.data async for message in one] == [b"1"]
                assert [message.data async for message in other] == [b"1"]
            await client.publish("a", b"2")
            assert hub.broker.channels == 0
            with pytest.raises(hyps.SubscriptionClosed):
                await client.subscribe("a").__aenter__()
            client.end_subscriptions()
        # Connected anew it has subscriptions again.
        async with client, client.subscribe("a") as again:
            await client.publish("a", b"3")
            assert (await again.receive()).data == b"3"
    client.end_subscriptions()


async def test_another_thread_may_end_them() -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url) as client, client.subscribe("a") as subscription:
            await anyio.to_thread.run_sync(client.end_subscriptions)
            assert [message async for message in subscription] == []


async def test_subscriptions_that_wait_for_a_hub_end_too(hub: MemoryHub) -> None:
    client = hyps.connect(hub.url, reconnect_max_delay=0.001)
    client.connect_nowait()
    async with anyio.create_task_group() as tasks:
        entering = begin(tasks, client.subscribe("a").__aenter__)
        publishing = begin(tasks, client.publish, "a", b"")
        await let_others_run(50)
        client.end_subscriptions()
        with pytest.raises(hyps.SubscriptionClosed):
            await entering.get()
        hub.restore()
        await publishing.get()
    await client.shutdown()


async def test_leaving_a_subscription_at_once() -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url) as client:
            subscription = client.subscribe("a")
            with pytest.raises(RuntimeError, match="enter the subscription first"):
                subscription.leave()
            async with subscription:
                await client.publish("a", b"1")
                subscription.leave()
                subscription.leave()
                assert [message.data async for message in subscription] == [b"1"]
            await client.flush()
            assert hub.broker.channels == 0


async def test_names_can_be_checked_before_the_subscription_is_entered() -> None:
    client = hyps.connect("memory://nobody")
    client.subscribe("good").check_channels()
    with pytest.raises(hyps.InvalidChannel):
        client.subscribe("good", "a\nb").check_channels()
    with pytest.raises(TypeError, match="subscribe"):
        client.subscribe(["a"]).check_channels()  # type: ignore[call-overload]


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "latest", "close"])
async def test_a_subscription_tells_its_policy(overflow: Any) -> None:
    assert hyps.connect("memory://nobody").subscribe("a", overflow=overflow).overflow == overflow
