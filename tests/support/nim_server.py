"""The hub of Hyps for Nim over real sockets, see :mod:`nim`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute
from support.helpers import PATIENCE, begin, wait_until
from support.nim import NimHub
from support.peers import reset_when_closed

import hyps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteStream


class Session:
    """One session: what the hub is told to do is sent by :meth:`flush`, or with its answers."""

    def __init__(self, stream: ByteStream, hub: NimHub) -> None:
        self.hub = hub
        self.is_over = False
        self._stream = stream
        self._sending = anyio.Lock()

    async def run(self) -> None:
        try:
            while True:
                await self.flush()
                self.hub.receive_data(await self._stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self.is_over = True
            await anyio.aclose_forcefully(self._stream)

    async def flush(self) -> None:
        """Send what the hub has to send."""
        async with self._sending:
            data = self.hub.data_to_send()
            if data:
                await self._stream.send(data)

    async def deliver(self, channel: str, *messages: bytes) -> None:
        self.hub.deliver(channel, *messages)
        await self.flush()

    async def answer(self, path: str, codes: bytes) -> None:
        self.hub.answer(path, codes)
        await self.flush()

    async def close(self) -> None:
        self.is_over = True
        await self._stream.aclose()

    async def leave(self) -> None:
        """End as it does: with a goodbye that names an internal error."""
        self.hub.leave()
        await self.flush()
        await self.close()

    async def reset(self) -> None:
        reset_when_closed(self._stream.extra(SocketAttribute.raw_socket))
        await self.close()

    async def expect_end(self) -> None:
        """Wait for the client to close."""
        await wait_until(lambda: self.is_over)


class NimServer:
    """A listener, with the sessions in the order in which they came.

    :param options: of each session's hub; may be changed
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url = url
        self.options = options
        self.sessions: list[Session] = []
        self._taken = 0

    async def accept(self) -> Session:
        """Wait for the next session."""
        self._taken += 1
        await wait_until(lambda: len(self.sessions) >= self._taken)
        return self.sessions[self._taken - 1]

    async def serve(self, stream: ByteStream) -> None:
        session = Session(stream, NimHub(**self.options))
        self.sessions.append(session)
        await session.run()


@asynccontextmanager
async def nim_server(**options: Any) -> AsyncIterator[NimServer]:
    """Listen."""
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with multi, anyio.create_task_group() as tasks:
        port = multi.listeners[0].extra(SocketAttribute.local_port)
        server = NimServer(f"http://127.0.0.1:{port}", options)
        tasks.start_soon(multi.serve, server.serve)
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def connected_to_nim(
    *, limits: hyps.Limits | None = None, **options: Any
) -> AsyncIterator[tuple[hyps.Client, Session]]:
    """Connect a client; its operations do not wait for another connection.

    :param limits: the client's own
    :param options: of the hub
    """
    async with nim_server(**options) as server:
        client = hyps.connect(server.url, limits=limits, when_disconnected="raise")
        async with anyio.create_task_group() as tasks:
            opening = begin(tasks, client.connect)
            session = await server.accept()
            await opening.get()
        try:
            yield client, session
        finally:
            # The hub's end first: then the client need not wait for it.
            await session.close()
            with anyio.fail_after(PATIENCE):
                await client.shutdown()
