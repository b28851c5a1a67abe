"""The broker: which sessions hold which channels, and what each is owed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from ._chores import Chores
from ._outbox import Channel, Outbox
from ._output import nothing
from ._retention import Left, Retention
from .limits import CHUNK_OVERHEAD, PASS_WORK, Limits
from .records import BATCH_SIZE, decode_channel, find_runs, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .server import ServerProtocol

#: Subscribers that are looked through in about the time that it takes to hand one a run.
_LOOKED_THROUGH: Final = 64

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
    ``sessions``, ``channels`` and ``kept``.

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
        self.sessions: set[ServerProtocol] = set()
        #: Messages taken from publishers.
        self.published: int = 0
        #: Messages queued for subscribers, each counted once a subscriber.
        self.delivered: int = 0
        #: Messages that subscribers' bounds left no room for, counted likewise.
        self.missed: int = 0
        #: Runs handed to subscribers, each counted once a subscriber, and what takes as long.
        self.work: int = 0
        # Bytes of a run up to which it is handed out without a look at its records.
        self._whole_run = self.limits.max_message
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
        self._outboxes: WeakSet[Outbox] = WeakSet()
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

    def _make_generation(self) -> bytes:
        return f"{self._boot_id}.{self._removals}".encode()

    def open_session(self, session: ServerProtocol, outbox: Outbox) -> None:
        """Enter a session. What its outbox holds counts from now on, as long as there is one."""
        self.sessions.add(session)
        self._outboxes.add(outbox)

    def _look_through(self, outboxes: tuple[Outbox, ...]) -> None:
        self.work += -(-len(outboxes) // _LOOKED_THROUGH)

    def find(self, outbox: Outbox, name: bytes) -> Channel | None:
        """Give a channel if this subscriber holds it."""
        channel = self._channels.get(name)
        if channel is None:
            return None
        self._look_through(channel.outboxes)
        return channel if outbox in channel.outboxes else None

    def may_hold(self, outbox: Outbox, names: list[bytes]) -> bool:
        """Tell whether this subscriber may hold one of these channels.

        :return: whether it does, or finding that out is much work
        """
        # Mostly nobody does.
        if self._channels.keys().isdisjoint(names):
            return False
        found = [each.outboxes for each in map(self._channels.get, names) if each is not None]
        work = sum(map(len, found)) // _LOOKED_THROUGH
        self.work += work
        return work > _MUCH or any(outbox in outboxes for outboxes in found)

    def subscribe_all(self, outbox: Outbox, names: list[bytes]) -> list[Channel]:
        """Do what :meth:`subscribe` does, for many, each of which stands there once."""
        if not self._channels.keys().isdisjoint(names):
            return [self.subscribe(outbox, name) for name in names]
        channels = [Channel(name, self._generation, outbox.alone) for name in names]
        self._channels.update(zip(names, channels, strict=True))
        return channels

    def subscribe(self, outbox: Outbox, name: bytes) -> Channel:
        """Enter a subscriber. Entering again is harmless.

        :param name: UTF-8, which is checked by the one who has it from a peer
        """
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._generation)
        elif not channel.outboxes:
            self._retention.release(channel)
        if not channel.outboxes:
            channel.outboxes = outbox.alone
        else:
            self._look_through(channel.outboxes)
            if outbox not in channel.outboxes:
                channel.outboxes += outbox.alone
        return channel

    def unsubscribe(self, outbox: Outbox, channel: Channel) -> None:
        """Remove a subscriber. A channel without any is kept for a while, see :meth:`tick`."""
        if len(channel.outboxes) == 1:
            channel.outboxes = ()
            outbox.left = self._retention.keep(channel, outbox.left)
            if self.kept > self.limits.max_kept:
                self._remove(self._retention.choose())
            return
        outboxes = channel.outboxes
        position = outboxes.index(outbox)
        others = outboxes[:position] + outboxes[position + 1 :]
        channel.outboxes = others if len(others) > 1 else others[0].alone

    def close_session(
        self, session: ServerProtocol, outbox: Outbox, channels: list[Channel] | dict[Channel, None]
    ) -> None:
        """Remove a session, and its outbox from all channels: by and by if they are many.

        :param channels: all that it holds. They are taken out of it: a copy of so many would be
            gone through by the collector of cycles each time that it looks at what is new.
        """
        self.sessions.discard(session)
        outbox.close()
        steps = self._leave(outbox, channels)
        for _ in steps:
            if channels:
                self._chores.add(steps)
                break

    def _leave(
        self, outbox: Outbox, channels: list[Channel] | dict[Channel, None]
    ) -> Iterator[int]:
        while channels:
            work = self.work
            count = min(len(channels), _LEFT_AT_ONCE)
            for _ in range(count):
                channel = channels.pop() if isinstance(channels, list) else channels.popitem()[0]
                self.work += len(channel.outboxes) // _LOOKED_THROUGH
                self.unsubscribe(outbox, channel)
            work, self.work = self.work - work, work
            yield count + work
        # It refers to itself.
        outbox.alone = ()

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
        outboxes: tuple[Outbox, ...] = ()
        bound = 0
        try:
            names, stops, counts, error = find_runs(data, position, most=PASS_WORK)
            # Per run, and so per record where no two neighbours are of one channel.
            found = map(self._channels.get, names)
            for channel, name, stop, count in zip(found, names, stops, counts, strict=True):
                if channel is None or stop - position > self._whole_run:
                    self._hand_out(outboxes, data[start:position], channels, waiting)
                    channels, waiting, start = {}, 0, stop
                    codes.append(self._publish_odd(data, position, stop, name, count))
                else:
                    others = channel.outboxes
                    if waiting and (
                        len(channels) >= bound
                        or stop - start > BATCH_SIZE
                        or (others is not outboxes and self._differ(others, outboxes))
                    ):
                        self._hand_out(outboxes, data[start:position], channels, waiting)
                        channels, waiting, start = {}, 0, position
                    if not waiting:
                        outboxes = others
                        bound = self._most_channels(others)
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
            self._hand_out(outboxes, data[start:position], channels, waiting)
        return position

    def _most_channels(self, outboxes: tuple[Outbox, ...]) -> int:
        """Give how many channels a run may be of that goes to these subscribers."""
        most = PASS_WORK
        # Of a channel with a gap that may have to be told to each of them.
        if len(outboxes) == 1 or not any(outbox.gaps for outbox in outboxes):
            most *= _LOOKED_THROUGH
        return most // max(1, len(outboxes))

    def _differ(self, one: tuple[Outbox, ...], other: tuple[Outbox, ...]) -> bool:
        self.work += len(one) // _LOOKED_THROUGH
        return one != other

    def _hand_out(
        self,
        outboxes: tuple[Outbox, ...],
        records: bytes,
        channels: dict[Channel, int],
        count: int,
    ) -> None:
        """Hand records of channels to their subscribers."""
        if not count:
            return
        self.published += count
        self.work += len(outboxes)
        refused = gone = 0
        for outbox in outboxes:
            told = outbox.deliver(channels, records, count)
            if told is None:
                refused += 1
                gone += outbox.is_closed
            else:
                self.work += told
        self.delivered += count * (len(outboxes) - refused)
        self.missed += count * (refused - gone)
        self.work += refused * (len(channels) // _LOOKED_THROUGH)
        self._room -= len(records) + CHUNK_OVERHEAD * len(outboxes)
        if self._room < 0:
            self._look_at_total()

    # What all sessions hold

    def _look_at_total(self) -> None:
        """Find out, roughly, how much more may be handed out."""
        most = self.limits.max_total_buffer
        # More than there is, as what several hold counts for each. Mostly it is little enough.
        total = sum([outbox.queued for outbox in self._outboxes])
        self._room = max(most - total, most * _SLACK)
        if total > most * (1 - _SLACK) and not self._is_relieving:
            self._is_relieving = True
            self._chores.add(self._relieve(), is_urgent=True)

    def _relieve(self) -> Iterator[int]:
        """Let the sessions with the longest queues lose their messages, until the rest fits."""
        most = self.limits.max_total_buffer
        while True:
            held = 0.0
            weights: list[tuple[float, Outbox]] = []
            for outbox in list(self._outboxes):
                weight = 0.0
                for part, looked_at in outbox.weigh():
                    weight += part
                    yield 1 + looked_at // _WEIGHED
                held += weight
                weights.append((weight, outbox))
            if held <= most * (1 - _SLACK):
                break
            was_shed = False
            weights.sort(key=lambda each: each[1].queued)
            while weights and held > most * (1 - 2 * _SLACK):
                weight, outbox = weights.pop()
                held -= weight
                for bodies in outbox.shed():
                    was_shed = was_shed or bool(bodies)
                    yield 1 + len(bodies) // _WEIGHED
                    yield from self._count_shed(outbox, bodies)
                outbox.end_shedding()
            if not was_shed:
                # Answers, and what is being sent.
                break
        self._room = max(most - held, most * _SLACK)
        self._is_relieving = False

    def _count_shed(self, outbox: Outbox, bodies: list[bytes]) -> Iterator[int]:
        """Count messages as missed that were queued before."""
        while bodies:
            body = bodies.pop()
            position = 0
            while position < len(body):
                names, stops, counts, _ = find_runs(body, position, most=_LEFT_AT_ONCE)
                found = map(self._channels.get, names)
                missed = sum(counts)
                outbox.note_shed({each: 0 for each in found if each is not None}, missed)
                self.delivered -= missed
                self.missed += missed
                position = stops[-1]
                yield _LOOK + missed

    def hand_out_singly(self) -> None:
        """Hand out each record by itself from now on, see :meth:`ServerProtocol.drop_next`."""
        self._whole_run = 0

    def _publish_odd(self, data: bytes, position: int, stop: int, name: bytes, count: int) -> bytes:
        """Publish a run that nobody holds, or in which there may be a message over the limit."""
        channel = self._channels.get(name)
        if channel is None:
            decode_channel(name)
            if len(name) > self.limits.max_channel:
                return b"n" * count
            if stop - position <= self._whole_run:
                self.published += count
                return b"k" * count
            channel = Channel(name, b"")
        largest = len(pack(name, b"")) + self.limits.max_message
        codes: list[bytes] = []
        start = position
        waiting = 0
        while position < stop:
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            is_too_large = end - position > largest
            if is_too_large or not self._whole_run:
                before = {channel: channel.count - waiting}
                self._hand_out(channel.outboxes, data[start:position], before, waiting)
                start, waiting = end if is_too_large else position, 0
            if is_too_large:
                codes.append(b"s")
            else:
                codes.append(b"k")
                channel.count += 1
                waiting += 1
            position = end
        before = {channel: channel.count - waiting}
        self._hand_out(channel.outboxes, data[start:stop], before, waiting)
        return b"".join(codes)
