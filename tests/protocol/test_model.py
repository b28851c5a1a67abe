"""Clients and a hub in memory, driven at random, against a model of plain dicts.

The model knows the order in which the hub took records, because :class:`Taken` tells it. So it
knows what each client must be handed out: exactly what was published between its joining a
channel and its leaving it, in that order, each message handed out or counted in a gap.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from protocol.pair import EVERYTHING, Pair, receive

from hyps.protocol import (
    Acked,
    Broker,
    Closed,
    Gap,
    GoingAway,
    Limits,
    Lost,
    Messages,
    PeerError,
    Refusal,
    Rejected,
    State,
    Taken,
)

if TYPE_CHECKING:
    from protocol.pair import Event

CHANNELS = ("a", "b", "c")
names = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=4)
whose = st.integers(0, 11)
sizes = st.integers(1, 60) | st.just(EVERYTHING)


@dataclass
class Record:
    """A record that the hub has not taken yet."""

    operation: int
    kind: str
    channel: str
    data: bytes = b""


@dataclass
class Peer:
    """What the model knows of one client."""

    pair: Pair
    number: int
    #: Records in the order in which the hub will take them.
    sent: deque[Record] = field(default_factory=deque)
    #: The codes that the hub gave, and how many an operation gets.
    codes: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    records: dict[int, int] = field(default_factory=dict)
    subscribed: dict[int, list[str]] = field(default_factory=dict)
    #: The next operation to be answered.
    due: int = 1
    #: The operation from which on a channel is wanted.
    since: dict[str, int] = field(default_factory=dict)
    #: Of each channel handed out: how many of its messages were handed out or counted.
    cursor: dict[str, int] = field(default_factory=dict)
    #: The channels that the hub holds for it, and whether it was asked to leave.
    held: set[str] = field(default_factory=set)
    draining: bool = False
    #: Where channels stood on an earlier connection: the cursor and the channel's era.
    earlier: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: The place in the order of all messages of the last one that was handed out.
    last: int = -1

    @property
    def is_open(self) -> bool:
        return self.pair.client.state is State.OPEN


class Hub(RuleBasedStateMachine):
    @initialize(
        max_buffer=st.sampled_from([1, 150, 400, 100_000]),
        max_total_buffer=st.sampled_from([1, 500, 100_000]),
        max_in_flight=st.sampled_from([1, 2, 5, 1000]),
        max_channels=st.sampled_from([2, 100]),
    )
    def start(
        self, max_buffer: int, max_total_buffer: int, max_in_flight: int, max_channels: int
    ) -> None:
        limits = Limits(
            max_buffer=max_buffer,
            max_total_buffer=max_total_buffer,
            max_in_flight=max_in_flight,
            max_channels=max_channels,
        )
        self.limits = limits
        self.runs = 0
        self.peers: list[Peer] = []
        #: Messages that were made, that hubs took, and that this hub took and owed.
        self.messages = self.taken = 0
        #: All that was published to each channel, with its place in the order of all messages.
        self.log: dict[str, list[tuple[int, bytes]]] = {name: [] for name in CHANNELS}
        self.now = 0.0
        #: How often each channel was forgotten: nobody counted from one era to the next.
        self.era = dict.fromkeys(CHANNELS, 0)
        self.lost_positions: list[tuple[dict[str, bytes], dict[str, tuple[int, int]]]] = []
        self.count = 0
        self.run_hub()

    def run_hub(self) -> None:
        self.runs += 1
        self.broker = Broker(f"boot-{self.runs}", self.limits)
        self.published = self.deliveries = 0
        self.connect()

    def peer(self, who: int) -> Peer:
        return self.peers[who % len(self.peers)]

    # What clients do

    @rule()
    @precondition(lambda self: len(self.peers) < 4)
    def connect(self) -> None:
        self.count += 1
        self.peers.append(Peer(Pair(self.broker), self.count))

    @rule()
    @precondition(lambda self: self.lost_positions and len(self.peers) < 4)
    def reconnect(self) -> None:
        self.connect()
        peer = self.peers[-1]
        positions, peer.earlier = self.lost_positions.pop(0)
        self.join(peer, sorted(positions), positions)

    def join(self, peer: Peer, channels: list[str], positions: dict[str, bytes]) -> None:
        operation = peer.pair.client.subscribe(channels, positions)
        if operation is None:
            assert not channels
            return
        self.begin(peer, operation, [Record(operation, "subscribe", name) for name in channels])
        peer.subscribed[operation] = channels
        for name in channels:
            peer.since.setdefault(name, operation)

    def begin(self, peer: Peer, operation: int, records: list[Record]) -> None:
        assert operation == len(peer.records) + 1
        peer.records[operation] = len(records)
        peer.sent.extend(records)

    def make_messages(self, channels: list[str], size: int) -> list[tuple[str, bytes]]:
        found = []
        for channel in channels:
            self.messages += 1
            found.append((channel, b"%d " % self.messages + bytes(size)))
        return found

    @rule(who=whose, channel=st.sampled_from(CHANNELS), size=st.sampled_from([0, 1, 70]))
    def publish(self, who: int, channel: str, size: int) -> None:
        peer = self.peer(who)
        if peer.is_open:
            [(_, data)] = self.make_messages([channel], size)
            operation = peer.pair.client.publish(channel, data)
            self.begin(peer, operation, [Record(operation, "publish", channel, data)])

    @rule(who=whose, channels=names, size=st.sampled_from([0, 1, 70]))
    def publish_many(self, who: int, channels: list[str], size: int) -> None:
        peer = self.peer(who)
        if peer.is_open:
            messages = self.make_messages(channels, size)
            operation = peer.pair.client.publish_many(messages)
            assert operation is not None
            self.begin(peer, operation, [Record(operation, "publish", *m) for m in messages])

    @rule(who=whose, channels=names)
    def subscribe(self, who: int, channels: list[str]) -> None:
        peer = self.peer(who)
        if peer.is_open:
            self.join(peer, channels, {})

    @rule(who=whose, channels=names)
    def unsubscribe(self, who: int, channels: list[str]) -> None:
        peer = self.peer(who)
        if peer.is_open:
            operation = peer.pair.client.unsubscribe(channels)
            assert operation is not None
            records = [Record(operation, "unsubscribe", name) for name in channels]
            self.begin(peer, operation, records)
            for name in channels:
                peer.since.pop(name, None)
                peer.cursor.pop(name, None)
                peer.earlier.pop(name, None)

    # What the transport does

    @rule(who=whose, size=sizes)
    def send_up(self, who: int, size: int) -> None:
        self.peer(who).pair.send_up(size)

    @rule(who=whose, size=sizes)
    def send_down(self, who: int, size: int) -> None:
        self.peer(who).pair.send_down(size)

    @rule(who=whose, size=sizes)
    def arrive_up(self, who: int, size: int) -> None:
        peer = self.peer(who)
        peer.pair.arrive_up(size)
        self.look(peer)

    @rule(who=whose, size=sizes)
    def arrive_down(self, who: int, size: int) -> None:
        peer = self.peer(who)
        peer.pair.arrive_down(size)
        self.look(peer)

    @rule(who=whose)
    def pump(self, who: int) -> None:
        """Everything of one client goes through; others may have more for it afterwards."""
        peer = self.peer(who)
        while sum([
            peer.pair.send_up(),
            peer.pair.arrive_up(),
            peer.pair.send_down(),
            peer.pair.arrive_down(),
        ]):  # fmt: skip
            self.look(peer)
            while self.broker.tick(self.now) <= self.now:
                pass
        self.look(peer)
        assert peer.pair.server.backlog == peer.pair.client.backlog == 0
        assert peer.pair.client.unanswered == 0
        assert peer.due == len(peer.records) + 1
        # The loss equation: nothing is left that was neither handed out nor counted.
        assert set(peer.cursor) <= peer.held
        for name in CHANNELS:
            position = peer.pair.client.position(name)
            assert (position is not None) == (name in peer.cursor)
            if position is not None:
                assert peer.cursor[name] == len(self.log[name])
                assert position == self.position_at_the_hub(name)
        assert not set(peer.earlier) & set(peer.cursor)

    def position_at_the_hub(self, name: str) -> bytes | None:
        probe = Pair(self.broker)
        probe.client.subscribe([name])
        probe.pump()
        position = probe.client.position(name)
        probe.lose()
        return position

    # How sessions end

    @rule(who=whose)
    def close(self, who: int) -> None:
        self.peer(who).pair.client.close()

    @rule(who=whose)
    def go_away(self, who: int) -> None:
        peer = self.peer(who)
        peer.pair.server.go_away("bye")
        peer.draining = True

    @rule(who=whose)
    @precondition(lambda self: len(self.peers) > 1)
    def finish(self, who: int) -> None:
        """A client that closed has got everything, and half-closes."""
        peer = self.peer(who)
        peer.pair.client.close()
        self.pump(who)
        assert peer.pair.client.eof_is_due
        assert receive(peer.pair.server, b"") == [Closed(True)]
        self.leave(peer)
        peer.pair.send_down()
        peer.pair.arrive_down()
        assert peer.pair.server.eof_is_due
        assert receive(peer.pair.client, b"") == [Closed(True)]
        assert peer.pair.client_events == []

    @rule(who=whose, size=st.integers(0, 60))
    @precondition(lambda self: len(self.peers) > 1)
    def vanish(self, who: int, size: int) -> None:
        """The connection breaks anywhere; a part of what was on its way still arrives."""
        peer = self.peer(who)
        peer.pair.arrive_up(size)
        peer.pair.arrive_down(size)
        self.look(peer)
        positions = {name: peer.pair.client.position(name) for name in peer.cursor}
        known = {name: position for name, position in positions.items() if position is not None}
        marks = {name: (peer.cursor[name], self.era[name]) for name in known}
        peer.pair.lose()
        self.look(peer)
        if known:
            self.lost_positions.append((known, marks))

    @rule(size=st.integers(0, 60))
    def restart(self, size: int) -> None:
        """The hub is killed, and another one takes its place, which knows nothing of it."""
        while self.peers:
            self.vanish(0, size)
        assert self.broker.channels == len(self.broker.sessions) == 0
        for name in CHANNELS:
            self.era[name] += 1
        self.run_hub()

    @rule(who=whose)
    @precondition(lambda self: len(self.peers) > 1)
    def fail(self, who: int) -> None:
        """The hub ends the session, and the client reads all of it."""
        peer = self.peer(who)
        peer.pair.server.fail("oh", "internal")
        self.leave(peer)
        peer.pair.send_down()
        peer.pair.arrive_down()
        assert peer.pair.client_events[-1] == PeerError("internal", "oh")
        self.look(peer)

    def leave(self, peer: Peer) -> None:
        """The hub let go of a session."""
        if peer in self.peers:
            self.peers.remove(peer)
            peer.held.clear()

    @rule()
    def let_time_pass(self) -> None:
        """So much of it that the hub forgets the channels that nobody holds."""
        for _ in range(3):
            self.now += self.limits.keep_time
            self.broker.tick(self.now)
        assert self.broker.kept == 0
        for name in CHANNELS:
            if not any(name in peer.held for peer in self.peers):
                self.era[name] += 1

    # What the ends say

    def look(self, peer: Peer) -> None:
        """Let the model follow what happened at both ends of a connection."""
        pair = peer.pair
        for event in pair.server_events:
            if isinstance(event, Taken):
                for _ in range(event.records):
                    self.take(peer, peer.sent.popleft())
            elif isinstance(event, Closed):
                self.leave(peer)
        for event in pair.client_events:
            self.follow(peer, event)
        pair.server_events.clear()
        pair.client_events.clear()

    def take(self, peer: Peer, record: Record) -> None:
        """The hub takes a record."""
        name = record.channel
        code = b"k"
        if record.kind == "unsubscribe":
            peer.held.discard(name)
        elif peer.draining:
            code = b"u"
        elif record.kind == "publish":
            self.log[name].append((self.taken, record.data))
            self.taken += 1
            self.published += 1
            self.deliveries += sum([name in other.held for other in self.peers])
        elif name not in peer.held and len(peer.held) == self.limits.max_channels:
            code = b"d"
        else:
            peer.held.add(name)
            if record.operation >= peer.since.get(name, EVERYTHING):
                peer.cursor.setdefault(name, len(self.log[name]))
                if name in peer.earlier and self.was_not_missed(peer, name):
                    del peer.earlier[name]
        peer.codes[record.operation] += code

    def was_not_missed(self, peer: Peer, name: str) -> bool:
        return peer.earlier[name] == (len(self.log[name]), self.era[name])

    def follow(self, peer: Peer, event: Event) -> None:
        """The client is told something."""
        if isinstance(event, Acked):
            for operation in event.operations:
                self.answer(peer, operation, ())
        elif isinstance(event, Rejected):
            assert event.refusals
            self.answer(peer, event.operation, event.refusals)
        elif isinstance(event, Lost):
            assert event.operations == range(peer.due, len(peer.records) + 1)
            peer.due = event.operations.stop
        elif isinstance(event, Gap) and event.reason == "reconnect":
            self.follow_reconnect(peer, event)
        elif isinstance(event, Gap):
            assert event.missed is not None
            assert event.missed > 0
            peer.cursor[event.channel] += event.missed
            assert peer.cursor[event.channel] <= len(self.log[event.channel])
        elif isinstance(event, Messages):
            for run in event.runs:
                for message in run.messages:
                    place, data = self.log[run.channel][peer.cursor[run.channel]]
                    assert message.data == data
                    assert place > peer.last
                    peer.last = place
                    peer.cursor[run.channel] += 1
        else:
            assert isinstance(event, GoingAway | Closed | PeerError)

    def follow_reconnect(self, peer: Peer, gap: Gap) -> None:
        cursor, era = peer.earlier.pop(gap.channel)
        if era != self.era[gap.channel]:
            assert gap.missed is None
        else:
            assert gap.missed is not None
            assert gap.missed == peer.cursor[gap.channel] - cursor > 0

    def answer(self, peer: Peer, operation: int, refusals: tuple[Refusal, ...]) -> None:
        assert operation == peer.due
        peer.due += 1
        codes = peer.codes.pop(operation)
        assert len(codes) == peer.records[operation]
        channels = peer.subscribed.get(operation)
        assert refusals == tuple([
            Refusal(index, bytes([code]), channels[index] if channels else None)
            for index, code in enumerate(codes)
            if code != ord("k")
        ])  # fmt: skip

    # What always holds

    @invariant()
    def client_has_no_more_in_flight_than_the_hub_takes(self) -> None:
        for peer in self.peers:
            assert peer.pair.client.in_flight <= self.limits.max_in_flight
            assert peer.pair.client.unanswered == len(peer.records) + 1 - peer.due

    @invariant()
    def hub_counts_every_message_once_for_every_subscriber(self) -> None:
        assert self.broker.published == self.published
        stats = self.broker.stats()
        assert stats.delivered + stats.missed_max_buffer == self.deliveries

    @invariant()
    def hub_holds_what_the_model_holds(self) -> None:
        assert self.broker.sessions == {peer.pair.server for peer in self.peers}
        assert self.broker.channels == len(set[str]().union(*[peer.held for peer in self.peers]))
        for peer in self.peers:
            assert peer.pair.server.channels == len(peer.held)

    def teardown(self) -> None:
        if not hasattr(self, "peers"):
            return
        # Twice, as what one publishes comes to others that were looked at before.
        for _ in range(2):
            for who in range(len(self.peers)):
                self.pump(who)
        for peer in self.peers[:]:
            peer.pair.lose()
            self.look(peer)
            assert peer.due == len(peer.records) + 1
        assert self.broker.channels == len(self.broker.sessions) == 0


TestHub = Hub.TestCase
TestHub.settings = settings(
    max_examples=4 * settings().max_examples, stateful_step_count=60, deadline=None
)
