"""Positions: how far a subscriber has come in a channel, ``generation:count``."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ..errors import RemoteProtocolError

#: The largest count in a position.
MAX_COUNT: Final = 2**63 - 1

# The generation: 1 to 32 printable ASCII characters without a colon or a space. The count: no
# leading zeros, so that a position has one spelling.
_POSITION: Final = re.compile(rb"([!-9;-~]{1,32}):(0|[1-9][0-9]{0,18})")


def is_position(data: bytes) -> bool:
    """Tell whether these bytes are a position."""
    found = _POSITION.fullmatch(data)
    return found is not None and int(found[2]) <= MAX_COUNT


# The cache also makes channels share one generation in memory, as all new channels have the same.
@lru_cache(256)
def parse_position(data: bytes) -> tuple[bytes, int]:
    """Decode a position.

    :return: the channel's generation, and how many messages it had
    :raises RemoteProtocolError: if it is none
    """
    if not is_position(data):
        raise RemoteProtocolError("a position is malformed")
    generation, _, count = data.partition(b":")
    return generation, int(count)


def format_position(generation: bytes, count: int) -> bytes:
    """Encode a position."""
    return b"%b:%d" % (generation, count)
