"""Each limit at its bound and one past it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from protocol.pair import (
    EVERYTHING,
    Pair,
    connect,
    drain,
    error_fields,
    expect_violation,
    open_client,
    open_server,
    output,
    receive,
)

from hyps.protocol import (
    Acked,
    Broker,
    ClientProtocol,
    Gap,
    Kind,
    Limits,
    Messages,
    PeerError,
    Rejected,
    RemoteProtocolError,
    ServerProtocol,
    State,
    Taken,
    encode,
    encode_frame,
)
from hyps.protocol._records.layout import BATCH_SIZE, MERGED_SIZE
from hyps.protocol.limits import FRAME_WORK, MAX_PONGS, PASS_WORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.pair import End

SMALL = Limits(max_message=10, max_channel=5)


def publish(*records: tuple[str, bytes]) -> bytes:
    return encode_frame(Kind.PUBLISH, b"".join([encode(*record) for record in records]))


def subscribe(*channels: str) -> bytes:
    return encode_frame(Kind.SUBSCRIBE, b"".join([encode(name, b"") for name in channels]))


# One message, one name


@pytest.mark.parametrize("channel", ["c", "ccccc"])
@pytest.mark.parametrize("subscribed", [False, True])
def test_message_over_the_limit_is_refused_and_the_session_goes_on(
    channel: str, subscribed: bool
) -> None:
    server = open_server(SMALL)
    if subscribed:
        receive(server, subscribe(channel))
        output(server)
    largest, larger = (channel, bytes(10)), (channel, bytes(11))
    receive(server, publish(larger) + publish(largest) + publish(largest, larger, larger, largest))
    found = output(server)
    assert b"".join([body for kind, body in found if kind == Kind.PUBLISH_ACK]) == b"skkssk"
    delivered = b"".join([body for kind, body in found if kind == Kind.MESSAGES])
    assert delivered == encode(*largest) * 3 * subscribed
    assert server.state is State.OPEN


def test_message_somewhat_over_the_limit_fits_in_a_frame() -> None:
    server = open_server(SMALL)
    room = SMALL.max_frame - 1 - len(encode("ccccc", b""))
    receive(server, publish(("ccccc", bytes(room))))
    assert output(server) == [(Kind.PUBLISH_ACK, b"s")]
    frame = publish(("ccccc", bytes(room + 1)))
    expect_violation(server, frame[:4], "too_large")


@pytest.mark.parametrize(
    ("frame", "answers"),
    [
        (publish(("cc\u00e9c", b""), ("cc\u00e9cc", b"1"), ("cc\u00e9cc", b"2")), b"knn"),
        (
            subscribe("ccccc", "cccccc"),
            encode("ccccc", b"kboot.0:0") + encode("cccccc", b"n"),
        ),
    ],
    ids=["publish", "subscribe"],
)
def test_name_over_the_limit_is_refused_and_the_session_goes_on(
    frame: bytes, answers: bytes
) -> None:
    server = open_server(SMALL)
    receive(server, frame)
    [(_, body)] = output(server)
    assert body == answers
    assert server.state is State.OPEN


def test_channels_of_a_session() -> None:
    pair = Pair(limits=Limits(max_channels=2))
    pair.client.subscribe(["a", "b", "c", "a"])
    [rejected] = pair.pump()
    assert isinstance(rejected, Rejected)
    assert [(refusal.index, refusal.code) for refusal in rejected.refusals] == [(2, b"d")]
    assert pair.server.channels == pair.broker.channels == 2
    pair.client.unsubscribe(["a"])
    pair.client.subscribe(["c"])
    assert pair.pump() == [Acked(range(2, 3)), Acked(range(3, 4))]
    assert pair.client.position("c") is not None
    # It is a limit of each session.
    assert connect(pair.broker, "d", "e").server.channels == 2


def test_sessions_of_a_hub() -> None:
    broker = Broker("boot", Limits(max_sessions=2))
    first, _ = Pair(broker), Pair(broker)
    assert len(broker.sessions) == 2
    late = Pair(broker, opened=False)
    assert late.pump() == [PeerError("limit", "the hub has as many sessions as it takes")]
    assert late.server.eof_is_due
    assert len(broker.sessions) == 2
    first.lose()
    assert Pair(broker).client.state is State.OPEN


def test_who_has_not_opened_a_session_takes_no_place_of_one() -> None:
    broker = Broker("boot", Limits(max_sessions=1))
    strangers = [ServerProtocol(broker, session=str(number)) for number in range(3)]
    assert not broker.sessions
    assert Pair(broker).server.state is State.OPEN
    assert {stranger.state for stranger in strangers} == {State.OPENING}


# Records in flight


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_client_has_no_more_in_flight_than_the_hub_takes(most: int) -> None:
    pair = Pair(limits=Limits(max_in_flight=most))
    client = pair.client
    client.subscribe([f"c{index}" for index in range(5)])
    for index in range(10):
        client.publish("c1", b"%d" % index)
    client.publish_many([("c2", b"%d" % index) for index in range(10)])
    client.unsubscribe([f"c{index}" for index in range(5)])
    seen = set()
    while client.unanswered:
        pair.send_up()
        seen.add(client.in_flight)
        pair.pump()
    assert max(seen) <= most
    assert client.in_flight == 0
    assert pair.broker.published == 20
    assert pair.broker.delivered == 20


def test_client_uses_all_that_may_be_in_flight() -> None:
    client = open_client(max_in_flight=3)
    for _ in range(4):
        client.publish("c", b"1")
    [(kind, body)] = output(client)
    assert (kind, body) == (Kind.PUBLISH, encode("c", b"1") * 3)
    assert client.in_flight == 3
    receive(client, encode_frame(Kind.PUBLISH_ACK, b"kk"))
    assert output(client) == [(Kind.PUBLISH, encode("c", b"1"))]


@pytest.mark.parametrize("kind", [Kind.PUBLISH, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE])
def test_peer_with_more_in_flight_that_reads_no_answers_breaks_the_rules(kind: Kind) -> None:
    server = open_server(Limits(max_in_flight=3))
    record = encode_frame(kind, encode("c", b""))
    assert receive(server, record * 3) == [Taken(1)] * 3
    assert expect_violation(server, record, "limit") == [Taken(1)]


def test_peer_that_reads_its_answers_may_go_on() -> None:
    server = open_server(Limits(max_in_flight=3))
    for _ in range(5):
        assert receive(server, publish(("c", b"1")) * 3) == [Taken(1)] * 3
        assert b"".join([body for _, body in output(server)]) == b"kkk"


def test_client_may_be_faster_than_the_news_that_its_answers_were_sent() -> None:
    """Bytes can arrive before the transport says so to the one who sends them."""
    pair = Pair(limits=Limits(max_in_flight=3))
    for _ in range(6):
        pair.client.publish("c", b"1")
    pair.send_up()
    pair.arrive_up()
    pair.send_down()
    pair.arrive_down()
    pair.send_up()
    pair.arrive_up()
    assert pair.server.state is State.OPEN
    pair.pump()
    assert pair.client.unanswered == 0


# Frames


def test_hub_keeps_its_frames_within_the_bound_that_it_announced() -> None:
    """The answers to many short names are longer than the names."""
    pair = Pair(limits=SMALL)
    names = [f"{index:05}" for index in range(5000)]
    pair.client.subscribe(names)
    events = pair.pump()
    assert events == [Acked(range(1, 2))]
    assert pair.server.channels == 5000


def test_hub_keeps_its_frames_within_the_bound_whatever_is_refused() -> None:
    server = open_server(SMALL)
    name = "c" * (SMALL.max_frame - 1 - len(encode("c", b"")) + 1)
    server.receive_data(subscribe(name))
    with suppress(RemoteProtocolError):
        drain(server)
    assert max([1 + len(body) for _, body in output(server)]) <= SMALL.max_frame


@pytest.mark.parametrize("size", [0, 100, 30_000, 60_000])
def test_batches_are_split_into_frames(size: int) -> None:
    pair = connect(Broker("boot", Limits(max_message=60_000)), "a", "b")
    count = 400_000 // (size + 10)
    pair.client.publish_many([("ab"[index % 2], bytes(size)) for index in range(count)])
    bound = max(BATCH_SIZE, len(encode("a", bytes(size))))
    for end, move in ((pair.client, pair.arrive_up), (pair.server, pair.arrive_down)):
        found = []
        wire = pair.up if isinstance(end, ClientProtocol) else pair.down
        while data := end.data_to_send(1):
            found.append(len(data))
            wire += data
        assert max(found) <= 5 + bound
        assert len(found) > 1
        move()
    delivered = [event for event in pair.client_events if isinstance(event, Messages)]
    assert sum([run.count for event in delivered for run in event.runs]) == count


@pytest.mark.parametrize("max_frame", [14_400, 20_000, 30_000, 65_000])
@pytest.mark.parametrize("size", [0, 1, 5, 20])
def test_frames_of_small_messages_keep_to_the_hubs_bound(max_frame: int, size: int) -> None:
    client = open_client(
        max_frame=max_frame, max_message=1_000, max_channel=100, max_in_flight=65_536
    )
    client.publish_many([("c", bytes(size))] * 20_000)
    for _ in range(5_000):
        client.publish("c", bytes(size))
    assert max([1 + len(body) for _, body in output(client)]) <= max_frame


def test_client_keeps_to_the_frames_of_a_hub_with_small_ones() -> None:
    largest = encode("c" * 100, bytes(1000))
    client = open_client(max_frame=1 + len(largest))
    for _ in range(3):
        client.publish("c" * 100, bytes(1000))
        client.publish_many([("c", b"1")] * 1000)
        client.subscribe([f"{index}" for index in range(100)])
    client_frames = output(client)
    assert len(client_frames) > 3
    assert max([1 + len(body) for _, body in client_frames]) <= 1 + len(largest)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_records_of_a_session_are_taken_in_passes(count: int) -> None:
    server = open_server()
    names = [("a", b""), ("b", b"")]
    frame = publish(*[names[index % 2] for index in range(PASS_WORK * count - 1)])
    server.receive_data(frame)
    taken = [event.records for event in drain(server) if isinstance(event, Taken)]
    assert taken == [PASS_WORK] * (count - 1) + [PASS_WORK - 1]
    assert b"".join([body for _, body in output(server)]) == b"k" * sum(taken)


def test_pass_ends_with_a_run() -> None:
    server = open_server()
    record = encode("a", b"")
    run = -(-MERGED_SIZE // len(record))
    server.receive_data(encode_frame(Kind.PUBLISH, record * (run + 1)))
    assert drain(server) == [Taken(run), Taken(1)]


def test_session_that_ends_between_two_passes_takes_no_more() -> None:
    server = open_server()
    frame = publish(*[("ab"[index % 2], b"") for index in range(PASS_WORK + 1)])
    server.receive_data(frame)
    assert server.next_event() == Taken(PASS_WORK)
    server.close()
    assert drain(server) == []
    assert output(server) == [(Kind.PUBLISH_ACK, b"k" * PASS_WORK)]


def test_dropping_is_work_too() -> None:
    sessions = 300
    names = [f"{number}" for number in range(1_000)]
    broker = Broker("boot", Limits(max_buffer=100))
    subscribers = [connect(broker, *names) for _ in range(sessions)]
    publisher = connect(broker)
    for _ in range(2):
        publisher.server.receive_data(publish(*[(name, bytes(100)) for name in names]))
        taken = [event for event in drain(publisher.server) if isinstance(event, Taken)]
    assert sum([event.records for event in taken]) == len(names)
    assert len(taken) > 1
    assert broker.missed >= sessions * len(names)
    for subscriber in subscribers:
        gaps = [event for event in subscriber.pump() if isinstance(event, Gap)]
        assert {gap.channel for gap in gaps} == set(names)


def test_small_messages_are_handed_out_together_however_small_the_bound() -> None:
    sessions = 50
    broker = Broker("boot", Limits(max_message=100))
    subscribers = [connect(broker, "a") for _ in range(sessions)]
    publisher = connect(broker)
    messages = [("a", b"1")] * 500 + [("a", bytes(101))] + [("a", b"2")] * 500
    publisher.server.receive_data(publish(*messages))
    taken = [event for event in drain(publisher.server) if isinstance(event, Taken)]
    assert sum([event.records for event in taken]) == 1_001
    # Twice to each, and not a thousand times.
    assert sum([event.work for event in taken]) < 1_001 + 3 * sessions
    codes = b"".join([body for _, body in output(publisher.server)])
    assert codes == b"k" * 500 + b"s" + b"k" * 500
    for subscriber in subscribers:
        found = [event for event in subscriber.pump() if isinstance(event, Messages)]
        read = [message.data for event in found for run in event.runs for message in run.messages]
        assert read == [b"1"] * 500 + [b"2"] * 500


def test_fan_out_is_work_too() -> None:
    """Others get their turn before many records went to many subscribers."""
    sessions = 100
    broker = Broker("boot")
    subscribers = [connect(broker, "a", "b") for _ in range(sessions)]
    publisher = connect(broker)
    publisher.server.receive_data(publish(*[("ab"[index % 2], b"") for index in range(1000)]))
    taken = [event for event in drain(publisher.server) if isinstance(event, Taken)]
    assert sum([event.records for event in taken]) == 1000
    assert max([event.work for event in taken]) <= PASS_WORK + 2 * sessions
    assert all(subscriber.server.backlog for subscriber in subscribers)


def test_frames_without_records_are_work_too() -> None:
    server = open_server()
    server.receive_data(encode_frame(0x80, b"") * 2000)
    events = drain(server)
    assert events == [Taken(0)] * len(events)
    assert len(events) == 2000 * FRAME_WORK // PASS_WORK
    assert all(isinstance(event, Taken) and event.work <= PASS_WORK for event in events)


# Answers that are not read


def test_names_that_are_refused_are_not_echoed_without_end() -> None:
    limits = Limits(max_message=100_000, max_in_flight=100, max_channel=100)
    server = open_server(limits)
    long = subscribe("c" * 10_000)
    assert receive(server, long) == [Taken(1)]
    assert expect_violation(server, long * 3, "limit") == [Taken(1)]


# PING


@pytest.mark.parametrize("open_end", [open_server, open_client], ids=["server", "client"])
def test_flood_of_pings(open_end: Callable[[], End]) -> None:
    end = open_end()
    ping = encode_frame(Kind.PING, bytes(8))
    for _ in range(3):
        assert receive(end, ping * MAX_PONGS) == []
        assert output(end) == [(Kind.PONG, bytes(8))] * MAX_PONGS
    assert expect_violation(end, ping * (MAX_PONGS + 1), "limit") == []


# What is queued for a session


def session_with_room(limits: Limits) -> tuple[Pair, Callable[[bytes], None]]:
    """A session that does not read, and somebody who publishes to it."""
    broker = Broker("boot", limits)
    slow = connect(broker, "c", "d")
    assert slow.server.backlog == 0
    other = connect(broker)

    def publish_one(data: bytes) -> None:
        other.client.publish("c", data)
        other.pump()

    return slow, publish_one


def test_record_is_queued_while_the_session_is_below_its_bound() -> None:
    chunk = len(encode("c", b"1")) + 64
    for bound, admitted in ((2 * chunk, 2), (2 * chunk + 1, 3), (1, 1)):
        slow, publish_one = session_with_room(Limits(max_buffer=bound))
        for index in range(4):
            publish_one(b"%d" % index)
        assert slow.server.missed == slow.broker.missed == 4 - admitted
        assert slow.broker.delivered == admitted
        assert slow.server.backlog == admitted * chunk


@pytest.mark.parametrize("bound", [1, 2, 3, 100, 101])
def test_session_that_has_drained_is_told_its_gap_whatever_its_bound(bound: int) -> None:
    slow, publish_one = session_with_room(Limits(max_buffer=bound))
    for index in range(4):
        publish_one(b"%d" % index)
    slow.pump()
    assert slow.client.position("c") == b"boot.0:4"
    assert slow.server.data_to_send(EVERYTHING) == b""


def test_what_is_being_sent_counts_until_the_next_call() -> None:
    slow, publish_one = session_with_room(Limits(max_buffer=60))
    publish_one(b"1")
    assert slow.server.data_to_send()
    publish_one(b"2")
    assert slow.server.missed == 1


def test_pings_of_a_slow_session_are_answered() -> None:
    slow, publish_one = session_with_room(Limits(max_buffer=1))
    publish_one(b"1")
    publish_one(b"2")
    receive(slow.server, encode_frame(Kind.PING, b"12345678"))
    assert output(slow.server)[0] == (Kind.PONG, b"12345678")


def test_answers_of_a_slow_session_are_never_dropped() -> None:
    slow, publish_one = session_with_room(Limits(max_buffer=1))
    publish_one(b"1")
    for _ in range(10):
        slow.client.publish("e", b"1")
    assert slow.pump()[-1] == Acked(range(2, 12))


def test_violation_names_the_limit() -> None:
    server = open_server(Limits(max_in_flight=1))
    server.receive_data(publish(("c", b""), ("c", b"")))
    with pytest.raises(RemoteProtocolError, match="max_in_flight"):
        drain(server, [])
    fields: dict[str, Any] = error_fields(server)
    assert "max_in_flight" in fields["message"]
