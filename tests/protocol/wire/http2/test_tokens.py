"""Who may open a session, and what waits until that is known."""

from __future__ import annotations

import pytest
from protocol.pair import connect
from protocol.wire.http2.peer import (
    data_frame,
    headers_frame,
    ping_frame,
    records,
    reset_frame,
    settings_frame,
    stranger,
)

from hyps.protocol import Broker, Hello, State, encode


@pytest.mark.parametrize("value", ["Bearer secret", "bearer secret", "BEARER secret"])
def test_token(value: str) -> None:
    peer = stranger(accepts=False)
    [event] = peer.send(
        peer.request(
            1, "POST", "/publish", ("authorization", value), ("user-agent", "curl/8"), end=True
        )
    )
    assert event == Hello("curl/8", "secret", ())
    peer.read_all()
    assert not peer.headers
    peer.server.accept()
    peer.handle()
    peer.read_all()
    assert peer.headers[1][":status"] == "200"


@pytest.mark.parametrize("value", [None, "Basic secret", "secret", ""])
def test_no_token(value: str | None) -> None:
    peer = stranger(accepts=False)
    headers = [("authorization", value)] if value is not None else []
    [event] = peer.send(peer.request(1, "POST", "/publish", *headers, end=True))
    assert isinstance(event, Hello)
    assert event.token is None


def test_client_that_is_turned_away() -> None:
    broker = Broker("boot")
    peer = stranger(broker=broker, accepts=False)
    other = connect(broker)
    peer.send(peer.request(1, "POST", "/publish") + data_frame(1, encode("c", b"1")))
    peer.server.refuse("wrong token")
    peer.handle()
    peer.read_all()
    assert peer.headers[1][":status"] == "401"
    assert peer.data[1] == b"wrong token\n"
    assert 1 in peer.ended
    assert peer.goaway is not None
    assert peer.server.eof_is_due
    assert broker.published == 0
    assert other.server.state is State.OPEN


def test_what_comes_before_the_answer_waits() -> None:
    peer = stranger(accepts=False)
    data = records(("c", b"1"), ("c", b"2"))
    peer.send(peer.request(1, "POST", "/publish"), data_frame(1, data[:9]), data_frame(1, data[9:]))
    peer.send(peer.request(3, "GET", "/other", end=True), ping_frame())
    assert peer.broker.published == 0
    peer.server.accept()
    peer.handle()
    peer.read_all()
    assert peer.data[1] == b"kk"
    assert peer.headers[3][":status"] == "404"
    assert peer.pongs == [b"12345678"]


def test_opener_that_is_reset_before_the_answer() -> None:
    peer = stranger(accepts=False)
    peer.send(peer.request(1, "POST", "/publish"), reset_frame(1))
    peer.server.accept()
    peer.handle()
    peer.read_all()
    peer.expect_alive()


def test_header_values_that_are_no_text() -> None:
    peer = stranger(accepts=False)
    block = peer.block("POST", "/publish")
    block += b"\x40\x0auser-agent\x02\xff\xfe" + b"\x40\x0dauthorization\x08Bearer \xff"
    [event] = peer.send(headers_frame(1, block))
    assert event == Hello("\ufffd\ufffd", "\ufffd", ())


@pytest.mark.parametrize("has_asked", [False, True])
@pytest.mark.parametrize("what", ["go_away", "close", "fail"])
def test_hub_that_leaves_before_the_session_is_open(has_asked: bool, what: str) -> None:
    peer = stranger(accepts=False)
    if has_asked:
        peer.send(peer.request(1, "POST", "/publish"))
    if what == "go_away":
        peer.server.go_away("restart")
    elif what == "fail":
        peer.server.fail("oh")
    else:
        peer.server.close()
    peer.handle()
    peer.read_all()
    if what != "close":
        assert peer.goaway is not None
        assert peer.goaway.error_code == (0 if what == "go_away" else 2)
    if has_asked and what == "fail":
        assert peer.headers[1][":status"] == "503"
    assert peer.server.eof_is_due


@pytest.mark.parametrize("size", [10, 100_000])
def test_reason_that_does_not_fit(size: int) -> None:
    """The window is the smallest; a reason is cut."""
    peer = stranger(accepts=False)
    peer.send(settings_frame((4, 20)))
    peer.window = 20
    peer.send(peer.request(1, "POST", "/publish"))
    peer.server.refuse("x" * size)
    peer.handle()
    peer.read_all()
    assert peer.headers[1][":status"] == "401"
    if size == 10:
        assert peer.data[1] == b"x" * 10 + b"\n"
        assert 1 in peer.ended
    else:
        assert peer.data[1] == b""
        assert 1 in peer.resets
    assert peer.goaway is not None
    assert peer.server.eof_is_due
