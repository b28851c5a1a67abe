"""Users of a site: streams, WebSockets, and what they read."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import websockets
from support.sites import TIMEOUT
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.sites import Site


class Users:
    """Users of a site, each with a stream.

    :param site: which they use
    """

    def __init__(self, site: Site, http: httpx.AsyncClient, stack: AsyncExitStack) -> None:
        self._site = site
        self.http = http
        self._stack = stack
        self.streams: list[AsyncIterator[str]] = []
        self.sockets: list[Any] = []

    async def open_stream(self, path: str) -> AsyncIterator[str]:
        """Request a stream, and wait until it has begun."""
        response = await self._stack.enter_async_context(
            self.http.stream("GET", self._site.url + path)
        )
        assert response.status_code == 200
        lines = response.aiter_lines()
        await anext(lines)
        self.streams.append(lines)
        return lines

    async def open_socket(self, room: str, path: str = "/chat/") -> Any:
        url = f"{self._site.websocket_url}{path}{room}"
        ws = await self._stack.enter_async_context(websockets.connect(url))
        self.sockets.append(ws)
        return ws

    async def publish(self, text: str, channel: str = "news") -> None:
        url = f"{self._site.url}/publish"
        answer = await self.http.post(url, params={"channel": channel}, content=text)
        answer.raise_for_status()

    async def see_ends(self) -> list[object]:
        """Wait until every stream has ended; tell how."""
        ends: list[object] = []

        async def read(lines: AsyncIterator[str]) -> None:
            try:
                async for _ in lines:
                    pass
                ends.append("end")
            except httpx.HTTPError as error:
                ends.append(repr(error))

        async def receive(ws: Any) -> None:
            try:
                while True:
                    await ws.recv()
            except ConnectionClosed:
                ends.append(ws.close_code)

        async with anyio.create_task_group() as tasks:
            for lines in self.streams:
                tasks.start_soon(read, lines)
            for ws in self.sockets:
                tasks.start_soon(receive, ws)
        return ends


async def hear(ws: Any) -> str:
    """Receive a message over a WebSocket."""
    data: str = json.loads(await ws.recv())["data"]
    return data


async def read_until(lines: AsyncIterator[str], words: str) -> str:
    """Read a stream until a line has these words, and return all up to it."""
    text = ""
    with anyio.fail_after(TIMEOUT):
        while words not in text:
            text += await anext(lines) + "\n"
    return text


@asynccontextmanager
async def using(site: Site) -> AsyncIterator[Users]:
    """Let people use a site; at the end they leave."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=TIMEOUT))
        yield Users(site, http, stack)
