"""Publishing: answers, refusals, batches, the backlog's bound, flush."""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import (
    begin,
    data_of,
    let_others_run,
    numbered,
    publish_one,
    publish_some,
    publish_without_waiting,
    take_data,
)
from support.peers import connected_to_script

import hyps
from hyps.protocol import Kind, Limits, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from support.helpers import PublishOne
    from support.peers import Peer


pytestmark = pytest.mark.anyio

#: Some of them are more than a batch.
LARGE = bytes(10_000)

#: More than the hub takes, which the client knows.
TOO_LARGE = bytes(Limits().max_message + 1)


@pytest.mark.parametrize(
    "data", [b"", b"bytes", b"\n\x00\xff\n", bytearray(b"array"), "text \u00e9"]
)
async def test_data_arrives_as_bytes(client: hyps.Client, data: bytes | str) -> None:
    expected = data.encode() if isinstance(data, str) else bytes(data)
    async with client.subscribe("foo_ch") as subscription:
        await client.publish("foo_ch", data)
        await client.publish_many([("foo_ch", data)])
        client.publish_nowait("foo_ch", data)
        client.publish_nowait("foo_ch", memoryview(expected))
        assert await take_data(subscription, 4) == [expected] * 4


@pytest.mark.parametrize("channel", ["\u00e9\u4e2d\U0001f600", " ", "\r", "a" * 255])
async def test_a_channel_is_any_text_without_a_newline(client: hyps.Client, channel: str) -> None:
    async with client.subscribe(channel) as subscription:
        await client.publish(channel, b"")
        assert await subscription.receive() == hyps.Message(channel, b"")


BAD_CHANNELS = ["", "a\nb", "\ud800", "a" * 256, "\u00e9" * 128]


WAYS = [publish_one, publish_some, publish_without_waiting]


@pytest.mark.parametrize("publish", WAYS)
@pytest.mark.parametrize("channel", BAD_CHANNELS)
async def test_bad_channel(client: hyps.Client, publish: PublishOne, channel: str) -> None:
    with pytest.raises(hyps.InvalidChannel):
        await publish(client, channel, b"")
    # Nothing was begun.
    await client.flush()


@pytest.mark.parametrize("publish", WAYS)
async def test_message_size(server: hyps.Server, client: hyps.Client, publish: PublishOne) -> None:
    await publish(client, "foo_ch", TOO_LARGE[:-1])
    with pytest.raises(hyps.MessageTooLarge):
        await publish(client, "foo_ch", TOO_LARGE)
    await client.flush()
    assert server.broker.published == 1


@pytest.mark.parametrize("publish", WAYS)
async def test_wrong_types(client: hyps.Client, publish: PublishOne) -> None:
    with pytest.raises(TypeError):
        await publish(client, "foo_ch", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await publish(client, b"foo_ch", b"")  # type: ignore[arg-type]
    await client.flush()


async def test_publish_returns_when_the_hub_has_acked() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        publishing = begin(tasks, client.publish, "foo_ch", b"foo_msg")
        assert await session.expect_messages(Kind.PUBLISH) == [("foo_ch", b"foo_msg")]
        await let_others_run()
        assert not publishing.is_known
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"k"))
        await publishing.get()


REFUSALS = [
    (b"d", hyps.PermissionDenied),
    (b"s", hyps.MessageTooLarge),
    (b"n", hyps.InvalidChannel),
    (b"u", hyps.Unavailable),
    (b"!", hyps.HypsError),
]


@pytest.mark.parametrize(("code", "error"), REFUSALS)
async def test_the_refused_one_is_told(code: bytes, error: type[hyps.HypsError]) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        outcomes = [begin(tasks, client.publish, "foo_ch", data) for data in (b"a", b"b", b"c")]
        order = await session.answer_publish(b"k" + code + b"k")
        # Tasks may start in any order; the second that was sent is the one refused.
        for outcome, data in zip(outcomes, (b"a", b"b", b"c"), strict=True):
            if data == order[1]:
                with pytest.raises(error, match="the hub answered"):
                    await outcome.get()
            else:
                await outcome.get()
        # Whoever awaited it was told, and nobody else is.
        await client.flush()


# Many


async def test_publish_nothing(server: hyps.Server, client: hyps.Client) -> None:
    await client.publish_many([])
    await client.publish_many(iter(()))
    assert server.broker.published == 0


@pytest.mark.parametrize("size", [1, 100, 70_000])
@pytest.mark.parametrize("kind", [list, iter])
async def test_more_than_every_window(
    kind: Callable[[Iterable[tuple[str, bytes]]], Iterable[tuple[str, bytes]]], size: int
) -> None:
    limits = Limits(max_in_flight=16, max_backlog=100_000)
    number = 5_000 if size < 1_000 else 50
    messages = [("foo_ch", bytes(size) + str(index).encode()) for index in range(number)]
    async with (
        hyps.Server(port=0, limits=limits) as server,
        hyps.connect(server.urls[0], limits=limits) as client,
        client.subscribe("foo_ch") as subscription,
    ):
        await client.publish_many(kind(messages))
        assert await take_data(subscription, number) == data_of(messages)


async def test_a_generator_is_read_as_there_is_room() -> None:
    taken = 0

    def endless() -> Iterator[tuple[str, bytes]]:
        nonlocal taken
        while True:
            taken += 1
            yield "foo_ch", LARGE

    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        publishing = begin(tasks, client.publish_many, endless())
        # The hub does not read: the sockets' buffers and the backlog fill, and that is all.
        before = -1
        while before != taken or taken == 0:
            before = taken
            await let_others_run(500)
        assert not publishing.is_known
        await publishing.cancel()
        await session.reset()


