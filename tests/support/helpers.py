"""What the tests of the I/O layers share: hubs at every transport, and waiting without sleeping."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio.lowlevel import checkpoint

import hyps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path
    from typing import TypeAlias

    import pytest
    from anyio.abc import TaskGroup

    PublishOne: TypeAlias = Callable[[hyps.Client, str, bytes], Awaitable[None]]
    Read: TypeAlias = Callable[[hyps.Subscription], Awaitable[object]]

#: Seconds in which what must happen happens. A bound for failures only: nothing waits so long.
PATIENCE: Final = 10

TRANSPORTS: Final = ("tcp", "unix", "memory", "http")

#: What clients may speak over TCP.
SCHEMES: Final = ("hyps", "http")

T = TypeVar("T")


async def wait_until(condition: Callable[[], object]) -> None:
    """Let others run until a condition holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await checkpoint()


async def let_others_run(passes: int = 50) -> None:
    """Give what must not happen every occasion to happen."""
    for _ in range(passes):
        await checkpoint()


class Outcome(Generic[T]):
    """What became of a call in another task."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._error: Exception | None = None
        self._value: T

    @property
    def is_known(self) -> bool:
        return self._ended.is_set()

    async def _run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> None:
        with self.scope:
            try:
                self._value = await function(*arguments)
            except Exception as error:
                self._error = error
        self._ended.set()

    async def get(self) -> T:
        """Wait for the call to end, and give what it returned or raise what it raised."""
        with anyio.fail_after(PATIENCE):
            await self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._value

    async def cancel(self) -> None:
        """Cancel the call, and wait for its end."""
        self.scope.cancel()
        with anyio.fail_after(PATIENCE):
            await self._ended.wait()
        assert self.scope.cancelled_caught


def begin(tasks: TaskGroup, function: Callable[..., Awaitable[T]], *arguments: Any) -> Outcome[T]:
    """Call an async function in another task."""
    outcome: Outcome[T] = Outcome()
    tasks.start_soon(outcome._run, function, *arguments)
    return outcome


@asynccontextmanager
async def hub_at(transport: str, folder: Path, **options: Any) -> AsyncIterator[str]:
    """Give the URL of a hub of its own."""
    if transport == "memory":
        yield f"memory://{folder.name}"
        return
    uds = folder / "hub.sock" if transport == "unix" else None
    kind = Http2Server if transport == "http" else hyps.Server
    async with kind(port=0, uds=uds, **options) as server:
        yield server.urls[0]


class Http2Server(hyps.Server):
    """A hub whose clients are told to speak HTTP/2."""

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(url.replace("hyps", "http", 1) for url in super().urls)


def holds(server: hyps.Server, channels: int) -> bool:
    """Tell whether a hub holds so many channels; over HTTP/2 nobody tells it to let one go."""
    found = server.broker.channels
    return found >= channels if isinstance(server, Http2Server) else found == channels


@asynccontextmanager
async def memory_client() -> AsyncIterator[hyps.Client]:
    """Give a client of a hub that nobody else knows."""
    async with hyps.connect("memory://of-one-test") as client:
        yield client


def port_of(server: hyps.Server) -> int:
    port = urlsplit(server.urls[0]).port
    assert port is not None
    return port


async def take(subscription: hyps.Subscription, count: int) -> list[hyps.Message]:
    """Read so many messages."""
    with anyio.fail_after(PATIENCE):
        return [await subscription.receive() for _ in range(count)]


async def take_data(subscription: hyps.Subscription, count: int) -> list[bytes]:
    """Read so many messages, and give their bytes."""
    return [message.data for message in await take(subscription, count)]


async def drain(subscription: hyps.Subscription) -> list[bytes]:
    """Iterate to the end."""
    return [message.data async for message in subscription]


def numbered(channel: str, count: int) -> Iterable[tuple[str, bytes]]:
    """Make so many messages of a channel, all different."""
    return ((channel, str(number).encode()) for number in range(count))


def data_of(messages: Iterable[tuple[str, bytes]]) -> list[bytes]:
    return [data for _, data in messages]


def logged(caplog: pytest.LogCaptureFixture, logger: str, level: int) -> list[str]:
    """Texts of what was logged, at this level or above."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == logger and record.levelno >= level
    ]


def warned(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    """Texts of the warnings that were logged."""
    return logged(caplog, logger, logging.WARNING)


def audited(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """Fields of the lines in the audit log, for an event such as ``"session opened"``."""
    return [
        record.__dict__["hyps"]
        for record in caplog.records
        if record.name == "hyps.audit" and record.__dict__["hyps_event"] == event
    ]


async def reason_of_loss(client: hyps.Client) -> str:
    """Wait until a client has lost its connection, and give the reason."""
    with anyio.fail_after(PATIENCE):
        async for event in client.events():
            if isinstance(event, hyps.Disconnected):
                return event.reason
    raise AssertionError("it was shut down")


async def receive_by_iterating(subscription: hyps.Subscription) -> None:
    async for _ in subscription:
        return


#: Every way to wait for a message.
READERS: Final = (
    hyps.Subscription.receive,
    hyps.Subscription.receive_many,
    hyps.Subscription.receive_raw,
    receive_by_iterating,
)


@asynccontextmanager
async def healthy_neighbours(server: hyps.Server) -> AsyncIterator[None]:
    """Run a subscriber and a publisher of the same hub meanwhile, and check that they go on."""
    url = server.urls[0]
    async with (
        hyps.connect(url) as reader,
        hyps.connect(url) as writer,
        reader.subscribe("healthy") as subscription,
    ):
        rounds = 0
        is_over = False

        async def go_round() -> None:
            nonlocal rounds
            while not is_over:
                await writer.publish("healthy", str(rounds))
                assert await take_data(subscription, 1) == [b"%d" % rounds]
                rounds += 1

        async with anyio.create_task_group() as tasks:
            going = begin(tasks, go_round)
            await wait_until(lambda: rounds > 1)
            yield
            before = rounds
            await wait_until(lambda: rounds > before + 1)
            is_over = True
            await going.get()
        assert subscription.missed == 0
        # Whoever was refused holds nothing any more.
        await wait_until(lambda: len(server.broker.sessions) == 2)
        assert server.broker.channels == 1


async def publish_one(client: hyps.Client, channel: str, data: bytes) -> None:
    await client.publish(channel, data)


async def publish_some(client: hyps.Client, channel: str, data: bytes) -> None:
    await client.publish_many([(channel, data)])


async def publish_without_waiting(client: hyps.Client, channel: str, data: bytes) -> None:
    client.publish_nowait(channel, data)
