"""A subscription: a bounded buffer that its user iterates."""

from __future__ import annotations

import sys
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ._backend import wake
from ._buffer import make_buffer
from ._errors import SubscriptionClosed, WouldBlock
from .protocol import Gap, Message, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Sequence
    from types import TracebackType
    from typing import Self

    from ._backend import Waiter
    from ._buffer import Overflow
    from ._client import Client
    from ._connection import Connection
    from .protocol import Batch, HypsError, Run

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

#: Runs or batches that a reader takes from its buffer before it lets other tasks run, and messages
#: that count as another one.
_RUNS_PER_PASS: Final = 64
_MESSAGES_OF_RUN: Final = 64

#: Messages missed in one go after which the log is told before it is over; then ten times as many.
_TELL_AT: Final = 100

#: What a subscription yields: messages, or with ``gaps=True`` messages and gaps.
Item = TypeVar("Item", bound=Message | Gap, covariant=True, default=Message)


class Subscription(Generic[Item]):
    """Channels, and the messages that arrive in them. Made by :meth:`Client.subscribe`.

    Enter it, iterate it, leave it::

        async with client.subscribe("foo_ch") as subscription:
            async for message in subscription:
                print(message.channel, message.data)

    Its channels may change meanwhile, and several tasks may change them; one at a time may read,
    and a second one gets ``anyio.BusyResourceError``. Messages of its channels arrive in the order
    in which the hub took them.

    When the connection is lost the iteration goes on as soon as there is another one; what was
    published meanwhile is missed. It ends when the subscription was left or the client was shut
    down, and raises when the connection is lost for good or a hub that it came back to refuses one
    of the channels, in each case after what is in the buffer.

    The buffer is bounded, and what happens when it is full was chosen with ``overflow``. Each
    loss is counted and logged; with ``gaps=True`` it is also yielded, as a :class:`Gap` where the
    messages would have been. Other subscriptions are not affected.
    """

    # There can be a great many.
    __slots__ = (
        "__weakref__",
        "_buffer",
        "_client",
        "_connection",
        "_episode",
        "_episode_of",
        "_error",
        "_first_channels",
        "_is_ended",
        "_missed",
        "_missed_unknown",
        "_reader",
        "_runs_taken",
        "_tell_at",
        "_yields_gaps",
        "held",
    )

    def __init__(
        self,
        client: Client,
        channels: tuple[str, ...],
        *,
        gaps: bool,
        overflow: Overflow,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self._buffer = make_buffer(overflow, max_messages, max_bytes)
        self._yields_gaps = gaps
        # Not its bound method, which would take memory for each.
        self._client = client
        self._connection: Connection | None = None
        self._first_channels = channels
        #: The channels, for the connection to change. A tuple as long as there was no change: most
        #: subscriptions keep what they began with, and it takes a fifth of the memory.
        self.held: tuple[str, ...] | dict[str, None] = ()
        self._runs_taken = 0
        self._reader: Waiter | None = None
        self._missed = 0
        self._missed_unknown = False
        # Messages that the buffer had no room for, and that no log tells of yet.
        self._episode = 0
        self._episode_of: Sequence[str] = ()
        self._tell_at = _TELL_AT
        self._is_ended = False
        self._error: Callable[[], HypsError] | None = None

    # Lifetime

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            raise RuntimeError("this subscription has been entered before")
        connection = self._client._get_connection()
        self._connection = connection
        try:
            channels, self._first_channels = self._first_channels, ()
            await connection.join(self, channels)
        except BaseException:
            connection.forget(self)
            self.end(None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Without waiting, so that it works in a cancelled task and in a generator's finaliser.
        assert self._connection is not None
        self._connection.forget(self)
        self.end(None)

    def __repr__(self) -> str:
        unknown = " and an unknown number" if self._missed_unknown else ""
        return f"<hyps.Subscription, channels: {len(self.held)}, missed: {self._missed}{unknown}>"

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise TypeError("a subscription is entered: async with client.subscribe(...) as name:")

    # Channels

    @property
    def channels(self) -> frozenset[str]:
        """The channels that it holds now."""
        return frozenset(self.held)

    async def subscribe(self, *channels: str) -> None:
        """Add channels; returns when the hub has ACKed. Those that it holds are left alone.

        It is all of them or, if it raises or is cancelled, none.

        :raises InvalidChannel: if a name cannot be a channel's, or the hub refuses it
        :raises PermissionDenied: if the hub does not allow it, or the session has too many
        :raises ConnectionLost: if the connection is lost
        :raises SubscriptionClosed: if the subscription was left
        """
        await self._entered().join(self, channels)

    async def unsubscribe(self, *channels: str) -> None:
        """Remove channels; returns when the hub has ACKed. Those that it does not hold are ignored.

        Nothing of them arrives from now on. What is in the buffer stays there.

        :raises ConnectionLost: if the connection is lost before the hub ACKed
        :raises SubscriptionClosed: if the subscription was left
        """
        await self._entered().leave_and_wait(self, channels)

    def _entered(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("enter the subscription first: async with ... as name:")
        self._connection.check_here()
        self.check_open()
        return self._connection

    def _closed(self) -> HypsError:
        if self._error is not None:
            return self._error()
        return SubscriptionClosed("the subscription has ended")

    # Losses

    @property
    def missed(self) -> int:
        """Messages that were lost, as far as they could be counted.

        At the hub, because this process read too slowly; here, because the buffer was full; and
        between two connections.
        """
        return self._missed

    @property
    def missed_unknown(self) -> bool:
        """Whether messages were lost whose number cannot be known, or may have been.

        Over HTTP/2 that is always so: a hub cannot tell there what it has dropped.
        """
        return self._missed_unknown

    # Reading

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        # Per message: these two lines. The rest is per run.
        for message in self._buffer.ready:
            return message  # type: ignore[no-any-return]
        item = await self._next()
        if item is None:
            raise StopAsyncIteration
        return item

    async def receive(self) -> Item:
        """Wait for the next message, or gap.

        :raises SubscriptionClosed: if the subscription has ended and nothing is left to read
        :raises SubscriptionOverflow: the same, if it has ended because its buffer was full
        :raises ConnectionLost: the same, if it has ended because the connection was lost for good
        """
        for message in self._buffer.ready:
            return message  # type: ignore[no-any-return]
        item = await self._next()
        if item is None:
            raise self._closed()
        return item

    def receive_nowait(self) -> Item:
        """Give the next message, or gap, if there is one.

        :raises WouldBlock: if there is none now
        :raises SubscriptionClosed: see :meth:`receive`, likewise for the others
        :raises SubscriptionOverflow:
        :raises ConnectionLost:
        """
        self._check_reader()
        for message in self._buffer.ready:
            return message  # type: ignore[no-any-return]
        item = self._take()
        if item is not None:
            return item
        if self._is_ended:
            raise self._closed()
        raise WouldBlock("there is no message now")

    async def receive_many(self) -> list[Item]:
        """Wait for a message, or gap, and give it and all others that are there, in order.

        :raises SubscriptionClosed: see :meth:`receive`, likewise for the others
        :raises SubscriptionOverflow:
        :raises ConnectionLost:
        """
        self._check_reader()
        items: list[Item] = list(self._buffer.ready)
        if not items:
            items.append(await self.receive())
            items += self._buffer.ready
        while (item := self._take()) is not None:
            items.append(item)
            items += self._buffer.ready
        return items

    async def receive_raw(self) -> bytes:
        """Do what :meth:`receive_many` does, and give concatenated records.

        For forwarding, to who decodes them with :func:`hyps.protocol.records`, which gives pairs of
        channel and data, or the like. Unless
        a run was begun with another method, no message is looked at on the way. Records have no
        place for gaps: those are only counted.

        :raises SubscriptionClosed: see :meth:`receive`, likewise for the others
        :raises SubscriptionOverflow:
        :raises ConnectionLost:
        """
        buffer = self._buffer
        self._check_reader()
        if self._is_pass_over():
            await checkpoint()
            self._check_reader()
        records = [encode(message.channel, message.data) for message in buffer.ready]
        while True:
            while buffer:
                item = buffer.take()
                if not isinstance(item, Gap):
                    records.append(item.records)
            if records:
                return b"".join(records)
            if not await self._wait():
                raise self._closed()

    async def _next(self) -> Item | None:
        """Wait for the next item; None at the subscription's end."""
        if self._is_pass_over():
            await checkpoint()
        self._check_reader()
        while (item := self._take()) is None:
            if not await self._wait():
                if self._error is not None:
                    raise self._closed()
                break
        self._runs_taken += length_hint(self._buffer.ready) // _MESSAGES_OF_RUN
        return item

    def _take(self) -> Item | None:
        """Take the next item that is to be yielded, if there is one."""
        buffer = self._buffer
        item: Any
        while buffer:
            item = buffer.take_one()
            if self._yields_gaps or not isinstance(item, Gap):
                return item  # type: ignore[no-any-return]
        return None

    def _is_pass_over(self) -> bool:
        """Count a run, and tell whether so many were read that it is the turn of other tasks."""
        self._runs_taken += 1
        if self._runs_taken < _RUNS_PER_PASS:
            return False
        self._runs_taken = 0
        return True

    def _check_reader(self) -> None:
        if self._reader is not None:
            raise anyio.BusyResourceError("reading from")

    async def _wait(self) -> bool:
        """Wait for something to take; False if there will be nothing more."""
        if self._connection is None:
            raise RuntimeError("enter the subscription first: async with ... as name:")
        self._connection.check_here()
        if self._is_ended:
            await checkpoint()
            return False
        self._reader = self._connection.new_waiter()
        try:
            await self._reader
        finally:
            self._reader = None
        return True

    # For the connection. None of it waits.

    def check_open(self) -> None:
        """Raise why the subscription has ended, if it has."""
        if self._is_ended:
            raise self._closed()

    def deliver(self, batch: Run | Batch) -> bool:
        """Take messages as far as there is room.

        :return: whether the subscription is to be ended, as its buffer was full
        """
        # Per batch and subscription.
        missed = self._buffer.put(batch)
        if missed:
            if not self._episode:
                self._episode_of = sorted(islice(self.held, 3))
            self._missed += missed
            self._episode += missed
            if self._episode >= self._tell_at:
                # Nobody may be reading any more.
                self._tell_at = 10 * self._episode
                self._tell_episode(" so far")
        elif self._episode:
            self._log_episode()
        if self._reader is not None:
            wake(self._reader)
        return self._buffer.is_closed

    def miss(self, gap: Gap) -> None:
        """Note that messages were missed before they came here."""
        self._buffer.put_gap(gap.channel, gap.missed, gap.reason)
        if gap.missed is None:
            self._missed_unknown = True
        else:
            self._missed += gap.missed
        if self._reader is not None:
            wake(self._reader)

    def may_miss(self) -> None:
        """Note that nobody will tell of messages that the hub drops."""
        self._missed_unknown = True

    def _log_episode(self) -> None:
        self._tell_episode()
        self._episode = 0
        self._tell_at = _TELL_AT

    def _tell_episode(self, so_far: str = "") -> None:
        if self._buffer.logs_losses and self._connection is not None:
            self._connection.log.warning(
                "the buffer of a subscription was full: messages missed: %d%s (channels: %s)",
                self._episode,
                so_far,
                ", ".join(self._episode_of),
            )

    def end(self, error: Callable[[], HypsError] | None) -> None:
        """End the iteration when the buffer is empty, with an error or without."""
        if self._is_ended:
            return
        self._is_ended = True
        self._error = error
        if self._episode:
            self._log_episode()
        if self._reader is not None:
            wake(self._reader)
