"""Hubs in memory: ``memory://name`` is one hub per name and event loop, with no socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.lowlevel import RunVar

from .._net.memory import memory_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteStream

    from .server import Server


class NamedHub(Protocol):
    """A hub that is reached by name."""

    def dial(self) -> AbstractAsyncContextManager[ByteStream]:
        """Connect to it."""
        ...


#: Hubs that exist by name before a client connects, such as those of :mod:`hyps.testing`. Any other
#: name stands for a hub that its first client makes.
named_hubs: dict[str, NamedHub] = {}


class _SharedHub:
    """A hub for as long as it has clients."""

    def __init__(self) -> None:
        # Most clients never use one, and need not import the server.
        from .server import Server

        self.server: Server = Server()
        self.clients = 0


_shared_hubs: RunVar[dict[str, _SharedHub]] = RunVar("hyps_memory_hubs")


@asynccontextmanager
async def dial_memory(name: str) -> AsyncIterator[ByteStream]:
    """Connect to a hub in memory. Its first client makes it, and its last one removes it."""
    if name in named_hubs:
        async with named_hubs[name].dial() as stream:
            yield stream
        return
    try:
        hubs = _shared_hubs.get()
    except LookupError:
        hubs = {}
        _shared_hubs.set(hubs)
    hub = hubs.setdefault(name, _SharedHub())
    hub.clients += 1
    client_end, server_end = memory_pair()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.server.handle, server_end)
            yield client_end
    finally:
        hub.clients -= 1
        if not hub.clients:
            del hubs[name]
