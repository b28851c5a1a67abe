"""A subscription over a WebSocket."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, TypeAlias

import anyio
from starlette.websockets import WebSocketDisconnect, WebSocketState

from ..asgi._events import describe_gap
from ..asgi._feed import LOG, CannotBegin, Feed, name_of
from ..asgi._stream import check_options
from ..protocol import (
    Gap,
    HypsError,
    InvalidChannel,
    Message,
    MessageTooLarge,
    PermissionDenied,
)
from ._racing import run_until_first

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from starlette.websockets import WebSocket

    from ..asgi._feed import AnySubscription

    EncodeFrame: TypeAlias = Callable[[Message | Gap], str | bytes | None]

# The codes of RFC 6455 and its registry.
_POLICY_VIOLATION = 1008
_SERVICE_RESTART = 1012
_TRY_AGAIN_LATER = 1013

#: What a server raises when something is sent to a user who has left: Starlette makes a
#: ``WebSocketDisconnect`` of an ``OSError``, and uvicorn raises ``RuntimeError`` when it has closed
#: the WebSocket itself, because the user answers no ping.
_GONE = (WebSocketDisconnect, OSError, RuntimeError)

#: Seconds for ``on_text`` and ``on_bytes`` when the server stops; then they are cancelled.
_FINISH_TIMEOUT = 2.0

#: A close frame has room for 123 bytes of reason.
_MAX_REASON = 100

#: Seconds for a close frame. A user who reads nothing does not take it.
_CLOSE_TIMEOUT = 1.0


def encode(item: Message | Gap) -> str | bytes:
    """Make a frame of a message or a gap.

    Text is JSON, an object whose keys tell what it is, so that nothing that a user says can pass
    for something else.

    :return: for a message, ``{"channel": ..., "data": ...}``, or its bytes if they are not UTF-8;
        for a gap, ``{"gap": {"channel": ..., "missed": ..., "reason": ...}}``, where ``missed`` is
        null if nobody knows
    """
    if isinstance(item, Gap):
        return json.dumps({"gap": describe_gap(item)})
    try:
        text = item.data.decode()
    except UnicodeDecodeError:
        return item.data
    return json.dumps({"channel": item.channel, "data": text}, ensure_ascii=False)


async def websocket(
    ws: WebSocket,
    subscription: AnySubscription,
    *,
    on_text: Callable[[str], Awaitable[object]] | None = None,
    on_bytes: Callable[[bytes], Awaitable[object]] | None = None,
    encode: EncodeFrame = encode,
    send_timeout: float = 30.0,
) -> None:
    """Send a subscription over a WebSocket, and take what the user sends, until the end::

        @app.websocket("/ws/{room}")
        async def chat(ws: WebSocket, room: str) -> None:
            await websocket(ws, client.subscribe(room), on_text=lambda t: client.publish(room, t))

    The subscription is entered before the WebSocket is accepted. If the hub refuses a channel, the
    WebSocket is closed with 1008 instead of accepted, which the browser sees as HTTP 403. If there
    is no hub for 5 seconds, it is accepted and closed with 1013. It is closed with 1012 when the
    server stops, and with 1013 if the user reads too slowly.

    A message is sent as JSON, ``{"channel": ..., "data": ...}``, and a gap as ``{"gap": {...}}``,
    unless ``encode`` makes something else of them.

    An error of Hyps or a ``TimeoutError`` in ``on_text`` or ``on_bytes``, such as a publish without
    a hub, ends nothing: the user is sent JSON, ``{"error": {"type": ..., "message": ...}}``, and
    the log has the details. Other exceptions leave this function. When the server stops, they
    have 2 seconds to finish, and are cancelled then.

    :param ws: not accepted
    :param subscription: not entered; this function enters and leaves it
    :param on_text: called and awaited with each text that the user sends; None ignores them
    :param on_bytes: likewise with bytes
    :param encode: makes of each message and gap a text or binary frame, or None to leave it out
    :param send_timeout: seconds that the user may take for a frame
    :raises ValueError: if the timeout is not positive
    """
    check_options(encode, send_timeout=send_timeout)
    async with AsyncExitStack() as stack:
        try:
            feed = await stack.enter_async_context(
                Feed(subscription, send_timeout, name_of(ws.scope))
            )
        except (InvalidChannel, PermissionDenied) as error:
            with suppress(*_GONE):
                await ws.close(_POLICY_VIOLATION, str(error)[:_MAX_REASON])
            return
        except CannotBegin:
            with suppress(*_GONE):
                await ws.accept()
                await ws.close(_TRY_AGAIN_LATER, "no hub")
            return
        try:
            await ws.accept()
        except _GONE:
            return
        talk = _Talk(ws, feed, encode, on_text, on_bytes)
        await run_until_first(feed.scope, talk.send_items, talk.receive)
        await talk.close()


def _describe(error: Exception) -> str:
    """Say what went wrong in words for a user, who need not know where the hub is."""
    if isinstance(error, InvalidChannel | MessageTooLarge):
        return str(error)
    if isinstance(error, PermissionDenied):
        return "this is not allowed"
    return "this may not have been sent: the hub is away, or it took too long"


class _Talk:
    """What goes on over one WebSocket, in both directions."""

    def __init__(
        self,
        ws: WebSocket,
        feed: Feed,
        encode: EncodeFrame,
        on_text: Callable[[str], Awaitable[object]] | None,
        on_bytes: Callable[[bytes], Awaitable[object]] | None,
    ) -> None:
        self._ws = ws
        self._feed = feed
        self._encode = encode
        self._on_text = on_text
        self._on_bytes = on_bytes
        # Both tasks send, and the feed judges one send at a time.
        self._lock = anyio.Lock()
        # Held while something that the user has sent is handled.
        self._handling = anyio.Lock()
        self._has_left = False

    async def send_items(self) -> None:
        """Send messages and gaps, until the subscription ends."""
        while (items := await self._feed.read()) is not None:
            for item in items:
                frame = self._encode(item)
                if frame is not None:
                    await self._send(frame)
        # The server stops. Let what the user has sent come to an end, and begin nothing more.
        with anyio.move_on_after(_FINISH_TIMEOUT):
            await self._handling.acquire()

    async def receive(self) -> None:
        """Take what the user sends, until the user leaves."""
        while not self._has_left:
            message = await self._ws.receive()
            if message["type"] == "websocket.disconnect":
                self._has_left = True
                return
            try:
                async with self._handling:
                    await self._handle(message)
            except (HypsError, TimeoutError) as error:
                LOG.info("%s: what its user sent failed: %s", name_of(self._ws.scope), error)
                described = {"type": type(error).__name__, "message": _describe(error)}
                await self._send(json.dumps({"error": described}))

    async def _handle(self, message: MutableMapping[str, Any]) -> None:
        text, data = message.get("text"), message.get("bytes")
        if text is not None and self._on_text is not None:
            await self._on_text(text)
        elif data is not None and self._on_bytes is not None:
            await self._on_bytes(data)

    async def _send(self, frame: str | bytes) -> None:
        async with self._lock:
            self._feed.begin_sending()
            try:
                if isinstance(frame, str):
                    await self._ws.send_text(frame)
                elif isinstance(frame, bytes):
                    await self._ws.send_bytes(frame)
                else:
                    kind = type(frame).__name__
                    raise TypeError(f"encode must return a str, bytes or None, not {kind}")
            except _GONE:
                self._has_left = True
                self._feed.scope.cancel()
            self._feed.end_sending()

    async def close(self) -> None:
        """Close the WebSocket, unless the user has."""
        if self._has_left or self._ws.application_state is not WebSocketState.CONNECTED:
            return
        if self._feed.is_too_slow:
            code, reason = _TRY_AGAIN_LATER, "too slow"
        else:
            code, reason = _SERVICE_RESTART, "the server stops"
        with anyio.move_on_after(_CLOSE_TIMEOUT), suppress(*_GONE):
            await self._ws.close(code, reason)
