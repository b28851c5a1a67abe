"""Several subscriptions on one connection: what is on the wire for them, races, refusals."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import PATIENCE, begin, holds, let_others_run, take_data, wait_until
from support.peers import Peer, connected_to_script

import hyps
from hyps.protocol import Kind, Limits, encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

pytestmark = pytest.mark.anyio

DENIED = b"d"


@asynccontextmanager
async def script() -> AsyncIterator[tuple[hyps.Client, Peer, TaskGroup]]:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        yield client, session, tasks


async def expect_nothing_more(client: hyps.Client, session: Peer) -> None:
    """Check that the client has sent nothing that the test did not read."""
    await let_others_run()
    client.publish_nowait("fence", b"")
    assert await session.expect_messages(Kind.PUBLISH) == [("fence", b"")]
    await session.send(encode_frame(Kind.PUBLISH_ACK, b"k"))


async def test_entering_returns_when_the_hub_has_acked() -> None:
    async with script() as (client, session, tasks):
        entering = begin(tasks, client.subscribe("a", "b").__aenter__)
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a", "b"]
        await session.answer_subscribe("a")
        await let_others_run()
        assert not entering.is_known
        await session.answer_subscribe("b")
        await entering.get()


async def test_two_subscriptions_of_a_channel_share_it_on_the_wire() -> None:
    async with script() as (client, session, _):
        first = await session.enter(client.subscribe("a"), "a")
        second = client.subscribe("a")
        await second.__aenter__()
        await expect_nothing_more(client, session)
        # One copy on the wire, one for each of them.
        await session.deliver("a", b"1")
        assert await take_data(first, 1) == [b"1"]
        assert await take_data(second, 1) == [b"1"]
        # Only the last one to leave says so.
        await first.unsubscribe("a")
        await expect_nothing_more(client, session)
        await session.deliver("a", b"2")
        assert await take_data(second, 1) == [b"2"]
        with pytest.raises(hyps.WouldBlock):
            first.receive_nowait()
        await second.__aexit__(None, None, None)
        await session.release("a")


async def test_joining_while_the_channel_is_pending() -> None:
    async with script() as (client, session, tasks):
        first = begin(tasks, client.subscribe("a").__aenter__)
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        second = begin(tasks, client.subscribe("a").__aenter__)
        await let_others_run()
        assert not first.is_known
        assert not second.is_known
        await session.answer_subscribe("a")
        await session.deliver("a", b"1")
        for entering in (first, second):
            assert await take_data(await entering.get(), 1) == [b"1"]
        await expect_nothing_more(client, session)


async def test_joining_a_pending_channel_behind_other_operations() -> None:
    async with script() as (client, session, tasks):
        first = begin(tasks, client.subscribe("a").__aenter__)
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        publishing = begin(tasks, client.publish, "b", b"")
        await session.expect(Kind.PUBLISH)
        second = begin(tasks, client.subscribe("a").__aenter__)
        await let_others_run()
        await session.answer_subscribe("a")
        await first.get()
        # It need not wait for the publish, which it does not depend on.
        await second.get()
        assert not publishing.is_known
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"d"))
        with pytest.raises(hyps.PermissionDenied):
            await publishing.get()


async def test_a_pending_channel_is_refused_to_all_who_asked() -> None:
    async with script() as (client, session, tasks):
        first = begin(tasks, client.subscribe("a", "b").__aenter__)
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a", "b"]
        second = begin(tasks, client.subscribe("b").__aenter__)
        third = begin(tasks, client.subscribe("a").__aenter__)
        await let_others_run()
        await session.answer_subscribe("a")
        await session.answer_subscribe("b", answer=DENIED)
        for refused in (first, second):
            with pytest.raises(hyps.PermissionDenied):
                await refused.get()
        # The one that did not ask for it has what it asked for.
        subscription = await third.get()
        await session.deliver("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        await expect_nothing_more(client, session)
        # Nobody was left without being told.
        await client.flush()


async def test_a_refused_subscribe_rolls_back() -> None:
    async with script() as (client, session, tasks):
        subscription = await session.enter(client.subscribe("kept"), "kept")
        subscribing = begin(tasks, subscription.subscribe, "a", "b", "kept")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a", "b"]
        await session.answer_subscribe("a")
        await session.answer_subscribe("b", answer=DENIED)
        with pytest.raises(hyps.PermissionDenied):
            await subscribing.get()
        assert subscription.channels == {"kept"}
        await session.release("a")
        # It can be asked for again.
        subscribing = begin(tasks, subscription.subscribe, "b")
        await session.grant("b")
        await subscribing.get()
        assert subscription.channels == {"kept", "b"}


async def test_a_subscription_that_could_not_be_entered_has_ended() -> None:
    async with script() as (client, session, tasks):
        subscription = client.subscribe("a")
        entering = begin(tasks, subscription.__aenter__)
        await session.grant("a", answer=DENIED)
        with pytest.raises(hyps.PermissionDenied):
            await entering.get()
        for call in (subscription.receive, subscription.subscribe, subscription.unsubscribe):
            with anyio.fail_after(PATIENCE), pytest.raises(hyps.SubscriptionClosed):
                await call()


async def test_a_channel_that_both_hold_stays_when_one_rolls_back() -> None:
    async with script() as (client, session, tasks):
        first = await session.enter(client.subscribe("shared"), "shared")
        entering = begin(tasks, client.subscribe("shared", "b").__aenter__)
        await session.grant("b", answer=DENIED)
        with pytest.raises(hyps.PermissionDenied):
            await entering.get()
        await expect_nothing_more(client, session)
        await session.deliver("shared", b"1")
        assert await take_data(first, 1) == [b"1"]


async def test_one_subscription_asks_twice_for_a_pending_channel() -> None:
    async with script() as (client, session, tasks):
        subscription = await session.enter(client.subscribe("kept"), "kept")
        first = begin(tasks, subscription.subscribe, "a")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        second = begin(tasks, subscription.subscribe, "a")
        await let_others_run()
        # The hub has not ACKed it to either of them.
        assert not second.is_known
        await session.answer_subscribe("a")
        await first.get()
        await second.get()


async def test_one_subscription_asks_twice_for_a_channel_that_is_refused() -> None:
    async with script() as (client, session, tasks):
        subscription = await session.enter(client.subscribe("kept"), "kept")
        first = begin(tasks, subscription.subscribe, "a")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        second = begin(tasks, subscription.subscribe, "a")
        await let_others_run()
        await session.answer_subscribe("a", answer=DENIED)
        for asking in (first, second):
            with pytest.raises(hyps.PermissionDenied):
                await asking.get()
        assert subscription.channels == {"kept"}


async def test_leaving_a_pending_channel() -> None:
    async with script() as (client, session, tasks):
        subscription = await session.enter(client.subscribe("kept"), "kept")
        joining = begin(tasks, subscription.subscribe, "a")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        leaving = begin(tasks, subscription.unsubscribe, "a")
        assert await session.expect_channels(Kind.UNSUBSCRIBE) == ["a"]
        await session.answer_subscribe("a")
        await session.deliver("a", b"late")
        await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"))
        await joining.get()
        await leaving.get()
        assert subscription.channels == {"kept"}
        await session.deliver("kept", b"1")
        assert await take_data(subscription, 1) == [b"1"]


async def test_a_refused_unsubscribe_is_told() -> None:
    async with script() as (client, session, tasks):
        subscription = await session.enter(client.subscribe("a"), "a")
        leaving = begin(tasks, subscription.unsubscribe, "a")
        assert await session.expect_channels(Kind.UNSUBSCRIBE) == ["a"]
        await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"d"))
        with pytest.raises(hyps.PermissionDenied):
            await leaving.get()


async def test_another_joins_the_channel_that_the_last_one_left() -> None:
    async with script() as (client, session, tasks):
        first = await session.enter(client.subscribe("a"), "a")
        leaving = begin(tasks, first.unsubscribe, "a")
        assert await session.expect_channels(Kind.UNSUBSCRIBE) == ["a"]
        entering = begin(tasks, client.subscribe("a").__aenter__)
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        # What was sent before the hub took the UNSUBSCRIBE is nobody's.
        await session.deliver("a", b"late")
        await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"))
        await session.answer_subscribe("a", answer=b"kscript:1")
        await session.deliver("a", b"1")
        await leaving.get()
        assert await take_data(await entering.get(), 1) == [b"1"]
        with pytest.raises(hyps.WouldBlock):
            first.receive_nowait()


async def test_an_old_refusal_does_not_end_a_new_try() -> None:
    async with script() as (client, session, tasks):
        subscription = await session.enter(client.subscribe("kept"), "kept")
        first = begin(tasks, subscription.subscribe, "a")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        leaving = begin(tasks, subscription.unsubscribe, "a")
        assert await session.expect_channels(Kind.UNSUBSCRIBE) == ["a"]
        second = begin(tasks, subscription.subscribe, "a")
        assert await session.expect_channels(Kind.SUBSCRIBE) == ["a"]
        await session.answer_subscribe("a", answer=DENIED)
        await session.send(encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"))
        await session.answer_subscribe("a")
        with pytest.raises(hyps.PermissionDenied):
            await first.get()
        await leaving.get()
        await second.get()
        assert subscription.channels == {"kept", "a"}
        await session.deliver("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]


@pytest.mark.parametrize("is_one_subscription", [True, False])
async def test_subscribe_and_unsubscribe_race_each_other(
    server: hyps.Server, client: hyps.Client, is_one_subscription: bool
) -> None:
    async with client.subscribe("kept") as first, client.subscribe("kept") as other:
        second = first if is_one_subscription else other

        async def join_and_leave(subscription: hyps.Subscription, passes: int) -> None:
            for _ in range(50):
                await subscription.subscribe("a")
                await let_others_run(passes)
                await subscription.unsubscribe("a")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(join_and_leave, first, 0)
            tasks.start_soon(join_and_leave, second, 3)
        # The client and the hub agree on what is held.
        assert first.channels == second.channels == {"kept"}
        assert holds(server, 1)
        await first.subscribe("a")
        await client.publish("a", b"1")
        assert await take_data(first, 1) == [b"1"]


async def test_too_many_channels() -> None:
    async with (
        hyps.Server(port=0, limits=Limits(max_channels=3)) as server,
        hyps.connect(server.urls[0]) as client,
        client.subscribe("a", "b") as subscription,
    ):
        names_the_limit = "the session holds 3 channels, the most that the hub allows"
        with pytest.raises(hyps.PermissionDenied, match=names_the_limit):
            await subscription.subscribe("c", "d")
        with pytest.raises(hyps.PermissionDenied, match=names_the_limit):
            async with client.subscribe("b", "c", "d"):
                raise AssertionError("it was entered")
        assert subscription.channels == {"a", "b"}
        await wait_until(lambda: server.broker.channels == 2)
        # As many as may be, and the session goes on.
        await subscription.subscribe("c")
        await client.publish_many([("c", b"1"), ("b", b"2")])
        assert await take_data(subscription, 2) == [b"1", b"2"]


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "a" * 17])
async def test_bad_channel_names(name: str) -> None:
    async with (
        hyps.Server(port=0, limits=Limits(max_channel=16)) as server,
        hyps.connect(server.urls[0]) as client,
        client.subscribe("a") as subscription,
    ):
        with pytest.raises(hyps.InvalidChannel):
            await subscription.subscribe("b", name)
        with pytest.raises(hyps.InvalidChannel):
            async with client.subscribe("b", name):
                raise AssertionError("it was entered")
        assert subscription.channels == {"a"}
        assert server.broker.channels == 1
        await subscription.subscribe("a" * 16)


async def test_a_name_that_the_hub_refuses() -> None:
    async with script() as (client, session, tasks):
        entering = begin(tasks, client.subscribe("a").__aenter__)
        await session.grant("a", answer=b"n")
        with pytest.raises(hyps.InvalidChannel):
            await entering.get()
