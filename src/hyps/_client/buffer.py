"""A subscription's bounded buffer, and the policies for a full one.

To add a policy, name it in :data:`Overflow`, write a class here and add its line to the table of
policies below. Every policy keeps the same account: each message that was put is read, or a gap
counts it, and the gap stands where the message would have stood in its channel. A policy sets
``has_overflowed`` when a message found no room, and counts what ``ready`` still has as in the
buffer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from itertools import accumulate
from operator import length_hint
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

from ..protocol import Batch, Gap, GapReason, Message, Run, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Overflow = Literal["drop_newest", "drop_oldest", "latest", "close"]


class _Missed:
    """A gap in the queue. It grows until the next message of its channel is queued behind it."""

    __slots__ = ("channel", "missed", "reason")

    #: A gap holds no messages, so it counts 0 where a run counts its own.
    count: ClassVar[int] = 0

    def __init__(self, channel: str, missed: int | None, reason: GapReason) -> None:
        self.channel = channel
        self.missed = missed
        self.reason: GapReason = reason

    def as_gap(self) -> Gap:
        return Gap(self.channel, self.missed, self.reason)


class _Gaps:
    """Gaps at one place: one for each channel and reason, known and unknown numbers apart."""

    __slots__ = ("_gaps",)

    def __init__(self) -> None:
        # A plain dict gets slower at its front with each item that is removed there.
        self._gaps: OrderedDict[tuple[str, GapReason, bool], _Missed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._gaps)

    def add(self, channel: str, missed: int | None, reason: GapReason) -> None:
        key = (channel, reason, missed is None)
        gap = self._gaps.get(key)
        if gap is None:
            self._gaps[key] = _Missed(channel, missed, reason)
        else:
            gap.missed = _add(gap.missed, missed)

    def add_all(self, others: _Gaps) -> None:
        for gap in others._gaps.values():
            self.add(gap.channel, gap.missed, gap.reason)

    def take(self) -> Gap:
        return self._gaps.popitem(last=False)[1].as_gap()


#: Stand-ins for empty containers, which buffers without messages share. An empty deque takes 760
#: bytes, and most of a thousand subscriptions never get a message. Nothing is ever put into them.
_NOTHING: Final[deque[Any]] = deque()
_NOBODY: Final[Iterator[Any]] = iter(())
_NO_GAPS: Final[dict[str, Any]] = {}


class Buffer:
    """Messages and gaps, in order. This policy drops the newest messages when the buffer is full.

    :param max_messages: the messages that it may hold
    :param max_bytes: the bytes that it may hold, as records. An empty buffer admits a message of
        any size.
    """

    #: Whether the log tells of messages that this policy drops.
    logs_losses: ClassVar[bool] = True

    __slots__ = (
        "_count",
        "_gap_count",
        "_items",
        "_max_bytes",
        "_open",
        "_ready_ends",
        "_ready_parts",
        "_ready_size",
        "_size",
        "has_overflowed",
        "max_messages",
        "ready",
    )

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        for name, value in (("max_messages", max_messages), ("max_bytes", max_bytes)):
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value}")
        self.max_messages = max_messages
        self._max_bytes = max_bytes
        # Records as they arrived: all work per message happens at reading.
        self._items: deque[Run | Batch | _Missed] = _NOTHING
        self._count = 0
        self._size = 0
        #: The unread messages of the current run or batch. The type is that of what a subscription
        #: yields, which may be messages only or gaps too.
        self.ready: Iterator[Any] = _NOBODY
        self._ready_size = 0
        # The parts of the current batch; and, computed on demand, the number of messages up to the
        # end of each part.
        self._ready_parts: Sequence[tuple[str, int, int]] = ()
        self._ready_ends: Sequence[int] = ()
        # By channel and reason: the gaps that can still grow, because no message of their channel
        # is queued behind them.
        self._open: dict[str, dict[GapReason, _Missed]] = _NO_GAPS
        # The number of gaps in the queue.
        self._gap_count = 0
        #: Set when a message found no room; the reader clears it.
        self.has_overflowed = False

    def __bool__(self) -> bool:
        """Whether :meth:`take` has something."""
        return bool(self._items)

    @property
    def is_closed(self) -> bool:
        """Whether the policy ends the subscription, because a message found no room."""
        return False

    def count_items(self, *, gaps: bool) -> int:
        """Count the messages in the buffer, and the gaps too if the subscription yields them."""
        count = self._count + length_hint(self.ready)
        return count + self._gap_count if gaps else count

    # Writing

    def put(self, batch: Run | Batch) -> int:
        """Put messages, as far as the policy admits them.

        :return: how many messages it dropped, these or others
        """
        # This runs once per batch and subscription.
        unread = length_hint(self.ready)
        count = self._count + unread
        size = self._size + self._ready_size if unread else self._size
        if count + batch.count > self.max_messages or size + len(batch.records) > self._max_bytes:
            if isinstance(batch, Batch):
                return sum([self.put(run) for run in batch.runs])
            return self._put_what_fits(batch, count, size)
        self._append(batch)
        return 0

    def _append(self, batch: Run | Batch) -> None:
        if self._open:
            for channel in batch.channels:
                self._open.pop(channel, None)
        if self._items is _NOTHING:
            self._items = deque()
        self._items.append(batch)
        self._count += batch.count
        self._size += len(batch.records)

    def _put_what_fits(self, run: Run, count: int, size: int) -> int:
        unread = count - self._count
        if unread and self._ready_parts:
            # The runs of a batch that were read completely do not count.
            if not self._ready_ends:
                self._ready_ends = list(accumulate([count for _, _, count in self._ready_parts]))
            read = bisect_right(self._ready_ends, self._ready_ends[-1] - unread)
            if read:
                size -= self._ready_parts[read - 1][1]
        room = _fit(run, self.max_messages - count, self._max_bytes - size)
        room = max(room, 0 if count else 1)
        if room == run.count:
            self._append(run)
            return 0
        if room:
            self._append(run.split(room)[0])
        self.has_overflowed = True
        self.put_gap(run.channel, run.count - room, "client")
        return run.count - room

    def put_gap(self, channel: str, missed: int | None, reason: GapReason) -> None:
        """Put a gap, or enlarge the one of the same reason that can still grow."""
        if self._open is _NO_GAPS:
            self._open = {}
        gaps = self._open.setdefault(channel, {})
        if reason in gaps:
            gaps[reason].missed = _add(gaps[reason].missed, missed)
        else:
            gaps[reason] = gap = _Missed(channel, missed, reason)
            if self._items is _NOTHING:
                self._items = deque()
            self._items.append(gap)
            self._gap_count += 1

    def _close(self, gap: _Missed) -> None:
        """Stop a gap from growing: it has left the queue."""
        self._gap_count -= 1
        gaps = self._open.get(gap.channel)
        if gaps is not None and gaps.get(gap.reason) is gap:
            del gaps[gap.reason]
            if not gaps:
                del self._open[gap.channel]

    # Reading

    def take(self) -> Run | Batch | Gap:
        """Take the next item."""
        item = self._items.popleft()
        if isinstance(item, _Missed):
            self._close(item)
            return item.as_gap()
        self._count -= item.count
        self._size -= len(item.records)
        return item

    def take_one(self) -> Message | Gap:
        """Take the next message or gap. ``ready`` then has the others of its run or batch."""
        item = self.take()
        if isinstance(item, Gap):
            return item
        # All of it counts until all of it is read.
        self._ready_size = len(item.records)
        self._ready_parts = item.parts if isinstance(item, Batch) else ()
        self._ready_ends = ()
        self.ready = ready = iter(item.messages)
        return next(ready)


class _DropOldest(Buffer):
    """Drops the oldest messages. Their gaps come before everything else."""

    __slots__ = ("_front", "_rest")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        super().__init__(max_messages, max_bytes)
        self._front = _Gaps()
        # The unread part of the current run, moved here from ``ready`` at an overflow, because gaps
        # in front of it come first now. One of the two is always empty.
        self._rest: Iterator[Message] = _NOBODY

    def __bool__(self) -> bool:
        return bool(self._front or self._items) or length_hint(self._rest) > 0

    def count_items(self, *, gaps: bool) -> int:
        count = super().count_items(gaps=gaps) + length_hint(self._rest)
        return count + len(self._front) if gaps else count

    def put(self, batch: Run | Batch) -> int:
        if isinstance(batch, Batch):
            # This policy drops by channel.
            return sum([self.put(run) for run in batch.runs])
        if length_hint(self._rest):
            return self._put_what_fits(batch, 0, 0)
        return super().put(batch)

    def _put_what_fits(self, run: Run, count: int, size: int) -> int:
        if length_hint(self.ready):
            self._rest, self.ready = self.ready, _NOBODY
        self._append(run)
        dropped = self._drop_rest() + self._drop()
        self.has_overflowed = self.has_overflowed or dropped > 0
        return dropped

    def _drop_rest(self) -> int:
        """Drop messages of the current run, as long as a bound is exceeded."""
        dropped = 0
        left = length_hint(self._rest)
        while left and (
            self._count + left > self.max_messages
            or self._size + self._ready_size > self._max_bytes
        ):
            message = next(self._rest)
            self._ready_size -= len(message.data)
            self._front.add(message.channel, 1, "client")
            dropped += 1
            left -= 1
        if not left:
            self._ready_size = 0
        return dropped

    def _drop(self) -> int:
        """Drop from the queue until what is left is within bounds, or one message."""
        dropped = 0
        # Only if nothing older is left.
        while self._count > 1 and not length_hint(self._rest):
            over = self._count - self.max_messages
            over_size = self._size - self._max_bytes
            if over <= 0 and over_size <= 0:
                break
            item = self._items.popleft()
            if isinstance(item, _Missed):
                self._close(item)
                self._front.add(item.channel, item.missed, item.reason)
                continue
            assert isinstance(item, Run)
            self._count -= item.count
            self._size -= len(item.records)
            skipped = max(min(over, item.count), _count_until(item, over_size))
            # The newest message stays, whatever its size.
            skipped = min(skipped, self._count + item.count - 1)
            if skipped < item.count:
                self._put_back(item.split(skipped)[1])
            self._front.add(item.channel, skipped, "client")
            dropped += skipped
        return dropped

    def _put_back(self, run: Run) -> None:
        self._items.appendleft(run)
        self._count += run.count
        self._size += len(run.records)

    def take(self) -> Run | Batch | Gap:
        if self._front:
            return self._front.take()
        rest = list(self._rest)
        if rest:
            records = b"".join([encode(message.channel, message.data) for message in rest])
            return Run(rest[0].channel, records, len(rest))
        return super().take()

    def take_one(self) -> Message | Gap:
        if not self._front and length_hint(self._rest):
            rest = self.ready = self._rest
            self._rest = _NOBODY
            return next(rest)
        return super().take_one()


class _Slot:
    """A channel's newest message, the gaps before it and the gaps after it."""

    __slots__ = ("after", "before", "run")

    def __init__(self) -> None:
        self.run: Run | None = None
        self.before = _Gaps()
        self.after = _Gaps()

    def settle(self) -> None:
        """Make the gaps after the message those before the next one: the message is gone."""
        if self.after:
            self.before.add_all(self.after)
            self.after = _Gaps()


