"""What the broker routes by: channels, and those who hold them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from .._records.position import format_position

if TYPE_CHECKING:
    from collections.abc import Iterator


class Channel:
    """A channel that somebody holds or held: its position, and its subscribers."""

    __slots__ = ("count", "generation", "name", "subscribers")

    def __init__(
        self, name: bytes, generation: bytes, subscribers: tuple[Subscriber, ...] = ()
    ) -> None:
        self.name: bytes = name
        self.generation: bytes = generation
        self.count: int = 0
        # In order: the first to subscribe is the first to be served. A tuple, because channels
        # that one session holds alone, the most, share that session's.
        self.subscribers: tuple[Subscriber, ...] = subscribers

    @property
    def position(self) -> bytes:
        """Generation and count, as they are written to subscribers."""
        return format_position(self.generation, self.count)


class Left:
    """The channels that one session left within one period and that nobody holds since."""

    __slots__ = ("channels", "is_closed")

    def __init__(self) -> None:
        # Ordered, as a dict gets slower to take from the front of with each that was taken.
        self.channels: OrderedDict[Channel, None] = OrderedDict()
        #: The period is over: what the session leaves from now on is kept apart.
        self.is_closed: bool = False


class Session(Protocol):
    """An open session, as far as it can be looked at in :attr:`Broker.sessions`."""

    @property
    def channels(self) -> int:
        """How many channels the session holds."""
        ...

    @property
    def missed(self) -> int:
        """Messages that this session's bound left no room for."""
        ...

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent or are being sent, and 64 for each batch of them."""
        ...

    def go_away(self, reason: str, reconnect_after: float = 0.0) -> None:
        """Ask the client to leave, see :meth:`ServerProtocol.go_away`."""
        ...


class Subscriber(Protocol):
    """Who holds channels, as far as the broker knows: something with a bounded queue of records.

    Whatever takes records can be one, such as the output of a session.
    """

    #: The subscribers of a channel that only this one holds; none once it has left all.
    alone: tuple[Subscriber, ...]
    #: It gets no more messages, and they are nobody's loss.
    is_closed: bool
    #: What it left, see :class:`~.retention.Retention`.
    left: Left | None
    #: Channels with a gap that it was not told of yet.
    gaps: dict[Channel, int]
    #: Bytes that wait, and 64 for each chunk of them.
    queued: int

    def __hash__(self) -> int: ...

    def deliver(self, channels: dict[Channel, int], records: bytes, count: int) -> int | None:
        """Queue records of channels, all or none; none is a gap in each, which will be told.

        :param channels: the count of each before these records
        :param count: how many records these are
        :return: how many gaps had to be told first; None if there was no room
        """
        ...

    def close(self) -> None:
        """Take no more messages. What is queued is still to be sent."""
        ...

    def weigh(self) -> Iterator[tuple[float, int]]:
        """Estimate the memory that would be free if only this subscriber held nothing.

        :return: bytes, and how many chunks were looked at, of a part of the queue each
        """
        ...

    def shed(self) -> Iterator[list[bytes]]:
        """Lose the messages that wait, and drop the next ones as if there were no room.

        The broker calls :meth:`note_shed` with what was in them, and then :meth:`end_shedding`.

        :return: records, of a part of the queue each
        """
        ...

    def note_shed(self, channels: dict[Channel, int], count: int) -> None:
        """Count messages of these channels as lost.

        :param count: how many messages
        """
        ...

    def end_shedding(self) -> None:
        """Let messages pass again once there is room."""
        ...
