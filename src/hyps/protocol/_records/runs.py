"""What arrived: records that were checked, and the messages that they become when they are read."""

from __future__ import annotations

from itertools import repeat
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LENGTH: Final = Struct(">I")

#: Bytes of a record, on average, up to which it is faster to search for a channel's name than to
#: go from length to length.
SMALL: Final = 128


class Message:
    """A message as it was published: its channel and its bytes. It unpacks as a pair of them.

    It is not to be changed, which type checkers see to: all subscriptions of a process that get the
    message share one object. So it has no hash either.

    :param channel: name of the channel
    :param data: the published bytes
    """

    # Not a dataclass, and made by the reader without __init__: there is one for each message
    # delivered, and so it takes a quarter less time. Nothing is cheaper to read: of a tuple each
    # attribute takes two and a half times as long, and there can be a thousand readers. Refusing to
    # be changed makes making one take half as long again.
    __slots__ = ("channel", "data")
    __match_args__ = ("channel", "data")

    channel: Final[str]
    data: Final[bytes]

    def __init__(self, channel: str, data: bytes) -> None:
        self.channel = channel
        self.data = data

    def __repr__(self) -> str:
        return f"Message(channel={self.channel!r}, data={self.data!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self.channel == other.channel and self.data == other.data

    # What has __eq__ has no hash; said for type checkers.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str | bytes]:
        yield self.channel
        yield self.data


