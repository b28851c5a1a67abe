"""Requests that fail, are refused or come late: nothing of them is left, and nobody is misled."""

from __future__ import annotations

import tracemalloc

from protocol.wire.http2.peer import (
    MAX_DATA,
    PUBLISH,
    Peer,
    cut,
    data_frame,
    frame,
    records,
    settings_frame,
    stranger,
)

from hyps.protocol import Limits


def test_channels_of_a_url_are_all_or_none() -> None:
    peer = stranger(Limits(max_channels=1))
    peer.send(peer.request(1, "GET", "/messages?channel=c&channel=d", end=True))
    peer.read_all()
    assert peer.headers[1][":status"] == "403"
    assert peer.server.wants_tick
    peer.tick(0)
    assert peer.broker.channels == 0
    peer.expect_alive()


def test_channels_of_a_url_at_a_hub_that_leaves() -> None:
    peer = Peer()
    peer.server.go_away("restart")
    peer.read_all()
    peer.send(peer.request(7, "GET", "/messages?channel=c", end=True))
    peer.read_all()
    assert peer.headers[7][":status"] == "503"


def test_messages_end_when_the_hub_leaves() -> None:
    peer = Peer()
    peer.subscribe("c")
    peer.publish(("c", b"1"))
    peer.server.go_away("restart")
    peer.read_all()
    assert peer.data[5] == records(("c", b"1"))
    assert 5 in peer.ended


def test_a_publish_that_failed_does_not_look_done() -> None:
    peer = Peer()
    peer.send(
        peer.request(7, "POST", "/publish")
        + data_frame(7, records(("c", b"1")) + b"\0\0\0\x0b", end=True)
    )
    peer.expect_refusal("protocol")
    assert peer.data[7] == b"k"
    assert 7 not in peer.ended


def test_what_follows_a_request_that_is_over_does_not_cost_the_answers_of_others() -> None:
    peer = Peer()
    peer.send(
        data_frame(PUBLISH, records(*[("c", b"1")] * 5))
        + peer.request(7, "POST", "/publish", end=True)
        # A CONTINUATION of nothing.
        + frame(9, 4, 7, b"")
    )
    peer.expect_refusal("protocol")
    assert peer.acks == b"k" * 5


def test_answers_are_not_held_for_longer_than_a_client_can_read_at_once() -> None:
    peer = Peer(window=2**20)
    count = 70 * MAX_DATA // 16
    # Each frame as if its batch went on.
    for part in cut(PUBLISH, records(*[("c", b"123456789")] * count)):
        peer.send(part)
    peer.read_all()
    assert len(peer.acks) >= 65_535


def test_settings_that_nobody_knows_are_not_kept() -> None:
    peer = stranger()
    tracemalloc.start()
    try:
        for start in range(0x1000, 0xA000, 2_700):
            peer.send(settings_frame(*[(start + index, 1) for index in range(2_700)]))
            peer.read_all()
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert peer.error is None
