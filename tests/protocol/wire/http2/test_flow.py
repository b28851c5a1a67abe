"""Windows, both ways."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from hyperframe.frame import DataFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.pair import connect
from protocol.wire.http2.peer import (
    MAX_DATA,
    MESSAGES,
    PUBLISH,
    SUBSCRIBE,
    WINDOW,
    Peer,
    cut,
    data_frame,
    frame,
    records,
    settings_frame,
)

from hyps.protocol import Broker, Limits, Messages, Run, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.pair import Pair

INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5

#: Of each stream at the hub.
HUB_WINDOW = 1_048_576


def publish(pair: Pair, *messages: tuple[str, bytes]) -> None:
    pair.client.publish_many(messages)
    pair.pump()


# What the hub lets its client send


@pytest.mark.parametrize("padding", [0, 200])
def test_window_is_granted_as_records_are_taken(padding: int) -> None:
    peer = Peer()
    data = encode("c", bytes(10_000 - 8))
    sent = 0
    for _ in range(1_000):
        if padding:
            body = bytes([padding]) + data + bytes(padding)
            peer.send(frame(0, 8, PUBLISH, body))
        else:
            body = data
            peer.send(data_frame(PUBLISH, data))
        sent += len(body)
        peer.read_all()
        for stream in (0, PUBLISH):
            left = peer.credit.setdefault(stream, WINDOW) + (peer.wider if stream else 0) - sent
            assert HUB_WINDOW // 2 <= left <= HUB_WINDOW
    assert peer.acks == b"k" * 1_000


def test_window_is_granted_while_a_record_is_not_whole() -> None:
    """It may be larger than the window."""
    limits = Limits(max_message=3 * HUB_WINDOW)
    peer = Peer(limits=limits)
    other = connect(peer.broker, "c")
    message = bytes(limits.max_message)
    data = records(("c", message))
    sent = 0
    for part in cut(PUBLISH, data):
        peer.send(part)
        peer.read_all()
        sent += len(part) - 9
        assert peer.credit[0] - sent >= HUB_WINDOW // 2
    assert peer.acks == b"k"
    [event] = other.pump()
    assert isinstance(event, Messages)
    assert event.runs == (Run("c", data, 1),)


def test_stranger_has_the_smallest_window() -> None:
    peer = Peer(opened=False, accepts=False)
    peer.send(peer.opening())
    peer.read_all()
    assert peer.credit[0] == WINDOW
    for part in cut(PUBLISH, bytes(WINDOW)):
        peer.send(part)
    assert peer.error is None
    peer.send(data_frame(PUBLISH, b"1"))
    peer.server.accept()
    peer.handle()
    # It is looked at when the session is open. What is no record is found first.
    peer.expect_refusal("protocol")


# What the client lets the hub send


@pytest.mark.parametrize("size", [10, 1_000, 30_000])
def test_client_without_a_window_costs_a_bounded_buffer(size: int) -> None:
    limits = Limits(max_buffer=100_000)
    broker = Broker("boot", limits)
    peer, other, watcher = Peer(broker, window=0), connect(broker), connect(broker, "c")
    peer.grant(SUBSCRIBE, 10)
    peer.grant(PUBLISH, 10)
    peer.subscribe("c")
    messages = [
        ("c", index.to_bytes(4, "big") + bytes(size - 4))
        for index in range(max(20, 150_000 // (size + 8)))
    ]
    for start in range(0, len(messages), 3):
        publish(other, *messages[start : start + 3])
        watcher.pump()
        peer.read_all()
        # What was handed out last counts until the next time.
        peer.read()
        assert peer.server.backlog < limits.max_buffer + 3 * (size + 100)
    assert peer.data[MESSAGES] == b""
    missed = peer.server.missed
    assert 0 < missed < len(messages)
    assert broker.missed == missed
    # ACKs still flow, and others get everything.
    peer.publish(("d", b"1"))
    peer.read_all()
    assert peer.data[SUBSCRIBE] == b"k"
    assert peer.acks == b"k"
    assert watcher.server.missed == 0
    # What was kept comes when it may.
    peer.grant(MESSAGES, 2**30)
    peer.read_all()
    assert peer.data[MESSAGES] == records(*messages[: len(messages) - missed])
    assert peer.read() == []
    assert peer.server.backlog == 0
    publish(other, ("c", b"last"))
    peer.read_all()
    assert peer.data[MESSAGES].endswith(encode("c", b"last"))


def test_window_of_the_connection_alone() -> None:
    """Messages use it up, and ACKs wait for it too."""
    peer = Peer(wide=False, window=2**30)
    other = connect(peer.broker)
    peer.subscribe("c")
    peer.read_all()
    publish(other, ("c", bytes(WINDOW)))
    peer.publish(("d", b"1"))
    peer.read_all()
    assert len(peer.data[MESSAGES]) + len(peer.acks) == WINDOW - 1
    while peer.server.backlog:
        peer.grant(0, 3)
        peer.read_all()
        assert peer.room[0] == 0 or not peer.server.backlog
    assert peer.data[MESSAGES] == encode("c", bytes(WINDOW))
    assert peer.acks == b"k"


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from("cd"), st.binary(max_size=300)), max_size=5),
            st.integers(0, 700),
            st.sampled_from([0, MESSAGES]),
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_window_that_opens_bit_by_bit(
    steps: list[tuple[list[tuple[str, bytes]], int, int]], reads: bool
) -> None:
    peer = Peer(wide=False, window=0)
    peer.grant(SUBSCRIBE, 10)
    other = connect(peer.broker)
    peer.subscribe("c", "d")
    expected = b""
    for messages, increment, stream in steps:
        publish(other, *messages)
        expected += records(*messages)
        if increment:
            peer.grant(stream, increment)
        if reads:
            peer.read_all()
            found = peer.data[MESSAGES]
            assert expected.startswith(found)
            assert found == expected or not min(peer.room[0], peer.room[MESSAGES])
    peer.read_all()
    peer.grant(MESSAGES, len(expected) + 1)
    peer.read_all()
    assert peer.data[MESSAGES] == expected
    assert peer.server.missed == 0


def set_window(peer: Peer, window: int) -> None:
    """Change the window of all streams, as SETTINGS do."""
    for stream in (SUBSCRIBE, PUBLISH, MESSAGES):
        peer.room[stream] += window - peer.window
    peer.window = window
    peer.send(settings_frame((INITIAL_WINDOW_SIZE, window)))


def test_initial_window_that_changes() -> None:
    peer = Peer(window=1_000)
    other = connect(peer.broker)
    peer.subscribe("c")
    publish(other, ("c", bytes(2_000)))
    peer.read_all()
    assert len(peer.data[MESSAGES]) == 1_000
    # Below what was sent already: negative.
    set_window(peer, 100)
    assert peer.room[MESSAGES] == -900
    peer.publish(("d", b"1"))
    peer.read_all()
    assert len(peer.data[MESSAGES]) == 1_000
    assert peer.acks == b"k"
    peer.grant(MESSAGES, 900)
    assert peer.read_all() == []
    peer.grant(MESSAGES, 5)
    peer.read_all()
    assert len(peer.data[MESSAGES]) == 1_005
    set_window(peer, 0)
    peer.publish(("d", b"2"))
    peer.read_all()
    assert peer.acks == b"k"
    set_window(peer, 2_500)
    peer.read_all()
    assert peer.data[MESSAGES] == encode("c", bytes(2_000))
    assert peer.acks == b"kk"


@pytest.mark.parametrize("max_frame_size", [MAX_DATA, 100_000, 2**24 - 1])
def test_frames_are_never_larger_than_hyps_takes(max_frame_size: int) -> None:
    peer = Peer(window=2**31 - 1)
    peer.send(settings_frame((MAX_FRAME_SIZE, max_frame_size)))
    peer.subscribe("c")
    publish(connect(peer.broker), ("c", bytes(100_000)))
    sizes = [len(one.data) for one in peer.read_all() if isinstance(one, DataFrame)]
    assert max(sizes) == MAX_DATA
    assert peer.data[MESSAGES] == encode("c", bytes(100_000))


def test_what_is_sent_at_once_is_bounded() -> None:
    """A window that opens wide must not make the hub copy all that waits for it."""
    peer = Peer(window=0)
    peer.grant(SUBSCRIBE, 1)
    peer.subscribe("c")
    other = connect(peer.broker)
    for _ in range(10):
        publish(other, ("c", bytes(500_000)))
        peer.read_all()
    peer.grant(MESSAGES, 2**30)
    sizes: list[int] = []
    for _ in count():
        size = sum([9 + len(one.data) for one in peer.read() if isinstance(one, DataFrame)])
        if not size:
            break
        sizes.append(size)
    assert max(sizes) < 300_000
    assert peer.data[MESSAGES] == encode("c", bytes(500_000)) * 10
    assert peer.server.backlog == 0


@pytest.mark.parametrize("settle", [Peer.read, Peer.read_all])
def test_pings_do_not_wait_for_messages(settle: Callable[[Peer], object]) -> None:
    peer = Peer(window=0)
    peer.subscribe("c")
    publish(connect(peer.broker), ("c", bytes(100_000)))
    settle(peer)
    peer.expect_alive()
