"""The client: many subscriptions, one connection."""

from __future__ import annotations

import math
import os
import warnings
from typing import TYPE_CHECKING, Final, Literal, NoReturn, overload

import anyio
from anyio.lowlevel import checkpoint

from .._errors import ConnectionLost, WouldBlock
from .._net.addresses import name_of, parse_url
from .._net.dialling import make_wire
from .._net.tls import check_hostname
from .._text import one_line
from ..protocol import ClientProtocol, Gap, HypsError, Limits, Message
from ..protocol._records.encoding import pairs
from .connection import Batches
from .reconnector import Reconnector
from .settings import Settings
from .status import ConnectionEvents, Status
from .subscription import Subscription

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Generator, Iterable
    from types import TracebackType
    from typing import Any, Self

    from ..protocol._records.layout import Data
    from .buffer import Overflow
    from .status import ConnectionEvent

WhenDisconnected = Literal["wait", "raise"]

DEFAULT_URL: Final = "hyps://127.0.0.1:8787"

#: What one subscription buffers: some frames of small messages, or some large messages. Readers
#: that keep up on the whole are not to lose anything in a burst.
DEFAULT_MAX_MESSAGES: Final = 16_384
DEFAULT_MAX_BYTES: Final = 4 * 1024 * 1024


#: Characters that are shown of the reason why a client is not connected.
_MAX_TROUBLE: Final = 500

#: Seconds. Who waits for a hub that was away for minutes is told within some seconds more.
DEFAULT_RECONNECT_MAX_DELAY: Final = 10.0


