"""Reading from a subscription, and changing its channels meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import (
    READERS,
    begin,
    holds,
    let_others_run,
    memory_client,
    numbered,
    take_data,
    wait_until,
)
from support.peers import connected_to_script

import hyps
from hyps.protocol import encode, records

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.helpers import Read

pytestmark = pytest.mark.anyio

#: The wire's own example.
RECORD = b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n"


async def test_receive() -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        await client.publish("foo_ch", b"foo_msg")
        message = await subscription.receive()
        assert message == hyps.Message("foo_ch", b"foo_msg")
        assert (message.channel, message.data) == ("foo_ch", b"foo_msg")


async def test_receive_nowait() -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        with pytest.raises(hyps.WouldBlock):
            subscription.receive_nowait()
        await client.publish_many(numbered("foo_ch", 3))
        found = [subscription.receive_nowait().data for _ in range(3)]
        assert found == [b"0", b"1", b"2"]
        with pytest.raises(anyio.WouldBlock):
            subscription.receive_nowait()


async def test_receive_many_gives_all_that_is_there() -> None:
    async with memory_client() as client, client.subscribe("a", "b") as subscription:
        await client.publish_many(numbered("a", 3))
        await client.publish_many(numbered("b", 2))
        found = await subscription.receive_many()
        assert [(message.channel, message.data) for message in found] == [
            *numbered("a", 3),
            *numbered("b", 2),
        ]
        # It waits for at least one.
        async with anyio.create_task_group() as tasks:
            receiving = begin(tasks, subscription.receive_many)
            await let_others_run()
            assert not receiving.is_known
            await client.publish("a", b"last")
            assert await receiving.get() == [hyps.Message("a", b"last")]


async def test_receive_raw_gives_the_same_as_records() -> None:
    async with memory_client() as client, client.subscribe("foo_ch", "b") as subscription:
        await client.publish("foo_ch", b"foo_msg")
        assert await subscription.receive_raw() == RECORD
        await client.publish_many([*numbered("foo_ch", 3), *numbered("b", 2)])
        assert list(records(await subscription.receive_raw())) == [
            *numbered("foo_ch", 3),
            *numbered("b", 2),
        ]
        async with anyio.create_task_group() as tasks:
            receiving = begin(tasks, subscription.receive_raw)
            await let_others_run()
            assert not receiving.is_known
            await client.publish("foo_ch", b"foo_msg")
            assert await receiving.get() == RECORD


async def test_the_ways_to_read_can_be_mixed() -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        for _ in range(2):
            await client.publish_many(numbered("foo_ch", 4))
        assert subscription.receive_nowait().data == b"0"
        assert (await subscription.receive()).data == b"1"
        raw = await subscription.receive_raw()
        assert raw == b"".join(
            encode("foo_ch", data) for data in (b"2", b"3", b"0", b"1", b"2", b"3")
        )
        with pytest.raises(hyps.WouldBlock):
            subscription.receive_nowait()
        await client.publish_many(numbered("foo_ch", 4))
        assert (await subscription.receive()).data == b"0"
        await client.publish("foo_ch", b"4")
        many = await subscription.receive_many()
        assert [message.data for message in many] == [b"1", b"2", b"3", b"4"]
        await client.publish("foo_ch", b"5")
        assert await take_data(subscription, 1) == [b"5"]


async def _publish_together(client: hyps.Client) -> None:
    await client.publish_many([("a", b""), ("b", b"")] * 4_500)


async def _publish_apart(client: hyps.Client) -> None:
    for _ in range(500):
        await client.publish_many([("a", b""), ("b", b"")])


@pytest.mark.parametrize(
    ("publish", "count"), [(_publish_together, 9_000), (_publish_apart, 1_000)]
)
async def test_reading_lets_others_run(
    publish: Callable[[hyps.Client], Awaitable[None]], count: int
) -> None:
    async with memory_client() as client, client.subscribe("a", "b") as subscription:
        await publish(client)
        others_ran = anyio.Event()

        async def other() -> None:
            others_ran.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            read = 0
            while not others_ran.is_set():
                await subscription.receive()
                read += 1
        assert read < count


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("first", READERS)
async def test_a_second_reader_is_a_clear_error(first: Read, read: Read) -> None:
    async with (
        memory_client() as client,
        client.subscribe("foo_ch") as subscription,
        anyio.create_task_group() as tasks,
    ):
        reading = begin(tasks, first, subscription)
        await let_others_run()
        with pytest.raises(anyio.BusyResourceError):
            await read(subscription)
        # The first one is not disturbed.
        await client.publish("foo_ch", b"")
        await reading.get()


async def test_a_second_reader_does_not_end_the_first_ones_iteration() -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:

        async def read_all() -> list[bytes]:
            return [message.data async for message in subscription]

        async with anyio.create_task_group() as tasks:
            reading = begin(tasks, read_all)
            await let_others_run()
            for number in range(20):
                client.publish_nowait("foo_ch", str(number))
                # Whether it finds a message or is told that there is another reader.
                for _ in range(20):
                    try:
                        subscription.receive_nowait()
                    except (hyps.WouldBlock, anyio.BusyResourceError):
                        pass
                    await let_others_run(1)
                assert not reading.is_known
            await client.shutdown()
            await reading.get()


async def test_reading_one_after_the_other_is_fine() -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        await client.publish_many(numbered("foo_ch", 10))
        async with anyio.create_task_group() as tasks:
            found = [(await begin(tasks, subscription.receive).get()).data for _ in range(10)]
        assert found == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("read", READERS)
async def test_reading_before_entering_is_a_clear_error(read: Read) -> None:
    async with memory_client() as client:
        with pytest.raises(RuntimeError, match="enter the subscription first"):
            await read(client.subscribe("foo_ch"))


async def test_changing_channels_before_entering_is_a_clear_error() -> None:
    async with memory_client() as client:
        subscription = client.subscribe("foo_ch")
        for change in (subscription.subscribe, subscription.unsubscribe):
            with pytest.raises(RuntimeError, match="enter the subscription first"):
                await change("foo_ch")


async def test_a_subscription_is_entered_once() -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        with pytest.raises(RuntimeError, match="entered before"):
            async with subscription:
                raise AssertionError("it was entered")
        # It still works.
        await client.publish("foo_ch", b"")
        await subscription.receive()


@pytest.mark.parametrize("bounds", [{"max_messages": 0}, {"max_bytes": 0}, {"max_messages": -1}])
async def test_bounds_must_be_positive(bounds: Any) -> None:
    async with memory_client() as client:
        with pytest.raises(ValueError, match="must be positive"):
            client.subscribe("foo_ch", **bounds)


async def test_channels_come_and_go_while_they_are_read(client: hyps.Client) -> None:
    async with client.subscribe("a") as subscription, anyio.create_task_group() as tasks:
        assert subscription.channels == {"a"}
        reading = begin(tasks, subscription.receive)
        await let_others_run()
        await subscription.subscribe("b", "c")
        assert subscription.channels == {"a", "b", "c"}
        await client.publish("c", b"1")
        assert await reading.get() == hyps.Message("c", b"1")
        reading = begin(tasks, subscription.receive)
        await let_others_run()
        await subscription.unsubscribe("a", "c")
        assert subscription.channels == {"b"}
        await client.publish_many([("a", b"2"), ("c", b"3"), ("b", b"4")])
        assert await reading.get() == hyps.Message("b", b"4")


@pytest.mark.native_wire
async def test_a_subscription_may_begin_and_end_without_channels(
    server: hyps.Server, client: hyps.Client
) -> None:
    async with client.subscribe() as subscription:
        assert subscription.channels == frozenset()
        await subscription.subscribe()
        await subscription.unsubscribe()
        await subscription.subscribe("a")
        await client.publish("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        await subscription.unsubscribe("a")
        await client.publish("a", b"2")
        await subscription.subscribe("a")
        await client.publish("a", b"3")
        assert await take_data(subscription, 1) == [b"3"]
    await wait_until(lambda: server.broker.channels == 0)


async def test_what_was_buffered_stays_when_its_channel_is_left(client: hyps.Client) -> None:
    async with client.subscribe("a", "b") as subscription:
        await client.publish_many([("a", b"1"), ("b", b"2")])
        await subscription.unsubscribe("a")
        await client.publish("a", b"3")
        assert await take_data(subscription, 2) == [b"1", b"2"]
        with pytest.raises(hyps.WouldBlock):
            subscription.receive_nowait()


async def test_subscribing_again_and_leaving_again_are_harmless(
    server: hyps.Server, client: hyps.Client
) -> None:
    async with client.subscribe("a", "a", "b") as subscription:
        await subscription.subscribe("a", "b", "a")
        assert subscription.channels == {"a", "b"}
        await client.publish("a", b"once")
        await client.publish("b", b"end")
        assert await take_data(subscription, 2) == [b"once", b"end"]
        await subscription.unsubscribe("a", "a", "never subscribed")
        await subscription.unsubscribe("a")
        assert subscription.channels == {"b"}
        assert holds(server, 1)


async def test_missed_at_the_hub_is_counted() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = client.subscribe("a", "b")
        entering = begin(tasks, subscription.__aenter__)
        await session.grant("a", "b")
        await entering.get()
        other = client.subscribe("b")
        await other.__aenter__()
        await session.deliver("a", b"1")
        await session.gap("a", b"script:3")
        await session.gap("b", b"script:5")
        await session.gap("nobody's", b"script:5")
        await session.deliver("a", b"4")
        assert await take_data(subscription, 2) == [b"1", b"4"]
        assert (subscription.missed, subscription.missed_unknown) == (2 + 5, False)
        assert (other.missed, other.missed_unknown) == (5, False)
        # Another generation: how many were missed cannot be known.
        await session.gap("b", b"other:7")
        await session.deliver("b", b"8")
        assert await take_data(subscription, 1) == [b"8"]
        assert (subscription.missed, subscription.missed_unknown) == (2 + 5, True)
        assert (other.missed, other.missed_unknown) == (5, True)
