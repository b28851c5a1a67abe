"""Encoding many records at once: what is per record runs in C as far as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from .layout import HEAD, RECORD_OVERHEAD, encode_channel, pack_length
from .runs import SMALL, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .layout import Data

_LISTS: Final = (list, tuple)
_TEXT: Final = (str, bytes, bytearray, memoryview)
_ALONE: Final = (*_TEXT, Message)


def pairs(messages: Iterable[tuple[str, Data] | Message]) -> Iterator[tuple[str, Data]]:
    """Iterate over channels and messages.

    :raises TypeError: if the argument is something else whose items could pass for pairs
    """
    # A text of two characters would pass for a pair, and so would a key of a dict.
    what = ""
    if isinstance(messages, _LISTS):
        if messages and isinstance(messages[0], _TEXT):
            what = f" of {type(messages[0]).__name__}"
    elif isinstance(messages, _ALONE):
        what = " alone"
    elif hasattr(messages, "items"):
        what = ": give it .items()"
    elif not hasattr(messages, "__iter__"):
        what = ", which is not iterable"
    if what:
        kind = type(messages).__name__
        raise TypeError(
            f"publish_many() takes an iterable of (channel, message), not a {kind}{what}"
        )
    # A Message unpacks like a pair.
    return cast("Iterator[tuple[str, Data]]", iter(messages))


def pack_names(names: list[bytes], data: bytes = b"") -> bytes:
    """Encode a record for each name, all with the same message; :func:`.pack` for many."""
    tail = b"\n%b\n" % data
    sizes = list(map(len, names))
    # Few different lengths occur.
    heads = {size: pack_length(size + len(tail)) for size in set(sizes)}
    parts = [tail] * (3 * len(names))
    parts[0::3] = map(heads.__getitem__, sizes)
    parts[1::3] = names
    return b"".join(parts)


def unpack_names(data: bytes) -> list[bytes] | None:
    """Decode records whose messages are empty, in a third of the time of :func:`.scan`.

    :return: the names, which need not be UTF-8; None if it is anything else, or malformed
    """
    names = [record[HEAD:] for record in data.split(b"\n\n")[:-1]]
    together = b"".join(names)
    if b"\n" in together or not all(names) or pack_names(names) != data:
        return None
    return names


def encode_all(prefixes: list[bytes], contents: list[bytes]) -> bytes:
    r"""Encode records; :func:`.pack` for many.

    :param prefixes: for each record the channel, as :func:`.encode_channel` returned it, and ``\n``
    :param contents: for each record the bytes of the message
    """
    count = len(contents)
    sizes = list(map(len, contents))
    if sum(sizes) < count * SMALL and prefixes.count(prefixes[0]) == count:
        return encode_run(prefixes[0], contents, sizes)
    parts = [b"\n"] * (4 * count)
    parts[0::4] = [
        pack_length(len(prefix) + size + 1) for prefix, size in zip(prefixes, sizes, strict=True)
    ]
    parts[1::4] = prefixes
    parts[2::4] = contents
    return b"".join(parts)


def encode_run(prefix: bytes, contents: list[bytes], sizes: list[int]) -> bytes:
    """Encode records of one channel."""
    # Make the bytes between two messages once for each size: few different sizes occur.
    rest = len(prefix) + 1
    boundaries = {size: b"\n%b%b" % (pack_length(size + rest), prefix) for size in set(sizes)}
    if len(boundaries) == 1:
        [boundary] = boundaries.values()
        return b"".join((boundary[1:], boundary.join(contents), b"\n"))
    parts = [b"\n"] * (2 * len(contents) + 1)
    parts[:-1:2] = map(boundaries.__getitem__, sizes)
    parts[1::2] = contents
    # The first boundary has no message before it.
    parts[0] = parts[0][1:]
    return b"".join(parts)


def encode_channels(channels: list[str]) -> list[bytes]:
    """Do what :func:`.encode_channel` does for many names."""
    try:
        names = "\n".join(channels).encode().split(b"\n")
    except (TypeError, UnicodeEncodeError):
        names = []
    if len(names) == len(channels) and all(names):
        return names
    # One of them is wrong: this says which, and why.
    return [encode_channel(channel) for channel in channels]


def pack_chunks(
    names: list[bytes], data: bytes, size: int, most: int | None = None
) -> Iterator[tuple[bytes, int]]:
    """Do what :func:`pack_names` does, in chunks.

    :param size: the bytes that a chunk may have, unless one record needs more
    :param most: the records that a chunk may have
    :return: the chunks, and the number of records in each
    """
    longest = max(map(len, names), default=0) + len(data) + RECORD_OVERHEAD
    count = max(1, size // longest)
    if most is not None:
        count = min(most, count)
    for start in range(0, len(names), count):
        batch = names[start : start + count]
        yield pack_names(batch, data), len(batch)
