"""Decoding records: all at once, and from bytes that were cut anywhere."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from ..errors import MalformedRecord
from .layout import HEAD, LENGTH, MIN_LENGTH, decode_channel, explain
from .runs import Run
from .scanning import scan

if TYPE_CHECKING:
    from collections.abc import Iterator


def records(data: bytes) -> Iterator[tuple[str, bytes]]:
    r"""Decode concatenated records.

    :param data: whole records
    :return: channel and message of each
    :raises MalformedRecord: after the valid ones before it

    >>> list(records(b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n"))
    [('foo_ch', b'foo_msg')]
    """
    position = 0
    for name, stop, count in scan(data):
        for message in Run(decode_channel(name), data[position:stop], count).messages:
            yield message.channel, message.data
        position = stop


class WholeRecords:
    """Whole records from bytes that were cut anywhere. It reads only their lengths.

    A record that is too large can be left out: its bytes are counted and not buffered.

    :param most: bytes of a record, its length included, above which it is left out
    :param max_name: bytes of the longest name that is reported for a record that is left out
    """

    __slots__ = ("_max_name", "_missing", "_most", "_rest", "_wanted", "begun_at", "left_out")

    def __init__(self, most: float = math.inf, max_name: int = 0) -> None:
        self._most = most
        self._max_name = max_name
        self._rest = bytearray()
        # The size of the record at its start, as far as it is known.
        self._wanted = HEAD
        # The bytes of a record that is left out which have not arrived yet.
        self._missing = 0
        #: The position, see :meth:`take`, at which the unfinished record began to wait.
        self.begun_at: int = 0
        #: The channel of a record that the last call began to leave out; empty if its name is
        #: longer than max_name.
        self.left_out: bytes | None = None

    @property
    def rest(self) -> int:
        """How many bytes of an unfinished record have arrived."""
        return self._wanted - self._missing if self._missing else len(self._rest)

    @property
    def wanted(self) -> int:
        """The size of the unfinished record, as far as it is known."""
        return self._wanted

    def take(self, data: bytes, position: int = 0) -> tuple[bytes, int]:
        """Add bytes.

        :param position: the offset of their end among all bytes of the connection
        :return: the records that are whole now, and how many they are
        """
        self.left_out = None
        if self._missing:
            size = min(len(data), self._missing)
            self._missing -= size
            data = data[size:]
            if self._missing:
                return b"", 0
            self._wanted = HEAD
        rest = self._rest
        if rest:
            rest += data
            # A large record that arrives in small pieces is looked at when it is whole, and not at
            # each piece.
            if len(rest) < self._wanted:
                self._leave_out()
                return b"", 0
            data = bytes(rest)
        # Per record: end_of() of layout.py, inlined.
        unpack = LENGTH.unpack_from
        start = count = 0
        last = len(data) - HEAD
        stop = HEAD
        while start <= last:
            stop = start + HEAD + unpack(data, start)[0]
            if stop - HEAD > last:
                break
            count += 1
            start = stop
        else:
            stop = start + HEAD
        if count or not rest:
            self.begun_at = position
        self._rest = bytearray(data[start:])
        self._wanted = stop - start
        self._leave_out()
        return data[:start], count

    def _leave_out(self) -> None:
        """Begin to leave out the unfinished record if it is too large and its name is known."""
        if self._wanted <= self._most:
            return
        name, newline, _ = self._rest[HEAD : HEAD + self._max_name + 1].partition(b"\n")
        if newline or len(name) > self._max_name:
            self.left_out = bytes(name) if newline else b""
            self._missing = self._wanted - len(self._rest)
            self._rest = bytearray()


class RecordDecoder:
    """Runs of records from bytes that were cut anywhere.

    :param max_record: bytes of the largest record, its length included; a larger one is refused
        at its length, before it is buffered
    """

    def __init__(self, max_record: int) -> None:
        self._max_record = max_record
        self._whole = WholeRecords()
        self._runs: deque[Run] = deque()
        self._error: MalformedRecord | None = None

    @property
    def buffered(self) -> int:
        """Bytes of a record that is not complete yet; 0 between records."""
        return self._whole.rest

    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call :meth:`next_run` until it returns None afterwards."""
        if self._error is not None:
            return
        try:
            self._take(self._whole.take(data)[0])
        except MalformedRecord as error:
            self._error = error
            self._whole = WholeRecords()

    def next_run(self) -> Run | None:
        """Return the next run, or None if it needs more data.

        :raises MalformedRecord: after the valid runs before it, at every call
        """
        if self._runs:
            return self._runs.popleft()
        if self._error is not None:
            raise self._error.with_traceback(None)
        return None

    def _take(self, records: bytes) -> None:
        position = 0
        for name, stop, count in scan(records):
            run = Run(decode_channel(name), records[position:stop], count)
            if stop - position > self._max_record:
                self._check_sizes(run)
            self._runs.append(run)
            position = stop
        self._check_size(self._whole.wanted)
        if HEAD < self._whole.wanted < HEAD + MIN_LENGTH:
            raise explain(b"", HEAD, self._whole.wanted, -1)

    def _check_sizes(self, run: Run) -> None:
        for count, size in enumerate(run.sizes):
            try:
                self._check_size(size)
            except MalformedRecord:
                if count:
                    self._runs.append(run.split(count)[0])
                raise

    def _check_size(self, size: int) -> None:
        if size > self._max_record:
            raise MalformedRecord(f"a record is over {self._max_record} bytes")
