"""An async client in one process."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from .._errors import ConnectionLost

if TYPE_CHECKING:
    from .._client.client import Client as AsyncClient
    from ._loop import Loop


class Connection:
    """An async client in one process, which the client and its subscriptions share.

    When nothing refers to it any more, the async client is shut down.

    :param client: not connected
    :param loop: the process's
    """

    def __init__(self, client: AsyncClient, loop: Loop) -> None:
        self.client = client
        self.loop = loop
        self._was_connected = False
        self._is_closed = False
        # At the end of the interpreter the loop does it.
        weakref.finalize(self, loop.drop, client).atexit = False

    async def get(self) -> AsyncClient:
        """Return the client, connected; or connecting again, if it was connected before.

        :raises ConnectionLost: if it was closed
        """
        if self._is_closed:
            raise ConnectionLost("the client was closed; connect() opens it again")
        if not self._was_connected:
            self.loop.keep(self.client)
            await self.client.connect()
            self._was_connected = True
        return self.client

    async def close(self) -> None:
        self._is_closed = True
        self.loop.forget(self.client)
        await self.client.shutdown()
