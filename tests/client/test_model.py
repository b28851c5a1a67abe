"""Whole subscriptions without I/O, driven at random over losses, against what was published.

Routes, subscriptions and both protocols are the real ones; the test does what the connection does
with them. The model knows from :class:`Taken` where in a channel's log the hub let the client in,
and from the client's events how far it was told. So for each subscription it knows which
messages it is owed, and each of them must be read, or be in a gap where it would have been.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pytest
from client.accounts import Call, Reader, Recorder
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from protocol.pair import EVERYTHING, Pair, drain

import hyps
from hyps._client.routes import Routes
from hyps._client.subscription import Subscription
from hyps.protocol import (
    NEED_DATA,
    Acked,
    Broker,
    Closed,
    Gap,
    Limits,
    Message,
    Messages,
    Rejected,
    State,
    Taken,
    Welcome,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from hyps._client.buffer import Overflow

CHANNELS = ("a", "b", "c")
POLICIES: tuple[Overflow, ...] = ("drop_newest", "drop_oldest", "latest", "close")
names: SearchStrategy[list[str]] = st.sampled_from(
    [["a"], ["b"], ["c"], ["a", "b"], ["b", "c"], ["a", "b", "c"], []]
)
#: Much happens only when what comes before it went through.
often = st.sampled_from([True, True, False])
#: Of several channels so many messages, each a run.
published = st.lists(
    st.tuples(st.sampled_from(CHANNELS), st.integers(1, 4)), min_size=1, max_size=4
)
whose = st.integers(0, 11)
changes = st.lists(st.tuples(whose, names, often), min_size=1, max_size=4)
sizes = st.integers(0, 60) | st.just(EVERYTHING)
bounds = st.sampled_from([1, 2, 5, 1000])


class Subscriptions(RuleBasedStateMachine):
    @initialize(
        max_buffer=st.sampled_from([1, 150, 400, 100_000]),
        max_in_flight=st.sampled_from([1, 2, 1000]),
        max_channels=st.sampled_from([2, 100, 100]),
        readers=st.lists(
            st.tuples(st.sampled_from(POLICIES), often, bounds),
            min_size=2,
            max_size=3,
        ),
    )
    def start(
        self,
        max_buffer: int,
        max_in_flight: int,
        max_channels: int,
        readers: list[tuple[Overflow, bool, int]],
    ) -> None:
        self.limits = Limits(
            max_buffer=max_buffer, max_in_flight=max_in_flight, max_channels=max_channels
        )
        self.runs = 0
        self.now = 0.0
        self.log: dict[str, list[bytes]] = {name: [] for name in CHANNELS}
        self.numbers: dict[bytes, int] = {}
        #: How often each channel was forgotten: nobody counted from one era to the next.
        self.era = dict.fromkeys(CHANNELS, 0)
        #: How far the client was told of the channels that it holds, and in which era.
        self.stands: dict[str, tuple[int, int]] = {}
        self.routes = Routes()
        self.readers: list[Reader] = []
        self.calls: list[Call] = []
        self.pair: Pair | None = None
        self.run_hub()
        self.restore(goes=True)
        for overflow, gaps, max_messages in readers:
            self.enter(list(CHANNELS[:2]), gaps, overflow, max_messages, 1000, goes=True)

    def run_hub(self) -> None:
        self.runs += 1
        self.broker = Broker(f"boot-{self.runs}", self.limits)
        self.publisher = Pair(self.broker)
        self.held_at_hub: set[str] = set()

    @property
    def link(self) -> Pair:
        assert self.pair is not None
        return self.pair

    @property
    def protocol(self) -> Recorder:
        return cast("Recorder", self.link.client)

    # What users do

    @rule(counts=published, goes=often)
    def publish(self, counts: list[tuple[str, int]], goes: bool) -> None:
        channels = [name for name, count in counts for _ in range(count)]
        messages = [(name, b"%d" % n) for n, name in enumerate(channels, len(self.numbers))]
        assert self.publisher.client.publish_many(messages) is not None
        for name, data in messages:
            self.numbers[data] = len(self.log[name])
            self.log[name].append(data)
        self.publisher.pump()
        assert self.publisher.client.unanswered == 0
        self.pump_if(goes)

    @rule(
        channels=names,
        gaps=often,
        overflow=st.sampled_from(POLICIES),
        max_messages=bounds,
        max_bytes=st.sampled_from([10, 30, 1000]),
        goes=st.booleans(),
    )
    @precondition(lambda self: self.is_open and len(self.readers) < 4)
    def enter(
        self,
        channels: list[str],
        gaps: bool,
        overflow: Overflow,
        max_messages: int,
        max_bytes: int,
        goes: bool,
    ) -> None:
        is_close = overflow == "close"
        subscription = Subscription[Any](
            cast("Any", None),
            (),
            gaps=gaps,
            overflow=overflow,
            max_messages=max_messages,
            # When it closes is for the model to know.
            max_bytes=EVERYTHING if is_close else max_bytes,
        )
        reader = Reader(subscription, gaps, max_messages if is_close else None)
        self.readers.append(reader)
        self.join(reader, channels, goes, is_first=True)

    @rule(changes=changes, up=sizes, down=sizes, ends=st.sampled_from(["", "wake", "cut", "pump"]))
    @precondition(lambda self: self.readers)
    def change(
        self, changes: list[tuple[int, list[str], bool]], up: int, down: int, ends: str
    ) -> None:
        """Several channels come and go at once."""
        for who, channels, is_joined in changes:
            reader = self.reader(who)
            if reader.end is None:
                if not is_joined:
                    self.leave_some(reader, channels)
                elif self.is_open:
                    self.join(reader, channels, goes=False, is_first=False)
        if self.pair is not None:
            self.move(up, down)
            if ends == "cut":
                self.cut(0, 0)
            self.pump_if(ends == "pump")
        for _ in range(len(self.calls) if ends else 0):
            self.wake(0, False)

    def join(self, reader: Reader, channels: list[str], goes: bool, *, is_first: bool) -> None:
        joining, _ = self.routes.join(reader.inbox, channels, self.protocol)
        call = Call(reader, joining, set(channels), set(channels), is_first)
        call.is_answered = joining.operation <= self.answered
        self.calls.append(call)
        for name in set(channels) - reader.held:
            reader.held.add(name)
            # Else it starts when the hub takes it.
            if name not in self.protocol.joining or name in self.let_in:
                self.begin(reader, name)
        if goes:
            self.pump()
            self.wake(len(self.calls) - 1, False)

    def begin(self, reader: Reader, name: str) -> None:
        reader.started.add(name)
        reader.accounts[name].begin(self.stands[name][0])

    @rule(which=whose, is_cancelled=often.map(lambda often: not often))
    @precondition(lambda self: self.calls)
    def wake(self, which: int, is_cancelled: bool) -> None:
        """The task of a call runs: it was answered, has lost its link, or is cancelled."""
        call = self.calls.pop(which % len(self.calls))
        reader = call.reader
        if reader.end is not None:
            is_cancelled = True
        elif not (call.is_answered or call.is_lost or is_cancelled):
            self.calls.append(call)
            return
        if call.is_answered and not is_cancelled:
            try:
                call.joining.finish()
            except hyps.HypsError:
                assert call.may_fail
            else:
                assert not call.must_fail
                reader.told |= call.wanted
                return
        self.unsubscribe(self.routes.leave(reader.inbox, call.joining.give_up()))
        for name in call.wanted - reader.told - self.wanted(reader):
            reader.let_go(name, self.where(name))
        if call.is_first:
            self.leave_all(reader, hyps.SubscriptionClosed)

    def wanted(self, reader: Reader) -> set[str]:
        """The channels that calls wait for."""
        return set[str]().union(*[call.wanted for call in self.calls if call.reader is reader])

    def leave_some(self, reader: Reader, channels: list[str]) -> None:
        self.unsubscribe(self.routes.leave(reader.inbox, channels))
        for name in channels:
            reader.let_go(name, self.where(name))
        for call in self.calls:
            if call.reader is reader:
                call.wanted.difference_update(channels)

    @rule(who=whose)
    @precondition(lambda self: len(self.readers) > 2)
    def leave(self, who: int) -> None:
        self.leave_all(self.reader(who), hyps.SubscriptionClosed)

    def leave_all(self, reader: Reader, why: type[hyps.HypsError]) -> None:
        self.unsubscribe(self.routes.forget(reader.inbox))
        reader.inbox.end(None)
        self.ended(reader, why)

    def ended(self, reader: Reader, why: type[hyps.HypsError]) -> None:
        if reader.end is None:
            reader.end = why
        for name in list(reader.held):
            reader.let_go(name, self.where(name))

    def reader(self, who: int) -> Reader:
        return self.readers[who % len(self.readers)]

    def where(self, name: str) -> int:
        return self.stands[name][0] if name in self.stands else 0

    # Reading

    @rule(who=whose, count=st.integers(1, 4) | st.just(EVERYTHING))
    @precondition(lambda self: self.readers)
    def read(self, who: int, count: int) -> None:
        reader = self.reader(who)
        for _ in range(count):
            try:
                item = reader.subscription.receive_nowait()
            except hyps.WouldBlock:
                assert reader.end is None
                self.settle(reader)
                break
            except hyps.HypsError as error:
                reader.check_end(error)
                self.settle(reader)
                self.readers.remove(reader)
                break
            account = reader.accounts[item.channel]
            if isinstance(item, Message):
                number = self.numbers[item.data]
                assert self.log[item.channel][number] == item.data
                reader.unread -= 1
                reader.yielded += 1
                if reader.gaps:
                    account.read(number)
                else:
                    assert number >= account.number
                    account.number = number + 1
            elif item.missed is None:
                account.unknown = True
            else:
                assert item.missed > 0
                account.known += item.missed

    def settle(self, reader: Reader) -> None:
        """Nothing is unread: all that it is owed was read, or is in a gap."""
        total = 0
        for name, account in reader.accounts.items():
            stands = self.where(name)
            total += account.count(0, stands)
            if reader.gaps:
                account.check(stands, len(account.stretches) - 1)
        assert reader.yielded + reader.subscription.missed == total
        assert reader.subscription.missed_unknown == any(
            each.is_anew for account in reader.accounts.values() for each in account.stretches
        )

    # What becomes of the connection

    @rule(goes=often)
    @precondition(lambda self: self.pair is None)
    def restore(self, goes: bool) -> None:
        self.pair = Pair(self.broker, opened=False)
        self.pair.client = Recorder()
        self.is_open = False
        #: The operation that restores, and all up to which operations are answered.
        self.restoring = self.answered = 0
        #: Where the hub let the client into a channel, and in which era.
        self.let_in: dict[str, tuple[int, int]] = {}
        self.pump_if(goes)

    @rule(up=sizes, down=sizes)
    @precondition(lambda self: self.pair is not None)
    def cut(self, up: int, down: int) -> None:
        """The connection breaks anywhere; a part of what was on its way still arrives."""
        link = self.link
        self.move(up, down)
        link.server.receive_data(b"")
        drain(link.server)
        self.hear(b"")
        self.held_at_hub.clear()

    @rule(max_channels=st.sampled_from([2, 100, 100]))
    @precondition(lambda self: self.pair is None)
    def restart(self, max_channels: int) -> None:
        """While there is no connection another hub took the place, which knows nothing."""
        for name in CHANNELS:
            self.era[name] += 1
        self.limits = Limits(
            max_buffer=self.limits.max_buffer,
            max_in_flight=self.limits.max_in_flight,
            max_channels=max_channels,
        )
        self.run_hub()

    @rule()
    @precondition(lambda self: self.pair is None)
    def let_time_pass(self) -> None:
        """So much of it that the hub forgets the channels that nobody holds."""
        for _ in range(3):
            self.now += self.limits.keep_time
            self.broker.tick(self.now)
        assert self.broker.kept == 0
        for name in CHANNELS:
            self.era[name] += 1

    # What the transport does

    @rule(up=sizes, down=sizes)
    @precondition(lambda self: self.pair is not None)
    def move(self, up: int, down: int) -> None:
        self.link.send_up(up)
        self.arrive_up(up)
        self.link.send_down(down)
        self.arrive_down(down)

    def pump_if(self, goes: bool) -> None:
        if goes and self.pair is not None:
            self.pump()

    @rule()
    @precondition(lambda self: self.pair is not None)
    def pump(self) -> None:
        link = self.link
        while sum([link.send_up(), self.arrive_up(), link.send_down(), self.arrive_down()]):
            pass
        assert self.is_open
        assert self.protocol.unanswered == 0
        # Nobody is owed what was not said.
        for name in self.held_at_hub:
            assert self.stands[name] == (len(self.log[name]), self.era[name])
        held = set[str]().union(*[reader.held for reader in self.readers])
        assert self.held_at_hub == held
        assert link.server.channels == len(held)

    def arrive_up(self, size: int = EVERYTHING) -> int:
        moved = self.link.arrive_up(size)
        for event in self.link.server_events:
            if isinstance(event, Taken):
                for _ in range(event.records):
                    self.take(*self.protocol.sent.popleft())
        self.link.server_events.clear()
        return moved

    def take(self, operation: int, is_subscribe: bool, name: str) -> None:
        """The hub takes a record."""
        if not is_subscribe:
            self.held_at_hub.discard(name)
        elif name in self.held_at_hub or len(self.held_at_hub) < self.limits.max_channels:
            self.held_at_hub.add(name)
            if self.protocol.joining.get(name) == operation:
                self.let_in[name] = len(self.log[name]), self.era[name]
                if operation != self.restoring:
                    self.stands[name] = self.let_in[name]
                    for reader in self.readers:
                        if name in reader.held:
                            self.begin(reader, name)

    def arrive_down(self, size: int = EVERYTHING) -> int:
        data = bytes(self.link.down[:size])
        del self.link.down[:size]
        if data:
            self.hear(data)
        return len(data)

    def hear(self, data: bytes) -> None:
        protocol = self.protocol
        protocol.receive_data(data)
        while (event := protocol.next_event()) is not NEED_DATA:
            self.on_event(event)

    # What the connection does with it

    def on_event(self, event: object) -> None:
        match event:
            case Welcome():
                self.restoring = self.routes.restore(self.protocol, event) or 0
                if not self.restoring:
                    self.is_open = True
            case Messages(runs):
                self.follow_messages(event)
                self.unsubscribe(self.routes.deliver(runs))
            case Gap():
                self.follow_gap(event)
                self.routes.miss(event)
            case Acked(operations):
                self.routes.on_answered(operations.stop)
                self.follow_answer(operations.stop - 1)
            case Rejected(operation, refusals):
                refused = {refusal.channel or "" for refusal in refusals}
                self.follow_refusal(operation, refused)
                self.unsubscribe(self.routes.on_refused(operation, refusals))
                self.follow_answer(operation)
            case Closed():
                self.follow_loss()
                self.routes.on_lost(self.protocol)
                self.pair = None

    def unsubscribe(self, channels: list[str]) -> None:
        assert not set(channels) & set[str]().union(
            *[r.subscription.channels for r in self.readers]
        )
        if channels and self.pair is not None and self.protocol.state is State.OPEN:
            self.protocol.unsubscribe(channels)
            for name in channels:
                self.let_in.pop(name, None)

    # What the model makes of it

    def follow_messages(self, event: Messages) -> None:
        for run in event.runs:
            number, era = self.stands[run.channel]
            self.stands[run.channel] = number + run.count, era
            for reader in self.readers:
                if run.channel in reader.held:
                    reader.unread += run.count
                    if reader.room is not None and reader.unread > reader.room:
                        self.ended(reader, hyps.SubscriptionOverflow)

    def follow_gap(self, gap: Gap) -> None:
        name = gap.channel
        number, era = self.stands[name]
        if gap.reason == "hub":
            assert gap.missed is not None
            self.stands[name] = number + gap.missed, era
            return
        # Only a channel that is being restored was missed meanwhile.
        assert self.protocol.joining.get(name) == self.restoring
        start, new_era = self.stands[name] = self.let_in.pop(name)
        if era == new_era:
            assert gap.missed == start - number
            return
        assert gap.missed is None
        for reader in self.readers:
            if name in reader.started:
                reader.accounts[name].end(number)
                reader.accounts[name].begin(start, is_anew=True)

    def follow_answer(self, operation: int) -> None:
        """All operations up to this one are answered."""
        self.answered = operation
        joining = self.protocol.joining
        for name in [name for name, number in joining.items() if number <= operation]:
            let_in = self.let_in.pop(name, None)
            # A gap was told, unless nothing was missed.
            if joining.pop(name) == self.restoring and let_in is not None:
                assert let_in == self.stands[name]
        for call in self.calls:
            call.is_answered |= not call.is_lost and call.joining.operation <= operation
        if self.restoring <= operation:
            self.is_open = True

    def follow_refusal(self, operation: int, refused: set[str]) -> None:
        for call in self.calls:
            call.may_fail |= bool(refused & call.names)
        for name in refused:
            if self.protocol.joining.get(name) == operation:
                del self.protocol.joining[name]
                for reader in self.readers:
                    if name in reader.told:
                        self.ended(reader, hyps.PermissionDenied)
                    reader.let_go(name, self.where(name))
                for call in self.calls:
                    call.must_fail |= name in call.wanted

    def follow_loss(self) -> None:
        self.is_open = False
        joining = self.protocol.joining
        for reader in self.readers:
            for name in reader.held & set(joining):
                # Nobody knows whether it was joined, so it is not held. Others are kept.
                if joining[name] != self.restoring:
                    reader.let_go(name, self.where(name))
        for call in self.calls:
            call.is_lost |= not call.is_answered

    # What always holds

    @invariant()
    def subscriptions_hold_what_the_model_holds(self) -> None:
        for reader in self.readers:
            assert reader.subscription.channels == reader.held
            assert reader.told <= reader.held <= reader.told | self.wanted(reader)
        assert len(self.routes) == len(set[str]().union(*[reader.held for reader in self.readers]))

    def teardown(self) -> None:
        if not hasattr(self, "readers"):
            return
        if self.pair is None:
            self.restore(goes=True)
        # A gap at the hub is told when there is room again, so twice.
        self.pump()
        self.pump()
        for who in range(len(self.readers)):
            if self.readers[who].end is None:
                self.read(who, EVERYTHING)
        while self.readers:
            self.leave(0)
            self.read(0, EVERYTHING)
        self.pump()
        assert self.broker.channels == 0


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # Overflows are what this is about.
    caplog.set_level(logging.ERROR, logger="hyps.client")


TestSubscriptions = Subscriptions.TestCase
TestSubscriptions.settings = settings(
    max_examples=3 * settings().max_examples, stateful_step_count=80, deadline=None
)
