"""Every cause of loss, over real sockets: what was published was read, or is in a gap in its place.

The publisher's connection is left in peace, so that it is known what was published; the other
client's goes through a proxy. The account checks each message and each gap as it is read.
"""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import anyio
import pytest
from support.helpers import (
    PATIENCE,
    begin,
    let_others_run,
    port_of,
    reason_of_loss,
    take,
    wait_until,
)
from support.ledger import Account, Ledger
from support.proxy import Proxy, Way, proxy_to

import hyps
from hyps import Gap, Reconnected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TypeAlias

    from hyps import Message

    Overflow: TypeAlias = Literal["drop_newest", "drop_oldest", "latest"]
    Subscription: TypeAlias = hyps.Subscription[Message | Gap]

pytestmark = pytest.mark.anyio

#: Messages that are more than what the systems buffer for a connection that nobody reads.
ROUNDS = 1_500
SIZE = 16_384


class Scene:
    """A hub, a publisher that nothing happens to, and a client behind a proxy.

    :param client: behind the proxy
    :param ledger: of the publisher
    """

    def __init__(
        self, server: hyps.Server, proxy: Proxy, client: hyps.Client, ledger: Ledger
    ) -> None:
        self.server = server
        self.proxy = proxy
        self.client = client
        self.ledger = ledger
        self._events = client.events()

    @asynccontextmanager
    async def account(
        self, *channels: str, overflow: Overflow = "drop_newest", max_messages: int = 100_000
    ) -> AsyncIterator[Account]:
        subscription = self.client.subscribe(
            *channels,
            gaps=True,
            overflow=overflow,
            max_messages=max_messages,
            max_bytes=64 * 1024 * 1024,
        )
        async with subscription:
            yield Account(self.ledger, subscription)

    async def cut(self) -> None:
        """Cut the client's connection; it stays so until the proxy restores it."""
        self.proxy.cut()
        await self.see_loss()

    async def see_loss(self) -> None:
        """Wait until both ends know."""
        await wait_until(lambda: not self.client.connected)
        await wait_until(lambda: len(self.server.broker.sessions) == 1)

    async def overflow(self, *channels: str) -> None:
        """Publish more than the hub can send to a client that does not read."""
        self.proxy.hold(Way.TO_CLIENT)
        missed = self.server.broker.missed
        await self.ledger.publish(channels, ROUNDS, SIZE)
        assert self.server.broker.missed > missed


@asynccontextmanager
async def scene(
    *, heartbeat: int = 20, keep_time: float = 60, max_buffer: int = 1_000_000
) -> AsyncIterator[Scene]:
    limits = hyps.Limits(heartbeat=heartbeat, keep_time=keep_time, max_buffer=max_buffer)
    async with (
        hyps.Server(port=0, limits=limits) as server,
        proxy_to(port_of(server)) as proxy,
        hyps.connect(server.urls[0]) as publisher,
        hyps.connect(proxy.url, reconnect_max_delay=0.01) as client,
    ):
        yield Scene(server, proxy, client, Ledger(publisher))


def reasons(gaps: list[Gap]) -> set[str]:
    return {gap.reason for gap in gaps}


# Buffers


async def test_the_hubs_buffer_is_full() -> None:
    async with (
        scene() as s,
        hyps.connect(s.server.urls[0]) as other,
        other.subscribe("a", max_messages=100_000, max_bytes=2**28) as neighbour,
        s.account("a", "b") as account,
    ):
        await s.overflow("a", "b")
        # Nothing is published any more: the last gap is told all the same.
        s.proxy.release()
        await account.settle()
        gaps = account.take_gaps()
        assert reasons(gaps) == {"hub"}
        assert {gap.channel for gap in gaps} == {"a", "b"}
        assert len(await take(neighbour, ROUNDS)) == ROUNDS
        assert neighbour.missed == 0
        # And it goes on.
        await s.ledger.publish("ab", 3)
        await account.settle()
        assert not account.take_gaps()


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "latest"])
async def test_the_subscriptions_buffer_is_full(overflow: Overflow) -> None:
    async with (
        scene() as s,
        s.account("a", "b", overflow=overflow, max_messages=7) as account,
        s.account("a", "b") as neighbour,
    ):
        for rounds in (3, 20, 1, 50):
            await s.ledger.publish("ab", rounds)
            # It has been given everything too.
            await neighbour.settle()
            await account.settle()
        assert reasons(account.take_gaps()) == {"client"}
        assert account.subscription.missed > 0
        assert not neighbour.take_gaps()


