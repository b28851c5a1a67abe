"""Hyps: the hub of this package, and its client."""

from __future__ import annotations

import select
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hyps

from ..processes import PATIENCE, Missing, running
from ..report import package
from .base import CHANNEL, Holder, Pair, Reader, Session, System, Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import ExitStack

_HUB: Final = Path(__file__).with_name("hub_process.py")


def _reader(subscription: hyps.Subscription) -> Reader:
    async def read(size: int, tally: Tally) -> None:
        left = size
        data = b""
        try:
            async for message in subscription:
                data = message.data
                left -= 1
                if not left:
                    left = size
                    tally(size, data)
        finally:
            tally(size - left, data)

    return read


def _batch_reader(subscription: hyps.Subscription) -> Reader:
    async def read(size: int, tally: Tally) -> None:
        left = size
        try:
            while True:
                messages = await subscription.receive_many()
                left -= len(messages)
                while left <= 0:
                    # Behind the last of this size there may be some of the next.
                    tally(size, messages[left - 1].data)
                    left += size
        finally:
            tally(size - left, b"")

    return read


class _HypsSession(Session):
    def __init__(self, client: hyps.Client, subscriptions: Sequence[hyps.Subscription]) -> None:
        self._client = client
        self.readers = [_reader(each) for each in subscriptions]
        self.batch_readers = [_batch_reader(each) for each in subscriptions]

    async def publish(self, channel: str, data: bytes) -> None:
        await self._client.publish(channel, data)

    async def publish_many(self, messages: Sequence[Pair]) -> None:
        await self._client.publish_many(messages)

    async def publish_each(self, messages: Sequence[Pair]) -> None:
        for channel, data in messages:
            self._client.publish_nowait(channel, data)
        await self._client.flush()


class _HypsHolder(Holder):
    def __init__(self, client: hyps.Client, stack: AsyncExitStack) -> None:
        self._client = client
        self._stack = stack
        self._held: list[hyps.Subscription] = []

    async def subscribe(self, channels: Sequence[str]) -> None:
        await self._stack.enter_async_context(self._client.subscribe(*channels))

    async def add_subscriptions(self, count: int) -> None:
        # Not entered by the stack, which takes more memory than what is measured. The end of the
        # client ends them.
        for _ in range(count):
            self._held.append(await self._client.subscribe(CHANNEL).__aenter__())


class HypsHub(System):
    """A hub in a process of its own, and a client with everything at its default."""

    name = "hyps"
    loops = frozenset({"asyncio", "uvloop", "trio"})

    _url = ""

    def start(self, stack: ExitStack) -> None:
        # -P: the folder of the script holds modules of the benchmarks, not of the hub.
        process = stack.enter_context(running([sys.executable, "-P", str(_HUB)]))
        assert process.stdout is not None
        if select.select([process.stdout], [], [], PATIENCE)[0]:
            self._url = process.stdout.readline().decode().strip()
        if not self._url:
            raise Missing("the hub did not start")
        self.pid = process.pid

    @property
    def versions(self) -> str:
        return f"{package('hyps')}, {package('anyio')}"

    @asynccontextmanager
    async def session(self, channels: Sequence[str] = (CHANNEL,)) -> AsyncIterator[Session]:
        async with (
            hyps.connect(self._url) as client,
            client.subscribe(*channels) as subscription,
        ):
            yield _HypsSession(client, [subscription])

    @asynccontextmanager
    async def group(self, readers: int, *, shared: bool) -> AsyncIterator[Session]:
        async with AsyncExitStack() as stack:
            publisher = await stack.enter_async_context(hyps.connect(self._url))
            subscriptions = []
            for _ in range(readers):
                client = publisher
                if not shared:
                    client = await stack.enter_async_context(hyps.connect(self._url))
                subscription = await stack.enter_async_context(client.subscribe(CHANNEL))
                subscriptions.append(subscription)
            yield _HypsSession(publisher, subscriptions)

    @asynccontextmanager
    async def holder(self) -> AsyncIterator[Holder]:
        async with hyps.connect(self._url) as client, AsyncExitStack() as stack:
            yield _HypsHolder(client, stack)
