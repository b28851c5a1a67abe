"""Losses are counted and told in place; positions say where a subscriber stands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from protocol.pair import (
    Pair,
    connect,
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
    Closed,
    Gap,
    Kind,
    Limits,
    Messages,
    Run,
    encode,
    encode_frame,
)
from hyps.protocol._records.position import MAX_COUNT

if TYPE_CHECKING:
    from protocol.pair import Event

#: A chunk with a record of ``c`` and one byte.
CHUNK = len(encode("c", b"1")) + 64


class Slow:
    """A session that reads when it is told to, and somebody who publishes to it."""

    def __init__(self, *channels: str, chunks: float = 4) -> None:
        broker = Broker("boot", Limits(max_buffer=int(chunks * CHUNK)))
        self.pair = connect(broker, *channels)
        self.other = connect(broker)

    def publish(self, channel: str, *messages: bytes) -> None:
        for message in messages:
            self.other.client.publish(channel, message)
            self.other.pump()

    def read(self) -> list[Event]:
        """Events up to now; runs of one message each."""
        found: list[Event] = []
        for event in self.pair.pump():
            if isinstance(event, Messages):
                found += [got(m.channel, m.data) for run in event.runs for m in run.messages]
            else:
                found.append(event)
        return found


def got(channel: str, data: bytes) -> Messages:
    return Messages((Run(channel, encode(channel, data), 1),))


def numbered(channel: str, *numbers: int) -> list[Event]:
    return [got(channel, b"%d" % number) for number in numbers]


def test_gap_stands_before_what_follows_it() -> None:
    slow = Slow("c")
    slow.publish("c", b"1", b"2", b"3", b"4", b"5", b"6")
    assert slow.read() == [*numbered("c", 1, 2, 3, 4), Gap("c", 2, "hub")]
    slow.publish("c", b"7")
    assert slow.read() == numbered("c", 7)
    assert slow.pair.client.position("c") == b"boot.0:7"


def test_gap_after_which_nothing_is_published_is_told_all_the_same() -> None:
    slow = Slow("c", chunks=1)
    slow.publish("c", b"1", b"2")
    assert slow.read() == [*numbered("c", 1), Gap("c", 1, "hub")]
    assert slow.pair.server.data_to_send() == b""


def test_session_goes_on_when_it_has_drained_below_half() -> None:
    slow = Slow("c")
    server = slow.pair.server
    slow.publish("c", b"1", b"2", b"3", b"4", b"5")
    assert server.missed == 1
    # MESSAGES are merged on their way out: one chunk more than the size asked for.
    taken = server.data_to_send(1)
    assert taken
    slow.publish("c", b"6")
    assert server.missed == 2  # they count until they have been sent
    slow.pair.down += taken
    assert slow.read() == [*numbered("c", 1, 2, 3, 4), Gap("c", 2, "hub")]


def stalled_session() -> Slow:
    """A session at its bound that missed a message.

    Answers stand between its messages, so that they are not merged and leave one by one.
    """
    slow = Slow("c", "d", chunks=10)
    while slow.pair.server.missed == 0:
        slow.pair.client.publish("c", b"1")
        slow.pair.send_up()
        slow.pair.arrive_up()
    return slow


def test_messages_pass_again_below_half_of_the_bound() -> None:
    slow = stalled_session()
    server = slow.pair.server
    half = 10 * CHUNK // 2
    while True:
        assert server.data_to_send(1)
        backlog, missed = server.backlog, server.missed
        slow.publish("c", b"x")
        if server.missed == missed:
            break
        assert backlog >= half
    gap = len(encode("c", b"boot.0:10")) + 64
    assert backlog - gap < half


@pytest.mark.parametrize("kind", [Kind.SUBSCRIBE, Kind.UNSUBSCRIBE])
def test_answer_for_the_only_channel_with_a_gap_does_not_end_the_dropping(kind: Kind) -> None:
    slow = stalled_session()
    server = slow.pair.server
    while server.backlog > 8 * CHUNK:
        assert server.data_to_send(1)
    receive(server, encode_frame(kind, encode("c", b"")))
    assert server.backlog < 10 * CHUNK
    missed = server.missed
    slow.publish("d", b"x")
    assert server.missed == missed + 1


def test_gaps_of_all_channels_are_told_before_the_next_message() -> None:
    slow = Slow("c", "d", "e")
    slow.publish("c", b"1", b"2", b"3", b"4", b"5")
    slow.publish("d", b"1")
    slow.publish("c", b"6")
    assert slow.read() == [*numbered("c", 1, 2, 3, 4), Gap("c", 2, "hub"), Gap("d", 1, "hub")]
    slow.publish("e", b"1")
    assert slow.read() == numbered("e", 1)


def test_fast_sessions_lose_nothing_to_a_slow_one() -> None:
    slow = Slow("c", chunks=1)
    fast = connect(slow.pair.broker, "c")
    for number in range(10):
        slow.publish("c", b"%d" % number)
        assert fast.pump() == numbered("c", number)
    broker = slow.pair.broker
    assert (broker.published, broker.delivered, broker.missed) == (10, 11, 9)


@pytest.mark.parametrize("operation", ["subscribe", "unsubscribe", "close"])
def test_pending_gap_is_told_before_the_channel_is_answered_for(operation: str) -> None:
    slow = Slow("c", "d")
    slow.publish("c", b"1", b"2", b"3", b"4", b"5")
    slow.publish("d", b"1")
    server = slow.pair.server
    if operation == "close":
        server.close()
    else:
        kind = Kind.SUBSCRIBE if operation == "subscribe" else Kind.UNSUBSCRIBE
        receive(server, encode_frame(kind, encode("c", b"")))
    kinds = [kind for kind, _ in output(server)]
    last = {
        "subscribe": [Kind.GAP, Kind.SUBSCRIBE_ACK, Kind.GAP],
        "unsubscribe": [Kind.GAP, Kind.UNSUBSCRIBE_ACK, Kind.GAP],
        "close": [Kind.GAP],
    }
    assert kinds == [Kind.MESSAGES, *last[operation]]


def test_subscribing_again_counts_what_was_missed_once() -> None:
    slow = Slow("c", chunks=1)
    slow.publish("c", b"1", b"2", b"3")
    slow.pair.client.subscribe(["c"])
    assert slow.read() == [*numbered("c", 1), Gap("c", 2, "hub"), Acked(range(2, 3))]


def test_gap_of_a_channel_that_is_not_subscribed_is_ignored() -> None:
    client = open_client()
    assert receive(client, encode_frame(Kind.GAP, encode("c", b"x:7"))) == []
    assert client.position("c") is None


@pytest.mark.parametrize(
    ("position", "missed"), [(b"x:9", 4), (b"x:4", None), (b"y:9", None), (b"y:5", None)]
)
def test_gap_is_as_large_as_the_positions_say(position: bytes, missed: int | None) -> None:
    client = open_client()
    client.subscribe(["c"])
    client.data_to_send()
    receive(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("c", b"kx:3")))
    receive(client, encode_frame(Kind.MESSAGES, encode("c", b"1") + encode("c", b"2")))
    assert client.position("c") == b"x:5"
    gap = encode_frame(Kind.GAP, encode("c", position))
    assert receive(client, gap) == [Gap("c", missed, "hub")]
    assert client.position("c") == position
    assert receive(client, gap) == []


def test_generations_differ_after_a_channel_was_created_again() -> None:
    broker = Broker("boot")
    positions = set()
    for _ in range(3):
        pair = connect(broker, "c")
        position = pair.client.position("c")
        assert position is not None
        positions.add(position)
        pair.client.unsubscribe(["c"])
        pair.pump()
        forget(broker)
    assert len(positions) == 3


def forget(broker: Broker, at: float = 0.0) -> None:
    """Let so much time pass that channels which nobody holds are forgotten."""
    for passes in range(3):
        broker.tick(at + passes * broker.limits.keep_time)
    assert broker.kept == 0


class TestKeeping:
    """A channel that nobody holds is counted for a while."""

    def left(self, broker: Broker, *channels: str) -> None:
        pair = connect(broker, *channels)
        pair.lose()

    def position(self, broker: Broker, channel: str) -> bytes | None:
        pair = connect(broker, channel)
        position = pair.client.position(channel)
        pair.lose()
        return position

    def test_it_is_counted(self) -> None:
        broker = Broker("boot")
        self.left(broker, "c")
        assert (broker.channels, broker.kept) == (0, 1)
        publisher = connect(broker)
        publisher.client.publish_many([("c", b"1"), ("c", b"2"), ("unknown", b"3")])
        publisher.pump()
        assert self.position(broker, "c") == b"boot.0:2"
        assert broker.kept == 1

    def test_it_is_kept_for_a_time(self) -> None:
        broker = Broker("boot", Limits(keep_time=60))
        assert broker.tick(0) == math.inf
        self.left(broker, "c")
        assert broker.tick(10) == 70
        assert broker.tick(69) == 70
        self.left(broker, "late")
        assert broker.tick(70) == 130
        assert broker.kept == 2
        # Whoever left by then was kept for keep_time at least.
        assert broker.tick(130) == math.inf
        assert broker.kept == 0
        assert self.position(broker, "c") == b"boot.2:0"

    def test_it_is_not_forgotten_while_it_is_held_again(self) -> None:
        broker = Broker("boot", Limits(keep_time=60))
        self.left(broker, "c")
        broker.tick(0)
        back = connect(broker, "c")
        forget(broker, 60)
        assert broker.channels == 1
        assert back.client.position("c") == b"boot.0:0"

    def test_the_channel_that_was_left_first_makes_room(self) -> None:
        broker = Broker("boot", Limits(max_kept=2))
        self.left(broker, "a")
        broker.tick(0)
        broker.tick(broker.limits.keep_time)
        self.left(broker, "b")
        self.left(broker, "c")
        # The one that was left first has made room.
        assert broker.kept == 2
        assert self.position(broker, "b") == b"boot.0:0"
        assert self.position(broker, "c") == b"boot.0:0"
        assert self.position(broker, "a") == b"boot.1:0"

    def test_whoever_left_the_most_makes_room(self) -> None:
        broker = Broker("boot", Limits(max_kept=10))
        self.left(broker, "a", "b", "c")
        self.left(broker, *[f"flood.{number}" for number in range(40)])
        assert broker.kept == 10
        assert [self.position(broker, name) for name in "abc"] == [b"boot.0:0"] * 3

    def test_channels_left_one_by_one_make_room_like_those_left_together(self) -> None:
        broker = Broker("boot", Limits(max_kept=10))
        self.left(broker, "a", "b", "c")
        flood = connect(broker)
        for number in range(100):
            flood.client.subscribe([f"flood.{number}"])
            flood.client.unsubscribe([f"flood.{number}"])
            flood.pump()
        assert broker.kept == 10
        assert [self.position(broker, name) for name in "abc"] == [b"boot.0:0"] * 3

    def test_all_channels_of_one_session_are_kept(self) -> None:
        assert Limits().max_kept >= Limits().max_channels


def test_generations_differ_between_hubs() -> None:
    assert {connect(Broker(boot), "c").client.position("c") for boot in ("1", "2")} == {
        b"1.0:0",
        b"2.0:0",
    }


class TestReconnect:
    """A client comes back with the positions it had; another one held the channel meanwhile."""

    def lost(self, *, held: bool = True) -> tuple[Broker, dict[str, bytes]]:
        broker = Broker("boot")
        pair = connect(broker, "c")
        other = connect(broker, *(["c"] if held else []))
        other.client.publish("c", b"1")
        other.pump()
        pair.pump()
        position = pair.client.position("c")
        assert position is not None
        pair.lose()
        assert pair.client_events[-1] == Closed(True)
        return broker, {"c": position}

    def publish(self, broker: Broker, count: int) -> None:
        pair = connect(broker)
        pair.client.publish_many([("c", b"x")] * count)
        pair.pump()

    def back(self, broker: Broker, positions: dict[str, bytes]) -> list[Event]:
        pair = Pair(broker)
        pair.client.subscribe(["b", "c"], positions)
        return pair.pump()

    @pytest.mark.parametrize("count", [1, 5])
    def test_what_was_published_meanwhile_is_a_gap(self, count: int) -> None:
        broker, positions = self.lost()
        self.publish(broker, count)
        gap = Gap("c", count, "reconnect")
        assert self.back(broker, positions) == [gap, Acked(range(1, 2))]

    def test_nothing_missed_is_no_gap(self) -> None:
        broker, positions = self.lost()
        assert self.back(broker, positions) == [Acked(range(1, 2))]

    def test_channel_that_was_created_again_is_a_gap_of_unknown_size(self) -> None:
        broker, _ = self.lost()
        gap = Gap("c", None, "reconnect")
        assert self.back(broker, {"c": b"boot.9:0"}) == [gap, Acked(range(1, 2))]

    def test_another_hub_is_a_gap_of_unknown_size(self) -> None:
        _, positions = self.lost()
        gap = Gap("c", None, "reconnect")
        assert self.back(Broker("other"), positions) == [gap, Acked(range(1, 2))]

    def test_count_that_went_backwards_is_a_gap_of_unknown_size(self) -> None:
        broker, _ = self.lost()
        gap = Gap("c", None, "reconnect")
        assert self.back(broker, {"c": b"boot.0:99"}) == [gap, Acked(range(1, 2))]

    def test_position_that_is_none_is_not_sent(self) -> None:
        pair = Pair()
        with pytest.raises(ValueError, match="position"):
            pair.client.subscribe(["c"], {"c": b"junk"})
        assert pair.client.unanswered == 0
        assert pair.pump() == []

    def test_what_stands_in_place_of_a_position_is_refused_by_the_hub(self) -> None:
        server = open_server()
        receive(server, encode_frame(Kind.SUBSCRIBE, encode("c", b"junk")))
        assert output(server) == [(Kind.SUBSCRIBE_ACK, encode("c", b"d"))]
        assert server.channels == 0

    def test_position_of_a_subscribed_channel_is_not_compared(self) -> None:
        broker, positions = self.lost()
        pair = connect(broker, "c")
        self.publish(broker, 1)
        pair.pump()
        pair.client.subscribe(["c"], positions)
        assert pair.pump() == [Acked(range(2, 3))]

    def test_first_of_two_positions_counts(self) -> None:
        broker, positions = self.lost()
        self.publish(broker, 2)
        pair = Pair(broker)
        pair.client.subscribe(["c"], positions)
        pair.client.subscribe(["c"])
        assert pair.pump() == [
            Gap("c", 2, "reconnect"),
            Acked(range(1, 2)),
            Acked(range(2, 3)),
        ]


def test_hub_tells_the_position_to_a_session_that_asks_again() -> None:
    server = open_server()
    frame = encode_frame(Kind.SUBSCRIBE, encode("c", b""))
    receive(server, frame + encode_frame(Kind.PUBLISH, encode("c", b"1")) + frame)
    assert output(server)[-1] == (Kind.SUBSCRIBE_ACK, encode("c", b"kboot.0:1"))


class TestQuiet:
    """Channels in which nothing was published yet share what stands for them, until it was."""

    def client(self) -> ClientProtocol:
        client = open_client()
        client.subscribe(["a", "b", "c"])
        client.data_to_send()
        answers = b"".join([encode(name, b"kx:0") for name in "abc"])
        assert receive(client, encode_frame(Kind.SUBSCRIBE_ACK, answers)) == [Acked(range(1, 2))]
        assert self.positions(client) == [b"x:0"] * 3
        return client

    def positions(self, client: ClientProtocol) -> list[bytes | None]:
        return [client.position(name) for name in "abc"]

    def test_first_message_is_counted_in_its_channel_alone(self) -> None:
        client = self.client()
        for number in range(1, 4):
            assert receive(client, encode_frame(Kind.MESSAGES, encode("b", b""))) == [got("b", b"")]
            assert self.positions(client) == [b"x:0", b"x:%d" % number, b"x:0"]
        both = encode("c", b"1") + encode("c", b"2") + encode("a", b"")
        [event] = receive(client, encode_frame(Kind.MESSAGES, both))
        assert isinstance(event, Messages)
        assert [(run.channel, run.count) for run in event.runs] == [("c", 2), ("a", 1)]
        assert self.positions(client) == [b"x:1", b"x:3", b"x:2"]

    @pytest.mark.parametrize(
        ("position", "missed"), [(b"x:0", 0), (b"x:7", 7), (b"y:0", None), (b"y:7", None)]
    )
    def test_first_gap_is_told_of_its_channel_alone(
        self, position: bytes, missed: int | None
    ) -> None:
        client = self.client()
        gaps = [] if missed == 0 else [Gap("b", missed, "hub")]
        assert receive(client, encode_frame(Kind.GAP, encode("b", position))) == gaps
        assert self.positions(client) == [b"x:0", position, b"x:0"]

    def test_answer_to_another_subscribe_tells_what_was_missed(self) -> None:
        client = self.client()
        client.subscribe(["b"])
        client.data_to_send()
        answer = encode_frame(Kind.SUBSCRIBE_ACK, encode("b", b"kx:2"))
        assert receive(client, answer) == [Gap("b", 2, "hub"), Acked(range(2, 3))]
        assert self.positions(client) == [b"x:0", b"x:2", b"x:0"]

    def test_channel_that_was_left_begins_anew(self) -> None:
        client = self.client()
        message = encode_frame(Kind.MESSAGES, encode("b", b""))
        receive(client, message)
        client.unsubscribe(["b"])
        client.subscribe(["b"])
        client.data_to_send()
        assert receive(client, message) == []
        assert self.positions(client) == [b"x:0", None, b"x:0"]
        receive(client, encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"))
        receive(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("b", b"ky:0")))
        assert self.positions(client) == [b"x:0", b"y:0", b"x:0"]
        assert receive(client, message) == [got("b", b"")]
        assert self.positions(client) == [b"x:0", b"y:1", b"x:0"]

    def test_two_clients_have_nothing_in_common(self) -> None:
        client, other = self.client(), self.client()
        receive(client, encode_frame(Kind.MESSAGES, encode("a", b"")))
        assert self.positions(client) == [b"x:1", b"x:0", b"x:0"]
        assert self.positions(other) == [b"x:0", b"x:0", b"x:0"]

    def test_what_was_missed_between_two_connections_is_counted(self) -> None:
        broker = Broker("boot")
        names = [f"c{number}" for number in range(100)]
        pair = connect(broker, *names)
        other = connect(broker, *names)
        positions = {name: pair.client.position(name) or b"" for name in names}
        assert set(positions.values()) == {b"boot.0:0"}
        pair.lose()
        other.client.publish_many([("c7", b"1"), ("c9", b"1"), ("c7", b"2")])
        other.pump()
        back = Pair(broker)
        back.client.subscribe(names, positions)
        assert back.pump() == [
            Gap("c7", 2, "reconnect"),
            Gap("c9", 1, "reconnect"),
            Acked(range(1, 2)),
        ]
        where = {name: back.client.position(name) for name in names}
        assert where == positions | {"c7": b"boot.0:2", "c9": b"boot.0:1"}


@pytest.mark.parametrize("left", [0, 1, 2])
def test_more_messages_than_can_be_counted_are_a_violation(left: int) -> None:
    client = open_client()
    client.subscribe(["c"])
    client.data_to_send()
    position = b"kx:%d" % (MAX_COUNT - left)
    receive(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("c", position)))
    message = encode_frame(Kind.MESSAGES, encode("c", b""))
    for _ in range(left):
        assert receive(client, message) == [got("c", b"")]
    assert expect_violation(client, message) == []
