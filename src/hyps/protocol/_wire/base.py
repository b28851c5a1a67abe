"""Wires: how frames become bytes, and bytes frames. Everything else is the same on all of them.

The hub tells them apart by the first bytes of a connection.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from struct import Struct
from typing import TYPE_CHECKING, Final

from .._records.layout import MERGED_SIZE
from ..errors import RemoteProtocolError
from ..limits import FRAME_WORK
from .frames import PREFACE, VERSION, FrameDecoder, frame_head, pack_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_NOT_HYPS: Final = (
    b"HYPS/%d: this port speaks the Hyps pub/sub protocol, and what came is something else\r\n"
    % VERSION
)

#: How a request of HTTP/1 begins.
_HTTP_1: Final = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ", b"DELETE ")
_WANTS_HTTP_2: Final = (
    b"this port speaks HTTP/2 with prior knowledge (curl --http2-prior-knowledge)\n"
)
_NOT_HTTP_1: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\n"
    b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_WANTS_HTTP_2), _WANTS_HTTP_2)
)

# Without h2 these two are all of HTTP/2 that is spoken (RFC 9113, 6.5 and 6.8).
_HTTP2_SETTINGS: Final = b"\0\0\0\4\0\0\0\0\0"
_HTTP2_GOAWAY: Final = Struct(">IBIII")
_INTERNAL_ERROR: Final = 0x02


def _encode_goaway(reason: str) -> bytes:
    text = reason.encode()
    return _HTTP2_GOAWAY.pack((8 + len(text)) << 8 | 7, 0, 0, 0, _INTERNAL_ERROR) + text


class Wire(ABC):
    """One end of one connection, as a translator between frames and bytes.

    The attributes say what a wire can do; those of the native one are the defaults.
    """

    #: Bytes of kind and body that a frame from the peer has at most; more is refused.
    max_frame: int
    #: Bodies that :meth:`encode` took and that may not be sent yet, in bytes.
    held: int = 0
    #: Whether there is something to send that nobody put.
    has_output: bool = False
    #: Whether it may have something to send beside the frames that it is given.
    speaks_itself: bool = False
    #: Whether :meth:`tick` is to be called now, and :meth:`next_frame` after it.
    wants_tick: bool = False
    #: Whether the peer is known to answer a PING.
    answers_ping: bool = True
    #: Whether the peer may send before its greeting is answered.
    is_eager: bool = False
    #: Whether the peer goes on to answer when this end has half-closed.
    may_half_close: bool = True
    #: Units of work in looking at a frame, whatever is in it.
    frame_work: int = FRAME_WORK
    #: Whether each message that the hub drops is counted.
    counts_losses: bool = True
    #: Whether a client looks at the codes with which its records are refused.
    shows_refusals: bool = True
    #: Whether the bounds in WELCOME are the hub's.
    tells_limits: bool = True

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call :meth:`next_frame` until it returns None afterwards."""

    @abstractmethod
    def next_frame(self) -> tuple[int, bytes] | None:
        """Give the next frame's kind and body, None if more data is needed, or ``NO_FRAME``.

        :raises RemoteProtocolError: the peer broke the rules
        """

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that are not part of a frame handed out yet."""

    @property
    def unfinished_frame(self) -> tuple[int, int] | None:
        """What arrives and is not whole yet, a frame or a record; None if there is nothing.

        The first number is another one for each of them, the second is how many bytes of it came.
        """
        return None

    @abstractmethod
    def discard(self) -> None:
        """Forget what is buffered."""

    @abstractmethod
    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        """Encode one frame.

        :param bodies: parts of its body
        :param length: bytes of all of them
        :return: bytes to send; :meth:`flush` gives what comes later
        """

    def encode_one(self, kind: int, body: bytes) -> bytes:
        """Encode a frame with a body of one part, to be sent as it is."""
        return b"".join(self.encode(kind, [body], len(body)))

    def flush(self) -> Iterable[bytes]:
        """Give what else may be sent now."""
        return ()

    def clear(self) -> None:  # noqa: B027 - there is nothing to clear where nothing is held
        """Forget what is held."""

    def shed(self) -> list[bytes]:
        """Give back messages that were encoded and of which no byte was sent; they are forgotten.

        :return: whole records, in order
        """
        return []

    def tick(self, now: float) -> float:
        """Take the time.

        :return: when to call again, at the latest
        """
        return math.inf


#: Kind, body and bytes of the frame that was encoded last. What is published goes to all sessions
#: of a hub in the same body, and so in the same frame.
_last: Final = [(0, b"", b"")]


class NativeWire(FrameDecoder, Wire):
    """The native wire, see :mod:`.frames`.

    :param max_frame: bytes of kind and body; more is refused at the length. May be changed.
    :param preface: expect the preface first, as the hub does; else send it
    """

    def __init__(self, max_frame: int, *, preface: bool) -> None:
        super().__init__(max_frame, preface=preface)
        self._sends_preface = not preface

    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        head = frame_head(kind, length)
        if self._sends_preface:
            self._sends_preface = False
            head = PREFACE + head
        return (head, *bodies)

    def encode_one(self, kind: int, body: bytes) -> bytes:
        # Per small delivery at the hub.
        if self._sends_preface:
            return super().encode_one(kind, body)
        last_kind, last_body, frame = _last[0]
        if body is not last_body or kind != last_kind:
            frame = pack_head(len(body) + 1, kind) + body
            if len(body) <= MERGED_SIZE:
                _last[0] = (kind, body, frame)
        return frame


class UnknownWire(Wire):
    """The wire of a client that has not said yet which one it speaks.

    :param max_frame: for the wire that it will be
    :param wires: what makes each wire, by the bytes that it begins with
    :param on_known: takes the wire when it is known
    """

    def __init__(
        self,
        max_frame: int,
        wires: Mapping[bytes, Callable[[int], Wire]],
        on_known: Callable[[Wire], None],
    ) -> None:
        self.max_frame = max_frame
        self._wires = wires
        self._on_known = on_known
        # What a client is told that speaks something else, in what it speaks.
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
        for start, make in self._wires.items():
            if buffer.startswith(start):
                try:
                    wire = make(self.max_frame)
                except RemoteProtocolError as error:
                    self._answer = _HTTP2_SETTINGS + _encode_goaway(str(error))
                    raise
                wire.receive_data(bytes(buffer))
                self._on_known(wire)
                return wire.next_frame()
        if any(start.startswith(buffer) for start in (*self._wires, *_HTTP_1)):
            return None
        if buffer.startswith(_HTTP_1):
            self._answer = _NOT_HTTP_1
            raise RemoteProtocolError("the preface is missing: this is an HTTP/1 request")
        self._answer = _NOT_HYPS
        raise RemoteProtocolError("the preface is missing")

    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        # Whatever it is, text is what a human at the other end can read.
        return (self._answer,) if self._answer else (frame_head(kind, length), *bodies)
