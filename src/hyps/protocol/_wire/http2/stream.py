"""Flow control of one stream: what arrives within its windows, and what waits for them."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Neighbouring chunks are merged up to this size in bytes, to make the cost per chunk negligible.
_CHUNK_SIZE: Final = 1_024


class Bounds:
    """The windows that this end has granted, as offsets from the first byte.

    The peer may not have seen the latest one yet, and stop at an earlier one.
    """

    __slots__ = ("_bounds", "_total")

    def __init__(self, *bounds: int) -> None:
        self._bounds = deque(bounds)
        self._total = 0

    def take(self, size: int) -> bool:
        """Count data that arrived.

        :return: whether the other side may have had to stop here
        """
        bounds = self._bounds
        self._total += size
        while len(bounds) > 1 and bounds[0] < self._total:
            bounds.popleft()
        return bounds[0] == self._total

    def grant(self, window: int) -> None:
        """Note the present window of the other end."""
        bound = self._total + window
        if bound > self._bounds[-1]:
            self._bounds.append(bound)


class Outlet:
    """The bytes to send on one stream.

    :param stream: its id
    """

    __slots__ = ("_chunks", "is_ending", "size", "stream")

    def __init__(self, stream: int) -> None:
        self.stream: int = stream
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        #: Bytes that wait.
        self.size: int = 0
        #: Whether the stream ends after them.
        self.is_ending: bool = False

    def put(self, data: bytes) -> None:
        chunks = self._chunks
        self.size += len(data)
        if len(data) >= _CHUNK_SIZE:
            chunks.append(data)
        elif chunks and type(chunks[-1]) is bytearray and len(chunks[-1]) < _CHUNK_SIZE:
            chunks[-1] += data
        else:
            chunks.append(bytearray(data))

    def take(self, most: int) -> bytes | memoryview:
        """Take at most this many bytes from the front."""
        chunks = self._chunks
        parts: list[bytes | bytearray | memoryview] = []
        size = 0
        while chunks and size < most:
            part = chunks.popleft()
            if size + len(part) > most:
                view = memoryview(part)
                chunks.appendleft(view[most - size :])
                part = view[: most - size]
            parts.append(part)
            size += len(part)
        self.size -= size
        if len(parts) == 1 and not isinstance(parts[0], bytearray):
            return parts[0]
        return b"".join(parts)

    def shed(self) -> list[bytes]:
        """Drop the chunks of which nothing was sent, and return them as they were put."""
        kept: deque[bytes | bytearray | memoryview] = deque()
        # Keep the rest of a chunk that was sent in part.
        if self._chunks and isinstance(self._chunks[0], memoryview):
            kept.append(self._chunks.popleft())
        found = [bytes(chunk) for chunk in self._chunks]
        self._chunks = kept
        self.size = sum(map(len, kept))
        return found

    def clear(self) -> None:
        self._chunks.clear()
        self.size = 0
