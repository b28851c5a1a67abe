"""Clients that break the rules: each is told why and let go, and nobody else notices."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from support.helpers import (
    healthy_neighbours,
    port_of,
    take_data,
    wait_until,
    warned,
)
from support.peers import (
    HELLO,
    OPENING,
    Peer,
    connect_raw,
    frame,
    publish_frame,
    raw_client,
    subscribe_frame,
)

import hyps
from hyps.protocol import PREFACE, Kind, Limits, encode, encode_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    Vanish: TypeAlias = Callable[[Peer], Awaitable[None]]

pytestmark = [pytest.mark.anyio, pytest.mark.native_wire]


async def expect_refusal(raw: Peer, code: str) -> dict[str, object]:
    fields = await raw.expect_fields(Kind.ERROR)
    assert fields["code"] == code
    assert fields["message"]
    await raw.expect_end()
    return fields


def assert_logged_once(caplog: pytest.LogCaptureFixture, code: str, why: str = "") -> None:
    [text] = warned(caplog, "hyps.audit")
    assert f" code={code} " in text
    assert why in text
    assert not warned(caplog, "hyps.server")


NOT_HYPS = {
    "junk": b"\x00\x01\x02 junk",
    "one byte": b"h",
    "a request of another kind": b"BREW / HTCPCP/1.0\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a large one": b"BREW / HTCPCP/1.0\r\n\r\n" + bytes(1_000_000),
}


@pytest.mark.parametrize("data", NOT_HYPS.values(), ids=NOT_HYPS)
async def test_another_protocol_gets_one_line(
    server: hyps.Server, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    async with healthy_neighbours(server), await connect_raw(server.urls[0]) as raw:
        await raw.send(data)
        answer = await raw.rest()
        assert answer.startswith(b"HYPS/1")
        assert answer.endswith(b"\r\n")
        assert answer.count(b"\n") == 1
    assert_logged_once(caplog, "protocol", "preface")


def hello(body: bytes) -> bytes:
    return PREFACE + encode_frame(Kind.HELLO, body)


BAD_OPENINGS = {
    "another version": (b"HYPS/2\r\n", "version"),
    "a version of any length": (b"HYPS/2.0-beta\r\n", "version"),
    "a preface without an end": (b"HYPS/1" + b" " * 10, "protocol"),
    "a length of 0": (PREFACE + bytes(4), "protocol"),
    "a length of 4 GiB": (PREFACE + b"\xff\xff\xff\xff", "too_large"),
    "a length over the opening's": (PREFACE + (16_385).to_bytes(4, "big"), "too_large"),
    "an unknown kind": (PREFACE + b"\0\0\0\x01\x7f", "protocol"),
    "a kind that is ignored later": (PREFACE + b"\0\0\0\x01\x80", "protocol"),
    "PUBLISH first": (PREFACE + publish_frame("a", b""), "protocol"),
    "SUBSCRIBE first": (PREFACE + subscribe_frame("a"), "protocol"),
    "PING first": (PREFACE + encode_frame(Kind.PING, bytes(8)), "protocol"),
    "no JSON": (hello(b"{"), "protocol"),
    "no object": (hello(b"[]"), "protocol"),
    "no UTF-8": (hello(b'{"client":"\xff"}'), "protocol"),
    "nothing": (hello(b""), "protocol"),
    "NaN": (hello(b'{"client":"a","x":NaN}'), "protocol"),
    "a number out of range": (hello(b'{"client":"a","x":1e999}'), "protocol"),
    "a key that stands twice": (hello(b'{"client":"a","client":"a"}'), "protocol"),
    "a lone surrogate": (hello(b'{"client":"\\ud800"}'), "protocol"),
    "nested too deeply": (hello(b'{"client":"a","x":' + b"[" * 15_000), "protocol"),
    "no client": (hello(b"{}"), "protocol"),
    "a client that is no text": (hello(b'{"client":1}'), "protocol"),
    "a token that is no text": (hello(b'{"client":"a","token":[]}'), "protocol"),
    "features that are no texts": (hello(b'{"client":"a","features":[1]}'), "protocol"),
}


@pytest.mark.parametrize(("data", "code"), BAD_OPENINGS.values(), ids=BAD_OPENINGS)
async def test_bad_opening(
    server: hyps.Server, caplog: pytest.LogCaptureFixture, data: bytes, code: str
) -> None:
    async with healthy_neighbours(server), await connect_raw(server.urls[0]) as raw:
        await raw.send(data)
        fields = await expect_refusal(raw, code)
        assert fields.get("versions") == ([1] if code == "version" else None)
    assert_logged_once(caplog, code)


BAD_FRAMES = {
    "a length of 0": (bytes(4), "protocol"),
    "a length of 4 GiB": (b"\xff\xff\xff\xff", "too_large"),
    "a length over the limit": ((Limits().max_frame + 1).to_bytes(4, "big"), "too_large"),
    "an unknown kind": (b"\0\0\0\x01\x10", "protocol"),
    "kind 0": (b"\0\0\0\x01\x00", "protocol"),
    "the reserved kind": (encode_frame(Kind.AUTH, b""), "protocol"),
    "a second HELLO": (HELLO, "protocol"),
    "a second preface": (PREFACE, "too_large"),
    "WELCOME": (frame(Kind.WELCOME), "protocol"),
    "GOAWAY": (frame(Kind.GOAWAY), "protocol"),
    "MESSAGES": (encode_frame(Kind.MESSAGES, encode("a", b"")), "protocol"),
    "GAP": (encode_frame(Kind.GAP, encode("a", b"g:1")), "protocol"),
    "PUBLISH_ACK": (encode_frame(Kind.PUBLISH_ACK, b"k"), "protocol"),
    "SUBSCRIBE_ACK": (encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kg:1")), "protocol"),
    "UNSUBSCRIBE_ACK": (encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"), "protocol"),
    "PUBLISH of nothing": (encode_frame(Kind.PUBLISH, b""), "protocol"),
    "SUBSCRIBE of nothing": (encode_frame(Kind.SUBSCRIBE, b""), "protocol"),
    "UNSUBSCRIBE of nothing": (encode_frame(Kind.UNSUBSCRIBE, b""), "protocol"),
    "PING of 7 bytes": (encode_frame(Kind.PING, bytes(7)), "protocol"),
    "PONG for no PING": (encode_frame(Kind.PONG, bytes(8)), "protocol"),
    "ERROR that is none": (encode_frame(Kind.ERROR, b"junk"), "protocol"),
}


@pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_bad_frame(
    server: hyps.Server, caplog: pytest.LogCaptureFixture, data: bytes, code: str
) -> None:
    async with healthy_neighbours(server), raw_client(server.urls[0]) as raw:
        await raw.subscribe("a", "b")
        assert server.broker.channels == 3
        await raw.send(data)
        await expect_refusal(raw, code)
    assert_logged_once(caplog, code)


BAD_RECORDS = {
    "no newline": b"\0\0\0\x03abc",
    "a length of 2": b"\0\0\0\x02\n\n",
    "a length of 0": bytes(4),
    "a last byte that is no newline": b"\0\0\0\x04a\nbc",
    "an empty channel": b"\0\0\0\x03\nb\n",
    "a channel that is not UTF-8": b"\0\0\0\x04\xff\nb\n",
    "longer than its frame": b"\0\0\0\x05a\nb\n",
    "cut in its length": b"\0\0\0",
}


@pytest.mark.parametrize("record", BAD_RECORDS.values(), ids=BAD_RECORDS)
async def test_bad_record_in_a_publish(
    server: hyps.Server, caplog: pytest.LogCaptureFixture, record: bytes
) -> None:
    async with (
        healthy_neighbours(server),
        hyps.connect(server.urls[0]) as client,
        client.subscribe("a", "\ufffd") as subscription,
    ):
        async with raw_client(server.urls[0]) as raw:
            valid = encode("a", b"1") + encode("a", b"2")
            await raw.send(encode_frame(Kind.PUBLISH, valid + record), publish_frame("a", b"3"))
            assert await raw.expect(Kind.PUBLISH_ACK) == b"kk"
            await expect_refusal(raw, "protocol")
        # What was valid before it was taken, and nothing behind it.
        await client.publish("a", b"end")
        assert await take_data(subscription, 3) == [b"1", b"2", b"end"]
    assert_logged_once(caplog, "protocol", "record")


@pytest.mark.parametrize("record", BAD_RECORDS.values(), ids=BAD_RECORDS)
@pytest.mark.parametrize("kind", [Kind.SUBSCRIBE, Kind.UNSUBSCRIBE])
async def test_bad_record_in_a_change_of_channels(
    server: hyps.Server, caplog: pytest.LogCaptureFixture, record: bytes, kind: Kind
) -> None:
    async with healthy_neighbours(server), raw_client(server.urls[0]) as raw:
        await raw.subscribe("a", "b")
        await raw.send(encode_frame(kind, encode("a", b"") + record))
        if kind is Kind.SUBSCRIBE:
            assert await raw.expect_channels(Kind.SUBSCRIBE_ACK) == ["a"]
        else:
            assert await raw.expect(Kind.UNSUBSCRIBE_ACK) == b"k"
        await expect_refusal(raw, "protocol")
    assert_logged_once(caplog, "protocol", "record")


async def test_a_flood_of_pings(server: hyps.Server, caplog: pytest.LogCaptureFixture) -> None:
    async with healthy_neighbours(server), raw_client(server.urls[0]) as raw:
        await raw.send(encode_frame(Kind.PING, bytes(8)) * 1_000)
        kind, _ = await raw.next_frame()
        while kind is Kind.PONG:
            kind, _ = await raw.next_frame()
        assert kind is Kind.ERROR
    assert_logged_once(caplog, "limit", "PING")


async def test_more_in_flight_than_may_be(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        hyps.Server(port=0, limits=Limits(max_in_flight=16)) as server,
        healthy_neighbours(server),
        raw_client(server.urls[0]) as raw,
    ):
        await raw.send(publish_frame("a", *[b""] * 16))
        assert await raw.expect(Kind.PUBLISH_ACK) == b"k" * 16
        await raw.send(publish_frame("a", *[b""] * 17))
        assert await raw.expect(Kind.PUBLISH_ACK) == b"k" * 17
        await expect_refusal(raw, "limit")
    assert_logged_once(caplog, "limit", "max_in_flight")


@pytest.mark.parametrize("data", [b"", PREFACE[:3], PREFACE, OPENING[:-1]])
async def test_a_session_that_is_not_opened_in_time(
    caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    async with (
        hyps.Server(port=0, limits=Limits(hello_timeout=0.3)) as server,
        healthy_neighbours(server),
        await connect_raw(server.urls[0]) as raw,
    ):
        if data:
            await raw.send(data)
        await expect_refusal(raw, "timeout")
    assert_logged_once(caplog, "timeout")


async def test_a_refused_client_that_does_not_leave() -> None:
    async with hyps.Server(port=0, limits=Limits(close_timeout=0.02)) as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as raw:
            raw.setblocking(False)
            raw.send(OPENING + b"\xff\xff\xff\xff")

            def is_cut_off() -> bool:
                try:
                    raw.send(b"and more")
                except BlockingIOError:
                    return False
                except OSError:
                    return True
                return False

            async with healthy_neighbours(server):
                await wait_until(is_cut_off)
