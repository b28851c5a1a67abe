"""The account of a subscription: what was published, what it was given, and what it missed.

Each message carries the run of the hub in which it was sent and its number in its channel, which
begins anew with each run. So positions compare as pairs, and between two messages of a run the
gaps must hold exactly the numbers that are not there.
"""

from __future__ import annotations

from typing import Final

from hyps import Gap, Message

#: The run of the hub, and how many messages were published in it.
Position = tuple[int, int]

_ANYWHERE: Final[Position] = (0, 0)


def encode_message(position: Position, size: int = 0) -> bytes:
    run, number = position
    return b"%d %d ".ljust(size, b".") % (run, number)


def decode_message(message: Message) -> Position:
    run, number, _ = message.data.split(b" ", 2)
    return int(run), int(number)


class Mismatch(Exception):
    """The account does not add up."""


class Book:
    """What was published in a channel, by its only publisher.

    :param is_kept: somebody holds it as long as the hub runs, so that the hub never forgets it
    """

    def __init__(self, channel: str, *, is_kept: bool) -> None:
        self.channel = channel
        self.is_kept = is_kept
        self.issued: Position = (0, 0)
        #: As far as the hub has answered: less than it has taken, or as much.
        self.acked: Position = (0, 0)

    def begin(self, run: int) -> None:
        self.issued = self.acked = (run, 0)

    def issue(self) -> Position:
        run, number = self.issued
        self.issued = (run, number + 1)
        return self.issued


class _Span:
    """A time for which a subscription held a channel.

    :param first: where it stood at the joining, at least
    """

    def __init__(self, first: Position) -> None:
        self.first = first
        # The same at most, as soon as it is known.
        self.last: Position | None = None


class Account:
    """One channel of one subscription. What is left in the buffer of a time before comes first."""

    def __init__(self, book: Book) -> None:
        self._book = book
        #: Messages that were read.
        self.read = 0
        self._spans: list[_Span] = []
        # The span of the last message, the message itself, and the gaps since.
        self._current = -1
        self._at: Position | None = None
        self._missed = 0
        self._is_unknown = False
        #: Whether each message since the first joining was counted.
        self.is_exact = True

    @property
    def channel(self) -> str:
        return self._book.channel

    def join(self, *, is_shared: bool) -> None:
        """Begin to join.

        :param is_shared: another subscription of the client has the channel, so that messages that
            were published before may still be on their way to it
        """
        self._spans.append(_Span(_ANYWHERE if is_shared else self._book.acked))

    def joined(self) -> None:
        """The joining ended, whatever came of it."""
        self._spans[-1].last = self._book.issued

    def take(self, item: Message | Gap) -> None:
        if isinstance(item, Gap):
            self._take_gap(item)
        else:
            self._take_message(decode_message(item))

    def _take_gap(self, gap: Gap) -> None:
        if gap.missed is None:
            if gap.reason != "reconnect":
                raise self._mismatch(f"{gap} without a reconnect")
            self._is_unknown = True
            self.is_exact = False
        elif gap.missed <= 0:
            raise self._mismatch(f"{gap} misses nothing")
        else:
            self._missed += gap.missed

    def _take_message(self, position: Position) -> None:
        self.read += 1
        wrong = self._find_wrong(position)
        error = self._mismatch(f"{position} came next, {wrong}") if wrong else None
        # Whoever is beyond the place of a joining can no longer be before it.
        for index in range(self._current + 1, len(self._spans)):
            last = self._spans[index].last
            if last is not None and position > last:
                self._current = index
        self._at = position
        self._missed = 0
        self._is_unknown = False
        if error is not None:
            raise error

    def _find_wrong(self, position: Position) -> str | None:
        if self._at is not None and position <= self._at:
            return "which came before"
        if position > self._book.issued:
            return "which was not published"
        if not self._is_unknown:
            fits = self._follows(position) or self._begins_span(position)
            return None if fits else "which leaves others out"
        if self._at is None or self._at[0] != position[0]:
            return None
        if self._book.is_kept:
            return "of a channel that the hub had not forgotten"
        if position[1] - self._at[1] - 1 < self._missed:
            return "which leaves no room for the gaps"
        return None

    def _follows(self, position: Position) -> bool:
        return self._at is not None and position == (self._at[0], self._at[1] + self._missed + 1)

    def _begins_span(self, position: Position) -> bool:
        run, number = position
        latest = (run, number - 1)
        # Gaps may be of the span before, in part, unless there is none.
        earliest = (run, number - 1 - self._missed)
        for index in range(self._current + 1, len(self._spans)):
            span = self._spans[index]
            last = self._book.issued if span.last is None else span.last
            if span.first <= (latest if index else earliest) and earliest <= last:
                self._current = index
                return True
        return False

    def check_end(self) -> None:
        """Check what is behind the last message."""
        if self.position > self._book.issued and not self._is_unknown:
            raise self._mismatch("more was missed than published")

    @property
    def position(self) -> Position:
        """Where it stands at least, unless a gap of unknown size was the last thing."""
        run, number = self._at or self._spans[0].first
        return run, number + self._missed

    def has_passed(self, position: Position) -> bool:
        """Tell whether everything up to there has been read or missed, if that can be known."""
        if self._is_unknown:
            return True
        if self._at is not None and self._current == len(self._spans) - 1:
            return self.position >= position
        # It has joined since, and no message has shown yet where: only that it was not later.
        last = self._spans[-1].last
        return last is not None and (last[0], last[1] + self._missed) >= position

    def _mismatch(self, what: str) -> Mismatch:
        spans = [(span.first, span.last) for span in self._spans[-3:]]
        unknown = " and an unknown gap" if self._is_unknown else ""
        return Mismatch(
            f"{self._book.channel} at {self._at}, {self._missed} missed{unknown} since: {what} "
            f"(issued {self._book.issued}, acked {self._book.acked}, joined between {spans})"
        )


class Ascending:
    """One channel whose publisher is interfered with: each message comes once at most, in order."""

    def __init__(self) -> None:
        self._at: Position = (0, 0)

    def take(self, item: Message | Gap) -> None:
        if isinstance(item, Message):
            position = decode_message(item)
            if position <= self._at:
                raise Mismatch(f"{position} came after {self._at}")
            self._at = position
