"""A client's lifetime: connecting, sharing the connection, shutting down."""

from __future__ import annotations

import gc
import re
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import (
    begin,
    drain,
    let_others_run,
    memory_client,
    port_of,
    take_data,
    wait_until,
)
from support.peers import GOAWAY, connected_to_script, scripted_hub

import hyps
from hyps.protocol import Kind, Limits
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

NEVER_SHUT_DOWN = "was never shut down"


async def test_entering_a_client_that_is_entered_is_an_error(server: hyps.Server) -> None:
    client = hyps.connect(server.urls[0])
    for _ in range(2):
        async with client:
            with pytest.raises(RuntimeError, match="entered already"):
                async with client:
                    raise AssertionError("it was entered")
            # It is not shut down.
            assert client.connected
            await client.connect()
            await client.publish("a", b"")
        assert not client.connected


async def test_a_client_that_could_not_be_entered_can_be_entered_later() -> None:
    async with hyps.Server(port=0) as server:
        client = hyps.connect(server.urls[0])
        port = port_of(server)
    with pytest.raises(hyps.ConnectionRefused):
        await client.__aenter__()
    async with hyps.Server(port=port), client:
        assert client.connected


@pytest.mark.parametrize("end", [hyps.Client.shutdown, hyps.Client.aclose])
async def test_three_tasks_connect_use_and_shut_down(
    url: str, end: Callable[[hyps.Client], Awaitable[None]]
) -> None:
    client = hyps.connect(url)
    is_subscribed = anyio.Event()
    found: list[bytes] = []

    async def use() -> None:
        async with client.subscribe("foo_ch") as subscription:
            is_subscribed.set()
            found.extend(await drain(subscription))

    async with anyio.create_task_group() as tasks:
        await begin(tasks, client.connect).get()
        assert client.connected
        using = begin(tasks, use)
        await is_subscribed.wait()
        await begin(tasks, client.publish, "foo_ch", b"foo_msg").get()
        await begin(tasks, end, client).get()
        assert not client.connected
        await using.get()
    assert found == [b"foo_msg"]


async def test_connect_does_nothing_when_connected(server: hyps.Server) -> None:
    async with hyps.connect(server.urls[0]) as client:
        await client.connect()
        await client.connect()
        await client.publish("foo_ch", b"foo_msg")
        assert len(server.broker.sessions) == 1


async def test_calls_of_connect_share_one_connection() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url)
        openings = [begin(tasks, client.connect) for _ in range(5)]
        accepting_another = begin(tasks, hub.accept)
        session = await accepting_another.get()
        accepting_another = begin(tasks, hub.accept)
        await session.welcome()
        for opening in openings:
            await opening.get()
        assert not accepting_another.is_known
        await accepting_another.cancel()
        await hub.close()
        await client.shutdown()


async def test_one_of_several_calls_of_connect_is_cancelled() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url)
        openings = [begin(tasks, client.connect) for _ in range(3)]
        session = await hub.accept()
        await openings[0].cancel()
        assert not openings[1].is_known
        await session.welcome()
        await openings[1].get()
        await openings[2].get()
        assert client.connected
        await hub.close()
        await client.shutdown()


async def test_every_call_of_connect_is_cancelled() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url)
        openings = [begin(tasks, client.connect) for _ in range(2)]
        session = await hub.accept()
        await session.expect(Kind.HELLO)
        for opening in openings:
            await opening.cancel()
        # Nobody wants the connection any more.
        await session.expect_end()
        assert not client.connected
        # A new one can be had.
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.welcome()
        await opening.get()
        await hub.close()
        await client.shutdown()


async def test_shut_down_while_connecting() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url)
        opening = begin(tasks, client.connect)
        await hub.accept()
        await client.shutdown()
        with pytest.raises(hyps.ConnectionLost, match="shut down"):
            await opening.get()


async def test_connect_again_after_shutdown(server: hyps.Server) -> None:
    client = hyps.connect(server.urls[0])
    for number in range(3):
        async with client, client.subscribe("foo_ch") as subscription:
            await client.publish("foo_ch", str(number))
            assert await take_data(subscription, 1) == [str(number).encode()]
        await wait_until(lambda: not server.broker.sessions)


