"""Hubs that leave, break the rules of HTTP/2 or of the records in it, or fall silent."""

from __future__ import annotations

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st
from protocol.pair import drain, receive
from protocol.wire.http2_client.script import PATHS, Script, answered, messages_of, opened
from support.nim import MESSAGES, PUBLISH, SUBSCRIBE, split_frames

from hyps.protocol import (
    Closed,
    Gap,
    GoingAway,
    Lost,
    Pong,
    RemoteProtocolError,
    State,
    encode,
)

INTERVAL = 20


def expect_violation(script: Script, code: str = "protocol") -> tuple[str, list[object]]:
    """The hub's output breaks the rules, and it is told so.

    :return: the text of the error, and the events before it
    """
    client = script.client
    client.receive_data(script.hub.data_to_send())
    found: list[object] = []
    with pytest.raises(RemoteProtocolError) as caught:
        drain(client, found)  # type: ignore[arg-type]
    assert caught.value.code == code
    with pytest.raises(RemoteProtocolError):
        client.next_event()
    assert client.state is State.CLOSED
    script.hub.receive_data(client.data_to_send())
    assert script.hub.goodbye is not None
    assert client.data_to_send() == b""
    assert client.eof_is_due
    return str(caught.value), found


# Leaving


def test_it_leaves_as_it_always_does() -> None:
    script = opened(held=(PUBLISH,))
    script.subscribe("c")
    script.client.publish("c", b"")
    script.pump()
    script.hub.deliver("c", b"last")
    script.hub.leave()
    events = script.pump()
    assert messages_of(events) == [("c", b"last")]
    assert events[-1] == GoingAway("HTTP/2 error code 2", 0)
    assert script.client.state is State.DRAINING
    assert receive(script.client, b"") == [Lost(range(2, 3)), Closed(True)]


def test_what_was_begun_is_finished_when_it_leaves() -> None:
    script = opened(held=(PUBLISH,))
    script.subscribe("c")
    script.client.publish("c", b"")
    script.pump()
    script.hub.leave(0, b"a reason")
    assert script.pump() == [GoingAway("a reason", 0)]
    # The answers would not come any more, so the client waits for them first.
    assert not script.client.eof_is_due
    script.hub.deliver("c", b"last")
    script.hub.end(MESSAGES)
    script.hub.answer(PUBLISH, b"k")
    events = script.pump()
    assert answered(events) == [2]
    assert messages_of(events) == [("c", b"last")]
    assert script.client.eof_is_due


def test_a_reason_of_any_length_and_bytes() -> None:
    script = opened()
    script.hub.leave(0, b"\xff\0\n" * 5_000)
    [event] = script.pump()
    assert isinstance(event, GoingAway)
    assert len(event.reason) == 1_000


def test_the_client_leaves_when_it_has_its_answers() -> None:
    script = opened(held=(PUBLISH,))
    client = script.client
    client.publish("c", b"1")
    client.close()
    script.pump()
    assert script.hub.published == [("c", b"1")]
    assert not client.eof_is_due
    script.hub.answer(PUBLISH, b"k")
    assert answered(script.pump()) == [1]
    assert client.eof_is_due
    assert client.is_finished


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", ["end", "reset"])
def test_it_ends_a_stream(path: str, how: str) -> None:
    script = opened()
    script.subscribe("c")
    script.hub.deliver("c", b"last")
    getattr(script.hub, how)(path)
    text, events = expect_violation(script)
    assert path in text
    assert len(events) == 1


def test_it_closes_within_a_record() -> None:
    script = opened()
    script.subscribe("c")
    record = encode("c", b"1")
    script.hub.send(MESSAGES, record + record[:-1])
    assert messages_of(script.pump()) == [("c", b"1")]
    [event] = receive(script.client, b"")
    assert isinstance(event, Closed)


def test_the_channels_positions_are_of_one_connection() -> None:
    before = opened()
    before.subscribe("c")
    position = before.client.position("c")
    assert position is not None
    script = opened()
    script.client.subscribe(["c", "d"], {"c": position})
    gap, _ = script.pump()
    assert gap == Gap("c", None, "reconnect")


# Violations

BAD_RECORDS = {
    "a length of 0": bytes(4),
    "a length of 2": b"\0\0\0\x02\n\n",
    "no newline": b"\0\0\0\x03abc",
    "no newline at the end": b"\0\0\0\x04a\nbc",
    "no channel": b"\0\0\0\x03\na\n",
    "a channel that is not UTF-8": b"\0\0\0\x04\xff\na\n",
}


@pytest.mark.parametrize("record", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_malformed_record(record: bytes) -> None:
    script = opened()
    script.subscribe("c")
    script.hub.send(MESSAGES, encode("c", b"1") + record + encode("c", b"2"))
    _, events = expect_violation(script)
    assert messages_of(events) == [("c", b"1")]  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [PUBLISH, SUBSCRIBE, MESSAGES])
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("stream", [2, 7])
def test_a_request_from_the_hub(path: str, end: int, stream: int) -> None:
    """Nothing of it is taken for an answer."""
    script = opened(held=(PUBLISH, SUBSCRIBE))
    script.client.publish("c", b"")
    script.client.subscribe(["c"])
    script.pump()
    request = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
    script.hub.send_frame(1, 4 | end, stream, Encoder().encode(request))
    script.hub.send_frame(0, 1, stream, b"k")
    text, events = expect_violation(script)
    assert "did not begin" in text
    assert [type(event) for event in events] == [Lost]


