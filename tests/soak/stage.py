"""What all parts of the soak share: the hub, which is restarted, and those who publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
from support.http import ask

import hyps
from hyps.ops import HTTPServer

from .account import Book, encode_message
from .ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random

    from .report import Report

#: Short, so that a soak of a minute meets every one of them.
LIMITS: Final = hyps.Limits(
    heartbeat=1,
    hello_timeout=2,
    close_timeout=1,
    keep_time=1,
    max_buffer=16 * 1024,
    max_total_buffer=128 * 1024,
)

#: Seconds in which every call comes to an end. The hub is away for less than one.
PATIENCE: Final = 30

#: Channels, and how many clients publish in them.
_CHANNELS: Final = 40
_PUBLISHERS: Final = 4

#: Seconds that a hub runs, on average, and that there is none, at most.
_RUN_TIME: Final = 15.0
_PAUSE: Final = 0.8

#: Bursts of a channel in a second, on average, and the messages of each.
_BURSTS: Final = 2.0
_BURST_SIZES: Final = (1, 1, 1, 5, 20, 100)
_MESSAGE_SIZES: Final = (0, 0, 0, 100, 2_000)


class Stage:
    """The hub, what was published in it, and when all this is to end."""

    def __init__(self, report: Report, random: Random) -> None:
        self.report = report
        self.random = random
        # One half is always held by a client of the hub itself, the other half is forgotten by
        # the hub now and then.
        self.books = {
            name: Book(name, is_kept=index % 2 == 0)
            for index, name in enumerate(f"channel-{number}" for number in range(_CHANNELS))
        }
        self.port = 0
        #: Runs of the hub so far.
        self.run = 0
        self.server: hyps.Server | None = None
        #: Faults and restarts end; then publishing does; then all clients leave; then the hub does.
        self.calm = anyio.Event()
        self.last_words = anyio.Event()
        self.leave = anyio.Event()
        self.close = anyio.Event()
        self._is_up = anyio.Event()
        #: Publishers that have not ended.
        self.publishing = _PUBLISHERS

    @property
    def url(self) -> str:
        return f"hyps://127.0.0.1:{self.port}"

    def is_up(self, run: int) -> bool:
        """Tell whether this run of the hub goes on."""
        return self.server is not None and self.run == run

    # The hub

    async def run_hubs(self, port: int) -> None:
        """Run one hub after the other, at one port."""
        self.port = port
        while not self.close.is_set():
            ledger = Ledger()
            server = ledger.make_server(port=port, limits=LIMITS)
            self.run += 1
            for book in self.books.values():
                book.begin(self.run)
            async with HTTPServer(server, ":0") as site:
                async with server, anyio.create_task_group() as tasks:
                    self.server = server
                    self._is_up.set()
                    tasks.start_soon(self._publish_over_http, site.urls[0], server, ledger)
                    with anyio.move_on_after(self.random.uniform(0.3, 1.7) * _RUN_TIME):
                        await self.calm.wait()
                    if self.calm.is_set():
                        await self.close.wait()
                    self.server = None
                    self._is_up = anyio.Event()
                    tasks.cancel_scope.cancel()
                self._check_left(server)
                await ledger.check(site.urls[0], self.books.values(), self.report)
            if not self.close.is_set():
                self.report.counts["restarts of the hub"] += 1
                await anyio.sleep(self.random.uniform(0, _PAUSE))

    def _check_left(self, server: hyps.Server) -> None:
        stats = server.broker.stats()
        counts = self.report.counts
        counts["taken by the hub"] += stats.published
        counts["queued by the hub for sessions"] += stats.delivered
        counts["missed by sessions at the hub"] += stats.missed
        self.report.check(not stats.sessions, f"sessions are left in a hub: {stats}")
        self.report.check(not stats.channels, f"channels are held in a hub: {stats}")

    async def _publish_over_http(self, url: str, server: hyps.Server, ledger: Ledger) -> None:
        """Publish now and then as curl does, until the hub leaves."""
        while self.server is server:
            await anyio.sleep(self.random.expovariate(10))
            ledger.posted += 1
            response = await ask(url, "POST", "/publish/posted", body=b"posted")
            ledger.answered += 1
            self.report.check(response.status == 200, f"publishing over HTTP: {response}")

    # Publishing

    async def publish(self) -> None:
        """Publish in all channels, through several connections that nothing happens to."""
        async with anyio.create_task_group() as tasks:
            books = list(self.books.values())
            for index in range(_PUBLISHERS):
                tasks.start_soon(self._publish_in, books[index::_PUBLISHERS])

    async def _publish_in(self, books: Sequence[Book]) -> None:
        while not self.last_words.is_set():
            await self._is_up.wait()
            run = self.run
            try:
                async with (
                    hyps.connect(self.url, when_disconnected="raise", limits=LIMITS) as client,
                    anyio.create_task_group() as tasks,
                ):
                    for book in books:
                        tasks.start_soon(self._publish_bursts, client, book, run)
            except hyps.ConnectionRefused as error:
                self._on_lost(run, error)
        self.publishing -= 1

    async def _publish_bursts(self, client: hyps.Client, book: Book, run: int) -> None:
        try:
            while self.is_up(run):
                with anyio.move_on_after(self.random.expovariate(_BURSTS)):
                    await self.last_words.wait()
                count = self.random.choice(_BURST_SIZES)
                with anyio.fail_after(PATIENCE):
                    await self._publish_burst(client, book, self._burst(book, run, count))
                book.acked = book.issued
                if self.last_words.is_set():
                    return
        except TimeoutError:
            self.report.fail(f"publishing in {book.channel} took more than {PATIENCE} s")
        except hyps.HypsError as error:
            self._on_lost(run, error)

    async def _publish_burst(
        self, client: hyps.Client, book: Book, burst: Iterable[tuple[str, bytes]]
    ) -> None:
        match self.random.randrange(3):
            case 0:
                await client.publish_many(burst)
            case 1:
                for channel, data in burst:
                    await client.publish(channel, data)
                    book.acked = book.issued
            case _:
                for channel, data in burst:
                    client.publish_nowait(channel, data)
                await client.flush()

    def _burst(self, book: Book, run: int, count: int) -> Iterator[tuple[str, bytes]]:
        for _ in range(count):
            # Numbers are for one run: what waits for the next one is not to take any.
            if not self.is_up(run):
                return
            position = book.issue()
            self.report.counts["messages published"] += 1
            yield book.channel, encode_message(position, self.random.choice(_MESSAGE_SIZES))

    def _on_lost(self, run: int, error: hyps.HypsError) -> None:
        if self.is_up(run):
            self.report.fail(f"a publisher that nothing happened to got {error!r}")
