"""The subscription: the user's end of a bounded buffer."""

from __future__ import annotations

import sys
import warnings
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from .._errors import WouldBlock
from ..protocol import Gap, Message, encode
from .buffer import make_buffer, overflow_of
from .inbox import Inbox
from .routes import check_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator
    from types import TracebackType
    from typing import Self

    from .buffer import Overflow
    from .memberships import Memberships

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

#: A reader lets other tasks run after as many runs or batches. This many messages count as one
#: more.
_RUNS_PER_PASS: Final = 64
_MESSAGES_OF_RUN: Final = 64

#: What a subscription yields: messages, or with ``gaps=True`` messages and gaps.
Item = TypeVar("Item", bound=Message | Gap, covariant=True, default=Message)


class Subscription(Generic[Item]):
    """Channels, and the messages that arrive in them. :meth:`Client.subscribe` makes it.

    Enter it, iterate it, leave it::

        async with client.subscribe("foo_ch") as subscription:
            async for message in subscription:
                print(message.channel, message.data)

    Any task may change its channels while it is read. One task at a time may read it; a second one
    gets ``anyio.BusyResourceError``. Messages arrive in the order in which the hub took them.

    When the connection is lost, the iteration goes on as soon as there is another one. What was
    published in between is lost. The iteration ends when the subscription is left or the client is
    shut down. It raises when the connection is lost for good, or when a hub that the client came
    back to refuses one of the channels. In each case it first yields what is in the buffer.

    The buffer is bounded, and ``overflow`` decides what happens when it is full. Each loss is
    counted and logged. With ``gaps=True`` it is also yielded, as a :class:`Gap` where the messages
    would have been. Other subscriptions are not affected.

    When nothing refers any more to a subscription that was not left, the client leaves it, with a
    ``ResourceWarning``.
    """

    # There can be a great many.
    __slots__ = (
        "__weakref__",
        "_buffer",
        "_inbox",
        "_memberships",
        "_request",
        "_runs_taken",
        "_yields_gaps",
    )

    def __init__(
        self,
        get_memberships: Callable[[], Memberships],
        channels: tuple[str, ...],
        *,
        gaps: bool,
        overflow: Overflow,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self._buffer = make_buffer(overflow, max_messages, max_bytes)
        self._inbox = Inbox(self._buffer)
        self._yields_gaps = gaps
        # Until it is entered: what gives the connection, and the channels.
        self._request: tuple[Callable[[], Memberships], tuple[str, ...]] | None
        self._request = (get_memberships, channels)
        self._memberships: Memberships | None = None
        self._runs_taken = 0

    # Lifetime

    async def __aenter__(self) -> Self:
        if self._request is None:
            raise RuntimeError("this subscription has been entered before")
        get_memberships, channels = self._request
        inbox = self._inbox
        memberships = self._memberships = get_memberships()
        inbox.losses = memberships.reconnector.losses
        self._request = None
        try:
            check_names(channels)
            await memberships.join(inbox, channels)
        except BaseException:
            memberships.leave_for_good(inbox)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Leave without waiting, so that it works in a cancelled task and in a generator's
        # finalizer.
        if exc_type is not GeneratorExit:
            self.leave()
        else:
            # The garbage collector may close an abandoned generator in any thread.
            self._once_entered().leave_for_good(self._inbox)

    def leave(self) -> None:
        """Leave now, as at the end of the ``async with`` block, and without waiting.

        What is in the buffer can still be read, and then the iteration ends. Harmless if the
        subscription has ended.

        :raises RuntimeError: if it was not entered, or in another event loop
        """
        memberships = self._once_entered()
        memberships.reconnector.check_may_close()
        memberships.leave_for_good(self._inbox)

    def __del__(self) -> None:
        # The Reconnector refers only to the inbox, so this runs when nobody can read or leave it.
        memberships: Memberships | None = getattr(self, "_memberships", None)
        if memberships is None or self._inbox.is_ended:
            return
        # In a forked child the subscription is the parent's.
        if not memberships.reconnector.is_inherited:
            channels = ", ".join(sorted(self._inbox.channels)[:3])
            memberships.leave_soon(self._inbox)
            warnings.warn(
                f"a subscription was never left (channels: {channels}): "
                "async with client.subscribe(...)",
                ResourceWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        inbox = self._inbox
        unknown = " and an unknown number" if inbox.missed_unknown else ""
        return (
            f"<hyps.Subscription, channels: {len(inbox.channels)}, missed: {inbox.missed}{unknown}>"
        )

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise TypeError("a subscription is entered: async with client.subscribe(...) as name:")

    # Channels

    def check_channels(self) -> None:
        """Check the names of the channels before the subscription is entered.

        :raises InvalidChannel: if a name cannot be a channel's. The hub may refuse others, when the
            subscription is entered.
        """
        if self._request is not None:
            check_names(self._request[1])

    @property
    def channels(self) -> frozenset[str]:
        """The channels that it holds."""
        return frozenset(self._inbox.channels)

    async def subscribe(self, *channels: str) -> None:
        """Add channels; returns when the hub has ACKed.

        This adds all of the channels or, if it raises or is cancelled, none. Channels that the
        subscription already holds stay.

        :raises InvalidChannel: if a name cannot be a channel's, or the hub refuses it
        :raises PermissionDenied: if the hub does not allow it, or the session has too many
        :raises ConnectionLost: if the connection is lost
        :raises SubscriptionClosed: if the subscription was left
        """
        memberships = self._entered()
        check_names(channels)
        await memberships.join(self._inbox, channels)

    async def unsubscribe(self, *channels: str) -> None:
        """Remove channels; returns when the hub has ACKed.

        From now on nothing of them arrives. What is in the buffer stays there. Channels that the
        subscription does not hold are ignored.

        :raises ConnectionLost: if the connection is lost before the hub ACKed
        :raises SubscriptionClosed: if the subscription was left
        """
        await self._entered().leave_and_wait(self._inbox, channels)

    def _once_entered(self) -> Memberships:
        if self._memberships is None:
            raise RuntimeError("enter the subscription first: async with ... as name:")
        return self._memberships

    def _entered(self) -> Memberships:
        memberships = self._once_entered()
        memberships.reconnector.check_here()
        self._inbox.check_open()
        return memberships

    @property
    def ended(self) -> bool:
        """Whether it has ended: nothing more arrives, but the buffer may still have messages."""
        return self._inbox.is_ended

    @property
    def overflow(self) -> Overflow:
        """What happens when a message finds the buffer full."""
        return overflow_of(self._buffer)

    # Losses

    @property
    def missed(self) -> int:
        """How many messages were lost, as far as anybody could count them.

        At the hub, because this process read too slowly; here, because the buffer was full; and
        between two connections.
        """
        return self._inbox.missed

    @property
    def missed_unknown(self) -> bool:
        """Whether messages were lost, or may have been, that nobody can count.

        Over HTTP/2 this is always true, because a hub cannot tell there what it has dropped.
        """
        return self._inbox.missed_unknown

    # Reading

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        # These two lines run once per message, and the rest once per run.
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
            raise self._inbox.reason()
        return item

    def receive_nowait(self) -> Item:
        """Return the next message, or gap, if there is one.

        :raises WouldBlock: if there is none now
        :raises SubscriptionClosed: see :meth:`receive`, likewise for the others
        :raises SubscriptionOverflow:
        :raises ConnectionLost:
        """
        if self._memberships is not None:
            self._memberships.reconnector.check_here()
        self._check_reader()
        for message in self._buffer.ready:
            return message  # type: ignore[no-any-return]
        item = self._take()
        if item is not None:
            return item
        self._inbox.check_open()
        raise WouldBlock("there is no message now")

    async def receive_many(self, at_least: int = 1) -> list[Item]:
        """Wait for messages, or gaps, and return all that are there, in order.

        If a message finds the buffer full or the subscription ends before there are enough, this
        returns those that are there, and raises only if there are none. If it is cancelled, they
        stay in the buffer.

        :param at_least: how many to wait for, of what the subscription yields; at most
            ``max_messages``
        :raises ValueError: if ``at_least`` is out of bounds
        :raises SubscriptionClosed: see :meth:`receive`, likewise for the others
        :raises SubscriptionOverflow:
        :raises ConnectionLost:
        """
        self._check_reader()
        if at_least != 1:
            await self._wait_for(at_least)
        items: list[Item] = list(self._buffer.ready)
        if not items:
            items.append(await self.receive())
            items += self._buffer.ready
        while (item := self._take()) is not None:
            items.append(item)
            items += self._buffer.ready
        return items

    async def _wait_for(self, count: int) -> None:
        """Wait until there are this many items, or no more will come."""
        buffer = self._buffer
        if not 1 <= count <= buffer.max_messages:
            raise ValueError(
                f"at_least must be from 1 to max_messages={buffer.max_messages}, not {count}"
            )
        buffer.has_overflowed = False
        while buffer.count_items(gaps=self._yields_gaps) < count and not buffer.has_overflowed:
            if not await self._wait():
                break

    async def receive_raw(self) -> bytes:
        """Do what :meth:`receive_many` does, and return concatenated records.

        This is for forwarding messages without decoding them; :func:`hyps.protocol.records` decodes
        them. Records have no place for gaps, which are only counted.

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
                raise self._inbox.reason()

    async def _next(self) -> Item | None:
        """Wait for the next item; None at the subscription's end."""
        if self._is_pass_over():
            await checkpoint()
        self._check_reader()
        while (item := self._take()) is None:
            if not await self._wait():
                if self._inbox.has_failed:
                    raise self._inbox.reason()
                break
        self._runs_taken += length_hint(self._buffer.ready) // _MESSAGES_OF_RUN
        return item

    def _take(self) -> Item | None:
        """Take the next item to yield, if there is one."""
        buffer = self._buffer
        item: Any
        while buffer:
            item = buffer.take_one()
            if self._yields_gaps or not isinstance(item, Gap):
                return item  # type: ignore[no-any-return]
        return None

    def _is_pass_over(self) -> bool:
        """Count a run, and tell whether it is the turn of other tasks."""
        self._runs_taken += 1
        if self._runs_taken < _RUNS_PER_PASS:
            return False
        self._runs_taken = 0
        return True

    def _check_reader(self) -> None:
        if self._inbox.reader is not None:
            raise anyio.BusyResourceError("reading from")

    async def _wait(self) -> bool:
        """Wait for something to take; return False if nothing more will come."""
        reconnector = self._once_entered().reconnector
        reconnector.check_here()
        inbox = self._inbox
        if inbox.is_ended:
            await checkpoint()
            return False
        inbox.reader = reconnector.new_waiter()
        try:
            await inbox.reader
        finally:
            inbox.reader = None
        return True
