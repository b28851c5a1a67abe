"""One stream's bytes: records that arrive cut anywhere, and what is to be sent as windows allow."""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Final

_LENGTH: Final = Struct(">I")

#: Bytes up to which neighbours are merged, so that what each costs besides does not count.
_CHUNK_SIZE: Final = 1_024


class WholeRecords:
    """Whole records from bytes that were cut anywhere. What is in them is for others to check."""

    __slots__ = ("_rest", "_wanted")

    def __init__(self) -> None:
        self._rest = bytearray()
        # Bytes that the record at its start needs to be whole, as far as is known.
        self._wanted = 4

    @property
    def rest(self) -> int:
        """Bytes of a record that is not whole yet."""
        return len(self._rest)

    @property
    def wanted(self) -> int:
        """Bytes that this record has, as far as is known."""
        return self._wanted

    def take(self, data: bytes) -> tuple[bytes, int]:
        """Add bytes.

        :return: the records that are whole now, and how many these are
        """
        rest = self._rest
        if rest:
            rest += data
            # A large record that arrives in small pieces is not looked at with each of them.
            if len(rest) < self._wanted:
                return b"", 0
            data = bytes(rest)
        # Per record.
        unpack = _LENGTH.unpack_from
        position = count = 0
        last = len(data) - 4
        stop = 4
        while position <= last:
            stop = position + 4 + unpack(data, position)[0]
            if stop - 4 > last:
                break
            count += 1
            position = stop
        else:
            stop = position + 4
        self._rest = bytearray(data[position:])
        self._wanted = stop - position
        return data[:position], count


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

    def clear(self) -> None:
        self._chunks.clear()
        self.size = 0
