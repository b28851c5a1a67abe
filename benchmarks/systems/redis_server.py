"""Redis, with redis-py and hiredis."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, asynccontextmanager, closing
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from ..processes import PATIENCE, Missing, running
from ..report import package
from .base import CHANNEL, Session, System

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub


#: Ports to try: another program may take one between its choice and the server's start.
_ATTEMPTS: Final = 3


class _RedisSession(Session):
    def __init__(self, client: Redis, pubsub: PubSub) -> None:
        self._client = client
        self._pubsub = pubsub

    async def publish(self, data: bytes) -> None:
        await self._client.publish(CHANNEL, data)

    async def publish_many(self, messages: Sequence[bytes]) -> None:
        # Without a transaction: Redis would only have more to do.
        async with self._client.pipeline(transaction=False) as pipeline:
            for data in messages:
                pipeline.publish(CHANNEL, data)
            await pipeline.execute()

    async def read(self, take: Callable[[bytes], None]) -> None:
        # Nothing but messages comes, as the answer to the subscribing was read before.
        async for message in self._pubsub.listen():
            take(message["data"])


class RedisServer(System):
    """A Redis server that writes nothing to disk."""

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
        for _ in range(_ATTEMPTS):
            with ExitStack() as attempt:
                if self._try_to_start(attempt):
                    stack.push(attempt.pop_all())
                    return
        raise Missing("redis-server did not start")

    def _try_to_start(self, stack: ExitStack) -> bool:
        with closing(socket.socket()) as chosen:
            chosen.bind(("127.0.0.1", 0))
            self._port = chosen.getsockname()[1]
        folder = stack.enter_context(TemporaryDirectory())
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": folder,
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "logfile": "redis.log",
        }
        command = [self._program]
        for option, value in options.items():
            command += [f"--{option}", value]
        process = stack.enter_context(running(command))
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.02)
        return False

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as stream:
                stream.sendall(b"PING\r\n")
                return stream.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def versions(self) -> str:
        told = subprocess.run(
            [self._program, "--version"], capture_output=True, text=True, check=True
        ).stdout
        server = next((word[2:] for word in told.split() if word.startswith("v=")), "?")
        return f"Redis {server}, {package('redis')}, {package('hiredis')}"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        from redis.asyncio import Redis

        async with Redis(host="127.0.0.1", port=self._port) as client, client.pubsub() as pubsub:
            await pubsub.subscribe(CHANNEL)
            if await pubsub.get_message(timeout=PATIENCE) is None:
                raise RuntimeError("Redis did not answer the subscribing")
            yield _RedisSession(client, pubsub)
