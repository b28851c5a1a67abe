"""One stream's bytes: records that arrive cut anywhere, and what is to be sent as windows allow."""

from __future__ import annotations

import math
from collections import deque
from struct import Struct
from typing import Final

_LENGTH: Final = Struct(">I")

#: Bytes up to which neighbours are merged, so that what each costs besides does not count.
_CHUNK_SIZE: Final = 1_024


class WholeRecords:
    """Whole records from bytes that were cut anywhere. What is in them is for others to check.

    :param most: bytes of a record that is kept; a larger one is left out and not buffered. More
        than one DATA frame has.
    :param max_name: bytes of the name of one that is left out
    """

    __slots__ = ("_max_name", "_missing", "_most", "_rest", "_wanted", "begun_at", "left_out")

    def __init__(self, most: float = math.inf, max_name: int = 0) -> None:
        self._most = most
        self._max_name = max_name
        self._rest = bytearray()
        # Bytes that the record at its start needs to be whole, as far as is known.
        self._wanted = 4
        # Of a record that is left out, the bytes that did not come yet.
        self._missing = 0
        #: Where the record at the start began to wait for its rest, see :meth:`take`.
        self.begun_at: int = 0
        #: The channel of a record that the last call has begun to leave out; empty if its name is
        #: longer than allowed.
        self.left_out: bytes | None = None

    @property
    def rest(self) -> int:
        """Bytes that came of a record that is not whole yet."""
        return self._wanted - self._missing if self._missing else len(self._rest)

    @property
    def wanted(self) -> int:
        """Bytes that this record has, as far as is known."""
        return self._wanted

    def take(self, data: bytes, position: int = 0) -> tuple[bytes, int]:
        """Add bytes.

        :param position: their end among all bytes of the connection
        :return: the records that are whole now, and how many these are
        """
        self.left_out = None
        if self._missing:
            size = min(len(data), self._missing)
            self._missing -= size
            data = data[size:]
            if self._missing:
                return b"", 0
            self._wanted = 4
        rest = self._rest
        if rest:
            rest += data
            # A large record that arrives in small pieces is not looked at with each of them.
            if len(rest) < self._wanted:
                self._leave_out()
                return b"", 0
            data = bytes(rest)
        # Per record.
        unpack = _LENGTH.unpack_from
        start = count = 0
        last = len(data) - 4
        stop = 4
        while start <= last:
            stop = start + 4 + unpack(data, start)[0]
            if stop - 4 > last:
                break
            count += 1
            start = stop
        else:
            stop = start + 4
        if count or not rest:
            self.begun_at = position
        self._rest = bytearray(data[start:])
        self._wanted = stop - start
        self._leave_out()
        return data[:start], count

    def _leave_out(self) -> None:
        """Begin to leave out the record at the start, if it is too large and its name is known."""
        if self._wanted <= self._most:
            return
        name, newline, _ = self._rest[4 : 4 + self._max_name + 1].partition(b"\n")
        if newline or len(name) > self._max_name:
            self.left_out = bytes(name) if newline else b""
            self._missing = self._wanted - len(self._rest)
            self._rest = bytearray()


class Bounds:
    """The windows that the other side was granted, as numbers of bytes from the first on.

    It may not have seen the latest, and wait at an earlier one.
    """

    __slots__ = ("_bounds", "_total")

    def __init__(self, *bounds: int) -> None:
        self._bounds = deque(bounds)
        self._total = 0

    def take(self, size: int) -> bool:
        """Count what came.

        :return: whether the other side may have had to stop here
        """
        bounds = self._bounds
        self._total += size
        while len(bounds) > 1 and bounds[0] < self._total:
            bounds.popleft()
        return bounds[0] == self._total

    def grant(self, window: int) -> None:
        """Note the window that the other side has now."""
        bound = self._total + window
        if bound > self._bounds[-1]:
            self._bounds.append(bound)


class Outlet:
    """What is to be sent on one stream.

    :param stream: its id
    """

    __slots__ = ("_chunks", "is_ending", "size", "stream")

    def __init__(self, stream: int) -> None:
        self.stream: int = stream
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        #: Bytes that wait.
        self.size: int = 0
        #: Whether the stream ends behind them.
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
        """Take bytes from the front, at most so many."""
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
        """Give back, and forget, the chunks of which nothing was sent, as they were put."""
        kept: deque[bytes | bytearray | memoryview] = deque()
        # What is left of one that was sent in part.
        if self._chunks and isinstance(self._chunks[0], memoryview):
            kept.append(self._chunks.popleft())
        found = [bytes(chunk) for chunk in self._chunks]
        self._chunks = kept
        self.size = sum(map(len, kept))
        return found

    def clear(self) -> None:
        self._chunks.clear()
        self.size = 0