class Run:
    """Neighbouring records of one channel, checked, as the bytes they came in.

    :param channel: name of the channel
    :param records: one record or more, concatenated
    :param count: how many records these are
    """

    __slots__ = ("_contents", "_messages", "channel", "count", "records")

    def __init__(
        self, channel: str, records: bytes, count: int, contents: list[bytes] | None = None
    ) -> None:
        self.channel: str = channel
        self.records: bytes = records
        self.count: int = count
        # The records' messages as bytes, where whoever checked the records has them; until they
        # are made into messages.
        self._contents = contents
        self._messages: list[Message] | None = None

    def __repr__(self) -> str:
        return f"Run(channel={self.channel!r}, records={self.records!r}, count={self.count})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Run):
            return NotImplemented
        return self.channel == other.channel and self.records == other.records

    @property
    def messages(self) -> Sequence[Message]:
        """The records as messages; made once, however many readers share the run."""
        messages = self._messages
        if messages is None:
            if self.count == 1:
                head = 4 + len(self.channel.encode()) + 1
                messages = [Message(self.channel, self.records[head:-1])]
            else:
                messages = _make_messages(self.channel, self._contents or _contents(self))
                self._contents = None
            self._messages = messages
        return messages

    @property
    def channels(self) -> tuple[str, ...]:
        """The channel: what a :class:`Batch` has several of."""
        return (self.channel,)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Itself, likewise."""
        return (self,)

    def split(self, count: int) -> tuple[Run, Run]:
        """Cut the run in two.

        :param count: records in the first part, more than none and fewer than all
        :return: both parts
        """
        position = 0
        for _ in range(count):
            position += 4 + _LENGTH.unpack_from(self.records, position)[0]
        return (
            Run(self.channel, self.records[:position], count),
            Run(self.channel, self.records[position:], self.count - count),
        )


class Batch:
    """Neighbouring records of several channels, checked, as the bytes they came in.

    :param records: the records, concatenated
    :param parts: for each run its channel, the offset behind it and the number of its records
    """

    __slots__ = ("_messages", "_runs", "count", "parts", "records")

    def __init__(self, records: bytes, parts: Sequence[tuple[str, int, int]]) -> None:
        self.records: bytes = records
        self.parts: Sequence[tuple[str, int, int]] = parts
        self.count: int = sum([count for _, _, count in parts])
        self._messages: list[Message] | None = None
        self._runs: tuple[Run, ...] = ()

    def __repr__(self) -> str:
        return f"Batch(records={self.records!r}, parts={self.parts!r})"

    @property
    def messages(self) -> Sequence[Message]:
        """The records as messages; made once, however many readers share the batch."""
        if self._messages is None:
            self._messages = self._make_messages()
        return self._messages

    def _make_messages(self) -> list[Message]:
        records = self.records
        find = records.find
        parts = self.parts if self.count == len(self.parts) else list(self._singles())
        messages = _new_messages(self.count)
        position = 0
        # Per message.
        for message, (channel, stop, _) in zip(messages, parts, strict=True):
            message.channel = channel  # type: ignore[misc]
            message.data = records[find(b"\n", position + 4) + 1 : stop - 1]  # type: ignore[misc]
            position = stop
        return messages

    def _singles(self) -> Iterator[tuple[str, int, int]]:
        """Give the parts with each record by itself."""
        records = self.records
        position = 0
        for channel, stop, count in self.parts:
            for _ in range(count - 1):
                position += 4 + _LENGTH.unpack_from(records, position)[0]
                yield channel, position, 1
            yield channel, stop, 1
            position = stop

    @property
    def channels(self) -> tuple[str, ...]:
        """The channel of each run."""
        return tuple([channel for channel, _, _ in self.parts])

    @property
    def runs(self) -> tuple[Run, ...]:
        """The same by channel; made once, as readers that want runs share those."""
        if not self._runs:
            starts = [0, *[stop for _, stop, _ in self.parts]]
            self._runs = tuple(
                [
                    Run(channel, self.records[start:stop], count)
                    for start, (channel, stop, count) in zip(starts, self.parts, strict=False)
                ]
            )
        return self._runs


def join(
    data: bytes,
    start: int,
    parts: Sequence[tuple[str, int, int]],
    contents: list[bytes] | None = None,
) -> Run | Batch:
    """Make what is simplest of neighbouring records.

    :param data: bytes with the records
    :param start: where the first one starts
    :param parts: see :class:`Batch`, with the offsets in ``data``
    :param contents: the message of each record, where it is known
    """
    channel, stop, count = parts[-1]
    records = data[start:stop]
    if len(parts) == 1:
        return Run(channel, records, count, contents)
    if start:
        parts = [(channel, stop - start, count) for channel, stop, count in parts]
    return Batch(records, parts)


def _new_messages(count: int) -> list[Message]:
    # Their attributes are set by who calls this, and there is no look-up for each.
    return list(map(Message.__new__, repeat(Message, count)))


def _make_messages(channel: str, contents: list[bytes]) -> list[Message]:
    messages = _new_messages(len(contents))
    # Per message.
    for message, content in zip(messages, contents, strict=True):
        message.channel = channel  # type: ignore[misc]
        message.data = content  # type: ignore[misc]
    return messages


def _contents(run: Run) -> list[bytes]:
    """Give the bytes of each message of a run."""
    name = run.channel.encode()
    records = run.records
    if len(records) <= run.count * SMALL:
        contents = split(records, name + b"\n")
        # Names contain no newline, so two occurrences never overlap. If there are as many of them
        # as records, none is in a message.
        if len(contents) == run.count:
            return contents
    # Per message.
    unpack = _LENGTH.unpack_from
    head = 4 + len(name) + 1
    contents = []
    position, end = 0, len(records)
    while position < end:
        stop = position + 4 + unpack(records, position)[0]
        contents.append(records[position + head : stop - 1])
        position = stop
    return contents


#: Cut off a newline and the length behind it.
_without_boundary: Final = itemgetter(slice(-5))


def split(records: bytes, prefix: bytes) -> list[bytes]:
    """Cut records of one channel into their messages, if none of these contains the prefix."""
    # Each part but the first is a message and its newline; and but for the last, the length of the
    # next one.
    parts = records.split(prefix)
    last = parts.pop()
    contents = list(map(_without_boundary, parts))
    del contents[0]
    contents.append(last[:-1])
    return contents
