"""Checked records, as the bytes that arrived, and the messages that readers make of them."""

from __future__ import annotations

from itertools import islice, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar, Final

from .layout import HEAD, contents, end_of, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Searching for the channel's name is faster than going from length to length if records have at
#: most this many bytes on average.
SMALL: Final = 128


class Message:
    """A message as it was published: its channel and its bytes. It unpacks as a pair of them.

    Do not change it: all subscriptions of a process that receive the message share one object.
    Type checkers enforce that, and it has no hash for the same reason.

    :param channel: name of the channel
    :param data: the published bytes
    """

    # The client makes one object for each message delivered. A plain class with slots, made
    # without __init__, takes a quarter less time than a dataclass. Reading the attributes of a
    # named tuple takes 2.5 times as long, and there can be a thousand readers. Refusing changes at
    # run time would make the objects 1.5 times as expensive.
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

    # A class with __eq__ has no hash; this tells type checkers.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str | bytes]:
        yield self.channel
        yield self.data


class Run:
    """Neighbouring records of one channel, checked, as the bytes they came in.

    :param channel: name of the channel
    :param records: one record or more, concatenated
    :param count: how many records these are
    :param contents: the bytes of each message, if they are known
    """

    __slots__ = ("_contents", "_messages", "channel", "count", "records")

    def __init__(
        self, channel: str, records: bytes, count: int, contents: list[bytes] | None = None
    ) -> None:
        self.channel: str = channel
        self.records: bytes = records
        self.count: int = count
        # The bytes of each message, if the scan found them; given up for the messages.
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
                head = HEAD + len(self.channel.encode()) + 1
                messages = [Message(self.channel, self.records[head:-1])]
            else:
                messages = _make_messages(self.channel, self._contents or _contents_of(self))
                self._contents = None
            self._messages = messages
        return messages

    @property
    def sizes(self) -> Iterator[int]:
        """The size of each record in bytes, its length included."""
        return sizes(self.records)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channel, as a tuple: a :class:`Batch` has several."""
        return (self.channel,)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The run itself, as a tuple: a :class:`Batch` has several."""
        return (self,)

    def split(self, count: int) -> tuple[Run, Run]:
        """Cut the run in two.

        :param count: records in the first part, more than none and fewer than all
        :return: both parts
        """
        position = sum(islice(self.sizes, count))
        return (
            Run(self.channel, self.records[:position], count),
            Run(self.channel, self.records[position:], self.count - count),
        )


class Batch:
    """Neighbouring records of several channels, checked, as the bytes they came in.

    Readers take its :attr:`messages`; code that goes by channel takes its :attr:`runs`.

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
        # Per message: unpack(), inlined. The first newline behind the length ends the channel.
        for message, (channel, stop, _) in zip(messages, parts, strict=True):
            message.channel = channel  # type: ignore[misc]
            message.data = records[find(b"\n", position + HEAD) + 1 : stop - 1]  # type: ignore[misc]
            position = stop
        return messages

    def _singles(self) -> Iterator[tuple[str, int, int]]:
        """Iterate over the parts with each record by itself."""
        records = self.records
        position = 0
        for channel, stop, count in self.parts:
            for _ in range(count - 1):
                position = end_of(records, position)
                yield channel, position, 1
            yield channel, stop, 1
            position = stop

    @property
    def channels(self) -> tuple[str, ...]:
        """The channel of each run."""
        return tuple([channel for channel, _, _ in self.parts])

    @property
    def runs(self) -> tuple[Run, ...]:
        """The records by channel; made once, however many readers share them."""
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
    """Make a run of neighbouring records if they have one channel, and else a batch.

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
    # The caller sets the attributes. This way there is no look-up of __new__ for each message.
    return list(map(Message.__new__, repeat(Message, count)))


def _make_messages(channel: str, contents: list[bytes]) -> list[Message]:
    messages = _new_messages(len(contents))
    # Per message.
    for message, content in zip(messages, contents, strict=True):
        message.channel = channel  # type: ignore[misc]
        message.data = content  # type: ignore[misc]
    return messages


def _contents_of(run: Run) -> list[bytes]:
    """Return the bytes of each message of a run."""
    name = run.channel.encode()
    if len(run.records) <= run.count * SMALL:
        found = split(run.records, name + b"\n")
        # Names contain no newline, so two occurrences never overlap. If there are as many of them
        # as records, none is inside of a message.
        if len(found) == run.count:
            return found
    return contents(run.records, 0, run.count, name)


#: Removes the newline behind a message and the length of the next record.
_without_boundary: Final = itemgetter(slice(-1 - HEAD))


def split(records: bytes, prefix: bytes) -> list[bytes]:
    r"""Do what :func:`.layout.contents` does, for many small messages at once.

    The result is wrong if a message contains the prefix: then it has too many items.

    :param records: records of one channel
    :param prefix: the channel's name and ``\n``
    """
    # The first part is the first length. Each other part is a message and its newline, followed by
    # the length of the next record if there is one.
    parts = records.split(prefix)
    last = parts.pop()
    found = list(map(_without_boundary, parts))
    del found[0]
    found.append(last[:-1])
    return found
