"""The time by which a connection is judged: the event loop's, unless a stream brings its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import TypedAttributeSet, typed_attribute

if TYPE_CHECKING:
    from anyio.abc import ByteStream


class Clock(Protocol):
    """What :func:`clock_of` gives."""

    def now(self) -> float:
        """Seconds; they do not go backwards."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Wait until it is so late."""
        ...


class ClockAttribute(TypedAttributeSet):
    """What streams with a time of their own say of themselves."""

    clock: Clock = typed_attribute()


class LoopClock:
    """The event loop's own."""

    def now(self) -> float:
        return anyio.current_time()

    async def sleep_until(self, deadline: float) -> None:
        await anyio.sleep_until(deadline)


def clock_of(stream: ByteStream) -> Clock:
    """Give the clock of a stream's connection."""
    try:
        return stream.extra(ClockAttribute.clock, None) or LoopClock()
    except Exception:
        # Of a connection that was reset already uvloop has no socket, which AnyIO does not expect.
        return LoopClock()