async def test_an_error_in_the_middle_of_many(server: hyps.Server, client: hyps.Client) -> None:
    def messages() -> Iterator[tuple[str, bytes]]:
        for _ in range(20):
            yield "foo_ch", LARGE
        yield "bad\nchannel", b""
        raise AssertionError("it was read on")

    async with client.subscribe("foo_ch") as subscription:
        with pytest.raises(hyps.InvalidChannel):
            await client.publish_many(messages())
        # It was raised when what was sent before had its answer.
        taken = server.broker.published
        assert 0 < taken <= 20
        await client.publish("foo_ch", b"next")
        assert await take_data(subscription, taken + 1) == [LARGE] * taken + [b"next"]


async def test_an_error_of_the_callers_iterable(server: hyps.Server, client: hyps.Client) -> None:
    def messages() -> Iterator[tuple[str, bytes]]:
        for _ in range(20):
            yield "foo_ch", LARGE
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        await client.publish_many(messages())
    taken = server.broker.published
    await client.publish("foo_ch", b"next")
    assert server.broker.published == taken + 1


async def refuse(session: Peer, codes: Iterable[bytes]) -> None:
    """Answer each PUBLISH with one of the codes, for all of its messages."""
    for code in codes:
        batch = await session.expect_messages(Kind.PUBLISH)
        await session.send(encode_frame(Kind.PUBLISH_ACK, code * len(batch)))


async def test_a_refusal_before_an_error_in_the_middle_of_many() -> None:
    messages = [("foo_ch", LARGE)] * 20 + [("bad\nchannel", b"")]
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        refusing = begin(tasks, refuse, session, repeat(b"d"))
        # The first error is the refusal.
        with pytest.raises(hyps.PermissionDenied):
            await client.publish_many(messages)
        await refusing.cancel()


async def test_a_refused_batch_is_the_last() -> None:
    def endless() -> Iterator[tuple[str, bytes]]:
        while True:
            yield "foo_ch", LARGE

    limits = Limits(max_backlog=100_000)
    async with (
        connected_to_script(limits=limits) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        refusing = begin(tasks, refuse, session, chain([b"d"], repeat(b"k")))
        with pytest.raises(hyps.PermissionDenied):
            await client.publish_many(endless())
        await refusing.cancel()


async def test_what_was_received_can_be_published_as_it_is(client: hyps.Client) -> None:
    async with client.subscribe("a", "b") as subscription:
        await client.publish_many([*numbered("a", 2), hyps.Message("b", b"2"), ("b", b"3")])
        received = await subscription.receive_many(at_least=4)
        await client.publish_many(received)
        assert await subscription.receive_many(at_least=4) == received
        await client.publish_many(iter(received))
        assert await subscription.receive_many(at_least=4) == received


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ({"ab": b"message"}, r"not a dict: give it \.items\(\)"),
        ({}, r"not a dict: give it \.items\(\)"),
        ("ab", "not a str"),
        (b"ab", "not a bytes"),
        (bytearray(b"ab"), "not a bytearray"),
        (("ab", "cd"), "not a tuple of str"),
        (["ab", "cd"], "not a list of str"),
        ([b"ab"], "not a list of bytes"),
        (hyps.Message("ab", b"cd"), "not a Message"),
    ],
)
async def test_what_cannot_be_many_messages(
    server: hyps.Server, client: hyps.Client, messages: Any, text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        await client.publish_many(messages)
    await client.publish_many({"a": "1"}.items())
    assert server.broker.published == 1


# Without waiting


async def test_flush_waits_for_every_answer() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        client.publish_nowait("foo_ch", b"1")
        client.publish_nowait("foo_ch", b"2")
        flushing = begin(tasks, client.flush)
        published: list[tuple[str, bytes]] = []
        while len(published) < 2:
            published += await session.expect_messages(Kind.PUBLISH)
        assert published == [("foo_ch", b"1"), ("foo_ch", b"2")]
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"k"))
        await let_others_run()
        assert not flushing.is_known
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"k"))
        await flushing.get()


async def test_flush_with_nothing_to_wait_for(client: hyps.Client) -> None:
    await client.flush()
    await client.publish("foo_ch", b"")
    await client.flush()


async def test_flush_raises_the_first_error_that_nobody_awaited_once() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        for _ in range(4):
            client.publish_nowait("foo_ch", b"")
        await session.answer_publish(b"knuk")
        with pytest.raises(hyps.InvalidChannel):
            await client.flush()
        await client.flush()
        # The next one again.
        client.publish_nowait("foo_ch", b"")
        flushing = begin(tasks, client.flush)
        await session.answer_publish(b"d")
        with pytest.raises(hyps.PermissionDenied):
            await flushing.get()


async def test_every_flush_that_waits_ends() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        client.publish_nowait("foo_ch", b"1")
        first = begin(tasks, client.flush)
        await let_others_run()
        client.publish_nowait("foo_ch", b"2")
        publishing = begin(tasks, client.publish, "foo_ch", b"3")
        second = begin(tasks, client.flush)
        await session.answer_publish(b"k")
        await first.get()
        assert not second.is_known
        await session.answer_publish(b"kk")
        await second.get()
        await publishing.get()


async def test_channels_and_data_are_not_mixed_up(client: hyps.Client) -> None:
    async with client.subscribe("a", "b") as subscription:
        await client.publish_many([*numbered("a", 3), *numbered("b", 3), *numbered("a", 1)])
        channels = [(await subscription.receive()).channel for _ in range(7)]
        assert channels == ["a"] * 3 + ["b"] * 3 + ["a"]
