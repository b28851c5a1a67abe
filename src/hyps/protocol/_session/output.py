"""The queue of output, in which batches form by themselves: it merges neighbours into one frame."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from .._callbacks import nothing
from .._records.layout import MERGED_SIZE
from .._wire.frames import Kind
from ..limits import CHUNK_OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._wire.base import Wire

#: Kinds whose body is a list, so that two bodies can be joined.
_LISTS: Final = frozenset(
    {
        Kind.PUBLISH,
        Kind.PUBLISH_ACK,
        Kind.SUBSCRIBE,
        Kind.SUBSCRIBE_ACK,
        Kind.UNSUBSCRIBE,
        Kind.UNSUBSCRIBE_ACK,
        Kind.MESSAGES,
        Kind.GAP,
    }
)

#: Kind, body, and the number of items in it.
Chunk = tuple[int, bytes, int]


class OutputQueue:
    """Bodies of frames, in the order in which they will be sent.

    Bytes that :meth:`take` returned count as queued until its next call: until then the I/O layer
    has them in memory.

    ``items`` counts the queued things that this end bounds: a hub counts the answers that it owes,
    a client the records that it publishes. ``credit`` is how many items :meth:`take` may still
    take. A client adds to it with each ACK; a hub's credit is infinite.

    :param wire: encodes the frames; bytes that it holds back count as queued. It may be replaced.
    :param on_output: called when there is something to take after :meth:`take` gave nothing
    """

    __slots__ = (
        "_chunks",
        "_held",
        "_idle",
        "_leaving",
        "_on_output",
        "_urgent",
        "credit",
        "frame_size",
        "items",
        "items_size",
        "queued",
        "wire",
    )

    def __init__(self, wire: Wire, on_output: Callable[[], object]) -> None:
        self.wire: Wire = wire
        self._held = 0
        self._on_output = on_output
        # A deque only from the second chunk on: it takes 760 bytes, and most chunks leave before
        # there is another one.
        self._chunks: tuple[()] | tuple[Chunk] | deque[Chunk] = ()
        # A tuple, because an empty list takes memory of its own.
        self._urgent: tuple[tuple[int, bytes], ...] = ()
        self._idle = True
        # What take() returned last, as counted in ``queued``.
        self._leaving = 0
        self.credit: float = math.inf
        self.queued: int = 0
        self.items: int = 0
        #: Bytes of the chunks that have items.
        self.items_size: int = 0
        #: Neighbours are merged into frames of up to this size, in bytes.
        self.frame_size: int = MERGED_SIZE

    def __bool__(self) -> bool:
        return bool(self._chunks or self._urgent or self.wire.held)

    def cut(self, records: list[bytes], most: int | None = None) -> list[tuple[bytes, int]]:
        """Join small records to chunks, each of which fits into a frame.

        :param most: records in a chunk, at most
        :return: the chunks, and how many records each has
        """
        fitting = max(1, self.frame_size // max(map(len, records), default=1))
        count = fitting if most is None else min(most, fitting)
        batches = [records[start : start + count] for start in range(0, len(records), count)]
        return [(b"".join(batch), len(batch)) for batch in batches]

    def put(self, kind: int, body: bytes, items: int = 0) -> None:
        """Append the body of a frame, or a part of the body if the kind is a list."""
        # The hub calls this and take() for each run and session.
        size = len(body)
        chunks = self._chunks
        if not chunks:
            self._chunks = ((kind, body, items),)
        elif type(chunks) is deque:
            chunks.append((kind, body, items))
        else:
            self._chunks = deque((*chunks, (kind, body, items)))
        self.queued += size + CHUNK_OVERHEAD
        if items:
            self.items += items
            self.items_size += size
        if self._idle:
            self._idle = False
            self._on_output()

    def put_urgent(self, kind: int, body: bytes) -> None:
        """Append a frame that overtakes everything queued by :meth:`put`."""
        self._urgent += ((kind, body),)
        self.nudge()

    def nudge(self) -> None:
        """Report output, unless it was reported already."""
        if self._idle:
            self.wake()

    def wake(self) -> None:
        """Report output."""
        self._idle = False
        self._on_output()

    def clear(self) -> None:
        """Drop what :meth:`put` has queued; urgent frames still leave."""
        self._chunks = ()
        self.wire.clear()
        self._held = 0
        self.queued = self._leaving
        self.items = self.items_size = 0

    def release(self) -> None:
        """Drop everything, the callback too: there will be no further :meth:`take`."""
        self.settle()
        self.clear()
        self._urgent = ()
        self._on_output = nothing

    def settle(self) -> None:
        """Stop counting what :meth:`take` returned last, because it has been sent."""
        self.queued -= self._leaving
        self._leaving = 0

    def take(self, max_bytes: int) -> bytes:
        """Take frames from the front.

        :param max_bytes: take no further frame once there are this many bytes
        """
        if self._leaving:
            self.settle()
        chunks = self._chunks
        wire = self.wire
        if self._urgent or wire.speaks_itself or type(chunks) is deque:
            return self._take_frames(max_bytes)
        if not chunks or chunks[0][2] > self.credit or max_bytes < 1:
            self._idle = True
            return b""
        # The common case is a single chunk: most messages are small and leave at once.
        [(kind, body, count)] = chunks
        self._chunks = ()
        size = len(body)
        if count:
            self.credit -= count
            self.items -= count
            self.items_size -= size
        self._leaving = size + CHUNK_OVERHEAD
        self._idle = False
        return wire.encode_one(kind, body)

    def _take_frames(self, max_bytes: int) -> bytes:
        """Take frames, urgent ones first, and the wire's own bytes."""
        wire = self.wire
        encode = wire.encode
        taken: list[bytes] = []
        if self._urgent:
            for kind, body in self._urgent:
                taken += encode(kind, [body], len(body))
            self._urgent = ()
        chunks = self._chunks
        if isinstance(chunks, tuple):
            chunks = deque(chunks)
        popleft = chunks.popleft
        size = items = 0
        credit = self.credit
        while chunks and size < max_bytes and chunks[0][2] <= credit:
            kind, body, count = popleft()
            bodies = [body]
            append = bodies.append
            length = len(body)
            credit -= count
            items += count
            if kind in _LISTS:
                bound = self.frame_size
                while chunks:
                    next_kind, body, next_count = chunks[0]
                    size_then = length + len(body)
                    if next_kind != kind or size_then > bound or next_count > credit:
                        break
                    popleft()
                    append(body)
                    length = size_then
                    credit -= next_count
                    items += next_count
            taken += encode(kind, bodies, length)
            size += length + 5
            if count:
                # All chunks of a frame have the same kind, so all have items or none.
                self.items_size -= length
            self._leaving += length + CHUNK_OVERHEAD * len(bodies)
        self._chunks = chunks or ()
        self.items -= items
        self.credit = credit
        taken += wire.flush()
        # Bytes that the wire holds back still count as queued.
        held = wire.held
        self._leaving -= held - self._held
        self._held = held
        self._idle = not taken
        if not taken:
            # The wire has no bytes for these frames, so nothing is leaving.
            self.settle()
        return b"".join(taken)
