"""The client: many subscriptions, one connection."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Final, Literal, NoReturn, overload

import anyio
from anyio.lowlevel import checkpoint

from .._errors import ConnectionLost, WouldBlock
from .._net.addresses import name_of, parse_url
from .._net.dialling import make_wire
from .._net.tls import check_hostname
from .._text import one_line
from .._version import __version__
from ..protocol import ClientProtocol, Gap, HypsError, Limits, Message, PermissionDenied
from ..protocol._records.encoding import pairs
from .connection import Batches
from .memberships import Memberships
from .reconnector import Reconnector
from .settings import Settings
from .stats import take_stats
from .status import ConnectionEvents, Status
from .subscription import Subscription
from .totals import Totals

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Generator, Iterable
    from types import TracebackType
    from typing import Any, Self

    from ..protocol import Welcome
    from ..protocol._records.layout import Data
    from .buffer import Overflow
    from .stats import ClientStats
    from .status import ConnectionEvent
    from .tokens import Token

WhenDisconnected = Literal["wait", "raise"]

#: What one subscription buffers: some frames of small messages, or some large messages. A reader
#: that keeps up on average loses nothing in a burst.
DEFAULT_MAX_MESSAGES: Final = 16_384
DEFAULT_MAX_BYTES: Final = 4 * 1024 * 1024


#: The bound of a client's name, in characters.
_MAX_NAME: Final = 200

#: The repr of a client shows at most this many characters of the reason why it is not connected.
_MAX_TROUBLE: Final = 500

#: In seconds. A client whose hub was away for minutes is back within some seconds.
DEFAULT_RECONNECT_MAX_DELAY: Final = 10.0


class Client:
    """A connection to a hub, which any number of tasks and subscriptions share.

    :func:`connect` makes it. Enter it, once at a time; or call :meth:`connect` and
    :meth:`shutdown`, from any two tasks::

        async with hyps.connect("hyps://127.0.0.1:8787") as client:
            await client.publish("foo_ch", b"foo_msg")
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        when_disconnected: WhenDisconnected = "wait",
        reconnect_max_delay: float = DEFAULT_RECONNECT_MAX_DELAY,
        limits: Limits | None = None,
        wait: bool = False,
        name: str | None = None,
    ) -> None:
        addresses = parse_url(url)
        self._url = name_of(addresses)
        limits = Limits.of(limits)
        if name is None:
            name = f"hyps-py/{__version__}"
        elif not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MAX_NAME):
            raise ValueError(f"name must have 1 to {_MAX_NAME} printable characters: {name!a}")
        # Try it out, for its errors: a token that cannot be sent is the caller's error, and at
        # once.
        wire = make_wire(addresses[0], limits)
        known = None if callable(token) else token
        ClientProtocol(client=name, token=known, wire=wire).data_to_send()
        if not getattr(addresses[0], "tls", False):
            for option, given in (
                ("ssl_context", ssl_context),
                ("server_hostname", server_hostname),
            ):
                if given is not None:
                    raise ValueError(f"{option} is for hypss:// and https://, not for {self._url}")
        if server_hostname is not None:
            check_hostname(server_hostname)
        if when_disconnected not in ("wait", "raise"):
            raise ValueError(f"when_disconnected is none of wait, raise: {when_disconnected!r}")
        if not isinstance(reconnect_max_delay, int | float):
            raise TypeError(f"reconnect_max_delay must be a number, not {reconnect_max_delay!r}")
        if not 0 < reconnect_max_delay < math.inf:
            raise ValueError(f"reconnect_max_delay must be positive, not {reconnect_max_delay!r}")
        self._settings = Settings(
            addresses=addresses,
            token=token,
            ssl_context=ssl_context,
            server_hostname=server_hostname,
            limits=limits,
            name=name,
            waits_first=wait,
            waits=when_disconnected == "wait",
            reconnect_max_delay=reconnect_max_delay,
        )
        self._status = Status()
        self._totals = Totals()
        self._reconnector: Reconnector | None = None
        self._memberships: Memberships | None = None
        self._is_entered = False

    # Lifetime

    async def __aenter__(self) -> Self:
        reconnector = self._reconnector
        # If its event loop is gone, nobody will leave the outer block.
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
        # In a forked child the connection is the parent's, who may still use it.
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

        While the client connects, further calls wait for the same connection. When it is connected
        they do nothing. A client that was shut down or that failed to connect connects anew. So
        does one whose event loop is gone, or that belongs to the process that this one was forked
        from.

        :raises RuntimeError: if it is connected in another event loop, with advice that works there
        :raises ConnectionRefused: if no session could be opened
        :raises AuthenticationFailed: if the token is the reason for that
        :raises ConnectionLost: if the client is shut down meanwhile
        """
        await self._start().wait_open()

    def connect_nowait(self) -> None:
        """Begin to connect in the background, and return at once.

        Operations wait for the connection. If there is no hub, or it refuses the token, the client
        logs that and tries again.

        :raises RuntimeError: see :meth:`connect`
        """
        self._start(is_in_background=True)

    def _start(self, *, is_in_background: bool = False) -> Reconnector:
        reconnector = self._reconnector
        if reconnector is not None and reconnector.abandon_if_gone():
            self._status.end()
            reconnector = None
        if reconnector is not None and not reconnector.is_over:
            reconnector.check_here()
        else:
            self._status.begin()
            reconnector = Reconnector(
                self._settings, self._status, self._totals, is_in_background=is_in_background
            )
            reconnector.start()
            self._reconnector = reconnector
            self._memberships = Memberships(reconnector)
        return reconnector

    async def shutdown(self) -> None:
        """Send what is queued, end every iteration, and close. Harmless if nothing is connected.

        This takes at most ``limits.close_timeout``, and goes on if the caller is cancelled.

        :raises RuntimeError: if it is connected in another event loop, with advice that works there
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
            # Another task may have connected the client anew in between.
            if self._reconnector is reconnector:
                self._status.end()

    def end_subscriptions(self) -> None:
        """End the iteration of every subscription, as if all were left; publishing goes on.

        Subscriptions that are entered later raise :class:`SubscriptionClosed`, until the client is
        shut down and connected anew. A web server that is told to stop does this first, so that
        its streams end. Any thread may call this; harmless if nothing is connected.
        """
        reconnector, memberships = self._reconnector, self._memberships
        if reconnector is None or memberships is None or reconnector.is_over:
            return
        if reconnector.is_here():
            memberships.end_all()
        else:
            reconnector.call(memberships.end_all)

    async def aclose(self) -> None:
        """Shut down, like :meth:`shutdown`."""
        await self.shutdown()

    @property
    def connected(self) -> bool:
        """Whether there is a connection with all channels subscribed, for readiness checks."""
        return self._reconnector is not None and self._reconnector.is_open

    @property
    def welcome(self) -> Welcome | None:
        """What the hub said when it opened the session: its name and version, and its limits.

        None while there is no connection. Over HTTP/2 a hub says nothing, and the limits are the
        client's own. Any thread may ask.
        """
        reconnector = self._reconnector
        connection = None if reconnector is None else reconnector.open_connection
        return None if connection is None else connection.protocol.welcome

    def stats(self) -> ClientStats:
        """Tell what the client has and has counted, for metrics and health pages.

        Any thread may call this, as often as once a second: it looks at each subscription, and
        makes no message slower. In another thread than the client's the numbers may be of slightly
        different moments.
        """
        return take_stats(self._totals, self._reconnector)

    def events(self) -> AsyncIterator[ConnectionEvent]:
        """Watch the connection: :class:`Connected`, :class:`Disconnected`, :class:`Reconnected`.

        If the client was connected before, the first event tells the present state::

            async for event in client.events():
                print(event)

        :return: an async iterator that ends when the client is shut down
        """
        return ConnectionEvents(self._status)

    def _get_reconnector(self) -> Reconnector:
        # Each operation calls this.
        reconnector = self._reconnector
        if reconnector is None:
            raise ConnectionLost(
                "the client is not connected: enter it, or await its connect(); in a web "
                "application, give it the lifespan: hyps.asgi.lifespan(client)"
            )
        if not reconnector.is_here():
            reconnector.check_here()
        return reconnector

    def _get_memberships(self) -> Memberships:
        self._get_reconnector()
        assert self._memberships is not None
        return self._memberships

    # Operations

    async def publish(self, channel: str, data: Data) -> None:
        """Publish a message; returns when the hub has ACKed.

        While the client connects again this waits, like all operations, unless
        ``when_disconnected`` is ``"raise"``. The client never sends an operation twice.

        The ACK means that the hub has taken the message, and has queued it, or counted it as
        missed, for every session that is subscribed. If this call is cancelled, the hub may take
        the message all the same.

        :param channel: name of the channel
        :param data: the message; text becomes UTF-8
        :raises InvalidChannel: if the name cannot be a channel's, or the hub refuses it
        :raises MessageTooLarge: if it exceeds the hub's limit
        :raises PermissionDenied: if the hub does not allow it
        :raises Unavailable: if the hub did not take it, because it is about to leave
        :raises ConnectionLost: if the connection was lost before the ACK, so that the outcome is
            unknown; or if there is no connection and none to wait for
        """
        reconnector = self._get_reconnector()
        connection = reconnector.open_connection
        if connection is None or connection.is_full:
            connection = await reconnector.ready()
        try:
            operation = connection.note_and_flush(connection.protocol.publish(channel, data))
        finally:
            connection.let_in()
        try:
            await connection.answered(operation)
        except PermissionDenied as error:
            raise PermissionDenied(f"{error}: {channel!r}") from None

    async def publish_many(self, messages: Iterable[tuple[str, Data] | Message]) -> None:
        """Publish messages in order; returns when the hub has ACKed all of them.

        This takes messages from the iterable in batches, as there is room to send them. After a
        wrong or refused message it takes no more batches, and raises the first error when the
        batches under way have answers. The messages before that one may have been published.

        :param messages: pairs of channel and message, or :class:`Message` objects
        :raises TypeError: if they are something else, such as a dict
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
                    # Wait for the answers to earlier batches: one of them may be an error.
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
                # The batch leaves while this task makes the next one.
                await checkpoint()
        except anyio.get_cancelled_exc_class():
            batches.abandon()
            raise
        except Exception as caught:
            # A message is wrong, the iterable failed, or the connection is lost. Answers to earlier
            # batches go first.
            error = caught
        await batches.wait()
        if error is not None:
            raise error

    def publish_nowait(self, channel: str, data: Data) -> None:
        """Publish a message without waiting for room or for the ACK.

        If the hub refuses the message, :meth:`flush` raises the error.

        :param channel: name of the channel
        :param data: the message; text becomes UTF-8
        :raises WouldBlock: if ``limits.max_backlog`` bytes wait to be sent, or the client is
            connecting again
        :raises InvalidChannel: if the name cannot be a channel's
        :raises MessageTooLarge: if it exceeds the hub's limit
        :raises ConnectionLost: if there is no connection and none to wait for
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
        """Wait until all operations so far have an answer, or are lost.

        :raises HypsError: the first error since the last call among the operations that nobody
            awaits; :class:`ConnectionLost` if they were lost with their connection
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

    async def ping(self) -> float:
        """Ask the hub for a sign of life, and wait for it.

        There is one PING at a time: tasks that call this at once share it, with each other and with
        the heartbeat. The heartbeat ends the connection if the hub is silent, and so bounds the
        wait. Over HTTP/2 nothing does if the hub answers no PING: use ``anyio.fail_after``.

        :return: seconds from the PING to its answer
        :raises ConnectionLost: if the connection is lost before the answer, or there is none and
            none to wait for
        """
        connection = await self._get_reconnector().get_connection()
        return await connection.ping()

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

        Entering returns when the hub has ACKed. It subscribes all of the channels or, if it raises
        or is cancelled, none. It opens no task group and no cancel scope, so an async generator can
        enter it.

        :param channels: their names; there may be none yet
        :param gaps: yield a :class:`Gap` in the place of lost messages. Otherwise losses are only
            counted and logged.
        :param overflow: what happens when a message finds the buffer full. ``"drop_newest"``: it is
            lost. ``"drop_oldest"``: the oldest messages are lost, to make room. ``"latest"``: the
            buffer holds only the newest message of each channel. ``"close"``: the subscription ends
            there, and raises :class:`SubscriptionOverflow` after what it has buffered.
        :param max_messages: the messages that the buffer may hold
        :param max_bytes: the bytes that the buffer may hold, as records. An empty buffer takes a
            message of any size.
        :return: an async context manager and iterator
        :raises ValueError: if there is no such policy, or a bound is not positive
        """
        return Subscription(
            self._get_memberships,
            channels,
            gaps=gaps,
            overflow=overflow,
            max_messages=max_messages,
            max_bytes=max_bytes,
        )
