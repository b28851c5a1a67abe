"""The hub: accepts connections and runs a session for each."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute, TaskStatus
from anyio.streams.stapled import MultiListener

from . import _sockets, _tls
from ._clock import clock_of
from ._engine import Engine
from ._pump import Pump
from ._sockets import Transport
from ._transport import DEFAULT_HOST, DEFAULT_PORT, TCPAddress, UnixAddress, listen
from ._version import __version__
from .protocol import (
    Broker,
    ErrorCode,
    Hello,
    Limits,
    PeerError,
    RemoteProtocolError,
    ServerProtocol,
    State,
)

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from anyio.abc import ByteStream, SocketListener

    from .protocol import ClientEvent, ServerEvent

logger = logging.getLogger("hyps.server")

#: At what rate clients are asked to come back when a hub leaves.
_RECONNECTS_PER_SECOND: Final = 1_000


class Server(anyio.AsyncContextManagerMixin):
    """A hub. It listens while it is entered.

    :param host: name or address of an interface
    :param port: 0 for one that is free, see :attr:`urls`
    :param uds: path of a Unix socket to listen at, instead of host and port
    :param token: what clients must know; None lets everybody in
    :param ssl_context: for TLS, with the hub's certificate. For clients over HTTP/2 it must offer
        that: ``ssl_context.set_alpn_protocols(["h2"])``.
    :param limits: the bounds of the hub
    :raises CannotListen: on entering, if the address is in use or is not of this machine
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        uds: str | os.PathLike[str] | None = None,
        token: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        if token == "":
            raise ValueError("an empty token would let everybody in")
        try:
            self._token = None if token is None else token.encode()
        except UnicodeEncodeError:
            raise ValueError("the token has no UTF-8 form") from None
        if not 0 <= port <= 65_535:
            raise ValueError(f"port must be between 0 and 65535, not {port}")
        self._address: TCPAddress | UnixAddress
        if uds is None:
            self._address = TCPAddress(host, port, "hyps" if ssl_context is None else "hypss")
        elif ssl_context is None:
            self._address = UnixAddress(os.path.abspath(uds))
        else:
            raise ValueError("there is no TLS over Unix sockets")
        self._ssl_context = ssl_context
        self._broker = Broker(secrets.token_hex(6), limits)
        self._pumps: set[Pump[ServerProtocol]] = set()
        self._accepted = 0
        self._is_leaving = False
        self._all_left: anyio.Event | None = None
        self._urls: tuple[str, ...] = ()
        self._socket_id: tuple[int, int] | None = None

    @property
    def broker(self) -> Broker:
        """The channels, the sessions, and what was published, delivered and missed."""
        return self._broker

    @property
    def urls(self) -> tuple[str, ...]:
        """What clients connect to; empty until the server listens."""
        return self._urls

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Server]:
        self._is_leaving = False
        listeners = await listen(self._address)
        if isinstance(self._address, UnixAddress):
            self._socket_id = _file_id(self._address.path)
        self._urls = tuple(str(self._bound_address(listener)) for listener in listeners)
        try:
            async with MultiListener(listeners), Engine() as engine:
                engine.start_soon(self._forget_channels)
                for listener in listeners:
                    engine.start_soon(self._accept, listener, engine)
                try:
                    yield self
                finally:
                    await self._leave(listeners)
        finally:
            self._remove_socket()

    async def _forget_channels(self) -> None:
        """Let the broker forget the channels that nobody has held for long enough."""
        while True:
            now = anyio.current_time()
            delay = min(self._broker.tick(now) - now, self._broker.limits.keep_time)
            await anyio.sleep(delay)

    def _bound_address(self, listener: SocketListener) -> TCPAddress | UnixAddress:
        if isinstance(self._address, UnixAddress):
            return self._address
        address = listener.extra(SocketAttribute.local_address)
        assert isinstance(address, tuple)
        return replace(self._address, host=address[0], port=address[1])

    def _remove_socket(self) -> None:
        """Remove the Unix socket's file, unless it is another server's by now."""
        if isinstance(self._address, UnixAddress) and self._socket_id is not None:
            if _file_id(self._address.path) == self._socket_id:
                os.unlink(self._address.path)
            self._socket_id = None

    async def _leave(self, listeners: Sequence[SocketListener]) -> None:
        """Stop accepting, and give the sessions their time to end."""
        self._is_leaving = True
        self._remove_socket()
        # Not all at once: the hub that they go to should not have to open all sessions in the same
        # moment.
        for number, pump in enumerate(self._pumps):
            pump.protocol.go_away("the hub is shutting down", number / _RECONNECTS_PER_SECOND)
        try:
            # Shielded, as being cancelled is how a server is usually told to leave.
            with anyio.move_on_after(self._broker.limits.close_timeout, shield=True):
                for listener in listeners:
                    await _sockets.close(listener)
                if self._pumps:
                    self._all_left = anyio.Event()
                    await self._all_left.wait()
        finally:
            # Also when asyncio itself cancels the task, which no shield prevents.
            self._all_left = None
            for pump in self._pumps:
                pump.abort()

    async def _accept(self, listener: SocketListener, engine: Engine) -> None:
        while True:
            try:
                raw = await _sockets.accept(listener)
            except anyio.ClosedResourceError:
                return
            except OSError as error:
                # Most likely out of file descriptors: one session must end first.
                logger.warning("cannot accept a connection: %s", error)
                await anyio.sleep(0.1)
            else:
                engine.start_soon(self._welcome, raw, engine)

    async def _welcome(self, raw: socket.socket, engine: Engine) -> None:
        try:
            transport = await _sockets.adopt(raw)
        except OSError:
            return
        stream = transport.stream
        try:
            if self._ssl_context is not None:
                transport = Transport(await self._wrap(stream, self._ssl_context))
            # One that was accepted while the server was left would be missed by the goodbyes.
            if not self._is_leaving:
                # Shielded: when the server is cancelled its sessions have time to end.
                await self._serve_session(transport, engine, shield=True)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            # TimeoutError is an OSError too.
            why = str(error) or repr(error)
            logger.warning("%s: refused (tls): %s", _peer(stream), why)
        except Exception:
            # A defect of the hub. It must not end the others.
            logger.exception("internal error")
        finally:
            await anyio.aclose_forcefully(stream)

    async def _wrap(self, stream: ByteStream, ssl_context: ssl.SSLContext) -> ByteStream:
        with anyio.fail_after(self._broker.limits.hello_timeout):
            return await _tls.wrap(stream, ssl_context, server_side=True)

    async def handle(self, stream: ByteStream) -> None:
        """Serve one connection over any byte stream, and close it.

        :param stream: what a client is at the other end of
        """
        async with Engine(clock_of(stream)) as engine:
            await self._serve_session(Transport(stream), engine, shield=False)

    async def _serve_session(self, transport: Transport, engine: Engine, *, shield: bool) -> None:
        self._accepted += 1
        name = str(self._accepted)
        pump = Pump(
            transport,
            engine,
            lambda on_output: ServerProtocol(
                self._broker,
                session=name,
                server=f"hyps-py/{__version__}",
                on_output=on_output,
            ),
            shield=shield,
        )
        session = _Session(pump.protocol, f"{name} ({_peer(transport.stream)})", self._token)
        self._pumps.add(pump)
        try:
            await pump.run(session.on_event, session.on_violation)
        except Exception:
            # A defect of the hub. It ends this session and must not end the others.
            logger.exception("session %s: internal error", session.name)
        finally:
            pump.protocol.close()
            pump.protocol.discard()
            # For servers that are not entered, of which nobody else tells the time.
            self._broker.tick(engine.clock.now())
            self._pumps.discard(pump)
            session.log_end()
            if self._all_left is not None and not self._pumps:
                self._all_left.set()


