r"""Records: the unit that is published, routed and delivered.

A record is a 4-byte big-endian length of what follows, the channel, ``\n``, the message, ``\n``::

    b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n"   <->   ("foo_ch", b"foo_msg")

Hot code lives here: :func:`scan` is what the hub does for each published record and the client for
each delivered one. What it finds is a *run*, neighbouring records of one channel, and everything
after it (look-up, copy, count, queue) is done once a run and not once a record.
"""

from __future__ import annotations

import sys
from collections import deque
from functools import lru_cache
from itertools import repeat
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

from ..errors import InvalidChannel, MalformedRecord
from .runs import SMALL, Message, Run, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: What a message may be given as; text becomes UTF-8.
Data: TypeAlias = bytes | bytearray | memoryview | str

_LENGTH: Final = Struct(">I")
_NEWLINE: Final = 0x0A

#: The longest batch in bytes, but for its last record, be it a run or a frame. It bounds how much
#: one look-up hands to every subscriber at once. What is per batch is then done for some hundred
#: messages of 1 KiB, which go through half as fast again as with 64 KiB.
BATCH_SIZE: Final = 196_608

#: Bytes and records with which a batch is large enough: more would not be faster, but let others
#: wait for longer.
MERGED_SIZE: Final = 65_536
MANY_RECORDS: Final = 1_024

#: Records of the first one's size from which on it is faster to cut all of them at once.
_MANY: Final = 16

#: Bytes of a record that are neither channel nor message: the length and two newlines.
RECORD_OVERHEAD: Final = 6


def encode_channel(channel: str) -> bytes:
    """Check a channel name and encode it.

    :param channel: name of a channel
    :return: the name as it stands in records
    :raises InvalidChannel: if it is empty, contains a newline or has no UTF-8 form
    """
    if not isinstance(channel, str):
        raise TypeError(f"a channel must be a str, not {type(channel).__name__}")
    try:
        name = channel.encode()
    except UnicodeEncodeError:
        raise InvalidChannel(f"channel {channel!a} has no UTF-8 form") from None
    if not name:
        raise InvalidChannel("a channel name must not be empty")
    if b"\n" in name:
        raise InvalidChannel(f"channel {channel!a} contains a newline")
    return name


def encode_data(data: Data) -> bytes:
    """Give a message's bytes; text becomes UTF-8.

    :raises TypeError: if it is neither text nor bytes
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a message must be bytes or str, not {type(data).__name__}")


_LISTS: Final = (list, tuple)
_TEXT: Final = (str, bytes, bytearray, memoryview)
_ALONE: Final = (*_TEXT, Message)


def pairs(messages: Iterable[tuple[str, Data] | Message]) -> Iterator[tuple[str, Data]]:
    """Iterate channels and messages.

    :raises TypeError: if it is something else whose items might be mistaken for some
    """
    # Text of two characters would pass for a pair, and so would a dict's key.
    what = ""
    if isinstance(messages, _LISTS):
        if messages and isinstance(messages[0], _TEXT):
            what = f" of {type(messages[0]).__name__}"
    elif isinstance(messages, _ALONE):
        what = " alone"
    elif hasattr(messages, "items"):
        what = ": give it .items()"
    if what:
        kind = type(messages).__name__
        raise TypeError(
            f"publish_many() takes an iterable of (channel, message), not a {kind}{what}"
        )
    # A Message is iterated like one.
    return cast("Iterator[tuple[str, Data]]", iter(messages))


#: Encode a record's length.
pack_length: Final = _LENGTH.pack


def pack(name: bytes, data: bytes) -> bytes:
    """Encode a record from a name that :func:`encode_channel` gave and the message's bytes."""
    return b"".join((_LENGTH.pack(len(name) + len(data) + 2), name, b"\n", data, b"\n"))


def pack_names(names: list[bytes], data: bytes = b"") -> bytes:
    """Encode a record for each name, all with the same message."""
    tail = b"\n%b\n" % data
    sizes = list(map(len, names))
    # Of lengths there are few.
    heads = {size: pack_length(size + len(tail)) for size in set(sizes)}
    parts = [tail] * (3 * len(names))
    parts[0::3] = map(heads.__getitem__, sizes)
    parts[1::3] = names
    return b"".join(parts)


def unpack_names(data: bytes) -> list[bytes] | None:
    """Decode records without messages, in a third of the time of :func:`scan`.

    :return: the names, which may be no UTF-8; None if it is anything else, or malformed
    """
    names = [record[4:] for record in data.split(b"\n\n")[:-1]]
    together = b"".join(names)
    if b"\n" in together or not all(names) or pack_names(names) != data:
        return None
    return names


def encode(channel: str, data: Data) -> bytes:
    """Encode one record.

    :param channel: name of the channel
    :param data: the message
    :raises InvalidChannel: if the name cannot be a channel's
    """
    return pack(encode_channel(channel), encode_data(data))


