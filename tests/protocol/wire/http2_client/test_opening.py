"""What the client sends first, and the answers to it."""

from __future__ import annotations

import pytest
from protocol.pair import drain
from protocol.wire.http2_client.script import PATHS, Script
from support.nim import MESSAGES, PUBLISH, SUBSCRIBE, NimHub, make_frame, split_frames

from hyps.protocol import (
    NEED_DATA,
    ClientProtocol,
    GoingAway,
    Limits,
    PeerError,
    RemoteProtocolError,
    State,
    Welcome,
)
from hyps.protocol._wire.http2 import ClientWire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def test_everything_is_sent_before_anything_is_read() -> None:
    client = ClientProtocol(client="me/1", wire=ClientWire("example.org:8787"))
    data = client.data_to_send()
    assert client.data_to_send() == b""
    assert data.startswith(PREFACE)
    kinds = [kind for kind, _, _ in split_frames(data.removeprefix(PREFACE))]
    assert kinds == [4, 8, 8, 1, 1, 1]
    hub = NimHub()
    hub.receive_data(data)
    assert [(each.number, path) for path, each in hub.streams.items()] == [
        (1, SUBSCRIBE),
        (3, PUBLISH),
        (5, MESSAGES),
    ]
    for path, stream in hub.streams.items():
        assert stream.headers == {
            ":method": "GET" if path == MESSAGES else "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "example.org:8787",
            "user-agent": "me/1",
        }


def test_the_hub_is_asked_not_to_push() -> None:
    data = ClientProtocol(wire=ClientWire("h")).data_to_send().removeprefix(PREFACE)
    settings = split_frames(data)[0][2][9:]
    pairs = {settings[i : i + 2]: settings[i + 2 : i + 6] for i in range(0, len(settings), 6)}
    assert pairs[b"\0\2"] == bytes(4)


def test_the_scheme_and_the_token() -> None:
    client = ClientProtocol(token="tökén", wire=ClientWire("h:1", scheme="https"))
    hub = NimHub()
    hub.receive_data(client.data_to_send())
    for stream in hub.streams.values():
        assert stream.headers[":scheme"] == "https"
        assert stream.headers["authorization"] == "Bearer tökén"


@pytest.mark.parametrize("token", ["a\nb", "a\r", "\0", " a", "a ", "\t", "\x7f"])
def test_a_token_that_no_header_can_hold(token: str) -> None:
    client = ClientProtocol(token=token, wire=ClientWire("h:1"))
    with pytest.raises(ValueError, match="token"):
        client.data_to_send()


@pytest.mark.parametrize("piece", [1, 2, 9, 10_000])
def test_opening(piece: int) -> None:
    limits = Limits(max_message=10, max_channel=20, max_channels=30, max_in_flight=40, heartbeat=50)
    script = Script(limits=limits, piece=piece)
    [welcome] = script.pump()
    assert welcome == Welcome("a hub over HTTP/2", "", (), 50, 10, 20, 65_572, 30, 40)
    assert script.client.state is State.OPEN
    assert not script.client.counts_losses


def test_it_opens_when_all_three_are_answered() -> None:
    script = Script()
    script.hub.receive_data(script.client.data_to_send())
    events = [script.arrive(frame) for _, _, frame in split_frames(script.hub.data_to_send())]
    # SETTINGS, its ACK, and the answers.
    assert [len(found) for found in events] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [204, 302, 400, 404, 500, 503])
def test_another_status_is_a_refusal(path: str, status: int) -> None:
    script = Script(statuses={path: status})
    [error] = script.pump()
    assert isinstance(error, PeerError)
    assert (error.code, path in error.message) == (f"HTTP {status}", True)
    assert script.client.state is State.CLOSED
    assert script.client.eof_is_due


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("token", "text"), [(None, "wants"), ("t", "not take")])
def test_the_token_is_refused(path: str, token: str | None, text: str) -> None:
    script = Script(token=token, statuses={path: 401})
    [error] = script.pump()
    assert isinstance(error, PeerError)
    assert error.code == "auth"
    assert text in error.message


def test_the_hub_is_leaving_already() -> None:
    script = Script()
    script.hub.leave(0, b"a reason")
    [event] = script.arrive(script.hub.data_to_send())
    assert event == GoingAway("a reason", 0)


JUNK = {
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "the native wire": b"HYPS/1: this port speaks the Hyps pub/sub protocol\r\n",
    "the client's preface": PREFACE,
    "random": b"\xff" * 20,
    "PUSH_PROMISE": b"\0\0\4\x05\4\0\0\0\1\0\0\0\2",
    "DATA on no stream": b"\0\0\1\0\0\0\0\0\0a",
    "DATA before the answer": b"\0\0\1\0\0\0\0\0\1a",
    "WINDOW_UPDATE by 0": b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
    "a header that is no HPACK": b"\0\0\1\1\4\0\0\0\1\xff",
    "an answer without a status": b"\0\0\4\1\4\0\0\0\1\x40\x01a\0",
    "a window of 2 GiB": b"\0\0\6\4\0\0\0\0\0\0\4\xff\xff\xff\xff",
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("piece", [1, 10_000])
def test_it_speaks_something_else(junk: bytes, piece: int) -> None:
    script = Script(piece=piece)
    script.client.data_to_send()
    with pytest.raises(RemoteProtocolError):
        script.arrive(junk)
    assert script.client.state is State.CLOSED
    # It is told, and nothing more is sent.
    [(kind, _, frame)] = split_frames(script.client.data_to_send())
    assert kind == 7
    assert frame
    assert script.client.eof_is_due


def test_early_hints_and_headers_of_any_bytes() -> None:
    script = Script()
    script.client.data_to_send()
    for stream in (1, 3, 5):
        # Literal fields without indexing.
        early = make_frame(1, 4, stream, b"\x08\x03103")
        events = script.arrive(early + make_frame(1, 4, stream, b"\x88\x00\x01a\x01\xff"))
        assert len(events) == (stream == 5)
    assert isinstance(events[0], Welcome)


def test_the_hub_never_answers() -> None:
    script = Script(limits=Limits(hello_timeout=3))
    client = script.client
    client.data_to_send()
    assert client.tick(0) == 3
    client.tick(3)
    client.tick(3)
    with pytest.raises(RemoteProtocolError) as caught:
        drain(client)
    assert caught.value.code == "timeout"


def test_the_hub_closes_at_once() -> None:
    client = ClientProtocol(wire=ClientWire("h"))
    client.data_to_send()
    client.receive_data(b"")
    assert len(drain(client)) == 1
    assert client.state is State.CLOSED
    assert client.next_event() is NEED_DATA
