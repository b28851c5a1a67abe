"""Subscriptions as async generators, for frameworks that take one."""

from __future__ import annotations

import gc
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import let_others_run, wait_until

import hyps
from hyps.asgi import Event, events, sse
from hyps.protocol import Limits
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(hyps_hub: MemoryHub) -> AsyncIterator[hyps.Client]:
    async with hyps.connect(hyps_hub.url, reconnect_max_delay=0.01) as client:
        yield client


async def test_a_stream_of_bytes(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    async with aclosing(sse(client.subscribe("a", gaps=True))) as stream:
        assert await anext(stream) == b": ping\n\n"
        hyps_hub.drop_next(1)
        await client.publish_many([("a", "1"), ("a", "2")])
        chunk = await anext(stream)
        while b"data: 2" not in chunk:
            chunk += await anext(stream)
        assert chunk.startswith(b'event: gap\ndata: {"channel": "a", "missed": 1')
    await client.flush()
    assert hyps_hub.broker.channels == 0


async def test_a_stream_of_events(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    async def publish() -> None:
        # The generator subscribes when it is asked for its first item.
        await wait_until(lambda: hyps_hub.broker.channels == 1)
        await client.publish_many([("a", "1"), ("a", "2")])

    async with (
        aclosing(events(client.subscribe("a", gaps=True))) as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(publish)
        assert await anext(stream) == Event("1")
        assert await anext(stream) == Event("2")
        client.end_subscriptions()
        assert await anext(stream, None) is None


async def test_bad_names_and_options_are_told_at_the_call(client: hyps.Client) -> None:
    with pytest.raises(hyps.InvalidChannel):
        sse(client.subscribe("a\nb"))
    with pytest.raises(ValueError, match="ping"):
        sse(client.subscribe("a"), ping=0)
    with pytest.raises(ValueError, match="send_timeout"):
        events(client.subscribe("a"), send_timeout=0)


async def test_without_a_hub_the_browser_is_told_to_come_back(client: hyps.Client) -> None:
    client.end_subscriptions()
    assert [chunk async for chunk in sse(client.subscribe("a"), retry=7)] == [b"retry: 7\n\n"]
    assert [event async for event in events(client.subscribe("a"))] == []


async def test_what_the_hub_denies_is_an_event() -> None:
    with MemoryHub(limits=Limits(max_channels=1)) as hub:
        async with hyps.connect(hub.url) as client:
            [chunk] = [chunk async for chunk in sse(client.subscribe("a", "b"))]
            assert b"event: refused\n" in chunk
            [event] = [event async for event in events(client.subscribe("a", "b"))]
            assert event.event == "refused"
            assert json.loads(event.data)["error"] == "PermissionDenied"


async def test_a_generator_that_is_not_asked_any_more_leaves(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    stream = sse(client.subscribe("a"), send_timeout=0.01)
    await anext(stream)
    # It is suspended, and its consumer stuck.
    await wait_until(lambda: hyps_hub.broker.channels == 0)
    # If the consumer comes back after all, that is the end.
    assert await anext(stream, None) is None


# Trio warns of every generator that is abandoned.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_a_generator_that_is_abandoned_leaves(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    stream = sse(client.subscribe("a"))
    await anext(stream)
    del stream
    gc.collect()
    await wait_until(lambda: hyps_hub.broker.channels == 0)
    await let_others_run()


async def test_latest_has_no_gaps(client: hyps.Client) -> None:
    async with aclosing(sse(client.subscribe("a", gaps=True, overflow="latest"))) as stream:
        await anext(stream)
        await client.publish_many([("a", str(number)) for number in range(10)])
        assert await anext(stream) == b"data: 9\n\n"
