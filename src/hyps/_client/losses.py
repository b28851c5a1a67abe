"""The log of losses: it tells sums over a while, and never each loss by itself.

The rate of lines is bounded. A loss that finds no room in the log is part of the next line, so the
numbers in the log add up, at the latest when the client has ended.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final, get_args

from ..protocol import GapReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._logs import Log
    from ..protocol import Gap
    from .totals import Totals

#: An episode of losses ends after this many seconds without one. A reader that is steadily behind
#: makes shorter pauses than that.
_QUIET: Final = 1.0

#: The log tells of an episode that goes on after this many messages, and then after ten times as
#: many.
_TELL_AT: Final = 100

#: A line names at most this many channels.
_MAX_NAMES: Final = 3

#: The lines for gaps that arrive over the wire. "client" happens only over HTTP/2, whose hubs do
#: not tell their limits, so that the client applies its own.
_GAPS: Final[dict[GapReason, str]] = {
    "client": "what %s sent was too large for this client's own Limits.max_message: it left out %s",
    "hub": "this process read too slowly: %s dropped %s",
    "reconnect": "without a connection to %s this process missed %s",
}
assert _GAPS.keys() == set(get_args(GapReason))
_FULL: Final = "%s full: messages missed: %d (channels: %s)"

#: The beginning of lines at the end, which have a rate of their own.
_AT_THE_END: Final = "until the end of the connection, "


class _Gaps:
    """Gaps that the log has not told yet."""

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
    """Overflows of subscriptions' buffers that the log has not told yet."""

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
    """Sums of losses that the log has not told yet.

    :param log: receives the lines
    :param remind: called to ask for a call of :meth:`write` in a while
    :param totals: what subscriptions miss is counted there too
    :param now: returns seconds on a clock that does not go backwards
    """

    def __init__(
        self,
        log: Log,
        remind: Callable[[], None],
        totals: Totals,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._remind = remind
        self.now = now
        self.totals = totals
        # By the text of the line.
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
        """Note messages that found a subscription's buffer full.

        :param names: names of channels of the subscription
        :param before: the result of the previous call for the same episode
        """
        overflows = self._sums.get(_FULL)
        if not isinstance(overflows, _Overflows):
            overflows = self._sums[_FULL] = _Overflows()
            self._remind()
        overflows.add(missed, names, is_known=overflows is before)
        return overflows

    def write(self, hub: str, *, is_end: bool = False) -> None:
        """Write the lines that find room in the log; at the end, all of them."""
        for text, losses in list(self._sums.items()):
            has_room = self._log.has_room(text)
            if has_room or is_end:
                del self._sums[text]
                self._log.warning(text if has_room else _AT_THE_END + text, *losses.describe(hub))
        if self._sums:
            self._remind()


class Episode:
    """The losses of one subscription from the first message that finds its buffer full.

    An episode ends when the buffer has had room for a while, and not at the first free slot: a
    reader that is steadily behind makes room again and again, each time for a moment.

    :param losses: the client's
    :param channels: the subscription's
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
        """Note messages that found no room."""
        self._last = self._losses.now()
        self._total += missed
        self._untold += missed
        if self._total >= self._tell_at:
            # Do not wait for the end: the reader may be gone.
            self._tell_at = 10 * self._total
            self.tell()

    @property
    def is_over(self) -> bool:
        return self._losses.now() - self._last >= _QUIET

    def tell(self) -> None:
        """Report what was not reported yet."""
        if self._untold:
            self._told = self._losses.note_overflow(self._untold, self._names, self._told)
            self._untold = 0


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
