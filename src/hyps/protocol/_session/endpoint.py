"""What both ends of a connection have in common: opening, states, heartbeat, goodbye.

The rules:

1. A table says for each state which kinds of frames may arrive and what takes them. Nothing else
   decides what is legal.
2. State moves as frames are looked at, and they are looked at when the caller asks for events: so
   whoever reads the events sees history in order.
3. The first violation by the peer is the last: an ERROR for the peer is queued, the events of
   what was valid before it are handed out, and from then on :meth:`Endpoint.next_event` raises it.
4. There is no clock. :meth:`Endpoint.tick` is told the time, and says when it wants to be told
   again.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

from .._wire.fields import Fields, dump
from .._wire.frames import FIRST_IGNORABLE, NO_FRAME, VERSION, Kind
from ..errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from ..events import NEED_DATA, Closed, NeedData, PeerError
from ..limits import MAX_PONGS, MAX_REASON, MIN_PROGRESS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._wire.base import Wire
    from .output import OutputQueue

_Event = TypeVar("_Event")


class State(enum.Enum):
    """Where a connection is in its life."""

    #: The first frame has not come yet.
    OPENING = "opening"
    #: At the hub: HELLO came and is not answered yet.
    GREETED = "greeted"
    #: Operations may be sent.
    OPEN = "open"
    #: No new operations; what was begun is finished.
    DRAINING = "draining"
    #: What is queued is still sent; what arrives is discarded.
    CLOSED = "closed"


# Enum's own is a function in Python, which each frame would call.
State.__hash__ = object.__hash__  # type: ignore[method-assign]


class _Unfinished(NamedTuple):
    """A frame that arrives in part, when it was seen to grow enough for the last time.

    :param number: see :attr:`Wire.unfinished_frame`
    :param size: how much of it had come
    :param at: when
    :param is_overdue: whether it has had its time
    """

    number: int
    size: int
    at: float
    is_overdue: bool = False


class Endpoint(Generic[_Event]):
    """One end of one connection, without I/O."""

    # A hub has thousands of these.
    __slots__ = (
        "_alive_at",
        "_at_eof",
        "_before_ping",
        "_error",
        "_events",
        "_gone",
        "_handed",
        "_heard",
        "_heartbeat",
        "_opened_at",
        "_output",
        "_overdue",
        "_ping",
        "_ping_is_out",
        "_pinged_at",
        "_pongs",
        "_sent",
        "_slow_send",
        "_state",
        "_told",
        "_unfinished",
        "_unsent",
        "_wire",
        "limits",
    )

    _PEER: ClassVar[str]
    _TABLE: ClassVar[Mapping[State, Mapping[int, Callable[[Any, bytes], None]]]]

    def __init__(self, limits: Limits, wire: Wire, output: OutputQueue) -> None:
        self.limits: Limits = limits
        self._state = State.OPENING
        self._wire = wire
        self._output = output
        self._events: list[_Event | PeerError | Closed] = []
        # How many of them were handed out.
        self._told = 0
        self._error: RemoteProtocolError | None = None
        self._at_eof = False
        self._pongs = 0
        # The heartbeat, see tick().
        self._heartbeat: float = limits.heartbeat
        self._opened_at: float | None = None
        self._alive_at = 0.0
        self._heard = False
        # Bytes that were handed out, and how many of them in sends that are over.
        self._handed = 0
        self._sent = 0
        # At the last tick: those before a send that was under way, what the transport held, and
        # what has left it for sure.
        self._slow_send: int | None = None
        self._unsent: int | None = None
        self._gone = 0
        self._ping = 0
        self._ping_is_out = False
        # Bytes that were handed out before the PING, as long as it may be behind some of them.
        self._before_ping: int | None = None
        self._pinged_at = 0.0
        self._overdue = False
        self._unfinished: _Unfinished | None = None

    @property
    def farewell_time(self) -> float:
        """Seconds that its goodbye may take at most.

        What a peer is told that was silent for two heartbeat intervals goes out at once or not at
        all, and what is queued for it is not to stay in memory for long.
        """
        if self._error is not None and self._error.code == ErrorCode.TIMEOUT:
            return min(self.limits.close_timeout, self._heartbeat / 2)
        return self.limits.close_timeout

    @property
    def state(self) -> State:
        """Where the connection is in its life."""
        return self._state

    # Input

    def receive_data(self, data: bytes) -> None:
        """Take what the peer sent. Call :meth:`next_event` until ``NEED_DATA`` afterwards.

        :param data: any number of bytes; none mean that the peer sends no more
        """
        if not data:
            self._at_eof = True
        elif self._state is not State.CLOSED:
            self._heard = True
            self._wire.receive_data(data)

    def next_event(self) -> _Event | PeerError | Closed | NeedData:
        """Give the next thing that happened, or ``NEED_DATA``.

        An event may have queued output, an answer or a goodbye: call :meth:`data_to_send` after
        the last one, and also when this raises.

        :raises RemoteProtocolError: the peer broke the rules; at every call from then on. The
            peer is told by what is queued now. Send it, half-close, and discard what comes until
            the peer has closed too.
        """
        events = self._events
        while True:
            if events:
                event = events[self._told]
                self._told += 1
                if self._told == len(events):
                    events.clear()
                    self._told = 0
                return event
            if self._error is not None:
                raise self._error.with_traceback(None)
            try:
                if not self._advance():
                    return NEED_DATA
            except RemoteProtocolError as error:
                self._break_off(error)

    def _advance(self) -> bool:
        """Look at the next frame; False if there is none."""
        state = self._state
        if state is State.CLOSED:
            return False
        wire = self._wire
        if state is State.GREETED and wire.is_eager:
            return False
        frame = wire.next_frame()
        # The wire is another one when it was not known before.
        if self._wire.has_output:
            self._output.nudge()
        if frame is None:
            if self._at_eof:
                clean = not self._wire.buffered
                self._close()
                self._events.append(Closed(clean))
            return self._at_eof
        kind, body = frame
        handler = self._TABLE[state].get(kind)
        if handler is not None:
            handler(self, body)
        elif frame is not NO_FRAME and (
            kind < FIRST_IGNORABLE or state not in (State.OPEN, State.DRAINING)
        ):
            raise RemoteProtocolError(
                f"{_kind_name(kind)} from the {self._PEER}, which the state "
                f"{state.value!r} does not allow"
            )
        return True

    # Output

    def data_to_send(self, max_bytes: int = 4 * 65_536) -> bytes:
        """Give bytes for the peer and forget them: they must all be sent, in order.

        Call it again when they have been sent: until then they count against the bounds of what
        may be queued. ``b""`` means that there is nothing now; when :attr:`eof_is_due` is true
        then, half-close.

        :param max_bytes: add no further frame once there are so many bytes
        """
        self._pongs = 0
        self._sent = self._handed
        data = self._output.take(max_bytes)
        if data:
            self._handed += len(data)
        return data

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent or are being sent, and 64 for each batch of them."""
        return self._output.queued

    @property
    def eof_is_due(self) -> bool:
        """Everything has been handed out and nothing will follow."""
        return self._state is State.CLOSED and not self._output

    @property
    def is_finished(self) -> bool:
        """Nothing will follow in either direction, so the connection may be closed.

        For transports without a half-close, such as TLS: elsewhere the end of the peer's stream
        says the same, and without a doubt.
        """
        return self.eof_is_due and self._at_eof

    # Ending

    def discard(self) -> None:
        """Forget what was received or is to be sent: the transport is gone."""
        self._output.release()
        self._wire.discard()

    def fail(self, message: str, code: str = ErrorCode.INTERNAL) -> None:
        """End the connection with an ERROR for the peer. Harmless when it has ended.

        :param message: what the peer is told
        :param code: see :class:`ErrorCode`
        """
        if self._state is not State.CLOSED:
            self._close()
            self._send_error(code, message)

    def _break_off(self, error: RemoteProtocolError) -> None:
        self._error = error
        self._close()
        if error.code == ErrorCode.TIMEOUT:
            # Nobody reads it, and it can be much.
            self._output.clear()
        self._send_error(error.code, str(error))

    def _send_error(self, code: str, message: str) -> None:
        versions = [VERSION] if code == ErrorCode.VERSION else None
        body = dump(code=code, message=message[:MAX_REASON], versions=versions)
        self._output.put(Kind.ERROR, body)

    def _close(self) -> None:
        """Enter CLOSED and let go of everything that the connection held."""
        self._state = State.CLOSED
        self._wire.discard()
        self._output.wake()

    def _forbid(self, what: str) -> LocalProtocolError:
        return LocalProtocolError(f"{what} in the state {self._state.value!r}")

    # Time

    @property
    def wants_tick(self) -> bool:
        """Whether :meth:`tick` is to be called now, and then :meth:`next_event`."""
        return self._wire.wants_tick

    def tick(self, now: float, unsent: int | None = None) -> float:
        """Judge what the time means: send a PING, or give the peer up.

        Received bytes are a sign of life. So is output that gets through slowly, as long as a PING
        may have to wait for it: what the transport holds has become less, or a send that was
        under way at one tick is over at the next or has moved on. A send that is over at once is
        none, as a cut cable swallows many; and when the PING has left the peer has to answer,
        whoever takes all the rest.

        A late tick may mean that this process was busy and not the peer silent. So the first
        overdue tick only asks for another one at once, with a read in between.

        A frame that arrives in part must go on by ``MIN_PROGRESS`` in each interval, whatever else
        comes: what there is of it takes memory.

        :param now: seconds on any clock that does not go backwards
        :param unsent: bytes that the transport holds of what it was given, if it can tell
        :return: when to call again, at the latest
        """
        deadline = self._wire.tick(now)
        if self._wire.has_output:
            self._output.wake()
        return min(deadline, self._tick(now, unsent))

    def _tick(self, now: float, unsent: int | None) -> float:
        if self._state is State.CLOSED:
            return math.inf
        if self._state in (State.OPENING, State.GREETED):
            if self._opened_at is None:
                self._opened_at = now
            self._alive_at = now
            return self._judge(now, self._opened_at + self.limits.hello_timeout)
        deadline = self._judge_unfinished(now)
        return min(deadline, self._judge_silence(now, unsent))

    def _judge_unfinished(self, now: float) -> float:
        found = self._wire.unfinished_frame
        if found is None:
            self._unfinished = None
            return math.inf
        number, size = found
        before = self._unfinished
        if before is None or before.number != number or size >= before.size + MIN_PROGRESS:
            before = self._unfinished = _Unfinished(number, size, now)
        deadline = before.at + self._heartbeat
        if now < deadline:
            return deadline
        if not before.is_overdue:
            self._unfinished = before._replace(is_overdue=True)
            return now
        text = (
            f"a frame from the {self._PEER} that does not go on: under {MIN_PROGRESS} bytes of it "
            f"in {self._heartbeat} seconds"
        )
        self._break_off(RemoteProtocolError(text, ErrorCode.TIMEOUT))
        return math.inf

    def _judge_silence(self, now: float, unsent: int | None) -> float:
        if self._state is State.CLOSED:
            return math.inf
        if self._see_progress(unsent) or self._heard:
            self._heard = self._overdue = False
            self._alive_at = now
        silent_at = self._alive_at + self._heartbeat
        if now < silent_at:
            return silent_at
        if not self._ping_is_out:
            self._ping += 1
            self._ping_is_out = True
            self._before_ping = self._handed
            self._pinged_at = now
            self._output.put_urgent(Kind.PING, self._ping.to_bytes(8, "big"))
        if not self._wire.answers_ping:
            # It never has, so that its silence means nothing.
            return now + self._heartbeat
        # From the PING on: the first tick after a pause may come very late.
        return self._judge(now, max(silent_at, self._pinged_at) + self._heartbeat)

    def _see_progress(self, unsent: int | None) -> bool:
        """Tell whether output that the PING may be behind has moved on since the last tick."""
        gone = self._sent - (unsent or 0)
        behind = self._before_ping
        # That the PING itself has left says nothing: the system of a frozen peer takes it.
        has_moved = unsent is not None and behind is not None and min(gone, behind) > self._gone
        if self._slow_send is not None and not has_moved:
            has_moved = self._sent > self._slow_send or unsent != self._unsent
        self._gone = max(gone, self._gone)
        self._slow_send = self._sent if self._handed > self._sent else None
        self._unsent = unsent
        if behind is not None and gone > behind:
            self._before_ping = None
        return behind is not None and has_moved

    def _judge(self, now: float, deadline: float) -> float:
        if now < deadline:
            return deadline
        if not self._overdue:
            self._overdue = True
            return now
        self._break_off(
            RemoteProtocolError(
                f"nothing from the {self._PEER} in the state {self._state.value!r}",
                ErrorCode.TIMEOUT,
            )
        )
        return math.inf

    # Frames of both directions

    def _on_ping(self, body: bytes) -> None:
        if len(body) != 8:
            raise RemoteProtocolError("PING: not 8 bytes")
        self._pongs += 1
        if self._pongs > MAX_PONGS:
            raise RemoteProtocolError("PING: sent without waiting for PONG", ErrorCode.LIMIT)
        self._output.put_urgent(Kind.PONG, body)

    def _on_pong(self, body: bytes) -> None:
        if not self._ping_is_out or body != self._ping.to_bytes(8, "big"):
            raise RemoteProtocolError("PONG: answers no PING")
        self._ping_is_out = False

    def _on_error(self, body: bytes) -> None:
        fields = Fields("ERROR", body)
        event = PeerError(fields.text("code"), fields.text("message"))
        self._close()
        self._events.append(event)


def _kind_name(kind: int) -> str:
    try:
        return Kind(kind).name
    except ValueError:
        return f"a frame of the unknown kind 0x{kind:02x}"
