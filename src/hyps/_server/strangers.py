"""Strangers: connections to a hub that have not opened a session yet.

A connection costs an attacker nothing. So strangers have bounds of their own, and take no place
from clients that know the token. At a bound the hub closes the oldest stranger rather than refuse
the newest: a client may share an address with an attacker, and opens its session within a round
trip.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds before the hub answers the first wrong token of an address. The delay doubles with each
#: further one.
_FIRST_DELAY: Final = 0.1

#: The hub forgets an address after this many seconds without a wrong token, and remembers at most
#: this many addresses.
_FORGIVEN_AFTER: Final = 60.0
_ADDRESSES: Final = 4_096


class Stranger:
    """A connection without a session.

    :param address: address of its host
    :param abort: closes the connection
    """

    __slots__ = ("abort", "address")

    def __init__(self, address: str, abort: Callable[[], object]) -> None:
        self.address = address
        self.abort = abort


class Strangers:
    """All strangers of a hub, the oldest first.

    :param most: how many there may be
    :param most_of_address: how many of them may come from one address
    """

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._all: OrderedDict[Stranger, None] = OrderedDict()
        self._by_address: dict[str, OrderedDict[Stranger, None]] = {}

    def set_bounds(self, most: int, most_of_address: int) -> None:
        """Set other bounds, for strangers from now on."""
        self._most = most
        self._most_of_address = most_of_address

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, stranger: Stranger) -> Stranger | None:
        """Add a stranger, and close the oldest one if there are too many.

        :return: the stranger that was closed, if any
        """
        others = self._by_address.setdefault(stranger.address, OrderedDict())
        self._all[stranger] = others[stranger] = None
        if len(others) > self._most_of_address:
            return self._close(next(iter(others)))
        if len(self._all) > self._most:
            return self.close_oldest()
        return None

    def leave(self, stranger: Stranger) -> None:
        """Remove a stranger that has opened a session or ended. Harmless if it was removed."""
        if stranger in self._all:
            del self._all[stranger]
            others = self._by_address[stranger.address]
            del others[stranger]
            if not others:
                del self._by_address[stranger.address]

    def close_oldest(self) -> Stranger | None:
        """Close the oldest stranger, and return it if there is one."""
        return self._close(next(iter(self._all))) if self._all else None

    def _close(self, stranger: Stranger) -> Stranger:
        self.leave(stranger)
        stranger.abort()
        return stranger


class Penalties:
    """Delays for wrong tokens, which grow with the number of wrong tokens from an address.

    A right token is answered at once, wherever it comes from: clients may share an address with an
    attacker.

    :param longest: the longest delay, in seconds
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        # By address, the most recent last: the delay, and when it was imposed.
        self._delays: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def impose(self, address: str, now: float) -> float:
        """Return the seconds to wait before answering a wrong token."""
        last, at = self._delays.pop(address, (0.0, now))
        is_new = not last or now - at > _FORGIVEN_AFTER
        delay = min(_FIRST_DELAY if is_new else 2 * last, self._longest)
        self._delays[address] = (delay, now)
        if len(self._delays) > _ADDRESSES:
            self._delays.popitem(last=False)
        return delay
