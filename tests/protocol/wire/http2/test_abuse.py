"""What is known to be done to servers of HTTP/2 soon ends its session, and no other."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from protocol.wire.http2.peer import (
    MAX_DATA,
    MESSAGES,
    PREFACE,
    PUBLISH,
    Others,
    Peer,
    data_frame,
    frame,
    headers_frame,
    ping_frame,
    reset_frame,
    settings_frame,
    window_frame,
)

from hyps.protocol import Broker, ServerProtocol, State, Taken, encode
from hyps.protocol.limits import FRAME_WORK, PASS_WORK

if TYPE_CHECKING:
    from collections.abc import Callable

#: Error codes of HTTP/2.
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

#: What a flood must not reach, in frames.
FEW = 2_000


# Floods

FLOODS: dict[str, Callable[[Peer, int], bytes]] = {
    "PING": lambda peer, index: ping_frame(),
    "empty SETTINGS": lambda peer, index: settings_frame(),
    "SETTINGS": lambda peer, index: settings_frame((4, index)),
    "large SETTINGS": lambda peer, index: settings_frame(*[(0xF000, index)] * 200),
    "acknowledged SETTINGS": lambda peer, index: frame(4, 1),
    "PRIORITY": lambda peer, index: frame(2, 0, PUBLISH, b"\0\0\0\0\0"),
    "PRIORITY of idle streams": lambda peer, index: frame(2, 0, 7 + 2 * index, b"\0\0\0\0\0"),
    "empty DATA": lambda peer, index: data_frame(PUBLISH),
    "DATA of padding": lambda peer, index: frame(0, 8, PUBLISH, b"\x05" + bytes(5)),
    "unknown frames": lambda peer, index: frame(0xBE, 0, 0, b"1"),
    "large unknown frames": lambda peer, index: frame(0xBE, 0, 0, bytes(MAX_DATA)),
    "ALTSVC": lambda peer, index: frame(0xA, 0, 0, b"\0\1ab"),
    "GOAWAY": lambda peer, index: frame(7, 0, 0, bytes(8)),
    "RST_STREAM of a closed stream": lambda peer, index: reset_frame(7 - 6 * (index > 0)),
    "rapid reset": lambda peer, index: (
        peer.request(7 + 2 * index, "GET", "/messages", end=True) + reset_frame(7 + 2 * index)
    ),
    "rapid reset of what is refused": lambda peer, index: (
        peer.request(7 + 2 * index, "GET", "/other") + reset_frame(7 + 2 * index)
    ),
    "rapid reset of what is taken": lambda peer, index: (
        peer.request(7 + 2 * index, "POST", "/publish") + reset_frame(7 + 2 * index)
    ),
    "reset by a window": lambda peer, index: (
        peer.request(7 + 2 * index, "POST", "/publish") + window_frame(7 + 2 * index, 2**31 - 1)
    ),
    "requests that are refused": lambda peer, index: peer.request(
        7 + 2 * index, "GET", "/other", end=True
    ),
}


@pytest.mark.parametrize("at_once", [1, 100])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood(
    flood: Callable[[Peer, int], bytes], at_once: int, victim: Peer, others: Others
) -> None:
    if flood is FLOODS["RST_STREAM of a closed stream"]:
        victim.send(victim.request(7, "GET", "/other", end=True))
    sent = size = 0
    while victim.error is None and sent < FEW:
        data = b"".join([flood(victim, index) for index in range(sent, sent + at_once)])
        sent += at_once
        victim.send(data)
        size = max(size, victim.server.backlog)
        if victim.error is None:
            victim.read_all()
    assert sent < FEW
    assert size < 10_000
    victim.expect_refusal("limit")
    assert victim.goaway is not None
    assert victim.goaway.error_code == ENHANCE_YOUR_CALM
    others.expect_well()


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood_in_one_read_is_not_looked_at_to_its_end(
    flood: Callable[[Peer, int], bytes], victim: Peer
) -> None:
    if flood is FLOODS["RST_STREAM of a closed stream"]:
        victim.send(victim.request(7, "GET", "/other", end=True))
    # What stands behind it would be another violation.
    victim.send(b"".join([flood(victim, index) for index in range(FEW)]) + data_frame(0, b"1"))
    victim.expect_refusal("limit")


def test_flood_before_the_session_is_open() -> None:
    peer = Peer(opened=False)
    peer.send(PREFACE, settings_frame(), ping_frame() * FEW)
    peer.expect_refusal("limit")


def test_windows_of_a_stranger() -> None:
    """There is nothing to grant one for."""
    peer = Peer(opened=False)
    peer.send(PREFACE, settings_frame(), window_frame(0, 1) * FEW)
    peer.expect_refusal("limit")


@pytest.mark.parametrize(
    "data",
    [window_frame(PUBLISH, 1), data_frame(PUBLISH, b"\0"), data_frame(PUBLISH, b"\0\0\0\4c\n1\n")],
)
def test_small_frames_are_work_that_others_need_not_wait_for(victim: Peer, data: bytes) -> None:
    """Many of them are no fault."""
    start = data_frame(PUBLISH, b"\0\1\0\0") if data[9:] == b"\0" else b""
    events = victim.send(start + data * 5_000)
    assert victim.error is None
    work = [event.work for event in events if isinstance(event, Taken)]
    assert sum(work) >= 5_000 * FRAME_WORK - PASS_WORK
    assert max(work) <= PASS_WORK + 10 * FRAME_WORK


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("huffman", [True, False])
def test_header_blocks_are_work_by_the_byte(opened: bool, huffman: bool) -> None:
    """Before the session is open too."""
    peer = Peer(opened=opened)
    if not opened:
        peer.send(PREFACE + settings_frame())
    value = "a" * 10_000
    fields = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]
    blocks = [peer.encoder.encode([*fields, ("x", value)], huffman=huffman) for _ in range(10)]
    frames = [headers_frame(7 + 2 * index, block, end=True) for index, block in enumerate(blocks)]
    work = [event.work for event in peer.send(b"".join(frames)) if isinstance(event, Taken)]
    peer.expect_alive()
    size = sum(map(len, blocks))
    assert sum(work) >= size - PASS_WORK
    # One block is decoded at once.
    assert max(work) <= PASS_WORK + 2 * max(map(len, blocks))


def test_frames_of_a_stranger_are_work_that_others_need_not_wait_for() -> None:
    peer = Peer(opened=False)
    events = peer.send(PREFACE + settings_frame() + ping_frame() * 900)
    work = [event.work for event in events if isinstance(event, Taken)]
    assert sum(work) >= 900 * FRAME_WORK * 8 - PASS_WORK
    assert max(work) <= PASS_WORK + 10 * FRAME_WORK


UPDATES = {
    "of one byte": b"\x20",
    "of two bytes": b"\x3f\x01",
    "of many bytes": b"\x3f" + b"\x80" * 10 + b"\0",
}


def send_updates(victim: Peer, updates: bytes) -> None:
    victim.send(headers_frame(7, updates + b"\x82\x87\x04\x02/x\x01\x01a", end=True))


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("count", [3, 1_000])
def test_table_size_updates(update: bytes, count: int, victim: Peer) -> None:
    """More than two are refused before the block is decoded (RFC 7541, 4.2)."""
    send_updates(victim, update * count)
    victim.expect_refusal("limit", ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("updates", [b"\x20", b"\x20\x3f\x01", b"\x3f\xe1\x1f\x3f\x01"])
def test_two_table_size_updates_are_allowed(updates: bytes, victim: Peer) -> None:
    send_updates(victim, updates)
    victim.read_all()
    assert victim.headers[7][":status"] == "404"
    victim.expect_alive()


def test_table_size_updates_in_pieces(victim: Peer) -> None:
    victim.send(headers_frame(7, b"\x20", whole=False) + frame(9, 0, 7, b"\x20"))
    victim.send(frame(9, 4, 7, b"\x20\x82\x87\x04\x02/x"))
    victim.expect_refusal("limit", ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("opened", [True, False])
def test_large_header_blocks_without_end(opened: bool) -> None:
    """A few a second are as much work as a thousand small frames."""
    peer = Peer(opened=opened)
    if not opened:
        peer.send(PREFACE + settings_frame())
    for index in range(100):
        block = peer.block("GET", "/x", ("x", "a" * 10_000))
        peer.send(headers_frame(7 + 2 * index, block, end=True))
        peer.read_all()
        if peer.error is not None:
            break
    assert 10 < index < 50
    peer.expect_refusal("limit")


def test_many_channels_in_a_query_are_work() -> None:
    peer = Peer(opened=False)
    query = "&".join(f"channel={index}" for index in range(1_000))
    events = peer.send(
        PREFACE + settings_frame() + peer.request(1, "GET", f"/messages?{query}", end=True)
    )
    work = [event.work for event in events if isinstance(event, Taken)]
    assert sum(work) >= len(query)
    peer.read_all()
    assert peer.headers[1][":status"] == "200"
    assert peer.server.channels == 1_000


def test_flood_while_the_hub_thinks() -> None:
    """What comes before the session is open is kept, but not without end."""
    peer = Peer(opened=False, accepts=False)
    peer.send(peer.opening())
    for _ in range(100):
        peer.send(ping_frame() * 2_000)
    assert peer.server.backlog < 2_000
    peer.server.accept()
    peer.handle()
    peer.expect_refusal("limit")


def test_data_of_refused_requests(victim: Peer) -> None:
    """Of one that was reset, and of one that is over."""
    victim.send(victim.request(7, "POST", "/other"))
    for sent in count():
        victim.send(data_frame(7, b"1"))
        if victim.error is not None:
            break
        victim.read_all()
        assert sent < FEW
    victim.expect_refusal("limit")


def test_answers_that_are_not_read(victim: Peer, others: Others) -> None:
    """Slow enough to be no flood, and never read."""
    now, sent = 0.0, 0
    while victim.error is None:
        victim.send(ping_frame() * 100)
        victim.tick(now)
        now += 1
        sent += 100
        assert sent < 10_000
    victim.expect_refusal("limit")
    others.expect_well()


@pytest.mark.parametrize("interval", [0.1, 20.0])
def test_client_that_pings_all_day_is_welcome(victim: Peer, interval: float) -> None:
    """Also if nobody looks at the clock but when the hub asks for it."""
    now = deadline = 0.0
    for _ in range(4_000):
        now += interval
        victim.send(ping_frame())
        victim.read_all()
        if victim.server.wants_tick or now >= deadline:
            deadline = victim.tick(now)
    assert len(victim.pongs) == 4_000
    victim.expect_alive()


def test_many_requests_in_a_day_are_welcome(victim: Peer) -> None:
    """One after the other on one connection, as a proxy makes them."""
    now = 0.0
    for stream in range(7, 7 + 2 * 400, 2):
        victim.send(victim.request(stream, "POST", "/publish"))
        victim.send(data_frame(stream, encode("c", b"1"), end=True))
        victim.read_all()
        assert victim.data.pop(stream) == b"k"
        now += 0.001
        if victim.server.wants_tick:
            victim.tick(now)
    victim.expect_alive()


# Headers


@pytest.mark.parametrize("part", [b"", b"1", bytes(MAX_DATA)])
def test_flood_of_continuations(victim: Peer, others: Others, part: bytes) -> None:
    victim.send(headers_frame(7, victim.block("GET", "/messages"), whole=False))
    sent = 0
    while victim.error is None:
        assert sent <= 64
        victim.send(frame(9, 0, 7, part))
        sent += 1
        assert victim.server.backlog < 2_000
    if part:
        assert sent * len(part) < 3 * MAX_DATA
    victim.expect_refusal("limit" if len(part) > 1 else "protocol")
    others.expect_well()


def test_header_block_in_pieces(victim: Peer) -> None:
    block = victim.block("GET", "/other")
    victim.send(headers_frame(7, block[:3], whole=False, end=True), frame(9, 0, 7, block[3:5]))
    victim.send(frame(9, 4, 7, block[5:]))
    victim.read_all()
    assert victim.headers[7][":status"] == "404"
    victim.expect_alive()


@pytest.mark.parametrize("between", [ping_frame(), data_frame(PUBLISH), frame(9, 4, 9)])
def test_other_frame_within_a_header_block(victim: Peer, between: bytes) -> None:
    victim.send(headers_frame(7, victim.block("GET", "/other"), whole=False), between)
    victim.expect_refusal("protocol", PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", ["many", "large", "bomb"])
def test_header_list_over_the_limit(victim: Peer, others: Others, kind: str) -> None:
    block = victim.block("GET", "/other")
    if kind == "many":
        block += b"\x40\x01a\x01b" + b"\xbe" * 500
    elif kind == "large":
        block += b"\x00\x01a\x7f\x81\x7f" + bytes(16_384) + b"\0"
    else:
        block += b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4_000 + b"\xbe" * 10_000
    for start in range(0, len(block), MAX_DATA):
        part = block[start : start + MAX_DATA]
        is_last = start + MAX_DATA >= len(block)
        if start:
            victim.send(frame(9, 4 * is_last, 7, part))
        else:
            victim.send(headers_frame(7, part, whole=is_last))
    victim.expect_refusal("limit", ENHANCE_YOUR_CALM)
    others.expect_well()


@pytest.mark.parametrize(
    ("more", "goaway"),
    [
        (b"\xff\xff\xff\xff\xff", None),  # an index that there is not
        (b"\x00\x01A\x01b", PROTOCOL_ERROR),
        (b"\x00\x0aconnection\x05close", PROTOCOL_ERROR),
        (b"\x00\x11transfer-encoding\x07chunked", PROTOCOL_ERROR),
        (b"\x00\x02te\x01x", PROTOCOL_ERROR),
        (b"\x00\x05:path\x02/x", PROTOCOL_ERROR),
        (b"\x00\x01a\x01b\x00\x07:status\x03200", PROTOCOL_ERROR),
        (b"\x00\x00\x01b", PROTOCOL_ERROR),
        (b"\x00\x02\xff\xff\x01b", None),
        (b"\x00\x0econtent-length\x01x", None),
        (b"\x3f\xff\xff\xff\x7f", None),  # a table that is too large
    ],
)
def test_headers_that_are_wrong(
    victim: Peer, others: Others, more: bytes, goaway: int | None
) -> None:
    victim.send(headers_frame(7, victim.block("GET", "/other") + more, end=True))
    if victim.error is None:
        # It is for the hub to like, but not to fail at.
        assert more[1:3] == b"\x02\xff"
        return
    victim.expect_refusal("protocol", goaway)
    others.expect_well()


@pytest.mark.parametrize("missing", [":method", ":path", ":scheme"])
def test_request_without(victim: Peer, missing: str) -> None:
    fields = {":method": "POST", ":scheme": "http", ":path": "/publish", ":authority": "a"}
    del fields[missing]
    victim.send(headers_frame(7, victim.encoder.encode(list(fields.items()))))
    victim.expect_refusal("protocol", PROTOCOL_ERROR)


@pytest.mark.parametrize(("length", "is_end"), [("1", True), ("30", False), ("99", True)])
def test_content_length_that_does_not_match(victim: Peer, length: str, is_end: bool) -> None:
    body = encode("c", bytes(30))
    victim.send(victim.request(7, "POST", "/publish", ("content-length", length)))
    victim.send(data_frame(7, body, end=is_end))
    victim.expect_refusal("protocol", PROTOCOL_ERROR)
    assert victim.broker.published == 0


def test_too_many_streams(victim: Peer, others: Others) -> None:
    for stream in range(7, 7 + 2 * 97, 2):
        victim.send(victim.request(stream, "POST", "/publish"))
    victim.expect_alive()
    victim.send(victim.request(401, "POST", "/publish"))
    victim.expect_refusal("limit")
    others.expect_well()


# Frames that are wrong

WRONG: dict[str, tuple[bytes, int | None]] = {
    "DATA of an idle stream": (data_frame(9, b"1"), None),
    "DATA of the connection": (data_frame(0, b"1"), None),
    "DATA of the hub's stream": (data_frame(2, b"1"), None),
    "padding that is too long": (frame(0, 8, PUBLISH, b"\x09123"), PROTOCOL_ERROR),
    "padding that is missing": (frame(0, 8, PUBLISH), None),
    "HEADERS of the hub's stream": (headers_frame(8, b"\x83\x87\x84"), PROTOCOL_ERROR),
    "HEADERS of the connection": (headers_frame(0, b"\x83\x87\x84"), PROTOCOL_ERROR),
    "second HEADERS": (headers_frame(PUBLISH, b"\x83\x87\x84"), None),
    "RST_STREAM of the connection": (reset_frame(0), PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (frame(3, 0, PUBLISH, b"123"), None),
    "SETTINGS of 5 bytes": (frame(4, 0, 0, b"12345"), None),
    "SETTINGS of a stream": (frame(4, 0, 1), PROTOCOL_ERROR),
    "acknowledgement with settings": (frame(4, 1, 0, bytes(6)), None),
    "push": (settings_frame((2, 2)), PROTOCOL_ERROR),
    "frame size": (settings_frame((5, 100)), PROTOCOL_ERROR),
    "window of all": (settings_frame((4, 2**31)), FLOW_CONTROL_ERROR),
    "PUSH_PROMISE": (frame(5, 4, PUBLISH, b"\0\0\0\2\x83"), PROTOCOL_ERROR),
    "PING of 7 bytes": (ping_frame(b"1234567"), None),
    "PING of a stream": (frame(6, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "answer to no PING": (ping_frame(ack=True), None),
    "GOAWAY of 7 bytes": (frame(7, 0, 0, bytes(7)), None),
    "WINDOW_UPDATE by 0": (window_frame(0, 0), None),
    "WINDOW_UPDATE of an idle stream": (window_frame(9, 1), None),
    "window overflow": (window_frame(0, 2**31 - 1), FLOW_CONTROL_ERROR),
    "CONTINUATION of nothing": (frame(9, 4, PUBLISH, b"1"), None),
    "stream that depends on itself": (frame(2, 0, 9, b"\0\0\0\x09\0"), None),
}


@pytest.mark.parametrize(("wrong", "goaway"), WRONG.values(), ids=WRONG)
def test_wrong_frame(victim: Peer, others: Others, wrong: bytes, goaway: int | None) -> None:
    """What was right before it is taken and answered, in the same read too."""
    good = data_frame(PUBLISH, encode("c", b"1"))
    victim.send(good + wrong + good)
    victim.expect_refusal("protocol", goaway)
    assert victim.broker.published == 1
    assert victim.data[MESSAGES] == encode("c", b"1")
    # h2 closes the stream that is at fault.
    assert victim.acks == b"k" or wrong[3:9] == bytes([9, 4, 0, 0, 0, PUBLISH])
    others.expect_well()


@pytest.mark.parametrize("late", [data_frame(MESSAGES, b"1"), window_frame(MESSAGES, 2**31 - 1)])
def test_fault_of_one_request_ends_that_request(victim: Peer, others: Others, late: bytes) -> None:
    victim.send(late)
    victim.publish(("c", b"1"))
    victim.read_all()
    assert victim.resets.keys() == {MESSAGES}
    assert victim.acks == b"k"
    assert victim.data[MESSAGES] == b""
    victim.expect_alive()
    others.expect_well()


@pytest.mark.parametrize("kind", [0, 1, 4, 6, 0xBE])
def test_frame_over_the_limit_is_refused_at_its_length(victim: Peer, kind: int) -> None:
    victim.send((MAX_DATA + 1).to_bytes(3, "big"))
    victim.expect_refusal("too_large", FRAME_SIZE_ERROR)


def test_data_beyond_the_window_of_a_stranger() -> None:
    """It is kept until the hub has decided, but not without end."""
    peer = Peer(opened=False, accepts=False)
    peer.send(peer.opening())
    for _ in range(100):
        peer.send(data_frame(PUBLISH, bytes(MAX_DATA)))
    peer.server.accept()
    peer.handle()
    peer.expect_refusal("limit")
    assert peer.broker.published == 0


def test_data_after_a_reset_is_no_fault(victim: Peer) -> None:
    """It may have been under way; but nothing of it is taken."""
    victim.send(reset_frame(PUBLISH), data_frame(PUBLISH, encode("c", b"1")) * 3)
    assert victim.broker.published == 0
    victim.expect_alive()


@pytest.mark.parametrize("start", [PREFACE[:-1] + b"x", b"PRI * HTTP/1.1\r\n\r\n", b"PRI x"])
def test_wrong_preface(start: bytes) -> None:
    for chunks in ([start], [start[index : index + 1] for index in range(len(start))]):
        server = ServerProtocol(Broker("boot"), session="s")
        peer = Peer(opened=False)
        peer.server = server
        for chunk in chunks:
            peer.send(chunk)
        assert peer.error is not None
        assert peer.error.code == "protocol"
        assert server.state is State.CLOSED
        assert server.data_to_send().startswith(b"HYPS/1: ")
        assert server.eof_is_due


@pytest.mark.parametrize("size", [120_000, 200_000])
def test_what_a_stranger_may_park(size: int) -> None:
    """A stranger may park as much data as the windows allow, whatever a read brings at once."""
    peer = Peer(opened=False, accepts=False)
    peer.send(peer.opening())
    peer.send(frame(0, 0, 1, bytes(size - 9)))
    peer.server.accept()
    peer.handle()
    assert ("too much" in repr(peer.error)) == (size > 2 * 65_535)
