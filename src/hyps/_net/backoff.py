"""How long to wait before connecting again."""

from __future__ import annotations

import random
from typing import Final

#: The bound of the first delay, in seconds; it doubles with each failure. A hub that restarts is
#: back in some tenths of a second.
_FIRST_DELAY: Final = 0.1

#: A connection that was open for this many seconds counts as a success.
_STABLE_TIME: Final = 1.0


class Backoff:
    """Delays between attempts.

    They are random, from 0 to a bound that doubles with each failure: the clients of a hub that
    restarts should not all come back at once.

    :param most: the longest delay, in seconds
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._failures = 0
        self._asked = 0.0

    def ask(self, seconds: float) -> None:
        """Wait for at least as long the next time: the hub asks for it. The bound still holds."""
        self._asked = seconds

    def note_open(self) -> None:
        """Take it that a connection has opened."""
        self._asked = 0.0

    def note_lifetime(self, seconds: float) -> None:
        """Take it that a connection was open for so long."""
        if seconds >= _STABLE_TIME:
            self._failures = 0

    def next_delay(self) -> float:
        """Return the seconds to wait now, and count a failure."""
        delay = random.uniform(0, min(self._most, _FIRST_DELAY * 2 ** min(self._failures, 32)))
        delay = max(delay, min(self._most, self._asked))
        self._failures += 1
        self._asked = 0.0
        return delay
