"""A feed as a stream of server-sent events, and what users may choose about it."""

from __future__ import annotations

import random
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Final

import anyio

from ._events import PING, make_events

if TYPE_CHECKING:
    from ._events import Encode, Event
    from ._feed import Feed

#: When a stream could not begin, browsers wait from 1 to 5 seconds, at random: they should not all
#: come back at once.
_RETRY: Final = (1_000, 5_000)


class EventStream:
    """The events of a feed.

    :param feed: entered
    :param encode: makes an event of each item
    :param ping: seconds without an event after which to send a comment
    """

    def __init__(self, feed: Feed, encode: Encode, ping: float) -> None:
        self._feed = feed
        self._encode = encode
        self._ping = ping

    async def read(self) -> list[Event] | None:
        """Wait for events; None at the end."""
        items = await self._feed.read()
        if items is None:
            return None
        return [event for item in items for event in make_events(self._encode(item))]

    async def read_bytes(self) -> bytes | None:
        """Wait for events, or until it is time for a comment; None at the end."""
        events: list[Event] | None = []
        with anyio.move_on_after(self._ping):
            while events == []:
                events = await self.read()
        if events is None:
            return None
        return b"".join(map(bytes, events)) or PING


def retry_delay(retry: int | None) -> int:
    """Milliseconds for the browser to wait after a stream that could not begin."""
    return random.randint(*_RETRY) if retry is None else retry


def check_options(
    encode: object, *, ping: float = 1.0, retry: int | None = None, send_timeout: float
) -> None:
    """Check what users give.

    :raises TypeError: if ``encode`` is async
    :raises ValueError: if a number is out of bounds
    """
    if iscoroutinefunction(encode):
        raise TypeError("encode must not be async: it makes an event of what is there already")
    for name, value in (("ping", ping), ("send_timeout", send_timeout)):
        if not value > 0:
            raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    if retry is not None and (not isinstance(retry, int) or retry < 0):
        raise ValueError(f"retry must be milliseconds, an int that is not negative: {retry!r}")
