"""A subscription as one user of an application reads it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from .._errors import SubscriptionOverflow
from .._logs import Log
from .._net.backend import spawn
from ..protocol import Gap, HypsError, InvalidChannel, Message, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from types import TracebackType
    from typing import Any, Self, TypeAlias

    from .._client.subscription import Subscription

    AnySubscription: TypeAlias = Subscription[Message] | Subscription[Message | Gap]

#: A feed waits this long for a hub before it begins, in seconds.
_HUB_TIMEOUT: Final = 5.0

LOG: Final = Log("hyps.asgi")


class CannotBegin(Exception):
    """A feed cannot begin now; the user should ask again a little later."""


class Feed:
    """A subscription while one user reads it: enter it, read, and tell of each send.

    Entering it enters the subscription. It raises :class:`.InvalidChannel` or
    :class:`.PermissionDenied` if the hub refuses a channel, and :class:`CannotBegin` if it fails
    for any other reason: the hub is away, or this server stops.

    A user who reads nothing is noticed by a send that does not return. Cancelling the send is not
    enough: some servers shield what they write, and a suspended generator cannot be cancelled. So
    a task of its own leaves the subscription, and cancels :attr:`scope`.

    :param subscription: not entered
    :param send_timeout: seconds that a send may take
    :param name: of the feed in the log, such as its path and its user's address
    """

    def __init__(
        self, subscription: AnySubscription, send_timeout: float, name: str = "a stream"
    ) -> None:
        self._subscription = subscription
        self._send_timeout = send_timeout
        self._name = name
        # With "latest" skipping messages is the purpose, and no page wants to be told of it. Other
        # losses leave an old state on the page.
        self._omits_skips = subscription.overflow == "latest"
        self._watching = anyio.CancelScope()
        self._sending_since: float | None = None
        #: Cancelled when the user is given up.
        self.scope = anyio.CancelScope()
        #: Whether the user reads too slowly.
        self.is_too_slow = False

    async def __aenter__(self) -> Self:
        try:
            with anyio.fail_after(_HUB_TIMEOUT):
                await self._subscription.__aenter__()
        except (InvalidChannel, PermissionDenied) as error:
            LOG.warning("%s was refused: %s", self._name, error)
            raise
        except (HypsError, TimeoutError) as error:
            why = str(error) or "no hub in time"
            LOG.warning("%s could not begin: %s", self._name, why)
            raise CannotBegin(why) from None
        spawn(self._watch, "hyps feed")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # This waits for nothing, so that an abandoned generator can do it, in whatever thread.
        await self._subscription.__aexit__(exc_type, exc_value, traceback)
        with suppress(RuntimeError):
            self._watching.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more arrives: the server stops, for example."""
        return self._subscription.ended

    async def read(self) -> list[Message | Gap] | None:
        """Wait for messages and gaps; None at the end."""
        if self.is_too_slow:
            return None
        try:
            items = await self._subscription.receive_many()
        except SubscriptionOverflow:
            self.is_too_slow = True
            return None
        except HypsError as error:
            LOG.debug("%s ends: %s", self._name, error)
            return None
        if self._omits_skips:
            return [item for item in items if not _is_skip(item)]
        return list(items)

    # Sending

    def begin_sending(self) -> None:
        """Note that a send begins."""
        self._sending_since = anyio.current_time()

    def end_sending(self) -> None:
        """Note that the send has ended."""
        self._sending_since = None

    async def _watch(self) -> None:
        with self._watching:
            while True:
                left = self._send_timeout
                if self._sending_since is not None:
                    left += self._sending_since - anyio.current_time()
                if left <= 0:
                    break
                await anyio.sleep(left)
            seconds = self._send_timeout
            LOG.info("%s ends: its user took nothing for %g seconds", self._name, seconds)
            self.is_too_slow = True
            self._subscription.leave()
            self.scope.cancel()


def _is_skip(item: Message | Gap) -> bool:
    return isinstance(item, Gap) and item.reason == "client"


def name_of(scope: MutableMapping[str, Any]) -> str:
    """Name a feed by what ASGI says of its request."""
    address = scope.get("client")
    user = f"{address[0]}:{address[1]}" if address else "somebody"
    return f"the stream {scope.get('path', '')} of {user}"
