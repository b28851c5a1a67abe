"""A hundred users of server-sent events and a hundred of WebSockets, in one process.

Half of them leave by reset and come back, and the hub is killed twice. Set ``CROWD_SECONDS`` to let
it go on for longer.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute
from support.sites import APPS, TIMEOUT, Hub, Site, free_port, running_site, until

import hyps

if TYPE_CHECKING:
    from anyio.abc import SocketStream

pytestmark = pytest.mark.anyio

SECONDS: Final = float(os.environ.get("CROWD_SECONDS", "12"))
USERS: Final = 100


class User:
    """Reads a stream as it comes from the socket, and keeps account.

    :param path: of the stream
    :param stays: whether the user reads from the beginning to the end
    """

    def __init__(self, path: str, *, stays: bool) -> None:
        self.path = path
        self.stays = stays
        self.last = -1
        self.received = 0
        self.gaps = 0
        self._may_skip = True

    async def use(self, site: Site) -> None:
        """Come, read, leave by reset, and come again; or stay."""
        address = urlsplit(site.url)
        assert address.port is not None
        while True:
            stream = await anyio.connect_tcp("127.0.0.1", address.port)
            async with stream:
                await stream.send(self._request(address.netloc))
                self._may_skip = True
                patience = anyio.CancelScope()
                if not self.stays:
                    patience.deadline = anyio.current_time() + random.uniform(0.2, 3)
                with patience:
                    await self._read(stream)
                if not patience.cancelled_caught:
                    # The server has ended the stream.
                    await anyio.sleep(0.1)
                raw = stream.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def _request(self, host: str) -> bytes:
        lines = [f"GET {self.path} HTTP/1.1", f"Host: {host}"]
        if self.path.startswith("/chat"):
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
            lines.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()

    async def _read(self, stream: SocketStream) -> None:
        # Messages are short and words of their own, whatever the framing around them.
        text = ""
        async for data in stream:
            _, ping, rest = data.partition(b"\x89\x04")
            if ping:
                # A server closes the WebSocket of a user who answers no ping.
                await stream.send(b"\x8a\x84\0\0\0\0" + rest[:4])
            text += data.decode("latin-1")
            *words, text = text.replace("\n", " ").replace("\x81", " ").split(" ")
            for word in words:
                self._take(word)

    def _take(self, word: str) -> None:
        if '"missed"' in word:
            self.gaps += 1
            self._may_skip = True
        elif word.startswith("#") and word.endswith("#"):
            number = int(word.strip("#"))
            assert number > self.last, "not in order"
            # A message that is missing was told as a gap.
            assert number == self.last + 1 or self._may_skip, (self.path, self.last, number)
            self._may_skip = False
            self.last = number
            self.received += 1


class Publisher:
    """Publishes a number in both channels, again and again, whatever becomes of the hub."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.count = 0

    async def run(self) -> None:
        async with hyps.connect(self._url, wait=True, reconnect_max_delay=0.1) as client:
            while True:
                # The spaces tell where it begins and ends in a frame.
                data = f" #{self.count}# "
                self.count += 1
                try:
                    await client.publish_many([("news", data), ("room.crowd", data)])
                except hyps.HypsError:
                    # It may have been published, or not: then nobody has missed it.
                    self.count += 0
                await anyio.sleep(0.01)


def count_tasks(site: Site) -> int:
    """Count the tasks of the application's process."""
    tasks: int = httpx.get(site.url).json()["tasks"]
    return tasks


@pytest.mark.patience(SECONDS + 3 * TIMEOUT)
async def test_a_crowd_through_resets_and_kills() -> None:
    port = free_port()
    url = f"hyps://127.0.0.1:{port}"
    with running_site("uvicorn", APPS, url, "site_app") as site:
        hub = Hub(port)
        await until(lambda: hub.stats()["sessions"])
        idle = count_tasks(site)
        users = [
            User(path, stays=number % 2 == 0)
            for path in ("/events", "/chat/crowd")
            for number in range(USERS)
        ]
        publisher = Publisher(url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publisher.run)
            for user in users:
                tasks.start_soon(user.use, site)
            for _ in range(2):
                await anyio.sleep(SECONDS / 3)
                hub.close()
                await anyio.sleep(0.3)
                hub = Hub(port)
            await anyio.sleep(SECONDS / 3)
            tasks.cancel_scope.cancel()
        with closing(hub):
            assert all(user.received > 10 for user in users), [user.received for user in users]
            # Who stayed was told of both kills.
            assert [(user.path, user.gaps) for user in users if user.stays and user.gaps < 2] == []
            # Nothing is left, at the hub or in the process.
            await until(lambda: not hub.stats()["channels"])
            await until(lambda: count_tasks(site) <= idle)
        site.end(timeout=TIMEOUT)
        site.assert_clean()