async def test_shut_down_often_and_for_nothing(server: hyps.Server) -> None:
    client = hyps.connect(server.urls[0])
    await client.shutdown()
    await client.connect()
    assert client.connected
    await client.shutdown()
    await client.shutdown()
    await client.aclose()
    assert not client.connected
    await wait_until(lambda: not server.broker.sessions)


async def test_shutdown_sends_what_is_queued(server: hyps.Server) -> None:
    async with hyps.connect(server.urls[0]) as reader, reader.subscribe("foo_ch") as subscription:
        writer = hyps.connect(server.urls[0])
        await writer.connect()
        for number in range(1_000):
            writer.publish_nowait("foo_ch", str(number))
        await writer.shutdown()
        assert await take_data(subscription, 1_000) == [str(n).encode() for n in range(1_000)]


async def test_shutdown_goes_on_when_its_caller_is_cancelled(server: hyps.Server) -> None:
    client = hyps.connect(server.urls[0])
    await client.connect()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.shutdown()
    assert not client.connected
    await wait_until(lambda: not server.broker.sessions)


async def test_shutdown_is_bounded_when_the_hub_does_not_close() -> None:
    limits = Limits(close_timeout=0.01)
    async with connected_to_script(limits=limits) as (client, session):
        await client.shutdown()
        assert not client.connected
        await session.expect_end()


@pytest.mark.parametrize("goes_away", [False, True])
async def test_shutdown_is_bounded_when_the_hub_does_not_read(goes_away: bool) -> None:
    limits = Limits(close_timeout=0.01, max_backlog=64 * 1024 * 1024)
    async with connected_to_script(limits=limits) as (client, session):
        # More than the buffers of any socket.
        for _ in range(32):
            client.publish_nowait("foo_ch", bytes(1024 * 1024))
        if goes_away:
            await session.send(GOAWAY)
            await wait_until(lambda: not client.connected)
        with anyio.fail_after(5):
            await client.shutdown()


async def test_operations_of_a_client_that_is_not_connected() -> None:
    client = hyps.connect("memory://nobody")
    assert not client.connected
    with pytest.raises(hyps.ConnectionLost, match="not connected"):
        await client.publish("foo_ch", b"")
    with pytest.raises(hyps.ConnectionLost, match="not connected"):
        await client.publish_many([("foo_ch", b"")])
    with pytest.raises(hyps.ConnectionLost, match="not connected"):
        client.publish_nowait("foo_ch", b"")
    with pytest.raises(hyps.ConnectionLost, match="not connected"):
        await client.flush()
    with pytest.raises(hyps.ConnectionLost, match="not connected"):
        async with client.subscribe("foo_ch"):
            raise AssertionError("it was entered")


async def test_operations_while_connecting() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url)
        opening = begin(tasks, client.connect)
        await let_others_run()
        publishing = begin(tasks, client.publish, "foo_ch", b"1")
        # Before there is a session.
        session = await hub.accept()
        with pytest.raises(hyps.WouldBlock, match="not connected"):
            client.publish_nowait("foo_ch", b"")
        assert not client.connected
        await client.flush()
        await session.welcome()
        await opening.get()
        assert await session.answer_publish(b"k") == [b"1"]
        await publishing.get()
        await hub.close()
        await client.shutdown()


