"""PING of HTTP/2 is the heartbeat, for those who answer it."""

from __future__ import annotations

import math

import pytest
from protocol.http2.peer import PREFACE, Peer, frame, ping_frame, settings_frame
from protocol.pair import connect

from hyps.protocol import Broker, Limits, State

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
