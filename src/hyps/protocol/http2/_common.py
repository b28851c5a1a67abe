"""What both ends of the HTTP/2 wire have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, PingAckReceived, StreamReset
from h2.exceptions import (
    DenialOfServiceError,
    FrameTooLargeError,
    H2Error,
    ProtocolError,
    TooManyStreamsError,
)
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from ..errors import ErrorCode, RemoteProtocolError
from ..frames import FIRST_IGNORABLE, Kind
from ..limits import FRAME_WORK
from ..wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from h2.events import Event

    from ._stream import Outlet

#: Bytes of one DATA frame, whatever the other side would take: Hyps for Nim takes no more.
MAX_DATA: Final = 16_384

#: Length and type, DATA being 0, flags and stream: RFC 9113, 4.1.
_HEAD: Final = Struct(">IBI")
_END_STREAM: Final = 0x01

_SETTINGS: Final = frozenset(map(int, SettingCodes))

#: Bytes of a header list, and requests at a time.
_MAX_HEADERS: Final = 16_384
_MAX_STREAMS: Final = 100

#: The window of each stream. The connection's is this too once the session is open, and HTTP/2's
#: own 65,535 before, so that a stranger cannot make this end buffer more.
WINDOW: Final = 1_048_576
FIRST_WINDOW: Final = 65_535

#: Frames that carry nothing, PING, SETTINGS, RST_STREAM and the like, that the other side may
#: send in a second, at most; what one costs that opened a stream for nothing; and the bytes that
#: cost as much as one more.
_MAX_IDLE_FRAMES: Final = 1_000
REQUEST_COST: Final = 5
_IDLE_SIZE: Final = 256

#: Frames that the other side may cause without reading one.
_MAX_UNREAD_FRAMES: Final = 4_096

#: Bytes that may come before the session is open, in frames that are looked at afterwards. Above
#: it there is room for one more read.
_MAX_UNSEEN: Final = 262_144

_CODES: Final = {
    ErrorCode.AUTH: ErrorCodes.NO_ERROR,
    ErrorCode.INTERNAL: ErrorCodes.INTERNAL_ERROR,
    ErrorCode.LIMIT: ErrorCodes.ENHANCE_YOUR_CALM,
    ErrorCode.TIMEOUT: ErrorCodes.NO_ERROR,
}
#: A frame that is ignored.
_NOTHING: Final = (FIRST_IGNORABLE, b"")

_ERRORS: Final[dict[type[Exception], str]] = {
    DenialOfServiceError: ErrorCode.LIMIT,
    TooManyStreamsError: ErrorCode.LIMIT,
    FrameTooLargeError: ErrorCode.TOO_LARGE,
}


class _Frames(FrameBuffer):
    """What has been received, as frames. What is too large is refused at its length."""

    def __init__(self, *, is_client: bool) -> None:
        super().__init__(server=not is_client)
        self.max_frame_size = MAX_DATA

    def __len__(self) -> int:
        return len(self._data)

    def clear(self) -> None:
        self._data.clear()
        self._headers_buffer.clear()

    def __next__(self) -> Frame:
        # h2 buffers all of it first.
        if len(self._data) >= 3:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()

    def _update_header_buffer(self, f: Frame | None) -> Frame | None:
        frame = super()._update_header_buffer(f)
        if sum([len(part.data) for part in self._headers_buffer]) > _MAX_HEADERS:
            raise DenialOfServiceError("a header block that is too large")
        return frame


class _Connection(H2Connection):
    """HTTP/2 without some habits of h2's.

    It takes one frame at a time. So its state is never ahead of what the caller has seen, the
    frames before a bad one count, and what is read at once is not handled at once.
    """

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.frames: _Frames = _Frames(is_client=config.client_side)
        self._parts: list[bytes] = []

    def take_frame(self, frame: Frame) -> list[Event]:
        state = self.state_machine.state
        if type(frame) is SettingsFrame:
            # h2 keeps all there are, and there can be 65,536 of them.
            known = {key: value for key, value in frame.settings.items() if key in _SETTINGS}
            frame.settings = known
        try:
            if type(frame) is not DataFrame:
                return self._receive_frame(frame)
            # h2 spells all data for its log, whether there is one or not.
            frames, events = self._receive_data_frame(frame)
            self._prepare_for_sending(frames)
        except ProtocolError:
            # What came before is still answered.
            self.state_machine.state = state
            raise
        return events

    def is_open(self, stream: int) -> bool:
        found = self.streams.get(stream)
        return found is not None and found.open

    @property
    def unread(self) -> int:
        """Frames that wait to be sent, about."""
        return len(self._parts)

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        # h2 copies what is sent four times.
        for frame in frames:
            if type(frame) is DataFrame:
                length = len(frame.data)
                flags = _END_STREAM if "END_STREAM" in frame.flags else 0
                self._parts += (_HEAD.pack(length << 8, flags, frame.stream_id), frame.data)
            else:
                self._parts.append(frame.serialize())

    def take_output(self) -> list[bytes]:
        """Give what is to be sent."""
        # The preface is what h2 does not put by the method above.
        parts = [self.data_to_send(), *self._parts]
        self._parts = []
        return parts if any(parts) else []

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
    # h2 takes eight times as long as the native wire.
    frame_work = 8 * FRAME_WORK
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
        self.connection: _Connection = _Connection(
            # Bytes: h2 cannot stand what has no decoded form.
            H2Configuration(client_side=is_client, header_encoding=None)
        )
        self.connection.local_settings = Settings(
            client=is_client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            },
        )
        self.connection.decoder.max_header_list_size = _MAX_HEADERS
        self.frames: deque[tuple[int, bytes]] = deque()
        #: Bytes of records that are not whole.
        self.unfinished: int = 0
        #: Whether the session is open, so that this end may look at frames without end.
        self.is_open: bool = False
        #: Whether nothing is received any more.
        self.is_closing: bool = False
        self._goodbye = b""
        self._goodbye_code: ErrorCodes | None = None
        self._error: RemoteProtocolError | None = None
        self._is_ended = False
        self._idle_frames = 0
        self._counted_at = -math.inf
        self._is_counting = False

    # Input

    def receive_data(self, data: bytes) -> None:
        frames = self.connection.frames
        if self._error is not None:
            return
        if len(frames) > _MAX_UNSEEN:
            self.fail(RemoteProtocolError("too much before the session is open", ErrorCode.LIMIT))
            return
        frames.add_data(data)
        self.has_output = True

    def next_frame(self) -> tuple[int, bytes] | None:
        connection = self.connection
        while not self.frames:
            if self._error is not None:
                raise self._error
            try:
                frame = next(connection.frames, None)
                if frame is None:
                    return None
                self._weigh(frame)
                events = connection.take_frame(frame)
                if not events:
                    # It is of a stream that is over.
                    self.spend()
                for event in events:
                    self._on_event(event)
                if self.is_open and not self.frames:
                    # It is work all the same, after which others may have their turn.
                    return _NOTHING
            except (H2Error, HyperframeError) as error:
                self._goodbye_code = getattr(error, "error_code", ErrorCodes.PROTOCOL_ERROR)
                code = next(
                    (code for kind, code in _ERRORS.items() if isinstance(error, kind)),
                    ErrorCode.PROTOCOL,
                )
                text = f"HTTP/2, {type(error).__name__}: {error}"
                self.fail(RemoteProtocolError(text, code))
        return self.frames.popleft()

    @property
    def buffered(self) -> int:
        return len(self.connection.frames) + self.unfinished

    def discard(self) -> None:
        self.is_closing = True
        self.connection.frames.clear()
        self.frames.clear()

    def _weigh(self, frame: Frame) -> None:
        """Count what costs this end more than the other."""
        is_client = self.connection.config.client_side
        if type(frame) is DataFrame:
            # A hub of Hyps for Nim answers what is not a whole record with none.
            if not frame.data and not is_client:
                self.spend()
        elif type(frame) is RstStreamFrame:
            self.spend(REQUEST_COST)
        elif not isinstance(frame, HeadersFrame) and not (
            isinstance(frame, WindowUpdateFrame) and (self.is_open or is_client)
        ):
            self.spend(1 + frame.body_len // _IDLE_SIZE)
        if self.connection.unread > _MAX_UNREAD_FRAMES:
            self.fail(RemoteProtocolError("HTTP/2: answers that are not read", ErrorCode.LIMIT))

    def spend(self, cost: int = 1) -> None:
        """Count work that was for nothing."""
        self._idle_frames += cost
        if self._idle_frames > _MAX_IDLE_FRAMES:
            text = "HTTP/2: too many frames that carry nothing"
            self.fail(RemoteProtocolError(text, ErrorCode.LIMIT))
        elif not self._is_counting:
            # From now on it is seconds that count.
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
        """End the input here: an error behind the frames so far."""
        self._error = self._error or error

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
        self.connection.increment_flow_control_window(WINDOW - FIRST_WINDOW)
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
                    # No window will come.
                    outlet.clear()
                return
            data = outlet.take(room)
            connection.send_data(stream, data, end_stream=outlet.is_ending and not outlet.size)

    def end(self, code: str, reason: str) -> None:
        """Say that this connection ends; nothing is sent after it."""
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
        """Send what all streams have, and update :attr:`held`."""

    # Time

    def tick(self, now: float) -> float:
        self.wants_tick = False
        if now - self._counted_at >= 1:
            self._counted_at = now
            self._idle_frames = 0
            self._is_counting = False
        return self._counted_at + 1 if self._is_counting else math.inf


def first(headers: Iterable[Any] | None, name: bytes) -> str | None:
    """Give the first header of a name."""
    for key, value in headers or ():
        if key == name:
            return bytes(value).decode(errors="replace")
    return None
