"""Cancelled calls: nothing is lost by them, and answers stay with those whom they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import (
    READERS,
    begin,
    let_others_run,
    memory_client,
    numbered,
    take_data,
    wait_until,
)
from support.peers import connected_to_script

import hyps
from hyps.protocol import Kind, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.helpers import Read

pytestmark = pytest.mark.anyio


async def test_answers_after_a_cancelled_publish_go_to_the_right_ones() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        outcomes = []
        for data in (b"0", b"1", b"2", b"3"):
            outcomes.append(begin(tasks, client.publish, "foo_ch", data))
            assert await session.expect_messages(Kind.PUBLISH) == [("foo_ch", data)]
        await outcomes[1].cancel()
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"kkdk"))
        await outcomes[0].get()
        with pytest.raises(hyps.PermissionDenied):
            await outcomes[2].get()
        await outcomes[3].get()
        await client.flush()


async def test_the_refusal_of_a_cancelled_publish_is_told_by_flush() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        publishing = begin(tasks, client.publish, "foo_ch", b"")
        await session.expect(Kind.PUBLISH)
        await publishing.cancel()
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"n"))
        with pytest.raises(hyps.InvalidChannel):
            await client.flush()


async def test_the_refusal_of_a_cancelled_publish_many_is_told_by_flush() -> None:
    large = bytes(50_000)
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        publishing = begin(tasks, client.publish_many, [("foo_ch", large)] * 10)
        sent = 0
        while sent < 10:
            sent += len(await session.expect_messages(Kind.PUBLISH))
        await let_others_run()
        await publishing.cancel()
        # Not the first batch but a later one.
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"kkkkkkkkkn"))
        with pytest.raises(hyps.InvalidChannel):
            await client.flush()


async def test_a_cancelled_publish_many_takes_no_more() -> None:
    taken = 0

    def endless() -> Iterator[tuple[str, bytes]]:
        nonlocal taken
        while True:
            taken += 1
            yield "foo_ch", b"data"

    async with memory_client() as client, anyio.create_task_group() as tasks:
        publishing = begin(tasks, client.publish_many, endless())
        await wait_until(lambda: taken > 20_000)
        await publishing.cancel()
        stopped_at = taken
        await client.publish("foo_ch", b"next")
        assert taken == stopped_at


async def test_a_cancelled_flush(client: hyps.Client) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        client.publish_nowait("foo_ch", b"")
        flushing = begin(tasks, client.flush)
        await session.expect(Kind.PUBLISH)
        await flushing.cancel()
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"d"))
        # The error is still there for another one.
        with pytest.raises(hyps.PermissionDenied):
            await client.flush()


@pytest.mark.parametrize("read", READERS)
async def test_a_cancelled_read_loses_nothing(read: Read) -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        async with anyio.create_task_group() as tasks:
            reading = begin(tasks, read, subscription)
            await let_others_run()
            await reading.cancel()
        await client.publish_many(numbered("foo_ch", 3))
        assert await take_data(subscription, 3) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("passes", range(12))
async def test_a_read_that_is_cancelled_as_messages_arrive_loses_nothing(passes: int) -> None:
    found: list[bytes] = []
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        for number in range(10):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel_soon(scope: anyio.CancelScope = scope) -> None:
                        await let_others_run(passes)
                        scope.cancel()

                    client.publish_nowait("foo_ch", str(number))
                    tasks.start_soon(cancel_soon)
                    while True:
                        # No checkpoint stands between taking a message and keeping it.
                        found.append((await subscription.receive()).data)
        await client.publish("foo_ch", b"end")
        while not found or found[-1] != b"end":
            found.append((await subscription.receive()).data)
    assert found == [*(b"%d" % number for number in range(10)), b"end"]


async def test_cancelled_entering_rolls_back() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        entering = begin(tasks, client.subscribe("a", "b").__aenter__)
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a", "b"]
        await entering.cancel()
        assert sorted(await session.expect_channels(Kind.UNSUBSCRIBE)) == ["a", "b"]
        await session.answer_subscribe("a", "b")
        await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"kk"))
        await client.flush()
        # Both can be subscribed again.
        subscription = await session.enter(client.subscribe("b"), "b")
        await session.deliver("b", b"1")
        assert await take_data(subscription, 1) == [b"1"]


@pytest.mark.native_wire
async def test_cancelled_entering_leaves_no_channel_at_the_hub(
    server: hyps.Server, client: hyps.Client
) -> None:
    for passes in range(20):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def enter() -> None:
                    async with client.subscribe("a", "b", "c"):
                        await anyio.sleep_forever()

                tasks.start_soon(enter)
                await let_others_run(passes)
                scope.cancel()
        await client.flush()
        await wait_until(lambda: server.broker.channels == 0)
    await client.publish("a", b"")


async def test_a_cancelled_subscribe_does_not_take_a_channel_from_others() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        first = begin(tasks, client.subscribe("a").__aenter__)
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        second = begin(tasks, client.subscribe("a").__aenter__)
        await let_others_run()
        await first.cancel()
        await session.answer_subscribe("a")
        subscription = await second.get()
        await session.deliver("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]


async def test_a_cancelled_subscribe_does_not_take_a_channel_from_its_own_subscription() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("kept"), "kept")
        first = begin(tasks, subscription.subscribe, "a")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        second = begin(tasks, subscription.subscribe, "a")
        await let_others_run()
        await first.cancel()
        await session.answer_subscribe("a")
        await second.get()
        # The other task was told that it has the channel.
        assert subscription.channels == {"kept", "a"}
        await session.deliver("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]


async def test_a_cancelled_subscribe_rolls_back_only_its_own_channels() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("kept"), "kept")
        subscribing = begin(tasks, subscription.subscribe, "kept", "a")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        await subscribing.cancel()
        assert await session.expect_channels(Kind.UNSUBSCRIBE) == ["a"]
        assert subscription.channels == {"kept"}


async def test_a_cancelled_unsubscribe_is_carried_out() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("a"), "a")
        leaving = begin(tasks, subscription.unsubscribe, "a")
        assert await session.expect_channels(Kind.UNSUBSCRIBE) == ["a"]
        await leaving.cancel()
        assert subscription.channels == frozenset()
        await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"))
        await client.flush()


async def test_the_body_of_every_context_manager_is_cancelled(
    server: hyps.Server, client: hyps.Client
) -> None:
    async with anyio.create_task_group() as tasks:
        is_subscribed = anyio.Event()

        async def listen() -> None:
            async with hyps.connect(server.urls[0]) as other, other.subscribe("a") as subscription:
                is_subscribed.set()
                await subscription.receive()

        listening = begin(tasks, listen)
        await is_subscribed.wait()
        assert server.broker.channels == 1
        await listening.cancel()
        await wait_until(lambda: len(server.broker.sessions) == 1)
        assert server.broker.channels == 0
    await client.publish("a", b"")
