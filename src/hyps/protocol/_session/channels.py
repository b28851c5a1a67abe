"""Channels in great numbers: what is per channel is looped over in C, and takes little memory."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from .._records.position import MAX_COUNT, format_position, parse_position
from .._records.records import RECORD_OVERHEAD, decode_channel, encode_channel, pack_names, scan
from ..errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Answers from which on it is faster to look at all of them at once.
_MANY: Final = 16


class Channel:
    """A channel that a client subscribed, and where it stands."""

    __slots__ = ("count", "generation", "name")

    def __init__(self, name: str, generation: bytes, count: int) -> None:
        self.name = name
        self.generation = generation
        self.count = count

    @property
    def position(self) -> bytes:
        return format_position(self.generation, self.count)

    def own(self, name: bytes, channels: dict[bytes, Channel]) -> Channel:
        """Give what stands for this channel alone, and may be changed."""
        return self


class _Fresh(Channel):
    """Stands for all channels of a generation in which nothing was published yet.

    Most channels are quiet, and so none of them takes an object of its own. Its count is one that
    no message can be added to, so that who counts messages need not ask which kind it has.
    """

    __slots__ = ()

    @property
    def position(self) -> bytes:
        return format_position(self.generation, 0)

    def own(self, name: bytes, channels: dict[bytes, Channel]) -> Channel:
        channels[name] = channel = Channel(name.decode(), self.generation, 0)
        return channel


@lru_cache(256)
def fresh(generation: bytes) -> Channel:
    """Give what stands for a channel in which nothing was published yet."""
    return _Fresh("", generation, MAX_COUNT)


def encode_channels(channels: list[str]) -> list[bytes]:
    """Do what :func:`encode_channel` does, for many."""
    try:
        names = "\n".join(channels).encode().split(b"\n")
    except (TypeError, UnicodeEncodeError):
        names = []
    if len(names) == len(channels) and all(names):
        return names
    # It says what is wrong.
    return [encode_channel(channel) for channel in channels]


def pack_chunks(
    names: list[bytes], data: bytes, size: int, most: int | None = None
) -> Iterator[tuple[bytes, int]]:
    """Do what :func:`pack_names` does, in chunks.

    :param size: bytes of a chunk at most, if that is enough for one record
    :param most: records of a chunk at most
    :return: the chunks, and how many records each has
    """
    longest = max(map(len, names), default=0) + len(data) + RECORD_OVERHEAD
    count = max(1, size // longest)
    if most is not None:
        count = min(most, count)
    for start in range(0, len(names), count):
        batch = names[start : start + count]
        yield pack_names(batch, data), len(batch)


def answer_for(name: bytes, body: bytes, position: int) -> bytes:
    """Give the answer in a record, which must be one for this channel."""
    start = position + 5 + len(name)
    stop = position + 4 + int.from_bytes(body[position : position + 4], "big")
    if (
        start < stop <= len(body)
        and body.startswith(name + b"\n", position + 4)
        and body.startswith(b"\n", stop - 1)
    ):
        if stop - start == 1:
            raise RemoteProtocolError("SUBSCRIBE_ACK: no code")
        return body[start : stop - 1]
    decode_channel(next(scan(body, position))[0])
    raise RemoteProtocolError("SUBSCRIBE_ACK: for another channel")


def find_granted(
    channels: list[str], start: int, most: int, body: bytes, position: int
) -> tuple[list[bytes], bytes, int] | None:
    """Look for answers by which many channels are subscribed in which nothing was published yet.

    :param channels: what is answered, from an index on, and how many at most
    :param position: where the first answer starts
    :return: the channels' names, the generation that they have in common, and the offset behind
        the last answer; None if the answers are to be looked at one by one
    """
    newline = body.find(b"\n", position + 4)
    tail = body[newline : body.find(b"\n", newline + 1) + 1]
    if not (tail.startswith(b"\nk") and tail.endswith(b":0\n")):
        return None
    # No more than there can be, as they are encoded for each frame.
    most = min(most, (len(body) - position) // (len(tail) + 5))
    names = encode_channels(channels[start : start + most])
    size = sum(map(len, names)) + len(names) * (4 + len(tail))
    count = body.count(tail, position, position + size)
    if count < _MANY:
        return None
    del names[count:]
    answers = pack_names(names, tail[1:-1])
    if not body.startswith(answers, position):
        return None
    generation, _ = parse_position(tail[2:-1])
    return names, generation, position + len(answers)
