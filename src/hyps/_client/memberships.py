"""How subscriptions join and leave channels, over whatever connection the client has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint

from .._errors import SubscriptionClosed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .inbox import Inbox
    from .reconnector import Reconnector


class Memberships:
    """Joins and leaves channels for the subscriptions of one client.

    :param reconnector: gives the connection
    """

    def __init__(self, reconnector: Reconnector) -> None:
        self.reconnector = reconnector
        self._routes = reconnector.routes
        # Whether no further subscription may begin.
        self._are_over = False

    async def join(self, inbox: Inbox, channels: Iterable[str]) -> None:
        """Add channels to a subscription, all or none."""
        if self._are_over:
            raise SubscriptionClosed("the client has ended its subscriptions")
        self._routes.add(inbox)
        connection = await self.reconnector.get_connection(inbox)
        inbox.check_open()
        joining, operation = self._routes.join(inbox, channels, connection.protocol)
        connection.note_and_flush(operation)
        try:
            await connection.expect(joining.operation, is_own=False).wait()
            joining.finish()
        except BaseException:
            self._leave(inbox, joining.give_up())
            raise

    async def leave_and_wait(self, inbox: Inbox, channels: Iterable[str]) -> None:
        """Remove channels from a subscription, and wait for the answer."""
        connection = self.reconnector.connection
        operation = self._leave(inbox, channels)
        if connection is None or operation is None:
            await checkpoint()
        else:
            await connection.answered(operation)

    def leave_for_good(self, inbox: Inbox) -> None:
        """Remove a subscription and end it, without waiting."""
        self._unsubscribe(self._routes.forget(inbox))
        inbox.end(None)

    def leave_soon(self, inbox: Inbox) -> None:
        """Do the same in the client's event loop, soon. Any thread may call this at any moment."""
        self.reconnector.call(partial(self.leave_for_good, inbox))

    def end_all(self) -> None:
        """Remove and end all subscriptions, and let no further ones begin."""
        self._are_over = True
        self._unsubscribe(self._routes.end(None))
        # Some of them may wait for a connection.
        self.reconnector.wake_openers()

    def _leave(self, inbox: Inbox, channels: Iterable[str]) -> int | None:
        """Remove channels from a subscription, without waiting.

        :return: the id of the operation, if there was one
        """
        return self._unsubscribe(self._routes.leave(inbox, channels))

    def _unsubscribe(self, channels: list[str]) -> int | None:
        """Unsubscribe channels, if there is a connection."""
        connection = self.reconnector.connection
        if not channels or connection is None:
            return None
        if not self.reconnector.is_here():
            # The garbage collector closes abandoned coroutines in whatever thread it runs in.
            self.reconnector.call(partial(self._unsubscribe, channels))
            return None
        return connection.unsubscribe(channels)
