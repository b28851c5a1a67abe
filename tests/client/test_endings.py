"""How an iteration ends: by the user, by shutdown, by a loss, by an exception, by a generator."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import (
    READERS,
    Outcome,
    begin,
    drain,
    let_others_run,
    memory_client,
    numbered,
    take_data,
    wait_until,
)
from support.peers import connected_to_script, scripted_hub

import hyps

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from typing import TypeAlias

    from support.helpers import Read
    from support.peers import Peer

    Drain: TypeAlias = Callable[[hyps.Subscription], Awaitable[list[bytes]]]

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def subscribed(
    channel: str,
) -> AsyncIterator[tuple[Peer, hyps.Subscription, Callable[[], Awaitable[None]]]]:
    """Subscribe a channel at a scripted hub.

    Gives the hub's end, the subscription, and what ends it: the client comes back, and the channel
    is refused.
    """
    async with scripted_hub() as hub:
        client = hyps.connect(hub.url, reconnect_max_delay=0.001)
        async with anyio.create_task_group() as tasks:
            opening = begin(tasks, client.connect)
            session = await hub.accept()
            await session.welcome()
            await opening.get()
        subscription = await session.enter(client.subscribe(channel), channel)

        async def refuse() -> None:
            await session.reset()
            again = await hub.accept()
            await again.welcome()
            await again.grant(channel, answer=b"d")
            await wait_until(lambda: not subscription.channels)

        try:
            yield session, subscription, refuse
        finally:
            await hub.close()
            await client.shutdown()


async def iterate_by_receive(subscription: hyps.Subscription) -> list[bytes]:
    found = []
    with contextlib.suppress(hyps.SubscriptionClosed):
        while True:
            found.append((await subscription.receive()).data)
    return found


async def iterate_by_receive_nowait(subscription: hyps.Subscription) -> list[bytes]:
    found = []
    with contextlib.suppress(hyps.SubscriptionClosed):
        while True:
            found.append(subscription.receive_nowait().data)
    return found


async def iterate_by_receive_many(subscription: hyps.Subscription) -> list[bytes]:
    found = []
    with contextlib.suppress(hyps.SubscriptionClosed):
        while True:
            found += [message.data for message in await subscription.receive_many()]
    return found


DRAINS = [drain, iterate_by_receive, iterate_by_receive_nowait, iterate_by_receive_many]


@pytest.mark.parametrize("iterate", DRAINS)
async def test_after_the_users_own_exit_what_is_buffered_comes_first(iterate: Drain) -> None:
    async with memory_client() as client:
        async with client.subscribe("foo_ch") as subscription:
            await client.publish_many(numbered("foo_ch", 3))
        await client.publish("foo_ch", b"too late")
        assert await iterate(subscription) == [b"0", b"1", b"2"]
        # The end stays the end.
        assert await iterate(subscription) == []


@pytest.mark.parametrize("iterate", DRAINS)
async def test_after_shutdown_what_is_buffered_comes_first(iterate: Drain) -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        await client.publish_many(numbered("foo_ch", 3))
        await client.shutdown()
        assert await iterate(subscription) == [b"0", b"1", b"2"]
        assert await iterate(subscription) == []


@pytest.mark.parametrize("iterate", DRAINS)
async def test_after_a_refusal_what_is_buffered_comes_first(iterate: Drain) -> None:
    async with subscribed("foo_ch") as (session, subscription, refuse):
        await session.deliver("foo_ch", b"0", b"1", b"2")
        assert await take_data(subscription, 1) == [b"0"]
        await refuse()
        assert await take_data(subscription, 2) == [b"1", b"2"]
        # Each time.
        for _ in range(3):
            with pytest.raises(hyps.PermissionDenied):
                await iterate(subscription)


@pytest.mark.parametrize("read", READERS)
async def test_a_waiting_reader_is_told_of_a_refusal_each_time(read: Read) -> None:
    async with (
        subscribed("foo_ch") as (_, subscription, refuse),
        anyio.create_task_group() as tasks,
    ):
        reading = begin(tasks, read, subscription)
        await let_others_run()
        await refuse()
        with pytest.raises(hyps.PermissionDenied):
            await reading.get()
        for _ in range(2):
            with pytest.raises(hyps.PermissionDenied):
                await read(subscription)


@pytest.mark.parametrize("read", READERS[:-1])
async def test_a_waiting_reader_is_told_of_shutdown_each_time(read: Read) -> None:
    async with memory_client() as client, client.subscribe("foo_ch") as subscription:
        async with anyio.create_task_group() as tasks:
            reading = begin(tasks, read, subscription)
            await let_others_run()
            await client.shutdown()
            with pytest.raises(hyps.SubscriptionClosed):
                await reading.get()
        for _ in range(2):
            with pytest.raises(hyps.SubscriptionClosed):
                await read(subscription)
        with pytest.raises(hyps.SubscriptionClosed):
            subscription.receive_nowait()


async def test_another_task_leaves_the_subscription() -> None:
    async with memory_client() as client, anyio.create_task_group() as tasks:
        async with client.subscribe("foo_ch") as subscription:
            reading = begin(tasks, drain, subscription)
            await let_others_run()
            await client.publish("foo_ch", b"1")
        assert await reading.get() == [b"1"]


async def test_changing_channels_after_the_users_own_exit() -> None:
    async with memory_client() as client:
        async with client.subscribe("foo_ch") as subscription:
            pass
        assert subscription.channels == frozenset()
        for change in (subscription.subscribe, subscription.unsubscribe):
            with pytest.raises(hyps.SubscriptionClosed):
                await change("bar_ch")


async def test_changing_channels_after_a_refusal() -> None:
    async with subscribed("foo_ch") as (_, subscription, refuse):
        await refuse()
        for change in (subscription.subscribe, subscription.unsubscribe):
            with pytest.raises(hyps.PermissionDenied):
                await change("bar_ch")
        # Leaving is harmless.
        await subscription.__aexit__(None, None, None)


async def end_by_eof(session: Peer) -> None:
    await session.stream.aclose()


async def end_by_reset(session: Peer) -> None:
    await session.reset()


@pytest.mark.parametrize("end", [end_by_eof, end_by_reset])
async def test_a_loss_ends_every_pending_operation(
    end: Callable[[Peer], Awaitable[None]],
) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("a", "b"), "a", "b")
        pending: list[Outcome[Any]] = [
            begin(tasks, client.publish, "a", b""),
            begin(tasks, client.publish_many, [("a", b"")]),
            begin(tasks, subscription.subscribe, "c"),
            begin(tasks, subscription.unsubscribe, "b"),
            begin(tasks, client.subscribe("d").__aenter__),
        ]
        await let_others_run()
        # With nothing under way it would return at once.
        pending.append(begin(tasks, client.flush))
        await let_others_run()
        await end(session)
        for outcome in pending:
            with pytest.raises(hyps.ConnectionLost):
                await outcome.get()
        with pytest.raises(hyps.ConnectionLost):
            await client.publish("a", b"")
        # All of it was told to those who waited for it.
        await client.flush()
        assert subscription.channels == {"a"}


async def test_what_arrives_while_the_client_shuts_down_is_nobodys() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("a"), "a")
        closing = begin(tasks, client.shutdown)
        await session.expect_end()
        await session.deliver("a", b"too late")
        await session.gap("a", b"script:3")
        assert not closing.is_known
        await session.stream.aclose()
        await closing.get()
        assert await drain(subscription) == []
        assert subscription.missed == 0


# Exceptions


class Own(Exception):
    """A user's own."""


