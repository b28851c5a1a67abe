"""Channels without subscribers, which the hub goes on counting for a while.

This makes a short disconnection a gap of known size. Time and number bound what the hub keeps. When
there are too many channels, the session that left the most loses its own first: a session that
leaves names without end makes the hub forget only that session's names.
"""

from __future__ import annotations

from collections import OrderedDict

from .channel import Channel, Left


class Retention:
    """All channels that the hub keeps.

    It counts in periods instead of seconds: at the end of a period the broker forgets what sessions
    left in the one before it.
    """

    def __init__(self) -> None:
        self._owners: dict[Channel, Left] = {}
        # Of the current period, the oldest first.
        self._recent: dict[Left, None] = {}
        # By the number of their channels, the oldest first. There are at most some hundred
        # different numbers, because max_kept bounds their sum.
        self._by_size: dict[int, OrderedDict[Left, None]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def keep(self, channel: Channel, left: Left | None) -> Left:
        """Keep a channel that has lost its last subscriber.

        :param left: the result of the previous call for the same session
        """
        if left is None or left.is_closed:
            left = Left()
            self._recent[left] = None
        self._owners[channel] = left
        left.channels[channel] = None
        self._file(left, len(left.channels) - 1)
        return left

    def release(self, channel: Channel) -> None:
        """Stop keeping a channel: it has a subscriber again, or the hub forgets it."""
        left = self._owners.pop(channel)
        del left.channels[channel]
        self._file(left, len(left.channels) + 1)

    def choose(self) -> Channel:
        """Choose the channel to forget first: the oldest of the session that left the most."""
        left = next(iter(self._by_size[max(self._by_size)]))
        return next(iter(left.channels))

    def end_period(self) -> list[Left]:
        """Begin another period.

        :return: what sessions left in the period that ends here. The caller forgets it at the end
            of the next one.
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
            # An empty one is in no list. Closed, it is replaced at the next keep().
            left.is_closed = True
