r"""The bytes of a record. No other module knows them.

A record is a 4-byte big-endian length of what follows, the channel, ``\n``, the message, ``\n``::

    b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n"   <->   ("foo_ch", b"foo_msg")

The functions here treat one record at a time and are easy to check by eye. :mod:`.encoding` and
:mod:`.scanning` do the same for many records at once, several times faster. Tests compare the two.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import InvalidChannel, MalformedRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a message may be given as; text becomes UTF-8.
Data: TypeAlias = bytes | bytearray | memoryview | str

LENGTH: Final = Struct(">I")

#: Encodes a record's length.
pack_length: Final = LENGTH.pack

#: Bytes of a record before its channel: the length.
HEAD: Final = LENGTH.size

#: Bytes of a record that are neither channel nor message: the length and two newlines.
RECORD_OVERHEAD: Final = HEAD + 2

#: The smallest length: a channel of one byte and two newlines.
MIN_LENGTH: Final = 3

NEWLINE: Final = 0x0A

#: A batch, be it a run or a frame, ends once it has this many bytes; its last record may exceed it.
#: This bounds how much one look-up hands to every subscriber at once. The work per batch is then
#: shared by some hundred messages of 1 KiB, which go through 1.5 times as fast as with 64 KiB.
BATCH_SIZE: Final = 196_608

#: A batch of this many bytes and records is large enough: a larger one would not be faster, but
#: others would wait longer.
MERGED_SIZE: Final = 65_536
MANY_RECORDS: Final = 1_024


# Names and messages


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


def decode_channel(name: bytes) -> str:
    """Decode a channel's name that a peer sent.

    :raises MalformedRecord: if it is not UTF-8
    """
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise MalformedRecord("a record's channel is not UTF-8") from None


def encode_data(data: Data) -> bytes:
    """Return a message's bytes; text becomes UTF-8.

    :raises TypeError: if it is neither text nor bytes
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a message must be bytes or str, not {type(data).__name__}")


# One record


def pack(name: bytes, content: bytes) -> bytes:
    """Encode a record.

    :param name: a name that :func:`encode_channel` returned
    :param content: the message's bytes
    """
    return b"".join((pack_length(len(name) + len(content) + 2), name, b"\n", content, b"\n"))


def encode(channel: str, data: Data) -> bytes:
    """Encode one record.

    :param channel: name of the channel
    :param data: the message
    :raises InvalidChannel: if the name cannot be a channel's
    """
    return pack(encode_channel(channel), encode_data(data))


def end_of(data: bytes, position: int) -> int:
    """Return the offset behind a record, which may be behind the end of the data.

    :param position: where the record starts; its length must be there
    """
    return position + HEAD + int.from_bytes(data[position : position + HEAD], "big")


def unpack(data: bytes, position: int = 0) -> tuple[bytes, bytes, int]:
    """Check and decode a record.

    :param position: where it starts
    :return: the channel's name, which need not be UTF-8; the message; the offset behind the record
    :raises MalformedRecord: if it is malformed or cut off
    """
    start = position + HEAD
    if start > len(data):
        raise MalformedRecord("a record is cut off in its length")
    stop = end_of(data, position)
    newline = data.find(b"\n", start, stop - 1)
    if newline <= start or stop > len(data) or data[stop - 1] != NEWLINE:
        raise explain(data, start, stop, newline)
    return data[start:newline], data[newline + 1 : stop - 1], stop


def explain(data: bytes, start: int, stop: int, newline: int) -> MalformedRecord:
    """Say what is wrong with a record.

    :param start: where its channel starts
    :param stop: the offset behind it
    :param newline: the offset of the newline behind its channel, -1 if there is none
    """
    if stop - start < MIN_LENGTH:
        return MalformedRecord(f"a record's length is {stop - start}; {MIN_LENGTH} is the least")
    if stop > len(data):
        return MalformedRecord("a record is longer than what holds it")
    if newline < 0:
        return MalformedRecord("a record has no newline behind its channel")
    if newline == start:
        return MalformedRecord("a record's channel is empty")
    return MalformedRecord("a record's last byte is not a newline")


# Checked records, one after the other


def sizes(data: bytes) -> Iterator[int]:
    """Iterate over the sizes of records, their lengths included.

    :param data: records that were checked
    """
    position = 0
    while position < len(data):
        stop = end_of(data, position)
        yield stop - position
        position = stop


def contents(data: bytes, position: int, count: int, name: bytes) -> list[bytes]:
    """Return the messages of neighbouring records of one channel.

    :param data: bytes with records that were checked
    :param position: where the first one starts
    :param count: how many there are
    :param name: name of their channel
    """
    head = HEAD + len(name) + 1
    found = []
    for _ in range(count):
        stop = position + HEAD + LENGTH.unpack_from(data, position)[0]
        found.append(data[position + head : stop - 1])
        position = stop
    return found
