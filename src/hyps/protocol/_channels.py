"""Channels in great numbers: what is per channel is looped over in C, and takes little memory."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ._position import format_position
from .limits import MAX_COUNT
from .records import RECORD_OVERHEAD, encode_channel, pack_length

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def pack_all(names: list[bytes], data: bytes = b"") -> bytes:
    """Encode a record for each name, all with the same message."""
    tail = b"\n%b\n" % data
    sizes = list(map(len, names))
    # Of lengths there are few.
    heads = {size: pack_length(size + len(tail)) for size in set(sizes)}
    parts = [tail] * (3 * len(names))
    parts[0::3] = map(heads.__getitem__, sizes)
    parts[1::3] = names
    return b"".join(parts)


def pack_chunks(
    names: list[bytes], data: bytes, size: int, most: int | None = None
) -> Iterator[tuple[bytes, int]]:
    """Do what :func:`pack_all` does, in chunks.

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
        yield pack_all(batch, data), len(batch)
