"""Tells the log of messages that were missed: sums of all that happened in a while, never each.

What there is no room for in the log, which is bounded in rate, is told with the next line. So the
numbers in the log always add up, at the latest when the client has ended.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._logs import Log
    from ..protocol import Gap, GapReason

#: Seconds in which a buffer has had room, after which the next loss is another matter. Shorter
#: than that are the pauses of a reader that is steadily behind.
_QUIET: Final = 1.0

#: Messages that one reader missed in one go after which the log is told before it is over; then
#: ten times as many.
_TELL_AT: Final = 100

#: Names of channels in a line.
_MAX_NAMES: Final = 3

#: What is said of gaps that came over the wire. Only over HTTP/2, which tells a client nothing of a
#: hub's bounds, one is the client's own.
_GAPS: Final[dict[GapReason, str]] = {
    "client": "what %s sent was too large for this client's own Limits.max_message: it left out %s",
    "hub": "this process read too slowly: %s dropped %s",
    "reconnect": "without a connection to %s this process missed %s",
}
_FULL: Final = "%s full: messages missed: %d (channels: %s)"

#: For what there was no room for until the end: lines of another kind.
_AT_THE_END: Final = "until the end of the connection, "


class _Gaps:
    """Gaps that no line tells of yet."""

    __slots__ = ("_known", "_missed", "_unknown")

    def __init__(self) -> None:
        self._missed = self._known = self._unknown = 0

    def add(self, missed: int | None) -> None:
        if missed is None:
            self._unknown += 1
        else:
            self._missed += missed
            self._known += 1

    def describe(self, hub: str) -> tuple[object, ...]:
        parts = []
        if self._known:
            parts.append(f"{_number(self._missed, 'message')} in {_number(self._known, 'gap')}")
        if self._unknown:
            gaps = _number(self._unknown, "gap")
            parts.append(f"an unknown number of messages in {gaps}")
        return hub, " and ".join(parts)


class _Overflows:
    """Overflows of subscriptions' buffers that no line tells of yet."""

    __slots__ = ("_count", "_missed", "_names")

    def __init__(self) -> None:
        self._count = self._missed = 0
        self._names: dict[str, None] = {}

    def add(self, missed: int, names: Iterable[str], *, is_known: bool) -> None:
        self._missed += missed
        self._count += not is_known
        if len(self._names) <= _MAX_NAMES:
            self._names.update(dict.fromkeys(names))

    def describe(self, hub: str) -> tuple[object, ...]:
        what = "the buffer of a subscription was"
        if self._count > 1:
            what = f"buffers of subscriptions were {self._count} times"
        names = list(islice(self._names, _MAX_NAMES))
        if len(self._names) > len(names):
            names.append("and others")
        return what, self._missed, ", ".join(names)


class LossLog:
    """Losses of a client that no line of the log tells of yet, as sums.

    :param log: takes the lines
    :param remind: is called when :meth:`write` is to be called in a while
    :param now: seconds on a clock that does not go backwards
    """

    def __init__(
        self, log: Log, remind: Callable[[], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._remind = remind
        self.now = now
        # By the line that will tell of them.
        self._sums: dict[str, _Gaps | _Overflows] = {}

    def note(self, gap: Gap) -> None:
        """Note a gap that came from the hub."""
        text = _GAPS[gap.reason]
        gaps = self._sums.get(text)
        if not isinstance(gaps, _Gaps):
            gaps = self._sums[text] = _Gaps()
            self._remind()
        gaps.add(gap.missed)

    def note_overflow(self, missed: int, names: Iterable[str], before: object) -> object:
        """Note messages that a subscription's buffer had no room for.

        :param names: of channels of the subscription
        :param before: what this returned the last time, for the same overflow
        """
        overflows = self._sums.get(_FULL)
        if not isinstance(overflows, _Overflows):
            overflows = self._sums[_FULL] = _Overflows()
            self._remind()
        overflows.add(missed, names, is_known=overflows is before)
        return overflows

    def write(self, hub: str, *, is_end: bool = False) -> None:
        """Write what there is room for in the log; at the end all."""
        for text, losses in list(self._sums.items()):
            has_room = self._log.has_room(text)
            if has_room or is_end:
                del self._sums[text]
                self._log.warning(text if has_room else _AT_THE_END + text, *losses.describe(hub))
        if self._sums:
            self._remind()


class Episode:
    """What one subscription misses, from the first message that found its buffer full.

    It ends when the buffer has had room for a while. A reader that is steadily behind makes room
    again and again, and each time for a moment.

    :param losses: is told
    :param channels: of the subscription
    """

    __slots__ = ("_last", "_losses", "_names", "_tell_at", "_told", "_total", "_untold")

    def __init__(self, losses: LossLog, channels: Iterable[str]) -> None:
        self._losses = losses
        self._names = sorted(islice(channels, _MAX_NAMES))
        self._total = self._untold = 0
        self._tell_at = _TELL_AT
        self._last = 0.0
        self._told: object = None

    def add(self, missed: int) -> None:
        """Note messages that there was no room for."""
        self._last = self._losses.now()
        self._total += missed
        self._untold += missed
        if self._total >= self._tell_at:
            # Nobody may be reading any more.
            self._tell_at = 10 * self._total
            self.tell()

    @property
    def is_over(self) -> bool:
        return self._losses.now() - self._last >= _QUIET

    def tell(self) -> None:
        """Tell the log of what it was not told yet."""
        if self._untold:
            self._told = self._losses.note_overflow(self._untold, self._names, self._told)
            self._untold = 0


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
