"""A subscription for code that is not async."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._errors import SubscriptionClosed
from ._loop import get_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from .._client.subscription import Subscription as AsyncSubscription
    from ._connection import Connection

Item_co = TypeVar("Item_co", covariant=True)
_T = TypeVar("_T")


class Subscription(Generic[Item_co]):
    """An iterator over the messages of its channels. :meth:`Client.subscribe` makes it.

    Enter it to subscribe. One thread at a time reads it.
    """

    def __init__(
        self,
        subscription: AsyncSubscription[Any],
        connection: Connection,
        *,
        own_timeout: float,
        timeout: float | None,
    ) -> None:
        self._subscription = subscription
        self._connection = connection
        self._own_timeout = own_timeout
        self._timeout = timeout
        # Asking the event loop takes far longer than a message, so it gives all that are there.
        self._items: deque[Any] = deque()

    def __enter__(self) -> Self:
        async def enter() -> None:
            await self._connection.get()
            await self._subscription.__aenter__()

        self._run(enter, self._own_timeout)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # In a forked child the subscription is the parent's. Leaving waits for nothing, so that the
        # garbage collector may do it too, in whatever thread and in the middle of another call.
        if self._connection.loop is get_loop():
            self._connection.loop.call_soon(self._subscription.leave)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item_co:
        try:
            return self.receive(timeout=self._timeout)
        except SubscriptionClosed:
            raise StopIteration from None

    def receive(self, *, timeout: float | None = None) -> Item_co:
        """Wait for the next message, or gap.

        :param timeout: seconds; None waits without a bound
        :raises TimeoutError: if there is none in time
        :raises SubscriptionClosed: see :meth:`hyps.Subscription.receive`, likewise for the others
        :raises SubscriptionOverflow:
        :raises ConnectionLost:
        """
        if not self._items:
            self._items.extend(self._run(self._subscription.receive_many, timeout))
        return self._items.popleft()  # type: ignore[no-any-return]

    @property
    def channels(self) -> frozenset[str]:
        """The channels that it holds."""
        return self._subscription.channels

    @property
    def missed(self) -> int:
        """How many messages were lost, as far as anybody could count them."""
        return self._subscription.missed

    @property
    def missed_unknown(self) -> bool:
        """Whether messages were lost, or may have been, that nobody can count."""
        return self._subscription.missed_unknown

    def subscribe(self, *channels: str) -> None:
        """Add channels, all or none. See :meth:`hyps.Subscription.subscribe`."""
        self._run(lambda: self._subscription.subscribe(*channels), self._own_timeout)

    def unsubscribe(self, *channels: str) -> None:
        """Remove channels. See :meth:`hyps.Subscription.unsubscribe`."""
        self._run(lambda: self._subscription.unsubscribe(*channels), self._own_timeout)

    def _run(self, function: Callable[[], Awaitable[_T]], timeout: float | None) -> _T:
        if self._connection.loop is not get_loop():
            raise RuntimeError(
                "this subscription was made before the process was forked, and is the parent's; "
                "make one in this process"
            )
        return self._connection.loop.run(function, timeout)
