"""The native wire: frames as they are, behind a preface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._records.layout import MERGED_SIZE
from .base import Wire
from .frames import PREFACE, FrameDecoder, frame_head, pack_head

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Kind, body and bytes of the frame that was encoded last, for all connections of the process. A
#: hub sends the same body to all subscribers of a channel, and joins head and body for the first of
#: them only. Comparing by identity is safe, because bytes never change.
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
        # Per small delivery at the hub: this is encode(), with the last frame remembered.
        if self._sends_preface:
            return super().encode_one(kind, body)
        last_kind, last_body, frame = _last[0]
        if body is not last_body or kind != last_kind:
            frame = pack_head(len(body) + 1, kind) + body
            if len(body) <= MERGED_SIZE:
                _last[0] = (kind, body, frame)
        return frame
