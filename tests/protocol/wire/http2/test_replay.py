"""What Hyps' own client sent gives what Hyps' own server gave, however it is cut."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hyperframe.frame import DataFrame, HeadersFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.strategies import bytewise, splits
from protocol.wire.http2.peer import MESSAGES, PREFACE, PUBLISH, SUBSCRIBE, Peer, read_frames

from hyps.protocol import Broker, State

if TYPE_CHECKING:
    from collections.abc import Iterable

VECTORS = Path(__file__).parent / "vectors"
SINGLE = ("1", "2", "3", "4", "5")
PAIR = ("6a", "6b")

#: Which of the two sent how many frames next, the preface being one with the first.
TURNS = (
    ("6b", 4), ("6a", 4), ("6b", 1), ("6a", 1), ("6b", 1), ("6a", 1), ("6a", 1), ("6b", 1),
)  # fmt: skip


def sent(name: str) -> bytes:
    return (VECTORS / f"{name}.c2s.bin").read_bytes()


def answered(name: str) -> dict[int, bytes]:
    """The DATA of each stream, as Hyps' own server gave it."""
    data: defaultdict[int, bytes] = defaultdict(bytes)
    for frame in read_frames((VECTORS / f"{name}.s2c.bin").read_bytes()):
        if isinstance(frame, DataFrame):
            data[frame.stream_id] += bytes(frame.data)
    return dict(data)


def framewise(data: bytes) -> list[bytes]:
    frames = [PREFACE]
    data = data[len(PREFACE) :]
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        frames.append(data[:size])
        data = data[size:]
    return frames


def replay(peer: Peer, chunks: Iterable[bytes], *, reads_late: bool = False) -> None:
    for chunk in chunks:
        peer.send(chunk)
        if not reads_late:
            peer.read_all()
    peer.read_all()


def expect_the_same(peer: Peer, name: str) -> None:
    assert peer.error is None
    assert dict(peer.data) == answered(name)
    assert peer.headers.keys() == {SUBSCRIBE, PUBLISH, MESSAGES}
    assert {fields[":status"] for fields in peer.headers.values()} == {"200"}
    assert not peer.ended
    assert not peer.resets
    assert peer.server.backlog == 0
    # That HEADERS stand before DATA and no DATA is empty, the peer itself checks. At the end the
    # client just closes.
    peer.send(b"")
    assert peer.server.state is State.CLOSED
    assert peer.server.channels == 0


@pytest.mark.parametrize("reads_late", [False, True])
@pytest.mark.parametrize("name", SINGLE)
def test_one_client(name: str, reads_late: bool) -> None:
    data = sent(name)
    for chunks in ([data], framewise(data), bytewise(data)):
        peer = Peer(opened=False)
        replay(peer, chunks, reads_late=reads_late)
        expect_the_same(peer, name)


@pytest.mark.parametrize("name", SINGLE)
@settings(max_examples=30)
@given(draw=st.data(), reads_late=st.booleans())
def test_one_client_cut_anywhere(name: str, draw: st.DataObject, reads_late: bool) -> None:
    peer = Peer(opened=False)
    replay(peer, draw.draw(splits(sent(name))), reads_late=reads_late)
    expect_the_same(peer, name)


def turns() -> list[tuple[str, bytes]]:
    left = {name: framewise(sent(name)) for name in PAIR}
    found = []
    for name, count in TURNS:
        count += left[name][0] == PREFACE
        found.append((name, b"".join(left[name][:count])))
        del left[name][:count]
    assert not any(left.values())
    return found


@settings(max_examples=30)
@given(st.data())
def test_two_clients(draw: st.DataObject) -> None:
    broker = Broker("boot")
    peers = {name: Peer(broker, opened=False) for name in PAIR}
    cuts = draw.draw(st.sampled_from(["whole", "bytewise", "anywhere"]))
    for name, data in turns():
        if cuts == "whole":
            chunks = [data]
        elif cuts == "bytewise":
            chunks = bytewise(data)
        else:
            chunks = draw.draw(splits(data))
        replay(peers[name], chunks)
    for name, peer in peers.items():
        peer.read_all()
        expect_the_same(peer, name)
    assert broker.published == 2
    assert broker.delivered == 4


def test_headers_of_the_answers_are_frames_that_hyps_takes() -> None:
    peer = Peer(opened=False)
    peer.send(peer.opening())
    headers = [frame for frame in peer.read() if isinstance(frame, HeadersFrame)]
    assert [frame.stream_id for frame in headers] == [SUBSCRIBE, PUBLISH, MESSAGES]
    assert all("END_HEADERS" in frame.flags for frame in headers)
    assert not any("END_STREAM" in frame.flags for frame in headers)
