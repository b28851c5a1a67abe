"""PING of HTTP/2 is the heartbeat, for those who answer it."""

from __future__ import annotations

import math

import pytest
from protocol.pair import connect
from protocol.wire.http2.peer import (
    MAX_DATA,
    PREFACE,
    PUBLISH,
    SUBSCRIBE,
    Peer,
    data_frame,
    frame,
    headers_frame,
    ping_frame,
    settings_frame,
)

from hyps.protocol import Broker, Limits, State, encode

LIMITS = Limits(heartbeat=10, hello_timeout=5.0)


def answer(peer: Peer) -> None:
    for data in peer.pings:
        peer.send(ping_frame(data, ack=True))
    peer.pings.clear()


def test_ping_after_silence() -> None:
    peer = Peer(limits=LIMITS)
    assert peer.tick(0) == 10
    assert peer.tick(9.9) == 10
    assert peer.read() == []
    assert peer.tick(10) == 20
    peer.read_all()
    assert len(peer.pings) == 1
    assert len(peer.pings[0]) == 8


def test_client_that_never_answered_is_not_given_up() -> None:
    peer = Peer(limits=LIMITS)
    deadline = 0.0
    for _ in range(100):
        before, deadline = deadline, peer.tick(deadline)
        assert deadline == before + 10
        peer.read_all()
    assert len(peer.pings) == 1
    peer.expect_alive()


def test_client_that_answered_once_is_given_up_when_it_does_not() -> None:
    peer = Peer(limits=LIMITS)
    other = connect(peer.broker, "c")
    peer.tick(0, 10)
    peer.read_all()
    answer(peer)
    assert peer.tick(11) == 21
    assert peer.tick(21) == 31
    peer.read_all()
    assert len(peer.pings) == 1
    # A late tick may mean that the hub was busy, so there is one more.
    assert peer.tick(31) == 31
    assert peer.tick(31) == math.inf
    peer.expect_refusal("timeout", 0)
    assert other.server.state is State.OPEN


def test_client_that_answers_lives_on() -> None:
    peer = Peer(limits=LIMITS)
    now = 0.0
    for _ in range(100):
        now = peer.tick(now)
        peer.read_all()
        answer(peer)
    assert now > 900
    peer.expect_alive()


@pytest.mark.parametrize("sign", [frame(0xBE, 0, 0, b"1"), settings_frame(), ping_frame()])
def test_anything_that_comes_is_a_sign_of_life(sign: bytes) -> None:
    peer = Peer(limits=LIMITS)
    peer.tick(0, 10)
    peer.read_all()
    answer(peer)
    for now in range(11, 200, 9):
        peer.send(sign)
        peer.tick(now)
        peer.read_all()
    assert peer.pings == []


@pytest.mark.parametrize("data", [b"87654321", bytes(8)])
def test_answer_to_another_ping(data: bytes) -> None:
    peer = Peer(limits=LIMITS)
    peer.tick(0, 10)
    peer.read_all()
    peer.send(ping_frame(data, ack=True))
    peer.expect_refusal("protocol")


def test_second_answer_to_one_ping() -> None:
    peer = Peer(limits=LIMITS)
    peer.tick(0, 10)
    peer.read_all()
    answer_twice = ping_frame(peer.pings[0], ack=True) * 2
    peer.send(answer_twice)
    peer.expect_refusal("protocol")


UNFINISHED = {
    "a record": (data_frame(PUBLISH, encode("c", bytes(9_000))[:5_000]),),
    "a record in a frame": (
        data_frame(PUBLISH, encode("c", bytes(9_000))[:5_000]) + data_frame(PUBLISH)[:3],
    ),
    "a record of a name": (data_frame(SUBSCRIBE, b"\0\0\0\x20abc"),),
    "DATA": (data_frame(PUBLISH, bytes(100))[:-1],),
    "the length of DATA": (data_frame(PUBLISH)[:2],),
    "HEADERS": (headers_frame(7, bytes(100))[:-1],),
    "a header block": (headers_frame(7, b"\x40", whole=False), frame(9, 0, 7, b"\x01")),
}


