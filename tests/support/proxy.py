"""A TCP proxy between clients and a hub, which does to connections what networks do to them.

It runs in the event loop of the test and never changes, adds or reorders a byte. It moves them
with sockets of its own rather than with AnyIO's streams, which half-close before they close: here
a reset has to be one, and a byte by itself too.
"""

from __future__ import annotations

import enum
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from support.peers import reset_when_closed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

#: Bytes that the system buffers for the proxy. Small, so that who sends to it soon feels that
#: nobody reads.
_BUFFER_SIZE: Final = 8_192

_READ_SIZE: Final = 65_536


class Way(enum.Enum):
    """A direction."""

    TO_HUB = "to the hub"
    TO_CLIENT = "to the client"


class _Reset:
    """A reset that is due.

    :param left: bytes that pass before it
    """

    def __init__(self, left: int) -> None:
        self.left = left
        self.happened = anyio.Event()


class Proxy:
    """Forwards connections, unharmed until it is told otherwise.

    :param hub_port: where the hub is, on loopback
    :param port: where the proxy listens
    """

    def __init__(self, hub_port: int, port: int) -> None:
        #: What clients connect to.
        self.url = f"hyps://127.0.0.1:{port}"
        #: Bytes that were forwarded, over all connections.
        self.passed = dict.fromkeys(Way, 0)
        #: Forward single bytes.
        self.is_trickling = False
        self._hub_port = hub_port
        self._is_cut = False
        self._relays: set[_Relay] = set()
        #: Set while bytes may pass.
        self.may_pass = {way: anyio.Event() for way in Way}
        #: Resets that are due.
        self.resets: dict[Way, _Reset] = {}
        self.release()

    def cut(self) -> None:
        """Drop all connections, and close new ones at once, until :meth:`restore`."""
        self._is_cut = True
        for relay in self._relays:
            relay.scope.cancel()

    def restore(self) -> None:
        """Forward new connections again."""
        self._is_cut = False

    def swallow(self) -> None:
        """Make the present connections half-open: to both ends the other one falls silent."""
        for relay in self._relays:
            relay.swallows = True

    def hold(self, way: Way) -> None:
        """Forward nothing in a direction, and read next to nothing, until :meth:`release`."""
        self.may_pass[way] = anyio.Event()

    def release(self) -> None:
        """Forward what was held, in both directions."""
        for event in self.may_pass.values():
            event.set()

    def reset_after(self, way: Way, count: int) -> anyio.Event:
        """Reset the connection that carries the last of so many more bytes, and cut the others.

        With 0 it is the connection that would carry the next byte.

        :return: set when that has happened
        """
        reset = self.resets[way] = _Reset(count)
        return reset.happened

    async def accept(self, listener: socket.socket, tasks: TaskGroup) -> None:
        """Forward each connection, in a task of its own."""
        while True:
            await anyio.wait_readable(listener)
            client = listener.accept()[0]
            if self._is_cut:
                client.close()
                continue
            hub = socket.socket()
            # Before connecting, as the window is agreed upon then.
            hub.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_SIZE)
            try:
                # On loopback this is done by the system, without waiting for the hub.
                hub.connect(("127.0.0.1", self._hub_port))
            except ConnectionRefusedError:
                client.close()
                hub.close()
            else:
                tasks.start_soon(self._relay, client, hub)

    async def _relay(self, client: socket.socket, hub: socket.socket) -> None:
        relay = _Relay(self, client, hub)
        self._relays.add(relay)
        try:
            await relay.run()
        finally:
            self._relays.discard(relay)


class _Relay:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, hub: socket.socket) -> None:
        self.scope = anyio.CancelScope()
        self.swallows = False
        self._proxy = proxy
        self._client = client
        self._hub = hub

    async def run(self) -> None:
        with self._client, self._hub, self.scope:
            self._client.setblocking(False)
            self._hub.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._copy, Way.TO_HUB, self._client, self._hub)
                tasks.start_soon(self._copy, Way.TO_CLIENT, self._hub, self._client)

    async def _copy(self, way: Way, source: socket.socket, sink: socket.socket) -> None:
        proxy = self._proxy
        try:
            while data := await _receive(source, 1 if proxy.is_trickling else _READ_SIZE):
                await proxy.may_pass[way].wait()
                if not self.swallows:
                    await self._forward(way, data, sink)
            await proxy.may_pass[way].wait()
            if not self.swallows:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One end has reset it. Of a swallowed connection the other one must not know.
            if not self.swallows:
                self._reset()

    async def _forward(self, way: Way, data: bytes, sink: socket.socket) -> None:
        reset = self._proxy.resets.get(way)
        if reset is not None:
            data = data[: reset.left]
            reset.left -= len(data)
        await _send(sink, data)
        self._proxy.passed[way] += len(data)
        if reset is not None and not reset.left:
            del self._proxy.resets[way]
            self._reset()
            self._proxy.cut()
            reset.happened.set()

    def _reset(self) -> None:
        reset_when_closed(self._client)
        reset_when_closed(self._hub)
        self.scope.cancel()


async def _receive(source: socket.socket, size: int) -> bytes:
    await anyio.wait_readable(source)
    return source.recv(size)


async def _send(sink: socket.socket, data: bytes) -> None:
    while data:
        await anyio.wait_writable(sink)
        data = data[sink.send(data) :]


@asynccontextmanager
async def proxy_to(hub_port: int) -> AsyncIterator[Proxy]:
    """Run a proxy before a hub."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        proxy = Proxy(hub_port, listener.getsockname()[1])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.accept, listener, tasks)
            yield proxy
            tasks.cancel_scope.cancel()
