"""Hubs in memory: ``memory://name`` is one hub per name and event loop, with no socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol, cast

import anyio
from anyio.lowlevel import RunVar
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteSendStream, ByteStream
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from ._server import Server

#: Sends that are under way in one direction: as with a socket's buffer, a few.
_BUFFERED_SENDS: Final = 4


class StandIn(Protocol):
    """A hub that is reached by name, in the place of the usual one."""

    def dial(self) -> AbstractAsyncContextManager[ByteStream]:
        """Connect to it."""
        ...


#: By their names; made by tests, see :mod:`hyps.testing`.
stand_ins: dict[str, StandIn] = {}


class _MemoryHub:
    def __init__(self) -> None:
        from ._server import Server

        self.server: Server = Server()
        self.clients = 0


_hubs: RunVar[dict[str, _MemoryHub]] = RunVar("hyps_memory_hubs")


class MemoryStream(StapledByteStream):
    """One end of a connection in memory."""

    send_stream: ByteSendStream
    receive_stream: BufferedByteReceiveStream

    def abort(self) -> None:
        """Close, without waiting; who waits at either end is told."""
        cast("MemoryObjectSendStream[bytes]", self.send_stream).close()
        cast("MemoryObjectReceiveStream[bytes]", self.receive_stream.receive_stream).close()


def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    """Make both ends of a connection in memory."""
    up_send, up_receive = anyio.create_memory_object_stream[bytes](_BUFFERED_SENDS)
    down_send, down_receive = anyio.create_memory_object_stream[bytes](_BUFFERED_SENDS)
    # An object stream of bytes sends bytes, whatever its type is called.
    return (
        MemoryStream(cast("ByteSendStream", up_send), BufferedByteReceiveStream(down_receive)),
        MemoryStream(cast("ByteSendStream", down_send), BufferedByteReceiveStream(up_receive)),
    )


@asynccontextmanager
async def dial_memory(name: str) -> AsyncIterator[ByteStream]:
    """Connect to a hub in memory: the first client makes it, the last one removes it."""
    if name in stand_ins:
        async with stand_ins[name].dial() as stream:
            yield stream
        return
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
