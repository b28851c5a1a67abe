"""A subscription as its connection knows it.

The connection holds this and not the :class:`Subscription`, which belongs to the user: so one that
nobody refers to any more can be noticed.
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
    """Where the messages of a subscription arrive, and what is known of it. Nothing here waits.

    :param buffer: takes the messages
    """

    # There can be a great many.
    __slots__ = (
        "_episode",
        "buffer",
        "error",
        "held",
        "losses",
        "missed",
        "missed_unknown",
        "reader",
    )

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        #: Takes what is missed here, for the log; None until the subscription is entered.
        self.losses: LossLog | None = None
        #: The channels, for the connection to change. A tuple as long as there was no change: most
        #: subscriptions keep what they began with, and it takes a fifth of the memory.
        self.held: tuple[str, ...] | dict[str, None] = ()
        #: What the task waits for that reads.
        self.reader: Waiter | None = None
        self.missed = 0
        self.missed_unknown = False
        # As long as there are messages that the buffer had no room for.
        self._episode: Episode | None = None
        #: Makes what is raised when nothing is left to read; None as long as more may come.
        self.error: ErrorFactory | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more comes."""
        return self.error is not None

    @property
    def has_failed(self) -> bool:
        """Whether it has ended by an error: the iteration raises then, and does not just stop."""
        return self.error is not None and self.error is not _closed

    def check_open(self) -> None:
        """Raise why the subscription has ended, if it has."""
        if self.error is not None:
            raise self.reason()

    def reason(self) -> HypsError:
        """Make what is raised when nothing is left to read."""
        return (self.error or _closed)()

    def deliver(self, batch: Run | Batch) -> bool:
        """Take messages as far as there is room.

        :return: whether the subscription is to be ended, as its buffer was full
        """
        # Per batch and subscription.
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
        if self._episode is None and self.losses is not None and self.buffer.logs_losses:
            self._episode = Episode(self.losses, self.held)
        if self._episode is not None:
            self._episode.add(missed)

    def miss(self, gap: Gap) -> None:
        """Note that messages were missed before they came here."""
        self.buffer.put_gap(gap.channel, gap.missed, gap.reason)
        if gap.missed is None:
            self.missed_unknown = True
        else:
            self.missed += gap.missed
        if self.reader is not None:
            wake(self.reader)

    def end(self, error: ErrorFactory | None) -> None:
        """End the iteration when the buffer is empty, with an error or without."""
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
