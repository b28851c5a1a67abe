"""The function that runs a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .._net.addresses import DEFAULT_HOST, DEFAULT_PORT
from .server import Server

if TYPE_CHECKING:
    import os
    import socket
    import ssl
    from collections.abc import Iterable

    from anyio.abc import TaskStatus

    from ..protocol import Limits
    from .identity import Authenticate


async def serve(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    uds: str | os.PathLike[str] | None = None,
    uds_mode: int | None = None,
    sockets: Iterable[socket.socket] | None = None,
    token: str | None = None,
    authenticate: Authenticate | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run a hub until cancelled.

    :param host: name or address of an interface
    :param port: a port number; 0 for any free one
    :param uds: path of a Unix socket to listen on, instead of host and port
    :param uds_mode: permissions of the Unix socket, see :class:`Server`
    :param sockets: listen at these instead, see :class:`Server`
    :param token: the token that clients must present; None lets everybody in
    :param authenticate: decides instead who a client is, see :class:`Server`
    :param ssl_context: for TLS, see :class:`Server`
    :param limits: the bounds of the hub
    :param task_status: for ``task_group.start()``, which returns the :class:`Server`
    :raises CannotListen: if the address is in use or does not belong to this machine
    """
    server = Server(
        host,
        port,
        uds=uds,
        uds_mode=uds_mode,
        sockets=sockets,
        token=token,
        authenticate=authenticate,
        ssl_context=ssl_context,
        limits=limits,
    )
    async with server:
        task_status.started(server)
        await anyio.sleep_forever()
