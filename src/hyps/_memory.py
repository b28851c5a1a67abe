"""Hubs in memory: ``memory://name`` is one hub per name and event loop, with no socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio.lowlevel import RunVar
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteSendStream, ByteStream

    from ._server import Server

#: Sends that are under way in one direction: as with a socket's buffer, a few.
_BUFFERED_SENDS: Final = 4


class _MemoryHub:
    def __init__(self) -> None:
        from ._server import Server

        self.server: Server = Server()
        self.clients = 0


_hubs: RunVar[dict[str, _MemoryHub]] = RunVar("hyps_memory_hubs")


def memory_pair() -> tuple[ByteStream, ByteStream]:
    """Make both ends of a connection in memory."""
    up_send, up_receive = anyio.create_memory_object_stream[bytes](_BUFFERED_SENDS)
    down_send, down_receive = anyio.create_memory_object_stream[bytes](_BUFFERED_SENDS)
    # An object stream of bytes sends bytes, whatever its type is called.
    return (
        StapledByteStream(cast("ByteSendStream", up_send), BufferedByteReceiveStream(down_receive)),
        StapledByteStream(cast("ByteSendStream", down_send), BufferedByteReceiveStream(up_receive)),
    )


@asynccontextmanager
async def dial_memory(name: str) -> AsyncIterator[ByteStream]:
    """Connect to a hub in memory: the first client makes it, the last one removes it."""
    try:
        hubs = _hubs.get()
    except LookupError:
        hubs = {}
        _hubs.set(hubs)
    hub = hubs.setdefault(name, _MemoryHub())
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