def encode_all(prefixes: list[bytes], contents: list[bytes]) -> bytes:
    r"""Encode records.

    :param prefixes: of each record the channel, as :func:`encode_channel` gave it, and ``\n``
    :param contents: of each record the bytes of the message
    """
    # What is per message is looped over in C, as far as it can be.
    count = len(contents)
    sizes = list(map(len, contents))
    if sum(sizes) < count * SMALL and prefixes.count(prefixes[0]) == count:
        return _encode_run(prefixes[0], contents, sizes)
    parts = [b"\n"] * (4 * count)
    parts[0::4] = [
        pack_length(len(prefix) + size + 1) for prefix, size in zip(prefixes, sizes, strict=True)
    ]
    parts[1::4] = prefixes
    parts[2::4] = contents
    return b"".join(parts)


def _encode_run(prefix: bytes, contents: list[bytes], sizes: list[int]) -> bytes:
    # What stands between two messages is made once for each size, of which there are few.
    rest = len(prefix) + 1
    boundaries = {size: b"\n%b%b" % (pack_length(size + rest), prefix) for size in set(sizes)}
    if len(boundaries) == 1:
        [boundary] = boundaries.values()
        return b"".join((boundary[1:], boundary.join(contents), b"\n"))
    parts = [b"\n"] * (2 * len(contents) + 1)
    parts[:-1:2] = map(boundaries.__getitem__, sizes)
    parts[1::2] = contents
    # There is no message before the first.
    parts[0] = parts[0][1:]
    return b"".join(parts)


def cut(data: bytes) -> tuple[bytes, list[bytes]] | None:
    r"""Check records, and give their messages if these are many small ones of one channel.

    :param data: concatenated records
    :return: the channel with its ``\n``, and the bytes of each message; None if :func:`scan` has to
        look, be it that something is wrong or not
    """
    end = len(data)
    if not _MANY <= end <= BATCH_SIZE:
        return None
    size = 4 + _LENGTH.unpack_from(data)[0]
    newline = data.find(b"\n", 4, size - 1)
    if size > SMALL or size * _MANY > end or newline <= 4:
        return None
    prefix = data[4 : newline + 1]
    # If they are not of one channel, mostly the last one tells.
    last = data.rfind(prefix)
    if last + _LENGTH.unpack_from(data, last - 4)[0] != end:
        return None
    if (equal := _cut_equal(data, size, 4 + len(prefix))) is not None:
        return prefix, equal
    contents = split(data, prefix)
    # What is encoded otherwise has the prefix in a message, or is malformed.
    is_whole = _encode_run(prefix, contents, list(map(len, contents))) == data
    return (prefix, contents) if is_whole else None


def _cut_equal(data: bytes, size: int, head: int) -> list[bytes] | None:
    """Cut records that differ in nothing but their messages, if they are such.

    :param size: bytes of each
    :param head: bytes before its message
    """
    count, rest = divmod(len(data), size)
    if rest or data[size - 1 :: size] != b"\n" * count:
        return None
    if any(data[place::size] != data[place : place + 1] * count for place in range(head)):
        return None
    return [content for (content,) in _message(head, size - head - 1).iter_unpack(data)]


@lru_cache(256)
def _message(head: int, length: int) -> Struct:
    return Struct(f"{head}x{length}sx")


class Runs(NamedTuple):
    """The runs of records, one after the other.

    :param names: of each its channel
    :param stops: the offset behind it
    :param counts: the number of its records
    :param error: what is wrong behind the last one, if that is why they end
    """

    names: list[bytes]
    stops: list[int]
    counts: list[int]
    error: MalformedRecord | None


def find_runs(
    data: bytes, position: int = 0, *, whole: bool = True, most: int = sys.maxsize
) -> Runs:
    r"""Check records and find their runs.

    Of each record the length, the first ``\n`` and the last byte are checked. Whether a channel
    is UTF-8 is not: the caller knows most names already, and decodes those it sees first.

    :param data: concatenated records
    :param position: where the first starts
    :param whole: a record that is cut off at the end is malformed; else they end before it
    :param most: end with the run in which there are so many records
    """
    # Per record, where no two neighbours are of one channel, and so without a call that could be
    # spared.
    unpack = _LENGTH.unpack_from
    find = data.find
    end = len(data)
    names: list[bytes] = []
    stops: list[int] = []
    counts: list[int] = []
    error: MalformedRecord | None = None
    first = position
    last = b""
    for _ in repeat(None, most):
        if position >= end:
            break
        start = position + 4
        if start > end:
            if whole:
                error = MalformedRecord("a record is cut off in its length")
            break
        stop = start + unpack(data, position)[0]
        newline = find(b"\n", start, stop - 1)
        if newline <= start or stop > end or data[stop - 1] != _NEWLINE:
            if whole or stop <= end or stop - start < 3:
                error = _malformed(data, start, stop, newline)
            break
        name = data[start:newline]
        if name == last and position - first < BATCH_SIZE:
            stop, count = _go_on(data, first, stop, name)
            counts[-1] += count
            stops[-1] = stop
            last = b""
            most -= counts[-1]
            if most <= 0:
                break
        else:
            names.append(name)
            stops.append(stop)
            counts.append(1)
            first = position
            last = name
        position = stop
    return Runs(names, stops, counts, error)


