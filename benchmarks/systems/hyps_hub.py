"""Hyps: the hub of this package, and its client."""

from __future__ import annotations

import select
import sys
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hyps

from ..processes import PATIENCE, Missing, running
from ..report import package
from .base import CHANNEL, Session, System

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import ExitStack

_HUB: Final = Path(__file__).with_name("hub_process.py")


class _HypsSession(Session):
    def __init__(self, client: hyps.Client, subscription: hyps.Subscription) -> None:
        self._client = client
        self._subscription = subscription

    async def publish(self, data: bytes) -> None:
        await self._client.publish(CHANNEL, data)

    async def publish_many(self, messages: Sequence[bytes]) -> None:
        await self._client.publish_many(zip(repeat(CHANNEL), messages))

    async def read(self, take: Callable[[bytes], None]) -> None:
        async for message in self._subscription:
            take(message.data)


class HypsHub(System):
    """A hub in a process of its own, and a client with everything at its default."""

    name = "hyps"
    backends = frozenset({"asyncio", "uvloop", "trio"})

    _url = ""

    def start(self, stack: ExitStack) -> None:
        # -P: the folder of the script holds modules of the benchmarks, not of the hub.
        process = stack.enter_context(running([sys.executable, "-P", str(_HUB)]))
        assert process.stdout is not None
        if select.select([process.stdout], [], [], PATIENCE)[0]:
            self._url = process.stdout.readline().decode().strip()
        if not self._url:
            raise Missing("the hub did not start")

    @property
    def versions(self) -> str:
        return f"{package('hyps')}, {package('anyio')}"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with (
            hyps.connect(self._url) as client,
            client.subscribe(CHANNEL) as subscription,
        ):
            yield _HypsSession(client, subscription)
