"""What one session is owed: answers without exception, messages while there is room."""

from __future__ import annotations

import sys
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from .._records.layout import pack
from .._records.position import format_position
from .._wire.frames import Kind
from ..limits import CHUNK_OVERHEAD
from .output import Chunk, OutputQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._broker.channel import Channel, Left, Subscriber
    from .._wire.base import Wire

#: Gaps that are queued at a time. The next ones follow when these have been sent.
_GAPS: Final = 512

#: What refers to the body of a chunk while it is weighed, besides the queues that hold it.
_WEIGHING: Final = 2

#: Chunks that are weighed, or sifted, at a time.
_WEIGHED: Final = 1_024


class Outbox(OutputQueue):
    """The output of one session.

    A session that reaches its bound loses every message until it has drained below half. Half, so
    that a slow reader sees few gaps with many messages in between and not one after each message.

    Then messages pass again. A channel with a gap that was not told yet is told of it before its
    next message; the gaps of channels that are quiet follow little by little, each time that
    something is taken. All of them first would be much at once, and a few at a time *before*
    messages pass would never come to an end: busy channels get new gaps meanwhile.

    :param bound: queued bytes at which records are dropped
    :param wire: see :class:`OutputQueue`
    """

    __slots__ = (
        "__weakref__",
        "_bound",
        "_is_dropping",
        "_is_shedding",
        "_sifted",
        "alone",
        "gaps",
        "is_closed",
        "left",
        "missed",
    )

    queued: int

    def __init__(self, bound: int, wire: Wire, on_output: Callable[[], object]) -> None:
        super().__init__(wire, on_output)
        self._bound = bound
        self._is_dropping = False
        self._is_shedding = False
        # What waited when shedding began, until it is known what of it is kept.
        self._sifted: deque[Chunk] | None = None
        #: Channels with a gap that was not told yet.
        self.gaps: dict[Channel, int] = {}
        #: The outboxes of a channel that only this session holds; none once it has left all.
        self.alone: tuple[Subscriber, ...] = (self,)
        #: The session has ended: it gets no more messages, and they are nobody's loss.
        self.is_closed: bool = False
        #: Messages dropped so far.
        self.missed: int = 0
        #: The channels that it left, see :class:`~._retention.Retention`.
        self.left: Left | None = None

    def deliver(self, channels: dict[Channel, int], records: bytes, count: int) -> int | None:
        """Queue records of channels, all or none; none is a gap in each, which will be told.

        :param channels: the count of each before these records
        :param count: how many records these are
        :return: how many gaps had to be told first; None if there was no room
        """
        if self._is_dropping or self.queued >= self._bound:
            self._drop(channels, count)
            return None
        told = 0
        if self.gaps:
            lost = [each for each in channels if each in self.gaps]
            self._tell(lost, channels)
            told = len(lost)
        self.put(Kind.MESSAGES, records)
        return told

    def _drop(self, channels: dict[Channel, int], count: int) -> None:
        self._is_dropping = True
        if self.is_closed:
            return
        self.gaps.update(channels)
        self.missed += count

    def tell_gap(self, channel: Channel) -> None:
        """Queue the channel's gap if there is one that was not told, or may be."""
        # While it is not known which channels have lost something, each may have. A subscriber that
        # has not sees by the position that it has not.
        if self.gaps.pop(channel, None) is not None or self._is_shedding:
            self.put(Kind.GAP, pack(channel.name, channel.position))

    def _tell_gaps(self) -> None:
        channels = list(islice(self.gaps, _GAPS))
        self._tell(channels, {each: each.count for each in channels})

    def _tell(self, channels: list[Channel], counts: dict[Channel, int]) -> None:
        gaps = []
        for channel in channels:
            del self.gaps[channel]
            position = format_position(channel.generation, counts[channel])
            gaps.append(pack(channel.name, position))
        for body, _ in self.cut(gaps):
            self.put(Kind.GAP, body)

    def close(self) -> None:
        """Take no more messages. What is queued is still to be sent."""
        self._tell_gaps()
        self.is_closed = self._is_dropping = True

    def take(self, max_bytes: int) -> bytes:
        if self.gaps or self._is_dropping:
            # Also with nothing queued: it may have drained before it was told to drop.
            self.settle()
            if self._sifted is not None:
                self._idle = True
                return b""
            if not self._is_dropping or self.is_closed:
                self._tell_gaps()
        return super().take(max_bytes)

    def settle(self) -> None:
        super().settle()
        if (
            self._is_dropping
            and not (self._is_shedding or self.is_closed)
            and 2 * self.queued < self._bound
        ):
            self._is_dropping = False

    def clear(self) -> None:
        self.gaps.clear()
        self._sifted = None
        super().clear()

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self.gaps) or self._sifted is not None

    # The bound of the whole hub

    def weigh(self) -> Iterator[tuple[float, int]]:
        """Estimate the memory that would be free if only this session held nothing.

        A message that several sessions wait for is in memory once, and each accounts for its part.

        :return: bytes, and how many chunks were looked at, of a part of the queue each
        """
        count = sys.getrefcount
        yield float(self._leaving + self.wire.held), 1
        chunks = list(self._chunks)
        for start in range(0, len(chunks), _WEIGHED):
            size = 0.0
            part = chunks[start : start + _WEIGHED]
            for _, body, _ in part:
                # An interpreter may do with fewer references than are counted on here.
                size += len(body) / max(1, count(body) - _WEIGHING) + CHUNK_OVERHEAD
            yield size, len(part)

    def shed(self) -> Iterator[list[bytes]]:
        """Lose the messages that wait, and drop the next ones as if there were no room.

        Call :meth:`note_shed` with what was in them, and then :meth:`end_shedding`. Nothing is
        taken until all parts were asked for.

        :return: records, of a part of the queue each
        """
        self._is_dropping = self._is_shedding = True
        chunks, self._chunks = self._chunks, ()
        sifted = self._sifted = chunks if isinstance(chunks, deque) else deque(chunks)
        bodies = self.wire.shed()
        self.queued -= self._held - self.wire.held
        self._held = self.wire.held
        yield bodies
        kept: deque[Chunk] = deque()
        # Everything may be cleared meanwhile.
        while self._sifted:
            bodies = []
            for _ in range(min(len(sifted), _WEIGHED)):
                chunk = sifted.popleft()
                if chunk[0] == Kind.MESSAGES:
                    bodies.append(chunk[1])
                    self.queued -= len(chunk[1]) + CHUNK_OVERHEAD
                else:
                    kept.append(chunk)
            yield bodies
        if self._sifted is not None:
            self._sifted = None
            kept.extend(self._chunks)
            self._chunks = kept or ()

    def note_shed(self, channels: dict[Channel, int], count: int) -> None:
        """Take it that messages of these channels are lost.

        :param count: how many messages
        """
        self.missed += count
        if not self.is_closed:
            # Of one that was left meanwhile nothing is told any more: it may be made anew.
            held = {each: before for each, before in channels.items() if self in each.subscribers}
            self.gaps.update(held)

    def end_shedding(self) -> None:
        """Let messages pass again once there is room."""
        self._is_shedding = False
        self.wake()