class _Latest(Buffer):
    """Holds the newest message of each channel."""

    # Skipping messages is the purpose of this policy.
    logs_losses = False

    __slots__ = ("_full", "_slots")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        super().__init__(max_messages, max_bytes)
        # The slots of all channels, and those of them with a message, in the order in which the
        # newest messages arrived. Both are consumed from the front, so a plain dict would get slow.
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._full: OrderedDict[str, _Slot] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._slots)

    def count_items(self, *, gaps: bool) -> int:
        count = super().count_items(gaps=gaps)
        if gaps:
            count += sum([len(slot.before) + len(slot.after) for slot in self._slots.values()])
        return count

    def put(self, batch: Run | Batch) -> int:
        return sum([self._put_run(run) for run in batch.runs])

    def _put_run(self, run: Run) -> int:
        channel = run.channel
        slot = self._slots.pop(channel, None) or _Slot()
        missed = self._drop(channel, slot) if slot.run is not None else 0
        slot.settle()
        if run.count > 1:
            missed += run.count - 1
            slot.before.add(channel, run.count - 1, "client")
            run = run.split(run.count - 1)[1]
        slot.run = run
        self._slots[channel] = self._full[channel] = slot
        self._count += 1
        self._size += len(run.records)
        while self._count > 1 and (self._count > self.max_messages or self._size > self._max_bytes):
            missed += self._drop(*next(iter(self._full.items())))
            self.has_overflowed = True
        return missed

    def _drop(self, channel: str, slot: _Slot) -> int:
        """Turn a slot's message into a gap."""
        self._forget(channel, slot)
        slot.before.add(channel, 1, "client")
        slot.settle()
        return 1

    def _forget(self, channel: str, slot: _Slot) -> Run:
        run = slot.run
        assert run is not None
        slot.run = None
        del self._full[channel]
        self._count -= 1
        self._size -= len(run.records)
        return run

    def put_gap(self, channel: str, missed: int | None, reason: GapReason) -> None:
        slot = self._slots.setdefault(channel, _Slot())
        gaps = slot.before if slot.run is None else slot.after
        gaps.add(channel, missed, reason)

    def take(self) -> Run | Gap:
        channel, slot = next(iter(self._slots.items()))
        item: Run | Gap
        if slot.before or slot.run is None:
            item = slot.before.take()
        else:
            item = self._forget(channel, slot)
            slot.settle()
        if not slot.before and slot.run is None:
            del self._slots[channel]
        return item


