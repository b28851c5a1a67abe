"""Work whose length a peer decides is done in slices, whatever it is: each counts as work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from protocol.pair import EVERYTHING, Pair, connect, drain, output, receive

from hyps.protocol import (
    Broker,
    Gap,
    Kind,
    Limits,
    Messages,
    NeedData,
    Taken,
    encode,
    encode_frame,
)
from hyps.protocol.limits import PASS_WORK

if TYPE_CHECKING:
    from protocol.pair import Event

#: More channels than a pass can leave, tell or forget.
MANY = 3 * PASS_WORK


def names(count: int = MANY) -> list[str]:
    return [f"channel.{number}" for number in range(count)]


def passes(broker: Broker, now: float = 0.0) -> int:
    """Tick until nothing is left to be done at once; give the number of calls."""
    for count in range(1, 1_000):
        if broker.tick(now) > now:
            return count
    raise AssertionError("it has no end")


class TestEndingSessions:
    def test_many_channels_are_left_by_and_by(self) -> None:
        broker = Broker("boot")
        pair = connect(broker, *names())
        pair.lose()
        assert not broker.sessions
        assert pair.server.channels == 0
        left = [broker.kept]
        while broker.tick(0) == 0:
            left.append(broker.kept)
        left.append(broker.kept)
        assert left[-1] == MANY
        steps = [after - before for before, after in zip([0, *left], left, strict=False)]
        assert max(steps) <= PASS_WORK + 64

    def test_sessions_that_end_together_share_the_slices(self) -> None:
        broker = Broker("boot")
        pairs = [connect(broker, *names()) for _ in range(4)]
        for pair in pairs:
            pair.lose()
        assert MANY - PASS_WORK < broker.channels <= MANY
        assert passes(broker) >= 4 * MANY // PASS_WORK
        assert (broker.channels, broker.kept) == (0, MANY)

    def test_the_hub_asks_to_be_told_the_time(self) -> None:
        asked: list[int] = []
        broker = Broker("boot", on_chore=lambda: asked.append(broker.kept))
        connect(broker, *names()).lose()
        assert len(asked) == 1
        passes(broker)
        connect(broker, "one").lose()
        assert len(asked) == 1

    def test_a_busy_hub_gets_on_with_it_without_being_told_the_time(self) -> None:
        broker = Broker("boot")
        connect(broker, *names()).lose()
        publisher = connect(broker)
        for _ in range(8 * MANY // PASS_WORK):
            publisher.client.publish("c", b"")
            publisher.pump()
        assert broker.channels == 0

    def test_messages_of_channels_that_are_being_left_are_nobodys(self) -> None:
        broker = Broker("boot", Limits(max_buffer=1))
        pair = connect(broker, *names())
        pair.lose()
        publisher = connect(broker)
        publisher.client.publish("channel.0", b"1")
        publisher.pump()
        assert (broker.published, broker.delivered, broker.missed) == (1, 0, 0)
        assert pair.server.data_to_send() == b""

    def test_positions_go_on_while_channels_are_being_left(self) -> None:
        broker = Broker("boot")
        pair = connect(broker, *names())
        position = pair.client.position("channel.0")
        assert position is not None
        pair.lose()
        publisher = connect(broker)
        publisher.client.publish("channel.0", b"1")
        publisher.pump()
        back = Pair(broker)
        back.client.subscribe(["channel.0"], {"channel.0": position})
        assert Gap("channel.0", 1, "reconnect") in back.pump()
        passes(broker)
        assert broker.channels == 1
        publisher.client.publish("channel.0", b"2")
        publisher.pump()
        [messages] = back.pump()
        assert isinstance(messages, Messages)

    def test_channels_that_nobody_wants_are_forgotten_by_and_by(self) -> None:
        broker = Broker("boot", Limits(keep_time=60))
        connect(broker, *names()).lose()
        passes(broker)
        passes(broker, 60)
        assert broker.kept == MANY
        assert broker.tick(120) == 120
        assert 0 < broker.kept < MANY
        # One that is wanted again in between is not forgotten.
        before = broker.kept
        back = connect(broker, "channel.0")
        assert broker.kept == before - 1
        passes(broker, 120)
        assert (broker.channels, broker.kept) == (1, 0)
        position = back.client.position("channel.0")
        assert position is not None
        assert position.startswith(b"boot.0:")


class TestGaps:
    """A session has lost messages of more channels than are told at once."""

    def stall(self) -> tuple[Pair, Pair]:
        broker = Broker("boot", Limits(max_buffer=100_000))
        pair, publisher = connect(broker, *names()), connect(broker)
        publisher.client.publish("channel.0", bytes(100_000))
        publisher.pump()
        publisher.client.publish_many([(name, b"missed") for name in names()])
        publisher.pump()
        assert pair.server.missed == MANY
        return pair, publisher

    def test_they_are_told_little_by_little(self) -> None:
        pair, _ = self.stall()
        gaps = []
        while data := pair.server.data_to_send():
            pair.client.receive_data(data)
            gaps.append(sum(isinstance(event, Gap) for event in drain(pair.client)))
        assert sum(gaps) == MANY
        assert max(gaps) <= PASS_WORK // 4

    def test_messages_pass_before_all_are_told_and_behind_their_own(self) -> None:
        pair, publisher = self.stall()
        last = f"channel.{MANY - 1}"
        while not any(isinstance(event, Gap) for event in receive_once(pair)):
            pass
        publisher.client.publish(last, b"passes")
        publisher.pump()
        events = pair.pump()
        of_last = [event for event in events if last in repr(event)]
        assert of_last[0] == Gap(last, 1, "hub")
        assert isinstance(of_last[1], Messages)
        assert pair.server.missed == MANY
        assert not isinstance(events[-1], Messages)
        told = sum(isinstance(event, Gap) for event in events)
        # Those of the first slice were in the output that was looked at above.
        assert MANY - PASS_WORK // 4 <= told < MANY
        assert pair.client.position(last) == b"boot.0:2"

    def test_they_are_told_when_the_hub_is_leaving(self) -> None:
        pair, _ = self.stall()
        pair.server.go_away("test")
        events = pair.pump()
        assert sum(isinstance(event, Gap) for event in events) == MANY
        assert pair.server.data_to_send() == b""

    @pytest.mark.parametrize("kind", [Kind.SUBSCRIBE, Kind.UNSUBSCRIBE])
    def test_one_that_is_asked_about_is_told_first(self, kind: Kind) -> None:
        pair, _ = self.stall()
        last = f"channel.{MANY - 1}"
        receive(pair.server, encode_frame(kind, encode(last, b"")))
        frames = output(pair.server)
        [gap] = [
            at
            for at, (each, body) in enumerate(frames)
            if last.encode() in body and each == Kind.GAP
        ]
        [answer] = [at for at, (each, _) in enumerate(frames) if each == kind + 1]
        assert gap < answer
        told = sum(body.count(b"channel.") for each, body in frames if each == Kind.GAP)
        assert told == MANY

    def test_telling_them_before_a_message_to_many_is_work(self) -> None:
        broker = Broker("boot", Limits(max_buffer=100_000))
        shared = names(PASS_WORK // 2)
        pairs = [connect(broker, *shared) for _ in range(32)]
        publisher = connect(broker)
        publisher.client.publish("channel.0", bytes(100_000))
        publisher.pump()
        publisher.client.publish_many([(name, b"missed") for name in shared])
        publisher.pump()
        for pair in pairs:
            # It has drained, and was told of the first gaps.
            pair.server.data_to_send(EVERYTHING)
            pair.server.data_to_send(1)
        publisher.client.publish_many([(name, b"passes") for name in shared])
        publisher.send_up(EVERYTHING)
        publisher.server.receive_data(bytes(publisher.up))
        steps = []
        while True:
            before = broker.work
            if isinstance(publisher.server.next_event(), NeedData):
                break
            steps.append(broker.work - before)
        untold = len(shared) - PASS_WORK // 4
        assert sum(steps) >= len(pairs) * untold
        assert max(steps) <= 3 * PASS_WORK


def receive_once(pair: Pair) -> list[Event]:
    """Let the hub send once, and look at what came."""
    return receive(pair.client, pair.server.data_to_send())


@pytest.mark.parametrize("holders", [1, 63, 200])
def test_subscribing_to_what_many_hold_is_work(holders: int) -> None:
    broker = Broker("boot")
    shared = names(PASS_WORK)
    for _ in range(holders):
        connect(broker, *shared)
    late = Pair(broker)
    late.client.subscribe(shared)
    late.send_up()
    late.arrive_up()
    work = [event.work for event in late.server_events if isinstance(event, Taken)]
    assert sum(work) >= len(shared) * (1 + holders // 64)
    assert max(work) <= 2 * PASS_WORK
    assert late.server.channels == len(shared)


def test_publishing_to_many_is_work() -> None:
    broker = Broker("boot")
    for _ in range(100):
        connect(broker, "c")
    publisher = connect(broker)
    before = broker.work
    publisher.client.publish("c", b"1")
    publisher.send_up(EVERYTHING)
    publisher.arrive_up()
    assert broker.work - before >= 100
