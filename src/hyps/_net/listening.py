"""From an address to a listener: TCP and Unix sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio.abc import SocketListener

from .._errors import CannotListen
from .addresses import TCPAddress, UnixAddress
from .sockets import reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Windows has no Unix sockets.
_UNIX: Final[int | None] = getattr(socket, "AF_UNIX", None)


async def listen(
    address: TCPAddress | UnixAddress, mode: int | None = None
) -> Sequence[SocketListener]:
    """Listen.

    :param mode: permissions of a Unix socket; None leaves it to the umask
    :raises CannotListen: if the address is in use or is not this machine's
    """
    try:
        if isinstance(address, UnixAddress):
            await _remove_stale_socket(address.path)
            # It gets its mode before it listens: nobody can have connected.
            return [await anyio.create_unix_listener(address.path, mode=mode)]
        multi = await anyio.create_tcp_listener(local_host=address.host, local_port=address.port)
        # Typed as listeners of anything by AnyIO.
        return cast("Sequence[SocketListener]", multi.listeners)
    except UnicodeError as error:
        raise CannotListen(f"cannot listen at {address}: that is no name of a host") from error
    except OSError as error:
        raise CannotListen(f"cannot listen at {address}: {reason_of(error)}") from error


def check_listening(sockets: Sequence[socket.socket], *, tls: bool) -> None:
    """Check that a hub can listen at sockets.

    :param tls: whether it is for TLS, or for something else that Unix sockets have not
    :raises TypeError: if there is another thing among them
    :raises ValueError: if it cannot
    """
    if not sockets:
        raise ValueError("there are no sockets")
    for raw in sockets:
        if not isinstance(raw, socket.socket):
            raise TypeError(f"expected a socket.socket, not {raw!r}")
        if raw.fileno() < 0:
            raise ValueError("the socket is closed")
        if raw.family not in (socket.AF_INET, socket.AF_INET6, _UNIX):
            raise ValueError(f"the socket is neither TCP nor Unix: {raw!r}")
        if raw.type != socket.SOCK_STREAM:
            raise ValueError(f"the socket is not one of streams: {raw!r}")
        if tls and raw.family == _UNIX:
            raise ValueError("it must be a TCP socket, and this is a Unix socket")
        if not _is_listening(raw):
            raise ValueError(f"the socket does not listen: {raw!r}")


def _is_listening(raw: socket.socket) -> bool:
    try:
        return bool(raw.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return True  # this system does not tell


async def listen_at(sockets: Sequence[socket.socket]) -> Sequence[SocketListener]:
    """Take over sockets that listen already.

    :raises CannotListen: if one is closed
    """
    try:
        return [await SocketListener.from_socket(raw) for raw in sockets]
    except (OSError, ValueError) as error:
        for raw in sockets:
            raw.close()
        raise CannotListen(f"cannot listen at the sockets: {error}") from error


def address_of(raw: socket.socket, scheme: str) -> TCPAddress | UnixAddress:
    """Tell the address at which a socket listens.

    :param scheme: of the URL, if it is TCP
    """
    name = raw.getsockname()
    if isinstance(name, tuple):
        return TCPAddress(name[0], name[1], scheme)
    # An address in Linux's abstract namespace comes as bytes, the first one a zero.
    return UnixAddress(os.fsdecode(name) if isinstance(name, bytes) else os.path.abspath(name))


async def _remove_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens at; AnyIO would remove any."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise CannotListen(f"cannot listen at {path}: the file exists and is no socket")
        stream = await anyio.connect_unix(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    await stream.aclose()
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
