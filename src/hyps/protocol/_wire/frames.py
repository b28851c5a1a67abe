r"""The native wire, version 1: frames, and the preface before them.

The client opens with ``HYPS/1\r\n``. Everything after it, both ways, is frames: a 4-byte
big-endian length of the rest, one byte of kind, the body.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final

from ..errors import ErrorCode, RemoteProtocolError
from ..limits import MAX_PREFACE

#: The wire's version.
VERSION: Final = 1

#: What a client sends first.
PREFACE: Final = b"HYPS/%d\r\n" % VERSION

_HEAD: Final = Struct(">IB")


class Kind(enum.IntEnum):
    """Kinds of frames. A receiver ignores unknown kinds from 0x80 on."""

    HELLO = 0x01
    WELCOME = 0x02
    PUBLISH = 0x03
    PUBLISH_ACK = 0x04
    SUBSCRIBE = 0x05
    SUBSCRIBE_ACK = 0x06
    UNSUBSCRIBE = 0x07
    UNSUBSCRIBE_ACK = 0x08
    MESSAGES = 0x09
    GAP = 0x0A
    PING = 0x0B
    PONG = 0x0C
    GOAWAY = 0x0D
    ERROR = 0x0E
    AUTH = 0x0F


#: A receiver ignores unknown kinds from this one on.
FIRST_IGNORABLE: Final = 0x80


#: What a wire returns instead of a frame when it has done work that gave none, so that other
#: sessions get their turn. Compare it by identity, because a peer may send a frame of kind 0.
NO_FRAME: Final = (0, b"")


#: Encodes the length of kind and body, and the kind.
pack_head: Final = _HEAD.pack


def frame_head(kind: int, length: int) -> bytes:
    """Encode the head of a frame whose body has ``length`` bytes."""
    return pack_head(length + 1, kind)


def encode_frame(kind: int, body: bytes) -> bytes:
    """Encode a whole frame."""
    return frame_head(kind, len(body)) + body


#: A part of a frame with at least this many bytes is kept as it arrived; smaller ones are joined.
_LARGE_PART: Final = 4_096

#: Shared by all decoders without an unfinished frame, which are most. Nothing is ever put into it.
_NO_PARTS: Final[list[bytes | bytearray]] = []


class FrameDecoder:
    """Frames from bytes that were cut anywhere.

    :param max_frame: bytes of kind and body; more is refused at the length. May be changed
        between two calls of :meth:`next_frame`.
    :param preface: expect the preface first
    """

    def __init__(self, max_frame: int, *, preface: bool = False) -> None:
        self.max_frame = max_frame
        # The bytes that arrived last, and how far they are decoded. Whole frames are sliced from
        # them, so that nothing is copied twice.
        self._data = b""
        self._position = 0
        # The unfinished frame: its kind, the parts of its body, and the number of missing bytes.
        self._kind = 0
        self._parts: list[bytes | bytearray] = _NO_PARTS
        self._missing = 0
        # How many frames have arrived in parts.
        self._partial_frames = 0
        self._in_preface = preface

    @property
    def buffered(self) -> int:
        """Bytes that are not part of a returned frame."""
        begun = 5 + sum(map(len, self._parts)) if self._missing else 0
        return begun + len(self._data) - self._position

    @property
    def unfinished_frame(self) -> tuple[int, int] | None:
        """The number of the unfinished frame, and how many bytes of it have arrived; or None.

        A frame counts from its sixth byte on.
        """
        return (self._partial_frames, self.buffered) if self._missing else None

    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call :meth:`next_frame` until it returns None afterwards."""
        self._data = self._data[self._position :] + data if self._data else data
        self._position = 0

    def discard(self) -> None:
        """Forget what is buffered."""
        self._data = b""
        self._position = self._missing = 0
        self._parts = _NO_PARTS

    def next_frame(self) -> tuple[int, bytes] | None:
        """Return the next frame's kind and body, or None if more data is needed.

        :raises RemoteProtocolError: a length is out of bounds, or the preface is wrong
        """
        # This runs once per frame, and once more when there is none.
        data = self._data
        if not data:
            return None
        if self._in_preface and not self._take_preface():
            return None
        if self._missing:
            if not self._go_on(data):
                return None
            parts, self._parts = self._parts, _NO_PARTS
            return self._kind, b"".join(parts)
        start = self._position
        end = len(data)
        if end - start < 5:
            # Keep only these few bytes, and not the large object that they are part of.
            self._data = data = data[start:]
            self._position = 0
            if len(data) == 4:
                self._length(data)
            return None
        stop = start + 4 + self._length(data[start : start + 4])
        kind = data[start + 4]
        if stop < end:
            self._position = stop
            return kind, data[start + 5 : stop]
        body = data[start + 5 :]
        self._data = b""
        self._position = 0
        if stop == end:
            return kind, body
        self._kind = kind
        self._parts = [body]
        self._missing = stop - end
        self._partial_frames += 1
        return None

    def _go_on(self, data: bytes) -> bool:
        """Add to the unfinished frame, and tell whether it is complete."""
        part = data[: self._missing]
        last = self._parts[-1]
        if len(part) >= _LARGE_PART:
            self._parts.append(part)
        elif isinstance(last, bytearray):
            last += part
        else:
            # As separate objects, small parts would take many times their size.
            self._parts.append(bytearray(part))
        self._missing -= len(part)
        if len(part) == len(data):
            self._data = b""
        else:
            self._position = len(part)
        return not self._missing

    def _length(self, head: bytes | bytearray) -> int:
        length = int.from_bytes(head, "big")
        if length == 0:
            raise RemoteProtocolError("a frame has no kind")
        if length > self.max_frame:
            raise RemoteProtocolError(
                f"a frame of {length} bytes; {self.max_frame} is the most", ErrorCode.TOO_LARGE
            )
        return length

    def _take_preface(self) -> bool:
        start = self._data[:MAX_PREFACE]
        name = PREFACE[:5]
        if not (start.startswith(name) or name.startswith(start)):
            raise RemoteProtocolError("the preface is missing")
        line, newline, _ = start.partition(b"\r\n")
        if not newline:
            if len(start) == MAX_PREFACE:
                raise RemoteProtocolError(f"the preface does not end within {MAX_PREFACE} bytes")
            return False
        if line + newline != PREFACE:
            raise RemoteProtocolError("the wire's version is not supported", ErrorCode.VERSION)
        self._position = len(PREFACE)
        self._in_preface = False
        return True
