"""Connections in memory: two byte streams, and no socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

#: Sends that are under way in one direction: as with a socket's buffer, a few.
_BUFFERED_SENDS: Final = 4


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
