"""A TCP proxy that does to connections what networks do to them. It never changes a byte."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from random import Random

    from anyio.abc import SocketStream

    from .report import Report

#: Seconds from one fault of a connection to the next, on average.
_FAULT_EVERY: Final = 4.0

#: Small, so that a hub feels that nobody reads before its system has buffered megabytes; but room
#: for a segment of loopback, or what a dead connection still holds takes minutes to arrive.
_BUFFER_SIZE: Final = 65_536

#: Seconds in which both ends of a swallowed connection must have given up: each waits for two
#: heartbeats of a second, and for its goodbye.
_SWALLOWED_FOR: Final = 15.0

#: Bytes that are sent one by one before a connection is well again.
_TRICKLE: Final = 200

_FAULTS: Final = ("cut", "reset", "reset mid-frame", "swallow", "hold", "byte by byte")
_WEIGHTS: Final = (2, 2, 3, 2, 6, 4)

_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Proxy:
    """Forwards connections to a hub, until it is told to do them harm.

    :param hub: port of the hub, on loopback
    """

    def __init__(self, hub: int, random: Random, report: Report) -> None:
        self.hub = hub
        self.random = random
        self.report = report
        #: Connections now.
        self.open = 0
        self.is_calm = False

    async def handle(self, client: SocketStream) -> None:
        """Forward one connection."""
        self.report.counts["connections"] += 1
        async with client:
            try:
                hub = await anyio.connect_tcp("127.0.0.1", self.hub)
            except OSError:
                # The hub restarts.
                return
            async with hub:
                self.open += 1
                try:
                    await _Relay(self, client, hub).run()
                finally:
                    self.open -= 1


class _Relay:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: SocketStream, hub: SocketStream) -> None:
        self._proxy = proxy
        self._random = proxy.random
        self._streams = (client, hub)
        self._scope = anyio.CancelScope()
        self._swallows = False
        self._cuts_frame = False
        self._may_pass = anyio.Event()
        self._may_pass.set()
        # Those who have not closed or reset their end.
        self._present = {"client", "hub"}
        # Bytes that are still to be sent one by one.
        self._trickle = 0

    async def run(self) -> None:
        client, hub = self._streams
        for stream in self._streams:
            _set(stream, socket.SO_RCVBUF, _BUFFER_SIZE)
            _set(stream, socket.SO_SNDBUF, _BUFFER_SIZE)
        with self._scope:
            async with anyio.create_task_group() as tasks:
                async with anyio.create_task_group() as copies:
                    copies.start_soon(self._copy, "client", client, hub)
                    copies.start_soon(self._copy, "hub", hub, client)
                    tasks.start_soon(self._misbehave)
                tasks.cancel_scope.cancel()

    async def _copy(self, name: str, source: SocketStream, sink: SocketStream) -> None:
        try:
            async for data in source:
                await self._may_pass.wait()
                if not self._swallows:
                    await self._send(sink, data)
            self._present.discard(name)
            if not self._swallows:
                await sink.send_eof()
        except (*_BROKEN, RuntimeError):
            # uvloop raises RuntimeError at the half-close of a connection that was reset.
            self._present.discard(name)
            if not self._swallows:
                self._reset()

    async def _send(self, sink: SocketStream, data: bytes) -> None:
        if self._cuts_frame:
            await sink.send(data[: self._random.randrange(len(data)) or 1])
            self._reset()
        while self._trickle and data:
            # Both directions take from it.
            self._trickle -= 1
            await sink.send(data[:1])
            data = data[1:]
        if data:
            await sink.send(data)

    def _reset(self) -> None:
        """End both connections with RST instead of FIN."""
        for stream in self._streams:
            _set(stream, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._scope.cancel()

    async def _misbehave(self) -> None:
        while True:
            await anyio.sleep(self._random.expovariate(1 / _FAULT_EVERY))
            if self._proxy.is_calm:
                return
            fault = self._random.choices(_FAULTS, _WEIGHTS)[0]
            self._proxy.report.faults[fault] += 1
            match fault:
                case "cut":
                    self._scope.cancel()
                case "reset":
                    self._reset()
                case "reset mid-frame":
                    self._cuts_frame = True
                case "swallow":
                    await self._swallow()
                case "hold":
                    self._may_pass = anyio.Event()
                    await anyio.sleep(self._random.uniform(0.05, 1.5))
                    self._may_pass.set()
                case "byte by byte":
                    self._trickle = _TRICKLE

    async def _swallow(self) -> None:
        self._swallows = True
        await anyio.sleep(_SWALLOWED_FOR)
        left = " and ".join(sorted(self._present))
        self._proxy.report.fail(
            f"a half-open connection was not given up in {_SWALLOWED_FOR} s by the {left}"
        )
        self._scope.cancel()


def _set(stream: SocketStream, option: int, value: int | bytes) -> None:
    # It may be gone already, which uvloop shows by having no socket, or a bad one.
    with suppress(OSError, AttributeError, ValueError, anyio.TypedAttributeLookupError):
        raw = stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, option, value)
