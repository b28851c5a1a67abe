"""The hub of Hyps for Nim without I/O, as far as one of its clients sees it, oddities included."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes, Settings

from hyps.protocol import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

SUBSCRIBE: Final = "/subscribe"
PUBLISH: Final = "/publish"
MESSAGES: Final = "/messages"

#: Bytes of a DATA frame at most, whatever the client would take.
MAX_DATA: Final = 16_384
#: Bytes that it lets the client send, and after how many it lets it send them again.
WINDOW: Final = 65_535
_GRANTED_AFTER: Final = 32_767
#: Bytes that wait for a client at which its messages are dropped.
_MAX_BUFFER: Final = 65_536

_PING: Final = 6
_GOAWAY: Final = 7
_ACK: Final = 1


class NimHubDied(AssertionError):
    """The client did what ends that hub, and with it all of its clients."""


class _Stream:
    """One of the three requests, which stay open."""

    def __init__(self, number: int, path: str, headers: dict[str, str]) -> None:
        self.number = number
        self.path = path
        self.headers = headers
        #: Received, and not looked at: the answers before it were not sent.
        self.inbox: deque[bytes] = deque()
        #: The start of a record.
        self.rest = b""
        #: Bytes that were looked at since the client was last granted window.
        self.consumed = 0
        self.output = bytearray()
        #: Codes that :meth:`NimHub.answer` gives, as they are held.
        self.owed = 0


class NimHub:
    """One session at a hub of Hyps for Nim.

    :param statuses: of the paths that it does not answer with 200
    :param held: the paths whose records are answered by :meth:`answer`
    :param answers_ping: whether it answers a PING
    :param grants_window: whether it ever lets the client send more
    :param max_data: bytes of a DATA frame that it sends
    """

    def __init__(
        self,
        *,
        statuses: Mapping[str, int] | None = None,
        held: tuple[str, ...] = (),
        answers_ping: bool = True,
        grants_window: bool = True,
        max_data: int = MAX_DATA,
    ) -> None:
        self.statuses = dict(statuses or {})
        self.held = set(held)
        self.answers_ping = answers_ping
        self.grants_window = grants_window
        self.max_data = max_data
        #: By path, in the order in which they came.
        self.streams: dict[str, _Stream] = {}
        #: What was published, and each channel that was subscribed, in order.
        self.published: list[tuple[str, bytes]] = []
        self.channels: list[str] = []
        #: Messages for which there was no room, which it tells nobody.
        self.dropped = 0
        #: PINGs that came.
        self.pings = 0
        #: Code and text of the client's goodbye.
        self.goodbye: tuple[int, str] | None = None
        self._consumed = 0
        self._raw: list[bytes] = []
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: 100,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: 16_384,
            },
        )
        self._connection.initiate_connection()

    # Input

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent."""
        for event in self._connection.receive_data(data):
            self._on_event(event)
        self._send_all()

    def _on_event(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._on_request(event)
            case DataReceived(stream_id=number, data=data):
                if len(data) > MAX_DATA:
                    raise NimHubDied("a DATA frame that is too long")
                stream = next(each for each in self.streams.values() if each.number == number)
                stream.inbox.append(data)
                self._read(stream)
            case WindowUpdated():
                self._send_all()
            case ConnectionTerminated(error_code=code, additional_data=text):
                self.goodbye = int(code or 0), (text or b"").decode()
            case _:
                pass

    def _on_request(self, event: RequestReceived) -> None:
        headers = [(str(name), str(value)) for name, value in event.headers]
        names = [name for name, _ in headers]
        for name in (":method", ":scheme", ":path"):
            if names.count(name) != 1:
                raise NimHubDied(f"{name} comes {names.count(name)} times")
        stream = _Stream(event.stream_id, dict(headers)[":path"], dict(headers))
        if stream.path in self.streams:
            raise NimHubDied(f"{stream.path} is asked for again")
        method = "GET" if stream.path == MESSAGES else "POST"
        is_known = stream.path in (SUBSCRIBE, PUBLISH, MESSAGES)
        if not is_known or stream.headers[":method"] != method:
            self._connection.send_headers(stream.number, [(":status", "404")], end_stream=True)
            return
        if (event.stream_ended is not None) != (stream.path == MESSAGES):
            raise NimHubDied(f"the end of {stream.path}")
        self.streams[stream.path] = stream
        status = self.statuses.get(stream.path, 200)
        self._connection.send_headers(
            stream.number, [(":status", str(status))], end_stream=status != 200
        )

    def _read(self, stream: _Stream) -> None:
        """Look at what came, and answer each piece before the next one is looked at."""
        while stream.inbox and not stream.output:
            data = stream.inbox.popleft()
            count = self._take_records(stream, data)
            self._grant(stream, len(data))
            if stream.path in self.held:
                stream.owed += count
            elif count:
                stream.output += b"k" * count
                self._send(stream)
            else:
                # So it tells that no record was whole.
                self._connection.send_data(stream.number, b"")

    def _take_records(self, stream: _Stream, data: bytes) -> int:
        data = stream.rest + data
        position = count = 0
        while len(data) - position >= 4:
            stop = position + 4 + int.from_bytes(data[position : position + 4], "big")
            record = data[position + 4 : stop]
            if stop - position == 4:
                raise NimHubDied("a record of length 0")
            if stop > len(data):
                break
            channel, newline, message = record.partition(b"\n")
            if not channel or not newline or not message.endswith(b"\n"):
                raise NimHubDied(f"a malformed record: {record!r}")
            if stream.path == PUBLISH:
                self.published.append((channel.decode(), message[:-1]))
            elif message == b"\n":
                self.channels.append(channel.decode())
            else:
                raise NimHubDied(f"a message in a subscribe record: {record!r}")
            position = stop
            count += 1
        stream.rest = data[position:]
        return count

    def _grant(self, stream: _Stream, size: int) -> None:
        if not self.grants_window:
            return
        stream.consumed += size
        self._consumed += size
        if stream.consumed > _GRANTED_AFTER:
            self._connection.increment_flow_control_window(stream.consumed, stream.number)
            stream.consumed = 0
        if self._consumed > _GRANTED_AFTER:
            self._connection.increment_flow_control_window(self._consumed)
            self._consumed = 0

    # Output

    def data_to_send(self) -> bytes:
        """Give bytes for the client, and forget them."""
        data = self._connection.data_to_send() + b"".join(self._raw)
        self._raw.clear()
        found = b""
        for kind, flags, frame in split_frames(data):
            is_pong = kind == _PING and bool(flags & _ACK)
            self.pings += is_pong
            if self.answers_ping or not is_pong:
                found += frame
        return found

    def answer(self, path: str, codes: bytes) -> None:
        """Answer records of a path that is held."""
        stream = self.streams[path]
        assert len(codes) <= stream.owed
        stream.owed -= len(codes)
        self.send(path, codes)

    def deliver(self, channel: str, *messages: bytes) -> None:
        """Send messages, if there is room for them."""
        stream = self.streams[MESSAGES]
        for message in messages:
            if len(stream.output) >= _MAX_BUFFER:
                self.dropped += 1
            else:
                self.send(MESSAGES, encode(channel, message))

    def send(self, path: str, data: bytes) -> None:
        """Send bytes on a stream, as soon as the client lets it."""
        stream = self.streams[path]
        stream.output += data
        self._send(stream)

    @property
    def is_blocked(self) -> bool:
        """Whether the client lets it not send all it has."""
        return any(stream.output for stream in self.streams.values())

    def _send_all(self) -> None:
        for stream in self.streams.values():
            if stream.output:
                self._send(stream)
                self._read(stream)

    def _send(self, stream: _Stream) -> None:
        output = stream.output
        while output:
            room = self._connection.local_flow_control_window(stream.number)
            data = bytes(output[: min(room, self.max_data)])
            if not data:
                return
            self._connection.send_data(stream.number, data)
            del output[: len(data)]

    # Endings

    def leave(self, code: int = 2, text: bytes = b"") -> None:
        """Say goodbye, as it always does: with an internal error."""
        body = struct.pack(">II", 5, code) + text
        self.send_frame(_GOAWAY, 0, 0, body)

    def end(self, path: str) -> None:
        self._connection.end_stream(self.streams[path].number)

    def reset(self, path: str) -> None:
        self._connection.reset_stream(self.streams[path].number, 2)

    def send_frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        """Send any frame, valid or not."""
        self._raw.append(make_frame(kind, flags, stream, body))


def make_frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """Encode any HTTP/2 frame, valid or not."""
    return len(body).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + body


def split_frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """Kind, flags and bytes of each HTTP/2 frame; there must be whole ones only."""
    found = []
    while data:
        stop = 9 + int.from_bytes(data[:3], "big")
        assert stop <= len(data)
        found.append((data[3], data[4], data[:stop]))
        data = data[stop:]
    return found
