"""Every call is cancelled at each of its suspensions in turn: nothing is lost, cut or left over."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import pytest
from support.helpers import (
    PATIENCE,
    begin,
    data_of,
    drain,
    holds,
    let_others_run,
    numbered,
    port_of,
    reason_of_loss,
    take_data,
    wait_until,
)
from support.interrupting import Interrupted, cancel_at_each, cancel_while_it_waits
from support.peers import connected_to_script, scripted_hub

import hyps
from hyps import Connected, Disconnected, Reconnected
from hyps.protocol import Kind, encode_frame, records
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TypeAlias

    from support.peers import Peer

    Call: TypeAlias = Callable[[hyps.Client, hyps.Subscription], Awaitable[object]]
    ReadData: TypeAlias = Callable[[hyps.Subscription], Awaitable[list[bytes]]]

pytestmark = pytest.mark.anyio


# The client


async def test_connecting(server: hyps.Server) -> None:
    client = hyps.connect(server.urls[0])

    async def check(attempt: Interrupted[None]) -> None:
        nonlocal client
        assert client.connected == bool(attempt.results)
        if not attempt.results:
            # It needs no shutdown(), and can be connected all the same.
            await wait_until(lambda: not server.broker.sessions)
            await client.connect()
        await client.publish("a", b"")
        await client.shutdown()
        assert not server.broker.sessions
        client = hyps.connect(server.urls[0])

    async for attempt in cancel_at_each(lambda: client.connect()):
        await check(attempt)
    # Its one suspension is long: at each pass meanwhile.
    for passes in itertools.count():
        attempt = Interrupted(client.connect, 0, gives_up_after=passes)
        await attempt.run()
        await check(attempt)
        if attempt.results:
            break


async def test_entering_and_leaving_a_client(server: hyps.Server, client: hyps.Client) -> None:
    async def enter_and_leave() -> None:
        async with hyps.connect(server.urls[0]) as other, other.subscribe("a", "b") as subscription:
            await other.publish("b", b"1")
            await subscription.receive()

    async for _ in cancel_at_each(enter_and_leave, suspensions=4):
        await wait_until(lambda: len(server.broker.sessions) == 1)
        assert server.broker.channels == 0
        await client.publish("a", b"")


async def test_shutting_down(server: hyps.Server, client: hyps.Client) -> None:
    async def prepare() -> tuple[hyps.Client, hyps.Subscription]:
        other = hyps.connect(server.urls[0])
        await other.connect()
        subscription = await other.subscribe("b").__aenter__()
        await other.publish("b", b"unread")
        other.publish_nowait("a", b"queued")
        return other, subscription

    async with client.subscribe("a") as neighbour:
        other, subscription = await prepare()
        async for _ in cancel_at_each(lambda: other.shutdown()):  # noqa: B023 - the one of each
            assert not other.connected
            assert await drain(subscription) == [b"unread"]
            # What was queued is sent though nobody waits.
            assert await take_data(neighbour, 1) == [b"queued"]
            await wait_until(lambda: len(server.broker.sessions) == 1)
            await other.shutdown()
            other, subscription = await prepare()
        await other.shutdown()


async def test_shutting_down_while_it_connects() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url)
        events = client.events()
        connecting = begin(tasks, client.connect)
        session = await hub.accept()
        await session.expect(Kind.HELLO)
        attempt = Interrupted(client.shutdown, 1)
        await attempt.run()
        assert attempt.was_reached
        with pytest.raises(hyps.ConnectionLost, match="shut down"):
            await connecting.get()
        await session.expect_end()
        # The client was shut down, and so this iteration ends.
        watching = Interrupted(lambda: anext(events, None), 0, gives_up_after=50)
        await watching.run()
        assert watching.results == [None]


async def test_watching() -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url, reconnect_max_delay=0.001) as client:
            events = client.events()
            found = [await anext(events)]
            await cancel_while_it_waits(lambda: anext(events))

            def lose_and_watch() -> Awaitable[hyps.ConnectionEvent]:
                hub.connections[0].cut()
                return anext(events)

            async for attempt in cancel_at_each(lose_and_watch):
                found += attempt.results
                while not isinstance(found[-1], Reconnected) or not client.connected:
                    found.append(await anext(events))
    kinds = [type(event) for event in found]
    assert kinds == [Connected, *[Disconnected, Reconnected] * (len(kinds) // 2)]


# Publishing


@pytest.mark.parametrize(("count", "suspensions"), [(1, 1), (6, 4)])
async def test_publishing(client: hyps.Client, count: int, suspensions: int) -> None:
    # Of a size of which two make a batch.
    messages = [("a", bytes([number]) * 50_000) for number in range(count)]
    one, many = partial(client.publish, *messages[0]), partial(client.publish_many, messages)
    async with client.subscribe("a") as neighbour:
        call = one if count == 1 else many
        async for attempt in cancel_at_each(call, suspensions=suspensions):
            await client.publish("a", b"next")
            found = await take_data(neighbour, 1)
            while found[-1] != b"next":
                found += await take_data(neighbour, 1)
            # None is cut, and none follows one that is missing.
            assert found[:-1] == data_of(messages)[: len(found) - 1]
            assert len(found) == count + 1 or not attempt.results
        assert neighbour.missed == 0


async def queue_and_flush(client: hyps.Client, channel: str, data: bytes) -> None:
    client.publish_nowait(channel, data)
    await client.flush()


async def publish_batches(client: hyps.Client, channel: str, data: bytes) -> None:
    await client.publish_many((channel, each) for each in (data, *[bytes(70_000)] * 3))


async def answer_all(session: Peer) -> None:
    """Answer what a client asks; the messages b"refused" are."""
    while True:
        kind, body = await session.next_frame()
        found = list(records(body))
        if kind is Kind.PUBLISH:
            codes = b"".join(b"d" if data == b"refused" else b"k" for _, data in found)
            await session.send(encode_frame(Kind.PUBLISH_ACK, codes))
        elif kind is Kind.SUBSCRIBE:
            await session.answer_subscribe(*(channel for channel, _ in found))
        else:
            assert kind is Kind.UNSUBSCRIBE
            await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"k" * len(found)))


async def check_answers(client: hyps.Client) -> None:
    """Check that each operation gets the answer to it."""
    await client.publish("a", b"taken")
    with pytest.raises(hyps.PermissionDenied):
        await client.publish("a", b"refused")
    await client.publish("a", b"taken")
    await client.flush()


@pytest.mark.parametrize("publish", [hyps.Client.publish, queue_and_flush, publish_batches])
@pytest.mark.parametrize("data", [b"taken", b"refused"])
async def test_each_gets_its_own_answer(
    publish: Callable[..., Awaitable[None]], data: bytes
) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        tasks.start_soon(answer_all, session)

        async def is_refused() -> bool:
            try:
                await publish(client, "a", data)
            except hyps.PermissionDenied:
                return True
            return False

        async for attempt in cancel_at_each(is_refused):
            if attempt.results:
                assert attempt.results == [data == b"refused"]
            elif data == b"refused":
                is_told = False
                try:
                    await client.flush()
                except hyps.PermissionDenied:
                    is_told = True
                # Only the checkpoint before the first batch comes before anything is begun.
                assert is_told or (publish is publish_batches and attempt.suspensions <= 2)
            await check_answers(client)
        tasks.cancel_scope.cancel()


# Subscriptions


async def test_entering_a_subscription(server: hyps.Server, client: hyps.Client) -> None:
    subscription = client.subscribe()

    def enter() -> Awaitable[object]:
        nonlocal subscription
        subscription = client.subscribe("a", "b", "c")
        client.publish_nowait("a", b"")
        return subscription.__aenter__()

    async with client.subscribe("a") as neighbour:
        async for attempt in cancel_at_each(enter):
            await client.flush()
            assert subscription.channels == ({"a", "b", "c"} if attempt.results else set())
            assert holds(server, 3 if attempt.results else 1)
            if not attempt.results:
                # It has ended.
                assert await drain(subscription) in ([], [b""])
            leaving = Interrupted(partial(subscription.__aexit__, None, None, None), 0)
            await leaving.run()
            # It needs no checkpoint, so that a generator's finaliser can do it.
            assert (leaving.results, leaving.suspensions) == ([None], 0)
            await client.publish("a", b"next")
            assert holds(server, 1)
            assert await take_data(neighbour, 2) == [b"", b"next"]
        assert neighbour.missed == 0


async def test_subscribing(server: hyps.Server, client: hyps.Client) -> None:
    async with client.subscribe("kept") as subscription:

        def subscribe() -> Awaitable[None]:
            client.publish_nowait("kept", b"1")
            return subscription.subscribe("kept", "a", "b")

        async for attempt in cancel_at_each(subscribe):
            await client.flush()
            held = {"kept", "a", "b"} if attempt.results else {"kept"}
            assert subscription.channels == held
            assert holds(server, len(held))
            await client.publish_many([(channel, b"2") for channel in held])
            assert await take_data(subscription, 1 + len(held)) == [b"1", *[b"2"] * len(held)]
            await subscription.unsubscribe("a", "b")
        assert subscription.missed == 0


async def test_unsubscribing(server: hyps.Server, client: hyps.Client) -> None:
    async with client.subscribe("kept", "a", "b") as subscription:
        # Over HTTP/2 the client itself answers that.
        async for _ in cancel_at_each(
            lambda: subscription.unsubscribe("a", "b"), may_be_early=True
        ):
            assert subscription.channels == {"kept"}
            await client.publish_many([("a", b"0"), ("b", b"0"), ("kept", b"1")])
            assert holds(server, 1)
            assert await take_data(subscription, 1) == [b"1"]
            await subscription.subscribe("a", "b")
        assert subscription.missed == 0


async def receive(subscription: hyps.Subscription) -> list[bytes]:
    return [(await subscription.receive()).data]


async def receive_many(subscription: hyps.Subscription) -> list[bytes]:
    return [message.data for message in await subscription.receive_many()]


async def receive_raw(subscription: hyps.Subscription) -> list[bytes]:
    return [data for _, data in records(await subscription.receive_raw())]


async def iterate(subscription: hyps.Subscription) -> list[bytes]:
    return [(await anext(subscription)).data]


READERS: Final = (receive, receive_many, receive_raw, iterate)


@pytest.mark.parametrize("read", READERS)
async def test_reading(client: hyps.Client, read: ReadData) -> None:
    sent: list[bytes] = []
    found: list[bytes] = []
    async with client.subscribe("a") as subscription, client.subscribe("a") as neighbour:

        def publish_and_read() -> Awaitable[list[bytes]]:
            for _ in range(3):
                sent.append(b"%d" % len(sent))
                client.publish_nowait("a", sent[-1])
            return read(subscription)

        async for attempt in cancel_at_each(publish_and_read):
            found += itertools.chain(*attempt.results)
            found += await take_data(subscription, len(sent) - len(found))
            assert found == sent
        assert await take_data(neighbour, len(sent)) == sent
        assert subscription.missed == neighbour.missed == 0


@pytest.mark.parametrize("read", READERS)
async def test_reading_what_is_there(client: hyps.Client, read: ReadData) -> None:
    cancelled = 0
    found: list[bytes] = []
    async with client.subscribe("a") as subscription:
        for number in range(100):
            await client.publish("a", str(number))
            # Most need not wait, and only some let others run.
            attempt = Interrupted(partial(read, subscription), 1)
            await attempt.run()
            cancelled += not attempt.results
            found += itertools.chain(*attempt.results)
            found += await take_data(subscription, number + 1 - len(found))
        assert subscription.missed == 0
    assert found == data_of(numbered("a", 100))
    assert cancelled


# Waiting for the hub

#: What asks the hub for something.
ASKING: Final[dict[str, Call]] = {
    "publish": lambda client, _: client.publish("a", b"1"),
    "publish_many": lambda client, _: client.publish_many(numbered("a", 2)),
    "enter": lambda client, _: client.subscribe("a", "b").__aenter__(),
    "subscribe": lambda _, subscription: subscription.subscribe("b"),
}


async def test_a_hub_that_is_silent() -> None:
    channels = [f"ch_{number}" for number in range(5)]
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("kept", *channels), "kept", *channels)
        for call in ASKING.values():
            await cancel_while_it_waits(partial(call, client, subscription))
        await cancel_while_it_waits(partial(queue_and_flush, client, "a", b""))
        await cancel_while_it_waits(lambda: subscription.unsubscribe(channels.pop()))
        for read in READERS:
            await cancel_while_it_waits(partial(read, subscription))
        assert subscription.channels == {"kept", *channels}
        tasks.start_soon(answer_all, session)
        await check_answers(client)
        await session.deliver("kept", b"1", b"2")
        assert await take_data(subscription, 2) == [b"1", b"2"]
        tasks.cancel_scope.cancel()
        # This hub does not close, and the client closes by itself when that has taken too long.
        shutting_down = Interrupted(client.shutdown, 1)
        await shutting_down.run()
        assert not shutting_down.results
        assert await drain(subscription) == []
    async with scripted_hub() as hub:
        client = hyps.connect(hub.url)
        await cancel_while_it_waits(client.connect)
        assert not client.connected


@pytest.mark.parametrize("call", ASKING.values(), ids=ASKING)
async def test_connecting_again(call: Call) -> None:
    with MemoryHub() as hub:
        async with (
            hyps.connect(hub.url, reconnect_max_delay=0.001) as client,
            client.subscribe("kept") as subscription,
        ):

            async def lose() -> None:
                hub.cut()
                await reason_of_loss(client)

            def restore_and_call() -> Awaitable[object]:
                hub.restore()
                return call(client, subscription)

            await lose()
            await cancel_while_it_waits(partial(call, client, subscription))
            await cancel_while_it_waits(client.connect)
            async for attempt in cancel_at_each(restore_and_call, suspensions=2):
                await client.connect()
                for result in attempt.results:
                    if isinstance(result, hyps.Subscription):
                        assert result.channels == {"a", "b"}
                        await result.__aexit__(None, None, None)
                assert subscription.channels <= {"kept", "b"}
                await subscription.unsubscribe("b")
                await client.publish("kept", b"next")
                assert await take_data(subscription, 1) == [b"next"]
                assert hub.broker.channels == 1
                await lose()
            hub.restore()


@pytest.mark.parametrize("name", ["publish", "publish_many"])
async def test_while_there_is_no_room(name: str) -> None:
    large = bytes(10_000)
    limits = hyps.Limits(max_backlog=1_000)
    with MemoryHub() as hub:
        async with (
            hyps.connect(hub.url, limits=limits) as client,
            client.subscribe("a") as subscription,
            anyio.create_task_group() as tasks,
        ):
            call = partial(ASKING[name], client, subscription)

            async def fill() -> int:
                hub.stall()
                for count in itertools.count():
                    try:
                        client.publish_nowait("a", large)
                    except hyps.WouldBlock:
                        return count
                    await let_others_run()
                raise AssertionError

            def resume_and_call() -> Awaitable[object]:
                hub.resume()
                return call()

            queued = await fill()
            await cancel_while_it_waits(call)
            async for attempt in cancel_at_each(resume_and_call, suspensions=2):
                # Who stands behind it has a turn.
                await begin(tasks, client.publish, "a", b"behind").get()
                found = [message.data for message in await subscription.receive_many()]
                assert found[:queued] == [large] * queued
                assert found[-1] == b"behind"
                assert len(found) > queued + 1 or not attempt.results
                queued = await fill()
            hub.resume()
        assert subscription.missed == 0


async def test_what_has_nothing_to_wait_for_is_a_checkpoint(client: hyps.Client) -> None:
    async with client.subscribe("a") as subscription:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "connect": client.connect,
            "flush": client.flush,
            "publish_many": lambda: client.publish_many([]),
            "enter": client.subscribe().__aenter__,
            "subscribe": lambda: subscription.subscribe("a"),
            "unsubscribe": lambda: subscription.unsubscribe("b"),
            "shutdown": hyps.connect("memory://nobody").shutdown,
        }
        attempts = {name: Interrupted(call, 1) for name, call in calls.items()}
        for attempt in attempts.values():
            await attempt.run()
    assert [name for name, attempt in attempts.items() if attempt.results] == []


# The hub


@pytest.mark.parametrize("is_unix", [False, True])
async def test_entering_and_leaving_a_server(is_unix: bool, socket_folder: Path) -> None:
    # Each attempt has a path of its own: a thread binds the socket, and goes on if the attempt is
    # cancelled.
    paths = (socket_folder / f"{number}.sock" if is_unix else None for number in itertools.count())
    uds = next(paths)
    server = hyps.Server(port=0, uds=uds)
    clients: list[hyps.Client] = []
    stuck: list[hyps.Client] = []

    async def serve() -> None:
        async with server:
            clients.append(hyps.connect(server.urls[0]))
            await clients[-1].connect()
            await clients[-1].publish("a", b"")

    async def rescue() -> None:
        # Sessions are shielded: if the hub does not end them, only their clients can.
        await anyio.sleep(PATIENCE)
        stuck.extend(clients)
        for client in stuck:
            await client.shutdown()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rescue)
        async for _ in cancel_at_each(serve, suspensions=4):
            assert not stuck
            assert not server.broker.sessions
            while clients:
                await clients.pop().shutdown()
            # The address is free.
            port = port_of(server) if server.urls and not is_unix else 0
            left, uds = uds, next(paths)
            server = hyps.Server(port=port, uds=uds)
        tasks.cancel_scope.cancel()
    # The last attempt was not cancelled.
    assert left is None or not left.exists()


async def test_serve() -> None:
    async with hyps.Server(port=0) as server:
        port = port_of(server)
    for number in itertools.count(1):
        # Each can listen where the one before it did.
        attempt = Interrupted(partial(hyps.serve, port=port), number, gives_up_after=500)
        await attempt.run()
        assert not attempt.results
        if not attempt.was_reached:
            break
    assert number > 1
