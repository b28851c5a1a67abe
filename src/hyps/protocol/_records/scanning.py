"""Scanning many records at once: checking them and finding their runs.

This is the hot code of both ends: the hub scans what publishers send, and a client what arrives.
What it finds is a *run*, neighbouring records of one channel. Everything after it (looking up the
channel, copying, counting, queueing) happens once per run and not once per record.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from itertools import repeat
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import MalformedRecord
from .encoding import encode_run, pack_names
from .layout import (
    BATCH_SIZE,
    HEAD,
    LENGTH,
    MANY_RECORDS,
    MERGED_SIZE,
    MIN_LENGTH,
    NEWLINE,
    RECORD_OVERHEAD,
    explain,
)
from .runs import SMALL, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Cutting records all at once is faster from as many records of the first one's size on.
_MANY: Final = 16


class Runs(NamedTuple):
    """Runs, one after the other.

    :param names: the channel of each
    :param stops: the offset behind each
    :param counts: the number of records in each
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
    :param most: end with the run that makes it this many records
    """
    # If no two neighbours share a channel, this loop runs once per record. So it inlines unpack()
    # of layout.py.
    unpack = LENGTH.unpack_from
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
        start = position + HEAD
        if start > end:
            if whole:
                error = MalformedRecord("a record is cut off in its length")
            break
        stop = start + unpack(data, position)[0]
        newline = find(b"\n", start, stop - 1)
        if newline <= start or stop > end or data[stop - 1] != NEWLINE:
            if whole or stop <= end or stop - start < MIN_LENGTH:
                error = explain(data, start, stop, newline)
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
    # A boundary is the last byte of a record together with the length and the channel of the next.
    # Unpacking all of it in one call makes this fast.
    prefix = name + b"\n"
    size = len(prefix)
    boundary = _boundary(size)
    end = len(data)
    final = min(first + BATCH_SIZE - 2, end - 1 - HEAD - size)
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
            edge += HEAD + length
        else:
            if last < final and count < MANY_RECORDS:
                last = min(last + MERGED_SIZE, final)
                continue
        break
    if edge >= end or data[edge] != NEWLINE:
        # The caller looks at the last record by itself, and finds out what is wrong with it.
        return before + 1, count - 1
    return edge + 1, count


def scan(data: bytes, position: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the runs: the channel, the offset behind it and the number of its records.

    :param data: concatenated records
    :param position: where the first starts
    :raises MalformedRecord: after the last run before the malformed record
    """
    found = find_runs(data, position)
    yield from zip(found.names, found.stops, found.counts, strict=True)
    if found.error is not None:
        raise found.error


@lru_cache(256)
def _boundary(size: int) -> Callable[[bytes, int], tuple[bytes, int, bytes]]:
    return Struct(f">cI{size}s").unpack_from


def cut(data: bytes) -> tuple[bytes, list[bytes]] | None:
    r"""Check records, and return their messages if they are many small ones of one channel.

    :param data: concatenated records
    :return: the channel with its ``\n``, and the bytes of each message; None if :func:`scan` has to
        look at them, which says nothing of whether they are well-formed
    """
    end = len(data)
    if not _MANY <= end <= BATCH_SIZE:
        return None
    size = HEAD + LENGTH.unpack_from(data)[0]
    newline = data.find(b"\n", HEAD, size - 1)
    if size > SMALL or size * _MANY > end or newline <= HEAD:
        return None
    prefix = data[HEAD : newline + 1]
    # The last record mostly tells if they have different channels.
    last = data.rfind(prefix)
    if last + LENGTH.unpack_from(data, last - HEAD)[0] != end:
        return None
    if (equal := _cut_equal(data, size, HEAD + len(prefix))) is not None:
        return prefix, equal
    contents = split(data, prefix)
    # Encoding them again gives other bytes if a message contains the prefix, or one is malformed.
    is_whole = encode_run(prefix, contents, list(map(len, contents))) == data
    return (prefix, contents) if is_whole else None


def _cut_equal(data: bytes, size: int, head: int) -> list[bytes] | None:
    """Cut records of equal size that differ only in their messages, if they are such.

    :param size: bytes of each record
    :param head: bytes before each message
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


def count_alike(names: list[bytes], content: bytes, data: bytes, position: int) -> int:
    r"""Count records that have these names, in order, and all have this message.

    :param names: names that :func:`.encode_channel` returned
    :param data: concatenated records, which need not be well-formed
    :param position: where the first one starts
    :return: how many there are at the front; 0 if each has to be looked at by itself
    """
    tail = b"\n%b\n" % content
    size = sum(map(len, names)) + len(names) * (RECORD_OVERHEAD + len(content))
    count = data.count(tail, position, position + size)
    return count if data.startswith(pack_names(names[:count], content), position) else 0
