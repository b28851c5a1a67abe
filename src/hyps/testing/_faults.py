"""Faults on demand: connections in memory that stall and break, and a clock that stops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream

from .._net.clock import ClockAttribute
from .._net.memory import memory_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class FaultyClock:
    """A clock that follows the event loop's until a test freezes or advances it."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._frozen_at: float | None = None
        # One event for each sleeper, because an event belongs to one event loop.
        self._sleepers: set[anyio.Event] = set()

    def now(self) -> float:
        if self._frozen_at is not None:
            return self._frozen_at
        return anyio.current_time() + self._ahead

    async def sleep_until(self, deadline: float) -> None:
        while (left := deadline - self.now()) > 0:
            moved = anyio.Event()
            self._sleepers.add(moved)
            try:
                with anyio.move_on_after(math.inf if self._frozen_at is not None else left):
                    await moved.wait()
            finally:
                self._sleepers.discard(moved)

    def freeze(self) -> None:
        if self._frozen_at is None:
            self._frozen_at = self.now()
            self._wake()

    def thaw(self) -> None:
        if self._frozen_at is not None:
            self._ahead = self._frozen_at - anyio.current_time()
            self._frozen_at = None
            self._wake()

    def advance(self, seconds: float) -> None:
        if self._frozen_at is not None:
            self._frozen_at += seconds
        else:
            self._ahead += seconds
        self._wake()

    def _wake(self) -> None:
        for moved in self._sleepers:
            moved.set()


class MemoryConnection:
    """One client's connection to a :class:`MemoryHub`."""

    def __init__(self, clock: FaultyClock) -> None:
        client, hub = memory_pair()
        self._ends = (client, hub)
        self._flowing = anyio.Event()
        self._flowing.set()
        self.is_cut: bool = False
        self.client_end: ByteStream = _FaultyStream(client, self, clock)
        self.hub_end: ByteStream = _FaultyStream(hub, self, clock)

    @property
    def is_stalled(self) -> bool:
        """Whether :meth:`stall` holds it."""
        return not self._flowing.is_set()

    def stall(self) -> None:
        """Hold what either end sends, like a network that is down for a while."""
        if not self.is_cut:
            self._flowing = anyio.Event()

    def resume(self) -> None:
        """Deliver what :meth:`stall` held."""
        self._flowing.set()

    def cut(self) -> None:
        """Break the connection. What is on its way is lost."""
        self.is_cut = True
        for end in self._ends:
            end.abort()
        self._flowing.set()

    async def pass_through(self) -> None:
        """Wait while the connection is stalled.

        :raises anyio.BrokenResourceError: if it is cut
        """
        while not self._flowing.is_set():
            await self._flowing.wait()
        if self.is_cut:
            raise anyio.BrokenResourceError("it was cut")


class _FaultyStream(ByteStream):
    """One end of a connection.

    :param inner: the stream that moves the bytes
    :param connection: the connection, which decides on faults
    """

    def __init__(self, inner: ByteStream, connection: MemoryConnection, clock: FaultyClock) -> None:
        self._inner = inner
        self._connection = connection
        self._clock = clock

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {ClockAttribute.clock: lambda: self._clock}

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        try:
            return await self._inner.receive(max_bytes)
        finally:
            # A stalled connection holds data and the end of the stream alike.
            await self._connection.pass_through()

    async def send(self, item: bytes) -> None:
        await self._connection.pass_through()
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()
