"""Starts everything, tells how it goes, ends everything, and checks that nothing is left."""

from __future__ import annotations

import socket
import traceback
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute

from .keeper import keep
from .proxy import Proxy
from .report import Load, LogWatch, Report
from .stage import LIMITS, PATIENCE, Stage
from .users import User

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

#: Seconds between two lines about how it goes.
_PROGRESS_EVERY: Final = 10.0

#: Ports that systems do not give to those who connect: else one could take the hub's meanwhile.
_PORTS: Final = range(20_000, 30_000)

#: How much larger the process may be at the end than after a quarter of the time. Clients come and
#: go at random, and with them their buffers.
_ALLOWED_GROWTH: Final = 0.15
_ALLOWED_BYTES: Final = 8 * 2**20

#: Objects that a run may leave behind, however long it was: modules that it was the first to use,
#: and up to a thousand deadlines that trio forgets only when there are more.
_ALLOWED_OBJECTS: Final = 10_000


class Soak:
    """One soak.

    :param seconds: how long
    :param clients: at a time
    """

    def __init__(self, seconds: float, clients: int, seed: int) -> None:
        self.report = Report()
        self._seconds = seconds
        self._clients = clients
        self._random = Random(seed)
        self._seed = seed
        self._stage = Stage(self.report, Random(f"stage {seed}"))
        self._users: set[User] = set()
        self._all_left = anyio.Event()
        self._lag = 0.0
        self._figures: dict[str, object] = {}

    async def run_in_time(self, seconds: float) -> None:
        """Run it, and fail if it takes longer."""
        LogWatch(self.report).install()
        before = Load()
        try:
            with anyio.fail_after(seconds):
                await self._run()
            await self._check_left(before)
        except TimeoutError:
            self.report.fail(f"it was cancelled, as it did not end within {seconds:.0f} s")
            self._print_tasks()
        except Exception:
            self.report.fail(f"the soak itself ended: {traceback.format_exc()}")
        self.report.print_figures(self._figures)

    async def _run(self) -> None:
        stage = self._stage
        proxy = Proxy(_free_port(self._random), Random(f"proxy {self._seed}"), self.report)
        async with anyio.create_task_group() as hub_tasks:
            hub_tasks.start_soon(stage.run_hubs, proxy.hub)
            await self._wait_until(lambda: stage.server is not None, "the hub runs")
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
            url = f"hyps://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            async with listener, anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, proxy.handle)
                tasks.start_soon(self._tell, proxy)
                async with anyio.create_task_group() as players:
                    players.start_soon(keep, stage)
                    players.start_soon(stage.publish)
                    players.start_soon(self._invite, players, url)
                    await self._measure()
                    await self._calm_down(proxy)
                tasks.cancel_scope.cancel()
            await self._check_hub()
            stage.close.set()

    # Clients

    async def _invite(self, tasks: TaskGroup, url: str) -> None:
        """Let clients come, as many as there is room for."""
        number = 0
        while not self._stage.calm.is_set():
            if len(self._users) < self._clients:
                number += 1
                user = User(self._stage, str(number), url, Random(f"user {number} {self._seed}"))
                self._users.add(user)
                tasks.start_soon(self._attend, user)
            await anyio.sleep(self._random.expovariate(20))

    async def _attend(self, user: User) -> None:
        try:
            await user.live()
        except Exception:
            self.report.fail(f"a client got what it had no reason to: {traceback.format_exc()}")
        finally:
            self._users.discard(user)

    # Time

    async def _measure(self) -> None:
        await anyio.sleep(self._seconds / 4)
        quarter = Load()
        await anyio.sleep(self._seconds * 3 / 4)
        end = Load()
        self._figures["after a quarter"] = quarter
        self._figures["at the end, with all clients"] = end
        allowed = quarter.rss * (1 + _ALLOWED_GROWTH) + _ALLOWED_BYTES
        self.report.check(
            end.rss <= allowed,
            f"memory grew from {quarter.rss:,} to {end.rss:,} bytes, more than {allowed:,.0f}",
        )

    async def _calm_down(self, proxy: Proxy) -> None:
        stage = self._stage
        proxy.is_calm = True
        stage.calm.set()
        # Connections that were swallowed have to be found out first.
        await anyio.sleep(4 * LIMITS.heartbeat)
        await self._wait_until(
            lambda: all(user.client.connected for user in self._users), "all clients are connected"
        )
        await anyio.sleep(1)
        stage.last_words.set()
        await self._wait_until(lambda: stage.publishing == 0, "all publishers have ended")
        await anyio.sleep(1)
        stage.leave.set()

    async def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        with anyio.move_on_after(PATIENCE):
            while not condition():  # noqa: ASYNC110 - what it asks for has no event
                await anyio.sleep(0.05)
            return
        self.report.fail(f"not within {PATIENCE} s: {what}")

    async def _tell(self, proxy: Proxy) -> None:
        counts = self.report.counts
        started = anyio.current_time()
        told = started
        while True:
            before = anyio.current_time()
            await anyio.sleep(0.1)
            now = anyio.current_time()
            self._lag = max(self._lag, now - before - 0.1)
            if now - told >= _PROGRESS_EVERY:
                told = now
                print(
                    f"{now - started:5.0f} s: {len(self._users)} clients of {counts['clients']}, "
                    f"{proxy.open} connections of {counts['connections']}, "
                    f"hub run {self._stage.run}, published {counts['messages published']:,}, "
                    f"delivered {counts['messages delivered']:,}, "
                    f"missed {self.report.missed.total():,}, "
                    f"faults {self.report.faults.total()}, failures {len(self.report.failures)}",
                    flush=True,
                )

    # The end

    async def _check_hub(self) -> None:
        server = self._stage.server
        assert server is not None
        broker = server.broker
        await self._wait_until(lambda: not broker.sessions, "the hub has no sessions left")
        self.report.check(not broker.channels, f"the hub has {broker.channels} channels left")
        await self._wait_until(lambda: not broker.kept, "the hub has forgotten all channels")

    async def _check_left(self, before: Load) -> None:
        # What was closed has some passes of the loop left to do.
        await anyio.sleep(0.5)
        after = Load()
        self._figures["before"] = before
        self._figures["after"] = after
        self._figures["longest pause of the event loop"] = f"{self._lag:.3f} s"
        left = after.tasks - before.tasks
        self._figures["tasks left"] = left.total()
        self.report.check(not left, f"tasks are left: {left}")
        files = after.files - before.files
        self.report.check(files <= 2, f"{files} files are left open")
        objects = after.objects - before.objects
        self.report.check(objects <= _ALLOWED_OBJECTS, f"{objects:,} objects are left")

    def _print_tasks(self) -> None:
        for name, count in Counter(task.name for task in anyio.get_running_tasks()).items():
            print(f"still running: {count} {name}")


def _free_port(random: Random) -> int:
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
