"""Tokens are in no log at any level, and in no error."""

from __future__ import annotations

import json
import logging
import traceback
from typing import TYPE_CHECKING

import pytest
from protocol.pair import drain, json_frame
from protocol.wire.http2.peer import PREFACE as HTTP2_PREFACE
from protocol.wire.http2.peer import headers_frame, settings_frame, stranger
from support.nim import NimHub

from hyps.protocol import (
    PREFACE,
    Broker,
    ClientProtocol,
    Hello,
    Kind,
    RemoteProtocolError,
    ServerProtocol,
    encode_frame,
)
from hyps.protocol._wire.http2 import ClientWire

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "correct-horse"


class Seen(logging.Handler):
    """Keeps all that is logged, at any level."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [record.getMessage(), repr(vars(record))]


@pytest.fixture(autouse=True)
def nothing_is_logged() -> Iterator[None]:
    root = logging.getLogger()
    level, seen = root.level, Seen()
    root.addHandler(seen)
    root.setLevel(logging.DEBUG)
    try:
        logging.getLogger("test").debug("this is seen")
        yield
    finally:
        root.removeHandler(seen)
        root.setLevel(level)
    assert "this is seen" in seen.texts
    expect_no_token(*seen.texts)


def expect_no_token(*texts: str) -> None:
    for text in texts:
        assert TOKEN not in text
        assert TOKEN.encode().hex() not in text


def expect_clean(error: BaseException | None) -> None:
    """Neither the error nor what it came from has the token."""
    while error is not None:
        expect_no_token(
            str(error),
            repr(error),
            repr(vars(error)),
            repr(getattr(error, "object", "")),
            repr(getattr(error, "doc", "")),
            "".join(traceback.format_exception(error)),
        )
        error = error.__cause__ or error.__context__


def violate(data: bytes) -> bytes:
    """Let a hub find that these bytes are wrong; give what the client is told."""
    server = ServerProtocol(Broker("boot"), session="s")
    server.receive_data(data)
    with pytest.raises(RemoteProtocolError) as caught:
        drain(server)
    expect_clean(caught.value)
    answer = server.data_to_send()
    expect_no_token(answer.decode("latin-1"))
    return answer


HELLOS = {
    "cut off": json.dumps({"token": TOKEN})[:-1].encode(),
    "bytes that are no text": b'{"token":"' + TOKEN.encode() + b'\xff"}',
    "a lone surrogate": b'{"client":"a","token":"' + TOKEN.encode() + b'\\ud800"}',
    "a token twice": json.dumps({"token": TOKEN})[:-1].encode() + b',"token":""}',
    "a list": json.dumps([TOKEN]).encode(),
    "a nested token": json.dumps({"client": "a", "token": [TOKEN]}).encode(),
    "no client": json.dumps({"token": TOKEN}).encode(),
    "nested too deeply": json.dumps({"token": TOKEN}).encode()[:-1] + b',"a":' + b"[" * 5_000,
}


@pytest.mark.parametrize("body", HELLOS.values(), ids=HELLOS)
def test_malformed_hello(body: bytes) -> None:
    violate(PREFACE + encode_frame(Kind.HELLO, body))


def http2(value: bytes, more: bytes = b"") -> bytes:
    """A request with a token; its header is neither compressed nor right."""
    block = stranger().block("POST", "/publish")
    field = b"\0\x0dauthorization" + bytes([len(value)]) + value
    return HTTP2_PREFACE + settings_frame() + headers_frame(1, block + field + more)


FIELDS = {
    "a blank behind it": (f"Bearer {TOKEN} ".encode(), b""),
    "a blank before it": (f" Bearer {TOKEN}".encode(), b""),
    "a newline in it": (f"Bearer {TOKEN}\n".encode(), b""),
    "a zero in it": (f"Bearer {TOKEN}\0".encode(), b""),
    "a number that does not end": (f"Bearer {TOKEN}".encode(), b"\xff" * 20),
    "a field that is cut off": (f"Bearer {TOKEN}".encode(), b"\0\x03ab"),
    "a field that is not allowed": (f"Bearer {TOKEN}".encode(), b"\0\x0aconnection\x01a"),
    "its name as the value": (b"Bearer", b"\0\x06:token" + bytes([len(TOKEN)]) + TOKEN.encode()),
    "a content-length": (b"", b"\0\x0econtent-length" + bytes([len(TOKEN)]) + TOKEN.encode()),
}


@pytest.mark.parametrize(("value", "more"), FIELDS.values(), ids=FIELDS)
def test_malformed_header(value: bytes, more: bytes) -> None:
    assert b"HTTP/2, HeadersFrame" in violate(http2(value, more))


def test_request_with_a_query_that_is_wrong() -> None:
    peer = stranger()
    peer.send(peer.request(1, "GET", f"/messages?{TOKEN}", end=True))
    peer.read_all()
    assert peer.headers[1][":status"] == "400"
    expect_no_token(peer.data[1].decode())


def test_greeting_does_not_show_its_token() -> None:
    event = Hello("a client", TOKEN, ())
    expect_no_token(repr(event), str(event))
    assert event != Hello("a client", "another", ())


def test_session_over_http2_logs_no_header() -> None:
    hub = NimHub()
    client = ClientProtocol(token=TOKEN, wire=ClientWire("127.0.0.1"))
    hub.receive_data(client.data_to_send())
    client.receive_data(hub.data_to_send())
    drain(client)
    assert hub.streams["/publish"].headers["authorization"] == f"Bearer {TOKEN}"
    peer = stranger(accepts=False)
    [event] = peer.send(peer.request(1, "POST", "/publish", ("authorization", f"Bearer {TOKEN}")))
    assert isinstance(event, Hello)
    assert event.token == TOKEN
    peer.server.refuse("wrong")
    peer.handle()
    peer.read_all()


def test_session_over_the_native_wire_logs_no_token() -> None:
    client = ClientProtocol(token=TOKEN)
    server = ServerProtocol(Broker("boot"), session="s")
    server.receive_data(client.data_to_send())
    [event] = drain(server)
    assert isinstance(event, Hello)
    assert event.token == TOKEN
    server.accept()
    client.receive_data(server.data_to_send() + json_frame(Kind.WELCOME, {}))
    with pytest.raises(RemoteProtocolError) as caught:
        drain(client)
    expect_clean(caught.value)


@pytest.mark.parametrize("token", [f"{TOKEN}\ud800", TOKEN * 2_000])
def test_token_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        ClientProtocol(token=token)
    assert type(caught.value) is ValueError
    expect_clean(caught.value)


@pytest.mark.parametrize("token", [f"{TOKEN} ", f"{TOKEN}\n"])
def test_token_that_http2_has_no_place_for(token: str) -> None:
    client = ClientProtocol(token=token, wire=ClientWire("127.0.0.1"))
    with pytest.raises(ValueError, match="token") as caught:
        client.data_to_send()
    expect_clean(caught.value)
