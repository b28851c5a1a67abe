"""The broker: which sessions hold which channels, and what each is owed."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final

from ._output import OutputQueue
from ._position import format_position
from .frames import Kind
from .limits import PASS_WORK, Limits
from .records import BATCH_SIZE, decode_channel, find_runs, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import ServerProtocol
    from .wire import Wire

#: Subscribers that are looked through in about the time that it takes to hand one a run.
_LOOKED_THROUGH: Final = 64

_BOOT_ID_CHARACTERS = frozenset(map(chr, range(0x21, 0x7F))) - {":"}


class Channel:
    """A channel that somebody holds or held: its position, and its subscribers' queues."""

    __slots__ = ("count", "generation", "name", "outboxes")

    def __init__(self, name: bytes, generation: bytes, outboxes: tuple[Outbox, ...] = ()) -> None:
        self.name: bytes = name
        self.generation: bytes = generation
        self.count: int = 0
        # In order: the first to subscribe is the first to be served. A tuple, as channels that one
        # session holds alone, the most, share that session's.
        self.outboxes: tuple[Outbox, ...] = outboxes

    @property
    def position(self) -> bytes:
        """Generation and count, as they are written to subscribers."""
        return format_position(self.generation, self.count)


class Outbox(OutputQueue):
    """What one session is owed: answers without exception, messages while there is room.

    A session that reaches its bound loses every message until it has drained below half. Then it
    is told the gaps, and goes on. Half, so that a slow reader sees few gaps with many messages in
    between and not one after each message.

    :param bound: queued bytes at which records are dropped
    :param wire: see :class:`OutputQueue`
    """

    __slots__ = ("_bound", "_gaps", "_is_dropping", "_to_drop", "alone", "missed")

    def __init__(self, bound: int, wire: Wire, on_output: Callable[[], object]) -> None:
        super().__init__(wire, on_output)
        self._bound = bound
        self._is_dropping = False
        self._to_drop = 0
        # Channels with a gap that was not told yet.
        self._gaps: dict[Channel, None] = {}
        #: The outboxes of a channel that only this session holds.
        self.alone: tuple[Outbox] = (self,)
        #: Messages dropped so far.
        self.missed: int = 0

    def deliver(self, channels: dict[Channel, None], records: bytes, count: int) -> bool:
        """Queue records of channels, all or none; none is a gap in each, which will be told."""
        if self._is_dropping or self.queued >= self._bound:
            self._is_dropping = True
            self._gaps.update(channels)
            self.missed += count
            if self._to_drop:
                self._to_drop -= 1
                if not self._to_drop:
                    self._end_dropping()
            return False
        self.put(Kind.MESSAGES, records)
        return True

    def drop_next(self, count: int) -> None:
        """Let there be no room for the next records. Each must be delivered by itself.

        :param count: how many, in addition to those of earlier calls
        """
        self._to_drop += count
        self._is_dropping = self._is_dropping or count > 0

    def tell_gap(self, channel: Channel) -> None:
        """Queue the channel's gap if there is one that was not told."""
        if channel in self._gaps:
            del self._gaps[channel]
            self.put(Kind.GAP, pack(channel.name, channel.position))

    def settle(self) -> None:
        super().settle()
        if self._is_dropping and not self._to_drop and 2 * self.queued < self._bound:
            self._end_dropping()

    def _end_dropping(self) -> None:
        self._is_dropping = False
        # All at once: told a few at a time, channels that are busy would get new gaps before the
        # last old one is told, and no message would ever pass.
        for channel in list(self._gaps):
            self.tell_gap(channel)

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self._gaps)


