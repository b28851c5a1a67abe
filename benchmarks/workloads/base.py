"""What a workload is, and what is noted of one measurement."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..loads import Load
    from ..systems.base import System

#: Seconds without an awaited message after which it counts as lost.
PATIENCE: Final = 10.0

UVLOOP: Final = ("uvloop",)
EVERY_LOOP: Final = ("uvloop", "asyncio", "trio")


class Metric(NamedTuple):
    """What a value is.

    :param label: in the table
    :param unit: behind the number
    :param more_is_better: and if not, less is
    """

    label: str
    unit: str
    more_is_better: bool


METRICS: Final = {
    "p50_us": Metric("p50", "us", more_is_better=False),
    "p99_us": Metric("p99", "us", more_is_better=False),
    "rate": Metric("rate", "/s", more_is_better=True),
    "server_ns": Metric("server's CPU a delivery", "ns", more_is_better=False),
    "client_ns": Metric("client's CPU a delivery", "ns", more_is_better=False),
    "client_bytes": Metric("client's memory each", "B", more_is_better=False),
    "server_bytes": Metric("server's memory each", "B", more_is_better=False),
    "few_ns": Metric("CPU a message, 10 channels", "ns", more_is_better=False),
    "many_ns": Metric("CPU a message, 100,000 channels", "ns", more_is_better=False),
    "growth": Metric("the latter by the former", "x", more_is_better=False),
    "idle_percent": Metric("server's CPU, part of a core", "%", more_is_better=False),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """When one measurement ends: at so many messages, or after so many seconds.

    :param messages: that are published
    :param seconds: that they are published for
    :param idle_seconds: that nothing is done, where that is what is measured
    """

    messages: int
    seconds: float
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement.

    :param values: by the names in :data:`METRICS`
    :param due: deliveries that the server's ACKs promised, those before the clock started included
    :param delivered: messages that were read
    """

    values: dict[str, float]
    due: int = 0
    delivered: int = 0


class Workload(ABC):
    """Something that is done with a system.

    :param load: what is published
    :param loops: event loops of the client that it is measured on
    """

    name: ClassVar[str]
    #: What is measured; the first is what it is about.
    metrics: ClassVar[Sequence[str]]
    #: Rounds at most, of what is slow and does not vary.
    most_rounds: ClassVar[int] = 100
    #: Memory is measured in processes that have not done anything else before.
    is_fresh: ClassVar[bool] = False
    #: Whether its targets are values and not ratios: a quick run leaves the peers out.
    is_absolute: ClassVar[bool] = False
    #: Whether only the client of this package can do it.
    is_ours: ClassVar[bool] = False

    def __init__(self, load: Load, loops: Sequence[str] = UVLOOP) -> None:
        self.load = load
        self.loops = loops

    def __str__(self) -> str:
        return f"{self.name} {self.load}"

    async def measure(self, system: System, budget: Budget) -> Outcome:
        """Connect, measure once, and disconnect.

        :raises CannotDo: if the system has no way to do it
        """
        gc.collect()
        return await self._measure(system, budget)

    @abstractmethod
    async def _measure(self, system: System, budget: Budget) -> Outcome: ...


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Give the median and the 99th percentile of seconds, as microseconds."""
    latencies.sort()
    return {
        name: latencies[int(len(latencies) * part)] * 1e6
        for name, part in (("p50_us", 0.5), ("p99_us", 0.99))
        if latencies
    }
