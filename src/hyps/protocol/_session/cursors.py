"""Where a client stands in its channels, and what the answers to SUBSCRIBE say of that."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from .._records.encoding import encode_channels
from .._records.layout import RECORD_OVERHEAD, contents, decode_channel, unpack
from .._records.position import MAX_COUNT, format_position, parse_position
from .._records.scanning import count_alike, scan
from ..errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Comparing answers all at once is faster from this many on.
_MANY: Final = 16


class Cursor:
    """Where a client stands in a channel: its generation, and how many messages it had."""

    __slots__ = ("count", "generation", "name")

    def __init__(self, name: str, generation: bytes, count: int) -> None:
        self.name = name
        self.generation = generation
        self.count = count

    @property
    def position(self) -> bytes:
        """Generation and count, as they stand in SUBSCRIBE."""
        return format_position(self.generation, self.count)

    def own(self, name: bytes, channels: dict[bytes, Cursor]) -> Cursor:
        """Return a cursor that belongs to this channel alone, so that it can be moved."""
        return self


class _SharedCursor(Cursor):
    """The cursor of all channels of one generation that had no message yet.

    Most channels are quiet. Sharing one cursor saves an object for each of them. Its count is so
    large that adding a message fails the check for overflow, so the code that counts messages needs
    no other check for a shared cursor.
    """

    __slots__ = ()

    @property
    def position(self) -> bytes:
        return format_position(self.generation, 0)

    def own(self, name: bytes, channels: dict[bytes, Cursor]) -> Cursor:
        channels[name] = channel = Cursor(name.decode(), self.generation, 0)
        return channel


@lru_cache(256)
def fresh(generation: bytes) -> Cursor:
    """Return the cursor of a channel that had no message yet."""
    return _SharedCursor("", generation, MAX_COUNT)


def answer_for(name: bytes, body: bytes, position: int) -> tuple[bytes, int]:
    """Decode one answer to SUBSCRIBE, which must be one for this channel.

    :param position: where its record starts
    :return: the answer, a code and what follows it; the offset behind the record
    """
    found, answer, stop = unpack(body, position)
    if found != name:
        decode_channel(found)
        raise RemoteProtocolError("SUBSCRIBE_ACK: for another channel")
    if not answer:
        raise RemoteProtocolError("SUBSCRIBE_ACK: no code")
    return answer, stop


def find_granted(
    channels: list[str], start: int, most: int, body: bytes, position: int
) -> tuple[list[bytes], bytes, int] | None:
    """Find answers that grant many channels which had no message yet, as most channels have none.

    :func:`answer_for` decodes each of them alike.

    :param channels: the channels that are answered, from ``start`` on
    :param most: how many of them at most
    :param position: where the first answer starts
    :return: the channels' names, the generation that they share, and the offset behind the last
        answer; None if each has to be looked at by itself
    """
    _, answer, _ = unpack(body, position)
    if not (answer.startswith(b"k") and answer.endswith(b":0")):
        return None
    # There cannot be more of them. Each frame encodes their names.
    most = min(most, (len(body) - position) // (RECORD_OVERHEAD + 1 + len(answer)))
    names = encode_channels(channels[start : start + most])
    count = count_alike(names, answer, body, position)
    if count < _MANY:
        return None
    del names[count:]
    generation, _ = parse_position(answer[1:])
    return (
        names,
        generation,
        position + sum(map(len, names)) + count * (RECORD_OVERHEAD + len(answer)),
    )


def each_record(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the channel and the message of each record of a frame.

    :raises RemoteProtocolError: if there is none, or one is malformed
    """
    if not body:
        raise RemoteProtocolError("a frame without records")
    position = 0
    for name, stop, count in scan(body):
        decode_channel(name)
        for content in contents(body, position, count, name):
            yield name, content
        position = stop
