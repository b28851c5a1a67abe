"""The hub: accepts connections and runs a session for each."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import anyio
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSAttribute

from .._errors import AuthenticationFailed
from .._logs import Log
from .._net import sockets as _sockets
from .._net import tls as _tls
from .._net.addresses import DEFAULT_HOST, DEFAULT_PORT, TCPAddress, UnixAddress
from .._net.backend import loop_name
from .._net.clock import clock_of
from .._net.engine import Engine
from .._net.listening import address_of, check_listening, listen, listen_at
from .._net.pump import Pump
from .._net.sockets import Transport
from .._version import __version__
from ..protocol import FEATURES, Broker, ErrorCode, Limits, ServerProtocol
from ..protocol._wire.registry import load_wires
from .audit import Audit
from .census import Census
from .gate import CannotAuthenticate, Gate, Refused
from .session import Session
from .strangers import Stranger, Strangers

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterable, Sequence

    from anyio.abc import ByteStream, SocketListener

    from .identity import Authenticate, Credentials, Grants

#: A hub that shuts down asks its clients to come back at this rate.
_RECONNECTS_PER_SECOND: Final = 1_000

#: The log says at least this often, in seconds, how many lines it has left out.
_TELL_OMITTED: Final = 10.0

#: How many strangers the hub closes at once when it runs out of file descriptors.
_CLOSED_AT_ONCE: Final = 16

#: So many sessions are decided on at once when the rules change.
_REVIEWS_AT_ONCE: Final = 16

#: What OpenSSL says of a client that does not begin a TLS handshake.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")


class Server(anyio.AsyncContextManagerMixin):
    """A hub, which listens while it is entered: ``async with hyps.Server() as server:``.

    :param host: name or address of an interface
    :param port: a port number; 0 for any free one, which :attr:`urls` then tells
    :param uds: path of a Unix socket to listen on, instead of host and port
    :param uds_mode: permissions of the Unix socket, such as 0o660; None leaves them to the umask
    :param sockets: listen at these instead, which listen already, TCP or Unix: what systemd or a
        parent process passes. The hub closes them when it is left. It removes no file of theirs.
    :param token: the token that clients must present; None lets everybody in
    :param authenticate: decides instead of a token who a client is, and what it may do: a function,
        async or not, that gets :class:`Credentials` and returns :class:`Grants`, or None to refuse
        the client. One that is not async runs in a thread. It has half of
        ``limits.hello_timeout``; if it takes longer or raises, the client is told to try again.
    :param ssl_context: for TLS, with the hub's certificate. For clients over HTTP/2 it must offer
        that protocol: ``ssl_context.set_alpn_protocols(["h2"])``.
    :param limits: the bounds of the hub
    :raises CannotListen: on entering, if the address is in use or does not belong to this machine
    """

    _broker_type: ClassVar[type[Broker]] = Broker
    _protocol_type: ClassVar[type[ServerProtocol]] = ServerProtocol

    def __init__(
        self,
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
    ) -> None:
        if not isinstance(port, int):
            raise TypeError(f"port must be an int, not {port!r}")
        if not 0 <= port <= 65_535:
            raise ValueError(f"port must be between 0 and 65535, not {port}")
        self._address: TCPAddress | UnixAddress
        if uds is None:
            self._address = TCPAddress(host, port, "hyps" if ssl_context is None else "hypss")
        elif ssl_context is None:
            self._address = UnixAddress(os.path.abspath(uds))
        else:
            raise ValueError("there is no TLS over Unix sockets")
        if uds_mode is not None and (uds is None or not 0 <= uds_mode <= 0o777):
            raise ValueError(
                f"uds_mode is for a Unix socket, from 0o000 to 0o777, and not {uds_mode!r}, "
                f"which is {uds_mode:#o}"
            )
        self._uds_mode = uds_mode
        self._sockets = None if sockets is None else tuple(sockets)
        if self._sockets is not None:
            if (host, port, uds) != (DEFAULT_HOST, DEFAULT_PORT, None):
                raise ValueError("give sockets, or host and port, or uds")
            check_listening(self._sockets, tls=ssl_context is not None)
        self._ssl_context = ssl_context
        self._broker = self._broker_type(secrets.token_hex(6), limits, self._on_chore)
        limits = self._broker.limits
        self._log = Log("hyps.server")
        self._audit = Audit(self._log)
        self._strangers = Strangers(limits.max_strangers, limits.max_strangers_per_address)
        # A client gives up if it gets no answer within hello_timeout.
        self._gate = Gate(token, authenticate, limits.hello_timeout / 2, self._log)
        # Wakes _keep_house(), while that waits.
        self._chore: anyio.Event | None = None
        self._sessions: set[Session] = set()
        self._pumps: set[Pump[ServerProtocol]] = set()
        self._accepted = 0
        self._census = Census()
        self._state = "new"
        self._all_left: anyio.Event | None = None
        # Where it listens.
        self._addresses: list[TCPAddress | UnixAddress] = []
        self._urls: tuple[str, ...] = ()
        self._socket_id: tuple[int, int] | None = None

    @property
    def broker(self) -> Broker:
        """Channels, sessions and counters, see :meth:`hyps.protocol.Broker.stats`."""
        return self._broker

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that clients connect to; empty until the server listens."""
        return self._urls

    @property
    def state(self) -> str:
        """Whether it takes clients: ``"ready"`` while it listens.

        It is ``"new"`` before, ``"draining"`` while it waits for its clients to leave, and then
        ``"closed"``.
        """
        return self._state

    @property
    def asks_for(self) -> Literal["nothing", "token", "certificate"]:
        """What a client must show to be let in.

        ``"token"`` also stands for whatever ``authenticate`` asks for.
        """
        if self._gate.asks:
            return "token"
        return "certificate" if _tls.wants_certificate(self._ssl_context) else "nothing"

    @property
    def census(self) -> Census:
        """What :mod:`hyps.ops` shows of connections and sessions.

        :meta private:
        """
        return self._census

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Server]:
        load_wires()
        if self._sockets is None:
            listeners = await listen(self._address, self._uds_mode)
        else:
            listeners = await listen_at(self._sockets)
        if isinstance(self._address, UnixAddress):
            self._socket_id = _file_id(self._address.path)
        self._census.start()
        addresses = [self._bound_address(listener) for listener in listeners]
        self._urls = tuple(map(str, addresses))
        self._addresses = addresses
        self._warn_if_open()
        try:
            async with MultiListener(listeners), Engine() as engine:
                engine.start_soon(self._keep_house)
                for listener in listeners:
                    engine.start_soon(self._accept, listener, engine)
                self._state = "ready"
                try:
                    yield self
                finally:
                    await self._leave(listeners)
        finally:
            self._state = "closed"
            self._remove_socket()
            self._log.tell_omitted()
            self._audit.tell_omitted()

    def _warn_if_open(self) -> None:
        """Warn if the hub lets in everybody who can reach this machine."""
        hosts = [each.host for each in self._addresses if isinstance(each, TCPAddress)]
        is_local = all(ipaddress.ip_address(host.partition("%")[0]).is_loopback for host in hosts)
        if self.asks_for == "nothing" and not is_local:
            self._log.warning(
                "everybody who reaches %s is let in: there is no token", ", ".join(self._urls)
            )

    def _on_chore(self) -> None:
        if self._chore is not None:
            self._chore.set()

    async def _keep_house(self) -> None:
        """Do the broker's chores, which belong to no session, and keep the log up to date."""
        while True:
            # The broker does not tell when the first channel loses its last subscriber.
            longest = min(self._broker.limits.keep_time, _TELL_OMITTED)
            self._chore = anyio.Event()
            now = anyio.current_time()
            try:
                delay = self._broker.tick(now) - now
            except Exception:
                # A bug in the hub must not end the sessions.
                self._log.exception("internal error")
                delay = longest
            self._log.tell_omitted()
            self._audit.tell_omitted()
            if delay <= 0:
                await checkpoint()
            else:
                with anyio.move_on_after(min(delay, longest)):
                    await self._chore.wait()

    def _bound_address(self, listener: SocketListener) -> TCPAddress | UnixAddress:
        if isinstance(self._address, UnixAddress):
            return self._address
        return address_of(listener.extra(SocketAttribute.raw_socket), self._address.scheme)

    def _remove_socket(self) -> None:
        """Remove the Unix socket's file, unless another server has replaced it."""
        if isinstance(self._address, UnixAddress) and self._socket_id is not None:
            if _file_id(self._address.path) == self._socket_id:
                os.unlink(self._address.path)
            self._socket_id = None

    async def _leave(self, listeners: Sequence[SocketListener]) -> None:
        """Stop accepting, ask all clients to leave, and give them time to do so."""
        self._state = "draining"
        if sessions := len(self._broker.sessions):
            self._log.info("shutting down: %d sessions are asked to leave", sessions)
        self._remove_socket()
        # Spread their return: the hub that they go to should not have to open all sessions at once.
        for number, pump in enumerate(self._pumps):
            pump.protocol.go_away("the hub is shutting down", number / _RECONNECTS_PER_SECOND)
        try:
            # Shielded, because cancellation is the usual way to shut a server down.
            with anyio.move_on_after(self._broker.limits.close_timeout, shield=True):
                for listener in listeners:
                    await _sockets.close(listener)
                if self._pumps:
                    self._all_left = anyio.Event()
                    await self._all_left.wait()
        finally:
            # asyncio can cancel a task in spite of AnyIO's shield. Close the connections then too.
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
                self._log.warning("cannot accept a connection: %s", error)
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    for _ in range(_CLOSED_AT_ONCE):
                        self._strangers.close_oldest()
                await anyio.sleep(0.1)
            else:
                engine.start_soon(self._welcome, raw, engine)

    async def _welcome(self, raw: socket.socket, engine: Engine) -> None:
        try:
            transport = await _sockets.adopt(raw)
        except OSError:
            return
        self._census.accepted += 1
        stream = transport.stream
        host, name = _sockets.peer_of(stream)
        scope = anyio.CancelScope()
        stranger = Stranger(host, scope.cancel)
        closed = self._strangers.enter(stranger)
        if closed is not None:
            self._census.refused["crowd"] += 1
            self._log.warning(
                "closed a connection that had not opened a session: there are too many such",
                address=closed.address,
            )
        try:
            with scope:
                if self._ssl_context is not None:
                    transport = Transport(await self._wrap(stream, self._ssl_context))
                # The goodbyes would miss a connection that is accepted during shutdown.
                if self._state == "ready":
                    # Shielded: a cancelled server still gives its sessions time to end.
                    await self._serve_session(transport, engine, stranger, name, shield=True)
        except _tls.NotBegun:
            self._log.debug("disconnected before a TLS handshake", address=name)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            # OSError includes TimeoutError.
            if isinstance(error, ssl.SSLError) and error.reason == "HTTP_REQUEST":
                self._audit.probed({"address": name})
            else:
                self._census.refused["tls"] += 1
                self._audit.refused({"address": name, "tls": True}, "tls", _why_no_tls(error))
        except Exception:
            # A bug in the hub must not end the other sessions.
            self._log.exception("internal error", address=name)
        finally:
            self._strangers.leave(stranger)
            await anyio.aclose_forcefully(stream)

    async def _wrap(self, stream: ByteStream, ssl_context: ssl.SSLContext) -> ByteStream:
        self._census.handshaking += 1
        try:
            with anyio.fail_after(self._broker.limits.hello_timeout):
                return await _tls.wrap(stream, ssl_context, server_side=True)
        finally:
            self._census.handshaking -= 1

    # What can change while the hub runs

    async def set_authentication(
        self, *, token: str | None = None, authenticate: Authenticate | None = None
    ) -> None:
        """Let clients in by other rules from now on, and decide anew on each open session.

        A client that has become unknown ends with ``auth``. One that may subscribe less gets
        nothing more, is asked to leave, and comes back for what it may have. A token that was
        replaced by another one ends no session.

        :param token: see :class:`Server`; without any argument everybody is let in
        :param authenticate: see :class:`Server`. It is asked again with what the client presented
            once, unless it has a method ``review(credentials, grants)``, async or not, which then
            decides by what the client was allowed.
        :raises ValueError: see :class:`Server`
        """
        self._gate.set_rules(token, authenticate)
        self._warn_if_open()
        reviews = iter(list(self._sessions))

        async def review_some() -> None:
            for session in reviews:
                await session.review()
                await checkpoint()

        async with anyio.create_task_group() as tasks:
            for _ in range(_REVIEWS_AT_ONCE):
                tasks.start_soon(review_some)

    def set_ssl_context(self, ssl_context: ssl.SSLContext | None) -> None:
        """Use other certificates for connections from now on. Open sessions stay.

        :param ssl_context: see :class:`Server`
        :raises ValueError: if one of the old and the new one is None: clients would need another
            URL
        """
        if (ssl_context is None) is not (self._ssl_context is None):
            raise ValueError("a hub that runs cannot begin or cease to use TLS")
        self._ssl_context = ssl_context

    def set_limits(self, limits: Limits) -> None:
        """Set other bounds. Those of single sessions hold for sessions that open from now on.

        :param limits: the bounds
        :raises ValueError: if one is another that clients rely on: ``max_message``, ``max_channel``
        """
        self._broker.set_limits(limits)
        self._strangers.set_bounds(limits.max_strangers, limits.max_strangers_per_address)
        self._gate.timeout = limits.hello_timeout / 2

    @property
    def rules(self) -> object:
        """What :meth:`admit` decides by: another object after each change.

        :meta private:
        """
        return self._gate.rules

    async def admit(self, credentials: Credentials) -> Grants:
        """Decide who a client is that comes another way than over a session.

        A refusal comes later for each address that was refused before.

        :param credentials: what it presents
        :return: what it may do
        :raises AuthenticationFailed: if it is refused, with the reason
        :raises TimeoutError: if nobody can tell now who it is; the log has the reason
        """
        who = {"address": credentials.address or "local", "client": credentials.client}
        try:
            return await self._gate.admit(credentials, who)
        except CannotAuthenticate as error:
            self._census.refused["error"] += 1
            raise TimeoutError(str(error)) from None
        except Refused as error:
            self._audit.refused(who, ErrorCode.AUTH, str(error))
            self._census.refused["token"] += 1
            await anyio.sleep(self._gate.penalize(credentials.address, anyio.current_time()))
            raise AuthenticationFailed(str(error)) from None

    async def handle(self, stream: ByteStream) -> None:
        """Serve one connection over any byte stream, and close the stream.

        The server need not be entered.

        :param stream: a stream to a client
        """
        self._census.accepted += 1
        self._census.loop = self._census.loop or loop_name()
        host, name = _sockets.peer_of(stream)
        async with Engine(clock_of(stream)) as engine:
            stranger = Stranger(host, lambda: None)
            await self._serve_session(Transport(stream), engine, stranger, name, shield=False)
            with anyio.CancelScope(shield=True):
                # A server that is not entered has no other task that does the broker's chores.
                while self._broker.tick(now := engine.clock.now()) <= now:
                    await checkpoint()

    async def _serve_session(
        self, transport: Transport, engine: Engine, stranger: Stranger, peer: str, *, shield: bool
    ) -> None:
        self._accepted += 1
        number = str(self._accepted)
        pump = Pump(
            transport,
            engine,
            lambda on_output: self._protocol_type(
                self._broker,
                session=number,
                server=f"hyps-py/{__version__}",
                on_output=on_output,
                features=FEATURES,
            ),
            shield=shield,
        )
        stranger.abort = pump.abort
        certificate = transport.stream.extra(TLSAttribute.peer_certificate, None)
        tls = isinstance(transport.stream, _tls.TLSStream)
        entry = self._census.enter(number, peer, transport, pump.protocol, tls=tls)
        session = Session(
            pump.protocol,
            number,
            peer,
            host=stranger.address,
            gate=self._gate,
            certificate=certificate,
            tls=tls,
            entry=entry,
            engine=engine,
            log=self._log,
            audit=self._audit,
            on_open=lambda: self._strangers.leave(stranger),
            resume=pump.resume,
        )
        self._pumps.add(pump)
        self._sessions.add(session)
        try:
            await pump.run(session.on_event, session.on_violation)
        except Exception:
            # A bug in the hub ends this session and must not end the others.
            self._log.exception("internal error", **session.fields)
            session.note_end("internal error", ErrorCode.INTERNAL)
        finally:
            pump.protocol.close()
            pump.protocol.discard()
            self._pumps.discard(pump)
            self._sessions.discard(session)
            session.end(pump.broken, is_leaving=self._state == "draining")
            self._census.leave(entry)
            if self._all_left is not None and not self._pumps:
                self._all_left.set()


def _why_no_tls(error: Exception) -> str:
    """Say why there was no TLS handshake."""
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return "the client does not use TLS"
    return str(error) or repr(error)


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
