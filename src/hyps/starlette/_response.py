"""A response of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, TypeVar

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..asgi._events import PING, make_events, retry_line
from ..asgi._events import encode as default_encode
from ..asgi._feed import CannotBegin, Feed, name_of
from ..asgi._stream import EventStream, check_options, retry_delay
from ..protocol import Gap, InvalidChannel, Message, PermissionDenied
from ._racing import run_until_disconnected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.background import BackgroundTask
    from starlette.types import Receive, Scope, Send

    from ..asgi._events import Encode, Encoded
    from ..asgi._feed import AnySubscription

_Item = TypeVar("_Item")

#: Seconds for what ``replay`` does when it is closed.
_CLOSE_TIMEOUT = 5.0

_HEADERS = {
    # A page that is loaded again must not get an old stream.
    "cache-control": "no-store",
    # nginx collects responses, unless it is told not to.
    "x-accel-buffering": "no",
}


class EventSourceResponse(Response):
    """Stream a subscription as server-sent events.

    The subscription is entered before the status line is sent, so that the browser is told by it: a
    channel's name that is refused is 400, and a channel that is denied is 403, as an
    ``HTTPException``. If there is no hub for 5 seconds, the response is 200 and tells the browser
    to come back in some seconds: after another status ``EventSource`` would never do so::

        @app.get("/events")
        async def events() -> EventSourceResponse:
            return EventSourceResponse(client.subscribe("news", gaps=True))

    :param subscription: not entered; the response enters and leaves it
    :param encode: makes of each message and gap a ``str``, ``bytes``, an :class:`hyps.asgi.Event`,
        an iterable of these, or None to leave it out. By default a message is an event without a
        name whose data is the message as text, and a gap is the event ``gap`` whose data is JSON.
    :param ping: seconds without an event after which to send a comment
    :param retry: how long the browser waits before it connects again, in milliseconds
    :param send_timeout: seconds that the browser may take for what is sent. Then the response ends.
    :param replay: what to send first, once the hub has ACKed the subscription: an iterable or async
        iterable of messages and gaps, and of what ``encode`` may return. Pass a generator: then
        what it reads, such as a database, is read after the ACK, and nothing can fall in between.
    :param headers: further headers
    :param background: see Starlette's ``Response``
    :raises ValueError: if a number is out of bounds
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        subscription: AnySubscription,
        *,
        encode: Encode = default_encode,
        ping: float = 15.0,
        retry: int | None = None,
        send_timeout: float = 30.0,
        replay: Iterable[Message | Gap | Encoded] | AsyncIterable[Message | Gap | Encoded] = (),
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        check_options(encode, ping=ping, retry=retry, send_timeout=send_timeout)
        self.status_code = 200
        self.background = background
        more = {name.lower(): value for name, value in (headers or {}).items()}
        self.init_headers({**_HEADERS, **more})
        self._subscription = subscription
        self._encode = encode
        self._ping = ping
        self._retry = retry
        self._send_timeout = send_timeout
        self._replay = replay

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._respond(scope, receive, send)
        finally:
            await _close(self._replay)
        if self.background is not None:
            await self.background()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            try:
                feed = await stack.enter_async_context(
                    Feed(self._subscription, self._send_timeout, name_of(scope))
                )
            except InvalidChannel as error:
                raise HTTPException(400, str(error)) from None
            except PermissionDenied as error:
                raise HTTPException(403, str(error)) from None
            except CannotBegin:
                await self._begin(send)
                retry = retry_line(retry_delay(self._retry))
                await send({"type": "http.response.body", "body": retry, "more_body": False})
                return
            if scope.get("method") == "HEAD":
                # It has no body, so nothing would ever tell that the user has left.
                await self._begin(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            sender = _Sender(send, feed)
            await run_until_disconnected(receive, feed.scope, lambda: self._run(feed, sender))

    async def _begin(self, send: Send) -> None:
        message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(message)

    async def _run(self, feed: Feed, sender: _Sender) -> None:
        await self._begin(sender.send)
        # At once, because browsers and proxies wait for the first byte.
        await sender.send_body(PING if self._retry is None else retry_line(self._retry))
        async with aclosing(_iterate(self._replay)) as items:
            async for item in items:
                if feed.has_ended:
                    break
                encoded = self._encode(item) if isinstance(item, Message | Gap) else item
                for event in make_events(encoded):
                    await sender.send_body(bytes(event))
        stream = EventStream(feed, self._encode, self._ping)
        while (chunk := await stream.read_bytes()) is not None:
            await sender.send_body(chunk)
        await sender.send_body(b"", more=False)


class _Sender:
    """Sends parts of the body, and tells the feed how long that takes."""

    def __init__(self, send: Send, feed: Feed) -> None:
        self.send = send
        self._feed = feed

    async def send_body(self, body: bytes, *, more: bool = True) -> None:
        self._feed.begin_sending()
        try:
            await self.send({"type": "http.response.body", "body": body, "more_body": more})
        except OSError:
            # The user has left. ASGI lets a server say so in this way.
            self._feed.scope.cancel()
        self._feed.end_sending()


async def _iterate(
    items: Iterable[_Item] | AsyncIterable[_Item],
) -> AsyncGenerator[_Item, None]:
    """Iterate over what may be an iterable or an async one."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _close(items: object) -> None:
    """Close a generator, which may hold a database's session, in bounded time."""
    if isinstance(items, Generator):
        items.close()
    elif isinstance(items, AsyncGenerator):
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            await items.aclose()
