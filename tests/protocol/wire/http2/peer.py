"""A client that speaks raw HTTP/2 to a session of the hub, so that it may also break its rules."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from protocol.pair import connect

from hyps.protocol import (
    Broker,
    Hello,
    Limits,
    Messages,
    NeedData,
    RemoteProtocolError,
    ServerProtocol,
    State,
    Taken,
)
from hyps.protocol import encode as encode_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyps.protocol import ServerEvent

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_DATA = 16_384
WINDOW = 65_535

SUBSCRIBE, PUBLISH, MESSAGES = 1, 3, 5
_REQUESTS = {
    SUBSCRIBE: ("POST", "/subscribe"),
    PUBLISH: ("POST", "/publish"),
    MESSAGES: ("GET", "/messages"),
}


# Frames


def frame(kind: int, flags: int = 0, stream: int = 0, body: bytes = b"") -> bytes:
    """Any frame, right or wrong."""
    head = bytes([kind, flags]) + stream.to_bytes(4, "big")
    return len(body).to_bytes(3, "big") + head + body


def data_frame(stream: int, data: bytes = b"", *, end: bool = False) -> bytes:
    return frame(0, int(end), stream, data)


def headers_frame(stream: int, block: bytes, *, end: bool = False, whole: bool = True) -> bytes:
    return frame(1, int(end) | 4 * int(whole), stream, block)


def reset_frame(stream: int, code: int = 8) -> bytes:
    return frame(3, 0, stream, code.to_bytes(4, "big"))


def settings_frame(*settings: tuple[int, int]) -> bytes:
    pairs = [key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings]
    return frame(4, 0, 0, b"".join(pairs))


def ping_frame(data: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(6, int(ack), 0, data)


def window_frame(stream: int, increment: int) -> bytes:
    return frame(8, 0, stream, increment.to_bytes(4, "big"))


def read_frames(data: bytes) -> list[Frame]:
    """Whole frames."""
    found = []
    while data:
        one, length = Frame.parse_frame_header(memoryview(data[:9]))
        assert length <= MAX_DATA
        assert len(data) >= 9 + length
        one.parse_body(memoryview(data[9 : 9 + length]))
        found.append(one)
        data = data[9 + length :]
    return found


def records(*messages: tuple[str, bytes]) -> bytes:
    return b"".join([encode_record(*message) for message in messages])


def names(*channels: str) -> bytes:
    return records(*[(channel, b"") for channel in channels])


def cut(stream: int, data: bytes, *, end: bool = False) -> list[bytes]:
    """DATA frames as Hyps' client cuts a batch."""
    parts = [data[start : start + MAX_DATA] for start in range(0, len(data), MAX_DATA)]
    return [
        data_frame(stream, part, end=end and index == len(parts) - 1)
        for index, part in enumerate(parts)
    ]