class Client:
    """A connection to a hub, shared by any number of tasks and subscriptions.

    Made by :func:`connect`. Enter it, once at a time, or call :meth:`connect` and
    :meth:`shutdown`, which any two tasks may do::

        async with hyps.connect("hyps://127.0.0.1:8787") as client:
            await client.publish("foo_ch", b"foo_msg")
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        when_disconnected: WhenDisconnected = "wait",
        reconnect_max_delay: float = DEFAULT_RECONNECT_MAX_DELAY,
        limits: Limits | None = None,
    ) -> None:
        addresses = parse_url(url)
        self._url = name_of(addresses)
        limits = limits or Limits()
        # Made for what it raises: a token that cannot be sent is the caller's error, and now.
        ClientProtocol(token=token, wire=make_wire(addresses[0], limits)).data_to_send()
        if not getattr(addresses[0], "tls", False):
            for name, given in (("ssl_context", ssl_context), ("server_hostname", server_hostname)):
                if given is not None:
                    raise ValueError(f"{name} is for hypss:// and https://, not for {self._url}")
        if server_hostname is not None:
            check_hostname(server_hostname)
        if when_disconnected not in ("wait", "raise"):
            raise ValueError(f"when_disconnected is none of wait, raise: {when_disconnected!r}")
        if not 0 < reconnect_max_delay < math.inf:
            raise ValueError(f"reconnect_max_delay must be positive, not {reconnect_max_delay!r}")
        self._settings = Settings(
            addresses=addresses,
            token=token,
            ssl_context=ssl_context,
            server_hostname=server_hostname,
            limits=limits,
            waits=when_disconnected == "wait",
            reconnect_max_delay=reconnect_max_delay,
        )
        self._status = Status()
        self._reconnector: Reconnector | None = None
        self._is_entered = False

    # Lifetime

    async def __aenter__(self) -> Self:
        reconnector = self._reconnector
        # Where its event loop is gone, nobody will leave the outer block.
        if self._is_entered and not (reconnector is not None and reconnector.abandon_if_gone()):
            if reconnector is not None:
                reconnector.check_here()
            raise RuntimeError(
                "this client is entered already: use it as it is, the outer block shuts it down"
            )
        self._is_entered = True
        try:
            await self.connect()
        except BaseException:
            self._is_entered = False
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.shutdown()
        finally:
            self._is_entered = False

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise TypeError(
            "a client is entered: async with hyps.connect(...) as client: "
            "(or: client = hyps.connect(...); await client.connect())"
        )

    def __del__(self) -> None:
        reconnector = getattr(self, "_reconnector", None)
        # In a child that was forked the connection is the parent's, who may have it still.
        if reconnector is not None and not reconnector.is_over and not reconnector.is_inherited:
            warnings.warn(
                f"a client of {self._url} was never shut down", ResourceWarning, stacklevel=2
            )

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        if self._reconnector is not None and (trouble := self._reconnector.trouble):
            state += f": {one_line(trouble, _MAX_TROUBLE)}"
        return f"<hyps.Client of {self._url}, {state}>"

    async def connect(self) -> None:
        """Connect, in any task; returns when the hub has opened the session.

        Calls while it is connecting, or connecting again, wait for the same connection, and when it
        is connected they do nothing. If it was shut down, or could not be connected, it
        connects anew; so it does if the event loop in which it was connected is gone, or this
        process was forked from the one in which it was.

        :raises RuntimeError: if it is connected in another event loop, with what works there
        :raises ConnectionRefused: if no session could be opened
        :raises AuthenticationFailed: if that was for the token
        :raises ConnectionLost: if the client is shut down meanwhile
        """
        reconnector = self._reconnector
        if reconnector is not None and reconnector.abandon_if_gone():
            self._status.end()
            reconnector = None
        if reconnector is not None and not reconnector.is_over:
            reconnector.check_here()
        else:
            self._status.begin()
            reconnector = Reconnector(self._settings, self._status)
            reconnector.start()
            self._reconnector = reconnector
        await reconnector.wait_open()

    async def shutdown(self) -> None:
        """Send what is queued, end every iteration, and close. Harmless when there is nothing to.

        It takes ``limits.close_timeout`` at most, and goes on when the caller is cancelled.

        :raises RuntimeError: if it is connected in another event loop, with what works there
        """
        reconnector = self._reconnector
        if reconnector is not None:
            reconnector.check_may_close()
        try:
            if reconnector is not None:
                await reconnector.close()
            else:
                await checkpoint()
        finally:
            # Unless another task has connected it anew meanwhile.
            if self._reconnector is reconnector:
                self._status.end()

    async def aclose(self) -> None:
        """Do what :meth:`shutdown` does."""
        await self.shutdown()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, with all channels subscribed. For readiness checks."""
        return self._reconnector is not None and self._reconnector.is_open

    def events(self) -> AsyncIterator[ConnectionEvent]:
        """Watch the connection: :class:`Connected`, :class:`Disconnected`, :class:`Reconnected`.

        The first event is how things are now, if the client was connected before::

            async for event in client.events():
                print(event)

        :return: an async iterator that ends when the client is shut down
        """
        return ConnectionEvents(self._status)

    def _get_reconnector(self) -> Reconnector:
        # Per operation.
        reconnector = self._reconnector
        if reconnector is None:
            raise ConnectionLost("the client is not connected: enter it, or await its connect()")
        if not reconnector.is_here():
            reconnector.check_here()
        return reconnector

    # Operations

    async def publish(self, channel: str, data: Data) -> None:
        """Publish a message; returns when the hub has ACKed.

        While the client is connecting again it waits, as all operations do, unless
        ``when_disconnected`` is ``"raise"``. What was begun is never sent again.

        The ACK means that the hub has taken the message, and has queued it for every session that
        was subscribed then, or counted it as missed there. When cancelled the message may be
        published all the same.

        :param channel: name of the channel
        :param data: the message; text becomes UTF-8
        :raises InvalidChannel: if the name cannot be a channel's, or the hub refuses it
        :raises MessageTooLarge: if the hub would not take it
        :raises PermissionDenied: if the hub does not allow it
        :raises Unavailable: if the hub did not take it as it is about to leave
        :raises ConnectionLost: if the connection was lost before the ACK, so that the outcome is
            unknown; or if there is none, and none to wait for
        """
        reconnector = self._get_reconnector()
        connection = reconnector.open_connection
        if connection is None or connection.is_full:
            connection = await reconnector.ready()
        try:
            operation = connection.note_and_flush(connection.protocol.publish(channel, data))
        finally:
            connection.let_in()
        await connection.answered(operation)

    async def publish_many(self, messages: Iterable[tuple[str, Data] | Message]) -> None:
        """Publish messages in order; returns when the hub has ACKed all of them.

        They are taken from the iterable in batches, as there is room to send them. If one is
        wrong or is refused no more batches are taken, and the first error is raised when those
        under way are answered. What came before it may have been published.

        :param messages: channel and message of each, or each as a :class:`Message`
        :raises TypeError: if they are something else, a dict for example
        :raises InvalidChannel: see :meth:`publish`, likewise for the others
        :raises MessageTooLarge:
        :raises PermissionDenied:
        :raises Unavailable:
        :raises ConnectionLost:
        """
        reconnector = self._get_reconnector()
        await checkpoint()
        iterator = pairs(messages)
        batches = Batches()
        error: Exception | None = None
        try:
            while not batches.failed:
                if not batches.are_on(reconnector.open_connection):
                    # What came before is answered first, and may be a reason to go no further.
                    await batches.wait()
                connection = await reconnector.get_connection()
                if connection.is_full and not await connection.wait_for_room():
                    continue
                try:
                    operation = connection.protocol.publish_many(iterator, one_frame=True)
                finally:
                    connection.let_in()
                if operation is None:
                    break
                batches.append(
                    connection, connection.expect(connection.note_and_flush(operation), is_own=True)
                )
                # The writer sends this batch while the next one is made.
                await checkpoint()
        except anyio.get_cancelled_exc_class():
            batches.abandon()
            raise
        except Exception as caught:
            # A message is wrong, the iterable failed, or the connection is lost. The answers that
            # are due come first, as they are about what came before.
            error = caught
        await batches.wait()
        if error is not None:
            raise error

    def publish_nowait(self, channel: str, data: Data) -> None:
        """Publish a message without waiting for room or for the ACK.

        If the hub refuses it, :meth:`flush` raises that.

        :param channel: name of the channel
        :param data: the message; text becomes UTF-8
        :raises WouldBlock: if ``limits.max_backlog`` bytes wait to be sent, or the client is
            connecting again
        :raises InvalidChannel: if the name cannot be a channel's
        :raises MessageTooLarge: if the hub would not take it
        :raises ConnectionLost: if there is no connection, and none to wait for
        """
        reconnector = self._get_reconnector()
        connection = reconnector.open_connection
        if connection is None:
            if reconnector.over is not None:
                raise reconnector.over()
            reconnector.check_may_wait()
            raise WouldBlock("the client is not connected at the moment")
        if connection.is_full:
            raise WouldBlock("the hub is not reading as fast as this client publishes")
        connection.publish_unawaited(channel, data)

    async def flush(self) -> None:
        """Wait until all operations so far are answered, or lost.

        :raises HypsError: the first error among the operations that nobody awaited, since the
            last call; :class:`ConnectionLost` if they were lost with their connection
        :raises ConnectionLost: if the connection is lost meanwhile, or there is none and none to
            wait for
        """
        reconnector = self._get_reconnector()
        error: HypsError | None = None
        if reconnector.connection is None:
            await checkpoint()
        else:
            try:
                await reconnector.connection.wait_for_all()
            except HypsError as caught:
                error = caught
        error = reconnector.unheard.take() or error
        if error is None and reconnector.over is not None:
            error = reconnector.over()
        if error is not None:
            raise error

    @overload
    def subscribe(
        self,
        *channels: str,
        gaps: Literal[False] = False,
        overflow: Overflow = "drop_newest",
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Subscription[Message]: ...

    @overload
    def subscribe(
        self,
        *channels: str,
        gaps: Literal[True],
        overflow: Overflow = "drop_newest",
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Subscription[Message | Gap]: ...

    @overload
    def subscribe(
        self,
        *channels: str,
        gaps: bool,
        overflow: Overflow = "drop_newest",
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Subscription[Message] | Subscription[Message | Gap]: ...

    def subscribe(
        self,
        *channels: str,
        gaps: bool = False,
        overflow: Overflow = "drop_newest",
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Subscription[Message] | Subscription[Message | Gap]:
        """Make a subscription; entering it subscribes the channels.

        Entering returns when the hub has ACKed. It is all of the channels or, if it raises or is
        cancelled, none. No task group is opened and no cancel scope, so it can be entered in an
        async generator.

        :param channels: their names; none, and more later, are fine
        :param gaps: yield a :class:`Gap` in the place of messages that were missed. If not they are
            only counted and logged.
        :param overflow: what happens when a message finds the buffer full. With ``"drop_newest"``
            it is missed; with ``"drop_oldest"`` the oldest are, to make room; with ``"latest"`` the
            buffer holds one message of each channel, the newest; with ``"close"`` the subscription
            ends there, and raises :class:`SubscriptionOverflow` when what it has was read.
        :param max_messages: messages that the buffer holds
        :param max_bytes: bytes that the buffer holds, as records. An empty buffer takes a message
            of any size.
        :return: an async context manager and iterator
        :raises ValueError: if there is no such policy, or a bound is not positive
        """
        return Subscription(
            self._get_reconnector,
            channels,
            gaps=gaps,
            overflow=overflow,
            max_messages=max_messages,
            max_bytes=max_bytes,
        )


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    when_disconnected: WhenDisconnected = "wait",
    reconnect_max_delay: float = DEFAULT_RECONNECT_MAX_DELAY,
    limits: Limits | None = None,
) -> Client:
    """Make a client. Nothing is connected until it is entered.

    The first connection fails at once if there is no hub. One that is lost later is made again,
    however long it takes, and the channels of all subscriptions with it.

    :param url: ``hyps://host:port``, ``hypss://host:port`` (TLS), ``hyps+unix:///path`` or
        ``memory://name``; over HTTP/2, for a hub of Hyps for Nim, ``http://host:port`` or
        ``https://host:port``; if there is none, the environment's ``HYPS_URL``, or else
        ``hyps://127.0.0.1:8787``. Several hosts, ``hyps://host:port,host:port``, are tried in this
        order at each connecting; hubs know nothing of each other, so give all clients the same.
    :param token: what the hub knows the client by, if it asks; if there is none, the environment's
        ``HYPS_TOKEN``
    :param ssl_context: for TLS; None trusts whom the system trusts. For ``https`` it must ask for
        HTTP/2: ``ssl_context.set_alpn_protocols(["h2"])``.
    :param server_hostname: for TLS; the name that the hub's certificate must be for, if that is not
        the host in the URL
    :param when_disconnected: what operations do that are begun while the client is connecting
        again: ``"wait"``, or ``"raise"`` :class:`ConnectionLost`
    :param reconnect_max_delay: seconds to wait before connecting again, at most. The first wait is
        up to 0.1 seconds, each further one up to twice as long, at random.
    :param limits: the client's own bounds
    :raises InvalidURL: if Hyps cannot connect to such a URL, or not without the extra ``http2``
    :raises ValueError: if an argument is none of these, the token cannot be sent, or there is an
        ``ssl_context`` or a ``server_hostname`` without TLS
    """
    if url is None:
        url = os.environ.get("HYPS_URL") or DEFAULT_URL
    if token is None:
        token = os.environ.get("HYPS_TOKEN") or None
    return Client(
        url,
        token=token,
        ssl_context=ssl_context,
        server_hostname=server_hostname,
        when_disconnected=when_disconnected,
        reconnect_max_delay=reconnect_max_delay,
        limits=limits,
    )
