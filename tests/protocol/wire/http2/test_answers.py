"""Hyps' client reads its ACKs once per batch, so they are all there when the batch is."""

from __future__ import annotations

import pytest
from protocol.strategies import bytewise
from protocol.wire.http2.peer import (
    MAX_DATA,
    MESSAGES,
    PUBLISH,
    SUBSCRIBE,
    WINDOW,
    Peer,
    cut,
    data_frame,
    names,
    records,
    taken,
)

from hyps.protocol import Limits, encode

HOLD_TIME = 0.5

BATCHES = {
    "20 of 1 KiB": [("c", bytes(1024))] * 20,
    "1 of 40,000 bytes": [("c", bytes(40_000))],
    "small, then large": [("c", b"1"), ("c", bytes(20_000)), ("d", b"2")],
    "10,000 small": [("c", b"12345678")] * 10_000,
    "1 MiB": [("c", bytes(1024 * 1024))],
}

#: A record that fills a DATA frame: 4 bytes of length, a name and two newlines.
FULL = ("c", bytes(MAX_DATA - 7))


def send_as_hyps(peer: Peer, stream: int, data: bytes, *, piece: int = 10**9) -> None:
    """Send a batch in frames that the windows allow, and read only what is no answer."""
    for frame in cut(stream, data):
        peer.credit.setdefault(stream, WINDOW)
        while min(peer.credit[0], peer.credit[stream] + peer.wider) < len(frame) - 9:
            assert peer.read(), "the hub grants no window"
        for key in (0, stream):
            peer.credit[key] -= len(frame) - 9
        peer.send(*[frame[at : at + piece] for at in range(0, len(frame), piece)])


def read_once(peer: Peer, stream: int) -> bytes:
    """The answers that come without waiting, or after the hold time if the end was not clear."""
    peer.read()
    found = peer.take(stream)
    if not found:
        assert peer.server.wants_tick
        peer.tick(1.0, 1.0 + HOLD_TIME)
        peer.read()
        found = peer.take(stream)
    return found


