"""Tells the log of messages that were missed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._logs import Log
    from .protocol import Gap, GapReason

_SENTENCES: Final[dict[GapReason, str]] = {
    "hub": "this process read too slowly: %s dropped %s",
    "reconnect": "without a connection to %s this process missed %s",
}


class LossLog:
    """Losses that no log tells of yet: a line for each episode, and not for each channel.

    :param log: the client's
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._gaps: defaultdict[GapReason, list[int | None]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._gaps)

    def note(self, gap: Gap) -> None:
        self._gaps[gap.reason].append(gap.missed)

    def write(self, hub: str) -> None:
        for reason, gaps in self._gaps.items():
            self._log.warning(_SENTENCES[reason], hub, _describe(gaps))
        self._gaps.clear()


def _describe(gaps: list[int | None]) -> str:
    known = [missed for missed in gaps if missed is not None]
    parts = []
    if known:
        parts.append(f"{_number(sum(known), 'message')} in {_number(len(known), 'channel')}")
    if len(gaps) > len(known):
        channels = _number(len(gaps) - len(known), "channel")
        parts.append(f"an unknown number of messages in {channels}")
    return " and ".join(parts)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
