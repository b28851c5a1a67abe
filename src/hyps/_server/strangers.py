"""Those who have connected to a hub and have not opened a session: strangers, all of them.

A connection costs a stranger nothing, and so strangers have bounds of their own, and take no place
of those who know the token. At a bound the oldest connection is closed, and not the newest refused:
clients may share an address with strangers, and open a session within a round trip.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds after which the first wrong token is answered; each further one from its address waits
#: for twice as long.
_FIRST_DELAY: Final = 0.1

#: Seconds without a wrong token after which an address begins anew, and addresses that are
#: remembered.
_FORGIVEN_AFTER: Final = 60.0
_ADDRESSES: Final = 4_096


class Stranger:
    """A connection without a session.

    :param address: of its host
    :param abort: closes it
    """

    __slots__ = ("abort", "address")

    def __init__(self, address: str, abort: Callable[[], object]) -> None:
        self.address = address
        self.abort = abort


class Strangers:
    """All connections of a hub without a session, the oldest first.

    :param most: how many there may be
    :param most_of_address: how many of them from one address
    """

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._all: OrderedDict[Stranger, None] = OrderedDict()
        self._by_address: dict[str, OrderedDict[Stranger, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, stranger: Stranger) -> Stranger | None:
        """Let in one more.

        :return: the one that was closed for it, if any
        """
        others = self._by_address.setdefault(stranger.address, OrderedDict())
        self._all[stranger] = others[stranger] = None
        if len(others) > self._most_of_address:
            return self._close(next(iter(others)))
        if len(self._all) > self._most:
            return self.close_oldest()
        return None

    def leave(self, stranger: Stranger) -> None:
        """Count one no longer: it has opened a session, or has ended. Harmless after that."""
        if stranger in self._all:
            del self._all[stranger]
            others = self._by_address[stranger.address]
            del others[stranger]
            if not others:
                del self._by_address[stranger.address]

    def close_oldest(self) -> Stranger | None:
        """Close the one that has had the most time; give it, if there is one."""
        return self._close(next(iter(self._all))) if self._all else None

    def _close(self, stranger: Stranger) -> Stranger:
        self.leave(stranger)
        stranger.abort()
        return stranger


class Penalties:
    """How late wrong tokens are answered: the later, the more there were from an address.

    Right ones are answered at once, wherever they come from.

    :param longest: seconds, at most
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        # By address, the one that erred last at the end: the delay, and when it was given.
        self._delays: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def impose(self, address: str, now: float) -> float:
        """Give the seconds to wait before a wrong token is answered."""
        last, at = self._delays.pop(address, (0.0, now))
        is_new = not last or now - at > _FORGIVEN_AFTER
        delay = min(_FIRST_DELAY if is_new else 2 * last, self._longest)
        self._delays[address] = (delay, now)
        if len(self._delays) > _ADDRESSES:
            self._delays.popitem(last=False)
        return delay
