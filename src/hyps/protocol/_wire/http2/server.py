"""The hub's end of the HTTP/2 wire."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from h2.errors import ErrorCodes
from h2.events import RequestReceived, StreamEnded

from ..._records.decoding import WholeRecords, records
from ..._records.layout import encode_channel, pack
from ...errors import ErrorCode, HypsError, RemoteProtocolError
from ...events import Hello
from ..frames import Kind
from ..handshake import decode_error, decode_goaway, encode_hello
from .common import FIRST_WINDOW, REQUEST_COST, Http2Wire, first
from .connection import MAX_DATA, WINDOW
from .stream import Bounds, Outlet

if TYPE_CHECKING:
    from h2.events import Event

    from ...events import PeerError

#: The hub holds answers for this many seconds after the last byte if nothing tells whether their
#: batch goes on, and checks that so often. Hyps for Nim reads the answers to a batch once, and
#: would never see later ones. Half a second, because its batch may arrive over a slow link.
_HOLD_TIME: Final = 0.5
_HOLD_CHECK: Final = 0.1

#: The most bytes of messages to send at once, so that nothing waits long behind them.
_MAX_SEND: Final = 262_144

#: The bytes that may arrive before the session is open, for decoding afterwards: as much data as
#: the windows allow, and as much again for the rest of the frames.
_MAX_UNSEEN: Final = 2 * FIRST_WINDOW

#: A request may have this many headers without being charged.
_FREE_HEADERS: Final = 32

#: The bound of answers that wait for the client to grant window, in bytes. Each is one byte. A
#: client may send for a long time before it reads one.
_MAX_ANSWERS: Final = 2 * 1024 * 1024

_METHODS: Final = {"/publish": "POST", "/subscribe": "POST", "/messages": "GET"}
_KINDS: Final = {"/publish": Kind.PUBLISH, "/subscribe": Kind.SUBSCRIBE}


class _Request:
    """A request whose response has not ended."""

    __slots__ = (
        "answers",
        "bounds",
        "has_moved",
        "is_cut",
        "is_due",
        "is_ended",
        "kind",
        "owed",
        "records",
        "still_since",
    )

    def __init__(self, stream: int, kind: Kind) -> None:
        self.kind = kind
        self.records = WholeRecords()
        self.bounds = Bounds(FIRST_WINDOW, WINDOW)
        self.answers = Outlet(stream)
        #: How many records the hub has not answered.
        self.owed = 0
        #: Whether the last DATA frame looked as if its batch went on.
        self.is_cut = False
        #: Whether DATA has arrived since the last tick, and the time of the first tick without any.
        self.has_moved = False
        self.still_since = math.inf
        #: Whether enough time has passed since then.
        self.is_due = False
        #: Whether the client has ended the request.
        self.is_ended = False

    def move(self, *, is_cut: bool) -> None:
        """Note that DATA has arrived."""
        self.is_cut = is_cut
        self.has_moved = True
        self.is_due = False

    def judge(self, now: float) -> float:
        """Judge by the time whether the batch goes on.

        :return: when to call again
        """
        if self.has_moved:
            self.has_moved = False
            self.still_since = now
        deadline = self.still_since + _HOLD_TIME
        self.is_due = now >= deadline
        return math.inf if self.is_due else min(deadline, now + _HOLD_CHECK)


class ServerWire(Http2Wire):
    """A hub's end, see :class:`Http2Wire`.

    What its client does need not be what Hyps' does: any number of requests at any time.
    """

    held: int
    has_output: bool
    partial_size: int
    wants_tick: bool

    def __init__(self, max_frame: int) -> None:
        super().__init__(max_frame, is_client=False)
        self.connection.initiate_connection()
        self._bounds = Bounds(FIRST_WINDOW)
        self._requests: dict[int, _Request] = {}
        self._messages = Outlet(0)
        # The streams whose records are answered next, and the number of their records.
        self._owing: deque[tuple[int, int]] = deque()
        self._is_greeted = False
        # The request that opens the session, until the hub has decided on it.
        self._opener: RequestReceived | None = None
        # The request for /messages that waits for its URL's channels, and the codes so far.
        self._url_stream = 0
        self._url_codes = b""
        self._url_names: list[bytes] = []
        # Whether the hub has asked the client to leave.
        self._is_leaving = False
        # The bytes of answers that wait.
        self._unread = 0
        # Requests whose answers wait only for time to pass.
        self._holding: list[_Request] = []

    def receive_data(self, data: bytes) -> None:
        if not self.is_open and len(self.connection.frames) + len(data) > _MAX_UNSEEN:
            self.fail(RemoteProtocolError("too much before the session is open", ErrorCode.LIMIT))
        super().receive_data(data)

    # Requests

    def on_event(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._on_request(event)
            case StreamEnded(stream_id=stream):
                request = self._requests.get(stream)
                if request is not None:
                    self._on_end(request)
            case _:
                pass

    def next_frame(self) -> tuple[int, bytes] | None:
        if self._opener is not None:
            # The hub has accepted it.
            opener, self._opener = self._opener, None
            self.is_open = True
            self.widen()
            self._bounds.grant(self.connection.inbound_flow_control_window)
            self._on_request(opener)
        return super().next_frame()

    def _on_request(self, event: RequestReceived) -> None:
        stream = event.stream_id
        self.spend(len(event.headers or ()) // _FREE_HEADERS)
        method = first(event.headers, b":method") or ""
        path, _, query = (first(event.headers, b":path") or "").partition("?")
        if path not in _METHODS:
            text = "there are /publish, /subscribe and /messages"
            self._refuse(stream, 404, text, has_body=method != "HEAD")
        elif method != _METHODS[path]:
            right = _METHODS[path]
            text = f"{path} takes {right}"
            self._refuse(stream, 405, text, ("allow", right), has_body=method != "HEAD")
        elif not self._is_greeted:
            self._is_greeted = True
            self._opener = event
            scheme, _, token = (first(event.headers, b"authorization") or "").partition(" ")
            client = first(event.headers, b"user-agent") or "a client over HTTP/2"
            hello = Hello(client, token if scheme.lower() == "bearer" else None, ())
            self.frames.append((Kind.HELLO, encode_hello(hello)))
        elif path in _KINDS:
            self._accept(stream)
            request = self._requests[stream] = _Request(stream, _KINDS[path])
            if event.stream_ended is not None:
                self._on_end(request)
        elif self._messages.stream or self._url_stream:
            self._refuse(stream, 409, "this connection has /messages already")
        else:
            self._on_messages(stream, query)

    def _on_messages(self, stream: int, query: str) -> None:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
            names = [encode_channel(value) for name, value in pairs if name == "channel"]
        except (ValueError, HypsError):
            if query:
                self._refuse(stream, 400, "the query is no list of channel=NAME")
                return
            pairs, names = [], []
        if len(names) < len(pairs):
            self._refuse(stream, 400, "the query may have channel=, and nothing else")
            return
        if names:
            # The response begins when the hub has answered for these channels.
            self._url_stream = stream
            self._url_codes = b""
            self._url_names = names
            self._owing.append((stream, len(names)))
            self.frames.append((Kind.SUBSCRIBE, b"".join([pack(name, b"") for name in names])))
        else:
            self._accept(stream)
            self._messages.stream = stream

    def _accept(self, stream: int) -> None:
        if not self.connection.is_open(stream):
            return
        headers = [(":status", "200"), ("content-type", "application/octet-stream")]
        self.connection.send_headers(stream, headers)
        self.has_output = True

    def _refuse(
        self,
        stream: int,
        status: int,
        text: str,
        *headers: tuple[str, str],
        has_body: bool = True,
    ) -> None:
        if not self.connection.is_open(stream):
            return
        body = f"{text}\n".encode()
        head = [
            (":status", str(status)),
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(body))),
            *headers,
        ]
        connection = self.connection
        connection.send_headers(stream, head, end_stream=not has_body)
        if not has_body:
            pass
        elif connection.local_flow_control_window(stream) < len(body):
            connection.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        else:
            connection.send_data(stream, body, end_stream=True)
        # Do not reset the stream, although nobody wants the request's body: curl would drop the
        # response.
        self.has_output = True
        self.spend(REQUEST_COST)

    def on_data(self, stream: int, data: bytes, size: int) -> None:
        request = self._requests.get(stream)
        is_stopped = self._bounds.take(size)
        if request is None:
            # This is data of a refused request.
            self.spend()
        else:
            is_stopped = request.bounds.take(size) or is_stopped
            request.move(is_cut=len(data) == MAX_DATA or is_stopped)
            self._take(request, data)
        self.grant(stream, size)
        self._bounds.grant(self.connection.inbound_flow_control_window)
        if request is not None:
            request.bounds.grant(self.connection.streams[stream].inbound_flow_control_window)

    def _take(self, request: _Request, data: bytes) -> None:
        before = request.records.rest
        body, count = request.records.take(data, self.connection.frames.position)
        if count:
            request.owed += count
            self._owing.append((request.answers.stream, count))
            self.frames.append((request.kind, body))
        self.partial_size += request.records.rest - before
        if max(request.records.wanted, self.partial_size) > self.max_frame:
            text = f"a record, or unfinished ones, over {self.max_frame} bytes"
            self.fail(RemoteProtocolError(text, ErrorCode.TOO_LARGE))
        if self._unread > _MAX_ANSWERS:
            self.fail(RemoteProtocolError("answers that are not read", ErrorCode.LIMIT))

    def _on_end(self, request: _Request) -> None:
        if request.records.rest:
            self.fail(RemoteProtocolError("a record is cut off at the end of a request"))
        request.is_ended = True
        self.has_output = True

    def on_reset(self, stream: int) -> None:
        request = self._requests.pop(stream, None)
        if request is not None:
            self.partial_size -= request.records.rest
        if stream == self._messages.stream:
            # The channels stay: they belong to the connection, and another request may ask for
            # messages. Drop the queue, because the reset may have cut a record.
            self._messages.stream = 0
            self._messages.clear()
        if stream == self._url_stream:
            self._url_stream = 0

    # Answers

    def put(self, kind: int, bodies: list[bytes]) -> None:
        match kind:
            case Kind.MESSAGES if not self._is_leaving:
                for body in bodies:
                    self._messages.put(body)
            case Kind.PUBLISH_ACK:
                self._answer(b"".join(bodies))
            case Kind.SUBSCRIBE_ACK:
                answers = [data[:1] for body in bodies for _, data in records(body)]
                self._answer(b"".join(answers))
            case Kind.PING:
                self.ping(bodies[0])
            case Kind.GOAWAY:
                # End the messages: a client that only waits for them would not leave.
                self._is_leaving = True
                self.say_goodbye(ErrorCodes.NO_ERROR, decode_goaway(bodies[0]).reason)
            case Kind.ERROR:
                self._on_error(decode_error(bodies[0]))
            case _:
                # HTTP/2 itself does what WELCOME and PONG do, and has no place for gaps.
                pass

    def _answer(self, codes: bytes) -> None:
        """Distribute codes among the requests that wait for them, in order."""
        position = 0
        while position < len(codes):
            stream, count = self._owing.popleft()
            part = codes[position : position + count]
            position += len(part)
            if len(part) < count:
                self._owing.appendleft((stream, count - len(part)))
            request = self._requests.get(stream)
            if request is not None:
                request.owed -= len(part)
                request.answers.put(part)
            elif stream == self._url_stream:
                self._answer_url(stream, part, is_all=len(part) == count)

    def _answer_url(self, stream: int, codes: bytes, *, is_all: bool) -> None:
        self._url_codes += codes
        if not is_all:
            return
        self._url_stream = 0
        if self._url_codes.strip(b"k"):
            is_late = b"u" in self._url_codes
            text = "the hub is leaving" if is_late else "the hub does not allow one of the channels"
            self._refuse(stream, 503 if is_late else 403, text)
            # Accept all of the URL's channels or none.
            names = zip(self._url_names, self._url_codes, strict=True)
            granted = [pack(name, b"") for name, code in names if code == ord("k")]
            if granted:
                self.frames.append((Kind.UNSUBSCRIBE, b"".join(granted)))
                self.wants_tick = True
        else:
            self._accept(stream)
            self._messages.stream = stream

    def _on_error(self, error: PeerError) -> None:
        code, text = error.code, error.message
        if self._opener is not None:
            status = 401 if code == ErrorCode.AUTH else 503
            self._refuse(self._opener.stream_id, status, text)
            self._opener = None
        self.end(code, text)
        for stream, request in self._requests.items():
            # Ending it normally would say that all went well.
            if (request.owed or request.records.rest) and self.connection.is_open(stream):
                self.connection.reset_stream(stream, ErrorCodes.PROTOCOL_ERROR)

    def send_all(self) -> None:
        unread = 0
        self._holding = []
        for stream, request in list(self._requests.items()):
            answers = request.answers
            is_last = request.is_ended and not request.owed and not request.records.rest
            if answers.size and not self._is_held(request):
                answers.is_ending = is_last
                self.send(answers)
            elif is_last and not answers.size and self.connection.is_open(stream):
                self.connection.end_stream(stream)
            if is_last and not answers.size:
                del self._requests[stream]
            unread += answers.size
        if self._messages.stream:
            self.send(self._messages, _MAX_SEND)
            if self._is_leaving and not self._messages.size and not self._goodbye:
                if self.connection.is_open(self._messages.stream):
                    self.connection.end_stream(self._messages.stream)
                self._messages.stream = 0
        elif self.is_closing:
            self._messages.clear()
        self._unread = unread
        self.held = unread + self._messages.size
        if any(request.has_moved for request in self._holding):
            self.wants_tick = True

    def _is_held(self, request: _Request) -> bool:
        """Tell whether to hold answers for the rest of a batch.

        A batch that is visibly incomplete has no deadline of its own: the rule for unfinished
        frames applies to it.
        """
        if self.is_closing:
            return False
        if request.is_ended:
            return request.owed > 0
        if request.answers.size >= FIRST_WINDOW:
            # These are more than a client of Hyps for Nim reads at once.
            return False
        if request.owed or request.records.rest:
            return True
        if self.connection.frames.may_be_of(request.answers.stream):
            return True
        if request.is_cut and not request.is_due:
            self._holding.append(request)
            return True
        return False

    def shed(self) -> list[bytes]:
        shed = self._messages.shed()
        self.held -= sum(map(len, shed))
        return shed

    def get_records(self) -> list[WholeRecords]:
        return [request.records for request in self._requests.values()]

    def clear(self) -> None:
        for request in self._requests.values():
            request.answers.clear()
        self._messages.clear()
        self.held = 0

    def tick(self, now: float) -> float:
        deadline = super().tick(now)
        for request in self._holding:
            deadline = min(deadline, request.judge(now))
            self.has_output = self.has_output or request.is_due
        return deadline
