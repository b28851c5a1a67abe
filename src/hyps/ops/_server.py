"""The HTTP server beside a hub."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute

from .._logs import Log
from .._net import sockets as _sockets
from .._net.addresses import parse_host_and_port
from .._net.listening import address_of, check_listening, listen, listen_at
from .._server.strangers import Strangers
from ._connection import Connection
from ._site import Site

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from anyio.abc import SocketListener, TaskGroup, TaskStatus

    from .._server.server import Server

#: Seconds between two lines about connections that were closed to make room.
_TELL_CLOSED: Final = 60.0


class HTTPServer(anyio.AsyncContextManagerMixin):
    """Serves a hub's health, metrics and tables, and takes messages, over HTTP/1.1.

    Enter it before the hub, so that it still says how the hub is while that shuts down::

        server = hyps.Server()
        async with HTTPServer(server, ":8788"), server:
            ...

    :param server: the hub
    :param address: ``"host:port"``, or ``":port"`` for requests of this machine alone; port 0 for
        any free one
    :param sockets: TCP sockets that listen already, instead of an address
    :param max_connections: connections at a time. For a further one, the connection is closed that
        has waited longest for its client.
    :param timeout: seconds that a client has for the head of a request, for its body, and for
        reading the answer
    :raises InvalidURL: if the address is none
    :raises ValueError: if there is not one of address and sockets, or no TCP socket that listens
    :raises CannotListen: on entering, if the address is in use or does not belong to this machine
    """

    def __init__(
        self,
        server: Server,
        address: str | None = None,
        *,
        sockets: Iterable[socket.socket] | None = None,
        max_connections: int = 512,
        timeout: float = 10.0,
    ) -> None:
        if (address is None) is (sockets is None):
            raise ValueError("give one of address and sockets")
        # Clients are told apart by whether they come from this machine, so there is no TLS, and no
        # Unix socket.
        self._sockets = None if sockets is None else list(sockets)
        if self._sockets is not None:
            check_listening(self._sockets, tls=True)
        self._address = None if address is None else parse_host_and_port(address)
        self._most = max_connections
        self._timeout = timeout
        self._log = Log("hyps.ops")
        self._site = Site(server, self._log)
        self._strangers = Strangers(max_connections, max_connections)
        self._open = 0
        self._closed = 0
        self._told_at = -_TELL_CLOSED
        self._urls: tuple[str, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it listens, such as ``http://127.0.0.1:8788``; empty until it does."""
        return self._urls

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[HTTPServer]:
        if self._address is not None:
            listeners = await listen(self._address)
        else:
            listeners = await listen_at(self._sockets or [])
        bound = [listener.extra(SocketAttribute.raw_socket) for listener in listeners]
        self._urls = tuple(str(address_of(raw, "http")) for raw in bound)
        self._log.info("health, metrics and tables at %s", ", ".join(self._urls))
        error: BaseException | None = None
        scope = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._run, scope, listeners)
            try:
                yield self
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as caught:
                # Raise it outside of the task group, which would wrap it into an exception group.
                error = caught
            finally:
                scope.cancel()
                self._tell_closed(anyio.current_time() + _TELL_CLOSED)
        if error is not None:
            raise error

    async def _run(
        self,
        scope: anyio.CancelScope,
        listeners: Sequence[SocketListener],
        *,
        task_status: TaskStatus[None],
    ) -> None:
        # Shielded, because cancellation is the usual way to shut the hub down, and somebody may
        # want to know meanwhile whether it is ready.
        with scope:
            try:
                async with anyio.create_task_group() as tasks:
                    for listener in listeners:
                        tasks.start_soon(self._accept, listener, tasks)
                    for watch in (self._site.delay.watch, self._site.rates.watch):
                        tasks.start_soon(self._keep_up, watch)
                    task_status.started()
            finally:
                for listener in listeners:
                    with anyio.CancelScope(shield=True):
                        await _sockets.close(listener)

    async def _keep_up(self, watch: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await watch()
            except Exception:
                # A bug here must not end the hub.
                self._log.exception("internal error")
                await anyio.sleep(1)

    async def _accept(self, listener: SocketListener, tasks: TaskGroup) -> None:
        while True:
            try:
                raw = await _sockets.accept(listener)
            except OSError as error:
                self._log.warning("cannot accept a connection: %s", error)
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._strangers.close_oldest()
                await anyio.sleep(0.1)
            else:
                tasks.start_soon(self._serve, raw)

    async def _serve(self, raw: socket.socket) -> None:
        if self._open >= self._most:
            self._closed += 1
            self._tell_closed(anyio.current_time())
            if self._strangers.close_oldest() is None:
                # All others are being answered.
                raw.close()
                return
        self._open += 1
        try:
            host = str(raw.getpeername()[0])
            stream = (await _sockets.adopt(raw)).stream
            try:
                connection = Connection(stream, host, self._strangers, self._timeout)
                await connection.run(self._site.answer)
            finally:
                await anyio.aclose_forcefully(stream)
        except OSError:
            # It is gone already.
            raw.close()
        except Exception:
            # A bug here must not end the other connections, nor the hub.
            self._log.exception("internal error")
        finally:
            self._open -= 1

    def _tell_closed(self, now: float) -> None:
        if self._closed and now - self._told_at >= _TELL_CLOSED:
            self._log.warning(
                "closed %d connections to make room: there may be %d", self._closed, self._most
            )
            self._closed = 0
            self._told_at = now
