"""The scenarios of Hyps' own tests, at every transport."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest
from support.helpers import data_of, numbered, take, take_data

import hyps

pytestmark = pytest.mark.anyio

MANY = 1_000


async def test_one_message(url: str) -> None:
    async with hyps.connect(url) as client, client.subscribe("foo_ch") as subscription:
        await client.publish("foo_ch", b"foo_msg")
        assert await subscription.receive() == hyps.Message("foo_ch", b"foo_msg")


async def test_many_messages(url: str) -> None:
    async with hyps.connect(url) as client, client.subscribe("foo_ch") as subscription:
        await client.publish_many(numbered("foo_ch", MANY))
        assert await take_data(subscription, MANY) == data_of(numbered("foo_ch", MANY))


async def test_many_messages_one_by_one(url: str) -> None:
    async with hyps.connect(url) as client, client.subscribe("foo_ch") as subscription:
        for channel, data in numbered("foo_ch", 100):
            await client.publish(channel, data)
        assert await take_data(subscription, 100) == data_of(numbered("foo_ch", 100))


async def test_many_publishers_at_once(url: str) -> None:
    async with hyps.connect(url) as client, client.subscribe("foo_ch") as subscription:
        async with anyio.create_task_group() as tasks:
            for channel, data in numbered("foo_ch", 100):
                tasks.start_soon(client.publish, channel, data)
        found = await take_data(subscription, 100)
        assert sorted(found) == sorted(data_of(numbered("foo_ch", 100)))


async def test_many_channels(url: str) -> None:
    channels = [f"channel {number}" for number in range(MANY)]
    messages = [(channel, channel.upper()) for channel in channels]
    async with hyps.connect(url) as client, client.subscribe(*channels) as subscription:
        await client.publish_many(messages)
        found = await take(subscription, MANY)
    # In the order of publishing, over all channels.
    assert [(message.channel, message.data.decode()) for message in found] == messages


async def test_many_channels_with_many_subscribers(url: str) -> None:
    channels = [f"channel {number}" for number in range(20)]
    async with hyps.connect(url) as client, AsyncExitStack() as stack:
        subscriptions = [
            (channel, await stack.enter_async_context(client.subscribe(channel)))
            for channel in channels * 5
        ]
        await client.publish_many((channel, channel) for channel in channels)
        for channel, subscription in subscriptions:
            assert await take(subscription, 1) == [hyps.Message(channel, channel.encode())]
            with pytest.raises(hyps.WouldBlock):
                subscription.receive_nowait()


async def test_one_channel_with_many_subscribers(url: str) -> None:
    async with hyps.connect(url) as client, AsyncExitStack() as stack:
        subscriptions = [
            await stack.enter_async_context(client.subscribe("foo_ch")) for _ in range(100)
        ]
        await client.publish_many(numbered("foo_ch", 10))
        for subscription in subscriptions:
            assert await take_data(subscription, 10) == data_of(numbered("foo_ch", 10))


async def test_many_clients(url: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(hyps.connect(url)) for _ in range(20)]
        subscriptions = [
            await stack.enter_async_context(client.subscribe("foo_ch")) for client in clients
        ]
        for number, client in enumerate(clients):
            await client.publish("foo_ch", str(number))
        # Each sees all, its own ones too, in the order in which the hub took them.
        for subscription in subscriptions:
            assert await take_data(subscription, 20) == data_of(numbered("foo_ch", 20))


async def test_the_quick_start() -> None:
    found = []
    async with (
        hyps.connect("memory://quick-start") as client,
        client.subscribe("foo_ch", "bar_ch") as subscription,
    ):
        await client.publish("foo_ch", b"foo_msg")
        await subscription.subscribe("baz_ch")
        await subscription.unsubscribe("bar_ch")
        await client.publish_many([("bar_ch", b"not heard"), ("baz_ch", b"baz_msg")])
        async for message in subscription:
            found.append((message.channel, message.data))
            if message.channel == "baz_ch":
                break
    assert found == [("foo_ch", b"foo_msg"), ("baz_ch", b"baz_msg")]
