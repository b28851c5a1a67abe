"""The heartbeat: whether the peer is alive, judged by what arrives and by what leaves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ErrorCode, RemoteProtocolError
from ..limits import MIN_PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable


class _Unfinished(NamedTuple):
    """A frame that has arrived in part, when it last grew enough.

    :param number: see :attr:`.Wire.unfinished_frame`
    :param size: how much of it had arrived
    :param at: the time
    :param is_overdue: whether its time is up, see :meth:`Heartbeat.tick`
    """

    number: int
    size: int
    at: float
    is_overdue: bool = False


class Heartbeat:
    """Judges one peer. It has no clock and sends nothing: the endpoint does, at each tick.

    :param interval: seconds of silence before a PING, and again before giving up
    """

    # A hub has thousands of these.
    __slots__ = (
        "_alive_at",
        "_before_ping",
        "_gone",
        "_opened_at",
        "_overdue",
        "_ping",
        "_ping_is_out",
        "_slow_send",
        "_unfinished",
        "_unsent",
        "handed",
        "heard",
        "interval",
        "pinged_at",
        "sent",
    )

    def __init__(self, interval: float) -> None:
        self.interval: float = interval
        #: Whether bytes have arrived since the last tick.
        self.heard: bool = False
        self._opened_at: float | None = None
        self._alive_at = 0.0
        #: Bytes that the endpoint handed out. The endpoint sets this and the next one, without a
        #: call, because it does so at each send.
        self.handed: int = 0
        #: How many of them belong to completed sends.
        self.sent: int = 0
        # At the last tick: the bytes before a send that was under way, the bytes that the transport
        # held, and the bytes that had left it for sure.
        self._slow_send: int | None = None
        self._unsent: int | None = None
        self._gone = 0
        self._ping = 0
        self._ping_is_out = False
        # Bytes that were handed out before the PING, as long as it may be queued behind some of
        # them.
        self._before_ping: int | None = None
        #: When the last PING was sent.
        self.pinged_at: float = 0.0
        self._overdue = False
        self._unfinished: _Unfinished | None = None

    def ping(self, now: float, send: Callable[[bytes], object]) -> bool:
        """Send a PING, unless one is out: there is one at most.

        :param send: sends a PING with this body
        :return: whether it did
        """
        if self._ping_is_out:
            return False
        self._ping += 1
        self._ping_is_out = True
        self._before_ping = self.handed
        self.pinged_at = now
        send(self._ping.to_bytes(8, "big"))
        return True

    def take_pong(self, body: bytes) -> bool:
        """Tell whether a PONG answers the PING that is out."""
        if not self._ping_is_out or body != self._ping.to_bytes(8, "big"):
            return False
        self._ping_is_out = False
        return True

    # Judging

    def judge_opening(self, now: float, timeout: float, peer: str) -> float:
        """Judge a peer that has not opened the session yet.

        :param timeout: seconds that it has
        :param peer: the peer, for the error
        :return: when to judge again, at the latest
        :raises RemoteProtocolError: its time is up
        """
        if self._opened_at is None:
            self._opened_at = now
        self._alive_at = now
        return self._judge(now, self._opened_at + timeout, f"{peer} for {timeout:g} seconds")

    def judge_unfinished(self, now: float, found: tuple[int, int] | None, peer: str) -> float:
        """Judge an unfinished frame: it must grow by ``MIN_PROGRESS`` in each interval.

        :param found: see :attr:`.Wire.unfinished_frame`
        :param peer: the peer, for the error
        :return: when to judge again, at the latest
        :raises RemoteProtocolError: it does not grow
        """
        if found is None:
            self._unfinished = None
            return math.inf
        number, size = found
        before = self._unfinished
        if before is None or before.number != number or size >= before.size + MIN_PROGRESS:
            before = self._unfinished = _Unfinished(number, size, now)
        deadline = before.at + self.interval
        if now < deadline:
            return deadline
        if not before.is_overdue:
            self._unfinished = before._replace(is_overdue=True)
            return now
        raise RemoteProtocolError(
            f"a frame from the {peer} that does not go on: under {MIN_PROGRESS} bytes of it "
            f"in {self.interval} seconds",
            ErrorCode.TIMEOUT,
        )

    def judge_silence(
        self,
        now: float,
        unsent: int | None,
        peer: str,
        *,
        answers_ping: bool,
        ping: Callable[[bytes], object],
    ) -> float:
        """Judge a peer by its silence.

        :param unsent: bytes that the transport still holds, if it can tell
        :param peer: the peer, for the error
        :param answers_ping: see :attr:`.Wire.answers_ping`
        :param ping: sends a PING with this body
        :return: when to judge again, at the latest
        :raises RemoteProtocolError: it has not answered in time
        """
        if self._see_progress(unsent) or self.heard:
            self.heard = self._overdue = False
            self._alive_at = now
        silent_at = self._alive_at + self.interval
        if now < silent_at:
            return silent_at
        self.ping(now, ping)
        if not answers_ping:
            # This peer has never answered one, so its silence proves nothing.
            return now + self.interval
        # Count from the PING on: the first tick after a pause may come very late.
        deadline = max(silent_at, self.pinged_at) + self.interval
        return self._judge(now, deadline, f"{peer} for {2 * self.interval:g} seconds")

    def _see_progress(self, unsent: int | None) -> bool:
        """Tell whether output that may delay the PING has moved on since the last tick."""
        gone = self.sent - (unsent or 0)
        behind = self._before_ping
        # A PING that left our queue proves nothing: the system of a frozen peer accepts it.
        has_moved = unsent is not None and behind is not None and min(gone, behind) > self._gone
        if self._slow_send is not None and not has_moved:
            has_moved = self.sent > self._slow_send or unsent != self._unsent
        self._gone = max(gone, self._gone)
        self._slow_send = self.sent if self.handed > self.sent else None
        self._unsent = unsent
        if behind is not None and gone > behind:
            self._before_ping = None
        return behind is not None and has_moved

    def _judge(self, now: float, deadline: float, silence: str) -> float:
        """Give the peer up at the second tick after the deadline.

        A late tick may mean that this process was busy and not the peer silent. So the first one
        only asks for another at once, with a read in between.
        """
        if now < deadline:
            return deadline
        if not self._overdue:
            self._overdue = True
            return now
        raise RemoteProtocolError(f"nothing from the {silence}", ErrorCode.TIMEOUT)
