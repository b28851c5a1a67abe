"""The bound of what all sessions of a hub hold together."""

from __future__ import annotations

import itertools

import pytest
from protocol.pair import EVERYTHING, Pair, connect, output

from hyps.protocol import Broker, Gap, Kind, Limits, Messages, RemoteProtocolError
from hyps.protocol.limits import PASS_WORK

KIB = 1024
BOUND = 1024 * KIB
#: What the bound may be passed by, and that is made free when it is.
SLACK = BOUND // 8


def hub() -> Broker:
    return Broker("boot", Limits(max_total_buffer=BOUND, max_buffer=BOUND))


def publish(publisher: Pair, channel: str, size: int, count: int = 1) -> None:
    for _ in range(count):
        publisher.client.publish(channel, bytes(size))
        publisher.pump()


def held(pairs: list[Pair]) -> int:
    return sum(pair.server.backlog for pair in pairs)


def count_messages(pair: Pair) -> tuple[int, int]:
    """Read everything; how many messages came, and how many were told as missed."""
    messages = missed = 0
    for event in pair.pump():
        if isinstance(event, Messages):
            messages += sum(run.count for run in event.runs)
        elif isinstance(event, Gap):
            assert event.missed is not None
            missed += event.missed
    return messages, missed


def test_sessions_of_their_own_channels_hold_no_more_together() -> None:
    broker = hub()
    stalled = [connect(broker, f"c{number}") for number in range(16)]
    publisher = connect(broker)
    for number in range(16):
        publish(publisher, f"c{number}", 10 * KIB, 20)
        assert held(stalled) <= BOUND + SLACK
    # Each message is accounted for, at the hub and for the session.
    # Nothing was refused for lack of room in its own queue; what was shed had been queued.
    assert broker.published == broker.delivered == 16 * 20
    assert broker.missed == sum(pair.server.missed for pair in stalled)
    for pair in stalled:
        lost = pair.server.missed
        assert count_messages(pair) == (20 - lost, lost)


def test_the_longest_queue_is_the_one_that_loses() -> None:
    broker = hub()
    short, long = connect(broker, "short"), connect(broker, "long")
    publisher = connect(broker)
    publish(publisher, "short", KIB, 100)
    publish(publisher, "long", KIB, 1_000)
    assert short.server.missed == 0
    assert long.server.missed > 0
    publish(publisher, "short", KIB)
    assert count_messages(short) == (101, 0)


def test_what_many_wait_for_counts_once() -> None:
    broker = hub()
    stalled = [connect(broker, "c") for _ in range(20)]
    publisher = connect(broker)
    publish(publisher, "c", 10 * KIB, 80)
    assert held(stalled) > 10 * BOUND
    assert broker.missed == 0


def test_what_many_wait_for_is_bounded_too() -> None:
    broker = hub()
    stalled = [connect(broker, "a", "b") for _ in range(4)]
    publisher = connect(broker)
    for channel in ("a", "b"):
        publish(publisher, channel, 10 * KIB, 90)
    assert held(stalled) <= len(stalled) * (BOUND + SLACK)
    assert broker.missed > 0
    for pair in stalled:
        lost = pair.server.missed
        assert count_messages(pair) == (180 - lost, lost)


def test_who_reads_loses_nothing() -> None:
    broker = hub()
    stalled = [connect(broker, "c") for _ in range(2)]
    reader = connect(broker, "c", "d")
    publisher = connect(broker)
    messages = 0
    for number in range(300):
        publish(publisher, "c" if number % 2 else "d", 10 * KIB)
        messages += count_messages(reader)[0]
    assert messages == 300
    assert sum(pair.server.missed for pair in stalled) > 0


