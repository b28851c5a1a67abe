"""What the broker routes by: channels and their subscribers."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from .._records.position import format_position

if TYPE_CHECKING:
    from collections.abc import Iterator


class Channel:
    """A channel that has or had subscribers, and its position."""

    __slots__ = ("count", "generation", "name", "subscribers")

    def __init__(
        self, name: bytes, generation: bytes, subscribers: tuple[Subscriber, ...] = ()
    ) -> None:
        self.name: bytes = name
        self.generation: bytes = generation
        self.count: int = 0
        # In the order in which they subscribed, which is the order of delivery. A tuple, because
        # most channels have a single subscriber, and all of these share that subscriber's tuple.
        self.subscribers: tuple[Subscriber, ...] = subscribers

    @property
    def position(self) -> bytes:
        """Generation and count, as they stand in SUBSCRIBE_ACK and GAP."""
        return format_position(self.generation, self.count)


class Left:
    """The channels that one session left within one period and that have no subscriber since."""

    __slots__ = ("channels", "is_closed")

    def __init__(self) -> None:
        # A plain dict gets slower at its front with each item that is removed there.
        self.channels: OrderedDict[Channel, None] = OrderedDict()
        #: The period is over: what the session leaves from now on goes into another one.
        self.is_closed: bool = False


class Session(Protocol):
    """What :attr:`Broker.sessions` shows of an open session."""

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
    """What holds channels: a bounded queue of records, such as the output of a session."""

    #: The tuple ``(self,)``, which all channels that only this one holds share; empty once it has
    #: left all channels.
    alone: tuple[Subscriber, ...]
    #: It receives no more messages, and nobody counts these as lost.
    is_closed: bool
    #: The channels that it left, see :class:`~.retention.Retention`.
    left: Left | None
    #: Channels with a gap that it has not queued yet.
    gaps: dict[Channel, int]
    #: Bytes that wait, and 64 for each chunk.
    queued: int

    def __hash__(self) -> int: ...

    def deliver(self, channels: dict[Channel, int], records: bytes, count: int) -> int | None:
        """Queue all of these records, or none of them and remember a gap in each channel.

        :param channels: the count of each channel before these records
        :param count: the number of records
        :return: how many gaps it had to queue first; None if there was no room
        """
        ...

    def note_gap(self, channel: Channel) -> None:
        """Remember that messages of a channel were missed, to tell of it soon."""
        ...

    def close(self) -> None:
        """Accept no more messages. What is queued will still be sent."""
        ...

    def weigh(self) -> Iterator[tuple[float, int]]:
        """Estimate the memory that emptying this queue would free.

        :return: for each part of the queue: bytes, and how many chunks it looked at
        """
        ...

    def shed(self) -> Iterator[list[bytes]]:
        """Give up the messages that wait, and drop the next ones as if there were no room.

        The broker calls :meth:`note_shed` with the channels of what it gets, and then
        :meth:`end_shedding`.

        :return: records, one part of the queue at a time
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
