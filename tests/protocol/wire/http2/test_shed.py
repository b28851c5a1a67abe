"""What a stalled client does not read can be taken back from its wire."""

from __future__ import annotations

import pytest
from hyperframe.frame import DataFrame
from protocol.pair import connect
from protocol.wire.http2.peer import MESSAGES, PUBLISH, Peer, read_frames, window_frame

from hyps.protocol import Broker, Kind, Limits, encode, records
from hyps.protocol._wire.detection import UnknownWire
from hyps.protocol._wire.http2 import ClientWire, ServerWire
from hyps.protocol._wire.native import NativeWire

SIZES = (1, 100, 5_000, 40_000, 10, 70_000, 3)


def wire_with_messages() -> tuple[ServerWire, list[bytes]]:
    """A wire whose client is given messages, each of them a frame."""
    wire = ServerWire(100_000)
    peer = Peer(Broker("boot"), opened=False)
    wire.receive_data(peer.opening())
    while wire.next_frame():
        pass
    wire.flush()
    messages = [encode("c", bytes(size)) for size in SIZES]
    for message in messages:
        wire.encode(Kind.MESSAGES, [message], len(message))
    return wire, messages


def test_all_of_what_was_not_sent() -> None:
    wire = ServerWire(100_000)
    message = encode("c", b"1")
    for _ in range(3):
        wire.encode(Kind.MESSAGES, [message] * 2, 2 * len(message))
    wire.flush()
    assert wire.held == 6 * len(message)
    shed = wire.shed()
    assert b"".join(shed) == message * 6
    assert wire.held == 0
    assert wire.shed() == []
    assert b"".join(wire.flush()) == b""


@pytest.mark.parametrize("more", [0, 1, 5_000, 20_000, 50_000, 61_000])
def test_no_record_is_cut(more: int) -> None:
    """What was sent and what is given back are whole records together, and the rest still comes."""
    wire, messages = wire_with_messages()
    sent = data_of(wire)
    assert len(sent) == 65_535
    if more:
        wire.receive_data(window_frame(0, more) + window_frame(MESSAGES, more))
        while wire.next_frame():
            pass
        sent += data_of(wire)
    everything = b"".join(messages)
    assert wire.held == len(everything) - len(sent)
    shed = wire.shed()
    assert all(list(records(chunk)) for chunk in shed)
    rest = everything.removesuffix(b"".join(shed))
    assert wire.held == len(rest) - len(sent)
    assert rest in (b"".join(messages[:count]) for count in range(len(messages) + 1))
    # What was not taken back, and what comes later.
    last = encode("c", b"last")
    wire.encode(Kind.MESSAGES, [last], len(last))
    wire.receive_data(window_frame(0, 200_000) + window_frame(MESSAGES, 200_000))
    while wire.next_frame():
        pass
    assert sent + data_of(wire) == rest + last
    assert wire.held == 0


def test_answers_are_not_taken_back() -> None:
    peer = Peer(window=0)
    peer.publish(("c", b"1"), ("c", b"2"))
    peer.read_all()
    wire = peer.server._wire
    assert wire.held == 2
    assert wire.shed() == []
    assert wire.held == 2
    peer.grant(PUBLISH, 10)
    peer.read_all()
    assert peer.acks == b"kk"


def test_other_wires_have_nothing_to_give_back() -> None:
    for wire in (
        NativeWire(100, preface=True),
        UnknownWire(100, (), lambda wire: None),
        ClientWire("a"),
    ):
        assert wire.shed() == []


def test_a_stalled_client_is_within_the_bound_of_the_whole_hub() -> None:
    bound = 1_000_000
    broker = Broker("boot", Limits(max_total_buffer=bound, max_buffer=100 * bound))
    stalled = Peer(broker, window=0)
    stalled.subscribe("c")
    publisher = connect(broker)
    for _ in range(300):
        publisher.client.publish("c", bytes(10_000))
        publisher.pump()
        stalled.read_all()
        assert stalled.server.backlog < 1.2 * bound
    assert broker.missed == stalled.server.missed > 0
    assert broker.published == broker.delivered == 300


def data_of(wire: ServerWire) -> bytes:
    """The messages that are sent now."""
    found = b""
    while out := b"".join(wire.flush()):
        for one in read_frames(out):
            if isinstance(one, DataFrame) and one.stream_id == MESSAGES:
                found += bytes(one.data)
    return found
