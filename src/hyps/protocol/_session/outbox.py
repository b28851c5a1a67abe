"""The outbox of one session: it queues every answer, and messages while there is room."""

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
    from collections.abc import Callable, Iterable, Iterator

    from .._broker.channel import Channel, Left, Subscriber
    from .._wire.base import Wire

#: The outbox queues this many gaps at a time, and the next ones once these have left.
_GAPS: Final = 512

#: The references to a chunk's body while it is weighed, besides those of the queues that hold it.
_WEIGHING: Final = 2

#: The outbox weighs or sifts this many chunks at a time.
_WEIGHED: Final = 1_024


class Outbox(OutputQueue):
    """The output of one session, and the :class:`~.channel.Subscriber` that the broker knows.

    A session whose queue reaches its bound loses every message until the queue has drained below
    half. Half, so that a slow reader sees few gaps with many messages in between, and not one gap
    after each message.

    Then messages pass again. A channel with a gap is told of it before its next message. The gaps
    of quiet channels follow little by little, with each call of :meth:`take`. Telling all gaps at
    once would be much work in one step. Telling a few at a time *before* letting messages pass
    would never end, because busy channels get new gaps meanwhile.

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
        # The chunks that waited when shedding began, while shed() sorts out which ones to keep.
        self._sifted: deque[Chunk] | None = None
        #: Channels with a gap that is not queued yet.
        self.gaps: dict[Channel, int] = {}
        # ``alone``, ``is_closed`` and ``left`` are for the broker, see Subscriber.
        self.alone: tuple[Subscriber, ...] = (self,)
        self.is_closed: bool = False
        #: Messages dropped so far.
        self.missed: int = 0
        self.left: Left | None = None

    def deliver(self, channels: dict[Channel, int], records: bytes, count: int) -> int | None:
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
        self._note_gaps(channels)
        self.missed += count

    def _note_gaps(self, channels: dict[Channel, int]) -> None:
        # HTTP/2 has no frame for them, and the client knows that it cannot know.
        if self.wire.counts_losses:
            self.gaps.update(channels)

    def note_gap(self, channel: Channel) -> None:
        if not self.is_closed:
            self._note_gaps({channel: 0})
            self.nudge()

    def tell_gap(self, channel: Channel) -> None:
        """Queue the channel's gap, if it has or may have one."""
        # During shedding any channel may have lost messages. If this one has not, the position in
        # GAP tells the client so.
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
        self._tell_gaps()
        self.is_closed = self._is_dropping = True

    def take(self, max_bytes: int) -> bytes:
        if self.gaps or self._is_dropping:
            # Do this even if nothing is queued: shedding may have begun after the queue drained.
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

    def revoke(self) -> None:
        """Drop every message and gap that waits; answers stay."""
        self.gaps.clear()
        self.wire.shed()
        self.queued -= self._held - self.wire.held
        self._held = self.wire.held
        kept = self._without_messages(self._chunks)
        self._chunks = deque(kept) if kept else ()
        if self._sifted is not None:
            # Shedding is going through it.
            kept = self._without_messages(self._sifted)
            self._sifted.clear()
            self._sifted.extend(kept)

    def _without_messages(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        kept = []
        for chunk in chunks:
            if chunk[0] in (Kind.MESSAGES, Kind.GAP):
                self.queued -= len(chunk[1]) + CHUNK_OVERHEAD
            else:
                kept.append(chunk)
        return kept

    # The hub's bound for all sessions together

    def weigh(self) -> Iterator[tuple[float, int]]:
        # A message that several sessions wait for is in memory once. Its reference count tells how
        # many they are, and each accounts for its part.
        count = sys.getrefcount
        yield float(self._leaving + self.wire.held), 1
        chunks = list(self._chunks)
        for start in range(0, len(chunks), _WEIGHED):
            size = 0.0
            part = chunks[start : start + _WEIGHED]
            for _, body, _ in part:
                # Other interpreters may hold fewer references than this one.
                size += len(body) / max(1, count(body) - _WEIGHING) + CHUNK_OVERHEAD
            yield size, len(part)

    def shed(self) -> Iterator[list[bytes]]:
        # take() gives nothing until all parts are sorted, to keep the order of the answers.
        self._is_dropping = self._is_shedding = True
        chunks, self._chunks = self._chunks, ()
        sifted = self._sifted = chunks if isinstance(chunks, deque) else deque(chunks)
        bodies = self.wire.shed()
        self.queued -= self._held - self.wire.held
        self._held = self.wire.held
        yield bodies
        kept: deque[Chunk] = deque()
        # clear() may happen in between, and sets this to None.
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
        self.missed += count
        if not self.is_closed:
            # Skip channels that the session has left: a channel of that name may be a new one by
            # now.
            held = {each: before for each, before in channels.items() if self in each.subscribers}
            self._note_gaps(held)

    def end_shedding(self) -> None:
        self._is_shedding = False
        self.wake()
