"""What the hub refuses with a code: the session goes on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from support.helpers import healthy_neighbours
from support.peers import publish_frame, raw_client, subscribe_frame

import hyps
from hyps.protocol import Kind, Limits, encode, encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.native_wire]

TIGHT = Limits(max_message=10, max_channel=4, max_channels=2)

REFUSED_PUBLISHES = {
    "a message too long": (encode("a", bytes(11)), b"s"),
    "a message that is not": (encode("a", bytes(10)), b"k"),
    "a name too long": (encode("abcde", b""), b"n"),
    "a name that is not": (encode("abcd", b""), b"k"),
    "a name too long in bytes": (encode("\u00e9\u00e9\u00e9", b""), b"n"),
    "some of many": (
        b"".join(encode("a", bytes(size)) for size in (10, 11, 9, 12)),
        b"ksks",
    ),
}


@pytest.mark.parametrize(("body", "codes"), REFUSED_PUBLISHES.values(), ids=REFUSED_PUBLISHES)
async def test_a_publish_is_refused_with_a_code(body: bytes, codes: bytes) -> None:
    async with (
        hyps.Server(port=0, limits=TIGHT) as server,
        healthy_neighbours_of(server),
        raw_client(server.urls[0]) as raw,
    ):
        for _ in range(2):
            await raw.send(encode_frame(Kind.PUBLISH, body))
            assert await raw.expect(Kind.PUBLISH_ACK) == codes
        await raw.subscribe("a")


@asynccontextmanager
async def healthy_neighbours_of(server: hyps.Server) -> AsyncIterator[None]:
    """Check a session whose limits are too tight for the other ones."""
    async with raw_client(server.urls[0]) as neighbour:
        await neighbour.subscribe("ok")
        yield
        await neighbour.send(publish_frame("ok", b"1"))
        assert await neighbour.expect_messages() == [("ok", b"1")]


REFUSED_SUBSCRIBES = {
    "a name too long": (encode("abcde", b""), [("abcde", b"n")]),
    "a position that is none": (encode("b", b"junk"), [("b", b"d")]),
}


@pytest.mark.parametrize(("body", "answers"), REFUSED_SUBSCRIBES.values(), ids=REFUSED_SUBSCRIBES)
async def test_a_subscribe_is_refused_with_a_code(
    body: bytes, answers: list[tuple[str, bytes]]
) -> None:
    async with (
        hyps.Server(port=0, limits=TIGHT) as server,
        healthy_neighbours_of(server),
        raw_client(server.urls[0]) as raw,
    ):
        await raw.send(encode_frame(Kind.SUBSCRIBE, body))
        assert await raw.expect_messages(Kind.SUBSCRIBE_ACK) == answers
        await raw.subscribe("a")


async def test_channels_over_the_limit_are_refused_with_a_code() -> None:
    async with (
        hyps.Server(port=0, limits=TIGHT) as server,
        healthy_neighbours_of(server),
        raw_client(server.urls[0]) as raw,
    ):
        await raw.send(subscribe_frame("a", "b", "c", "a"))
        answers = dict(await raw.expect_messages(Kind.SUBSCRIBE_ACK))
        assert answers["a"][:1] == answers["b"][:1] == b"k"
        assert answers["c"] == b"d"
        await raw.send(encode_frame(Kind.UNSUBSCRIBE, encode("a", b"")))
        assert await raw.expect(Kind.UNSUBSCRIBE_ACK) == b"k"
        await raw.subscribe("c")


async def test_an_unsubscribe_with_a_message_is_refused_with_a_code(server: hyps.Server) -> None:
    async with healthy_neighbours(server), raw_client(server.urls[0]) as raw:
        await raw.subscribe("a")
        body = encode("a", b"not empty") + encode("never subscribed", b"")
        await raw.send(encode_frame(Kind.UNSUBSCRIBE, body))
        assert await raw.expect(Kind.UNSUBSCRIBE_ACK) == b"dk"
        assert server.broker.channels == 2


async def test_a_kind_that_need_not_be_known_is_ignored(server: hyps.Server) -> None:
    async with healthy_neighbours(server), raw_client(server.urls[0]) as raw:
        await raw.send(b"\0\0\0\x05\x80junk", b"\0\0\0\x01\xff")
        await raw.subscribe("a")
