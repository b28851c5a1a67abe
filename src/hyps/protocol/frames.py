r"""The native wire, version 1: frames, and the preface before them.

The client opens with ``HYPS/1\r\n``. Everything after it, both ways, is frames: a 4-byte
big-endian length of the rest, one byte of kind, the body.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final

from .errors import ErrorCode, RemoteProtocolError
from .limits import MAX_PREFACE

#: The wire's version.
VERSION: Final = 1

#: What a client sends first.
PREFACE: Final = b"HYPS/%d\r\n" % VERSION

_HEAD: Final = Struct(">IB")


class Kind(enum.IntEnum):
    """Kinds of frames. From 0x80 up a kind that is not known is ignored."""

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


#: The first kind that a receiver which does not know it ignores.
FIRST_IGNORABLE: Final = 0x80


def frame_head(kind: int, length: int) -> bytes:
    """Encode what stands before a body of ``length`` bytes."""
    return _HEAD.pack(length + 1, kind)


def encode_frame(kind: int, body: bytes) -> bytes:
    """Encode a whole frame."""
    return frame_head(kind, len(body)) + body


class FrameDecoder:
    """Frames from bytes that were cut anywhere.

    :param max_frame: bytes of kind and body; more is refused at the length. May be changed
        between two calls of :meth:`next_frame`.
    :param preface: expect the preface first
    """

    def __init__(self, max_frame: int, *, preface: bool = False) -> None:
        self.max_frame = max_frame
        self._buffer = bytearray()
        self._in_preface = preface

    @property
    def buffered(self) -> int:
        """Bytes that are not part of a frame handed out yet."""
        return len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call :meth:`next_frame` until it returns None afterwards."""
        self._buffer += data

    def discard(self) -> None:
        """Forget what is buffered."""
        self._buffer.clear()

    def next_frame(self) -> tuple[int, bytes] | None:
        """Give the next frame's kind and body, or None if more data is needed.

        :raises RemoteProtocolError: a length is out of bounds, or the preface is wrong
        """
        if self._in_preface and not self._take_preface():
            return None
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        length = int.from_bytes(buffer[:4], "big")
        if length == 0:
            raise RemoteProtocolError("a frame has no kind")
        if length > self.max_frame:
            raise RemoteProtocolError(
                f"a frame of {length} bytes; {self.max_frame} is the most", ErrorCode.TOO_LARGE
            )
        stop = 4 + length
        if len(buffer) < stop:
            return None
        kind = buffer[4]
        with memoryview(buffer) as view:
            body = bytes(view[5:stop])
        del buffer[:stop]
        return kind, body

    def _take_preface(self) -> bool:
        start = bytes(self._buffer[:MAX_PREFACE])
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
        del self._buffer[: len(PREFACE)]
        self._in_preface = False
        return True
