from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol import strategies as own
from protocol.pair import error_fields, expect_violation, hello, receive

from hyps.protocol import (
    NEED_DATA,
    PREFACE,
    Broker,
    ErrorCode,
    FrameDecoder,
    Hello,
    Kind,
    RemoteProtocolError,
    ServerProtocol,
    State,
    encode_frame,
)
from hyps.protocol.limits import MAX_PREFACE

MAX_FRAME = 20


def decode(decoder: FrameDecoder, chunks: list[bytes]) -> tuple[list[tuple[int, bytes]], str]:
    """All frames, and the code of the error behind them."""
    found = []
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            while (frame := decoder.next_frame()) is not None:
                found.append(frame)
    except RemoteProtocolError as error:
        return found, error.code
    return found, ""


def session() -> ServerProtocol:
    return ServerProtocol(Broker("boot"), session="s")


def test_layout() -> None:
    assert encode_frame(Kind.PING, b"12345678") == b"\x00\x00\x00\x09\x0b12345678"
    assert encode_frame(0xFF, b"") == b"\x00\x00\x00\x01\xff"


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=MAX_FRAME - 1))),
    st.booleans(),
    st.data(),
)
def test_any_split_gives_the_same_frames(
    frames: list[tuple[int, bytes]], preface: bool, draw: st.DataObject
) -> None:
    data = PREFACE * preface + b"".join([encode_frame(*frame) for frame in frames])
    for chunks in ([data], own.bytewise(data), draw.draw(own.splits(data))):
        decoder = FrameDecoder(MAX_FRAME, preface=preface)
        assert decode(decoder, chunks) == (frames, "")
        assert decoder.buffered == 0


@given(st.binary(), st.booleans(), st.data())
def test_any_split_of_junk_gives_the_same_frames_and_the_same_verdict(
    junk: bytes, preface: bool, draw: st.DataObject
) -> None:
    data = draw.draw(st.sampled_from([b"", PREFACE, encode_frame(1, b"x")])) + junk
    whole = decode(FrameDecoder(MAX_FRAME, preface=preface), [data])
    for chunks in (own.bytewise(data), draw.draw(own.splits(data))):
        assert decode(FrameDecoder(MAX_FRAME, preface=preface), chunks) == whole


@pytest.mark.parametrize(
    ("length", "code"),
    [(0, ErrorCode.PROTOCOL), (MAX_FRAME + 1, ErrorCode.TOO_LARGE), (2**32 - 1, "too_large")],
)
def test_length_out_of_bounds_is_refused_at_the_length(length: int, code: str) -> None:
    before = encode_frame(1, b"x")
    chunks = [before + length.to_bytes(4, "big")]
    assert decode(FrameDecoder(MAX_FRAME), chunks) == ([(1, b"x")], code)


def test_largest_frame_is_taken() -> None:
    frame = (1, bytes(MAX_FRAME - 1))
    assert decode(FrameDecoder(MAX_FRAME), [encode_frame(*frame)]) == ([frame], "")


def test_bound_may_change_between_frames() -> None:
    decoder = FrameDecoder(1)
    decoder.receive_data(encode_frame(1, b"") + encode_frame(2, b"x"))
    assert decoder.next_frame() == (1, b"")
    decoder.max_frame = 2
    assert decoder.next_frame() == (2, b"x")


def test_what_is_not_a_whole_frame_stays_buffered_until_it_is_discarded() -> None:
    decoder = FrameDecoder(MAX_FRAME)
    decoder.receive_data(encode_frame(1, b"x")[:-1])
    assert decoder.next_frame() is None
    assert decoder.buffered == 5
    decoder.discard()
    assert decoder.buffered == 0
    assert decode(decoder, [encode_frame(2, b"y")]) == ([(2, b"y")], "")


@pytest.mark.parametrize("size", range(1, len(PREFACE)))
def test_part_of_the_preface_is_waited_for(size: int) -> None:
    server = session()
    assert receive(server, PREFACE[:size]) == []
    [event] = receive(server, PREFACE[size:] + hello())
    assert event == Hello("test", None, ())


@pytest.mark.parametrize(
    "line", ["HYPS/2", "HYPS/0", "HYPS/10", "HYPS/", "HYPS/1.1", "HYPS/1 ", "HYPS/123456789"]
)
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "bytewise"])
def test_another_version_is_told_which_there_are(line: str, chunked: bool) -> None:
    data = line.encode() + b"\r\n"
    assert len(data) <= MAX_PREFACE
    server = session()
    for chunk in own.bytewise(data)[:-1] if chunked else ():
        assert receive(server, chunk) == []
    server.receive_data(data[-1:] if chunked else data + hello())
    with pytest.raises(RemoteProtocolError) as caught:
        server.next_event()
    assert caught.value.code == ErrorCode.VERSION
    fields = error_fields(server)
    assert (fields["code"], fields["versions"]) == ("version", [1])


def test_only_an_error_about_the_version_says_which_there_are() -> None:
    server = session()
    server.receive_data(PREFACE + encode_frame(Kind.PING, bytes(8)))
    with pytest.raises(RemoteProtocolError):
        server.next_event()
    assert set(error_fields(server)) == {"code", "message"}


@pytest.mark.parametrize(
    "data",
    [
        b"BREW / HTCPCP/1.0\r\nHost: example.com\r\n\r\n",
        b"PRI * HTTP/1.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"hyps/1\r\n",
        b"HYPs",
        b"\r\n",
        hello(),
    ],
)
def test_another_protocol_is_told_so_in_a_line_of_text(data: bytes) -> None:
    server = session()
    server.receive_data(data)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            server.next_event()
        assert caught.value.code == ErrorCode.PROTOCOL
    line = server.data_to_send()
    assert line.endswith(b"\r\n")
    assert line.count(b"\n") == 1
    assert line.startswith(b"HYPS/1")
    assert line.isascii()
    assert server.state is State.CLOSED
    assert server.eof_is_due


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT"])
def test_http_1_is_told_so_in_http_1(method: bytes) -> None:
    server = session()
    # It may begin as the other wires do.
    for byte in method:
        server.receive_data(bytes([byte]))
        assert server.next_event() is NEED_DATA
    server.receive_data(b" /messages HTTP/1.1\r\nhost: example.com\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="HTTP/1"):
        server.next_event()
    head, _, body = server.data_to_send().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 505 ")
    assert b"content-length: %d" % len(body) in head
    assert b"--http2-prior-knowledge" in body
    assert server.eof_is_due


@pytest.mark.parametrize("version", [b"1" * (MAX_PREFACE - 5), b"123456789\n\r\n"])
def test_preface_without_an_end_is_a_violation(version: bytes) -> None:
    expect_violation(session(), b"HYPS/" + version)


def test_preface_comes_once() -> None:
    expect_violation(session(), PREFACE + PREFACE, ErrorCode.TOO_LARGE)
