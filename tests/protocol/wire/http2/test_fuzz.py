"""Bytes behind the preface may be anything, and cut anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol import strategies as own
from protocol.wire.http2.peer import (
    MESSAGES,
    PREFACE,
    PUBLISH,
    SUBSCRIBE,
    Peer,
    cut,
    data_frame,
    frame,
    headers_frame,
    names,
    ping_frame,
    reset_frame,
    settings_frame,
    window_frame,
)

from hyps.protocol import Broker, Limits

LIMITS = Limits(max_message=100, max_channel=5, max_channels=3)

streams = st.sampled_from([SUBSCRIBE, PUBLISH, MESSAGES, 7, 9, 0, 2])
paths = st.sampled_from(
    ["/publish", "/subscribe", "/messages", "/messages?channel=a&channel=b", "/messages?c", "/x"]
)
small = st.integers(0, 2**31) | st.integers(0, 20)

#: Trailers, table size updates, a part of a field, a client that takes itself for the hub.
blocks = st.sampled_from([b"", b"\0\1a\1b", b"\x20", b"\x20" * 3, b"\x40", b"\x88", b"\x83\x87"])

#: Frames that are right, in the right place.
plausible: st.SearchStrategy[bytes] = (
    st.builds(data_frame, streams, own.records, end=st.booleans())
    | st.builds(data_frame, st.just(PUBLISH), own.records)
    | st.builds(data_frame, st.just(SUBSCRIBE), st.sampled_from([names("a"), names("a", "b")]))
    | st.builds(
        lambda stream, method, path, end: headers_frame(
            stream, Peer(opened=False).block(method, path), end=end
        ),
        streams,
        st.sampled_from(["GET", "POST", "HEAD"]),
        paths,
        st.booleans(),
    )
    | st.builds(
        lambda stream, block, flags, more: (
            headers_frame(stream, block, whole=False) + frame(9, flags, stream, more)
        ),
        streams,
        blocks,
        st.sampled_from([0, 4]),
        blocks,
    )
    | st.builds(headers_frame, streams, blocks, end=st.booleans())
    | st.builds(frame, st.just(5), st.just(4), streams, st.just(b"\0\0\0\2\x83"))
    | st.builds(reset_frame, streams, small)
    | st.builds(window_frame, streams, small)
    | st.builds(ping_frame, st.just(b"12345678"), ack=st.booleans())
    | st.builds(settings_frame, st.tuples(st.integers(0, 10), small))
)
#: Frames that are most often wrong.
wild: st.SearchStrategy[bytes] = st.builds(
    frame,
    st.integers(0, 12) | st.integers(0, 255),
    st.sampled_from([0, 1, 4, 5, 8, 32]) | st.integers(0, 255),
    streams | small,
    st.binary(max_size=40) | own.records,
)


@dataclass
class Outcome:
    """What came of some bytes, as far as it must not depend on how they were cut."""

    published: int
    code: str | None
    text: str
    delivered: bytes
    data: dict[int, bytes]
    statuses: dict[int, str]
    resets: dict[int, int]
    channels: int


def outcome(chunks: list[bytes], *, reads: bool, opened: bool) -> Outcome:
    broker = Broker("boot", LIMITS)
    watcher = Peer(broker)
    watcher.subscribe("a", "b")
    peer = Peer(broker, opened=False)
    for chunk in [PREFACE + settings_frame(), *([peer.opening()[24:]] if opened else []), *chunks]:
        peer.send(chunk)
        if reads:
            peer.read_all()
    channels = peer.server.channels
    peer.send(b"")
    peer.read_all()
    watcher.read_all()
    assert peer.server.eof_is_due
    assert peer.server not in broker.sessions
    error = peer.error
    return Outcome(
        broker.published,
        error.code if error is not None else None,
        str(error),
        watcher.data[MESSAGES],
        {stream: data for stream, data in peer.data.items() if data},
        {stream: fields[":status"] for stream, fields in peer.headers.items()},
        peer.resets,
        channels,
    )


@pytest.mark.parametrize("opened", [True, False])
@settings(max_examples=60)
@given(frames=st.lists(plausible, max_size=12), more=st.data())
def test_any_split_of_frames_gives_the_same(
    opened: bool, frames: list[bytes], more: st.DataObject
) -> None:
    data = b"".join(frames)
    if more.draw(st.booleans()):
        data = more.draw(own.mutations(data))
    whole = outcome([data], reads=False, opened=opened)
    assert whole.code in (None, "protocol", "limit", "too_large")
    for chunks in (own.bytewise(data), more.draw(own.splits(data))):
        found = outcome(chunks, reads=False, opened=opened)
        assert found == whole


@pytest.mark.parametrize("opened", [True, False])
@settings(max_examples=60)
@given(frames=st.lists(plausible | wild, max_size=12))
def test_what_is_published_does_not_depend_on_reading(opened: bool, frames: list[bytes]) -> None:
    """But for frames of a request that is over: only then is it, if its answer went out."""
    late = outcome([b"".join(frames)], reads=False, opened=opened)
    soon = outcome(frames, reads=True, opened=opened)
    if late.code == soon.code:
        assert (late.published, late.delivered) == (soon.published, soon.delivered)
        assert late.channels == soon.channels
    else:
        assert late.delivered.startswith(soon.delivered)
        assert "StreamClosedError" in soon.text


@settings(max_examples=60)
@given(junk=st.binary(max_size=100) | st.lists(wild, max_size=6).map(b"".join))
def test_junk_is_nothing_worse_than_a_violation(junk: bytes) -> None:
    for opened in (True, False):
        outcome([junk], reads=True, opened=opened)


@settings(max_examples=50)
@given(block=st.binary(max_size=60), end=st.booleans(), flags=st.sampled_from([0, 8, 32, 40]))
def test_any_header_block(block: bytes, end: bool, flags: int) -> None:
    head = Peer(opened=False).block("GET", "/x")
    for one in (block, head + block):
        outcome([frame(1, 4 | flags | end, 7, one)], reads=True, opened=True)


@settings(max_examples=50)
@given(messages=own.messages, more=st.data())
def test_records_cut_into_any_frames(
    messages: list[tuple[str, bytes]], more: st.DataObject
) -> None:
    """What is taken depends on the records alone."""
    data = b"".join([names("a"), *[names(name) for name, _ in messages]])
    parts = more.draw(own.splits(data))
    whole = outcome(cut(PUBLISH, data), reads=True, opened=True)
    frames = [data_frame(PUBLISH, part) for part in parts]
    assert outcome(frames, reads=True, opened=True) == whole
    assert whole.published == whole.data[PUBLISH].count(b"k")