class Peer:
    """A client and its session.

    What it reads is checked: windows and frame sizes are kept, HEADERS stand before DATA.

    :param opened: send what Hyps' client sends first, and read the answers
    :param window: of each stream
    """

    def __init__(
        self,
        broker: Broker | None = None,
        *,
        limits: Limits | None = None,
        opened: bool = True,
        accepts: bool = True,
        window: int = WINDOW,
        wide: bool = True,
    ) -> None:
        self.broker = Broker("boot", limits) if broker is None else broker
        self.server = ServerProtocol(self.broker, session="s")
        self.accepts = accepts
        #: What was raised, again and again.
        self.errors: list[RemoteProtocolError] = []
        self.events: list[ServerEvent] = []
        self.encoder = Encoder()
        self._decoder = Decoder()
        self._decoder.max_allowed_table_size = 2**32
        #: What was read, of each stream.
        self.data: defaultdict[int, bytes] = defaultdict(bytes)
        self.headers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: GoAwayFrame | None = None
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        #: What may still be read, and what may still be sent; 0 is the connection.
        self.window = window
        self.room: dict[int, int] = {0: WINDOW, **dict.fromkeys(_REQUESTS, window)}
        self.credit: dict[int, int] = {0: WINDOW}
        #: How much more a stream has than :attr:`credit` says, by the hub's SETTINGS.
        self.wider = 0
        if opened:
            self.send(self.opening(window))
            if wide:
                self.grant(0, 2**31 - 1 - WINDOW)
            self.read()
            assert {self.headers[stream][":status"] for stream in _REQUESTS} == {"200"}

    # Sending

    def opening(self, window: int = WINDOW) -> bytes:
        requests = [
            self.request(stream, *request, end=stream == MESSAGES)
            for stream, request in _REQUESTS.items()
        ]
        settings = settings_frame((2, 0), (9, 1), (4, window), (6, 16_384))
        return b"".join([PREFACE, settings, *requests])

    def block(self, method: str, path: str, *more: tuple[str, str]) -> bytes:
        head = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "a")]
        return bytes(self.encoder.encode([*head, *more], huffman=False))

    def request(
        self, stream: int, method: str, path: str, *more: tuple[str, str], end: bool = False
    ) -> bytes:
        return headers_frame(stream, self.block(method, path, *more), end=end)

    def send(self, *parts: bytes) -> list[ServerEvent]:
        """Let bytes arrive one after the other, and the session handle each.

        :return: its events; :attr:`error` is set at a violation
        """
        found: list[ServerEvent] = []
        for part in parts:
            self.server.receive_data(part)
            self.handle(found)
        return found

    def handle(self, found: list[ServerEvent] | None = None) -> None:
        found = self.events if found is None else found
        try:
            while not isinstance(event := self.server.next_event(), NeedData):
                found.append(event)
                if isinstance(event, Hello) and self.accepts:
                    self.server.accept()
        except RemoteProtocolError as error:
            self.errors.append(error)

    def grant(self, stream: int, size: int) -> None:
        """Let the hub send more."""
        self.room[stream] = self.room.get(stream, self.window) + size
        self.send(window_frame(stream, size))

    def publish(self, *messages: tuple[str, bytes], stream: int = PUBLISH) -> None:
        self.send(*cut(stream, records(*messages)))

    def subscribe(self, *channels: str) -> None:
        self.send(*cut(SUBSCRIBE, names(*channels)))

    # Reading

    def read(self) -> list[Frame]:
        """Read what the session sends at once."""
        found = read_frames(self.server.data_to_send())
        for one in found:
            self._on_frame(one)
        return found

    def read_all(self) -> list[Frame]:
        found = []
        while frames := self.read():
            found += frames
        return found

    def _on_frame(self, one: Frame) -> None:
        assert self.goaway is None or self.error is None, "nothing follows a last GOAWAY"
        stream = one.stream_id
        match one:
            case DataFrame():
                assert stream in self.headers
                assert stream not in self.ended
                assert len(one.data) <= MAX_DATA
                assert one.data or "END_STREAM" in one.flags
                for key in (0, stream):
                    self.room[key] = self.room.get(key, self.window) - len(one.data)
                    assert self.room[key] >= 0 or not one.data
                self.data[stream] += bytes(one.data)
            case HeadersFrame():
                fields: list[Any] = list(self._decoder.decode(bytes(one.data)))
                assert fields[0][0] == ":status"
                assert stream not in self.headers
                self.headers[stream] = dict(fields)
            case RstStreamFrame():
                self.resets[stream] = one.error_code
            case GoAwayFrame():
                self.goaway = one
            case PingFrame():
                (self.pongs if "ACK" in one.flags else self.pings).append(bytes(one.opaque_data))
            case WindowUpdateFrame():
                self.credit[stream] = self.credit.get(stream, WINDOW) + one.window_increment
            case SettingsFrame():
                if "ACK" not in one.flags:
                    assert one.settings.get(2, 0) == 0
                    self.wider = one.settings.get(4, WINDOW) - WINDOW
            case _:
                pytest.fail(f"the hub sent {one!r}")
        if "END_STREAM" in one.flags:
            self.ended.add(stream)

    @property
    def acks(self) -> bytes:
        """The codes of publishes so far."""
        return self.data[PUBLISH]

    def take(self, stream: int) -> bytes:
        """What was read of a stream since the last time."""
        return self.data.pop(stream, b"")

    def tick(self, *times: float) -> float:
        deadline = 0.0
        for now in times:
            deadline = self.server.tick(now)
            self.handle()
        return deadline

    # Expecting

    @property
    def error(self) -> RemoteProtocolError | None:
        """The first violation. It is the last too."""
        assert len(set(self.errors)) <= 1
        return self.errors[0] if self.errors else None

    def expect_refusal(self, code: str, goaway: int | None = None) -> None:
        """The session has ended: its client is told why, and it is gone from the broker."""
        assert self.error is not None
        assert self.error.code == code
        assert self.server.state is State.CLOSED
        assert self.server not in self.broker.sessions
        self.read_all()
        assert self.goaway is not None
        if goaway is not None:
            assert self.goaway.error_code == goaway
        assert self.server.eof_is_due
        assert self.server.backlog == 0
        self.send(ping_frame())
        assert self.read() == []

    def expect_alive(self) -> None:
        """The session answers."""
        assert self.error is None
        self.read_all()
        before = len(self.pongs)
        self.send(ping_frame(b"is alive"))
        self.read_all()
        assert self.pongs[before:] == [b"is alive"]


def stranger(limits: Limits | None = None, broker: Broker | None = None, **more: bool) -> Peer:
    """A client that has asked for nothing yet."""
    peer = Peer(broker, limits=limits, opened=False, **more)
    peer.send(PREFACE + settings_frame())
    return peer


class Others:
    """Two more clients of a hub, who must not notice anything."""

    def __init__(self, broker: Broker) -> None:
        self.native = connect(broker, "others")
        self.http2 = Peer(broker)
        self.http2.subscribe("others")
        self.http2.read_all()

    def expect_well(self) -> None:
        self.http2.publish(("others", b"1"))
        [messages] = self.native.pump()
        assert isinstance(messages, Messages)
        self.http2.read_all()
        assert self.http2.take(MESSAGES) == records(("others", b"1"))
        assert self.http2.take(PUBLISH) == b"k"


def taken(events: Iterable[ServerEvent]) -> int:
    return sum([event.records for event in events if isinstance(event, Taken)])
