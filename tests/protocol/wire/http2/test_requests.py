"""Requests of all kinds of clients: curl's, and those that are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from protocol.pair import connect
from protocol.wire.http2.peer import (
    MESSAGES,
    PUBLISH,
    SUBSCRIBE,
    Peer,
    cut,
    data_frame,
    frame,
    headers_frame,
    names,
    records,
    reset_frame,
    settings_frame,
    stranger,
    window_frame,
)

from hyps.protocol import Closed, Limits, Messages, State, encode

if TYPE_CHECKING:
    from hyperframe.frame import Frame

Header = tuple[str, str]


def ask(peer: Peer, method: str, path: str, *headers: Header, body: bytes = b"") -> dict[str, str]:
    """One whole request, on the first stream."""
    peer.send(peer.request(1, method, path, *headers, end=not body), *cut(1, body, end=True))
    peer.read_all()
    return peer.headers[1]


# What is refused


@pytest.mark.parametrize(
    "path", ["/", "/publish/", "/Publish", "publish", "*", "//[", "//publish", "/?channel=c", "/#"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_path(method: str, path: str) -> None:
    peer = stranger()
    headers = ask(peer, method, path)
    assert headers[":status"] == "404"
    assert int(headers["content-length"]) == len(peer.data[1])
    assert 1 in peer.ended
    peer.expect_alive()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/publish", "POST"),
        ("PUT", "/publish", "POST"),
        ("GET", "/subscribe", "POST"),
        ("POST", "/messages", "GET"),
        ("DELETE", "/messages?channel=c", "GET"),
    ],
)
def test_wrong_method(method: str, path: str, allowed: str) -> None:
    peer = stranger()
    headers = ask(peer, method, path)
    assert headers[":status"] == "405"
    assert headers["allow"] == allowed
    assert 1 in peer.ended
    peer.expect_alive()


@pytest.mark.parametrize("path", ["/", "/messages"])
def test_answer_to_head_has_no_body(path: str) -> None:
    peer = stranger()
    headers = ask(peer, "HEAD", path)
    assert headers[":status"] in ("404", "405")
    assert 1 in peer.ended
    assert peer.data[1] == b""


def test_body_of_a_refused_request_is_not_wanted() -> None:
    peer = stranger()
    peer.send(peer.request(1, "POST", "/other"))
    peer.read_all()
    assert peer.headers[1][":status"] == "404"
    assert 1 in peer.ended
    # What was under way is no fault, and not reset either: curl would forget the answer.
    peer.send(data_frame(1, bytes(10_000)), data_frame(1, bytes(10_000), end=True))
    peer.read_all()
    assert not peer.resets
    peer.expect_alive()
    assert peer.broker.published == 0


def test_second_messages_of_a_connection() -> None:
    peer = Peer()
    peer.send(peer.request(7, "GET", "/messages", end=True))
    peer.send(peer.request(9, "GET", "/messages?channel=c", end=True))
    peer.read_all()
    assert [peer.headers[stream][":status"] for stream in (7, 9)] == ["409", "409"]
    assert peer.server.channels == 0
    peer.expect_alive()
    # When the first is over there may be another.
    peer.subscribe("c")
    peer.send(reset_frame(MESSAGES), peer.request(11, "GET", "/messages", end=True))
    peer.publish(("c", b"1"))
    peer.read_all()
    assert peer.headers[11][":status"] == "200"
    assert peer.data[11] == records(("c", b"1"))
    assert peer.data[MESSAGES] == b""


@pytest.mark.parametrize(
    "query",
    [
        "channel",
        "channel=",
        "channel=a%0Ab",
        "channel=%FF",
        "c&channel=c",
        "channel=c&&",
        "chanel=c",
    ],
)
def test_bad_query(query: str) -> None:
    peer = stranger()
    assert ask(peer, "GET", f"/messages?{query}")[":status"] == "400"
    assert peer.server.channels == 0
    peer.expect_alive()


def test_channel_that_is_refused() -> None:
    peer = stranger(Limits(max_channel=5))
    assert ask(peer, "GET", "/messages?channel=c&channel=cccccc")[":status"] == "403"
    assert 1 in peer.ended
    # The other request may be made again.
    peer.send(peer.request(3, "GET", "/messages?channel=c", end=True))
    peer.read_all()
    assert peer.headers[3][":status"] == "200"


# What curl does


@pytest.mark.parametrize(
    ("query", "channels"),
    [
        ("channel=c", ["c"]),
        ("channel=c&channel=d", ["c", "d"]),
        ("channel=a%20b", ["a b"]),
        ("channel=a+b", ["a b"]),
        ("channel=%C3%A9%26%3D", ["\u00e9&="]),
        ("channel=c&channel=c", ["c"]),
    ],
)
def test_messages_of_channels_in_the_url(query: str, channels: list[str]) -> None:
    peer = stranger()
    assert ask(peer, "GET", f"/messages?{query}")[":status"] == "200"
    other = connect(peer.broker)
    messages = [(channel, b"1") for channel in channels]
    other.client.publish_many(messages)
    other.pump()
    peer.read_all()
    assert peer.data[1] == records(*messages)
    assert not peer.ended
    assert peer.broker.channels == len(channels)


@pytest.mark.parametrize("query", ["", "?"])
def test_messages_without_channels(query: str) -> None:
    peer = stranger()
    assert ask(peer, "GET", f"/messages{query}")[":status"] == "200"
    assert peer.server.channels == 0


def test_whole_publish_is_answered_and_ended() -> None:
    peer = stranger()
    other = connect(peer.broker, "c")
    body = records(("c", b"1"), ("c", b"2"))
    length = ("content-length", str(len(body)))
    assert ask(peer, "POST", "/publish", length, body=body)[":status"] == "200"
    assert peer.data[1] == b"kk"
    assert 1 in peer.ended
    [messages] = other.pump()
    assert isinstance(messages, Messages)
    # And the next request on the same connection.
    peer.send(peer.request(3, "POST", "/publish"), data_frame(3, encode("d", b""), end=True))
    peer.read_all()
    assert peer.data[3] == b"k"
    assert peer.ended == {1, 3}


@pytest.mark.parametrize("path", ["/publish", "/subscribe"])
def test_request_without_a_body(path: str) -> None:
    peer = stranger()
    assert ask(peer, "POST", path)[":status"] == "200"
    assert peer.data[1] == b""
    assert 1 in peer.ended
    peer.expect_alive()


def test_end_in_a_frame_of_its_own_and_in_trailers() -> None:
    peer = stranger()
    peer.send(peer.request(1, "POST", "/publish"), data_frame(1, encode("c", b"1")))
    peer.read_all()
    assert peer.data[1] == b"k"
    assert not peer.ended
    peer.send(data_frame(1, end=True))
    peer.read_all()
    assert peer.ended == {1}
    peer.send(peer.request(3, "POST", "/publish"), data_frame(3, encode("c", b"2")))
    trailers = bytes(peer.encoder.encode([("checksum", "1")]))
    peer.send(headers_frame(3, trailers, end=True))
    peer.read_all()
    assert peer.data[3] == b"k"
    assert peer.ended == {1, 3}


def test_body_that_ends_with_a_full_frame_waits_for_nothing() -> None:
    peer = stranger()
    body = records(("c", bytes(16_384 - 7)))
    ask(peer, "POST", "/publish", body=body)
    assert peer.data[1] == b"k"
    assert 1 in peer.ended


def test_end_in_the_middle_of_a_record() -> None:
    peer = stranger()
    good, bad = connect(peer.broker, "c"), records(("c", b"1"), ("c", b"2"))[:-1]
    ask(peer, "POST", "/publish", body=bad)
    peer.expect_refusal("protocol")
    assert peer.data[1] == b"k"
    assert peer.broker.published == 1
    assert len(good.pump()) == 1


def test_publishes_at_once_get_their_own_codes() -> None:
    """Records of many requests arrive in pieces, and those of some are refused."""
    peer = Peer(limits=Limits(max_message=3, max_channel=5))
    streams = range(7, 7 + 2 * 8, 2)
    bodies = {
        stream: records(*[("c" * (index % 7 + 1), bytes(stream % 5)) for index in range(stream)])
        for stream in streams
    }
    peer.send(*[peer.request(stream, "POST", "/publish") for stream in streams])
    for start in range(0, max(map(len, bodies.values())), 10):
        for stream, body in bodies.items():
            if part := body[start : start + 10]:
                peer.send(data_frame(stream, part, end=start + 10 >= len(body)))
        if start % 30 == 0:
            peer.read_all()
    peer.read_all()
    for stream in streams:
        too_large = stream % 5 > 3
        codes = ["n" if index % 7 > 4 else "s" if too_large else "k" for index in range(stream)]
        assert peer.data[stream].decode() == "".join(codes)
        assert stream in peer.ended
    assert peer.data[PUBLISH] == b""


def test_codes_of_subscribes() -> None:
    peer = Peer(limits=Limits(max_channels=2, max_channel=5))
    peer.send(data_frame(SUBSCRIBE, names("a", "cccccc", "b", "c", "a") + encode("a", b"?")))
    peer.read_all()
    assert peer.data[SUBSCRIBE] == b"knkdkd"
    assert peer.server.channels == 2


# A hub that leaves, and one that is full


def test_hub_that_drains() -> None:
    peer = Peer()
    peer.subscribe("c")
    peer.publish(("c", b"1"))
    peer.server.go_away("restart")
    peer.publish(("c", b"2"), ("c", b"3"))
    peer.subscribe("d")
    peer.read_all()
    assert peer.goaway is not None
    assert (peer.goaway.error_code, peer.goaway.additional_data) == (0, b"restart")
    assert peer.acks == b"kuu"
    assert peer.data[SUBSCRIBE] == b"ku"
    assert peer.data[MESSAGES] == records(("c", b"1"))
    assert peer.server.state is State.DRAINING
    peer.server.close()
    assert peer.read() == []
    assert peer.server.eof_is_due


def test_goaway_goes_out_though_the_client_reads_no_messages() -> None:
    peer = Peer(window=0)
    peer.subscribe("c")
    peer.publish(("c", b"1"))
    peer.server.go_away("restart")
    peer.read_all()
    assert peer.goaway is not None
    peer.server.close()
    peer.read_all()
    assert peer.server.eof_is_due


def test_answers_that_are_held_go_out_when_the_hub_closes() -> None:
    peer = Peer()
    peer.send(data_frame(PUBLISH, records(("c", b"1")) + b"\0"))
    peer.read_all()
    assert peer.acks == b""
    peer.server.close()
    peer.read_all()
    assert peer.acks == b"k"
    assert peer.server.eof_is_due


def test_hub_that_fails() -> None:
    peer = Peer()
    peer.subscribe("c")
    peer.publish(("c", b"1"))
    peer.server.fail("oh")
    peer.read_all()
    assert peer.acks == b"k"
    assert peer.data[MESSAGES] == records(("c", b"1"))
    assert peer.goaway is not None
    assert (peer.goaway.error_code, peer.goaway.additional_data) == (2, b"oh")
    assert peer.server.eof_is_due


# A client that leaves


@pytest.mark.parametrize("stream", [SUBSCRIBE, PUBLISH, MESSAGES])
@pytest.mark.parametrize("late", [False, True])
def test_request_that_is_reset(stream: int, late: bool) -> None:
    """The others go on, and so does what was not whole."""
    peer = Peer()
    frames = [
        data_frame(SUBSCRIBE, names("c", "d")[:-1]),
        data_frame(PUBLISH, records(("c", b"1"), ("c", b"2"))[:-1]),
        reset_frame(stream),
    ]
    for one in [b"".join(frames)] if late else frames:
        peer.send(one)
        peer.read_all()
    for left, rest in ((SUBSCRIBE, b"\n"), (PUBLISH, b"\n")):
        if left != stream:
            peer.send(data_frame(left, rest))
    peer.read_all()
    expected = {SUBSCRIBE: b"kk", PUBLISH: b"kk", MESSAGES: records(("c", b"1"), ("c", b"2"))}
    if stream == PUBLISH or (stream == MESSAGES and not late):
        expected[MESSAGES] = records(("c", b"1"))
    if stream != MESSAGES or late:
        del expected[stream]
    assert {stream: data for stream, data in peer.data.items() if data} == expected
    peer.expect_alive()


def test_messages_that_are_asked_for_again_begin_with_a_whole_record() -> None:
    peer = Peer(window=10)
    peer.subscribe("c")
    peer.publish(("c", bytes(30)))
    peer.read_all()
    assert len(peer.data[MESSAGES]) == 10
    peer.send(reset_frame(MESSAGES), settings_frame((4, 1_000)))
    peer.publish(("c", b"1"))
    peer.window = 1_000
    peer.send(peer.request(7, "GET", "/messages", end=True))
    peer.read_all()
    assert peer.data[7] == records(("c", b"1"))
    assert peer.server.backlog == 0


def test_messages_wait_until_they_are_asked_for() -> None:
    peer = stranger()
    peer.send(peer.request(1, "POST", "/subscribe"), data_frame(1, names("c"), end=True))
    peer.send(peer.request(3, "POST", "/publish"), data_frame(3, encode("c", b"1"), end=True))
    peer.read_all()
    assert (peer.data[1], peer.data[3]) == (b"k", b"k")
    peer.send(peer.request(5, "GET", "/messages", end=True))
    peer.read_all()
    assert peer.data[5] == records(("c", b"1"))


def test_messages_that_nobody_asked_for_keep_nothing_open() -> None:
    peer = stranger()
    peer.send(peer.request(1, "POST", "/subscribe"), data_frame(1, names("c"), end=True))
    peer.send(peer.request(3, "POST", "/publish"), data_frame(3, encode("c", b"1"), end=True))
    peer.read_all()
    peer.send(b"")
    peer.read_all()
    assert peer.server.eof_is_due


def test_request_that_is_reset_while_the_hub_takes_its_records() -> None:
    peer = Peer()
    data = records(*[("cd"[index % 2], b"") for index in range(9_000)])
    peer.server.receive_data(b"".join([*cut(PUBLISH, data), reset_frame(PUBLISH)]))
    while peer.broker.published < 9_000:
        peer.server.next_event()
        peer.read()
    peer.handle()
    peer.read_all()
    peer.expect_alive()


def test_messages_in_the_url_that_are_reset_before_the_hub_answers() -> None:
    peer = Peer(limits=Limits(max_channel=5))
    peer.send(reset_frame(MESSAGES))
    peer.send(
        peer.request(7, "GET", "/messages?channel=a", end=True)
        + reset_frame(7)
        + peer.request(9, "GET", "/messages?channel=cccccc", end=True)
    )
    peer.read_all()
    assert peer.headers.get(7) is None
    assert peer.headers[9][":status"] == "403"
    peer.expect_alive()


def test_goaway_of_the_client() -> None:
    peer = Peer()
    peer.subscribe("c")
    peer.send(frame(7, 0, 0, bytes(8)))
    peer.publish(("c", b"1"))
    peer.read_all()
    assert peer.acks == b"k"
    assert peer.data[MESSAGES] == records(("c", b"1"))
    assert peer.send(b"") == [Closed(clean=True)]


def test_client_that_closes_within_a_record() -> None:
    peer = Peer()
    peer.send(data_frame(PUBLISH, encode("c", b"1")[:-1]))
    assert peer.send(b"") == [Closed(clean=False)]
    assert peer.broker.published == 0


def test_client_that_closes_within_a_frame() -> None:
    peer = Peer()
    assert peer.send(data_frame(PUBLISH, encode("c", b"1"))[:-1], b"") == [Closed(clean=False)]
    assert peer.broker.published == 0


def test_settings_are_answered() -> None:
    peer = stranger()
    found: list[Frame] = peer.read_all()
    assert [sorted(one.flags) for one in found] == [[], ["ACK"]]
    # The connection's window opens when the session does.
    assert peer.credit[0] == 65_535
    peer.send(peer.request(1, "POST", "/publish"))
    peer.read_all()
    assert peer.credit[0] == 1_048_576
    peer.send(window_frame(0, 1), settings_frame((4, 10), (0xFFFF, 1)))
    [ack] = peer.read_all()
    assert "ACK" in ack.flags
