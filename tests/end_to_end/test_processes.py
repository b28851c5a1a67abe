"""Hubs and clients as processes: killed, stopped, told to end while everybody is busy."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from support.helpers import (
    PATIENCE,
    Outcome,
    begin,
    healthy_neighbours,
    let_others_run,
    wait_until,
)
from support.ledger import Account, Ledger
from support.peers import raw_client, subscribe_frame
from support.processes import PYTHON, in_thread, running

import hyps
from hyps import Connected, Disconnected, Gap, Message, Reconnected
from hyps.protocol import Kind, Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

#: Seconds that anything may take longer than promised here: the machine has other things to do.
NOISE: Final = 2

#: Seconds; the shortest there is.
HEARTBEAT: Final = 1

#: Seconds in which a peer that has stopped is noticed: three intervals.
NOTICED: Final = 3 * HEARTBEAT + NOISE

#: Seconds that a hub gives the sessions to end.
CLOSE_TIMEOUT: Final = 0.5


async def expect_lost(events: AsyncIterator[hyps.ConnectionEvent], url: str) -> None:
    event = await anext(events)
    assert isinstance(event, Disconnected)
    assert event.hub == url


async def test_the_hub_is_killed_and_comes_back(backend: str) -> None:
    async with AsyncExitStack() as stack:
        options = ("--backend", backend)
        hub = stack.enter_context(running("serve", "--port", "0", *options))
        url = await in_thread(hub.read_url)
        # Several, as how long each one waits is at random.
        clients = [
            await stack.enter_async_context(hyps.connect(url, reconnect_max_delay=0.5))
            for _ in range(10)
        ]
        subscriptions = [
            await stack.enter_async_context(client.subscribe("a", "b", gaps=True))
            for client in clients
        ]
        events = [client.events() for client in clients]
        for each in events:
            assert await anext(each) == Connected(url)
        await clients[0].publish("a", b"before")
        for subscription in subscriptions:
            assert await subscription.receive() == Message("a", b"before")

        hub.stop()
        one = clients[0]
        one.publish_nowait("a", b"")
        async with anyio.create_task_group() as tasks:
            in_flight: list[Outcome[Any]] = [
                begin(tasks, one.publish, "a", b""),
                begin(tasks, one.publish_many, [("a", b"")] * 10),
                begin(tasks, one.flush),
                begin(tasks, subscriptions[0].subscribe, "c"),
                begin(tasks, subscriptions[0].unsubscribe, "b"),
                begin(tasks, one.subscribe("d").__aenter__),
            ]
            await let_others_run()
            assert not any(outcome.is_known for outcome in in_flight)
            hub.process.kill()
            for outcome in in_flight:
                with pytest.raises(hyps.ConnectionLost):
                    await outcome.get()
        with anyio.fail_after(PATIENCE):
            for each in events:
                await expect_lost(each, url)

        again = stack.enter_context(running("serve", "--port", url.rpartition(":")[2], *options))
        assert await in_thread(again.read_url) == url
        with anyio.fail_after(1 + NOISE):
            for each in events:
                # It may be told why there was no hub, meanwhile.
                while isinstance(event := await anext(each), Disconnected):
                    assert "connection refused" in event.reason
                assert event == Reconnected(url)
        for subscription in subscriptions:
            assert subscription.missed_unknown
            for channel in sorted(subscription.channels):
                assert await subscription.receive() == Gap(channel, None, "reconnect")
        assert subscriptions[0].channels == {"a"}
        await one.publish("a", b"after")
        for subscription in subscriptions:
            assert await subscription.receive() == Message("a", b"after")
            assert subscription.missed == 0


async def position_of(url: str, channel: str) -> int:
    """Ask a hub how many messages of a channel it took since the first one subscribed."""
    async with raw_client(url) as raw:
        await raw.send(subscribe_frame(channel))
        [(_, answer)] = await raw.expect_messages(Kind.SUBSCRIBE_ACK)
        return int(answer.rpartition(b":")[2])


class Stream:
    """Numbers that are published in a channel one after the other, and what arrives of them."""

    def __init__(self, subscription: hyps.Subscription[Message | Gap]) -> None:
        self.issued = 0
        self.acked: list[int] = []
        self.lost = 0
        self.read: list[int] = []
        self.gaps: list[Gap] = []
        self.is_over = False
        self._subscription = subscription

    @property
    def missed(self) -> int:
        return sum(gap.missed or 0 for gap in self.gaps)

    async def publish(self, client: hyps.Client, channel: str) -> None:
        while not self.is_over:
            number = self.issued
            self.issued += 1
            try:
                await client.publish(channel, str(number))
            except hyps.ConnectionLost:
                self.lost += 1
            else:
                self.acked.append(number)

    async def receive(self) -> None:
        async for item in self._subscription:
            if isinstance(item, Gap):
                self.gaps.append(item)
            else:
                self.read.append(int(item.data))


async def stop_a_hub(backend: str) -> None:
    async with AsyncExitStack() as stack:
        limits = ("--limit", f"heartbeat={HEARTBEAT}")
        hub = stack.enter_context(running("serve", "--port", "0", "--backend", backend, *limits))
        url = await in_thread(hub.read_url)
        reader = await stack.enter_async_context(hyps.connect(url))
        writer = await stack.enter_async_context(hyps.connect(url))
        subscription = await stack.enter_async_context(reader.subscribe("a", gaps=True))
        events = [reader.events(), writer.events()]
        for each in events:
            await anext(each)
        stream = Stream(subscription)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        receiving = begin(tasks, stream.receive)
        publishing = begin(tasks, stream.publish, writer, "a")
        await wait_until(lambda: len(stream.read) > 100)
        hub.stop()
        with anyio.fail_after(NOTICED):
            for each in events:
                await expect_lost(each, url)
        assert not stream.gaps
        hub.go_on()
        with anyio.fail_after(PATIENCE):
            for each in events:
                assert await anext(each) == Reconnected(url)
        before = len(stream.read)
        await wait_until(lambda: len(stream.read) > before + 100)
        stream.is_over = True
        await publishing.get()

        # The channel was kept, so the number is known.
        position = await position_of(url, "a")
        await wait_until(lambda: len(stream.read) + stream.missed == position)
        assert {(gap.channel, gap.reason) for gap in stream.gaps} <= {("a", "reconnect")}
        assert (subscription.missed, subscription.missed_unknown) == (stream.missed, False)
        assert stream.read == sorted(set(stream.read))
        assert stream.lost == 1
        assert len(stream.acked) <= position <= stream.issued
        assert len(set(stream.acked).difference(stream.read)) <= stream.missed
        await receiving.cancel()


READER: Final = """
import sys, anyio, hyps

