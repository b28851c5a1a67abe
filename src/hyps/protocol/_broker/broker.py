"""The broker: which sessions hold which channels, and what each is owed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from .._callbacks import nothing
from .._records.records import BATCH_SIZE, decode_channel, find_runs, pack
from ..limits import CHUNK_OVERHEAD, PASS_WORK, Limits
from .channel import Channel
from .chores import Chores
from .retention import Retention
from .stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .channel import Left, Session, Subscriber


#: Subscribers that are looked through in about the time that it takes to hand one a run.
_LOOKED_THROUGH: Final = 64

#: Channels of which a slice may be that goes to one subscriber.
_MOST_CHANNELS: Final = PASS_WORK * _LOOKED_THROUGH

#: Channels that a session leaves at once when it ends: about the work of ending it. The others are
#: left in steps of as many.
_LEFT_AT_ONCE: Final = 64

#: Work that is not done at once where there is another way.
_MUCH: Final = PASS_WORK // 4

#: Chunks of a queue that are looked at in the time of a unit of work.
_WEIGHED: Final = 4

#: Work in looking at the messages of a chunk, besides that of each.
_LOOK: Final = 4

#: The part of the total bound by which it may be passed, and that is made free when it is: looking
#: at all queues is much work, and is not to be done for every few messages.
_SLACK: Final = 1 / 16

_BOOT_ID_CHARACTERS = frozenset(map(chr, range(0x21, 0x7F))) - {":"}


class Broker:
    """Routes what is published to the sessions that hold its channel.

    Make a :class:`ServerProtocol` for each connection; it calls everything here. What can be read:
    ``published``, the messages taken from publishers; ``delivered`` and ``missed``, those queued
    for subscribers and those that their bounds left no room for, each counted once a subscriber;
    ``sessions``, ``channels`` and ``kept``. :meth:`stats` gives all of it at one moment.

    :param boot_id: 1 to 16 printable ASCII characters without ``:``, never used by another hub
        or by an earlier run of this one, so that no position is mistaken for another's
    :param limits: the bounds of the hub
    :param on_chore: called when :meth:`tick` is to be called at once. It must not call this object.
    """

    def __init__(
        self,
        boot_id: str,
        limits: Limits | None = None,
        on_chore: Callable[[], object] = nothing,
    ) -> None:
        if not (1 <= len(boot_id) <= 16 and _BOOT_ID_CHARACTERS.issuperset(boot_id)):
            raise ValueError(f"not a boot id: {boot_id!r}")
        self.limits: Limits = limits or Limits()
        #: The open sessions.
        self.sessions: set[Session] = set()
        #: Messages taken from publishers.
        self.published: int = 0
        #: Messages queued for subscribers, each counted once a subscriber.
        self.delivered: int = 0
        #: Messages that subscribers' bounds left no room for, counted likewise.
        self.missed: int = 0
        # Those of them that were shed, see _relieve().
        self._shed = 0
        #: Runs handed to subscribers, each counted once a subscriber, and what takes as long.
        self.work: int = 0
        # Bytes of a run up to which it is handed out without a look at its records.
        self._max_message = self.limits.max_message
        self._boot_id = boot_id
        self._channels: dict[bytes, Channel] = {}
        # Channels that nobody holds.
        self._retention = Retention()
        # What was left in the period before this one.
        self._long_left: list[Left] = []
        self._sweep_at = math.inf
        self._removals = 0
        self._generation = self._make_generation()
        self._chores = Chores(on_chore)
        # What may hold messages: also of sessions that have ended, as long as these are sent.
        self._subscribers: WeakSet[Subscriber] = WeakSet()
        # Bytes that may be handed out before what all sessions hold is to be looked at again.
        self._room: float = self.limits.max_total_buffer
        self._is_relieving = False

    def __repr__(self) -> str:
        return (
            f"<hyps.protocol.Broker, sessions: {len(self.sessions)}, channels: {self.channels}, "
            f"published: {self.published}, delivered: {self.delivered}, missed: {self.missed}>"
        )

    @property
    def channels(self) -> int:
        """How many channels somebody holds."""
        return len(self._channels) - self.kept

    @property
    def kept(self) -> int:
        """How many channels are kept that nobody holds."""
        return len(self._retention)

    def stats(self) -> Stats:
        """Take a snapshot of all counters."""
        return Stats(
            sessions=len(self.sessions),
            channels=self.channels,
            kept=self.kept,
            published=self.published,
            delivered=self.delivered,
            missed_session=self.missed - self._shed,
            missed_total=self._shed,
            queued=self._count_queued(),
        )

    def _count_queued(self) -> int:
        return sum([subscriber.queued for subscriber in self._subscribers])

    def _make_generation(self) -> bytes:
        return f"{self._boot_id}.{self._removals}".encode()

    def open_session(self, session: Session, subscriber: Subscriber) -> None:
        """Enter a session. What its subscriber holds counts from now on, until it is gone."""
        self.sessions.add(session)
        self._subscribers.add(subscriber)

    def _look_through(self, subscribers: tuple[Subscriber, ...]) -> None:
        self.work += -(-len(subscribers) // _LOOKED_THROUGH)

    def find(self, subscriber: Subscriber, name: bytes) -> Channel | None:
        """Give a channel if this subscriber holds it."""
        channel = self._channels.get(name)
        if channel is None:
            return None
        self._look_through(channel.subscribers)
        return channel if subscriber in channel.subscribers else None

    def may_hold(self, subscriber: Subscriber, names: list[bytes]) -> bool:
        """Tell whether this subscriber may hold one of these channels.

        :return: whether it does, or finding that out is much work
        """
        # Mostly nobody does.
        if self._channels.keys().isdisjoint(names):
            return False
        found = [each.subscribers for each in map(self._channels.get, names) if each is not None]
        work = sum(map(len, found)) // _LOOKED_THROUGH
        self.work += work
        return work > _MUCH or any(subscriber in subscribers for subscribers in found)

    def subscribe_all(self, subscriber: Subscriber, names: list[bytes]) -> list[Channel]:
        """Do what :meth:`subscribe` does, for many, each of which stands there once."""
        if not self._channels.keys().isdisjoint(names):
            return [self.subscribe(subscriber, name) for name in names]
        channels = [Channel(name, self._generation, subscriber.alone) for name in names]
        self._channels.update(zip(names, channels, strict=True))
        return channels

    def subscribe(self, subscriber: Subscriber, name: bytes) -> Channel:
        """Enter a subscriber. Entering again is harmless.

        :param name: UTF-8, which is checked by the one who has it from a peer
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
        """Remove a subscriber. A channel without any is kept for a while, see :meth:`tick`."""
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
        """Remove a session, and its subscriber from all channels: by and by if they are many.

        :param channels: all that it holds. They are taken out of it: a copy of so many would be
            gone through by the collector of cycles each time that it looks at what is new.
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
        # It refers to itself.
        subscriber.alone = ()

    def tick(self, now: float) -> float:
        """Do what is not done for one session: forget channels that nobody has held for long
        enough, and what is much work, of which one call does a part.

        :param now: seconds on any clock that does not go backwards
        :return: when to call again, at the latest; infinity while all channels are held
        """
        if now >= self._sweep_at:
            self._chores.add(self._forget(self._long_left))
            self._long_left = self._retention.end_period()
            self._sweep_at = math.inf
        self._chores.work(PASS_WORK)
        if self._sweep_at == math.inf and self.kept:
            self._sweep_at = now + self.limits.keep_time
        return now if self._chores else self._sweep_at

    def do_chores(self) -> None:
        """Do a part of what :meth:`tick` does, in between: a hub that is busy gets on with it."""
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
        # Generations must differ between two channels of one name, of which the first was
        # removed. So all that are made between two removals can share one, and its memory.
        self._removals += 1
        self._generation = self._make_generation()

    def publish(self, data: bytes, position: int, codes: list[bytes]) -> int:
        """Hand records to all who hold their channels, as many as a pass allows.

        Neighbours that go to the same subscribers are handed out as one slice of the publisher's
        own bytes, whatever their channels.

        :param data: concatenated records
        :param position: where the first one starts
        :param codes: takes the codes of the records that were taken, also if this raises
        :return: the offset behind the last record that was taken
        :raises MalformedRecord: if a record is not well-formed, or nobody holds its channel and
            that is not UTF-8
        """
        most = self.work + PASS_WORK
        taken = 0
        # What was taken and not handed out yet: its start, its channels with their counts before,
        # and how many records; who gets it, and of how many channels it may be.
        start = position
        channels: dict[Channel, int] = {}
        waiting = 0
        subscribers: tuple[Subscriber, ...] = ()
        bound = 0
        try:
            names, stops, counts, error = find_runs(data, position, most=PASS_WORK)
            # Per run, and so per record where no two neighbours are of one channel.
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

    # What all sessions hold

    def _look_at_total(self) -> None:
        """Find out, roughly, how much more may be handed out."""
        most = self.limits.max_total_buffer
        # More than there is, as what several hold counts for each. Mostly it is little enough.
        total = self._count_queued()
        self._room = max(most - total, most * _SLACK)
        if total > most * (1 - _SLACK) and not self._is_relieving:
            self._is_relieving = True
            self._chores.add(self._relieve(), is_urgent=True)

    def _relieve(self) -> Iterator[int]:
        """Let the sessions with the longest queues lose their messages, until the rest fits."""
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
                # Answers, and what is being sent.
                break
        self._room = max(most - held, most * _SLACK)
        self._is_relieving = False

    def _count_shed(self, subscriber: Subscriber, bodies: list[bytes]) -> Iterator[int]:
        """Count messages as missed that were queued before."""
        while bodies:
            body = bodies.pop()
            position = 0
            while position < len(body):
                names, stops, counts, _ = find_runs(body, position, most=_LEFT_AT_ONCE)
                found = map(self._channels.get, names)
                missed = sum(counts)
                subscriber.note_shed({each: 0 for each in found if each is not None}, missed)
                self.delivered -= missed
                self.missed += missed
                self._shed += missed
                position = stops[-1]
                yield _LOOK + missed

    def _publish_odd(self, data: bytes, position: int, stop: int, name: bytes, count: int) -> bytes:
        """Publish a run that nobody holds, or in which there may be a message over the limit."""
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
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
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
    """Give the number of channels of which a slice may be that goes to these subscribers."""
    most = _MOST_CHANNELS
    if any(subscriber.gaps for subscriber in subscribers):
        # For each channel a gap may have to be told to each subscriber.
        most = PASS_WORK
    return most // max(1, len(subscribers))
