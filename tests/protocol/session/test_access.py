"""What a session may do is asked in one place, whatever way a frame takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.pair import Pair, connect, drain, hello, open_server, output, receive

from hyps.protocol import (
    PREFACE,
    Access,
    Broker,
    Kind,
    Limits,
    Rejected,
    RemoteProtocolError,
    ServerProtocol,
    State,
    Taken,
    Verb,
    encode,
    encode_frame,
)


class Grants:
    """Allows what was granted, and remembers what it was asked."""

    def __init__(self, *granted: tuple[Verb, str]) -> None:
        self._granted = granted
        self.asked: list[tuple[Verb, str]] = []

    def may(self, verb: Verb, channel: str) -> bool:
        self.asked.append((verb, channel))
        return (verb, channel) in self._granted


class Everything:
    def may(self, verb: Verb, channel: str) -> bool:
        return True


def grant(pair: Pair, access: Access | None) -> None:
    pair.server.access = access


def refusals(pair: Pair) -> list[tuple[int, bytes]]:
    [event] = [event for event in pair.pump() if isinstance(event, Rejected)]
    return [(refusal.index, refusal.code) for refusal in event.refusals]


def test_publishing_is_granted_by_channel() -> None:
    broker = Broker("boot")
    reader, publisher = connect(broker, "a", "b"), Pair(broker)
    grants = Grants((Verb.PUBLISH, "a"))
    grant(publisher, grants)
    publisher.client.publish_many([("a", b"1"), ("b", b"2"), ("b", b"3"), ("a", b"4")])
    assert refusals(publisher) == [(1, b"d"), (2, b"d")]
    # What was granted is remembered.
    assert grants.asked == [(Verb.PUBLISH, "a"), (Verb.PUBLISH, "b")]
    assert broker.published == 2
    assert [each for each in output(reader.server) if each[0] == Kind.MESSAGES] == [
        (Kind.MESSAGES, encode("a", b"1") + encode("a", b"4"))
    ]


def test_subscribing_is_granted_by_channel() -> None:
    broker = Broker("boot")
    pair = Pair(broker)
    grant(pair, Grants((Verb.SUBSCRIBE, "b")))
    pair.client.subscribe(["a", "b", "c"])
    assert refusals(pair) == [(0, b"d"), (2, b"d")]
    assert pair.client.position("b") == b"boot.0:0"
    assert broker.channels == 1


def test_leaving_needs_no_grant() -> None:
    pair = connect(Broker("boot"), "a")
    grant(pair, Grants())
    pair.client.unsubscribe(["a"])
    pair.pump()
    assert pair.server.channels == 0


def test_what_is_granted_may_change() -> None:
    pair = connect(Broker("boot"), "a")
    grant(pair, Grants())
    pair.client.publish("a", b"")
    assert refusals(pair) == [(0, b"d")]
    grant(pair, None)
    pair.client.publish("a", b"")
    pair.pump()
    assert pair.broker.published == 1


def test_a_channel_that_is_not_utf8_is_malformed_whatever_is_granted() -> None:
    server = open_server()
    server.access = Grants()
    record = b"\x00\x00\x00\x03\xff\n\n"
    server.receive_data(encode_frame(Kind.PUBLISH, record))
    with pytest.raises(Exception, match="not UTF-8"):
        server.next_event()
    assert server.state is State.CLOSED


names = st.lists(st.sampled_from(["a", "b", "c", "d" * 9, "e" * 11, "f"]), min_size=1, max_size=6)


@given(held=names, asked=st.lists(names, min_size=1, max_size=3), draining=st.booleans())
def test_many_at_once_are_answered_as_one_by_one(
    held: list[str], asked: list[list[str]], draining: bool
) -> None:
    """A session that may do everything takes channels at once where another asks for each."""
    answers = []
    for access in (None, Everything()):
        broker = Broker("boot", Limits(max_channel=10, max_channels=4))
        connect(broker, "a", "f")
        server = ServerProtocol(broker, session="s")
        receive(server, PREFACE + hello())
        server.accept()
        server.access = access
        output(server)
        received = [held, *asked]
        for number, channels in enumerate(received):
            if draining and number == len(received) - 1:
                server.go_away("test")
            body = b"".join([encode(channel, b"") for channel in channels])
            receive(server, encode_frame(Kind.SUBSCRIBE, body))
        found = b"".join([body for kind, body in output(server) if kind == Kind.SUBSCRIBE_ACK])
        answers.append((found, server.channels, broker.channels))
    assert answers[0] == answers[1]


def test_what_is_granted_may_change_within_a_frame() -> None:
    broker = Broker("boot")
    connect(broker, "a", "b")
    server = open_server(broker=broker)
    # Neighbours of different channels, and more than one step takes.
    body = (encode("a", b"") + encode("b", b"")) * 10_000
    server.receive_data(encode_frame(Kind.PUBLISH, body))
    codes = b""
    for access in (None, Grants(), Everything(), Grants((Verb.PUBLISH, "a"))):
        server.access = access
        assert isinstance(server.next_event(), Taken)
        codes = b"".join([codes for kind, codes in output(server) if kind == Kind.PUBLISH_ACK])
        if access is None or isinstance(access, Everything):
            assert set(codes) == set(b"k")
        else:
            assert set(codes) == (set(b"kd") if access.may(Verb.PUBLISH, "a") else set(b"d"))


def publish_body(records: list[tuple[str, int]], *, is_cut: bool) -> bytes:
    body = b"".join([encode(channel, bytes(size)) for channel, size in records])
    return body[:-1] if is_cut else body


@given(
    records=st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "d" * 11]), st.integers(0, 12)),
        min_size=1,
        max_size=40,
    ),
    repeats=st.integers(1, 300),
    is_cut=st.booleans(),
    draining=st.booleans(),
)
def test_publishing_with_every_grant_is_publishing(
    records: list[tuple[str, int]], repeats: int, is_cut: bool, draining: bool
) -> None:
    results = []
    for access in (None, Everything()):
        broker = Broker("boot", Limits(max_channel=10, max_message=10))
        reader = connect(broker, "a", "b")
        server = open_server(broker=broker)
        server.access = access
        if draining:
            server.go_away("test")
        server.receive_data(
            encode_frame(Kind.PUBLISH, publish_body(records * repeats, is_cut=is_cut))
        )
        error = ""
        try:
            drain(server)
        except RemoteProtocolError as caught:
            error = str(caught)
        codes = b"".join([body for kind, body in output(server) if kind == Kind.PUBLISH_ACK])
        messages = b"".join([body for kind, body in output(reader.server)])
        results.append((codes, messages, error, broker.stats()))
    assert results[0] == results[1]
