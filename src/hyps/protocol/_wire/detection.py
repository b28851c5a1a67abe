"""Detection: the hub tells wires apart by the first bytes of a connection."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from ..errors import RemoteProtocolError
from .base import Wire
from .frames import VERSION, frame_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .registry import KnownWire

_NOT_HYPS: Final = (
    b"HYPS/%d: this port speaks the Hyps pub/sub protocol, and what came is something else\r\n"
    % VERSION
)

#: The first bytes of HTTP/1 requests.
_HTTP_1: Final = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ", b"DELETE ", b"PATCH ")
_WANTS_HTTP_2: Final = (
    b"this port speaks HTTP/2 with prior knowledge (curl --http2-prior-knowledge); "
    b"the hub's health is at the port of hyps serve --http\n"
)
_NOT_HTTP_1: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\n"
    b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_WANTS_HTTP_2), _WANTS_HTTP_2)
)

# Without h2 installed the hub speaks only these two frames of HTTP/2 (RFC 9113, 6.5 and 6.8).
_HTTP2_SETTINGS: Final = b"\0\0\0\4\0\0\0\0\0"
_HTTP2_GOAWAY: Final = Struct(">IBIII")
_INTERNAL_ERROR: Final = 0x02


def _encode_goaway(reason: str) -> bytes:
    text = reason.encode()
    return _HTTP2_GOAWAY.pack((8 + len(text)) << 8 | 7, 0, 0, 0, _INTERNAL_ERROR) + text


class HTTP1Request(RemoteProtocolError):
    """A client speaks HTTP/1: a browser, curl, or a load balancer that probes the port."""


#: The beginning of a TLS handshake: its type of record, and the major version.
_TLS: Final = b"\x16\x03"


class UnknownWire(Wire):
    """The wire of a client whose first bytes have not told yet which one it speaks.

    :param max_frame: bytes of a frame, for the wire to come
    :param wires: the wires that it may turn out to be
    :param on_known: receives the wire once it is known
    """

    name = ""

    def __init__(
        self,
        max_frame: int,
        wires: Sequence[KnownWire],
        on_known: Callable[[Wire], None],
    ) -> None:
        self.max_frame = max_frame
        self._wires = wires
        self._on_known = on_known
        # The answer to a client that speaks something else, in its own language.
        self._answer = b""
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def discard(self) -> None:
        self._buffer.clear()

    def next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        for known in self._wires:
            if buffer.startswith(known.opening):
                try:
                    wire = known.make(self.max_frame)
                except RemoteProtocolError as error:
                    self._answer = _HTTP2_SETTINGS + _encode_goaway(str(error))
                    raise
                wire.receive_data(bytes(buffer))
                self._on_known(wire)
                return wire.next_frame()
        openings = [known.opening for known in self._wires]
        if any(start.startswith(buffer) for start in (*openings, *_HTTP_1)):
            return None
        if buffer.startswith(_HTTP_1):
            self._answer = _NOT_HTTP_1
            raise HTTP1Request("the preface is missing: this is an HTTP/1 request")
        self._answer = _NOT_HYPS
        if buffer.startswith(_TLS):
            raise RemoteProtocolError("the preface is missing: this is TLS, and this port has none")
        raise RemoteProtocolError("the preface is missing")

    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        # Text, which a person at the other end can read.
        return (self._answer,) if self._answer else (frame_head(kind, length), *bodies)
