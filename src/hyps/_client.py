"""The client: many subscriptions, one connection."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Final, Literal, NoReturn, overload

from ._connection import Connection
from ._errors import ConnectionLost
from ._subscription import Subscription
from ._transport import parse_url
from .protocol import ClientProtocol, Gap, Limits, Message

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator, Iterable
    from types import TracebackType
    from typing import Any, Self

    from ._buffer import Overflow
    from .protocol.client import Data

DEFAULT_URL: Final = "hyps://127.0.0.1:8787"

#: What one subscription buffers: some frames of small messages, or some large messages. Readers
#: that keep up on the whole are not to lose anything in a burst.
DEFAULT_MAX_MESSAGES: Final = 16_384
DEFAULT_MAX_BYTES: Final = 4 * 1024 * 1024


class Client:
    """A connection to a hub, shared by any number of tasks and subscriptions.

    Made by :func:`connect`. Enter it, or call :meth:`connect` and :meth:`shutdown`, which any two
    tasks may do::

        async with hyps.connect("hyps://127.0.0.1:8787") as client:
            await client.publish("foo_ch", b"foo_msg")
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._address = parse_url(url)
        # Made for what it raises: a token that cannot be sent is the caller's error, and now.
        ClientProtocol(token=token)
        if ssl_context is not None and not getattr(self._address, "tls", False):
            raise ValueError(f"an ssl_context is for hypss:// URLs, not for {self._address}")
        self._token = token
        self._ssl_context = ssl_context
        self._limits = limits or Limits()
        self._connection: Connection | None = None

    # Lifetime

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown()

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise TypeError(
            "a client is entered: async with hyps.connect(...) as client: "
            "(or: client = hyps.connect(...); await client.connect())"
        )

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None and not connection.is_over:
            warnings.warn(
                f"a client of {self._address} was never shut down", ResourceWarning, stacklevel=2
            )

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<hyps.Client of {self._address}, {state}>"

    async def connect(self) -> None:
        """Connect, in any task; returns when the hub has opened the session.

        Calls while it is connecting wait for the same connection, and when it is connected they
        do nothing. If it was shut down or lost its connection, it connects anew.

        :raises ConnectionRefused: if no session could be opened
        :raises AuthenticationFailed: if that was for the token
        """
        connection = self._connection
        if connection is None or connection.is_over:
            connection = self._connection = Connection(
                self._address, self._token, self._ssl_context, self._limits
            )
            connection.start()
        await connection.wait_opened()

    async def shutdown(self) -> None:
        """Send what is queued, end every iteration, and close. Harmless when there is nothing to.

        It takes ``limits.close_timeout`` at most, and goes on when the caller is cancelled.
        """
        if self._connection is not None:
            await self._connection.close()

    async def aclose(self) -> None:
        """Do what :meth:`shutdown` does."""
        await self.shutdown()

    @property
    def connected(self) -> bool:
        """Whether operations can be begun now."""
        return self._connection is not None and self._connection.is_open

    def _get_connection(self) -> Connection:
        if self._connection is None:
            raise ConnectionLost("the client is not connected: enter it, or await its connect()")
        return self._connection

    # Operations

    async def publish(self, channel: str, data: Data) -> None:
        """Publish a message; returns when the hub has ACKed.

        The ACK means that the hub has taken the message, and has queued it for every session that
        was subscribed then, or counted it as missed there. When cancelled the message may be
        published all the same.

        :param channel: name of the channel
        :param data: the message; text becomes UTF-8
        :raises InvalidChannel: if the name cannot be a channel's, or the hub refuses it
        :raises MessageTooLarge: if the hub would not take it
        :raises PermissionDenied: if the hub does not allow it
        :raises Unavailable: if the hub did not take it as it is about to leave
        :raises ConnectionLost: if there is no connection, or it was lost before the ACK
        """
        await self._get_connection().publish(channel, data)

    async def publish_many(self, messages: Iterable[tuple[str, Data]]) -> None:
        """Publish messages in order; returns when the hub has ACKed all of them.

        They are taken from the iterable in batches, as there is room to send them. If one is
        wrong or is refused no more batches are taken, and the first error is raised when those
        under way are answered. What came before it may have been published.

        :param messages: channel and message of each
        :raises InvalidChannel: see :meth:`publish`, likewise for the others
        :raises MessageTooLarge:
        :raises PermissionDenied:
        :raises Unavailable:
        :raises ConnectionLost:
        """
        await self._get_connection().publish_many(messages)

    def publish_nowait(self, channel: str, data: Data) -> None:
        """Publish a message without waiting for room or for the ACK.

        If the hub refuses it, :meth:`flush` raises that.

        :param channel: name of the channel
        :param data: the message; text becomes UTF-8
        :raises WouldBlock: if ``limits.max_backlog`` bytes wait to be sent
        :raises InvalidChannel: if the name cannot be a channel's
        :raises MessageTooLarge: if the hub would not take it
        :raises ConnectionLost: if there is no connection
        """
        self._get_connection().publish_nowait(channel, data)

    async def flush(self) -> None:
        """Wait until all operations so far are answered.

        :raises HypsError: the first error among the operations that nobody awaited, since the
            last call
        :raises ConnectionLost: if there is no connection, or it was lost meanwhile
        """
        await self._get_connection().flush()

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
            self._get_connection,
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
    limits: Limits | None = None,
) -> Client:
    """Make a client. Nothing is connected until it is entered.

    :param url: ``hyps://host:port``, ``hypss://host:port`` (TLS), ``hyps+unix:///path`` or
        ``memory://name``; if there is none, the environment's ``HYPS_URL``, or else
        ``hyps://127.0.0.1:8787``
    :param token: what the hub knows the client by, if it asks; if there is none, the environment's
        ``HYPS_TOKEN``
    :param ssl_context: for TLS; None trusts whom the system trusts
    :param limits: the client's own bounds
    :raises InvalidURL: if Hyps cannot connect to such a URL
    :raises ValueError: if the token cannot be sent, or there is an ``ssl_context`` without TLS
    """
    if url is None:
        url = os.environ.get("HYPS_URL") or DEFAULT_URL
    if token is None:
        token = os.environ.get("HYPS_TOKEN") or None
    return Client(url, token=token, ssl_context=ssl_context, limits=limits)