def _go_on(data: bytes, first: int, stop: int, name: bytes) -> tuple[int, int]:
    """Follow a run from its second record on.

    :param first: where the run starts
    :param stop: the offset behind its second record
    :return: the offset behind the run, and the number of its records but for the first
    """
    # A boundary is the last byte of one record with the length and the channel of the next. One
    # unpack for all of it is what makes this fast.
    prefix = name + b"\n"
    size = len(prefix)
    boundary = _boundary(size)
    end = len(data)
    final = min(first + BATCH_SIZE - 2, end - 5 - size)
    last = min(first + MERGED_SIZE - 2, final)
    edge = before = stop - 1
    count = 1
    while True:
        # Per record.
        while edge <= last:
            newline, length, found = boundary(data, edge)
            if newline != b"\n" or found != prefix or length <= size:
                break
            count += 1
            before = edge
            edge += 4 + length
        else:
            if last < final and count < MANY_RECORDS:
                last = min(last + MERGED_SIZE, final)
                continue
        break
    if edge >= end or data[edge] != _NEWLINE:
        # Whoever looks at the last one by itself says what is wrong with it.
        return before + 1, count - 1
    return edge + 1, count


def scan(data: bytes, position: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Give for each run its channel, the offset behind it and the number of its records.

    :param data: concatenated records
    :param position: where the first starts
    :raises MalformedRecord: after everything before the malformed record was given
    """
    found = find_runs(data, position)
    yield from zip(found.names, found.stops, found.counts, strict=True)
    if found.error is not None:
        raise found.error


def _malformed(data: bytes, start: int, stop: int, newline: int) -> MalformedRecord:
    """Say what is wrong with a record whose channel starts at ``start``."""
    if stop - start < 3:
        return MalformedRecord(f"a record's length is {stop - start}; 3 is the least")
    if stop > len(data):
        return MalformedRecord("a record is longer than what holds it")
    if newline < 0:
        return MalformedRecord("a record has no newline behind its channel")
    if newline == start:
        return MalformedRecord("a record's channel is empty")
    return MalformedRecord("a record's last byte is not a newline")


@lru_cache(256)
def _boundary(size: int) -> Callable[[bytes, int], tuple[bytes, int, bytes]]:
    return Struct(f">cI{size}s").unpack_from


def decode_channel(name: bytes) -> str:
    """Decode a channel's name that a peer sent.

    :raises MalformedRecord: if it is not UTF-8
    """
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise MalformedRecord("a record's channel is not UTF-8") from None


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


class RecordDecoder:
    """Runs of records from bytes that were cut anywhere.

    :param max_record: bytes of the largest record, its length included; a larger one is refused
        at its length, before it is buffered
    """

    def __init__(self, max_record: int) -> None:
        self._max_record = max_record
        self._buffer = bytearray()
        self._wanted = 4  # bytes that the record at the buffer's start needs to be complete
        self._runs: deque[Run] = deque()
        self._error: MalformedRecord | None = None

    @property
    def buffered(self) -> int:
        """Bytes of a record that is not complete yet; 0 between records."""
        return len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call :meth:`next_run` until it returns None afterwards."""
        if self._error is not None:
            return
        self._buffer += data
        try:
            # Nothing is looked at twice: a large record that arrives in small pieces waits
            # until it is complete.
            while len(self._buffer) >= self._wanted:
                self._take()
        except MalformedRecord as error:
            self._error = error
            self._buffer.clear()

    def next_run(self) -> Run | None:
        """Give the next run, or None if more data is needed.

        :raises MalformedRecord: when the valid runs before it have been given, at every call
        """
        if self._runs:
            return self._runs.popleft()
        if self._error is not None:
            raise self._error.with_traceback(None)
        return None

    def _take(self) -> None:
        buffer = bytes(self._buffer)
        position = 0
        names, stops, counts, error = find_runs(buffer, whole=False)
        for name, stop, count in zip(names, stops, counts, strict=True):
            run = Run(decode_channel(name), buffer[position:stop], count)
            if stop - position > self._max_record:
                self._check_sizes(run)
            self._runs.append(run)
            position = stop
        if error is not None:
            raise error
        del self._buffer[:position]
        self._wanted = 4
        if len(buffer) - position >= 4:
            self._wanted += _LENGTH.unpack_from(buffer, position)[0]
            if self._wanted > self._max_record:
                raise MalformedRecord(f"a record is over {self._max_record} bytes")

    def _check_sizes(self, run: Run) -> None:
        position = 0
        for count in range(run.count):
            size = 4 + _LENGTH.unpack_from(run.records, position)[0]
            if size > self._max_record:
                if count:
                    self._runs.append(run.split(count)[0])
                raise MalformedRecord(f"a record is over {self._max_record} bytes")
            position += size
