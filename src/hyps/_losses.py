"""Tells the log of messages that were missed."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .protocol import Gap, GapReason

logger = logging.getLogger("hyps.client")


class LossLog:
    """Losses that no log tells of yet: a line for each episode, and not for each channel."""

    _SENTENCES: Final[dict[GapReason, str]] = {
        "hub": "this process read too slowly: %s dropped %d messages in %d channels%s",
        "reconnect": "without a connection to %s %d messages were missed in %d channels%s",
    }

    def __init__(self) -> None:
        self._gaps: defaultdict[GapReason, list[int | None]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._gaps)

    def note(self, gap: Gap) -> None:
        self._gaps[gap.reason].append(gap.missed)

    def write(self, hub: str) -> None:
        for reason, gaps in self._gaps.items():
            known = [missed for missed in gaps if missed is not None]
            unknown = len(gaps) - len(known)
            more = f", and an unknown number in {unknown} others" if unknown else ""
            logger.warning(self._SENTENCES[reason], hub, sum(known), len(known), more)
        self._gaps.clear()
