"""Every bound of a hub and of a client, its default and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from ._records.layout import MERGED_SIZE, RECORD_OVERHEAD

MIB: Final = 1024 * 1024

#: Bytes of a frame before WELCOME, and of any JSON body: room for names and tokens, and all that
#: a stranger can make the hub buffer. HTTP servers allow header lists of 8 to 64 KiB.
MAX_OPENING_FRAME: Final = 16_384

#: Characters of a reason that is given to the peer; more is cut off. As JSON they fit.
MAX_REASON: Final = 1_000

#: Levels of nesting in JSON. What is specified has two.
MAX_NESTING: Final = 16

#: Bytes of the preface: ``HYPS/`` and a version, with room for versions to come.
MAX_PREFACE: Final = 16

#: What a queued chunk costs besides its bytes, so that a flood of tiny ones is bounded too.
CHUNK_OVERHEAD: Final = 64

#: PONGs that may wait to be sent. A peer has one PING outstanding, so two means it does not wait
#: for answers; some slack costs 13 bytes each.
MAX_PONGS: Final = 16

#: Work that is done for one session before others get their turn: some milliseconds of it. A
#: record that is taken is one unit, and so is a run that is handed to a subscriber.
PASS_WORK: Final = 4_096

#: Units of work in deciding on a record of SUBSCRIBE by itself.
SUBSCRIBE_WORK: Final = 8

#: Units of work in looking at a frame, whatever is in it.
FRAME_WORK: Final = 8

#: Bytes by which a frame that arrives must grow in each heartbeat interval: a hundredth of what the
#: slowest links bring, and far more than a byte now and then, which would keep a megabyte taken for
#: as long as somebody likes.
MIN_PROGRESS: Final = 4_096

#: The largest ``max_frame`` that a client believes, so that a hub cannot make it buffer more.
MAX_FRAME_CEILING: Final = 256 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a hub and, where it says so, of a client. All of them are enforced.

    :param max_message: bytes of one message. 1 MiB is the default of NATS too. Anything larger is a
        file, and belongs into a store.
    :param max_channel: bytes of a channel's name. Names are keys, which each end holds once.
    :param max_channels: channels that one session may hold. Each costs the hub about 200 bytes.
    :param max_in_flight: records that one session may have sent without an answer. It also bounds
        the answers that the hub keeps for a session.
    :param max_buffer: bytes queued for one session before the hub drops its messages and counts
        them. Small enough for thousands of stalled sessions, large enough for a burst of 100,000
        small messages.
    :param max_total_buffer: bytes queued for all sessions together; a message that several wait for
        counts once. Above this bound the session with the longest queue loses its messages. Enough
        for some dozens of sessions at ``max_buffer``, and little enough for the smallest servers.
    :param max_kept: channels without subscribers that the hub goes on counting, so that a short
        disconnection is a gap of known size: as many as one session may hold. Each costs about 400
        bytes. When there are more, the session that left the most loses its own first.
    :param keep_time: the hub counts them for at least this many seconds, and at most three times as
        many. Clients come back in seconds. After minutes a fresh start serves better than a number.
    :param max_sessions: open sessions of one hub. Each takes a file descriptor, so the operating
        system's limit may be reached first.
    :param max_strangers: connections of one hub that have not opened a session yet. At the bound
        the hub closes the oldest. When clients come back all at once, some hundred open a session
        each second and each takes a round trip: this leaves a lot of room.
    :param max_strangers_per_address: the same, for one address
    :param max_backlog: bytes that one client queues before ``publish()`` waits
    :param hello_timeout: seconds that opening a session may take
    :param close_timeout: seconds that a goodbye may take: flushing, and waiting for the peer
    :param heartbeat: seconds without a sign of life before a PING, and again before giving up.
        Most proxies and NATs forget connections that are idle for a minute or more.
    """

    max_message: int = MIB
    max_channel: int = 255
    max_channels: int = 262_144
    max_in_flight: int = 65_536
    max_buffer: int = 16 * MIB
    max_total_buffer: int = 1024 * MIB
    max_kept: int = 262_144
    keep_time: float = 60.0
    max_sessions: int = 10_000
    max_strangers: int = 1_024
    max_strangers_per_address: int = 512
    max_backlog: int = 4 * MIB
    hello_timeout: float = 10.0
    close_timeout: float = 5.0
    heartbeat: int = 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{field.name} must be a number, not {value!r}")
            if isinstance(field.default, int) and not isinstance(value, int):
                raise TypeError(f"{field.name} must be an int, not {value!r}")
            if not value > 0:
                raise ValueError(f"{field.name} must be positive, not {value!r}")
        if self.heartbeat > 3600:
            raise ValueError(f"heartbeat must be at most 3600 seconds, not {self.heartbeat!r}")
        if self.max_frame > MAX_FRAME_CEILING:
            raise ValueError(f"max_message must be under {MAX_FRAME_CEILING // MIB} MiB")

    @staticmethod
    def of(limits: Limits | None) -> Limits:
        """Return the limits that a user gave, or the default ones.

        :raises TypeError: if they are something else
        """
        if limits is None:
            return Limits()
        if not isinstance(limits, Limits):
            raise TypeError(f"limits must be a hyps.Limits, not {limits!r}")
        return limits

    @property
    def max_frame(self) -> int:
        """Bytes of a frame's kind and body: the largest record, and room above it.

        The extra room lets the hub refuse a message that slightly exceeds ``max_message`` with a
        code in its ACK, instead of ending the session.
        """
        return self.max_message + self.max_channel + RECORD_OVERHEAD + MERGED_SIZE