OWN = [Own("own"), ExceptionGroup("own", [Own("inner")]), SystemExit(3), KeyError("own")]


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
async def test_a_users_exception_comes_out_as_it_was_raised(error: BaseException) -> None:
    async def through_all() -> None:
        async with (
            hyps.Server(port=0) as server,
            hyps.connect(server.urls[0]) as client,
            client.subscribe("foo_ch"),
        ):
            raise error

    with pytest.raises(type(error)) as caught:
        await through_all()
    assert caught.value is error


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
async def test_a_users_exception_comes_out_of_a_client_in_memory(error: BaseException) -> None:
    async def through_both() -> None:
        async with memory_client() as client, client.subscribe("foo_ch"):
            raise error

    with pytest.raises(type(error)) as caught:
        await through_both()
    assert caught.value is error


async def test_a_refusal_comes_out_of_the_body_and_not_as_a_group() -> None:
    async def iterate() -> None:
        async with subscribed("a") as (_, subscription, refuse):
            await refuse()
            await drain(subscription)

    with pytest.raises(hyps.PermissionDenied):
        await iterate()


# Generators, as in server-sent events


async def events(client: hyps.Client, *channels: str) -> AsyncGenerator[str, None]:
    async with client.subscribe(*channels) as subscription:
        async for message in subscription:
            yield f"data: {message.data.decode()}\n\n"


@pytest.mark.native_wire
async def test_a_generator_that_is_closed_early(server: hyps.Server, client: hyps.Client) -> None:
    stream = events(client, "a")
    async with anyio.create_task_group() as tasks:
        first = begin(tasks, anext, stream)
        await wait_until(lambda: server.broker.channels == 1)
        await client.publish_many(numbered("a", 3))
        assert await first.get() == "data: 0\n\n"
    assert await anext(stream) == "data: 1\n\n"
    await stream.aclose()
    await client.flush()
    assert server.broker.channels == 0
    await client.publish("a", b"")


@pytest.mark.native_wire
async def test_a_generator_that_is_closed_by_another_task(
    server: hyps.Server, client: hyps.Client
) -> None:
    stream = events(client, "a")
    async with anyio.create_task_group() as tasks:
        first = begin(tasks, anext, stream)
        await wait_until(lambda: server.broker.channels == 1)
        await client.publish_many(numbered("a", 3))
        await first.get()
        await begin(tasks, stream.aclose).get()
    await client.flush()
    assert server.broker.channels == 0


@pytest.mark.native_wire
async def test_a_generator_that_is_closed_in_a_cancelled_task(
    server: hyps.Server, client: hyps.Client
) -> None:
    async def respond() -> None:
        async with contextlib.aclosing(events(client, "a")) as stream:
            async for _ in stream:
                raise AssertionError("nothing was published")

    async with anyio.create_task_group() as tasks:
        responding = begin(tasks, respond)
        await wait_until(lambda: server.broker.channels == 1)
        await responding.cancel()
    await client.flush()
    assert server.broker.channels == 0


async def test_a_generator_ends_with_the_client(server: hyps.Server) -> None:
    async def respond() -> list[str]:
        return [event async for event in events(client, "a")]

    async with hyps.connect(server.urls[0]) as client, anyio.create_task_group() as tasks:
        responding = begin(tasks, respond)
        await wait_until(lambda: server.broker.channels == 1)
        await client.publish("a", b"1")
        await client.shutdown()
        assert await responding.get() == ["data: 1\n\n"]