@pytest.mark.parametrize("parts", UNFINISHED.values(), ids=UNFINISHED)
def test_what_is_begun_must_go_on(parts: tuple[bytes, ...]) -> None:
    """That the client answers PINGs is no excuse."""
    peer = Peer(limits=LIMITS)
    peer.tick(0)
    for now, part in enumerate(parts):
        peer.send(part)
        assert peer.tick(now) == 10
    assert peer.tick(9) == 10
    assert peer.tick(10) == 10
    assert peer.tick(10) == math.inf
    peer.expect_refusal("timeout", 0)
    assert "does not go on" in str(peer.error)


def test_pings_that_are_answered_are_no_excuse() -> None:
    peer = Peer(limits=LIMITS)
    record = encode("c", bytes(9_000))
    peer.send(data_frame(PUBLISH, record[:5_000]))
    now = 0.0
    while peer.error is None:
        assert now <= 30
        peer.send(ping_frame() + data_frame(PUBLISH, b"1"))
        peer.tick(now)
        peer.read_all()
        answer(peer)
        now += 1
    peer.expect_refusal("timeout", 0)


def test_the_record_that_has_waited_for_longest_is_judged() -> None:
    peer = Peer(limits=LIMITS)
    peer.send(data_frame(SUBSCRIBE, b"\0\0\0\x20abc"))
    now = 0.0
    while peer.error is None:
        assert now <= 30
        # Another that goes on, and begins again and again.
        peer.publish(("c", bytes(1_000)))
        peer.send(data_frame(PUBLISH, encode("c", bytes(9_000))[:8_000]))
        peer.send(data_frame(PUBLISH, encode("c", bytes(9_000))[8_000:]))
        peer.tick(now)
        peer.read_all()
        answer(peer)
        now += 1
    peer.expect_refusal("timeout", 0)


@pytest.mark.parametrize("piece", [300, 5_000, MAX_DATA])
def test_records_that_arrive_slowly_are_welcome(piece: int) -> None:
    """Also in frames that take longer than an interval, one behind the other."""
    peer = Peer(limits=LIMITS)
    record = encode("c", bytes(40_000))
    frames = [data_frame(PUBLISH, record[at : at + MAX_DATA]) for at in range(0, 40_011, MAX_DATA)]
    data = b"".join(frames) * 3
    now = 0.0
    for start in range(0, len(data), piece):
        peer.send(data[start : start + piece])
        peer.read_all()
        now += 10 * min(piece, 4_096) / 4_200
        peer.tick(now)
        peer.read_all()
        answer(peer)
    assert peer.broker.published == 3
    peer.expect_alive()


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize(
    "path", [None, "/other", "/publish"], ids=["no request", "a refused one", "one"]
)
def test_session_that_is_not_opened_in_time(path: str | None, accepts: bool) -> None:
    broker = Broker("boot", LIMITS)
    peer = Peer(broker, opened=False, accepts=accepts)
    peer.send(PREFACE + settings_frame())
    if path is not None:
        peer.send(peer.request(1, "POST", path))
    peer.tick(0)
    peer.send(ping_frame())
    if path == "/publish" and accepts:
        assert peer.tick(5) > 5
        peer.expect_alive()
        return
    assert peer.tick(4) == 5
    peer.tick(5, 5)
    peer.expect_refusal("timeout", 0)
    if path is not None:
        assert peer.headers[1][":status"] == ("404" if path == "/other" else "503")


@pytest.mark.parametrize("size", [0, 3, 24])
def test_preface_that_does_not_come_in_time(size: int) -> None:
    peer = Peer(limits=LIMITS, opened=False)
    peer.send(PREFACE[:size] or b"P")
    peer.tick(0, 5, 5)
    assert peer.error is not None
    assert peer.error.code == "timeout"
    assert peer.server.data_to_send()
    assert peer.server.eof_is_due


def test_what_is_queued_for_a_silent_client_is_freed() -> None:
    peer = Peer(limits=LIMITS, window=0)
    peer.subscribe("c")
    peer.tick(0, 10)
    peer.read_all()
    answer(peer)
    peer.publish(("c", bytes(50_000)))
    peer.read_all()
    assert peer.server.backlog > 50_000
    peer.tick(11, 21, 31, 31)
    peer.read()
    assert peer.server.backlog < 1_000
    peer.expect_refusal("timeout")
