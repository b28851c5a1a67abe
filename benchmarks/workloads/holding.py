"""What channels, subscriptions and connections cost by being there."""

from __future__ import annotations

import gc
import os
import random
from contextlib import AsyncExitStack
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Final

import anyio

from ..loads import Load
from ..processes import CAN_LOOK, cpu_seconds, resident_bytes
from ..systems.base import CannotDo
from .base import UVLOOP, Budget, Outcome, Workload
from .windows import Pace, flow, make_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..systems.base import System

#: Channels, or subscriptions.
_MANY: Final = 100_000

_FEW: Final = 10

#: Connections that do nothing.
_CONNECTIONS: Final = 1_000

#: Seconds after which what was left to do in the background is done.
_SETTLING: Final = 0.5


class _Memory:
    """How much more memory this process and the server have than before."""

    def __init__(self, system: System) -> None:
        self._pids = {"client_bytes": os.getpid(), "server_bytes": system.pid}
        self._before = self._now()

    def _now(self) -> dict[str, int]:
        gc.collect()
        return {name: resident_bytes(pid) for name, pid in self._pids.items()}

    async def each(self, count: int) -> dict[str, float]:
        """Give it, divided by how many things were made."""
        await anyio.sleep(_SETTLING)
        return {name: (size - self._before[name]) / count for name, size in self._now().items()}


class _Holding(Workload):
    is_fresh = True
    is_absolute = True
    most_rounds = 3

    def __init__(self, loops: Sequence[str] = UVLOOP) -> None:
        super().__init__(Load(16), loops)

    def __str__(self) -> str:
        return self.name

    async def measure(self, system: System, budget: Budget) -> Outcome:
        if not CAN_LOOK:
            raise CannotDo("memory and CPU of other processes are known on Linux only")
        return await super().measure(system, budget)


class Subscribing(_Holding):
    """A hundred thousand channels on one subscription, until all are ACKed."""

    name = "subscribe 100,000 channels"
    metrics: ClassVar[Sequence[str]] = ("rate", "client_bytes", "server_bytes")

    async def _measure(self, system: System, budget: Budget) -> Outcome:
        channels = [f"channel-{number:06}" for number in range(_MANY)]
        async with system.holder() as holder:
            memory = _Memory(system)
            start = perf_counter()
            await holder.subscribe(channels)
            seconds = perf_counter() - start
            return Outcome({"rate": _MANY / seconds, **await memory.each(_MANY)})


class Subscriptions(_Holding):
    """A hundred thousand subscriptions of one channel in one client."""

    name = "100,000 subscriptions"
    metrics: ClassVar[Sequence[str]] = ("client_bytes", "server_bytes")
    most_rounds = 1

    async def _measure(self, system: System, budget: Budget) -> Outcome:
        async with system.holder() as holder:
            # What the first one costs is not what each costs.
            await holder.add_subscriptions(1)
            memory = _Memory(system)
            await holder.add_subscriptions(_MANY)
            return Outcome(await memory.each(_MANY))


class Idle(_Holding):
    """A thousand connections that do nothing.

    For longer than a heartbeat's interval, so that its work is in it.
    """

    name = "1,000 idle connections"
    metrics: ClassVar[Sequence[str]] = ("server_bytes", "idle_percent")
    most_rounds = 1

    async def _measure(self, system: System, budget: Budget) -> Outcome:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(system.holder())
            memory = _Memory(system)
            for _ in range(_CONNECTIONS):
                await stack.enter_async_context(system.holder())
            sizes = await memory.each(_CONNECTIONS)
            start, clock = perf_counter(), cpu_seconds(system.pid)
            await anyio.sleep(budget.idle_seconds)
            busy = (cpu_seconds(system.pid) - clock) / (perf_counter() - start)
        return Outcome({"server_bytes": sizes["server_bytes"], "idle_percent": busy * 100})


class Growth(_Holding):
    """The CPU of both processes for a message, with many channels and with few, all in use."""

    name = "growth"
    metrics: ClassVar[Sequence[str]] = ("growth", "few_ns", "many_ns")

    async def _measure(self, system: System, budget: Budget) -> Outcome:
        few = await self._stream(system, budget, _FEW)
        many = await self._stream(system, budget, _MANY)
        values: dict[str, float] = {}
        if few.values and many.values:
            values = {"few_ns": few.values["few_ns"], "many_ns": many.values["few_ns"]}
            values["growth"] = values["many_ns"] / values["few_ns"]
        return Outcome(values, few.due + many.due, few.delivered + many.delivered)

    async def _stream(self, system: System, budget: Budget, count: int) -> Outcome:
        channels = [f"channel-{number:06}" for number in range(count)]
        # In any order, as a cache would see them. Each comes once.
        random.Random(1).shuffle(channels)
        pace = Pace(1_000, warm_up=20, made=_MANY // 1_000)
        windows = make_windows(self.load, channels, pace)
        async with system.session(channels) as session:
            found, _ = await flow(
                session.publish_many, session.readers, windows, pace, budget, system
            )
        values = found.values
        if values:
            values = {"few_ns": values["server_ns"] + values["client_ns"]}
        return Outcome(values, found.due, found.delivered)
