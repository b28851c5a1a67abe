"""From an address to a listener: TCP and Unix sockets."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, cast

import anyio

from .._errors import CannotListen
from .addresses import UnixAddress
from .sockets import reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import SocketListener

    from .addresses import TCPAddress


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
