"""Streams, and the sockets below them on which can be sent without waiting."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True)
class Transport:
    """What a connection's bytes go over.

    :param stream: receives, and sends what has to wait
    :param socket: the same connection's, which sends what goes at once, while the stream is not
        sending. None if there is no socket, or the stream does more than to pass bytes on.
    :param beneath: the socket that such a stream's bytes go over in the end, if it is the caller's
    """

    stream: ByteStream
    socket: socket.socket | None = None
    beneath: _Socket | None = None

    def cut(self) -> None:
        """End the connection without the event loop."""
        raw = self.socket or self.beneath
        if raw is not None:
            with suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    def count_unsent(self) -> int | None:
        """Count the bytes that the operating system holds and the peer has not acknowledged.

        :return: None where that cannot be told
        """
        if fcntl is None:
            return None
        try:
            raw = self.socket or self.stream.extra(SocketAttribute.raw_socket, None)
            if raw is None:
                return None
            # For sockets it is SIOCOUTQ, see tcp(7) and unix(7).
            answer = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4))
        except Exception:
            # OSError, and of a connection that was reset uvloop has no socket.
            return None
        return int.from_bytes(answer, sys.byteorder)


async def accept(listener: SocketListener) -> socket.socket:
    """Wait for a connection.

    :raises ClosedResourceError: if the listener is closed, see :func:`close`
    """
    raw = listener.extra(SocketAttribute.raw_socket)
    # Before, as a connection that was accepted would be lost: a flood of them is not to keep the
    # sessions waiting.
    await checkpoint()
    while True:
        if raw.fileno() < 0:
            raise anyio.ClosedResourceError
        with suppress(BlockingIOError):
            return raw.accept()[0]
        await anyio.wait_readable(raw)


async def close(listener: SocketListener) -> None:
    """Close a listener, and tell :func:`accept`."""
    raw = listener.extra(SocketAttribute.raw_socket)
    if raw.fileno() >= 0:
        anyio.notify_closing(raw)
        # In one go: a closed socket that is waited for makes uvloop abort the process.
        raw.close()
    await listener.aclose()


async def adopt(raw: socket.socket) -> Transport:
    """Make a stream of a connection that was accepted.

    The stream closes the socket, so that what is sent on it from then on is an error and never
    another connection's: a descriptor's number alone would not tell.

    :raises OSError: if the connection is gone already
    """
    try:
        if raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Transport(await SocketStream.from_socket(raw), raw)
        return Transport(await UNIXSocketStream.from_socket(raw), raw)
    except ValueError as error:
        raw.close()
        raise ConnectionResetError(str(error)) from error
    except BaseException:
        raw.close()
        raise


@contextmanager
def duplicated(stream: SocketStream) -> Iterator[Transport]:
    """Give a stream with a socket of its own to the same connection."""
    try:
        raw = stream.extra(SocketAttribute.raw_socket)
        twin = socket.fromfd(raw.fileno(), raw.family, raw.type)
    except Exception:
        # Of a connection that was reset already uvloop has no socket, which AnyIO does not expect.
        yield Transport(stream)
        return
    with twin:
        twin.setblocking(False)
        yield Transport(stream, twin)


def reason_of(error: OSError) -> str:
    """Say why a connection or a listener could not be had, in the system's words."""
    # AnyIO tries all addresses of a name, and hides what happened at each in the cause.
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError):
        error = cause
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', None) or error.reason or error}"
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return (text or str(error)).lower()
