"""NATS, with nats-py."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import anyio

from ..processes import Missing, free_port, running, wait_for_answer
from ..report import package
from .base import CHANNEL, CannotDo, Holder, Pair, Reader, Session, System, Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import ExitStack

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

#: Debian has the server where only root's PATH leads.
_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))

#: Of the server. By default it cuts off a client to which it owes 64 MiB, which two windows of
#: the fan-out to a thousand subscriptions of one client exceed.
_MAX_PENDING: Final = "1GB"


def _iterate(subscriptions: Sequence[Subscription]) -> Reader:
    """Read in ``async for``, which makes a task for each message."""

    async def read(size: int, tally: Tally) -> None:
        left = size

        async def iterate(subscription: Subscription) -> None:
            nonlocal left
            async for message in subscription.messages:
                left -= 1
                if not left:
                    left = size
                    tally(size, message.data)

        try:
            async with anyio.create_task_group() as tasks:
                for subscription in subscriptions:
                    tasks.start_soon(iterate, subscription)
        finally:
            tally(size - left, b"")

    return read


def _ignore(size: int, data: bytes) -> None:
    pass


class _Callback:
    """Reads by a callback, which nats-py's own task of the subscription awaits."""

    def __init__(self) -> None:
        self._size = self._left = 1
        self._tally: Tally = _ignore

    async def on_message(self, message: Msg) -> None:
        data = message.data
        self._left -= 1
        if not self._left:
            self._left = self._size
            self._tally(self._size, data)

    async def __call__(self, size: int, tally: Tally) -> None:
        self._size = self._left = size
        self._tally = tally
        try:
            await anyio.sleep_forever()
        finally:
            tally(size - self._left, b"")
            self._tally = _ignore


class _NatsSession(Session):
    """The ACK is the PONG that ``flush()`` waits for, as the server answers in order.

    There is one for each window, which costs less than an answer to each message. NATS' own answers
    to single messages come with JetStream, which stores them and is another thing.
    """

    def __init__(self, client: Client, readers: Sequence[Reader]) -> None:
        self._client = client
        self.readers = readers

    async def publish(self, channel: str, data: bytes) -> None:
        await self._client.publish(channel, data)
        await self._client.flush()

    async def publish_many(self, messages: Sequence[Pair]) -> None:
        for channel, data in messages:
            await self._client.publish(channel, data)
        await self._client.flush()

    async def publish_each(self, messages: Sequence[Pair]) -> None:
        await self.publish_many(messages)


class _NatsHolder(Holder):
    """Each channel is a subscription of its own: the protocol knows no other.

    Without a callback: with one it would have a task, too.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def subscribe(self, channels: Sequence[str]) -> None:
        for channel in channels:
            await self._client.subscribe(channel)
        await self._client.flush()

    async def add_subscriptions(self, count: int) -> None:
        for _ in range(count):
            await self._client.subscribe(CHANNEL)
        await self._client.flush()


class NatsServer(System):
    """A NATS server without JetStream, and subscriptions that are read in ``async for``."""

    name = "nats-py"
    # Each channel is a subscription with a task of its own.
    orders_channels = False

    _program = ""
    _port = 0

    def start(self, stack: ExitStack) -> None:
        if find_spec("nats") is None:
            raise Missing("nats-py is not installed")
        self._program = shutil.which("nats-server", path=_PATH) or ""
        if not self._program:
            raise Missing("nats-server is not on the PATH")
        self._port = free_port()
        config = Path(stack.enter_context(TemporaryDirectory()), "nats.conf")
        config.write_text(f'listen: "127.0.0.1:{self._port}"\nmax_pending: {_MAX_PENDING}\n')
        process = stack.enter_context(running([self._program, "-c", str(config)]))
        wait_for_answer(process, self._port, b"", b"INFO")
        self.pid = process.pid

    @property
    def versions(self) -> str:
        told = subprocess.run(
            [self._program, "--version"], capture_output=True, text=True, check=True
        ).stdout
        return f"NATS {told.split()[-1].removeprefix('v')}, {package('nats-py')}"

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Client]:
        import nats

        client = await nats.connect(f"nats://127.0.0.1:{self._port}", allow_reconnect=False)
        try:
            yield client
        finally:
            with anyio.CancelScope(shield=True):
                await client.close()

    async def _subscribe(self, client: Client, channels: Sequence[str]) -> Reader:
        # The protocol has no subscription of several channels.
        return _iterate([await client.subscribe(channel) for channel in channels])

    @asynccontextmanager
    async def session(self, channels: Sequence[str] = (CHANNEL,)) -> AsyncIterator[Session]:
        async with self._connect() as client:
            reader = await self._subscribe(client, channels)
            await client.flush()
            yield _NatsSession(client, [reader])

    @asynccontextmanager
    async def group(self, readers: int, *, shared: bool) -> AsyncIterator[Session]:
        async with AsyncExitStack() as stack:
            publisher = await stack.enter_async_context(self._connect())
            found = []
            for _ in range(readers):
                client = publisher
                if not shared:
                    client = await stack.enter_async_context(self._connect())
                found.append(await self._subscribe(client, [CHANNEL]))
                if not shared:
                    await client.flush()
            await publisher.flush()
            yield _NatsSession(publisher, found)

    @asynccontextmanager
    async def holder(self) -> AsyncIterator[Holder]:
        async with self._connect() as client:
            yield _NatsHolder(client)


class NatsCallbacks(NatsServer):
    """The same, with subscriptions that are read by callbacks: nats-py's fastest way."""

    name = "nats-py, callback"
    is_iterated = False

    async def _subscribe(self, client: Client, channels: Sequence[str]) -> Reader:
        reader = _Callback()
        for channel in channels:
            await client.subscribe(channel, cb=reader.on_message)
        return reader

    @asynccontextmanager
    async def holder(self) -> AsyncIterator[Holder]:
        raise CannotDo("nothing is read there")
        yield
