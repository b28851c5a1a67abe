"""A hub in memory with faults on demand."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Final

import anyio

from .._errors import ConnectionRefused
from .._server.local import named_hubs
from ..protocol import Limits
from ._drops import DroppingServer
from ._faults import FaultyClock, MemoryConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from anyio.abc import ByteStream

    from ..protocol import Broker

_numbers: Final = count(1)


class MemoryHub:
    """A hub in memory, for tests. It runs the same protocol, broker and server as in production.

    Enter it with ``with``, inside or outside of an event loop, and connect clients to its URL::

        with hyps.testing.MemoryHub() as hub:
            async with hyps.connect(hub.url) as client:
                ...

    :param token: the token that clients must present; None lets everybody in
    :param limits: the bounds of the hub
    """

    def __init__(self, *, token: str | None = None, limits: Limits | None = None) -> None:
        self._token = token
        self._limits = Limits.of(limits)
        self._name = f"hyps-testing-{next(_numbers)}"
        self._connections: dict[MemoryConnection, None] = {}
        self._is_cut = False
        self._clock = FaultyClock()
        self._server = self._make_server()

    def __enter__(self) -> Self:
        named_hubs[self._name] = self
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del named_hubs[self._name]
        self.cut()

    def __repr__(self) -> str:
        return f"<hyps.testing.MemoryHub at {self.url}, connections: {len(self._connections)}>"

    def _make_server(self) -> DroppingServer:
        return DroppingServer(token=self._token, limits=self._limits)

    @property
    def url(self) -> str:
        """The URL that clients connect to."""
        return f"memory://{self._name}"

    @property
    def broker(self) -> Broker:
        """The hub's channels, sessions and counters."""
        return self._server.broker

    @property
    def connections(self) -> tuple[MemoryConnection, ...]:
        """The connections that are open, the oldest first."""
        return tuple(self._connections)

    # The network

    def stall(self) -> None:
        """Hold what either end sends on every connection, until :meth:`resume`."""
        for connection in self.connections:
            connection.stall()

    def resume(self) -> None:
        """Deliver what :meth:`stall` held."""
        for connection in self.connections:
            connection.resume()

    def cut(self) -> None:
        """Break all connections, and refuse new ones until :meth:`restore`."""
        self._is_cut = True
        for connection in self.connections:
            connection.cut()

    def restore(self) -> None:
        """Accept connections again."""
        self._is_cut = False

    # The hub

    def restart(self) -> None:
        """Break all connections, and become another hub, which knows nothing of the one before."""
        for connection in self.connections:
            connection.cut()
        self._server = self._make_server()

    def drop_next(self, messages: int) -> None:
        """Drop messages for each session, as the hub does when the session's queue is full.

        :param messages: how many of each session's next messages to drop
        :raises ValueError: if it is negative
        """
        if messages < 0:
            raise ValueError(f"there are no {messages} messages to drop")
        self._server.drop_next(messages)

    # Time

    def freeze_clock(self) -> None:
        """Stop the clock of the hub and its clients: no heartbeat is sent and none is missed."""
        self._clock.freeze()

    def thaw_clock(self) -> None:
        """Let the clock go on from where it stopped."""
        self._clock.thaw()

    def advance_clock(self, seconds: float) -> None:
        """Move the clock forward at once.

        The hub forgets channels that had no subscriber for ``limits.keep_time``, and heartbeats
        are due. A healthy connection survives half of ``limits.heartbeat`` at a time.

        :param seconds: how far
        :raises ValueError: if it is negative: no clock goes backwards
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back by {-seconds} seconds")
        self._clock.advance(seconds)
        self.broker.tick(self._clock.now())

    # For clients

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[ByteStream]:
        """Connect, as :func:`hyps.connect` does."""
        if self._is_cut:
            raise ConnectionRefused(f"no hub at {self.url}: it is cut off")
        connection = MemoryConnection(self._clock)
        self._connections[connection] = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._server.handle, connection.hub_end)
                yield connection.client_end
                # The client has closed its end. On a stalled connection the hub would never see it.
                if connection.is_stalled:
                    connection.cut()
        finally:
            del self._connections[connection]
