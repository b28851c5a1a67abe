"""Context variables of those who use a client, which must not live as long as it does."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import let_others_run, wait_until
from support.peers import connected_to_script

import hyps
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio


class Request:
    """What a framework keeps in a context variable."""


current: ContextVar[Request | None] = ContextVar("current", default=None)


async def in_a_request(call: Callable[[], Awaitable[object]]) -> weakref.ref[Request]:
    """Call something as a handler does, in a task with a context of its own."""
    references: list[weakref.ref[Request]] = []

    async def handle() -> None:
        request = Request()
        references.append(weakref.ref(request))
        current.set(request)
        await call()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handle)
    return references[0]


async def is_gone(reference: weakref.ref[Request]) -> bool:
    # The event loop still has what has just ended.
    await let_others_run()
    gc.collect()
    return reference() is None


@pytest.mark.parametrize("url", ["memory://context", None])
async def test_the_request_that_connects(url: str | None) -> None:
    async with hyps.Server(port=0) as server:
        client = hyps.connect(url or server.urls[0])
        reference = await in_a_request(client.connect)
        await client.publish("a", b"")
        assert await is_gone(reference)
        assert client.connected
        await client.shutdown()


async def test_the_request_with_which_the_writer_starts() -> None:
    async with connected_to_script() as (client, session):

        async def fill() -> None:
            # More than the sockets take.
            while True:
                try:
                    client.publish_nowait("a", bytes(1_000_000))
                except hyps.WouldBlock:
                    return
                await let_others_run(2)

        reference = await in_a_request(fill)
        assert await is_gone(reference)
        # It is still at it.
        with pytest.raises(hyps.WouldBlock):
            client.publish_nowait("a", b"")
        assert client.connected
        await session.reset()


async def test_the_request_that_is_the_first_over_a_transport_without_a_socket() -> None:
    async with hyps.connect("memory://context") as client:
        reference = await in_a_request(lambda: client.publish("a", b""))
        assert await is_gone(reference)


async def test_the_request_that_subscribes_and_the_one_that_leaves() -> None:
    async with hyps.Server(port=0) as server, hyps.connect(server.urls[0]) as client:
        subscription = client.subscribe("a")
        entering = await in_a_request(subscription.__aenter__)
        assert await is_gone(entering)
        leaving = await in_a_request(lambda: subscription.__aexit__(None, None, None))
        assert await is_gone(leaving)
        await client.flush()


async def test_the_request_during_which_it_connects_again() -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url, reconnect_max_delay=0.01) as client:
            hub.connections[0].cut()
            await wait_until(lambda: not client.connected)
            reference = await in_a_request(lambda: client.publish("a", b""))
            assert client.connected
            assert await is_gone(reference)


async def test_no_variable_is_seen_by_what_logs_for_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []

    def look(_: object) -> bool:
        seen.append(current.get())
        return True

    caplog.handler.addFilter(look)
    try:
        with MemoryHub() as hub:
            client = hyps.connect(hub.url, reconnect_max_delay=0.01)
            await in_a_request(client.connect)
            hub.connections[0].cut()
            await wait_until(lambda: not client.connected)
            await client.connect()
            await client.shutdown()
    finally:
        caplog.handler.removeFilter(look)
    assert seen
    assert set(seen) == {None}
