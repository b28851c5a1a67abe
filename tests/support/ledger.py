"""The account of what is lost: messages that carry numbers, and what a subscription is told."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import PATIENCE

import hyps
from hyps import Gap, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Ledger:
    """Publishes messages that carry their number in their channel.

    :param client: of which nothing that it publishes is lost on the way
    """

    def __init__(self, client: hyps.Client) -> None:
        #: Messages of each channel that were published, or are about to be.
        self.published: defaultdict[str, int] = defaultdict(int)
        self._client = client

    async def publish(self, channels: Iterable[str], rounds: int = 1, size: int = 0) -> None:
        """Publish one message after the other in each channel, so many times.

        :param size: bytes of a message, at least
        """
        await self._client.publish_many(self._number(tuple(channels), rounds, size))

    def _number(
        self, channels: Iterable[str], rounds: int, size: int
    ) -> Iterator[tuple[str, bytes]]:
        for _ in range(rounds):
            for channel in channels:
                number = self.published[channel]
                self.published[channel] = number + 1
                yield channel, (b"%d " % number).ljust(size, b".")


class Account:
    """What one subscription was given of its channels; checked as it is taken.

    Each message must have the number that is due after all messages and gaps before it. So gaps
    have the right size and stand in the right place.

    :param subscription: entered, and nothing was published since
    """

    def __init__(self, ledger: Ledger, subscription: hyps.Subscription[Message | Gap]) -> None:
        self.subscription = subscription
        #: The number that is due in each channel.
        self.due: dict[str, int] = {}
        self._ledger = ledger
        # Channels of which it is the least possible, after a gap of unknown size.
        self._unknown: set[str] = set()
        self._gaps: list[Gap] = []
        self._missed = 0
        for channel in subscription.channels:
            self.join(channel)

    def join(self, channel: str) -> None:
        """Take it that the subscription has a channel from now on."""
        self.due[channel] = self._ledger.published[channel]

    def leave(self, channel: str) -> None:
        """Take it that the subscription is given nothing more of a channel."""
        del self.due[channel]

    def take(self, item: Message | Gap) -> None:
        channel = item.channel
        if isinstance(item, Message):
            number = int(item.data.split(b" ", 1)[0])
            if channel in self._unknown:
                self._unknown.discard(channel)
                assert number >= self.due[channel]
            else:
                assert number == self.due[channel]
            self.due[channel] = number + 1
        else:
            self._gaps.append(item)
            if item.missed is None:
                self._unknown.add(channel)
            else:
                assert item.missed > 0
                self._missed += item.missed
                self.due[channel] += item.missed
        assert self.due[channel] <= self._ledger.published[channel]

    def take_gaps(self) -> list[Gap]:
        """Give the gaps since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    @property
    def is_settled(self) -> bool:
        """Whether everything was read, or is known to be missed."""
        published = self._ledger.published
        return not self._unknown and all(due == published[name] for name, due in self.due.items())

    async def settle(self) -> None:
        """Read until everything was read or is known to be missed; then nothing may be left."""
        with anyio.fail_after(PATIENCE):
            while not self.is_settled:
                self.take(await self.subscription.receive())
        with pytest.raises(hyps.WouldBlock):
            self.subscription.receive_nowait()
        assert self.subscription.missed == self._missed

    async def close(self) -> None:
        """Leave, and take what is unread."""
        await self.subscription.__aexit__(None, None, None)
        async for item in self.subscription:
            self.take(item)
        assert self.subscription.missed == self._missed
