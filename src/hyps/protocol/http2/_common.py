"""What both ends of the HTTP/2 wire have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    StreamReset,
    UnknownFrameReceived,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from ..errors import ErrorCode, RemoteProtocolError
from ..frames import Kind
from ..wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._stream import Outlet

#: Bytes of one DATA frame, whatever the other side would take: Hyps for Nim takes no more.
MAX_DATA: Final = 16_384

#: Bytes of a header list, and requests at a time.
_MAX_HEADERS: Final = 16_384
_MAX_STREAMS: Final = 100

#: The window of each stream. The connection's is this too once the session is open, and HTTP/2's
#: own 65,535 before, so that a stranger cannot make this end buffer more.
WINDOW: Final = 1_048_576
_FIRST_WINDOW: Final = 65_535

#: Frames that carry nothing, PING, SETTINGS, RST_STREAM and the like, that the other side may
#: send in a second, at most; and what one costs that opened a stream for nothing.
_MAX_IDLE_FRAMES: Final = 500
_RESET_COST: Final = 5

_CODES: Final = {
    ErrorCode.AUTH: ErrorCodes.NO_ERROR,
    ErrorCode.INTERNAL: ErrorCodes.INTERNAL_ERROR,
    ErrorCode.LIMIT: ErrorCodes.ENHANCE_YOUR_CALM,
    ErrorCode.TIMEOUT: ErrorCodes.NO_ERROR,
}


class _Connection(H2Connection):
    """HTTP/2 without two habits of h2's."""

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.found: deque[Event] = deque()

    def _receive_frame(self, frame: Frame) -> list[Event]:
        # h2 forgets the events of valid frames if a bad one stands behind them in the same data.
        self.found += super()._receive_frame(frame)
        return []

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        # h2 takes it for the end, but what was begun is still to be finished (RFC 9113, 6.8).
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data
        return [], [event]


class Http2Wire(Wire):
    """One end of an HTTP/2 connection.

    :param max_frame: see :class:`Wire`; here of a record
    :param is_client: which end
    """

    is_eager = True
    counts_losses = False

    def __init__(self, max_frame: int, *, is_client: bool) -> None:
        self.max_frame = max_frame
        self.answers_ping = False
        self.has_output = False
        self.connection = _Connection(
            H2Configuration(client_side=is_client, header_encoding="utf-8")
        )
        self.connection.local_settings = Settings(
            client=is_client,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            },
        )
        self.connection.decoder.max_header_list_size = _MAX_HEADERS
        self.frames: deque[tuple[int, bytes]] = deque()
        self._goodbye = b""
        self._error: RemoteProtocolError | None = None
        self._is_ended = False
        self._idle_frames = 0
        self._counted_at = -math.inf

    # Input

    def receive_data(self, data: bytes) -> None:
        if self._error is not None or self._is_ended:
            return
        try:
            self.connection.receive_data(data)
        except H2Error as error:
            # h2 has queued a GOAWAY.
            self._is_ended = True
            self._error = RemoteProtocolError(f"HTTP/2: {error}")
        self.has_output = True

    def next_frame(self) -> tuple[int, bytes] | None:
        found = self.connection.found
        while not self.frames:
            if found:
                self._on_event(found.popleft())
            elif self._error is not None:
                raise self._error
            else:
                return None
        return self.frames.popleft()

    @property
    def buffered(self) -> int:
        return 0

    def discard(self) -> None:
        self.connection.found.clear()
        self.frames.clear()

    def _on_event(self, event: Event) -> None:
        match event:
            case DataReceived(stream_id=stream, data=data, flow_controlled_length=size):
                if not data:
                    self._on_idle_frame()
                self.on_data(stream, data, size)
            case PingAckReceived(ping_data=data):
                self.answers_ping = True
                self.frames.append((Kind.PONG, data))
            case PingReceived() | RemoteSettingsChanged() | PriorityUpdated():
                self._on_idle_frame()
            case UnknownFrameReceived():
                self._on_idle_frame()
            case StreamReset(stream_id=stream):
                self._on_idle_frame(_RESET_COST)
                self.on_reset(stream)
            case _:
                self.on_event(event)

    def _on_idle_frame(self, cost: int = 1) -> None:
        self._idle_frames += cost
        if self._idle_frames > _MAX_IDLE_FRAMES:
            raise RemoteProtocolError("HTTP/2 frames that carry nothing", ErrorCode.LIMIT)

    def fail(self, error: RemoteProtocolError) -> None:
        """End the input here: an error behind the frames so far."""
        self._error = self._error or error
        self.connection.found.clear()

    @abstractmethod
    def on_event(self, event: Event) -> None:
        """Take an event of this end only."""

    @abstractmethod
    def on_data(self, stream: int, data: bytes, size: int) -> None:
        """Take data; call :meth:`grant` when it was consumed."""

    @abstractmethod
    def on_reset(self, stream: int) -> None:
        """Take it that the other side has reset a stream."""

    def grant(self, stream: int, size: int) -> None:
        """Let the other side send as much again."""
        self.connection.acknowledge_received_data(size, stream)
        self.has_output = True

    def widen(self) -> None:
        """Let the other side send more at once: it is no stranger any more."""
        self.connection.increment_flow_control_window(WINDOW - _FIRST_WINDOW)
        self.has_output = True

    # Output

    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        if not self._is_ended:
            self.put(kind, bodies)
        return ()

    @abstractmethod
    def put(self, kind: int, bodies: list[bytes]) -> None:
        """Take a frame that is to be sent, as this end's streams carry it."""

    def ping(self, data: bytes) -> None:
        self.connection.ping(data)

    def send(self, outlet: Outlet) -> None:
        """Send as much as the windows allow."""
        connection = self.connection
        stream = outlet.stream
        while outlet.size:
            room = min(connection.local_flow_control_window(stream), MAX_DATA)
            if room <= 0:
                return
            data = outlet.take(room)
            connection.send_data(stream, data, end_stream=outlet.is_ending and not outlet.size)

    def end(self, code: str, reason: str) -> None:
        """Say that this connection ends; nothing is sent after it."""
        self.say_goodbye(_CODES.get(code, ErrorCodes.PROTOCOL_ERROR), reason)
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
        data = self.connection.data_to_send()
        if self._goodbye and not self.held:
            data += self._goodbye
            self._goodbye = b""
        return (data,) if data else ()

    @abstractmethod
    def send_all(self) -> None:
        """Send what all streams have, and update :attr:`held`."""

    # Time

    def tick(self, now: float) -> float:
        if now - self._counted_at >= 1:
            self._counted_at = now
            self._idle_frames = 0
        return math.inf


def first(headers: Iterable[Any] | None, name: str) -> str | None:
    """Give the first header of a name."""
    for key, value in headers or ():
        if key == name:
            return str(value)
    return None