async def main():
    async with (
        hyps.connect(sys.argv[1], reconnect_max_delay=0.1) as client,
        client.subscribe("stopped", gaps=True) as subscription,
    ):
        print("subscribed", flush=True)
        due = read = 0
        async for item in subscription:
            if isinstance(item, hyps.Gap):
                due += item.missed
            elif item.data == b"the end":
                break
            else:
                assert int(item.data.split()[0]) == due
                due += 1
                read += 1
        print(read, due - read)

if sys.argv[2] == "trio":
    anyio.run(main, backend="trio")
else:
    anyio.run(main, backend_options={"use_uvloop": sys.argv[2] == "uvloop"})
"""


async def stop_a_client(backend: str) -> None:
    limits = Limits(heartbeat=HEARTBEAT, max_buffer=1_000_000)
    async with hyps.Server(port=0, limits=limits) as server, healthy_neighbours(server):
        [url] = server.urls
        async with hyps.connect(url) as writer:
            before = set(server.broker.sessions)
            with running(url, backend, program=(*PYTHON, "-c", READER)) as child:
                assert await in_thread(child.read_line, child.process.stdout) == "subscribed\n"
                [session] = server.broker.sessions - before
                ledger = Ledger(writer)
                await ledger.publish(["stopped"], rounds=100)
                child.stop()
                while not server.broker.missed:
                    await ledger.publish(["stopped"], rounds=10, size=100_000)
                assert session.backlog >= limits.max_buffer
                with anyio.fail_after(NOTICED):
                    while session in server.broker.sessions:
                        await let_others_run()
                # It is gone with its channel, and soon with what was queued for it.
                assert server.broker.sessions == before
                assert server.broker.channels == 1
                assert session.backlog < limits.max_buffer
                await wait_until(lambda: session.backlog == 0)
                await ledger.publish(["stopped"], rounds=10)

                child.go_on()
                await wait_until(lambda: server.broker.channels == 2)
                await writer.publish("stopped", b"the end")
                read, missed = map(
                    int, (await in_thread(child.read_line, child.process.stdout)).split()
                )
                assert read >= 100
                assert missed >= 10
                assert read + missed == ledger.published["stopped"]
                code, _, _ = await in_thread(child.end)
                assert code == 0


async def test_who_stops_is_noticed_and_goes_on(backend: str) -> None:
    # Side by side, as most of it is waiting.
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_a_hub, backend)
        tasks.start_soon(stop_a_client, backend)


async def publish_until_lost(ledger: Ledger, channel: str) -> int:
    """Publish as fast as ACKs come; give how many of them came."""
    acked = 0
    with suppress(hyps.ConnectionLost, hyps.Unavailable):
        while True:
            await ledger.publish([channel], rounds=200, size=1_000)
            acked = ledger.published[channel]
    return acked


async def read_until_unknown(account: Account) -> None:
    """Read all that comes from one run of a hub, of one channel."""
    while True:
        for item in await account.subscription.receive_many():
            account.take(item)
            if isinstance(item, Gap) and item.missed is None:
                return


async def test_the_hub_is_told_to_end_while_all_are_busy(backend: str) -> None:
    channels = ["a", "b"]
    async with AsyncExitStack() as stack:
        limits = ("--limit", f"close_timeout={CLOSE_TIMEOUT}", "--limit", "max_buffer=100000")
        hub = stack.enter_context(running("serve", "--port", "0", "--backend", backend, *limits))
        url = await in_thread(hub.read_url)
        ledgers: dict[str, Ledger] = {}
        for channel in channels:
            client = hyps.connect(url, when_disconnected="raise")
            ledgers[channel] = Ledger(await stack.enter_async_context(client))
        accounts: dict[str, list[Account]] = {channel: [] for channel in channels}
        for bounds in ({}, {"max_messages": 30}, {"max_messages": 30, "overflow": "drop_oldest"}):
            client = await stack.enter_async_context(hyps.connect(url, reconnect_max_delay=0.1))
            for channel, ledger in ledgers.items():
                subscription = client.subscribe(channel, gaps=True, **bounds)
                await stack.enter_async_context(subscription)
                accounts[channel].append(Account(ledger, subscription))
        # It does not go when it is asked to.
        await stack.enter_async_context(raw_client(url))

        tasks = await stack.enter_async_context(anyio.create_task_group())
        reading = [
            begin(tasks, read_until_unknown, account)
            for channel in channels
            for account in accounts[channel]
        ]
        publishing = {
            channel: begin(tasks, publish_until_lost, ledger, channel)
            for channel, ledger in ledgers.items()
        }
        await wait_until(
            lambda: all(ledgers[channel].published[channel] > 10_000 for channel in channels)
        )
        hub.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(CLOSE_TIMEOUT + NOISE):
            code, _, err = await in_thread(hub.end)
        assert code == 0
        assert err.splitlines()[-1] == "hyps: closed"
        assert "WARNING" not in err
        assert "ERROR" not in err

        async with hyps.Server(port=int(url.rpartition(":")[2])):
            # Now they know that there was all that there is of the first hub.
            for each in reading:
                await each.get()
            for channel, outcome in publishing.items():
                acked = await outcome.get()
                assert acked > 0
                for account in accounts[channel]:
                    assert account.due[channel] >= acked
                    await account.close()
