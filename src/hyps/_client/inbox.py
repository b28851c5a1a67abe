"""The inbox of a subscription: what the Reconnector knows of it.

The Reconnector refers to the inbox and not to the :class:`.Subscription`, which belongs to the
user. So the garbage collector can tell when the user has dropped a subscription without leaving it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import SubscriptionClosed
from .._net.backend import wake
from .losses import Episode

if TYPE_CHECKING:
    from .._errors import ErrorFactory
    from .._net.backend import Waiter
    from ..protocol import Batch, Gap, HypsError, Run
    from .buffer import Buffer
    from .losses import LossLog


class Inbox:
    """Where the messages of a subscription arrive. Nothing here waits.

    :param buffer: holds the messages
    """

    # There can be a great many.
    __slots__ = (
        "_episode",
        "buffer",
        "channels",
        "error",
        "losses",
        "missed",
        "missed_unknown",
        "reader",
    )

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        #: The client's log of losses; None until the subscription is entered.
        self.losses: LossLog | None = None
        #: The subscription's channels. :mod:`.routes` changes them. A tuple until the first change,
        #: because most subscriptions never change them and a tuple takes a fifth of the memory.
        self.channels: tuple[str, ...] | dict[str, None] = ()
        #: What the reading task waits for.
        self.reader: Waiter | None = None
        self.missed = 0
        self.missed_unknown = False
        # While messages find the buffer full.
        self._episode: Episode | None = None
        #: Makes the error to raise when nothing is left to read; None while messages may come.
        self.error: ErrorFactory | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more comes."""
        return self.error is not None

    @property
    def has_failed(self) -> bool:
        """Whether an error has ended it, so that iterating raises instead of stopping."""
        return self.error is not None and self.error is not _closed

    def check_open(self) -> None:
        """Raise the reason if the subscription has ended."""
        if self.error is not None:
            raise self.reason()

    def reason(self) -> HypsError:
        """Make the error to raise when nothing is left to read."""
        return (self.error or _closed)()

    def deliver(self, batch: Run | Batch) -> bool:
        """Buffer messages, as far as there is room.

        :return: whether the policy ends the subscription, because its buffer was full
        """
        # This runs once per batch and subscription.
        missed = self.buffer.put(batch)
        if missed:
            self._on_missed(missed)
        elif self._episode is not None and self._episode.is_over:
            self._end_episode()
        if self.reader is not None:
            wake(self.reader)
        return missed > 0 and self.buffer.is_closed

    def _on_missed(self, missed: int) -> None:
        self.missed += missed
        if self.losses is not None:
            self.losses.totals.miss(missed, "client")
            if self._episode is None and self.buffer.logs_losses:
                self._episode = Episode(self.losses, self.channels)
        if self._episode is not None:
            self._episode.add(missed)

    def miss(self, gap: Gap) -> None:
        """Note that messages were lost before they arrived here."""
        self.buffer.put_gap(gap.channel, gap.missed, gap.reason)
        if self.losses is not None:
            self.losses.totals.miss(gap.missed, gap.reason)
        if gap.missed is None:
            self.missed_unknown = True
        else:
            self.missed += gap.missed
        if self.reader is not None:
            wake(self.reader)

    def end(self, error: ErrorFactory | None) -> None:
        """End the iteration once the buffer is empty, with an error or without."""
        if self.error is not None:
            return
        self.error = error or _closed
        self._end_episode()
        if self.reader is not None:
            wake(self.reader)

    def _end_episode(self) -> None:
        if self._episode is not None:
            self._episode.tell()
            self._episode = None


def _closed() -> HypsError:
    return SubscriptionClosed("the subscription has ended")