def test_answers_are_never_lost() -> None:
    broker = hub()
    stalled, publisher = connect(broker, "c"), connect(broker)
    operations = []
    for _ in range(150):
        operations.append(stalled.client.publish("c", bytes(10 * KIB)))
        stalled.send_up()
        stalled.arrive_up()
    assert stalled.server.missed > 0
    publish(publisher, "d", 1)
    answers = [body for kind, body in output(stalled.server) if kind == Kind.PUBLISH_ACK]
    assert b"".join(answers) == b"k" * 150


@pytest.mark.parametrize("operation", ["subscribe", "unsubscribe"])
def test_the_loss_is_told_before_the_channel_is_answered_for(operation: str) -> None:
    broker = hub()
    stalled, publisher = connect(broker, "c"), connect(broker)
    publish(publisher, "c", 10 * KIB, 150)
    lost = stalled.server.missed
    assert lost > 0
    getattr(stalled.client, operation)(["c"])
    stalled.send_up()
    stalled.arrive_up()
    kinds = [kind for kind, _ in output(stalled.server)]
    answer = Kind.SUBSCRIBE_ACK if operation == "subscribe" else Kind.UNSUBSCRIBE_ACK
    assert Kind.GAP in kinds[: kinds.index(answer)]


def test_messages_pass_again_once_there_is_room() -> None:
    broker = hub()
    stalled, publisher = connect(broker, "c"), connect(broker)
    publish(publisher, "c", 10 * KIB, 150)
    before = count_messages(stalled)
    assert sum(before) == 150
    publish(publisher, "c", 10 * KIB)
    assert count_messages(stalled) == (1, 0)
    assert stalled.client.position("c") == b"boot.0:151"


def test_a_session_that_ends_is_free_again() -> None:
    broker = hub()
    for _ in range(5):
        stalled, publisher = connect(broker, "c"), connect(broker)
        publish(publisher, "c", 10 * KIB, 80)
        assert stalled.server.missed == 0
        stalled.lose()
        stalled.server.discard()


def test_a_channel_that_was_left_and_made_anew_has_no_gap_of_the_old_one() -> None:
    """What it had queued is shed, and the hub forgets the channel before the gaps are told."""
    broker = Broker("boot", Limits(max_buffer=1_000_000, max_total_buffer=10_000, keep_time=60))
    stalled, publisher = connect(broker, "x", "y"), connect(broker)
    publish(publisher, "x", 1, 2)
    stalled.client.unsubscribe(["x"])
    stalled.send_up()
    stalled.arrive_up()
    publish(publisher, "y", 500, 30)
    assert stalled.server.missed > 0
    for now in (0, 61, 122, 183):
        broker.tick(now)
    stalled.client.subscribe(["x"])
    gaps = [event for event in stalled.pump() if isinstance(event, Gap)]
    assert {gap.channel for gap in gaps} == {"y"}
    assert stalled.client.position("x") == b"boot.1:0"


def test_a_session_that_drained_before_its_turn_to_be_shed_goes_on() -> None:
    """Shedding takes slices, in which who is read catches up."""
    bound = 10_000_000
    broker = Broker("boot", Limits(max_buffer=1_000_000, max_total_buffer=bound))
    publisher, reader = connect(broker), connect(broker, "r")
    # Many small messages take the longest to be counted, so that there are slices after it.
    stalled = [connect(broker, f"s{number}") for number in range(14)]
    for _ in range(200):
        publish_many(publisher, "s0", 1, 500)
    for number in range(1, 14):
        for _ in range(65):
            publish_many(publisher, f"s{number}", 900, 10)
    for _ in range(99):
        publish_many(publisher, "r", 900, 10)
    number = 0
    while not stalled[0].server.missed:
        publish_many(publisher, f"s{1 + number % 13}", 900, 10)
        number += 1
    assert count_messages(reader) == (990, 0)
    while broker.tick(0) <= 0:
        reader.pump()
    reader.pump()
    missed = reader.server.missed
    publish(publisher, "r", 10, 100)
    assert count_messages(reader) == (100, 0)
    assert reader.server.missed == missed


def publish_many(publisher: Pair, channel: str, size: int, count: int) -> None:
    publisher.client.publish_many([(channel, bytes(size))] * count)
    publisher.pump()


