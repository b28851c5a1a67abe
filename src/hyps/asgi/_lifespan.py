"""The lifespan of a client in an application, and the end of its streams."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ._stopping import watch_for_stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Any, Self, TypeAlias

    from .._client.client import Client

    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def lifespan(client: Client, *, wait: bool = True) -> Lifespan:
    """Connect a client while the application runs, and end its streams when the server stops.

    Give it to the application, or enter it in a lifespan of your own::

        client = hyps.connect()
        app = FastAPI(lifespan=hyps.asgi.lifespan(client))

    When the server is told to stop, every subscription of the client ends at once, so that the
    server need not wait for streams that never end. Publishing works until the lifespan's end,
    when the client is shut down. Servers take the signal as always.

    :param client: it is connected here; do not enter it yourself
    :param wait: connect in the background, so that the application starts whether there is a hub
        or not. Otherwise starting raises :class:`~hyps.ConnectionRefused` if there is none.
    :return: callable with the application, and an async context manager
    """
    return Lifespan(client, wait=wait)


def with_lifespan(app: ASGIApp, lifespan: Lifespan) -> ASGIApp:
    """Give an application a lifespan, for frameworks that know none, such as Django.

    :param app: an ASGI application
    :param lifespan: what :func:`lifespan` returned
    :return: an ASGI application
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await receive()
        try:
            await lifespan.__aenter__()
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            await lifespan.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})

    return wrapped


class Lifespan:
    """What :func:`lifespan` returns."""

    def __init__(self, client: Client, *, wait: bool) -> None:
        self._client = client
        self._wait = wait
        self._stack: AsyncExitStack | None = None

    def __call__(self, app: Any = None) -> AbstractAsyncContextManager[None]:
        """Make the lifespan of an application."""
        return _Run(self)

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("this lifespan is entered already")
        stack = self._stack = AsyncExitStack()
        try:
            if self._wait:
                self._client.connect_nowait()
            else:
                await self._client.connect()
            stack.push_async_callback(self._client.shutdown)
            await stack.enter_async_context(watch_for_stop(self._client.end_subscriptions))
        except BaseException:
            self._stack = None
            await stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()


class _Run:
    """One run of an application, which is given no state by this."""

    def __init__(self, lifespan: Lifespan) -> None:
        self._lifespan = lifespan

    async def __aenter__(self) -> None:
        await self._lifespan.__aenter__()

    async def __aexit__(self, *exc_info: object) -> None:
        await self._lifespan.__aexit__(None, None, None)
