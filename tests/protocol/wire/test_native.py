"""The native wire remembers the last frame, which must not show."""

from __future__ import annotations

import pytest

from hyps.protocol import Kind
from hyps.protocol._records.layout import MERGED_SIZE
from hyps.protocol._wire.native import NativeWire


@pytest.mark.parametrize("size", [0, 1, MERGED_SIZE, MERGED_SIZE + 1])
def test_a_frame_at_once_is_the_frame_in_parts(size: int) -> None:
    wire = NativeWire(2**20, preface=True)
    body = bytes(size)
    for kind, each in (
        (Kind.MESSAGES, body),
        (Kind.MESSAGES, body),
        (Kind.GAP, body),
        (Kind.GAP, bytes(bytearray(size))),
        (Kind.GAP, b"another" + body),
        (Kind.MESSAGES, body),
    ):
        assert wire.encode_one(kind, each) == b"".join(wire.encode(kind, [each], len(each)))
