"""One connection: h11 over a stream, with a bound for everything that it waits for."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import anyio
import h11
from anyio.lowlevel import checkpoint

from .._server.strangers import Stranger
from .._version import __version__
from ._requests import Refusal, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from anyio.abc import ByteStream

    from .._server.strangers import Strangers

    #: Answers a request, or what was none.
    Answer = Callable[[Request | Refusal, "Connection"], Awaitable[Reply]]

#: Bytes of a request's head, as h11 itself has it by default.
_MAX_HEAD: Final = 16_384
_READ_SIZE: Final = 65_536

#: Other tasks run after as many parts of a body: a part may be one byte.
_PARTS_AT_ONCE: Final = 32

#: Seconds in which what a client still sends is thrown away, after an answer that did not wait for
#: it. If the connection was closed at once, the client might never see the answer.
_LINGER: Final = 2.0

_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)

#: The same in each answer. Browsers are to show, run, store and guess nothing of it.
_HEADERS: Final = (
    ("Server", f"hyps-py/{__version__}"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Connection:
    """Serves the requests of one connection, one after the other.

    :param stream: the connection; it is not closed here
    :param host: address of the peer
    :param strangers: has this connection while it waits for the peer
    :param timeout: seconds for a head, for a body, and for an answer
    """

    def __init__(self, stream: ByteStream, host: str, strangers: Strangers, timeout: float) -> None:
        self._stream = stream
        self._host = host
        self._strangers = strangers
        self._timeout = timeout
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._scope = anyio.CancelScope()
        self._stranger = Stranger(host, self._scope.cancel)
        self._is_head = False
        # Whether all of the request has come, be there a further one or not.
        self._has_all = False

    async def run(self, answer: Answer) -> None:
        """Serve until the connection ends, or is closed to make room."""
        with self._scope, suppress(*_BROKEN):
            while await self._serve_one(answer):
                self._h11.start_next_cycle()

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Let the connection be closed meanwhile if the room is needed."""
        self._strangers.enter(self._stranger)
        try:
            yield
        finally:
            self._strangers.leave(self._stranger)

    @contextmanager
    def _waiting(self, seconds: float) -> Iterator[None]:
        """Wait for the peer: for so long at most."""
        with self.giving_way(), anyio.fail_after(seconds):
            yield

    async def _serve_one(self, answer: Answer) -> bool:
        """Serve one request.

        :return: whether there may be a further one
        """
        asked: Request | Refusal | None
        try:
            asked = await self._read_head()
        except Refusal as refusal:
            asked = refusal
        if asked is None:
            return False
        await self._send(await answer(asked, self))
        if self._h11.their_state is h11.DONE and self._h11.our_state is h11.DONE:
            return True
        await self._linger()
        return False

    async def _read_head(self) -> Request | None:
        event = None
        self._has_all = False
        try:
            with self._waiting(self._timeout):
                event = await self._next_event()
        except TimeoutError:
            if not self._h11.trailing_data[0]:
                return None
        if event is None:
            raise Refusal(408, f"the request's head took more than {self._timeout:g} seconds")
        if not isinstance(event, h11.Request):
            return None
        if event.http_version not in (b"1.1", b"1.0"):
            raise Refusal(505, "this port speaks HTTP/1.1")
        method = event.method.decode("ascii")
        self._is_head = method == "HEAD"
        request = Request(method, event.target, list(event.headers), self._host)
        if request.values(b"content-length") and request.values(b"transfer-encoding"):
            # A proxy may see two requests where h11 sees one.
            raise Refusal(400, "there are both Content-Length and Transfer-Encoding")
        if not (request.read_length() or request.values(b"transfer-encoding")):
            # There is no body. So the connection can be used again, whatever the answer is.
            await self._next_event()
            self._has_all = True
        return request

    async def _next_event(self) -> Any:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                # Its words may quote what came, and with that a token.
                why = f"this is no HTTP/1.1, or its head has more than {_MAX_HEAD} bytes"
                raise Refusal(error.error_status_hint, why) from None
            if event is not h11.NEED_DATA:
                return event
            try:
                data = await self._stream.receive(_READ_SIZE)
            except anyio.EndOfStream:
                data = b""
            self._h11.receive_data(data)

    async def read_body(self, most: int) -> bytes:
        """Read the body of the request.

        :param most: bytes
        :raises Refusal: at the first byte above, or if it takes too long
        """
        if self._has_all:
            return b""
        found: list[bytes] = []
        size = parts = 0
        try:
            with self._waiting(self._timeout):
                if self._h11.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(
                        status_code=100, headers=[], reason="Continue"
                    )
                    await self._stream.send(self._h11.send(go_on) or b"")
                while isinstance(event := await self._next_event(), h11.Data):
                    size += len(event.data)
                    if size > most:
                        raise Refusal(413, f"the body may have {most} bytes")
                    found.append(bytes(event.data))
                    parts += 1
                    if not parts % _PARTS_AT_ONCE:
                        await checkpoint()
        except TimeoutError:
            raise Refusal(408, f"the body took more than {self._timeout:g} seconds") from None
        self._has_all = True
        return b"".join(found)

    async def skip_body(self) -> None:
        """Take the end of a request that should have no body."""
        if not self._h11.they_are_waiting_for_100_continue:
            await self.read_body(0)

    async def _send(self, reply: Reply) -> None:
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        status = HTTPStatus(reply.status)
        headers = [
            *_HEADERS,
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            *reply.headers.items(),
        ]
        if not self._has_all:
            headers.append(("Connection", "close"))
        response = h11.Response(status_code=status, headers=headers, reason=status.phrase)
        parts = [self._h11.send(response)]
        if not self._is_head:
            parts.append(self._h11.send(h11.Data(data=reply.body)))
        parts.append(self._h11.send(h11.EndOfMessage()))
        with suppress(TimeoutError), self._waiting(self._timeout):
            await self._stream.send(b"".join(part or b"" for part in parts))
            return
        # The peer does not read.
        self._scope.cancel()

    async def _linger(self) -> None:
        """Half-close, and throw away what the peer still sends."""
        with suppress(TimeoutError, anyio.EndOfStream, RuntimeError), self._waiting(_LINGER):
            # uvloop raises a RuntimeError if the connection was reset.
            await self._stream.send_eof()
            while True:
                await self._stream.receive(_READ_SIZE)
