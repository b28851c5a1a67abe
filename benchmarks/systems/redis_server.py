"""Redis, with redis-py and hiredis."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from ..processes import PATIENCE, Missing, free_port, running, wait_for_answer
from ..report import package
from .base import CHANNEL, CannotDo, Holder, Pair, Reader, Session, System, Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import ExitStack

    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

#: No bound on connections: each task that publishes takes one for as long as it waits, and with
#: fewer than it has tasks redis-py is slower.
_MAX_CONNECTIONS: Final = 100_000


def _reader(pubsub: PubSub) -> Reader:
    async def read(size: int, tally: Tally) -> None:
        left = size
        data = b""
        try:
            # Nothing but messages comes, as the answer to the subscribing was read before.
            async for message in pubsub.listen():
                data = message["data"]
                left -= 1
                if not left:
                    left = size
                    tally(size, data)
        finally:
            tally(size - left, data)

    return read


async def _subscribe(pubsub: PubSub, channels: Sequence[str]) -> None:
    """Subscribe with one command, and read the answer of each channel."""
    await pubsub.subscribe(*channels)
    for _ in channels:
        if await pubsub.get_message(timeout=PATIENCE) is None:
            raise RuntimeError("Redis did not answer the subscribing")


class _RedisSession(Session):
    """Publishing takes a connection of a pool, and each subscription has one of its own.

    A window of messages is a pipeline: there is no faster way to publish with redis-py, and it
    takes the messages one by one in any case.
    """

    def __init__(self, client: Redis, pubsubs: Sequence[PubSub]) -> None:
        self._client = client
        self.readers = [_reader(each) for each in pubsubs]

    async def publish(self, channel: str, data: bytes) -> None:
        await self._client.publish(channel, data)

    async def publish_many(self, messages: Sequence[Pair]) -> None:
        # Without a transaction: Redis would only have more to do.
        async with self._client.pipeline(transaction=False) as pipeline:
            for channel, data in messages:
                pipeline.publish(channel, data)
            await pipeline.execute()

    async def publish_each(self, messages: Sequence[Pair]) -> None:
        await self.publish_many(messages)


class _RedisHolder(Holder):
    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub

    async def subscribe(self, channels: Sequence[str]) -> None:
        await _subscribe(self._pubsub, channels)

    async def add_subscriptions(self, count: int) -> None:
        raise CannotDo("each of its subscriptions is a connection, and so many are not to be had")


class RedisServer(System):
    """A Redis server that writes nothing to disk.

    Where one client has many subscriptions of a channel, each is a ``PubSub``, as tutorials have it
    for the handlers of SSE and WebSockets. It has a connection of its own, over which Redis sends a
    copy. One ``PubSub`` and a queue for each reader, filled by the program itself, would be faster:
    that is what Hyps' client does, and with redis-py it is the user's to write.
    """

    name = "redis-py"

    _program = ""
    _port = 0

    def start(self, stack: ExitStack) -> None:
        for name in ("redis", "hiredis"):
            if find_spec(name) is None:
                raise Missing(f"{name} is not installed")
        self._program = shutil.which("redis-server") or ""
        if not self._program:
            raise Missing("redis-server is not on the PATH")
        self._port = free_port()
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": stack.enter_context(TemporaryDirectory()),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "logfile": "redis.log",
            # Redis starts with fewer if the system does not allow so many files.
            "maxclients": "10000",
        }
        command = [self._program]
        for option, value in options.items():
            command += [f"--{option}", value]
        process = stack.enter_context(running(command))
        wait_for_answer(process, self._port, b"PING\r\n", b"+PONG")
        self.pid = process.pid

    @property
    def versions(self) -> str:
        told = subprocess.run(
            [self._program, "--version"], capture_output=True, text=True, check=True
        ).stdout
        server = next((word[2:] for word in told.split() if word.startswith("v=")), "?")
        return f"Redis {server}, {package('redis')}, {package('hiredis')}"

    def _connect(self) -> Redis:
        from redis.asyncio import Redis

        return Redis(host="127.0.0.1", port=self._port, max_connections=_MAX_CONNECTIONS)

    @asynccontextmanager
    async def session(self, channels: Sequence[str] = (CHANNEL,)) -> AsyncIterator[Session]:
        async with self._connect() as client, client.pubsub() as pubsub:
            await _subscribe(pubsub, channels)
            yield _RedisSession(client, [pubsub])

    @asynccontextmanager
    async def group(self, readers: int, *, shared: bool) -> AsyncIterator[Session]:
        # Shared or not: see the class.
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._connect())
            pubsubs = []
            for _ in range(readers):
                pubsub = await stack.enter_async_context(client.pubsub())
                await _subscribe(pubsub, [CHANNEL])
                pubsubs.append(pubsub)
            yield _RedisSession(client, pubsubs)

    @asynccontextmanager
    async def holder(self) -> AsyncIterator[Holder]:
        async with self._connect() as client, client.pubsub() as pubsub:
            # So that it is connected, as the others are.
            await pubsub.connect()
            yield _RedisHolder(pubsub)
