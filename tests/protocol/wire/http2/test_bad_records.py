"""Records that are wrong end their client, and nobody else."""

from __future__ import annotations

import pytest
from protocol.wire.http2.peer import (
    PUBLISH,
    SUBSCRIBE,
    Others,
    Peer,
    data_frame,
    names,
    reset_frame,
)

from hyps.protocol import Limits, encode

PROTOCOL_ERROR = 1

MALFORMED = (
    b"\0\0\0\0",
    b"\0\0\0\2\n\n",
    b"\0\0\0\3abc",
    b"\0\0\0\4c\n1x",
    b"\0\0\0\3\n\n\n",
    b"\0\0\0\4\xff\n1\n",
)


@pytest.mark.parametrize("stream", [PUBLISH, SUBSCRIBE])
@pytest.mark.parametrize("bad", MALFORMED)
@pytest.mark.parametrize("at_once", [False, True])
def test_malformed_record_ends_its_client_alone(
    victim: Peer, others: Others, stream: int, bad: bytes, at_once: bool
) -> None:
    victim.take(SUBSCRIBE)
    good = names("a", "b")
    parts = [good + bad + good] if at_once else [good, bad, good]
    for part in parts:
        victim.send(data_frame(stream, part))
    victim.expect_refusal("protocol", PROTOCOL_ERROR)
    assert victim.data[stream] == b"kk"
    assert victim.broker.published == 2 * (stream == PUBLISH)
    others.expect_well()


def test_record_over_the_limit_is_refused_at_its_length() -> None:
    limits = Limits(max_message=1_000)
    victim = Peer(limits=limits)
    good = encode("c", b"1")
    # One that is somewhat too large only costs a code.
    victim.publish(("c", bytes(limits.max_message + 1)), ("c", b"1"))
    victim.read_all()
    assert victim.acks == b"sk"
    size = limits.max_frame - 4 + 1
    victim.send(data_frame(PUBLISH, good + size.to_bytes(4, "big")))
    victim.expect_refusal("too_large")
    assert victim.acks == b"skk"


def test_records_that_are_never_whole_are_bounded_together() -> None:
    limits = Limits(max_message=1_000)
    victim = Peer(limits=limits)
    others = Others(victim.broker)
    head = (60_000).to_bytes(4, "big") + b"c\n"
    sent = 0
    for stream in range(7, 7 + 2 * 90, 2):
        victim.send(victim.request(stream, "POST", "/publish"))
        victim.send(data_frame(stream, head + bytes(8_000)))
        if victim.error is not None:
            break
        sent += 8_000
    assert sent <= limits.max_frame
    victim.expect_refusal("too_large")
    others.expect_well()


def test_records_that_were_not_whole_do_not_count_when_they_are() -> None:
    limits = Limits(max_message=1_000)
    victim = Peer(limits=limits)
    record = encode("c", bytes(1_000))
    for stream in range(7, 7 + 2 * 300, 2):
        victim.send(victim.request(stream, "POST", "/publish"), data_frame(stream, record[:-1]))
        victim.tick(float(stream))
        if stream % 4 == 1:
            victim.send(reset_frame(stream))
        else:
            victim.send(data_frame(stream, record[-1:], end=True))
        victim.read_all()
    victim.expect_alive()
    assert victim.broker.published == 150
