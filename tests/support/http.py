"""A client of HTTP/1.1 for tests: one request, or several on one connection."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import h11

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from anyio.abc import SocketStream


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        found = self.json
        assert found.keys() == {"error"}
        return str(found["error"])


class Talk:
    """A connection.

    :param url: where it leads
    """

    def __init__(self, stream: SocketStream, url: str) -> None:
        self.stream = stream
        self._host = urlsplit(url).netloc
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Send a request, and read the answer."""
        found = {"Host": self._host, **(headers or {})}
        if body is not None:
            found.setdefault("Content-Length", str(len(body)))
        request = h11.Request(method=method, target=target, headers=list(found.items()))
        parts = [self._h11.send(request)]
        if body:
            parts.append(self._h11.send(h11.Data(data=body)))
        parts.append(self._h11.send(h11.EndOfMessage()))
        await self.stream.send(b"".join(part or b"" for part in parts))
        response = await self.read()
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return response

    async def read(self) -> Response:
        """Read an answer."""
        status, headers, body = 0, {}, b""
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await self.stream.receive()
                except anyio.EndOfStream:
                    data = b""
                self._h11.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return Response(status, headers, body)
            else:
                assert isinstance(event, h11.InformationalResponse), event

    async def ended(self) -> bytes:
        """Read to the end of the stream."""
        found = b""
        while True:
            try:
                found += await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return found


@asynccontextmanager
async def talking(url: str) -> AsyncIterator[Talk]:
    """Connect to where a URL leads."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
        yield Talk(stream, url)


async def ask(
    url: str,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Response:
    """Send one request on a connection of its own."""
    async with talking(url) as talk:
        return await talk.ask(method, target, headers, body)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
