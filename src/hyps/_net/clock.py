"""The clock of a connection: the event loop's, unless the stream has one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import TypedAttributeSet, typed_attribute

if TYPE_CHECKING:
    from anyio.abc import ByteStream


class Clock(Protocol):
    """A monotonic clock."""

    def now(self) -> float:
        """Return the time in seconds, which never goes backwards."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Sleep until ``now() >= deadline``."""
        ...


class ClockAttribute(TypedAttributeSet):
    """The attribute by which a stream offers a clock."""

    clock: Clock = typed_attribute()


class LoopClock:
    """The event loop's clock."""

    def now(self) -> float:
        return anyio.current_time()

    async def sleep_until(self, deadline: float) -> None:
        await anyio.sleep_until(deadline)


def clock_of(stream: ByteStream) -> Clock:
    """Return the clock of a stream."""
    try:
        return stream.extra(ClockAttribute.clock, None) or LoopClock()
    except Exception:
        # uvloop drops the socket of a connection that was reset, which AnyIO does not expect.
        return LoopClock()
