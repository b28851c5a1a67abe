"""Streams, and the sockets below them, which can send without waiting."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from anyio.abc import SocketAttribute, SocketStream, UNIXSocketStream
from anyio.lowlevel import checkpoint

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.abc import ByteStream, SocketListener

    # There is a field of the module's name.
    _Socket = socket.socket


#: Where Linux has the smoothed round trip time, in microseconds: tcpi_rtt in ``struct tcp_info`` of
#: <linux/tcp.h>, behind 8 bytes and 15 numbers of 32 bits. The kernel only appends to the struct.
_RTT: Final = struct.Struct("=68xI")


@dataclass(frozen=True, slots=True)
class Transport:
    """The transport of a connection.

    :param stream: receives, and sends what has to wait
    :param socket: a socket of the same connection, for sending without waiting while the stream is
        not sending; None if there is none, or the stream transforms the bytes
    :param beneath: the socket below a stream that transforms the bytes, if there is one
    """

    stream: ByteStream
    socket: socket.socket | None = None
    beneath: _Socket | None = None

    def cut(self) -> None:
        """Shut the connection down without the event loop."""
        raw = self.socket or self.beneath
        if raw is not None:
            with suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    def round_trip(self) -> float | None:
        """Ask the operating system how long a packet and its acknowledgement take.

        :return: seconds, or None if the system does not tell or this is no TCP
        """
        if sys.platform != "linux":
            return None
        try:
            raw = self._raw()
            if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
            [microseconds] = _RTT.unpack(info)
        except Exception:
            # As below; or the answer is shorter.
            return None
        return microseconds / 1e6 if microseconds else None

    def _raw(self) -> _Socket | None:
        return self.socket or self.stream.extra(SocketAttribute.raw_socket, None)

    def count_unsent(self) -> int | None:
        """Count the bytes that the operating system holds and the peer has not acknowledged.

        :return: the number, or None if the system does not tell
        """
        if fcntl is None:
            return None
        try:
            raw = self._raw()
            if raw is None:
                return None
            # For sockets this request is SIOCOUTQ, see tcp(7) and unix(7).
            answer = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4))
        except Exception:
            # An OSError; or uvloop has dropped the socket of a connection that was reset.
            return None
        return int.from_bytes(answer, sys.byteorder)


async def accept(listener: SocketListener) -> socket.socket:
    """Wait for a connection.

    :raises ClosedResourceError: if the listener is closed, see :func:`close`
    """
    raw = listener.extra(SocketAttribute.raw_socket)
    # Let sessions run during a flood of connections. Do it before accepting: a cancellation here
    # must not lose a connection.
    await checkpoint()
    while True:
        if raw.fileno() < 0:
            raise anyio.ClosedResourceError
        with suppress(BlockingIOError):
            return raw.accept()[0]
        await anyio.wait_readable(raw)


async def close(listener: SocketListener) -> None:
    """Close a listener, and end :func:`accept`."""
    raw = listener.extra(SocketAttribute.raw_socket)
    if raw.fileno() >= 0:
        anyio.notify_closing(raw)
        # Without waiting in between: uvloop aborts the process if a socket is closed that it polls.
        raw.close()
    await listener.aclose()


async def adopt(raw: socket.socket) -> Transport:
    """Make a stream of an accepted connection.

    The stream owns the socket object and closes it. Sending on it afterwards is an error, while a
    bare descriptor could belong to another connection by then.

    :raises OSError: if the connection is already gone
    """
    try:
        if raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Transport(_paused(await SocketStream.from_socket(raw)), raw)
        return Transport(_paused(await UNIXSocketStream.from_socket(raw)), raw)
    except ValueError as error:
        raw.close()
        raise ConnectionResetError(str(error)) from error
    except BaseException:
        raw.close()
        raise


_Stream = TypeVar("_Stream", bound=SocketStream)


def _paused(stream: _Stream) -> _Stream:
    """Let the transport read only while somebody waits for bytes.

    AnyIO does so with streams that it connects, and forgets it with those that it wraps: whoever
    sends faster than is read would fill the memory.
    """
    transport = getattr(stream, "_transport", None)
    if transport is not None and not transport.is_closing():
        transport.pause_reading()
    return stream


@contextmanager
def duplicated(stream: SocketStream) -> Iterator[Transport]:
    """Add a socket of its own to a stream, for the same connection."""
    try:
        raw = stream.extra(SocketAttribute.raw_socket)
        twin = socket.fromfd(raw.fileno(), raw.family, raw.type)
    except Exception:
        # uvloop drops the socket of a connection that was reset, which AnyIO does not expect.
        yield Transport(stream)
        return
    with twin:
        twin.setblocking(False)
        yield Transport(stream, twin)


def peer_of(stream: ByteStream) -> tuple[str, str]:
    """Return the address of a stream's other end, and its name in the log."""
    try:
        address = stream.extra(SocketAttribute.remote_address, None)
    except Exception:
        # uvloop drops the socket of a connection that was reset, which AnyIO does not expect.
        return "", "gone already"
    if isinstance(address, tuple):
        return str(address[0]), f"{address[0]}:{address[1]}"
    return "", "local"


def reason_of(error: OSError) -> str:
    """Say why a connection or a listener could not be had, in the system's words."""
    # AnyIO tries all addresses of a name, and keeps what happened at each in the cause.
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError):
        error = cause
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', None) or error.reason or error}"
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return (text or str(error)).lower()
