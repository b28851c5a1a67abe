"""Waiting for a number of messages: ``receive_many(at_least=n)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio
import pytest
from support.helpers import READERS, begin, let_others_run, memory_client, numbered, take_data
from support.peers import connected_to_script

import hyps
from hyps import Gap, Message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from support.helpers import Outcome, Read

    Overflow: TypeAlias = Literal["drop_newest", "drop_oldest", "latest", "close"]

pytestmark = pytest.mark.anyio


def data_of(items: Sequence[Message | Gap]) -> list[bytes]:
    return [item.data for item in items if isinstance(item, Message)]


async def check_waits(receiving: Outcome[list[Message]]) -> None:
    await let_others_run()
    assert not receiving.is_known


async def test_it_waits_for_so_many_and_gives_all_that_are_there() -> None:
    async with (
        memory_client() as client,
        client.subscribe("a") as subscription,
        anyio.create_task_group() as tasks,
    ):
        receiving = begin(tasks, subscription.receive_many, 3)
        for number in range(2):
            await client.publish("a", str(number))
            await check_waits(receiving)
        await client.publish_many([("a", "2"), ("a", "3")])
        assert data_of(await receiving.get()) == [b"0", b"1", b"2", b"3"]
        # What is there already counts, also of a run that was begun.
        await client.publish_many(numbered("a", 5))
        await subscription.receive()
        assert len(await subscription.receive_many(at_least=4)) == 4


@pytest.mark.parametrize("at_least", [0, -1, 6])
async def test_it_cannot_wait_for_what_the_buffer_does_not_hold(at_least: int) -> None:
    async with memory_client() as client, client.subscribe("a", max_messages=5) as subscription:
        await client.publish_many(numbered("a", 5))
        with pytest.raises(ValueError, match="from 1 to max_messages=5"):
            await subscription.receive_many(at_least)
        assert len(await subscription.receive_many(5)) == 5


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "latest", "close"])
async def test_a_buffer_that_is_full_of_bytes_ends_the_wait(overflow: Overflow) -> None:
    async with (
        memory_client() as client,
        client.subscribe("a", "b", "c", overflow=overflow, max_bytes=1_000) as subscription,
        anyio.create_task_group() as tasks,
    ):
        receiving = begin(tasks, subscription.receive_many, 100)
        for channel in "ab":
            await client.publish(channel, bytes(400))
            await check_waits(receiving)
        await client.publish("c", bytes(400))
        assert 1 <= len(await receiving.get()) <= 2
        assert subscription.missed == 1


async def test_an_overflow_of_long_ago_does_not_end_the_wait() -> None:
    async with (
        memory_client() as client,
        client.subscribe("a", max_messages=2) as subscription,
        anyio.create_task_group() as tasks,
    ):
        await client.publish_many(numbered("a", 3))
        await take_data(subscription, 2)
        receiving = begin(tasks, subscription.receive_many, 2)
        await client.publish("a", "3")
        await check_waits(receiving)
        await client.publish("a", "4")
        assert data_of(await receiving.get()) == [b"3", b"4"]


async def test_latest_waits_for_so_many_channels() -> None:
    async with (
        memory_client() as client,
        client.subscribe("a", "b", overflow="latest") as subscription,
        anyio.create_task_group() as tasks,
    ):
        receiving = begin(tasks, subscription.receive_many, 2)
        await client.publish_many(numbered("a", 3))
        await check_waits(receiving)
        await client.publish("b", "0")
        assert data_of(await receiving.get()) == [b"2", b"0"]


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "latest"])
async def test_gaps_count_where_they_are_yielded(overflow: Overflow) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        with_gaps = await session.enter(
            client.subscribe("a", "b", gaps=True, overflow=overflow), "a", "b"
        )
        async with client.subscribe("a", "b", overflow=overflow) as without:
            first = begin(tasks, with_gaps.receive_many, 2)
            second = begin(tasks, without.receive_many, 2)
            await session.gap("a", b"script:3")
            await let_others_run()
            assert not first.is_known
            await session.deliver("b", b"1")
            assert set(map(type, await first.get())) == {Gap, Message}
            await check_waits(second)
            await session.deliver("a", b"4")
            assert sorted(data_of(await second.get())) == [b"1", b"4"]


@pytest.mark.parametrize("is_shut_down", [True, False])
async def test_the_end_gives_what_there_is_and_then_raises(is_shut_down: bool) -> None:
    async with memory_client() as client, anyio.create_task_group() as tasks:
        subscription = await client.subscribe("a").__aenter__()
        receiving = begin(tasks, subscription.receive_many, 5)
        await client.publish_many(numbered("a", 2))
        await check_waits(receiving)
        if is_shut_down:
            await client.shutdown()
        else:
            await subscription.__aexit__(None, None, None)
        assert data_of(await receiving.get()) == [b"0", b"1"]
        with pytest.raises(hyps.SubscriptionClosed):
            await subscription.receive_many(5)


async def test_cancelling_it_loses_nothing() -> None:
    async with memory_client() as client, client.subscribe("a") as subscription:
        await client.publish_many(numbered("a", 2))
        async with anyio.create_task_group() as tasks:
            receiving = begin(tasks, subscription.receive_many, 3)
            await check_waits(receiving)
            await receiving.cancel()
        assert data_of(await subscription.receive_many(2)) == [b"0", b"1"]


@pytest.mark.parametrize("read", READERS)
async def test_a_second_reader_is_refused(read: Read) -> None:
    async with (
        memory_client() as client,
        client.subscribe("a") as subscription,
        anyio.create_task_group() as tasks,
    ):
        receiving = begin(tasks, subscription.receive_many, 2)
        await check_waits(receiving)
        await client.publish("a", "0")
        with pytest.raises(anyio.BusyResourceError):
            await read(subscription)
        await client.publish("a", "1")
        assert len(await receiving.get()) == 2


async def test_before_entering_it_is_a_clear_error() -> None:
    async with memory_client() as client:
        with pytest.raises(RuntimeError, match="enter the subscription first"):
            await client.subscribe("a").receive_many(2)