async def test_the_subscription_closes_when_its_buffer_is_full() -> None:
    async with (
        scene() as s,
        s.account("a") as neighbour,
        s.client.subscribe("a", overflow="close", max_messages=7) as subscription,
    ):
        await s.ledger.publish("a", 20)
        await neighbour.settle()
        read = await take(subscription, 7)
        assert [int(message.data) for message in read] == list(range(7))
        with pytest.raises(hyps.SubscriptionOverflow):
            await subscription.receive()
        # What came after the end was not for it.
        assert 0 < subscription.missed <= 13
        assert not neighbour.take_gaps()


async def test_both_buffers_are_full() -> None:
    async with scene() as s, s.account("a", "b", max_messages=20) as account:
        await s.overflow("a", "b")
        s.proxy.release()
        async with s.account("c") as last:
            await s.ledger.publish("c")
            await last.settle()
        await account.settle()
        assert reasons(account.take_gaps()) == {"client", "hub"}


# Connections


async def test_the_connection_is_cut() -> None:
    async with scene() as s, s.account("a", "b", "c") as account:
        await s.ledger.publish("abc", 3)
        await account.settle()
        await s.cut()
        await s.ledger.publish("a", 5)
        await s.ledger.publish("b", 7)
        s.proxy.restore()
        # Nothing is published: it is told all the same.
        await account.settle()
        gaps = account.take_gaps()
        assert sorted(gaps, key=lambda gap: gap.channel) == [
            Gap("a", 5, "reconnect"),
            Gap("b", 7, "reconnect"),
        ]
        await s.ledger.publish("abc", 3)
        await account.settle()
        assert not account.take_gaps()
        assert account.subscription.missed == 12
        assert not account.subscription.missed_unknown


async def test_it_is_cut_while_messages_are_on_their_way() -> None:
    async with scene() as s, s.account("a", "b") as account:
        s.proxy.hold(Way.TO_CLIENT)
        await s.ledger.publish("ab", 50)
        await s.cut()
        s.proxy.release()
        await s.ledger.publish("ab", 5)
        s.proxy.restore()
        await account.settle()
        assert reasons(account.take_gaps()) == {"reconnect"}
        assert 10 <= account.subscription.missed <= 110


async def test_it_is_cut_again_before_it_is_restored() -> None:
    async with scene() as s:
        welcome = s.proxy.passed[Way.TO_CLIENT]
        async with s.account("a", "b") as account:
            await s.ledger.publish("ab", 2)
            await account.settle()
            await s.cut()
            # The hub lets the client in, and the client knows of none or of one channel.
            for count in (1, 9, 40):
                await s.ledger.publish("ab", 5)
                happened = s.proxy.reset_after(Way.TO_CLIENT, welcome + count)
                s.proxy.restore()
                await happened.wait()
                await s.see_loss()
                await s.ledger.publish("ab", 5)
            assert not account.subscription.missed_unknown
            s.proxy.restore()
            await account.settle()
            assert reasons(account.take_gaps()) == {"reconnect"}
            assert account.subscription.missed == 60


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 30, 95, 400])
async def test_it_is_reset_within_a_frame(way: Way, count: int) -> None:
    async with scene() as s, s.account("a", "b") as account:
        happened = s.proxy.reset_after(way, count)
        await s.ledger.publish("ab", 20, size=50)
        # Something goes the other way too.
        with contextlib.suppress(hyps.ConnectionLost):
            await s.client.publish_many([("elsewhere", bytes(100))] * 20)
        await happened.wait()
        await s.see_loss()
        await s.ledger.publish("ab", 5)
        s.proxy.restore()
        await account.settle()
        assert reasons(account.take_gaps()) == {"reconnect"}
        assert account.subscription.missed >= 10


async def test_it_is_half_open() -> None:
    async with scene(heartbeat=1) as s, s.account("a") as account:
        await s.ledger.publish("a", 2)
        await account.settle()
        s.proxy.swallow()
        await s.ledger.publish("a", 5)
        # Both ends find out, each by itself; the client is back meanwhile.
        events = s.client.events()
        with anyio.fail_after(PATIENCE):
            while not isinstance(await anext(events), Reconnected):
                pass
        await s.ledger.publish("a", 2)
        await account.settle()
        assert account.take_gaps() == [Gap("a", 5, "reconnect")]
        await wait_until(lambda: len(s.server.broker.sessions) == 2)


async def test_it_is_slow() -> None:
    async with scene() as s, s.account("a", "b") as account:
        s.proxy.is_trickling = True
        await s.ledger.publish("ab", 50)
        async with s.account("c") as other:
            await s.ledger.publish("abc", 10)
            await other.settle()
        await account.settle()
        assert not account.take_gaps()
        assert s.client.connected