async def test_operations_after_shutdown(client: hyps.Client) -> None:
    await client.shutdown()
    with pytest.raises(hyps.ConnectionLost, match="shut down"):
        await client.publish("foo_ch", b"")
    with pytest.raises(hyps.ConnectionLost, match="shut down"):
        client.publish_nowait("foo_ch", b"")
    with pytest.raises(hyps.ConnectionLost, match="shut down"):
        await client.flush()
    with pytest.raises(hyps.ConnectionLost, match="shut down"):
        async with client.subscribe("foo_ch"):
            raise AssertionError("it was entered")


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (hyps.connect, {"limits": 3}, "limits must be a hyps.Limits, not 3"),
        (hyps.connect, {"reconnect_max_delay": "1"}, "must be a number, not '1'"),
        (hyps.connect("memory://a").subscribe, {"max_messages": 2.5}, "must be an int, not 2.5"),
        (hyps.connect("memory://a").subscribe, {"max_bytes": "5"}, "must be an int, not '5'"),
        (hyps.Server, {"limits": 3}, "limits must be a hyps.Limits, not 3"),
        (hyps.Server, {"token": 5}, "a token must be a str, not int"),
        (hyps.Server, {"port": "80"}, "port must be an int, not '80'"),
        (MemoryHub, {"limits": 3}, "limits must be a hyps.Limits, not 3"),
    ],
)
async def test_arguments_of_another_type(
    make: Callable[..., object], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        make(**options)


async def test_a_mode_that_was_written_in_decimal() -> None:
    with pytest.raises(ValueError, match="660, which is 0o1224"):
        hyps.Server(uds="/no/such", uds_mode=660)


async def test_publishing_something_else(client: hyps.Client) -> None:
    with pytest.raises(TypeError, match="a channel must be a str, not list"):
        await client.publish(["a"], b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="which is not iterable"):
        await client.publish_many(5)  # type: ignore[arg-type]


async def test_awaiting_a_client_is_a_clear_error() -> None:
    client: Any = hyps.connect("memory://nobody")
    with pytest.raises(TypeError, match=r"async with hyps\.connect"):
        await client


async def test_awaiting_a_subscription_is_a_clear_error() -> None:
    async with memory_client() as client:
        subscription: Any = client.subscribe("foo_ch")
        with pytest.raises(TypeError, match=r"async with client\.subscribe"):
            await subscription


async def test_the_url_of_the_environment(
    server: hyps.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPS_URL", server.urls[0])
    async with hyps.connect() as client:
        assert server.urls[0] in repr(client)
        assert len(server.broker.sessions) == 1


@pytest.mark.parametrize("value", [None, ""])
async def test_the_default_url(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("HYPS_URL", raising=False)
    else:
        monkeypatch.setenv("HYPS_URL", value)
    assert "hyps://127.0.0.1:8787" in repr(hyps.connect())


async def test_an_url_goes_before_that_of_the_environment(
    server: hyps.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPS_URL", "not a URL")
    async with hyps.connect(server.urls[0]) as client:
        assert client.connected


async def test_the_representation_tells_the_state(server: hyps.Server) -> None:
    client = hyps.connect(server.urls[0])
    assert repr(client) == f"<hyps.Client of {server.urls[0]}, not connected>"
    async with client:
        assert repr(client) == f"<hyps.Client of {server.urls[0]}, connected>"


async def test_a_client_that_is_never_shut_down_warns() -> None:
    async with hyps.Server(port=0) as server:
        clients = [hyps.connect(server.urls[0])]
        await clients[0].connect()
        with pytest.warns(ResourceWarning, match=NEVER_SHUT_DOWN):
            clients.clear()


async def forget_a_client(url: str) -> None:
    async with hyps.connect(url):
        pass


async def forget_a_client_that_never_connected(url: str) -> None:
    hyps.connect(url)


async def forget_a_client_that_could_not_connect(url: str) -> None:
    with pytest.raises(hyps.ConnectionRefused):
        await hyps.connect("hyps+unix:///nowhere/at/all").connect()


async def forget_a_client_with_a_bad_url(url: str) -> None:
    with pytest.raises(hyps.InvalidURL):
        hyps.connect("junk")


@pytest.mark.parametrize(
    "forget",
    [
        forget_a_client,
        forget_a_client_that_never_connected,
        forget_a_client_that_could_not_connect,
        forget_a_client_with_a_bad_url,
    ],
)
async def test_a_client_without_a_connection_does_not_warn(
    server: hyps.Server, forget: Callable[[str], Awaitable[None]]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await forget(server.urls[0])
        gc.collect()
    assert [str(one.message) for one in caught if NEVER_SHUT_DOWN in str(one.message)] == []
