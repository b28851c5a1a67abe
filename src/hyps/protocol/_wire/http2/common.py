"""The common part of both ends of the HTTP/2 wire."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from h2.errors import ErrorCodes
from h2.events import DataReceived, PingAckReceived, StreamReset
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from ...errors import ErrorCode, RemoteProtocolError
from ...limits import FRAME_WORK
from ..base import Wire
from ..frames import NO_FRAME, Kind
from .connection import H2_ERRORS, MAX_DATA, WINDOW, Connection, explain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from h2.events import Event

    from ..._records.decoding import WholeRecords
    from .stream import Outlet

#: The initial window of HTTP/2. The connection's window stays at this until the session opens, so
#: that a stranger cannot make this end buffer more. Then it becomes as large as each stream's.
FIRST_WINDOW: Final = 65_535

#: The other end may send at most this many frames that carry nothing, such as PING, SETTINGS and
#: RST_STREAM, in a second. A stream that was opened for nothing counts as several, and every
#: ``_IDLE_SIZE`` bytes of a frame count as one frame more.
_MAX_IDLE_FRAMES: Final = 1_000
REQUEST_COST: Final = 5
_IDLE_SIZE: Final = 256

#: The other end may cause this many frames without reading one.
_MAX_UNREAD_FRAMES: Final = 4_096

_CODES: Final = {
    ErrorCode.AUTH: ErrorCodes.NO_ERROR,
    ErrorCode.INTERNAL: ErrorCodes.INTERNAL_ERROR,
    ErrorCode.LIMIT: ErrorCodes.ENHANCE_YOUR_CALM,
    ErrorCode.TIMEOUT: ErrorCodes.NO_ERROR,
}

#: h2 takes eight times as long as the native wire for a frame.
_FRAME_WORK: Final = 8 * FRAME_WORK


class Http2Wire(Wire):
    """One end of an HTTP/2 connection.

    :param max_frame: see :class:`Wire`; here of a record
    :param is_client: which end
    """

    name = "http2"
    is_eager = True
    counts_losses = False
    shows_refusals = False
    tells_limits = False
    frame_work: int
    held: int
    has_output: bool
    speaks_itself = True
    wants_tick: bool = False
    answers_ping: bool

    def __init__(self, max_frame: int, *, is_client: bool) -> None:
        self.max_frame = max_frame
        self.held = 0
        self.answers_ping = False
        self.has_output = False
        self.frame_work = _FRAME_WORK
        self.connection: Connection = Connection(is_client=is_client)
        self.frames: deque[tuple[int, bytes]] = deque()
        #: The bytes of unfinished records.
        self.partial_size: int = 0
        #: Whether the session is open. Before, what may arrive is bounded.
        self.is_open: bool = False
        #: Whether this end receives nothing any more.
        self.is_closing: bool = False
        self._goodbye = b""
        self._goodbye_code: ErrorCodes | None = None
        self._error: RemoteProtocolError | None = None
        self._is_ended = False
        self._idle_frames = 0
        self._counted_at = -math.inf
        self._is_counting = False
        # The number of DATA frames sent that no empty one has answered.
        self._answerable = 0

    # Input

    def receive_data(self, data: bytes) -> None:
        if self._error is None:
            self.connection.frames.receive(data)
            self.has_output = True

    def next_frame(self) -> tuple[int, bytes] | None:
        if not self.frames:
            if self._error is not None:
                raise self._error
            if not self._take_frame():
                return None
            if not self.frames:
                return NO_FRAME
        else:
            self.frame_work = FRAME_WORK
        return self.frames.popleft()

    def _take_frame(self) -> bool:
        """Decode one frame of HTTP/2; return False if there is none."""
        connection = self.connection
        frame: Frame | None = None
        try:
            frame = next(connection.frames, None)
            if frame is None:
                return False
            self._weigh(frame)
            self.check(frame)
            events = connection.take_frame(frame)
            if not events:
                # The frame belongs to a closed stream.
                self.spend()
            for event in events:
                self._on_event(event)
        except H2_ERRORS as error:
            violation, self._goodbye_code = explain(error, frame)
            self.fail(violation)
        except RemoteProtocolError as error:
            self.fail(error)
        return True

    def check(self, frame: Frame) -> None:
        """Refuse a frame that h2 would accept and this end does not.

        :raises RemoteProtocolError: if so
        """

    @property
    def buffered(self) -> int:
        return len(self.connection.frames) + self.partial_size

    @property
    def unfinished_frame(self) -> tuple[int, int] | None:
        frames = self.connection.frames
        begun = [(each.begun_at, each.rest) for each in self.get_records() if each.rest]
        if not begun:
            return frames.unfinished
        # Report the one that has waited longest. The buffered frame may be its next part.
        begun_at, size = min(begun)
        return begun_at, size + len(frames)

    @abstractmethod
    def get_records(self) -> Iterable[WholeRecords]:
        """Return the unfinished records of all streams."""

    def discard(self) -> None:
        self.is_closing = True
        self.connection.frames.clear()
        self.frames.clear()

    def _weigh(self, frame: Frame) -> None:
        """Count the work of decoding a frame, and charge the peer if it costs this end more."""
        is_client = self.connection.config.client_side
        self.frame_work = _FRAME_WORK
        if type(frame) is DataFrame:
            if not frame.data:
                self._on_empty_data()
            return
        size = len(frame.data) if isinstance(frame, HeadersFrame) else frame.body_len
        # Headers take a microsecond for each byte, and some frames concern all streams.
        self.frame_work += size + len(self.connection.streams)
        if isinstance(frame, HeadersFrame):
            self.spend(size // _IDLE_SIZE)
        elif type(frame) is RstStreamFrame:
            self.spend(REQUEST_COST)
        elif not (isinstance(frame, WindowUpdateFrame) and (self.is_open or is_client)):
            self.spend(1 + size // _IDLE_SIZE)
        if self.connection.unread > _MAX_UNREAD_FRAMES:
            self.fail(RemoteProtocolError("HTTP/2: answers that are not read", ErrorCode.LIMIT))

    def _on_empty_data(self) -> None:
        # A hub of Hyps for Nim answers DATA that completes no record with an empty frame.
        if self._answerable and self.connection.config.client_side:
            self._answerable -= 1
        else:
            self.spend()

    def spend(self, cost: int = 1) -> None:
        """Charge the other end for work that was for nothing."""
        self._idle_frames += cost
        if self._idle_frames > _MAX_IDLE_FRAMES:
            text = "HTTP/2: too many frames that carry nothing"
            self.fail(RemoteProtocolError(text, ErrorCode.LIMIT))
        elif cost and not self._is_counting:
            # Begin to measure the rate.
            self._is_counting = self.wants_tick = True

    def _on_event(self, event: Event) -> None:
        match event:
            case DataReceived(stream_id=stream, data=data, flow_controlled_length=size):
                self.on_data(stream, data, size)
            case PingAckReceived(ping_data=data):
                self.answers_ping = True
                self.frames.append((Kind.PONG, data))
            case StreamReset(stream_id=stream, remote_reset=is_theirs):
                if not is_theirs:
                    self.spend(REQUEST_COST)
                self.on_reset(stream)
            case _:
                self.on_event(event)

    def fail(self, error: RemoteProtocolError) -> None:
        """Refuse all further input, with an error after the frames so far."""
        self._error = self._error or error

    @abstractmethod
    def on_event(self, event: Event) -> None:
        """Handle an event that only this end has."""

    @abstractmethod
    def on_data(self, stream: int, data: bytes, size: int) -> None:
        """Handle data; call :meth:`grant` once it is consumed."""

    @abstractmethod
    def on_reset(self, stream: int) -> None:
        """Handle the reset of a stream by the other end."""

    def grant(self, stream: int, size: int) -> None:
        """Grant the other end as much window again."""
        self.connection.acknowledge_received_data(size, stream)
        self.has_output = True

    def widen(self) -> None:
        """Widen the connection's window: the other end is no stranger any more."""
        self.connection.increment_flow_control_window(WINDOW - FIRST_WINDOW)
        self.has_output = True

    # Output

    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        if not self._is_ended:
            self.put(kind, bodies)
        return ()

    @abstractmethod
    def put(self, kind: int, bodies: list[bytes]) -> None:
        """Put a frame onto this end's streams."""

    def ping(self, data: bytes) -> None:
        self.connection.ping(data)

    def send(self, outlet: Outlet, most: float = math.inf) -> None:
        """Send as much as the windows allow.

        :param most: bytes to stop at
        """
        connection = self.connection
        stream = outlet.stream
        if not connection.is_open(stream):
            outlet.clear()
        stop = outlet.size - most
        while outlet.size > max(stop, 0):
            room = min(connection.local_flow_control_window(stream), MAX_DATA)
            if room <= 0:
                if self.is_closing:
                    # The other end will grant no more window.
                    outlet.clear()
                return
            data = outlet.take(room)
            self._answerable += 1
            connection.send_data(stream, data, end_stream=outlet.is_ending and not outlet.size)

    def end(self, code: str, reason: str) -> None:
        """Say goodbye; nothing is sent afterwards."""
        self.is_closing = True
        self.send_all()
        self.clear()
        known = self._goodbye_code or _CODES.get(code, ErrorCodes.PROTOCOL_ERROR)
        self.say_goodbye(known, reason)
        self._is_ended = True

    def say_goodbye(self, code: ErrorCodes, reason: str) -> None:
        goodbye = GoAwayFrame(0)
        goodbye.last_stream_id = self.connection.highest_inbound_stream_id
        goodbye.error_code = code
        goodbye.additional_data = reason.encode(errors="replace")
        self._goodbye = goodbye.serialize()

    def flush(self) -> Iterable[bytes]:
        if not self._is_ended:
            self.send_all()
        self.has_output = False
        parts = self.connection.take_output()
        if self._goodbye:
            parts.append(self._goodbye)
            self._goodbye = b""
        return parts

    @abstractmethod
    def send_all(self) -> None:
        """Send from all streams, and update :attr:`held`."""

    # Time

    def tick(self, now: float) -> float:
        self.wants_tick = False
        if now - self._counted_at >= 1:
            self._counted_at = now
            self._idle_frames = 0
            self._is_counting = False
        return self._counted_at + 1 if self._is_counting else math.inf


def first(headers: Iterable[Any] | None, name: bytes) -> str | None:
    """Return the first header of a name."""
    for key, value in headers or ():
        if key == name:
            return bytes(value).decode(errors="replace")
    return None