class Broker:
    """Routes what is published to the sessions that hold its channel.

    Make a :class:`ServerProtocol` for each connection; it calls everything here. What can be read:
    ``published``, the messages taken from publishers; ``delivered`` and ``missed``, those queued
    for subscribers and those that their bounds left no room for, each counted once a subscriber;
    ``sessions``, ``channels`` and ``kept``.

    :param boot_id: 1 to 16 printable ASCII characters without ``:``, never used by another hub
        or by an earlier run of this one, so that no position is mistaken for another's
    :param limits: the bounds of the hub
    """

    def __init__(self, boot_id: str, limits: Limits | None = None) -> None:
        if not (1 <= len(boot_id) <= 16 and _BOOT_ID_CHARACTERS.issuperset(boot_id)):
            raise ValueError(f"not a boot id: {boot_id!r}")
        self.limits: Limits = limits or Limits()
        #: The open connections.
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
        # Channels that nobody holds: those that were left since the last sweep, and before it.
        # So each is kept for one to two times keep_time, and no times are noted.
        # Ordered dicts, as a dict gets slower to take from the front of with each that was taken.
        self._left: OrderedDict[Channel, None] = OrderedDict()
        self._long_left: OrderedDict[Channel, None] = OrderedDict()
        self._sweep_at = math.inf
        self._removals = 0
        self._generation = self._make_generation()

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
        return len(self._left) + len(self._long_left)

    def _make_generation(self) -> bytes:
        return f"{self._boot_id}.{self._removals}".encode()

    def find(self, outbox: Outbox, name: bytes) -> Channel | None:
        """Give a channel if this subscriber holds it."""
        channel = self._channels.get(name)
        if channel is None:
            return None
        self.work += len(channel.outboxes) // _LOOKED_THROUGH
        return channel if outbox in channel.outboxes else None

    def holds_any(self, outbox: Outbox, names: list[bytes]) -> bool:
        """Tell whether this subscriber holds one of these channels."""
        # Mostly nobody does.
        if self._channels.keys().isdisjoint(names):
            return False
        return any(map(partial(self.find, outbox), names))

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
            self._left.pop(channel, None)
            self._long_left.pop(channel, None)
        if not channel.outboxes:
            channel.outboxes = outbox.alone
        elif outbox not in channel.outboxes:
            channel.outboxes += outbox.alone
        return channel

    def unsubscribe(self, outbox: Outbox, channel: Channel) -> None:
        """Remove a subscriber. A channel without any is kept for a while, see :meth:`tick`."""
        if len(channel.outboxes) == 1:
            channel.outboxes = ()
            self._left[channel] = None
            if self.kept > self.limits.max_kept:
                self._remove(next(iter(self._long_left or self._left)))
            return
        outboxes = channel.outboxes
        position = outboxes.index(outbox)
        others = outboxes[:position] + outboxes[position + 1 :]
        channel.outboxes = others if len(others) > 1 else others[0].alone

    def tick(self, now: float) -> float:
        """Remove channels that nobody has held for long enough.

        :param now: seconds on any clock that does not go backwards
        :return: when to call again, at the latest; infinity while all channels are held
        """
        if now >= self._sweep_at:
            for channel in list(self._long_left):
                self._remove(channel)
            self._long_left, self._left = self._left, OrderedDict()
            self._sweep_at = math.inf
        if self._sweep_at == math.inf and (self._left or self._long_left):
            self._sweep_at = now + self.limits.keep_time
        return self._sweep_at

    def _remove(self, channel: Channel) -> None:
        self._left.pop(channel, None)
        self._long_left.pop(channel, None)
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
        # What was taken and not handed out yet: its start, its channels, and how many records; who
        # gets it, and of how many channels it may be.
        start = position
        channels: dict[Channel, None] = {}
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
                        bound = PASS_WORK * _LOOKED_THROUGH // max(1, len(others))
                    channel.count += count
                    channels[channel] = None
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

    def _differ(self, one: tuple[Outbox, ...], other: tuple[Outbox, ...]) -> bool:
        self.work += len(one) // _LOOKED_THROUGH
        return one != other

    def _hand_out(
        self,
        outboxes: tuple[Outbox, ...],
        records: bytes,
        channels: dict[Channel, None],
        count: int,
    ) -> None:
        """Hand records of channels to their subscribers."""
        if not count:
            return
        self.published += count
        self.work += len(outboxes)
        refused = 0
        for outbox in outboxes:
            if not outbox.deliver(channels, records, count):
                refused += 1
        self.delivered += count * (len(outboxes) - refused)
        self.missed += count * refused
        self.work += refused * (len(channels) // _LOOKED_THROUGH)

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
                self._hand_out(channel.outboxes, data[start:position], {channel: None}, waiting)
                start, waiting = end if is_too_large else position, 0
            if is_too_large:
                codes.append(b"s")
            else:
                codes.append(b"k")
                channel.count += 1
                waiting += 1
            position = end
        self._hand_out(channel.outboxes, data[start:stop], {channel: None}, waiting)
        return b"".join(codes)
