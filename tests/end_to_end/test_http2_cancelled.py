"""Cancelled calls with a hub of Hyps for Nim. With ours the tests of the native wire run too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import begin, take_data, wait_until
from support.interrupting import cancel_at_each
from support.nim import PUBLISH, SUBSCRIBE
from support.nim_server import connected_to_nim, nim_server

import hyps

if TYPE_CHECKING:
    from collections.abc import Awaitable

pytestmark = pytest.mark.anyio


async def test_connecting() -> None:
    async with nim_server() as server:
        client = hyps.connect(server.url)
        async for attempt in cancel_at_each(lambda: client.connect()):  # noqa: B023 - the one of each
            assert client.connected == bool(attempt.results)
            await client.connect()
            await client.publish("a", b"1")
            await client.shutdown()
            client = hyps.connect(server.url)
        await wait_until(lambda: all(session.is_over for session in server.sessions))


async def test_publishing() -> None:
    messages = [("a", bytes([number]) * 50_000) for number in range(4)]
    async with connected_to_nim() as (client, session):
        published = session.hub.published
        async for attempt in cancel_at_each(lambda: client.publish_many(messages)):
            await client.publish("a", b"next")
            # None is cut, and none follows one that is missing.
            assert published == [*messages[: len(published) - 1], ("a", b"next")]
            assert len(published) == len(messages) + 1 or not attempt.results
            published.clear()


async def test_subscribing_and_unsubscribing() -> None:
    async with (
        connected_to_nim() as (client, session),
        client.subscribe("kept") as subscription,
    ):

        def subscribe() -> Awaitable[None]:
            client.publish_nowait("kept", b"")
            return subscription.subscribe("kept", "a", "b")

        async for attempt in cancel_at_each(subscribe):
            await client.flush()
            held = {"kept", "a", "b"} if attempt.results else {"kept"}
            assert subscription.channels == held
            for channel in ("a", "b", "kept"):
                await session.deliver(channel, channel.encode())
            found = await take_data(subscription, len(held))
            assert found == sorted(channel.encode() for channel in held)
            # The client itself answers that.
            async for _ in cancel_at_each(
                lambda: subscription.unsubscribe("a", "b"), may_be_early=True
            ):
                assert subscription.channels == {"kept"}
                await session.deliver("a", b"not wanted")
                await session.deliver("kept", b"1")
                assert await take_data(subscription, 1) == [b"1"]
                await subscription.subscribe("a", "b")
            await subscription.unsubscribe("a", "b")


async def test_reading() -> None:
    async with (
        connected_to_nim() as (client, session),
        client.subscribe("a") as subscription,
        anyio.create_task_group() as tasks,
    ):
        sent: list[bytes] = []
        found: list[bytes] = []

        def deliver_and_read() -> Awaitable[hyps.Message]:
            sent.append(b"%d" % len(sent))
            tasks.start_soon(session.deliver, "a", sent[-1])
            return subscription.receive()

        async for attempt in cancel_at_each(deliver_and_read):
            found += [message.data for message in attempt.results]
            found += await take_data(subscription, len(sent) - len(found))
            assert found == sent


async def test_answers_go_to_those_whom_they_are_for() -> None:
    async with (
        connected_to_nim(held=(PUBLISH, SUBSCRIBE)) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        hub = session.hub
        publishing = []
        for number in range(3):
            publishing.append(begin(tasks, client.publish, "a", b"%d" % number))
            await wait_until(lambda: len(hub.published) == len(publishing))
        entering = begin(tasks, client.subscribe("a").__aenter__)
        await wait_until(lambda: hub.channels == ["a"])
        other = begin(tasks, client.subscribe("b").__aenter__)
        await wait_until(lambda: hub.channels == ["a", "b"])
        await publishing[1].cancel()
        await entering.cancel()
        await session.answer(SUBSCRIBE, b"dk")
        await session.answer(PUBLISH, b"kkd")
        await publishing[0].get()
        with pytest.raises(hyps.PermissionDenied):
            await publishing[2].get()
        subscription = await other.get()
        await session.deliver("b", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        await client.flush()
