"""The lifespan of a client in an application."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.asgi import exchanging
from support.helpers import begin, let_others_run, wait_until

import hyps
from hyps.asgi import lifespan, with_lifespan
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

pytestmark = pytest.mark.anyio


@pytest.fixture
def server_signals() -> Iterator[list[int]]:
    """What a server's own handler of SIGTERM gets."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield received
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, previous)


async def test_it_connects_and_shuts_down(hyps_hub: MemoryHub) -> None:
    client = hyps.connect(hyps_hub.url)
    async with lifespan(client, wait=False):
        assert client.connected
        await client.publish("a", b"")
    assert not client.connected
    assert hyps_hub.connections == ()


async def test_it_is_called_with_the_application(hyps_hub: MemoryHub) -> None:
    client = hyps.connect(hyps_hub.url)
    run = lifespan(client)
    # An application may start more than once, as in tests.
    for _ in range(2):
        async with run(object()) as state:
            assert state is None
            await client.publish("a", b"")


async def test_it_waits_for_a_hub_in_the_background() -> None:
    with MemoryHub() as hub:
        hub.cut()
        client = hyps.connect(hub.url, reconnect_max_delay=0.001)
        async with lifespan(client):
            assert not client.connected
            hub.restore()
            await client.publish("a", b"")
        hub.cut()
        with pytest.raises(hyps.ConnectionRefused):
            async with lifespan(client, wait=False):
                pass


async def test_it_cannot_be_entered_twice_at_once(hyps_hub: MemoryHub) -> None:
    run = lifespan(hyps.connect(hyps_hub.url))
    async with run:
        with pytest.raises(RuntimeError, match="entered already"):
            await run.__aenter__()


async def test_it_cannot_be_entered_while_it_is_being_entered() -> None:
    with MemoryHub() as hub:
        hub.cut()
        client = hyps.connect(hub.url, wait=True, reconnect_max_delay=0.001)
        run = lifespan(client, wait=False)
        async with anyio.create_task_group() as tasks:
            entering = begin(tasks, run.__aenter__)
            await wait_until(lambda: "cut off" in repr(client))
            with pytest.raises(RuntimeError, match="entered already"):
                await run.__aenter__()
            hub.restore()
            await entering.get()
        await run.__aexit__(None, None, None)
        # One that could not be entered can be entered later.
        hub.cut()
        run = lifespan(hyps.connect(hub.url), wait=False)
        with pytest.raises(hyps.ConnectionRefused):
            await run.__aenter__()
        hub.restore()
        async with run:
            pass


async def test_streams_end_at_the_signal_which_stays_the_servers(
    hyps_hub: MemoryHub, server_signals: list[int]
) -> None:
    client = hyps.connect(hyps_hub.url)
    async with (
        lifespan(client),
        client.subscribe("a") as subscription,
        anyio.create_task_group() as tasks,
    ):
        reading = begin(tasks, lambda: anext(subscription, "the end"))
        await let_others_run()
        signal.raise_signal(signal.SIGTERM)
        assert await reading.get() == "the end"
        assert server_signals == [signal.SIGTERM]
        # Publishing works until the lifespan ends.
        await client.publish("a", b"")
        assert client.connected


async def test_lifespans_of_two_clients(hyps_hub: MemoryHub, server_signals: list[int]) -> None:
    one, other = hyps.connect(hyps_hub.url), hyps.connect(hyps_hub.url)
    first, second = lifespan(one), lifespan(other)
    await first.__aenter__()
    await second.__aenter__()
    async with other.subscribe("a") as subscription:
        # In an order that is not that of a stack.
        await first.__aexit__(None, None, None)
        signal.raise_signal(signal.SIGTERM)
        assert [item async for item in subscription] == []
    assert server_signals == [signal.SIGTERM]
    await second.__aexit__(None, None, None)
    signal.raise_signal(signal.SIGTERM)
    assert server_signals == [signal.SIGTERM] * 2
    # What the first one left in front of the server's does nothing.
    restore(server_signals)


def restore(received: list[int]) -> None:
    """Find the server's handler behind those that were left, and put it in front."""
    handler: Any = signal.getsignal(signal.SIGTERM)
    while hasattr(handler, "__self__"):
        handler = handler.__self__._previous
    signal.signal(signal.SIGTERM, handler)


async def test_a_signal_that_nobody_handles_is_left_alone(hyps_hub: MemoryHub) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert before is signal.SIG_DFL
    async with lifespan(hyps.connect(hyps_hub.url)):
        assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_signals_are_left_alone(
    hyps_hub: MemoryHub, server_signals: list[int]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    async def run() -> None:
        async with lifespan(hyps.connect(hyps_hub.url)):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=lambda: anyio.run(run))
    thread.start()
    thread.join()
    assert seen == [before]


async def test_a_framework_without_a_lifespan(hyps_hub: MemoryHub) -> None:
    client = hyps.connect(hyps_hub.url)
    requests: list[str] = []

    async def framework(scope: Any, receive: Any, send: Any) -> None:
        requests.append(scope["type"])
        await send({"type": "done"})

    app = with_lifespan(framework, lifespan(client))
    async with exchanging(app, "lifespan.shutdown", type="lifespan") as exchange:
        exchange.send(type="lifespan.startup")
        assert (await exchange.receive())["type"] == "lifespan.startup.complete"
        await client.publish("a", b"")
        async with exchanging(app, "http.disconnect") as request:
            assert (await request.receive())["type"] == "done"
        exchange.send(type="lifespan.shutdown")
        assert (await exchange.receive())["type"] == "lifespan.shutdown.complete"
    assert requests == ["http"]
    assert not client.connected


async def test_a_framework_without_a_lifespan_and_no_hub() -> None:
    async def framework(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    app = with_lifespan(framework, lifespan(hyps.connect("memory://a", token="x"), wait=False))
    with MemoryHub(token="secret") as hub:
        app = with_lifespan(framework, lifespan(hyps.connect(hub.url), wait=False))
        async with exchanging(app, "lifespan.shutdown", type="lifespan") as exchange:
            exchange.send(type="lifespan.startup")
            failed = await exchange.receive()
            assert failed["type"] == "lifespan.startup.failed"
            assert "token" in failed["message"]
        await wait_until(lambda: isinstance(exchange.error, hyps.AuthenticationFailed))
