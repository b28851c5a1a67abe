"""Peers that are slow, or do not read at all: what they cost the hub, and what they do not."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest
from support.helpers import begin, port_of, take_data, wait_until
from support.ledger import Account, Ledger
from support.peers import raw_client
from support.processes import in_thread, running
from support.proxy import Proxy, Way

import hyps
from hyps import Connected, Disconnected
from hyps.protocol import Kind, Limits, records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from support.peers import Peer

pytestmark = pytest.mark.anyio

MIB: Final = 2**20

# Slow links

#: Seconds; the shortest there is.
HEARTBEAT: Final = 1

#: Seconds between two chunks of some 12 KiB that a slow link carries, and how many times it is
#: slow: for longer than the three intervals that a silent peer is kept.
PAUSE: Final = 0.1
PAUSES: Final = 32


@asynccontextmanager
async def slow_link_to(hub_port: int) -> AsyncIterator[Proxy]:
    """Run a proxy before a hub that buffers little in both directions."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # What it accepts inherits that.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        listener.setblocking(False)
        proxy = Proxy(hub_port, listener.getsockname()[1])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.accept, listener, tasks)
            yield proxy
            tasks.cancel_scope.cancel()


async def be_slow(proxy: Proxy, way: Way) -> None:
    """Let one chunk after the other pass, and in the end all of them."""
    for _ in range(PAUSES):
        proxy.hold(way)
        await anyio.sleep(PAUSE)
        proxy.release()


async def use_slow_links(server: hyps.Server, count: int) -> None:
    """Send and receive so many mebibytes over slow links, and stay connected."""
    messages = [bytes([number]) * MIB for number in range(count)]
    name = f"{count} MiB"
    async with (
        slow_link_to(port_of(server)) as down,
        slow_link_to(port_of(server)) as up,
        hyps.connect(server.urls[0]) as near,
        hyps.connect(down.url) as reader,
        hyps.connect(up.url) as writer,
        near.subscribe(f"{name} up", max_bytes=8 * MIB) as upward,
        reader.subscribe(f"{name} down", max_bytes=8 * MIB) as downward,
        anyio.create_task_group() as tasks,
    ):
        events = [reader.events(), writer.events()]
        links = [
            begin(tasks, be_slow, down, Way.TO_CLIENT),
            begin(tasks, be_slow, up, Way.TO_HUB),
        ]
        publishing = begin(tasks, writer.publish_many, [(f"{name} up", data) for data in messages])
        await near.publish_many([(f"{name} down", data) for data in messages])
        for link in links:
            await link.get()
        # Not even one is through.
        assert down.passed[Way.TO_CLIENT] < MIB
        assert up.passed[Way.TO_HUB] < MIB
        for subscription in (upward, downward):
            assert await take_data(subscription, count) == messages
        await publishing.get()
        await reader.shutdown()
        await writer.shutdown()
        for each in events:
            assert [type(event) async for event in each] == [Connected, Disconnected]


async def test_slow_links_that_make_progress() -> None:
    async with (
        hyps.Server(port=0, limits=Limits(heartbeat=HEARTBEAT)) as server,
        anyio.create_task_group() as tasks,
    ):
        # One that the system takes at once: nobody waits for it while it is on its way.
        tasks.start_soon(use_slow_links, server, 1)
        # More than the system takes.
        tasks.start_soon(use_slow_links, server, 5)


# Floods

#: What is queued for one session at most; see the limits.
MAX_BUFFER: Final = 4 * MIB

#: What a flood is made of. It is more than the session's bound and all that systems buffer.
SIZE: Final = 16_384
FLOOD: Final = 4_000


class Healthy:
    """A subscriber and a publisher of a channel of their own, who are to lose nothing."""

    def __init__(self, account: Account, ledger: Ledger) -> None:
        self.rounds = 0
        self.is_over = False
        self._account = account
        self._ledger = ledger

    async def run(self, each_round: Callable[[], object]) -> None:
        while not self.is_over or self.rounds < 10:
            await self._ledger.publish(["healthy"], rounds=10)
            await self._account.settle()
            self.rounds += 1
            each_round()
        assert self._account.subscription.missed == 0


@asynccontextmanager
async def healthy(url: str) -> AsyncIterator[Healthy]:
    async with (
        hyps.connect(url) as reader,
        hyps.connect(url) as writer,
        reader.subscribe("healthy", gaps=True) as subscription,
    ):
        ledger = Ledger(writer)
        yield Healthy(Account(ledger, subscription), ledger)


async def flood(ledger: Ledger, url: str, each_round: Callable[[], object]) -> None:
    """Publish to one who never reads, as fast as a hub takes it, beside others who do."""
    async with healthy(url) as neighbours, anyio.create_task_group() as tasks:
        going = begin(tasks, neighbours.run, each_round)
        await ledger.publish(["flood"], FLOOD, SIZE)
        neighbours.is_over = True
        await going.get()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
async def test_the_hubs_memory_in_a_flood(backend: str) -> None:
    limits = Limits(max_buffer=MAX_BUFFER)
    arguments = ("--backend", backend, "--limit", f"max_buffer={MAX_BUFFER}")
    with running("serve", "--port", "0", *arguments) as hub:
        url = await in_thread(hub.read_url)
        async with raw_client(url) as raw, hyps.connect(url) as publisher:
            await raw.subscribe("flood")
            before = most = hub.count_memory()

            def measure() -> None:
                nonlocal most
                most = max(most, hub.count_memory())

            await flood(Ledger(publisher), url, measure)
            assert most - before < MAX_BUFFER + limits.max_frame + 32 * MIB


async def read_to(raw: Peer, count: int) -> tuple[int, int]:
    """Read all that is published in a channel; give how many were read and how many missed."""
    due = missed = 0
    while due < count:
        kind, body = await raw.next_frame()
        for _, data in records(body):
            if kind is Kind.GAP:
                position = int(data.rpartition(b":")[2])
                assert position > due
                missed += position - due
                due = position
            else:
                assert kind is Kind.MESSAGES
                assert int(data.split(b" ", 1)[0]) == due
                due += 1
    assert due == count
    return due - missed, missed


async def test_what_is_queued_in_a_flood() -> None:
    limits = Limits(max_buffer=MAX_BUFFER)
    async with hyps.Server(port=0, limits=limits) as server:
        [url] = server.urls
        async with raw_client(url) as raw, hyps.connect(url) as publisher:
            await raw.subscribe("flood")
            [session] = [each for each in server.broker.sessions if each.channels]
            most = 0

            def measure() -> None:
                nonlocal most
                most = max(most, session.backlog)

            ledger = Ledger(publisher)
            await flood(ledger, url, measure)
            # It was full, so the bound is one.
            assert MAX_BUFFER <= most <= MAX_BUFFER + limits.max_frame
            assert session.missed > 0
            read, missed = await read_to(raw, ledger.published["flood"])
            assert read > 0
            assert missed == session.missed == server.broker.missed
            await wait_until(lambda: session.backlog == 0)
