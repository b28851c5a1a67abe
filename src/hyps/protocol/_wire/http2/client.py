"""The client's end of the HTTP/2 wire, for a hub of Hyps for Nim or for ours."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Final

from h2.events import ConnectionTerminated, ResponseReceived, StreamEnded
from hyperframe.frame import DataFrame, HeadersFrame

from ..._records.decoding import WholeRecords
from ..._records.layout import pack
from ..._records.position import format_position
from ..._records.scanning import scan
from ...errors import ErrorCode, RemoteProtocolError
from ...events import GoingAway, PeerError, Welcome
from ...limits import Limits
from ..frames import Kind
from ..handshake import (
    decode_error,
    decode_hello,
    encode_error,
    encode_goaway,
    encode_welcome,
)
from .common import Http2Wire, first
from .connection import WINDOW
from .stream import Outlet

if TYPE_CHECKING:
    from h2.events import Event
    from hyperframe.frame import Frame

    from ...events import Hello

_SUBSCRIBE: Final = 1
_PUBLISH: Final = 3
_MESSAGES: Final = 5

#: The requests of a session, all at once and in the order of Hyps for Nim's own client.
_REQUESTS: Final = {
    _SUBSCRIBE: ("POST", "/subscribe"),
    _PUBLISH: ("POST", "/publish"),
    _MESSAGES: ("GET", "/messages"),
}
_ANSWERS: Final = {Kind.PUBLISH: Kind.PUBLISH_ACK, Kind.UNSUBSCRIBE: Kind.UNSUBSCRIBE_ACK}

#: Numbers the connections of this process. This wire has no positions, so a channel's account ends
#: with the connection. The number makes sure that positions of two connections differ.
_numbers: Final = itertools.count(1)


class _Pending:
    """Records whose codes have not arrived.

    :param kind: of their frame
    :param count: how many
    :param names: the channels, of SUBSCRIBE
    """

    __slots__ = ("count", "done", "kind", "names")

    def __init__(self, kind: Kind, count: int, names: list[bytes]) -> None:
        self.kind = kind
        self.count = count
        self.names = names
        #: How many of them have a code.
        self.done = 0


class ClientWire(Http2Wire):
    """A client's end, see :class:`Http2Wire`. Pass it as the ``wire`` of a ``ClientProtocol``.

    The answers to publishes and to subscribes come on two streams, in whatever order; this wire
    hands them out in the order of the operations. Hyps for Nim has no UNSUBSCRIBE, so this end
    leaves channels by itself.

    :param authority: what stands in the URL, host and port
    :param scheme: ``http`` or ``https``
    :param limits: the bounds that a hub of this wire does not tell
    """

    frames: deque[tuple[int, bytes]]
    held: int
    has_output: bool
    partial_size: int

    may_half_close = False

    def __init__(
        self, authority: str, *, scheme: str = "http", limits: Limits | None = None
    ) -> None:
        self._limits = limits or Limits()
        super().__init__(self._limits.max_frame, is_client=True)
        self._authority = authority
        self._scheme = scheme
        self._token: str | None = None
        self._generation = b"http2.%d" % next(_numbers)
        self._outlets = {stream: Outlet(stream) for stream in (_SUBSCRIBE, _PUBLISH)}
        # A message that is too large for this client costs a gap and not the connection, because
        # the hub never learned this client's limit.
        self._records = WholeRecords(self._limits.max_frame, self._limits.max_channel)
        self._accepted: set[int] = set()
        self._pending: deque[_Pending] = deque()
        self._is_leaving = False
        # How many codes of each kind are due, and codes that arrived before their turn.
        self._due = {Kind.SUBSCRIBE: 0, Kind.PUBLISH: 0}
        self._codes = {Kind.SUBSCRIBE: b"", Kind.PUBLISH: b""}
        # Messages that arrived behind the code of a SUBSCRIBE whose turn has not come, as frames,
        # with the window that they take.
        self._behind: deque[tuple[list[tuple[int, bytes]], int]] = deque()

    # Input

    def check(self, frame: Frame) -> None:
        # h2 would let a hub begin requests too.
        if isinstance(frame, DataFrame | HeadersFrame) and frame.stream_id not in _REQUESTS:
            raise RemoteProtocolError(
                "HTTP/2: the hub uses a stream that this client did not begin"
            )

    def on_event(self, event: Event) -> None:
        match event:
            case ResponseReceived(stream_id=stream, headers=headers):
                self._on_response(stream, first(headers, b":status") or "")
            case ConnectionTerminated(error_code=code, additional_data=data):
                reason = (data or b"").decode(errors="replace") or f"HTTP/2 error code {code}"
                self.frames.append((Kind.GOAWAY, encode_goaway(GoingAway(reason, 0))))
                self._is_leaving = True
            case StreamEnded(stream_id=stream):
                self.on_reset(stream)
            case _:
                pass

    def _on_response(self, stream: int, status: str) -> None:
        if status != "200":
            method, path = _REQUESTS[stream]
            # Show a status only if it is a number.
            code = f"HTTP {status if status.isdecimal() else '?'}"[:8]
            text = f"{method} {path}"
            if status == "401":
                code = ErrorCode.AUTH
                text = "it wants a token" if self._token is None else "it does not take the token"
            self.frames.append((Kind.ERROR, encode_error(PeerError(code, text))))
            return
        self._accepted.add(stream)
        if self._accepted == _REQUESTS.keys():
            limits = self._limits
            # The hub tells nothing: these are the client's own limits.
            welcome = Welcome(
                server="a hub over HTTP/2",
                session="",
                features=(),
                heartbeat=limits.heartbeat,
                max_message=limits.max_message,
                max_channel=limits.max_channel,
                max_frame=limits.max_frame,
                max_channels=limits.max_channels,
                max_in_flight=limits.max_in_flight,
            )
            self.frames.append((Kind.WELCOME, encode_welcome(welcome)))

    def on_data(self, stream: int, data: bytes, size: int) -> None:
        if stream == _MESSAGES:
            self._on_messages(data, size)
            return
        # Grant the window at once: a hub of Hyps for Nim stops reading when too many codes are
        # unread.
        self.grant(stream, size)
        if not data:
            return
        kind = Kind.PUBLISH if stream == _PUBLISH else Kind.SUBSCRIBE
        self._due[kind] -= len(data)
        if self._due[kind] < 0:
            self.fail(RemoteProtocolError("codes for what was not sent"))
            return
        self._codes[kind] += data
        self._release()

    def on_reset(self, stream: int) -> None:
        # After its goodbye the hub may still send the rest.
        if not self._is_leaving:
            self.fail(RemoteProtocolError(f"the hub ended {_REQUESTS[stream][1]}"))

    def _on_messages(self, data: bytes, size: int) -> None:
        records = self._records
        body, _ = records.take(data, self.connection.frames.position)
        self.partial_size = records.rest
        frames: list[tuple[int, bytes]] = [(Kind.MESSAGES, body)] if body else []
        if records.left_out:
            frames.append((Kind.GAP, pack(records.left_out, b"")))
        if self._codes[Kind.SUBSCRIBE]:
            self._behind.append((frames, size))
            return
        self.frames += frames
        self.grant(_MESSAGES, size)

    def get_records(self) -> tuple[WholeRecords]:
        return (self._records,)

    def _release(self) -> None:
        """Pass on the codes whose turn has come."""
        pending = self._pending
        while pending:
            head = pending[0]
            codes = self._take_codes(head.kind, head.count - head.done)
            if not codes:
                break
            if head.kind == Kind.SUBSCRIBE:
                names = head.names[head.done : head.done + len(codes)]
                self.frames.append((Kind.SUBSCRIBE_ACK, self._make_answers(names, codes)))
            else:
                self.frames.append((_ANSWERS[head.kind], codes))
            head.done += len(codes)
            if head.done == head.count:
                pending.popleft()
        while self._behind and not self._codes[Kind.SUBSCRIBE]:
            frames, size = self._behind.popleft()
            self.frames += frames
            self.grant(_MESSAGES, size)

    def _take_codes(self, kind: Kind, most: int) -> bytes:
        if kind is Kind.UNSUBSCRIBE:
            return b"k" * most
        codes = self._codes[kind]
        self._codes[kind] = codes[most:]
        return codes[:most]

    def _make_answers(self, names: list[bytes], codes: bytes) -> bytes:
        answers = {code: bytes([code]) for code in set(codes)}
        answers[ord("k")] = b"k" + format_position(self._generation, 0)
        return b"".join(
            [pack(name, answers[code]) for name, code in zip(names, codes, strict=True)]
        )

    # Output

    def put(self, kind: int, bodies: list[bytes]) -> None:
        match kind:
            case Kind.HELLO:
                self._open(decode_hello(bodies[0]))
            case Kind.PUBLISH:
                for body in bodies:
                    self._outlets[_PUBLISH].put(body)
                    self._expect(Kind.PUBLISH, body)
            case Kind.SUBSCRIBE:
                for body in bodies:
                    names = self._expect(Kind.SUBSCRIBE, body)
                    # This wire has no positions.
                    self._outlets[_SUBSCRIBE].put(b"".join([pack(name, b"") for name in names]))
            case Kind.UNSUBSCRIBE:
                for body in bodies:
                    self._expect(Kind.UNSUBSCRIBE, body)
                self._release()
                self.wants_tick = True
            case Kind.PING:
                self.ping(bodies[0])
            case Kind.ERROR:
                error = decode_error(bodies[0])
                self.end(error.code, error.message)
            case _:
                pass

    def _expect(self, kind: Kind, body: bytes) -> list[bytes]:
        """Note that a request's codes are due.

        :return: the channels, of SUBSCRIBE
        """
        names: list[bytes] = []
        count = 0
        for name, _, each in scan(body):
            count += each
            if kind is Kind.SUBSCRIBE:
                names += [name] * each
        if kind in self._due:
            self._due[kind] += count
        last = self._pending[-1] if self._pending else None
        if last is not None and last.kind is kind:
            last.count += count
            last.names.extend(names)
        else:
            self._pending.append(_Pending(kind, count, names))
        return names

    def _open(self, hello: Hello) -> None:
        token = self._token = hello.token
        if token is not None and (token != token.strip() or not token.isprintable()):
            raise ValueError("HTTP/2 has no place for a token with such characters")
        connection = self.connection
        connection.initiate_connection()
        self.widen()
        # Messages that wait for an earlier code must not use up the window that this code needs.
        connection.increment_flow_control_window(WINDOW)
        for stream, (method, path) in _REQUESTS.items():
            headers = [
                (":method", method),
                (":scheme", self._scheme),
                (":path", path),
                (":authority", self._authority),
                ("user-agent", hello.client),
            ]
            if token is not None:
                headers.append(("authorization", f"Bearer {token}"))
            connection.send_headers(stream, headers, end_stream=stream == _MESSAGES)

    def send_all(self) -> None:
        for outlet in self._outlets.values():
            self.send(outlet)
        self.held = sum([outlet.size for outlet in self._outlets.values()])

    def clear(self) -> None:
        for outlet in self._outlets.values():
            outlet.clear()
        self.held = 0