@pytest.mark.parametrize("path", [PUBLISH, SUBSCRIBE])
def test_codes_for_what_was_not_sent(path: str) -> None:
    script = opened(held=(PUBLISH, SUBSCRIBE))
    script.client.publish("c", b"")
    script.client.subscribe(["c"])
    script.pump()
    script.hub.send(path, b"kk")
    text, _ = expect_violation(script)
    assert "not sent" in text


def test_codes_for_nothing() -> None:
    script = opened()
    script.hub.send(PUBLISH, b"k")
    expect_violation(script)


FRAMES = {
    "an unknown stream": (0, 0, 7, b"data"),
    "SETTINGS of a bad length": (4, 0, 0, b"a"),
    "a window that overflows": (8, 0, 0, b"\x7f\xff\xff\xff"),
    "a stream's window that overflows": (8, 0, 3, b"\x7f\xff\xff\xff"),
    "PING of 7 bytes": (6, 0, 0, bytes(7)),
    "a frame that is too long": (0, 0, 5, bytes(16_385)),
    "a promise": (5, 4, 1, b"\0\0\0\2\x82"),
    "headers that end within a frame": (1, 4, 1, b"\x40"),
    "an answer to no PING": (6, 1, 0, bytes(8)),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_it_breaks_the_rules_of_http2(frame: tuple[int, int, int, bytes]) -> None:
    script = opened()
    script.subscribe("c")
    script.hub.deliver("c", b"1")
    down = script.hub.data_to_send()
    assert messages_of(script.arrive(down)) == [("c", b"1")]
    script.hub.send_frame(*frame)
    with pytest.raises(RemoteProtocolError):
        script.arrive(script.hub.data_to_send()[:17_000])
    assert script.client.state is State.CLOSED


@given(st.binary(max_size=200), st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 5]))
def test_any_frame_is_taken_or_is_a_violation(body: bytes, kind: int, flags: int, on: int) -> None:
    script = opened(held=(PUBLISH,))
    script.subscribe("c")
    script.client.publish("c", b"")
    script.pump()
    script.hub.send_frame(kind, flags, on, body)
    try:
        script.arrive(script.hub.data_to_send())
        script.client.receive_data(b"")
        drain(script.client)
    except RemoteProtocolError:
        pass
    script.client.data_to_send()


# The heartbeat


def test_a_hub_that_answers_no_ping_is_never_given_up() -> None:
    script = opened(answers_ping=False)
    for now in range(0, 100 * INTERVAL, INTERVAL // 2):
        script.client.tick(now)
        assert script.pump() == []
    # One PING is out, and no other is sent.
    assert script.hub.pings == 1
    assert script.client.state is State.OPEN


def test_a_hub_that_answers_pings_is_asked_again() -> None:
    script = opened()
    events = []
    for now in range(0, 100 * INTERVAL, INTERVAL // 2):
        script.client.tick(now)
        events += script.pump()
    assert script.hub.pings > 10
    assert len(events) == script.hub.pings
    assert all(isinstance(event, Pong) for event in events)
    assert script.client.state is State.OPEN


def test_a_hub_that_has_answered_a_ping_and_falls_silent_is_given_up() -> None:
    script = opened()
    script.client.tick(0)
    script.client.tick(INTERVAL)
    script.pump()
    assert script.hub.pings == 1
    script.hub.answers_ping = False
    for now in range(INTERVAL + 1, 4 * INTERVAL + 1):
        script.client.tick(now)
        script.client.tick(now)
        if script.client.state is State.CLOSED:
            break
        script.pump()
    assert now <= 3 * INTERVAL + 1
    with pytest.raises(RemoteProtocolError) as caught:
        drain(script.client)
    assert caught.value.code == "timeout"


def test_it_pings() -> None:
    script = opened()
    script.hub.send_frame(6, 0, 0, b"12345678")
    [down] = [script.hub.data_to_send()]
    script.arrive(down)
    frames = split_frames(script.client.data_to_send())
    assert (6, 1, b"\0\0\x08\6\1\0\0\0\x0012345678") in frames


@pytest.mark.parametrize("size", [1_000, 5_000_000])
def test_a_record_that_does_not_go_on_is_given_up(size: int) -> None:
    """Also one that is too large and so is not kept; that the hub answers PINGs is no excuse."""
    script = opened()
    script.subscribe("c")
    script.hub.send(MESSAGES, encode("c", bytes(size))[:900])
    script.pump()
    for now in range(3 * INTERVAL):
        script.client.tick(now)
        if script.client.state is State.CLOSED:
            break
        script.hub.send(MESSAGES, b"1")
        script.hub.send_frame(6, 0, 0, bytes(8))
        script.pump()
        script.client.tick(now)
    assert now == INTERVAL + 1
    with pytest.raises(RemoteProtocolError, match="does not go on") as caught:
        drain(script.client)
    assert caught.value.code == "timeout"
