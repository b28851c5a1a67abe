"""The broker: it routes published records to the subscribers of their channels.

It knows channels and subscribers, and nothing of frames, wires or sessions: a subscriber is
anything that takes records (:class:`~.channel.Subscriber`). Work that a peer can make as long as it
likes is either counted in :attr:`Broker.work`, so that the session that causes it yields its turn,
or is a chore that :meth:`Broker.tick` does in slices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from .._callbacks import nothing
from .._records.layout import BATCH_SIZE, decode_channel, end_of, pack
from .._records.scanning import Runs, find_runs
from ..limits import CHUNK_OVERHEAD, PASS_WORK, Limits
from .channel import Channel
from .chores import Chores
from .retention import Retention
from .stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .channel import Left, Session, Subscriber


#: The broker scans this many entries of a tuple of subscribers in the time of one unit of work.
_LOOKED_THROUGH: Final = 64

#: A slice of records that goes to a single subscriber spans at most this many channels.
_MOST_CHANNELS: Final = PASS_WORK * _LOOKED_THROUGH

#: A session that ends leaves this many channels at once, which is about the work of ending it. A
#: chore leaves the others, as many in each step.
_LEFT_AT_ONCE: Final = 64

#: Above this much work, use the sliced way if there is one.
_MUCH: Final = PASS_WORK // 4

#: The broker looks at this many chunks of a queue in the time of one unit of work.
_WEIGHED: Final = 4

#: Units of work in parsing one chunk, besides one for each of its messages.
_PARSED: Final = 4

#: The queues may exceed the total bound by this part of it, and shedding frees as much below it.
#: Weighing all queues is much work: the slack keeps it from happening every few messages.
_SLACK: Final = 1 / 16

_BOOT_ID_CHARACTERS = frozenset(map(chr, range(0x21, 0x7F))) - {":"}


class Broker:
    """Routes what is published to the sessions that hold its channel.

    Make a :class:`ServerProtocol` for each connection: it calls everything here but
    :meth:`tick`, which is the embedder's to call, and :meth:`stats`, which gives all counters at
    one moment.

    :param boot_id: 1 to 16 printable ASCII characters without ``:``. No other hub and no earlier
        run of this one may have used it: positions of different runs must differ.
    :param limits: the bounds of the hub
    :param on_chore: the broker calls it when there is work for :meth:`tick`. It must not call this
        object.
    """

    def __init__(
        self,
        boot_id: str,
        limits: Limits | None = None,
        on_chore: Callable[[], object] = nothing,
    ) -> None:
        if not (1 <= len(boot_id) <= 16 and _BOOT_ID_CHARACTERS.issuperset(boot_id)):
            raise ValueError(f"not a boot id: {boot_id!r}")
        self.limits: Limits = Limits.of(limits)
        #: The open sessions.
        self.sessions: set[Session] = set()
        #: Messages taken from publishers.
        self.published: int = 0
        #: Messages queued for subscribers, counted once for each subscriber. It only grows: what
        #: ``max_total_buffer`` dropped from a queue again stays in it, and is in ``missed`` too.
        self.delivered: int = 0
        #: Messages dropped because a bound left no room for them, counted likewise.
        self.missed: int = 0
        # The part of them that _relieve() shed.
        self._shed = 0
        #: Units of work done so far: one for each slice handed to a subscriber, and for what else
        #: takes as long. It only grows; a session compares it before and after a frame.
        self.work: int = 0
        # A run no larger than this cannot contain a message over the limit.
        self._max_message = self.limits.max_message
        self._boot_id = boot_id
        self._channels: dict[bytes, Channel] = {}
        # Channels without subscribers.
        self._retention = Retention()
        # What sessions left in the period before the current one.
        self._long_left: list[Left] = []
        self._sweep_at = math.inf
        self._removals = 0
        self._generation = self._make_generation()
        self._chores = Chores(on_chore)
        # Everything that may hold messages. A session that has ended still sends its queue.
        self._subscribers: WeakSet[Subscriber] = WeakSet()
        # Bytes to hand out before the broker weighs all queues again.
        self._room: float = self.limits.max_total_buffer
        self._is_relieving = False

    def __repr__(self) -> str:
        return (
            f"<hyps.protocol.Broker, sessions: {len(self.sessions)}, channels: {self.channels}, "
            f"published: {self.published}, delivered: {self.delivered}, missed: {self.missed}>"
        )

    @property
    def channels(self) -> int:
        """How many channels have a subscriber."""
        return len(self._channels) - self.kept

    @property
    def kept(self) -> int:
        """How many channels without a subscriber the hub still counts."""
        return len(self._retention)

    def all_channels(self) -> list[Channel]:
        """All channels that the hub counts, those that nobody holds too. Change none of them."""
        return list(self._channels.values())

    def stats(self) -> Stats:
        """Take a snapshot of all counters."""
        return Stats(
            sessions=len(self.sessions),
            channels=self.channels,
            kept=self.kept,
            published=self.published,
            delivered=self.delivered,
            missed_max_buffer=self.missed - self._shed,
            missed_max_total_buffer=self._shed,
            queued=self._count_queued(),
        )

    def _count_queued(self) -> int:
        return sum([subscriber.queued for subscriber in self._subscribers])

    def _make_generation(self) -> bytes:
        return f"{self._boot_id}.{self._removals}".encode()

    def open_session(self, session: Session, subscriber: Subscriber) -> None:
        """Add a session. Its subscriber's queue counts towards the total until it is collected."""
        self.sessions.add(session)
        self._subscribers.add(subscriber)

    def _look_through(self, subscribers: tuple[Subscriber, ...]) -> None:
        self.work += -(-len(subscribers) // _LOOKED_THROUGH)

    def find(self, subscriber: Subscriber, name: bytes) -> Channel | None:
        """Return a channel if this subscriber holds it, else None."""
        channel = self._channels.get(name)
        if channel is None:
            return None
        self._look_through(channel.subscribers)
        return channel if subscriber in channel.subscribers else None

    def may_hold(self, subscriber: Subscriber, names: list[bytes]) -> bool:
        """Tell whether this subscriber may hold one of these channels.

        :return: True if it does, and also if finding out is too much work for one step
        """
        # The common case: nobody holds any of them.
        if self._channels.keys().isdisjoint(names):
            return False
        found = [each.subscribers for each in map(self._channels.get, names) if each is not None]
        work = sum(map(len, found)) // _LOOKED_THROUGH
        self.work += work
        return work > _MUCH or any(subscriber in subscribers for subscribers in found)

    def subscribe_all(self, subscriber: Subscriber, names: list[bytes]) -> list[Channel]:
        """Do what :meth:`subscribe` does for many names, none of which occurs twice."""
        if not self._channels.keys().isdisjoint(names):
            return [self.subscribe(subscriber, name) for name in names]
        channels = [Channel(name, self._generation, subscriber.alone) for name in names]
        self._channels.update(zip(names, channels, strict=True))
        return channels

    def subscribe(self, subscriber: Subscriber, name: bytes) -> Channel:
        """Add a subscriber to a channel; adding it twice is harmless.

        :param subscriber: the session's outbox, for example
        :param name: UTF-8, which the caller has checked if it came from a peer
        """
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._generation)
        elif not channel.subscribers:
            self._retention.release(channel)
        if not channel.subscribers:
            channel.subscribers = subscriber.alone
        else:
            self._look_through(channel.subscribers)
            if subscriber not in channel.subscribers:
                channel.subscribers += subscriber.alone
        return channel

    def unsubscribe(self, subscriber: Subscriber, channel: Channel) -> None:
        """Remove a subscriber. The hub keeps a channel without any, see :meth:`tick`."""
        if len(channel.subscribers) == 1:
            channel.subscribers = ()
            subscriber.left = self._retention.keep(channel, subscriber.left)
            if self.kept > self.limits.max_kept:
                self._remove(self._retention.choose())
            return
        subscribers = channel.subscribers
        position = subscribers.index(subscriber)
        others = subscribers[:position] + subscribers[position + 1 :]
        channel.subscribers = others if len(others) > 1 else others[0].alone

    def close_session(
        self,
        session: Session,
        subscriber: Subscriber,
        channels: list[Channel] | dict[Channel, None],
    ) -> None:
        """Remove a session, and its subscriber from all channels: in slices if they are many.

        :param session: the session
        :param subscriber: what :meth:`open_session` was given for it
        :param channels: all channels that it holds. The broker empties this container rather than
            copy it: the garbage collector would traverse a large copy again and again.
        """
        self.sessions.discard(session)
        subscriber.close()
        steps = self._leave(subscriber, channels)
        for _ in steps:
            if channels:
                self._chores.add(steps)
                break

    def _leave(
        self, subscriber: Subscriber, channels: list[Channel] | dict[Channel, None]
    ) -> Iterator[int]:
        while channels:
            work = self.work
            count = min(len(channels), _LEFT_AT_ONCE)
            for _ in range(count):
                channel = channels.pop() if isinstance(channels, list) else channels.popitem()[0]
                self.work += len(channel.subscribers) // _LOOKED_THROUGH
                self.unsubscribe(subscriber, channel)
            work, self.work = self.work - work, work
            yield count + work
        # This tuple refers to the subscriber itself: break the cycle.
        subscriber.alone = ()

    def tick(self, now: float) -> float:
        """Do one slice of the work that belongs to no single session.

        That is to leave the channels of sessions that ended, to forget channels that had no
        subscriber for ``Limits.keep_time``, and to shed queues.

        :param now: seconds on any clock that does not go backwards
        :return: when to call again, at the latest; ``now`` while work is left, infinity while all
            channels are held
        """
        if now >= self._sweep_at:
            self._chores.add(self._forget(self._long_left))
            self._long_left = self._retention.end_period()
            self._sweep_at = math.inf
        self._chores.work(PASS_WORK)
        if self._sweep_at == math.inf and self.kept:
            self._sweep_at = now + self._keep_time()
        return now if self._chores else self._sweep_at

    def _keep_time(self) -> float:
        return self.limits.keep_time

    def do_chores(self) -> None:
        """Do a small part of what :meth:`tick` does: chores go on while the hub is busy."""
        if self._chores:
            self._chores.work(PASS_WORK // 4)

    def _forget(self, periods: list[Left]) -> Iterator[int]:
        for left in periods:
            while left.channels:
                self._remove(next(iter(left.channels)))
                yield 1

    def _remove(self, channel: Channel) -> None:
        self._retention.release(channel)
        del self._channels[channel.name]
        # Two channels of one name, one made after the other was removed, must differ in their
        # generation. Channels made between two removals can share one, and its memory.
        self._removals += 1
        self._generation = self._make_generation()

    def publish(
        self, data: bytes, position: int, codes: list[bytes], runs: Runs | None = None
    ) -> int:
        """Hand records to the subscribers of their channels, as many as a pass allows.

        Neighbours that go to the same subscribers form one slice of the publisher's own bytes,
        whatever their channels.

        :param data: concatenated records
        :param position: where the first one starts
        :param codes: receives the codes of the records that were taken, also if this raises
        :param runs: what ``find_runs()`` gives for this position and ``PASS_WORK`` records, if
            the caller has it
        :return: the offset behind the last record that was taken
        :raises MalformedRecord: if a record is malformed, or its channel has no subscriber and is
            not UTF-8
        """
        most = self.work + PASS_WORK
        taken = 0
        # The current slice, which was taken and not handed out yet: where it starts, its channels
        # with their counts before it, its number of records, its subscribers, and how many
        # channels it may span.
        start = position
        channels: dict[Channel, int] = {}
        waiting = 0
        subscribers: tuple[Subscriber, ...] = ()
        bound = 0
        try:
            names, stops, counts, error = runs or find_runs(data, position, most=PASS_WORK)
            # This loop runs once per run: once per record if no two neighbours share a channel.
            found = map(self._channels.get, names)
            for channel, name, stop, count in zip(found, names, stops, counts, strict=True):
                if channel is None or stop - position > self._max_message:
                    self._hand_out(subscribers, data[start:position], channels, waiting)
                    channels, waiting, start = {}, 0, stop
                    codes.append(self._publish_odd(data, position, stop, name, count))
                else:
                    others = channel.subscribers
                    if waiting and (
                        len(channels) >= bound
                        or stop - start > BATCH_SIZE
                        or (others is not subscribers and self._differ(others, subscribers))
                    ):
                        self._hand_out(subscribers, data[start:position], channels, waiting)
                        channels, waiting, start = {}, 0, position
                    if not waiting:
                        subscribers = others
                        bound = _MOST_CHANNELS if len(others) == 1 else _most_channels(others)
                    if channel not in channels:
                        channels[channel] = channel.count
                    channel.count += count
                    waiting += count
                    codes.append(b"k" * count)
                taken += count
                position = stop
                if taken + self.work >= most:
                    break
            else:
                if error is not None:
                    raise error
        finally:
            self._hand_out(subscribers, data[start:position], channels, waiting)
        return position

    def _differ(self, one: tuple[Subscriber, ...], other: tuple[Subscriber, ...]) -> bool:
        self.work += len(one) // _LOOKED_THROUGH
        return one != other

    def _hand_out(
        self,
        subscribers: tuple[Subscriber, ...],
        records: bytes,
        channels: dict[Channel, int],
        count: int,
    ) -> None:
        """Hand records of channels to their subscribers."""
        if not count:
            return
        self.published += count
        self.work += len(subscribers)
        refused = gone = 0
        for subscriber in subscribers:
            told = subscriber.deliver(channels, records, count)
            if told is None:
                refused += 1
                gone += subscriber.is_closed
            else:
                self.work += told
        self.delivered += count * (len(subscribers) - refused)
        self.missed += count * (refused - gone)
        self.work += refused * (len(channels) // _LOOKED_THROUGH)
        self._room -= len(records) + CHUNK_OVERHEAD * len(subscribers)
        if self._room < 0:
            self._look_at_total()

    def set_limits(self, limits: Limits) -> None:
        """Set other bounds. Those of single sessions hold for sessions that open from now on.

        :raises ValueError: if ``max_message`` or ``max_channel`` differ: clients were told, and
            take nothing larger
        """
        for name in ("max_message", "max_channel"):
            if getattr(limits, name) != getattr(self.limits, name):
                raise ValueError(f"{name} cannot change while the hub runs")
        self.limits = limits
        self._room = 0
        self._chores.add(self._forget_spare())

    def _forget_spare(self) -> Iterator[int]:
        while self.kept > self.limits.max_kept:
            self._remove(self._retention.choose())
            yield 1

    # The bound for all queues together

    def _look_at_total(self) -> None:
        """Estimate how much more may be handed out, and shed if there is no room."""
        most = self.limits.max_total_buffer
        # An upper estimate: bytes that several sessions wait for count once per session. Usually
        # even this is below the bound.
        total = self._count_queued()
        self._room = max(most - total, most * _SLACK)
        if total > most * (1 - _SLACK) and not self._is_relieving:
            self._is_relieving = True
            self._chores.add(self._relieve(), is_urgent=True)

    def _relieve(self) -> Iterator[int]:
        """Make the sessions with the longest queues lose their messages until the rest fits."""
        most = self.limits.max_total_buffer
        while True:
            held = 0.0
            weights: list[tuple[float, Subscriber]] = []
            for subscriber in list(self._subscribers):
                weight = 0.0
                for part, looked_at in subscriber.weigh():
                    weight += part
                    yield 1 + looked_at // _WEIGHED
                held += weight
                weights.append((weight, subscriber))
            if held <= most * (1 - _SLACK):
                break
            was_shed = False
            weights.sort(key=lambda each: each[1].queued)
            while weights and held > most * (1 - 2 * _SLACK):
                weight, subscriber = weights.pop()
                held -= weight
                for bodies in subscriber.shed():
                    was_shed = was_shed or bool(bodies)
                    yield 1 + len(bodies) // _WEIGHED
                    yield from self._count_shed(subscriber, bodies)
                subscriber.end_shedding()
            if not was_shed:
                # What is left are answers and bytes in the hands of the I/O layer.
                break
        self._room = max(most - held, most * _SLACK)
        self._is_relieving = False

    def _count_shed(self, subscriber: Subscriber, bodies: list[bytes]) -> Iterator[int]:
        """Count messages that were queued, and delivered so far, as missed."""
        while bodies:
            body = bodies.pop()
            position = 0
            while position < len(body):
                names, stops, counts, _ = find_runs(body, position, most=_LEFT_AT_ONCE)
                found = map(self._channels.get, names)
                missed = sum(counts)
                subscriber.note_shed({each: 0 for each in found if each is not None}, missed)
                self.missed += missed
                self._shed += missed
                position = stops[-1]
                yield _PARSED + missed

    def _publish_odd(self, data: bytes, position: int, stop: int, name: bytes, count: int) -> bytes:
        """Publish a run without subscribers, or one that may hold a message over the limit."""
        channel = self._channels.get(name)
        if channel is None:
            decode_channel(name)
            if len(name) > self.limits.max_channel:
                return b"n" * count
            if stop - position <= self._max_message:
                self.published += count
                return b"k" * count
            channel = Channel(name, b"")
        largest = len(pack(name, b"")) + self.limits.max_message
        codes: list[bytes] = []
        start = position
        waiting = 0
        while position < stop:
            end = end_of(data, position)
            if end - position > largest:
                before = {channel: channel.count - waiting}
                self._hand_out(channel.subscribers, data[start:position], before, waiting)
                start, waiting = end, 0
                codes.append(b"s")
            else:
                codes.append(b"k")
                channel.count += 1
                waiting += 1
            position = end
        before = {channel: channel.count - waiting}
        self._hand_out(channel.subscribers, data[start:stop], before, waiting)
        return b"".join(codes)


def _most_channels(subscribers: tuple[Subscriber, ...]) -> int:
    """Return how many channels a slice for these subscribers may span."""
    most = _MOST_CHANNELS
    if any(subscriber.gaps for subscriber in subscribers):
        # For each channel a gap may have to be told to each subscriber.
        most = PASS_WORK
    return most // max(1, len(subscribers))
