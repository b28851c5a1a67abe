"""A client for code that is not async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

from .._client.client import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_MESSAGES,
    DEFAULT_RECONNECT_MAX_DELAY,
)
from .._client.connecting import connect as connect_async
from .._errors import ConnectionLost
from ..protocol._records.layout import encode_channel, encode_data
from ._connection import Connection
from ._loop import get_loop
from ._subscription import Subscription

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType
    from typing import Self

    from .._client.buffer import Overflow
    from .._client.client import Client as AsyncClient
    from .._client.client import WhenDisconnected
    from .._client.tokens import Token
    from ..protocol import Gap, Limits, Message
    from ..protocol._records.layout import Data
    from ._loop import Loop

_T = TypeVar("_T")

#: Seconds that a call may take, unless it says otherwise.
_TIMEOUT = 10.0


class Client:
    """A connection to a hub for threads. :func:`connect` makes it.

    Any number of threads may share it. It connects at the first call, or when it is entered. In a
    forked child it connects anew, and leaves the parent's connection alone. So it can be made where
    a module is imported::

        client = hyps.sync.connect()

        def view(request):
            client.publish("news", "hello")

    Each call takes ``timeout``, in seconds, and raises ``TimeoutError`` if it takes longer. Of a
    publish the outcome is unknown then. A signal handler must not call it: it may interrupt another
    call, and raises ``RuntimeError`` then.
    """

    def __init__(self, make: Callable[[], AsyncClient], timeout: float) -> None:
        # Tell at once what is wrong with the arguments.
        make()
        self._make = make
        self._timeout = timeout
        # By the event loop, and so by the process.
        self._connections: dict[Loop, Connection] = {}
        self._is_closed = False

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client cannot be sent to another process: make one there")

    def __repr__(self) -> str:
        connection = self._connections.get(get_loop())
        return f"<hyps.sync.Client, {'not used yet' if connection is None else connection.client}>"

    def connect(self, *, timeout: float | None = None) -> None:
        """Connect now, and not at the first call.

        :raises ConnectionRefused: see :meth:`hyps.Client.connect`, likewise for the others
        :raises AuthenticationFailed:
        :raises TimeoutError: if it takes longer
        """

        async def connect(client: AsyncClient) -> None:
            await client.connect()

        self._is_closed = False
        self._run(connect, timeout)

    def close(self, *, timeout: float | None = None) -> None:
        """End every iteration, and close the connection. Harmless if there is none."""
        self._is_closed = True
        loop = get_loop()
        connection = self._connections.pop(loop, None)
        if connection is not None:
            loop.run(connection.close, self._timeout if timeout is None else timeout)

    @property
    def connected(self) -> bool:
        """Whether there is a connection with all channels subscribed."""
        connection = self._connections.get(get_loop())
        return connection is not None and connection.client.connected

    def publish(self, channel: str, data: Data, *, timeout: float | None = None) -> None:
        """Publish a message; returns when the hub has ACKed.

        :param channel: name of the channel
        :param data: the message; text becomes UTF-8
        :param timeout: seconds that this may take; the default is the client's
        :raises TimeoutError: if it takes longer. The outcome is unknown.
        :raises InvalidChannel: see :meth:`hyps.Client.publish`, likewise for the others
        :raises MessageTooLarge:
        :raises PermissionDenied:
        :raises Unavailable:
        :raises ConnectionRefused: if this is the first call, and there is no hub
        :raises ConnectionLost: see :meth:`hyps.Client.publish`; or if the client was closed
        """
        # Without a hub too, what is wrong is told at once.
        encode_channel(channel)
        encode_data(data)
        self._run(lambda client: client.publish(channel, data), timeout)

    def publish_many(
        self, messages: Iterable[tuple[str, Data] | Message], *, timeout: float | None = None
    ) -> None:
        """Publish messages; returns when the hub has ACKed all of them.

        :param messages: pairs of a channel and data, or messages. The iterable is consumed in this
            thread, before the first message leaves.
        :param timeout: see :meth:`publish`
        :raises TimeoutError: see :meth:`publish`, likewise for the others
        """
        many = list(messages)
        self._run(lambda client: client.publish_many(many), timeout)

    @overload
    def subscribe(
        self,
        *channels: str,
        gaps: Literal[False] = False,
        overflow: Overflow = "drop_newest",
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float | None = None,
    ) -> Subscription[Message]: ...

    @overload
    def subscribe(
        self,
        *channels: str,
        gaps: Literal[True],
        overflow: Overflow = "drop_newest",
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float | None = None,
    ) -> Subscription[Message | Gap]: ...

    def subscribe(
        self,
        *channels: str,
        gaps: bool = False,
        overflow: Overflow = "drop_newest",
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float | None = None,
    ) -> Subscription[Any]:
        """Make a subscription; entering it subscribes the channels::

            with client.subscribe("news", timeout=30) as subscription:
                for message in subscription:
                    print(message.data)

        :param channels: their names
        :param gaps: see :meth:`hyps.Client.subscribe`, likewise for the others
        :param overflow:
        :param max_messages:
        :param max_bytes:
        :param timeout: seconds that the iteration waits for a message, before it raises
            ``TimeoutError``. It can go on after that. None waits without a bound.
        :raises ValueError: if there is no such policy, or a bound is not positive
        """
        connection = self._get()
        subscription = connection.client.subscribe(
            *channels, gaps=gaps, overflow=overflow, max_messages=max_messages, max_bytes=max_bytes
        )
        return Subscription(subscription, connection, own_timeout=self._timeout, timeout=timeout)

    def _get(self) -> Connection:
        if self._is_closed:
            raise ConnectionLost("the client was closed; connect() opens it again")
        loop = get_loop()
        connection = self._connections.get(loop)
        if connection is None:
            made = Connection(self._make(), loop)
            connection = self._connections.setdefault(loop, made)
        return connection

    def _run(self, function: Callable[[AsyncClient], Awaitable[_T]], timeout: float | None) -> _T:
        connection = self._get()

        async def run() -> _T:
            return await function(await connection.get())

        try:
            return get_loop().run(run, self._timeout if timeout is None else timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {connection.client!r}") from None


def connect(
    url: str | None = None,
    *,
    timeout: float = _TIMEOUT,
    token: Token | None = None,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    when_disconnected: WhenDisconnected = "wait",
    reconnect_max_delay: float = DEFAULT_RECONNECT_MAX_DELAY,
    limits: Limits | None = None,
    wait: bool = False,
    name: str | None = None,
) -> Client:
    """Make a client for code that is not async. It connects at the first call, or when entered.

    :param url: see :func:`hyps.connect`, likewise for the others
    :param timeout: seconds that each call may take, unless the call says otherwise
    :param token:
    :param ssl_context:
    :param server_hostname:
    :param when_disconnected:
    :param reconnect_max_delay:
    :param limits:
    :param wait:
    :param name:
    :raises InvalidURL: see :func:`hyps.connect`
    :raises ValueError: see :func:`hyps.connect`
    """

    def make() -> AsyncClient:
        return connect_async(
            url,
            token=token,
            ssl_context=ssl_context,
            server_hostname=server_hostname,
            when_disconnected=when_disconnected,
            reconnect_max_delay=reconnect_max_delay,
            limits=limits,
            wait=wait,
            name=name,
        )

    return Client(make, timeout)