async def test_the_hub_has_dropped_messages_before_the_cut() -> None:
    async with scene() as s, s.account("a", "b") as account:
        await s.overflow("a", "b")
        await s.cut()
        s.proxy.release()
        await s.ledger.publish("a", 5)
        s.proxy.restore()
        await account.settle()
        # What was dropped and not told yet is in the reconnect's gap.
        assert "reconnect" in reasons(account.take_gaps())


async def test_the_hub_has_told_what_it_dropped_before_the_cut() -> None:
    async with scene() as s, s.account("a", "b") as account:
        await s.overflow("a", "b")
        s.proxy.release()
        await account.settle()
        assert reasons(account.take_gaps()) == {"hub"}
        await s.cut()
        await s.ledger.publish("b", 5)
        s.proxy.restore()
        await account.settle()
        assert account.take_gaps() == [Gap("b", 5, "reconnect")]


# Channels and subscriptions that change


async def test_channels_change_while_there_is_no_connection() -> None:
    async with scene() as s, s.account("a", "b") as account:
        await s.cut()
        subscription = account.subscription
        async with anyio.create_task_group() as tasks:
            joining = begin(tasks, subscription.subscribe, "c", "d")
            await let_others_run()
            # Without a hub to ask.
            await subscription.unsubscribe("b", "d")
            account.leave("b")
            await s.ledger.publish("abcd", 5)
            s.proxy.restore()
            await joining.get()
        assert subscription.channels == {"a", "c", "d"}
        account.join("c")
        account.join("d")
        await s.ledger.publish("abcd", 5)
        await account.settle()
        # It did not have the others before.
        assert account.take_gaps() == [Gap("a", 5, "reconnect")]
        await wait_until(lambda: s.server.broker.channels == 3)


async def test_subscriptions_share_a_channel() -> None:
    async with scene() as s, s.account("a", "b") as first, s.account("b", "c") as second:
        await s.ledger.publish("abc", 5)
        await first.settle()
        await second.settle()
        await s.cut()
        await s.ledger.publish("abc", 5)
        s.proxy.restore()
        async with s.account("b") as third:
            await s.ledger.publish("abc", 5)
            for account in (first, second, third):
                await account.settle()
            assert [account.subscription.missed for account in (first, second, third)] == [
                10,
                10,
                0,
            ]


async def test_it_is_left_with_messages_and_gaps_unread() -> None:
    async with scene() as s, s.account("a") as neighbour:
        async with s.account("a") as account:
            await s.ledger.publish("a", 5)
            await neighbour.settle()
            await s.cut()
            await s.ledger.publish("a", 5)
            s.proxy.restore()
            await neighbour.settle()
            await s.ledger.publish("a", 5)
            await neighbour.settle()
            await account.close()
        assert account.is_settled
        assert account.take_gaps() == [Gap("a", 5, "reconnect")]


# Hubs


async def test_the_hub_has_forgotten_the_channel() -> None:
    async with scene(keep_time=0.05) as s, s.account("a") as account:
        await s.ledger.publish("a", 3)
        await account.settle()
        await s.cut()
        await s.ledger.publish("a", 5)
        await wait_until(lambda: not s.server.broker.kept)
        s.proxy.restore()
        await s.client.connect()
        await s.ledger.publish("a", 3)
        await account.settle()
        assert account.take_gaps() == [Gap("a", None, "reconnect")]
        assert (account.subscription.missed, account.subscription.missed_unknown) == (0, True)


async def test_another_hub_takes_the_place() -> None:
    async with hyps.Server(port=0) as server:
        url, port = server.urls[0], port_of(server)
        client = hyps.connect(url, reconnect_max_delay=0.01)
        await client.connect()
        async with hyps.connect(url) as publisher:
            ledger = Ledger(publisher)
            subscription = await client.subscribe("a", "b", gaps=True).__aenter__()
            account = Account(ledger, subscription)
            await ledger.publish("ab", 500, size=1_000)
    # What the first one had taken it has delivered before it left.
    await reason_of_loss(client)
    async with hyps.Server(port=port):
        await client.connect()
        while not account.is_settled:
            account.take(subscription.receive_nowait())
        assert not account.take_gaps()
        async with hyps.connect(url) as publisher:
            ledger = Ledger(publisher)
            ledger.published.update({"a": 500, "b": 500})
            for item in await subscription.receive_many():
                account.take(item)
            assert account.take_gaps() == [
                Gap("a", None, "reconnect"),
                Gap("b", None, "reconnect"),
            ]
            account = Account(ledger, subscription)
            await ledger.publish("ab", 3)
            await account.settle()
        await client.shutdown()
