"""Subscriptions that nobody refers to any more, and were never left."""

from __future__ import annotations

import gc
import warnings
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import begin, let_others_run, memory_client, numbered, take_data, wait_until

import hyps

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.anyio

NEVER_LEFT = "a subscription was never left"


async def enter(client: hyps.Client, *channels: str) -> hyps.Subscription:
    return await client.subscribe(*channels).__aenter__()


async def test_it_warns_and_is_left() -> None:
    async with hyps.Server(port=0) as server, hyps.connect(server.urls[0]) as client:
        held = [await enter(client, "a", "b")]
        async with client.subscribe("b", "c") as other:
            with pytest.warns(ResourceWarning, match=rf"{NEVER_LEFT} \(channels: a, b\)"):
                held.clear()
            await wait_until(lambda: server.broker.channels == 2)
            await client.publish("b", "1")
            assert await take_data(other, 1) == [b"1"]


async def test_it_is_left_when_another_thread_collects_it() -> None:
    async with hyps.Server(port=0) as server, hyps.connect(server.urls[0]) as client:
        held = [await enter(client, "a")]
        with pytest.warns(ResourceWarning, match=NEVER_LEFT):
            await anyio.to_thread.run_sync(held.clear)
        await wait_until(lambda: server.broker.channels == 0)


async def test_one_with_more_channels_than_a_socket_takes_at_once() -> None:
    async with hyps.Server(port=0) as server, hyps.connect(server.urls[0]) as client:
        events = client.events()
        assert isinstance(await anext(events), hyps.Connected)
        names = [f"{number:06}{'n' * 200}" for number in range(30_000)]
        held = [await enter(client)]
        for start in range(0, len(names), 500):
            await held[0].subscribe(*names[start : start + 500])
        assert server.broker.channels == len(names)
        with pytest.warns(ResourceWarning, match=NEVER_LEFT):
            held.clear()
        await wait_until(lambda: server.broker.channels == 0)
        await client.publish("still", "here")
    # It was the same connection all the time.
    assert [type(event) async for event in events] == [hyps.Disconnected]


async def test_messages_may_arrive_meanwhile() -> None:
    async with memory_client() as client, client.subscribe("a") as other:
        held = [await enter(client, "a") for _ in range(10)]
        client.publish_nowait("a", "1")
        with pytest.warns(ResourceWarning, match=NEVER_LEFT):
            held.clear()
        assert await take_data(other, 1) == [b"1"]
        await client.flush()


async def test_the_log_is_told_what_it_missed(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_client() as client:
        held = [await client.subscribe("a", max_messages=1).__aenter__()]
        await client.publish_many(numbered("a", 3))
        with pytest.warns(ResourceWarning, match=NEVER_LEFT):
            held.clear()
    assert "messages missed: 2 " in caplog.text


async def never_enter(client: hyps.Client) -> None:
    client.subscribe("a")


async def leave(client: hyps.Client) -> None:
    async with client.subscribe("a"):
        pass


async def fail_to_enter(client: hyps.Client) -> None:
    with pytest.raises(hyps.InvalidChannel):
        await client.subscribe("bad\nchannel").__aenter__()


async def be_cancelled_while_entering(client: hyps.Client) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.subscribe("a").__aenter__()


async def shut_down(client: hyps.Client) -> None:
    subscription = await enter(client, "a")
    await client.shutdown()
    del subscription


async def make_it_wrong(client: hyps.Client) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        client.subscribe("a", max_messages=0)


async def stream(client: hyps.Client) -> AsyncGenerator[bytes, None]:
    async with client.subscribe("a") as subscription:
        yield b"subscribed"
        async for message in subscription:
            yield message.data


async def close_a_generator(client: hyps.Client) -> None:
    async with aclosing(stream(client)) as generator:
        await anext(generator)


async def drop_a_generator(client: hyps.Client) -> None:
    # The event loop closes it, which leaves the subscription.
    generator = stream(client)
    await anext(generator)
    del generator
    gc.collect()
    await let_others_run()


async def use_it_without_a_name(client: hyps.Client) -> None:
    async with client.subscribe("a"):
        gc.collect()
        await let_others_run()


async def read_in_a_task_that_nobody_knows(client: hyps.Client) -> None:
    async def read_all() -> None:
        async with client.subscribe("a") as subscription:
            async for _ in subscription:
                gc.collect()

    async with anyio.create_task_group() as tasks:
        reading = begin(tasks, read_all)
        await let_others_run()
        gc.collect()
        await client.publish("a", "1")
        await client.shutdown()
        await reading.get()


@pytest.fixture
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(one.message) for one in caught if NEVER_LEFT in str(one.message)] == []


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.parametrize(
    "use",
    [
        never_enter,
        leave,
        fail_to_enter,
        be_cancelled_while_entering,
        shut_down,
        make_it_wrong,
        close_a_generator,
        drop_a_generator,
        use_it_without_a_name,
        read_in_a_task_that_nobody_knows,
    ],
)
async def test_subscriptions_that_were_left_do_not_warn(
    no_warning: None, use: Callable[[hyps.Client], Awaitable[None]]
) -> None:
    async with hyps.Server(port=0) as server, hyps.connect(server.urls[0]) as client:
        await use(client)
        await wait_until(lambda: server.broker.channels == 0)


async def test_leaving_what_was_never_entered_is_a_clear_error() -> None:
    async with memory_client() as client:
        with pytest.raises(RuntimeError, match="enter the subscription first"):
            await client.subscribe("a").__aexit__(None, None, None)
