"""An adapter for the library h2. Only this module uses h2's private attributes."""

from __future__ import annotations

import logging
import re
from struct import Struct
from typing import TYPE_CHECKING, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.exceptions import (
    DenialOfServiceError,
    FlowControlError,
    FrameTooLargeError,
    H2Error,
    InvalidBodyLengthError,
    ProtocolError,
    StreamClosedError,
    TooManyStreamsError,
)
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, SettingsFrame

from ...errors import ErrorCode, RemoteProtocolError

if TYPE_CHECKING:
    from h2.events import Event

#: The largest DATA frame that this end sends, in bytes: Hyps for Nim accepts no larger ones.
MAX_DATA: Final = 16_384

#: The window of each stream.
WINDOW: Final = 1_048_576

#: The bounds of a header list, in bytes, and of concurrent requests.
_MAX_HEADERS: Final = 16_384
_MAX_STREAMS: Final = 100

#: Three table size updates at the start of a header block, where RFC 7541, 4.2, allows two. hpack
#: accepts any number of them, and takes a microsecond for each byte.
_SIZE_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")

#: Length and type, DATA being 0, flags and stream: RFC 9113, 4.1.
_HEAD: Final = Struct(">IBI")
_DATA: Final = 0
_END_STREAM: Final = 0x01

_SETTINGS: Final = frozenset(map(int, SettingCodes))

#: The errors that h2 raises. Their texts quote what arrived, and so headers and tokens.
H2_ERRORS: Final = (H2Error, HyperframeError)
_TEXTS: Final[dict[type[Exception], tuple[str, str]]] = {
    DenialOfServiceError: (ErrorCode.LIMIT, "headers that ask for too much"),
    TooManyStreamsError: (ErrorCode.LIMIT, f"more than {_MAX_STREAMS} requests at a time"),
    FrameTooLargeError: (ErrorCode.TOO_LARGE, f"a frame of more than {MAX_DATA} bytes"),
    FlowControlError: (ErrorCode.PROTOCOL, "more than the window allows"),
    StreamClosedError: (ErrorCode.PROTOCOL, "a frame of a stream that is over"),
    InvalidBodyLengthError: (ErrorCode.PROTOCOL, "a body of another length than announced"),
}

# hpack logs each header at DEBUG, and with them each token. An application that sets the root
# logger to DEBUG does not expect that.
for _name in ("hpack.hpack", "hpack.table"):
    logging.getLogger(_name).addFilter(lambda record: False)


def explain(error: Exception, frame: Frame | None) -> tuple[RemoteProtocolError, ErrorCodes]:
    """Describe a violation without quoting what arrived.

    :param error: one of :data:`H2_ERRORS`
    :param frame: what it was about, if that is known
    :return: an error for the caller, and the code of HTTP/2 for the peer
    """
    name = type(error).__name__
    code, text = next(
        (found for kind, found in _TEXTS.items() if isinstance(error, kind)),
        (ErrorCode.PROTOCOL, "the rules of HTTP/2 do not allow it"),
    )
    # Names of classes: DataFrame, HeadersFrame.
    what = type(frame).__name__ if frame is not None else "a frame"
    goaway: ErrorCodes = getattr(error, "error_code", ErrorCodes.PROTOCOL_ERROR)
    return RemoteProtocolError(f"HTTP/2, {what}: {text} ({name})", code), goaway


class _Frames(FrameBuffer):
    """The frames that arrive. What is too large is refused at its length."""

    def __init__(self, *, is_client: bool) -> None:
        super().__init__(server=not is_client)
        self.max_frame_size = MAX_DATA
        self._received = 0

    def __len__(self) -> int:
        return len(self._data)

    def receive(self, data: bytes) -> None:
        self.add_data(data)
        self._received += len(data)

    def clear(self) -> None:
        self._data.clear()
        self._headers_buffer.clear()

    @property
    def position(self) -> int:
        """The offset of the buffered bytes among all that arrived."""
        return self._received - len(self._data)

    @property
    def unfinished(self) -> tuple[int, int] | None:
        """Where the unfinished frame or header block starts, and how much of it has arrived."""
        size = len(self._data)
        if size >= _HEAD.size + int.from_bytes(self._data[:3], "big"):
            # The frame is complete and waits to be decoded.
            return None
        size += sum([_HEAD.size + part.body_len for part in self._headers_buffer])
        return (self._received - size, size) if size else None

    def may_be_of(self, stream: int) -> bool:
        """Tell whether the buffered bytes begin with DATA of a stream, as far as they tell."""
        data = self._data
        if len(data) < _HEAD.size:
            return bool(data)
        return data[3] == _DATA and int.from_bytes(data[5:9], "big") & 0x7FFF_FFFF == stream

    def __next__(self) -> Frame:
        # h2 would buffer all of it first.
        if len(self._data) >= 3:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()

    def _update_header_buffer(self, f: Frame | None) -> Frame | None:
        frame = super()._update_header_buffer(f)
        if sum([len(part.data) for part in self._headers_buffer]) > _MAX_HEADERS:
            raise DenialOfServiceError("a header block that is too large")
        return frame


class Connection(H2Connection):
    """HTTP/2, one frame at a time.

    So its state is never ahead of what the caller has seen, the frames before a bad one count, and
    what is read at once is not handled at once.

    :param is_client: which end
    """

    #: How many closed streams to remember. Each takes 100 bytes, and h2's default is 65,536.
    MAX_CLOSED_STREAMS = 10 * _MAX_STREAMS

    def __init__(self, *, is_client: bool) -> None:
        # Let h2 return headers as bytes: it fails on headers that are not text.
        super().__init__(H2Configuration(client_side=is_client, header_encoding=None))
        self.local_settings: Settings = Settings(
            client=is_client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            },
        )
        self.decoder.max_header_list_size = _MAX_HEADERS
        self.frames: _Frames = _Frames(is_client=is_client)
        self._parts: list[bytes] = []

    def take_frame(self, frame: Frame) -> list[Event]:
        state = self.state_machine.state
        if type(frame) is SettingsFrame:
            # h2 remembers all unknown settings, of which there can be 65,536.
            known = {key: value for key, value in frame.settings.items() if key in _SETTINGS}
            frame.settings = known
        elif isinstance(frame, HeadersFrame) and _SIZE_UPDATES.match(frame.data):
            raise DenialOfServiceError("too many table size updates")
        try:
            if type(frame) is not DataFrame:
                return self._receive_frame(frame)
            # h2 formats all data for its log, even without a log.
            frames, events = self._receive_data_frame(frame)
            self._prepare_for_sending(frames)
        except ProtocolError:
            # This end still answers what arrived before.
            self.state_machine.state = state
            raise
        return events

    def is_open(self, stream: int) -> bool:
        found = self.streams.get(stream)
        return found is not None and found.open

    @property
    def unread(self) -> int:
        """The approximate number of frames that wait to be sent."""
        return len(self._parts)

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        # h2 would copy the data four times.
        for frame in frames:
            if type(frame) is DataFrame:
                length = len(frame.data)
                flags = _END_STREAM if "END_STREAM" in frame.flags else 0
                self._parts += (_HEAD.pack(length << 8, flags, frame.stream_id), frame.data)
            else:
                self._parts.append(frame.serialize())

    def take_output(self) -> list[bytes]:
        """Return the bytes to send."""
        # h2 puts the preface into its own buffer, and not through the method above.
        parts = [self.data_to_send(), *self._parts]
        self._parts = []
        return parts if any(parts) else []

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        # h2 treats GOAWAY as the end, but requests that have begun continue (RFC 9113, 6.8).
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data
        return [], [event]
