"""Channels that nobody holds, which the hub goes on counting for a while.

So a short disconnection is a gap of known size. What is kept is bounded in time and in number, and
when there are too many, the session that left the most pays: whoever leaves names without end only
makes the hub forget its own.
"""

from __future__ import annotations

from collections import OrderedDict

from .channel import Channel, Left


class Retention:
    """All channels that are kept.

    Periods take the place of times: what was left in one is dropped at the end of the next.
    """

    def __init__(self) -> None:
        self._owners: dict[Channel, Left] = {}
        # In the order in which they began.
        self._recent: dict[Left, None] = {}
        # By the number of their channels, likewise. A few hundred different numbers at most, as
        # what they add up to is bounded.
        self._by_size: dict[int, OrderedDict[Left, None]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def keep(self, channel: Channel, left: Left | None) -> Left:
        """Keep a channel that has lost its last subscriber.

        :param left: what this returned the last time for the session that left it
        """
        if left is None or left.is_closed:
            left = Left()
            self._recent[left] = None
        self._owners[channel] = left
        left.channels[channel] = None
        self._file(left, len(left.channels) - 1)
        return left

    def release(self, channel: Channel) -> None:
        """Keep a channel no longer: it is held again, or forgotten."""
        left = self._owners.pop(channel)
        del left.channels[channel]
        self._file(left, len(left.channels) + 1)

    def choose(self) -> Channel:
        """Give the channel to be forgotten first: the oldest of the session that left the most."""
        left = next(iter(self._by_size[max(self._by_size)]))
        return next(iter(left.channels))

    def end_period(self) -> list[Left]:
        """Begin another period.

        :return: what was left in the one that has ended, which is to be dropped at the next call
        """
        ended = list(self._recent)
        self._recent = {}
        for left in ended:
            left.is_closed = True
        return ended

    def _file(self, left: Left, before: int) -> None:
        if before:
            others = self._by_size[before]
            del others[left]
            if not others:
                del self._by_size[before]
        if left.channels:
            self._by_size.setdefault(len(left.channels), OrderedDict())[left] = None
        else:
            self._recent.pop(left, None)
            # An empty one is in no list, so that a new one is begun.
            left.is_closed = True