class TestLongQueues:
    """A session whose queue has many small parts is shed in slices, between everything else."""

    def shed(self) -> tuple[Broker, Pair, int]:
        """A session in the middle of it, and how many messages it is owed."""
        broker = Broker("boot", Limits(max_buffer=10 * BOUND, max_total_buffer=2 * BOUND))
        stalled, publisher = connect(broker, "a", "b"), connect(broker)
        # Messages that alternate between those who get them are not merged.
        other = connect(broker, "b")
        sent = 0
        while not stalled.server.missed:
            publisher.client.publish_many([("a", b""), ("b", b"")] * 500)
            publisher.pump()
            other.pump()
            sent += 1_000
        assert 0 < stalled.server.missed < sent - PASS_WORK
        return broker, stalled, sent

    def test_each_slice_is_a_part(self) -> None:
        broker, stalled, _ = self.shed()
        missed = [stalled.server.missed]
        while broker.tick(0) <= 0:
            missed.append(stalled.server.missed)
        steps = [after - before for before, after in itertools.pairwise(missed)]
        assert len(steps) > 2
        assert max(steps) <= PASS_WORK + 64

    def test_nothing_overtakes_what_is_kept(self) -> None:
        broker, stalled, sent = self.shed()
        # It is asked for something meanwhile, and reads.
        stalled.client.subscribe(["c"])
        while True:
            stalled.send_up()
            stalled.arrive_up()
            stalled.send_down(EVERYTHING)
            if broker.tick(0) > 0:
                break
        messages = missed = 0
        for event in stalled.pump():
            if isinstance(event, Messages):
                messages += sum(run.count for run in event.runs)
            elif isinstance(event, Gap):
                missed += event.missed or 0
        assert (messages, missed) == (sent - missed, stalled.server.missed)
        assert stalled.client.position("c") is not None

    @pytest.mark.parametrize("ends_by", ["close", "violation", "loss"])
    def test_a_session_that_ends_meanwhile(self, ends_by: str) -> None:
        broker, stalled, _ = self.shed()
        server = stalled.server
        if ends_by == "close":
            server.close()
        elif ends_by == "violation":
            server.receive_data(bytes(100))
            with pytest.raises(RemoteProtocolError):
                server.next_event()
        else:
            stalled.lose()
            server.discard()
        while broker.tick(0) <= 0:
            pass
        kinds = [kind for kind, _ in output(server)]
        assert (Kind.ERROR in kinds) == (ends_by == "violation")
        assert server.eof_is_due
        assert server.backlog == 0
        assert len(broker.sessions) == 2


def test_a_snapshot_counts_losses_by_the_bound_that_was_reached() -> None:
    broker = Broker("boot", Limits(max_buffer=BOUND // 2, max_total_buffer=BOUND))
    stalled = [connect(broker, f"c{number}") for number in range(4)]
    publisher = connect(broker)
    publish(publisher, "c0", 10 * KIB, 100)
    stats = broker.stats()
    assert (stats.published, stats.missed_max_total_buffer) == (100, 0)
    assert stats.delivered + stats.missed_max_buffer == 100
    assert stats.missed_max_buffer > 0
    for number in range(1, 4):
        publish(publisher, f"c{number}", 10 * KIB, 50)
    assert broker.stats().missed_max_buffer == stats.missed_max_buffer
    stats = broker.stats()
    assert stats.missed_max_total_buffer > 0
    assert stats.delivered + stats.missed_max_buffer == stats.published == 250
    assert stats.missed == broker.missed == sum(pair.server.missed for pair in stalled)
    assert stats.queued == held(stalled) + publisher.server.backlog
    assert (stats.sessions, stats.channels, stats.kept) == (5, 4, 0)
    stalled[0].lose()
    stats = broker.stats()
    assert (stats.sessions, stats.channels, stats.kept) == (4, 3, 1)
