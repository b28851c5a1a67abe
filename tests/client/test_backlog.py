"""Publishing more than the hub reads: the backlog's bound, and waiting for room."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import (
    Outcome,
    begin,
    data_of,
    let_others_run,
    numbered,
    publish_one,
    publish_some,
)
from support.peers import connected_to_script

import hyps
from hyps.protocol import Limits, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import TaskGroup
    from support.helpers import PublishOne
    from support.peers import Peer

pytestmark = pytest.mark.anyio

#: One of them fills the backlog of a client with SMALL limits.
LARGE = bytes(10_000)
SMALL = Limits(max_backlog=1_000)


async def stall(client: hyps.Client) -> int:
    """Publish to a hub that does not read, until there is no room; give how many it took."""
    published = 0
    is_stalled = False
    while not is_stalled:
        try:
            client.publish_nowait("foo_ch", LARGE)
            published += 1
        except hyps.WouldBlock:
            # Unless the sockets' buffers still take some.
            await let_others_run()
            with contextlib.suppress(hyps.WouldBlock):
                client.publish_nowait("foo_ch", LARGE)
                published += 1
                continue
            is_stalled = True
    return published


@asynccontextmanager
async def stalled_client() -> AsyncIterator[
    tuple[hyps.Client, Peer, Callable[[], Awaitable[None]]]
]:
    """Give a client without room, its hub's end, and what makes the hub read and answer all."""
    async with connected_to_script(limits=SMALL) as (client, session):
        published = await stall(client)

        async def relieve() -> None:
            await session.answer_publish(b"k" * published)

        yield client, session, relieve


async def test_publishing_to_a_hub_that_does_not_read() -> None:
    async with stalled_client() as (client, session, _), anyio.create_task_group() as tasks:
        with pytest.raises(anyio.WouldBlock) as caught:
            client.publish_nowait("foo_ch", b"")
        assert isinstance(caught.value, hyps.WouldBlock)
        one = begin(tasks, client.publish, "foo_ch", b"waits")
        many = begin(tasks, client.publish_many, [("foo_ch", b"waits too")])
        await let_others_run()
        for waiting in (one, many):
            assert not waiting.is_known
        await session.reset()
        # They were not begun, but this client's do not wait for another connection.
        for waiting in (one, many):
            with pytest.raises(hyps.ConnectionLost):
                await waiting.get()


@pytest.mark.parametrize("excess", [0, 1])
async def test_the_backlogs_bound(excess: int) -> None:
    record = encode("foo_ch", LARGE)
    # Each batch counts its bytes and 64.
    limits = Limits(max_backlog=len(record) + 64 + excess)
    async with connected_to_script(limits=limits) as (client, session):
        await let_others_run()
        # It is sent at once, and what follows has its answer to wait for.
        client.publish_nowait("foo_ch", b"")
        for _ in range(1 + excess):
            client.publish_nowait("foo_ch", LARGE)
        with pytest.raises(hyps.WouldBlock):
            client.publish_nowait("foo_ch", LARGE)
        await session.answer_publish()
        await session.answer_publish(b"k" * (1 + excess))
        await client.flush()
        client.publish_nowait("foo_ch", LARGE)
        await session.answer_publish()


async def begin_in_order(
    tasks: TaskGroup, count: int, function: Callable[..., Awaitable[None]], *arguments: object
) -> list[Outcome[None]]:
    """Call in so many tasks, one after the other."""
    outcomes = []
    for _ in range(count):
        outcomes.append(begin(tasks, function, *arguments))
        await let_others_run(5)
    return outcomes


async def test_those_who_wait_for_room_get_it() -> None:
    async with stalled_client() as (client, session, relieve), anyio.create_task_group() as tasks:
        outcomes = []
        for channel, data in numbered("foo_ch", 20):
            outcomes += await begin_in_order(tasks, 1, client.publish, channel, data)
        await relieve()
        sent = await session.answer_publish(b"k" * 20)
        assert sorted(sent) == sorted(data_of(numbered("foo_ch", 20)))
        for outcome in outcomes:
            await outcome.get()


async def test_a_wait_for_room_is_cancelled() -> None:
    async with stalled_client() as (client, session, relieve), anyio.create_task_group() as tasks:
        [first] = await begin_in_order(tasks, 1, client.publish, "foo_ch", b"first")
        [second] = await begin_in_order(tasks, 1, client.publish, "foo_ch", b"second")
        await first.cancel()
        await relieve()
        assert await session.answer_publish() == [b"second"]
        await second.get()


@pytest.mark.parametrize("publish", [publish_one, publish_some])
async def test_those_who_wait_for_room_are_not_held_up_by_bad_ones(publish: PublishOne) -> None:
    async with stalled_client() as (client, session, relieve), anyio.create_task_group() as tasks:
        bad = await begin_in_order(tasks, 10, publish, client, "", b"")
        [good] = await begin_in_order(tasks, 1, client.publish, "foo_ch", b"good")
        await relieve()
        assert await session.answer_publish() == [b"good"]
        await good.get()
        for outcome in bad:
            with pytest.raises(hyps.InvalidChannel):
                await outcome.get()


async def test_those_who_wait_for_room_are_not_held_up_by_empty_ones() -> None:
    async with stalled_client() as (client, session, relieve), anyio.create_task_group() as tasks:
        empty = await begin_in_order(tasks, 10, client.publish_many, [])
        [good] = await begin_in_order(tasks, 1, client.publish, "foo_ch", b"good")
        await relieve()
        assert await session.answer_publish() == [b"good"]
        for outcome in (*empty, good):
            await outcome.get()


async def test_shutdown_ends_the_wait_for_room() -> None:
    limits = Limits(max_backlog=1_000, close_timeout=0.01)
    async with (
        connected_to_script(limits=limits) as (client, _),
        anyio.create_task_group() as tasks,
    ):
        await stall(client)
        [waiting] = await begin_in_order(tasks, 1, client.publish, "foo_ch", b"")
        await client.shutdown()
        with pytest.raises(hyps.ConnectionLost, match="shut down"):
            await waiting.get()