@pytest.mark.parametrize("piece", [1, 1000, 10**9])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_all_acks_of_a_batch_come_in_one_read(batch: list[tuple[str, bytes]], piece: int) -> None:
    data = records(*batch)
    # Byte by byte only where these are few.
    piece = max(piece, len(data) // 10_000)
    peer = Peer(limits=Limits(max_message=2 * 1024 * 1024))
    send_as_hyps(peer, PUBLISH, data, piece=piece)
    assert peer.take(PUBLISH) == b"", "nothing before the batch is out"
    assert read_once(peer, PUBLISH) == b"k" * len(batch)
    assert peer.tick(2.0) > 2.0 + HOLD_TIME
    assert peer.read() == []
    assert peer.broker.published == len(batch)


def test_all_acks_of_a_large_subscribe_come_in_one_read() -> None:
    peer = Peer()
    send_as_hyps(peer, SUBSCRIBE, names(*[f"channel {index}" for index in range(10_000)]))
    assert peer.take(SUBSCRIBE) == b""
    assert read_once(peer, SUBSCRIBE) == b"k" * 10_000
    assert peer.broker.channels == 10_000


@pytest.mark.parametrize("count", [1, 2, 5])
def test_records_that_end_with_their_frames(count: int) -> None:
    """Nothing tells whether the batch goes on: time does."""
    peer = Peer()
    send_as_hyps(peer, PUBLISH, records(*[FULL] * count))
    peer.read()
    assert peer.acks == b""
    assert peer.server.wants_tick
    assert 7.0 < peer.tick(7.0) <= 7.0 + HOLD_TIME
    assert not peer.server.wants_tick
    assert peer.tick(7.0 + HOLD_TIME / 2) <= 7.0 + HOLD_TIME
    peer.read_all()
    assert peer.acks == b""
    peer.tick(7.0 + HOLD_TIME)
    peer.read()
    assert peer.acks == b"k" * count


def test_next_data_lets_go_of_what_was_held() -> None:
    peer = Peer()
    peer.publish(FULL)
    peer.read()
    assert peer.acks == b""
    peer.publish(("c", b"1"))
    peer.read()
    assert peer.acks == b"kk"
    # Nothing is due when the time comes.
    peer.tick(0.0, 1.0)
    assert peer.read() == []


@pytest.mark.parametrize("pause", [HOLD_TIME * 0.9, 19.0])
@pytest.mark.parametrize("piece", [MAX_DATA, 5_000])
def test_batch_that_arrives_slowly_is_waited_for(pause: float, piece: int) -> None:
    """However slowly: something is visibly incomplete, a record or a frame."""
    peer = Peer(limits=Limits(max_message=1024 * 1024))
    data = b"".join(cut(PUBLISH, records(("c", b"1"), ("c", bytes(200_000)))))
    now = 0.0
    for start in range(0, len(data), piece):
        assert peer.acks == b""
        peer.send(data[start : start + piece])
        peer.read()
        peer.tick(now)
        peer.read()
        now += pause
        peer.tick(now)
        peer.read()
    assert peer.acks == b"kk"


@pytest.mark.parametrize("size", [1, 8, 9, 100])
def test_batch_whose_next_frame_came_in_part(size: int) -> None:
    """What is whole ends with its frames, and still the batch goes on."""
    peer = Peer()
    data = cut(PUBLISH, records(("c", b"1")))[0]
    peer.send(data + data[:size])
    peer.read()
    if size < len(data):
        peer.tick(0.0, 1.0, 10.0)
        peer.read()
        assert peer.acks == b""
        peer.send(data[size:])
        peer.read()
    assert peer.acks == b"kk"


def test_frame_of_another_request_is_not_waited_for() -> None:
    peer = Peer()
    data = cut(PUBLISH, records(("c", b"1")))[0]
    peer.send(data + cut(SUBSCRIBE, names("c"))[0][:-1])
    peer.read()
    assert peer.acks == b"k"


def test_hold_time_begins_with_the_last_byte() -> None:
    peer = Peer()
    now = 0.0
    for _ in range(20):
        peer.publish(FULL)
        peer.read_all()
        peer.tick(now)
        assert peer.acks == b""
        now += HOLD_TIME * 0.9
    # The last tick was with the last byte, so this is too early by a tenth.
    peer.tick(now - 0.01)
    peer.read_all()
    assert peer.acks == b""
    peer.tick(now + HOLD_TIME / 10)
    peer.read_all()
    assert peer.acks == b"k" * 20


def test_one_request_is_not_held_because_another_goes_on() -> None:
    peer = Peer()
    peer.send(peer.request(7, "POST", "/publish"))
    peer.publish(FULL)
    now = 0.0
    while not peer.acks:
        assert now < 2 * HOLD_TIME
        peer.publish(FULL, stream=7)
        peer.read_all()
        peer.tick(now)
        now += HOLD_TIME / 10
        peer.read_all()
    assert peer.acks == b"k"
    assert peer.data[7] == b""


def test_answers_are_held_while_a_record_is_not_whole() -> None:
    peer = Peer()
    data = records(("c", b"1"), ("c", b"2"))
    peer.send(data_frame(PUBLISH, data[:-1]))
    peer.read()
    peer.tick(0.0, 1.0, 10.0)
    peer.read()
    assert peer.acks == b""
    assert not peer.server.wants_tick
    peer.send(data_frame(PUBLISH, data[-1:]))
    peer.read()
    assert peer.acks == b"kk"


def test_answers_are_held_while_the_window_is_used_up() -> None:
    """The last frame is not full then, and still the batch goes on."""
    peer = Peer()
    record = encode("c", bytes(8))
    assert WINDOW % len(record) == 0
    for frame in cut(PUBLISH, record * (WINDOW // len(record))):
        peer.send(frame)
    peer.read()
    assert peer.acks == b""
    peer.tick(0.0, HOLD_TIME)
    peer.read()
    assert peer.acks == b"k" * (WINDOW // len(record))


def test_one_stream_does_not_wait_for_another() -> None:
    peer = Peer()
    peer.send(data_frame(PUBLISH, records(FULL)))
    peer.subscribe("c")
    peer.read()
    assert peer.take(SUBSCRIBE) == b"k"
    assert peer.acks == b""
    peer.send(data_frame(PUBLISH, records(("c", b"1"))))
    peer.read()
    assert peer.acks == b"kk"
    assert peer.data[MESSAGES] == records(("c", b"1"))


def test_bytewise_batch() -> None:
    peer = Peer()
    [frame] = cut(PUBLISH, records(*[("c", b"1")] * 20))
    for byte in bytewise(frame):
        peer.read()
        assert peer.acks == b""
        peer.send(byte)
    peer.read()
    assert peer.acks == b"k" * 20


@pytest.mark.parametrize("frame_size", [48, 1600, MAX_DATA])
def test_client_that_reads_no_ack_until_all_is_sent(frame_size: int) -> None:
    """Hyps' own server stops reading then, and both wait forever."""
    count = 100_000
    peer = Peer(wide=False)
    data = encode("c", b"12345") * count
    if frame_size == 48:
        data, count = data[: 12 * 20_000], 20_000
    sent = 0
    for start in range(0, len(data), frame_size):
        part = data[start : start + frame_size]
        peer.send(data_frame(PUBLISH, part))
        sent += len(part)
        if start // frame_size % 4 == 0:
            peer.read()
    peer.tick(0.0, HOLD_TIME)
    peer.read_all()
    assert peer.broker.published == count
    assert len(peer.acks) == min(count, WINDOW)
    # It reads now.
    while len(peer.acks) < count:
        before = len(peer.acks)
        for stream in (0, PUBLISH):
            peer.grant(stream, 10_000)
        peer.read_all()
        assert len(peer.acks) == min(count, before + 10_000)
    assert peer.acks == b"k" * count
    assert peer.server.backlog == 0


def test_answers_without_end_that_are_not_read() -> None:
    peer = Peer(window=0, limits=Limits(max_in_flight=100_000))
    data = encode("c", b"") * 2_000
    for _ in range(1_500):
        peer.send(data_frame(PUBLISH, data))
        peer.read()
        if peer.error is not None:
            break
    peer.expect_refusal("limit")
    assert peer.broker.published < 3_000_000


def test_what_waits_is_answered_when_the_client_sends_no_more() -> None:
    peer = Peer()
    peer.publish(FULL)
    peer.read()
    assert peer.acks == b""
    peer.send(b"")
    peer.read()
    assert peer.acks == b"k"
    assert peer.server.eof_is_due


@pytest.mark.parametrize("size", [0, 1000])
def test_acks_of_messages_to_oneself(size: int) -> None:
    peer = Peer()
    peer.subscribe("c", "d")
    peer.read()
    batch = [("cd"[index % 2], bytes(size)) for index in range(30)]
    events = peer.send(*cut(PUBLISH, records(*batch)))
    assert taken(events) == 30
    peer.read()
    assert peer.acks == b"k" * 30
    assert peer.data[MESSAGES] == records(*batch)
