"""The channels that a client holds, those that it is about to, and where it stands in each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from .._records.position import parse_position
from ..events import Gap
from .cursors import Cursor, find_granted, fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..events import GapReason
    from .operations import Operation

#: Stands for a channel without a SUBSCRIBE under way.
_NOT_JOINING: Final = (math.inf, 0, b"")


class Holdings:
    """What a client's SUBSCRIBE and UNSUBSCRIBE, and the answers to them, make of its channels.

    :param on_gap: receives each gap that comparing positions finds
    """

    __slots__ = ("_joining", "_on_gap", "channels")

    def __init__(self, on_gap: Callable[[Gap], object]) -> None:
        self._on_gap = on_gap
        #: The channels whose messages the client hands out. It ignores messages that arrive for a
        #: channel after its UNSUBSCRIBE was queued.
        self.channels: dict[bytes, Cursor] = {}
        # Channels with a SUBSCRIBE under way: the ids of the first and the last one since the last
        # UNSUBSCRIBE, because the first answer to one of these that grants the channel counts; and
        # the earlier position, to compare with the answer.
        self._joining: dict[str, tuple[int, int, bytes]] = {}

    def join(
        self,
        operation: int,
        channels: list[str],
        names: list[bytes],
        positions: Mapping[str, bytes],
    ) -> None:
        """Note a SUBSCRIBE.

        :param operation: its id
        :param channels: its channels
        :param names: the same, encoded
        :param positions: the earlier positions of some of them
        """
        known, joining = self.channels, self._joining
        # Channels without a position of their own share one entry.
        joined = (operation, operation, b"")
        if not positions and not joining and known.keys().isdisjoint(names):
            self._joining = dict.fromkeys(channels, joined)
            return
        for name, channel in zip(names, channels, strict=True):
            if name not in known:
                if channel in joining:
                    first, _, position = joining[channel]
                    joining[channel] = (first, operation, position)
                elif channel in positions:
                    joining[channel] = (operation, operation, positions[channel])
                else:
                    joining[channel] = joined

    def leave(self, channels: list[str], names: list[bytes]) -> None:
        """Note an UNSUBSCRIBE."""
        for channel, name in zip(channels, names, strict=True):
            self.channels.pop(name, None)
            self._joining.pop(channel, None)

    def shrink(self) -> None:
        """Free the memory of channels that were joined: an empty dict keeps that of a large one."""
        if not self._joining:
            self._joining.clear()

    def take_answer(
        self, operation: int, channel: str, name: bytes, answer: bytes, *, counts_losses: bool
    ) -> None:
        """Decide what an answer to SUBSCRIBE means for its channel.

        :param operation: id of the operation that it answers
        :param answer: a code, followed by the channel's position if that is ``k``
        :param counts_losses: see :attr:`.Wire.counts_losses`
        """
        is_granted = answer.startswith(b"k")
        first, last, before = self._joining.get(channel, _NOT_JOINING)
        generation, count = parse_position(answer[1:]) if is_granted else (b"", 0)
        if first <= operation:
            # The channel waits for this answer, or for a later one.
            if is_granted or last == operation:
                del self._joining[channel]
            if is_granted:
                self.channels[name] = (
                    Cursor(channel, generation, count) if count else fresh(generation)
                )
                if before:
                    known = Cursor(channel, *parse_position(before))
                    self.compare(known, generation, count, "reconnect")
        elif is_granted and name in self.channels and counts_losses:
            # The session held the channel already, so the client knows its position.
            known = self.channels[name].own(name, self.channels)
            self.compare(known, generation, count, "hub")

    def take_alike(
        self, operation: Operation, most: int, body: bytes, position: int
    ) -> tuple[int, int]:
        """Take many answers at once: those for which :meth:`take_answer` makes a fresh cursor.

        :param operation: the operation that they answer, of which some records have no answer
        :param most: how many of these may get one
        :return: how many got one, and the offset behind the last; zeros if each has to be looked at
            by itself
        """
        assert operation.channels is not None
        done = operation.records - operation.unanswered
        found = find_granted(operation.channels, done, most, body, position)
        if found is None:
            return 0, 0
        names, generation, position = found
        channels = operation.channels[done : done + len(names)]
        # No other SUBSCRIBE and no UNSUBSCRIBE concerns any of them, and no position is compared.
        joined = (operation.number, operation.number, b"")
        if list(map(self._joining.get, channels)).count(joined) != len(channels):
            return 0, 0
        self.channels.update(dict.fromkeys(names, fresh(generation)))
        for channel in channels:
            self._joining.pop(channel, None)
        self.shrink()
        return len(names), position

    def compare(self, channel: Cursor, generation: bytes, count: int, reason: GapReason) -> None:
        """Compare the hub's position in a channel with the client's own count."""
        if generation != channel.generation or count < channel.count:
            self._on_gap(Gap(channel.name, None, reason))
        elif count > channel.count:
            self._on_gap(Gap(channel.name, count - channel.count, reason))
        channel.generation = generation
        channel.count = count