class _Session:
    """What the hub decides, and logs, about one connection."""

    __slots__ = ("_protocol", "_token", "name")

    def __init__(self, protocol: ServerProtocol, name: str, token: bytes | None) -> None:
        self.name = name
        self._protocol = protocol
        self._token = token
        if protocol.state is State.CLOSED:
            logger.warning("session %s: refused (limit): there are as many as may be", name)
        else:
            logger.debug("session %s: connected", name)

    def on_event(self, event: ClientEvent | ServerEvent) -> None:
        if isinstance(event, Hello):
            self._on_hello(event)
        elif isinstance(event, PeerError):
            logger.info("session %s: the client gave up: %s", self.name, event)

    def _on_hello(self, hello: Hello) -> None:
        if self._token is None or hmac.compare_digest((hello.token or "").encode(), self._token):
            logger.debug("session %s: client %r", self.name, hello.client)
            self._protocol.accept()
        else:
            why = "a token is required" if hello.token is None else "the token is wrong"
            logger.warning("session %s: refused: %s", self.name, why)
            self._protocol.refuse(why, ErrorCode.AUTH)

    def on_violation(self, error: RemoteProtocolError) -> None:
        logger.warning("session %s: refused (%s): %s", self.name, error.code, error)

    def log_end(self) -> None:
        missed = self._protocol.missed
        if missed:
            logger.info("session %s: missed %d messages", self.name, missed)
        logger.debug("session %s: ended", self.name)


def _peer(stream: ByteStream) -> str:
    try:
        address = stream.extra(SocketAttribute.remote_address, None)
    except Exception:
        # Of a connection that was reset already, uvloop has no socket, which AnyIO does not expect.
        return "gone already"
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return "local"


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


async def serve(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    uds: str | os.PathLike[str] | None = None,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run a hub until cancelled.

    :param host: name or address of an interface
    :param port: 0 for one that is free
    :param uds: path of a Unix socket to listen at, instead of host and port
    :param token: what clients must know; None lets everybody in
    :param ssl_context: for TLS, see :class:`Server`
    :param limits: the bounds of the hub
    :param task_status: for ``task_group.start()``, which returns the :class:`Server`
    :raises CannotListen: if the address is in use or is not of this machine
    """
    server = Server(host, port, uds=uds, token=token, ssl_context=ssl_context, limits=limits)
    async with server:
        task_status.started(server)
        await anyio.sleep_forever()
