"""Events: what :meth:`next_event` returns, in the order in which it happened."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from .errors import (
    HypsError,
    InvalidChannel,
    MessageTooLarge,
    PermissionDenied,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._records.runs import Batch, Run

GapReason = Literal["hub", "client", "reconnect"]


class NeedData(enum.Enum):
    """Type of :data:`NEED_DATA`."""

    NEED_DATA = "NEED_DATA"


#: There is no event before more bytes are received.
NEED_DATA: Final = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class Hello:
    """A client introduced itself. Call ``accept()`` or ``refuse()``.

    :param client: the name and version it gave
    :param token: its token, or None
    :param features: names of the extensions it knows
    """

    client: str
    # Not in the repr: a token must not get into a log.
    token: str | None = field(repr=False)
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """The hub took records from a session and queued their answers.

    An embedder that serves several sessions adds up the work. When one session has caused more than
    ``PASS_WORK`` (4,096), some milliseconds, let the others have a turn.

    :param records: how many; 0 if the work was in frames without records
    :param work: how much work this was, in units of about one record taken or one run handed out
    """

    records: int
    work: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Welcome:
    """The hub opened the session. Operations may start.

    :param server: the hub's name and version
    :param session: the hub's name of this session, for logs
    :param features: names of the extensions it knows
    :param heartbeat: seconds of silence before a PING
    :param max_message: bytes of a message
    :param max_channel: bytes of a channel's name
    :param max_frame: bytes of a frame's kind and body
    :param max_channels: channels of this session
    :param max_in_flight: records sent without an answer
    :param expires_in: seconds until the client's token expires, if it does
    """

    server: str
    session: str
    features: tuple[str, ...]
    heartbeat: int
    max_message: int
    max_channel: int
    max_frame: int
    max_channels: int
    max_in_flight: int
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """The hub answered the PING that was out, see :meth:`ClientProtocol.ping`.

    :param pinged_at: when that one was sent, on the clock of ``ping()`` and ``tick()``
    """

    pinged_at: float


@dataclass(frozen=True, slots=True)
class Acked:
    """The hub carried out operations.

    :param operations: their ids, a range of consecutive numbers
    """

    operations: range


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record of an operation that the hub refused.

    :param index: its place in the operation, from 0
    :param code: the hub's answer, one byte
    :param channel: the channel, if the operation was to subscribe it
    :param held: the channels that the session holds, if the hub allows no more
    """

    index: int
    code: bytes
    channel: str | None = None
    held: int | None = field(default=None, compare=False)

    def error(self) -> HypsError:
        """Return the exception for this refusal."""
        kind, why = _REFUSALS.get(self.code, (HypsError, "refused with an unknown code"))
        if self.channel is not None:
            why += f": {self.channel!r}"
        if kind is PermissionDenied and self.held is not None:
            why += f": the session holds {self.held} channels, the most that the hub allows"
        return kind(f"the hub answered {self.code.decode('latin-1')!r}: {why}")


_REFUSALS: dict[bytes, tuple[type[HypsError], str]] = {
    b"d": (PermissionDenied, "denied"),
    b"s": (MessageTooLarge, "the message is too large"),
    b"n": (InvalidChannel, "the channel's name is refused"),
    b"u": (Unavailable, "not taken, the hub is draining or overloaded"),
}


@dataclass(frozen=True, slots=True)
class Rejected:
    """The hub refused some records of an operation, or all; it carried out the others.

    :param operation: its id
    :param refusals: the refused records, in order
    """

    operation: int
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended before these operations had an answer. Their outcome is unknown.

    :param operations: their ids
    """

    operations: range


class Messages:
    """Messages arrived.

    :param runs: the messages in order, by channel; neighbours may have the same channel
    """

    # Not a dataclass: most readers take batches, which are cheaper than runs.
    __slots__ = ("batches",)
    __match_args__ = ("runs",)

    def __init__(self, runs: Iterable[Run | Batch]) -> None:
        #: The same messages, with neighbours of different channels together: cheaper than runs.
        self.batches: tuple[Run | Batch, ...] = tuple(runs)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The messages in order, by channel; neighbours may have the same channel."""
        return tuple([run for batch in self.batches for run in batch.runs])

    def __repr__(self) -> str:
        return f"Messages(runs={self.runs!r})"

    def __eq__(self, other: object) -> bool:
        return self.runs == other.runs if isinstance(other, Messages) else NotImplemented


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a channel were missed at this place.

    :param channel: name of the channel
    :param missed: how many, or None if that cannot be known
    :param reason: ``"hub"``, the session's buffer at the hub was full; ``"client"``, the
        subscription's buffer was full, or over HTTP/2 a message was larger than the client's
        ``Limits.max_message`` allows; ``"reconnect"``, they were published between two
        connections
    """

    channel: str
    missed: int | None
    reason: GapReason


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The hub is about to leave. Collect the answers, close, and connect again.

    :param reason: in words
    :param reconnect_after: seconds to wait before connecting again
    """

    reason: str
    reconnect_after: float


@dataclass(frozen=True, slots=True)
class TokenOffered:
    """A client offers another token for its session. Call ``tell_expiry()`` or ``fail()``.

    :param token: the token
    """

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenExpiry:
    """The hub tells when the session's token expires. When it has, the session ends.

    :param expires_in: seconds; None if it does not expire
    :param renewed: whether the token is the one that the client offered last; None if this is a
        warning and no answer
    """

    expires_in: float | None
    renewed: bool | None


@dataclass(frozen=True, slots=True)
class PeerError:
    """The peer ended the session with an ERROR.

    :param code: see :class:`~hyps.protocol.ErrorCode`; others are possible
    :param message: in words
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer sends nothing more.

    :param clean: it ended between two frames and not within one
    """

    clean: bool


ClientEvent = (
    Welcome
    | Pong
    | Acked
    | Rejected
    | Lost
    | Messages
    | Gap
    | GoingAway
    | TokenExpiry
    | PeerError
    | Closed
)
ServerEvent = Hello | Taken | TokenOffered | PeerError | Closed
