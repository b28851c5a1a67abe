"""Whatever a hub sends, the client takes it or calls it a violation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol import strategies as own
from protocol.pair import drain
from protocol.wire.http2_client.script import opened
from support.nim import PUBLISH, make_frame

from hyps.protocol import Limits, RemoteProtocolError, State

if TYPE_CHECKING:
    from hyps.protocol import ClientProtocol

LIMITS = Limits(max_message=1_000, max_channel=5, max_in_flight=3)

#: The client's own, with what a hub must not use: those that it may only begin itself among them.
streams = st.sampled_from([1, 3, 5, 0, 2, 4, 7])
small = st.integers(0, 2**31) | st.integers(0, 20)


@lru_cache
def block(*fields: tuple[str, str]) -> bytes:
    return bytes(Encoder().encode(list(fields), huffman=False))


blocks = st.sampled_from(
    [
        block((":status", "200")),
        block((":status", "100")),
        block((":status", "x")),
        block((":status", "200"), (":status", "200")),
        block(("grpc-status", "0")),
        block((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")),
        b"\x20" * 3 + block((":status", "200")),
        b"",
    ]
)
#: Frames that a server may send, on any stream.
plausible: st.SearchStrategy[bytes] = (
    st.builds(make_frame, st.just(0), st.sampled_from([0, 1]), streams, own.records)
    | st.builds(
        make_frame, st.just(0), st.sampled_from([0, 1]), streams, st.sampled_from([b"k", b"kd"])
    )
    | st.builds(make_frame, st.just(1), st.sampled_from([0, 1, 4, 5]), streams, blocks)
    | st.builds(make_frame, st.just(9), st.sampled_from([0, 4]), streams, blocks)
    | st.builds(
        lambda flags, stream, promised, fields: make_frame(
            5, flags, stream, promised.to_bytes(4, "big") + fields
        ),
        st.sampled_from([0, 4]),
        streams,
        streams,
        blocks,
    )
    | st.builds(
        lambda kind, stream, number: make_frame(kind, 0, stream, number.to_bytes(4, "big")),
        st.sampled_from([3, 8]),
        streams,
        small,
    )
    | st.builds(
        lambda key, value: make_frame(
            4, 0, 0, key.to_bytes(2, "big") + (value % 2**32).to_bytes(4, "big")
        ),
        st.integers(0, 10),
        small,
    )
    | st.builds(make_frame, st.just(6), st.sampled_from([0, 1]), st.just(0), st.just(bytes(8)))
    | st.builds(make_frame, st.just(7), st.just(0), st.just(0), st.binary(min_size=8, max_size=20))
    | st.builds(make_frame, st.just(2), st.just(0), streams, st.binary(min_size=5, max_size=5))
    | st.builds(make_frame, st.just(10), st.just(0), streams, st.just(b"\0\1ab"))
)
#: Frames that are most often wrong.
wild: st.SearchStrategy[bytes] = st.builds(
    make_frame,
    st.integers(0, 12) | st.integers(0, 255),
    st.sampled_from([0, 1, 4, 5, 8, 32]) | st.integers(0, 255),
    streams | st.integers(0, 2**31 - 1),
    st.binary(max_size=40) | own.records | blocks,
)


def act(client: ClientProtocol, number: int) -> None:
    """What users do meanwhile, if they can."""
    if client.state is not State.OPEN:
        return
    match number % 4:
        case 0:
            client.publish("c", b"1")
        case 1:
            client.subscribe(["d", "e"])
        case 2:
            client.unsubscribe(["c"])
        case _:
            client.tick(float(number))


@settings(max_examples=200)
@given(
    frames=st.lists(plausible | wild, max_size=10),
    at_once=st.booleans(),
    held=st.booleans(),
    is_open=st.booleans(),
)
def test_anything_is_taken_or_is_a_violation(
    frames: list[bytes], at_once: bool, held: bool, is_open: bool
) -> None:
    script = opened(held=(PUBLISH,) if held else (), limits=LIMITS)
    client = script.client
    if is_open:
        script.subscribe("c")
        client.publish("c", b"")
        script.pump()
    try:
        for number, data in enumerate([b"".join(frames)] if at_once else frames):
            client.receive_data(data or b"\0")
            drain(client)
            act(client, number)
            while client.data_to_send():
                pass
        client.receive_data(b"")
        drain(client)
    except RemoteProtocolError:
        assert client.state is State.CLOSED
    client.tick(1.0)
    while client.data_to_send():
        pass
