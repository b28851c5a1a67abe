"""A subscription as one user of an application reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from .._errors import SubscriptionOverflow
from .._logs import Log
from .._net.backend import spawn
from ..protocol import Gap, HypsError, InvalidChannel, Message, PermissionDenied

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, TypeAlias

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
    """

    def __init__(self, subscription: AnySubscription, send_timeout: float) -> None:
        self._subscription = subscription
        self._send_timeout = send_timeout
        # With "latest" skipping messages is the purpose, and no page wants to be told.
        self._omits_gaps = subscription.overflow == "latest"
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
            LOG.warning("a stream was refused: %s", error)
            raise
        except (HypsError, TimeoutError) as error:
            why = str(error) or "no hub in time"
            LOG.warning("a stream could not begin: %s", why)
            raise CannotBegin(why) from None
        spawn(self._watch, "hyps feed")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watching.cancel()
        # This waits for nothing, so that an abandoned generator can do it.
        await self._subscription.__aexit__(exc_type, exc_value, traceback)

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
            LOG.debug("a stream ends: %s", error)
            return None
        if self._omits_gaps:
            return [item for item in items if not isinstance(item, Gap)]
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
            LOG.info("a stream ends: its user took nothing for %g seconds", self._send_timeout)
            self.is_too_slow = True
            self._subscription.leave()
            self.scope.cancel()