class _Close(Buffer):
    """Accepts nothing more after the first message that found no room."""

    __slots__ = ("_is_closed",)

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        super().__init__(max_messages, max_bytes)
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def put(self, batch: Run | Batch) -> int:
        if self._is_closed:
            # The subscription has ended with that message.
            return 0
        missed = super().put(batch)
        self._is_closed = self._is_closed or missed > 0
        return missed


_POLICIES: Final[dict[Overflow, type[Buffer]]] = {
    "drop_newest": Buffer,
    "drop_oldest": _DropOldest,
    "latest": _Latest,
    "close": _Close,
}
assert _POLICIES.keys() == set(get_args(Overflow))


def make_buffer(overflow: Overflow, max_messages: int, max_bytes: int) -> Buffer:
    """Make a buffer.

    :param overflow: name of its policy
    :raises ValueError: if there is no such policy, or a bound is not positive
    """
    try:
        policy = _POLICIES[overflow]
    except KeyError:
        raise ValueError(f"overflow is none of {', '.join(_POLICIES)}: {overflow!r}") from None
    return policy(max_messages, max_bytes)


def overflow_of(buffer: Buffer) -> Overflow:
    """Return the name of a buffer's policy."""
    return next(name for name, policy in _POLICIES.items() if policy is type(buffer))


def _add(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _fit(run: Run, max_messages: int, max_bytes: int) -> int:
    """Count the run's first messages that stay within both bounds."""
    count = total = 0
    for size in run.sizes:
        total += size
        if count == max_messages or total > max_bytes:
            break
        count += 1
    return count


def _count_until(run: Run, size: int) -> int:
    """Count how many of the run's first messages have at least this size together, or all."""
    count = total = 0
    for each in run.sizes:
        if total >= size:
            break
        total += each
        count += 1
    return count
