"""An ASGI server for one request, which is the test."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

    App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class Exchange:
    """One request or WebSocket: what the user sends, and what the application does.

    :param app: the application
    :param scope: the connection's
    """

    def __init__(self, app: App, **scope: Any) -> None:
        self._app = app
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "root_path": "",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            **scope,
        }
        self._to_app, self._from_user = anyio.create_memory_object_stream[Any](math.inf)
        self._to_user, self.sent = anyio.create_memory_object_stream[Any](0)
        #: What the application raised, at its end.
        self.error: Exception | None = None
        self.ended = anyio.Event()

    async def run(self) -> None:
        """Run the application, which a task of the test does."""
        try:
            await self._app(self._scope, self._from_user.receive, self._send)
        except Exception as error:
            self.error = error
        self.ended.set()

    async def _send(self, message: Any) -> None:
        try:
            await self._to_user.send(message)
        except anyio.BrokenResourceError:
            # This is what servers raise.
            raise OSError("the user has left") from None

    def send(self, **message: Any) -> None:
        """Let the user send something, or leave."""
        self._to_app.send_nowait(message)

    async def receive(self) -> Any:
        """Receive what the application sends next."""
        return await self.sent.receive()

    async def receive_body(self, *words: str) -> str:
        """Receive parts of the body, until they have these words."""
        text = ""
        while not all(word in text for word in words):
            text += (await self.receive())["body"].decode()
        return text

    def close(self) -> None:
        """Let go of everything."""
        for stream in (self._to_app, self._from_user, self._to_user, self.sent):
            stream.close()

    async def receive_body_start(self) -> None:
        """Receive the status line, and the first part of the body."""
        assert (await self.receive())["type"] == "http.response.start"
        assert (await self.receive())["more_body"]


@asynccontextmanager
async def exchanging(app: App, farewell: str, **scope: Any) -> AsyncIterator[Exchange]:
    """Let a user connect, and leave at the end.

    :param farewell: the type of the message that tells the application of the end
    """
    exchange = Exchange(app, **scope)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.run)
            yield exchange
            exchange.send(type=farewell, code=1001)
            await exchange.ended.wait()
    finally:
        exchange.close()
