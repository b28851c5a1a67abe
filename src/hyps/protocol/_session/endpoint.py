"""What both ends of a connection share: frames in, frames out, time, and the end.

The rules:

1. The tables of :mod:`.states` say which kinds of frames may arrive in each state, and each end has
   a handler for each kind. Nothing else decides what is legal.
2. The state moves when the endpoint looks at a frame, and it looks at frames when its embedder asks
   for events. So events tell of what happened in order.
3. After the first violation by the peer the endpoint looks at nothing more. It queues an ERROR for
   the peer and hands out the events of what was valid before it. From then on
   :meth:`Endpoint.next_event` raises the violation.
4. There is no clock. The embedder tells :meth:`Endpoint.tick` the time, and learns when to call
   again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final, Generic, TypeVar

from .._wire.frames import FIRST_IGNORABLE, NO_FRAME, VERSION, Kind
from .._wire.handshake import decode_error, encode_error
from ..errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from ..events import NEED_DATA, Closed, NeedData, PeerError
from ..limits import MAX_PONGS, Limits
from .heartbeat import Heartbeat
from .states import TRANSITIONS, State, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Protocol

    from .._wire.base import Wire
    from .output import OutputQueue

    class Handler(Protocol):
        """Handles the body of a frame; ``endpoint`` is the end that received it."""

        def __call__(self, endpoint: Any, body: bytes, /) -> None: ...


_Event = TypeVar("_Event")

#: One for all connections, because each empty frozenset takes 216 bytes.
_NO_FEATURES: Final[frozenset[str]] = frozenset()


#: The name of the extension with which a client replaces its token.
AUTH: Final = "auth"

#: The names of all extensions, for an embedder that can do what they need.
FEATURES: Final = (AUTH,)


class Endpoint(Generic[_Event]):
    """One end of one connection, without I/O."""

    # A hub has thousands of these.
    __slots__ = (
        "_at_eof",
        "_auth_is_out",
        "_error",
        "_events",
        "_features",
        "_heartbeat",
        "_output",
        "_pongs",
        "_state",
        "_told",
        "_wire",
        "bytes_received",
        "features",
        "limits",
    )

    _PEER: ClassVar[str]
    _TABLE: ClassVar[Mapping[State, Mapping[int, Handler]]]

    def __init__(
        self, limits: Limits, wire: Wire, output: OutputQueue, features: Iterable[str]
    ) -> None:
        self.limits: Limits = limits
        self._state = State.OPENING
        self._wire = wire
        self._output = output
        self._events: list[_Event | PeerError | Closed] = []
        # How many of them next_event() has returned.
        self._told = 0
        self._error: RemoteProtocolError | None = None
        self._at_eof = False
        # Whether a token was offered and has no answer yet.
        self._auth_is_out = False
        self._pongs = 0
        self._heartbeat = Heartbeat(limits.heartbeat)
        #: Bytes that the peer has sent so far.
        self.bytes_received: int = 0
        # What this end offers.
        self._features = tuple(features)
        #: The extensions that both ends know; empty until the peer has named its own, and always
        #: over HTTP/2. A frame of a kind from 0x80 on is sent only if its extension is among them.
        self.features: frozenset[str] = _NO_FEATURES

    @property
    def farewell_time(self) -> float:
        """Seconds that its goodbye may take at most.

        A peer that was silent for two heartbeat intervals is probably gone. Its goodbye leaves at
        once or not at all, so that its queue does not stay in memory for long.
        """
        if self._error is not None and self._error.code == ErrorCode.TIMEOUT:
            return min(self.limits.close_timeout, self._heartbeat.interval / 2)
        return self.limits.close_timeout

    @property
    def state(self) -> State:
        """Where the connection is in its life."""
        return self._state

    @property
    def wire_name(self) -> str:
        """What is spoken: ``"hyps"`` or ``"http2"``; empty until that is known."""
        return self._wire.name

    # Input

    def receive_data(self, data: bytes) -> None:
        """Take what the peer sent. Call :meth:`next_event` until ``NEED_DATA`` afterwards.

        :param data: any number of bytes; none mean that the peer sends no more
        """
        if not data:
            self._at_eof = True
        elif self._state is not State.CLOSED:
            self._heartbeat.heard = True
            self.bytes_received += len(data)
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
        # The first frame may have replaced self._wire: see detection.
        if self._wire.has_output:
            self._output.nudge()
        if frame is None:
            if self._at_eof and self._is_busy:
                return False
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

    @property
    def _is_busy(self) -> bool:
        """Whether something that arrived has no answer yet, so that this end cannot close."""
        return False

    # Output

    def data_to_send(self, max_bytes: int = 4 * 65_536) -> bytes:
        """Return bytes for the peer, and take it that those of the last call have been sent.

        Send all of them, in order, and then call it again: until then they count as queued. An
        empty result means that there is nothing to send now; half-close if :attr:`eof_is_due` is
        true then.

        :param max_bytes: add no further frame once there are this many bytes
        """
        self._pongs = 0
        heartbeat = self._heartbeat
        heartbeat.sent = heartbeat.handed
        data = self._output.take(max_bytes)
        if data:
            heartbeat.handed += len(data)
        return data

    @property
    def bytes_sent(self) -> int:
        """Bytes that were sent to the peer so far."""
        return self._heartbeat.sent

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent or are being sent, and 64 for each batch of them."""
        return self._output.queued

    @property
    def eof_is_due(self) -> bool:
        """Whether all output was returned and no more will follow."""
        return self._state is State.CLOSED and not self._output

    @property
    def is_finished(self) -> bool:
        """Whether nothing follows in either direction, so that the connection may be closed.

        This is for transports without a half-close, such as TLS. With a half-close, wait for the
        end of the peer's stream instead.
        """
        return self.eof_is_due and self._at_eof

    # Ending

    def discard(self) -> None:
        """Forget all input and output, because the transport is gone."""
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
            # The peer reads nothing, and the queue can be large.
            self._output.clear()
        self._send_error(error.code, str(error))

    def _send_error(self, code: str, message: str) -> None:
        versions = [VERSION] if code == ErrorCode.VERSION else None
        self._output.put(Kind.ERROR, encode_error(PeerError(code, message), versions))

    def _close(self) -> None:
        """Enter CLOSED, and drop unfinished input."""
        self._step(Step.CLOSE)
        self._wire.discard()
        self._output.wake()

    def _agree_on_features(self, theirs: Iterable[str]) -> None:
        if self._features:
            self.features = frozenset(self._features).intersection(theirs)

    def _step(self, step: Step) -> None:
        self._state = TRANSITIONS[self._state, step]

    def _forbid(self, what: str) -> LocalProtocolError:
        return LocalProtocolError(f"{what} in the state {self._state.value!r}")

    # Time

    @property
    def wants_tick(self) -> bool:
        """Whether to call :meth:`tick` now, and then :meth:`next_event`."""
        return self._wire.wants_tick

    def tick(self, now: float, unsent: int | None = None) -> float:
        """Tell the endpoint the time: it sends a PING, or gives a silent peer up.

        Received bytes are a sign of life. Output that moves slowly is one too, while a PING may be
        waiting behind it: the transport holds fewer bytes than at the last tick, or a send that was
        in progress then has ended or moved on. A send that ends at once proves nothing, because
        the socket's buffer takes many even if the cable is cut. Once the PING itself has left, only
        received bytes count.

        A late tick may mean that this process was busy, and not that the peer was silent. So the
        first overdue tick only asks for another one at once, after a read.

        An unfinished frame must grow by ``MIN_PROGRESS`` bytes in each interval, whatever else
        arrives, because it takes memory.

        :param now: seconds on any clock that does not go backwards
        :param unsent: bytes that the transport has taken and not sent, if it can tell
        :return: when to call again, at the latest
        """
        deadline = self._wire.tick(now)
        if self._wire.has_output:
            self._output.wake()
        return min(deadline, self._judge(now, unsent))

    def _judge(self, now: float, unsent: int | None) -> float:
        """Give the peer up if it is silent.

        :return: when to judge again, at the latest
        """
        if self._state is State.CLOSED:
            return math.inf
        heartbeat = self._heartbeat
        try:
            if self._state in (State.OPENING, State.GREETED):
                return heartbeat.judge_opening(now, self.limits.hello_timeout, self._PEER)
            return min(
                heartbeat.judge_unfinished(now, self._wire.unfinished_frame, self._PEER),
                heartbeat.judge_silence(
                    now,
                    unsent,
                    self._PEER,
                    answers_ping=self._wire.answers_ping,
                    ping=self._send_ping,
                ),
            )
        except RemoteProtocolError as error:
            self._break_off(error)
            return math.inf

    def _send_ping(self, body: bytes) -> None:
        self._output.put_urgent(Kind.PING, body)

    # Frames of both directions

    @property
    def refreshes_tokens(self) -> bool:
        """Whether both ends know the extension ``auth``."""
        return AUTH in self.features

    def _check_auth(self) -> None:
        if not self.refreshes_tokens:
            raise RemoteProtocolError("AUTH: the extension is not agreed on")

    def _on_ping(self, body: bytes) -> None:
        if len(body) != 8:
            raise RemoteProtocolError("PING: not 8 bytes")
        self._pongs += 1
        if self._pongs > MAX_PONGS:
            raise RemoteProtocolError("PING: sent without waiting for PONG", ErrorCode.LIMIT)
        self._output.put_urgent(Kind.PONG, body)

    def _on_pong(self, body: bytes) -> None:
        if not self._heartbeat.take_pong(body):
            raise RemoteProtocolError("PONG: answers no PING")

    def _on_error(self, body: bytes) -> None:
        event = decode_error(body)
        self._close()
        self._events.append(event)


def _kind_name(kind: int) -> str:
    try:
        return Kind(kind).name
    except ValueError:
        return f"a frame of the unknown kind 0x{kind:02x}"
