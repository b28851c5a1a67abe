"""Runs measurements: every workload for every system in turn, several times over."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from .processes import CORES
from .report import progress
from .systems import OURS
from .systems.base import CannotDo
from .workloads.base import Budget, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .systems.base import System
    from .workloads.base import Workload

#: Seconds after which a measurement has failed, whatever it is.
_PATIENCE: Final = 120.0


class Entry(NamedTuple):
    """Who is measured: a system, and the event loop of its client."""

    system: str
    loop: str

    def __str__(self) -> str:
        return f"{self.system} ({self.loop})"


@dataclass(slots=True)
class Result:
    """What came out of one workload, round by round."""

    workload: Workload
    outcomes: dict[Entry, list[Outcome]] = field(default_factory=dict)

    def values(self, entry: Entry, metric: str) -> list[float]:
        """Give a metric of all rounds that have it."""
        found = self.outcomes.get(entry, [])
        return [outcome.values[metric] for outcome in found if metric in outcome.values]


@dataclass(slots=True)
class Plan:
    """How much is measured.

    :param rounds: of each workload at most
    :param budget: of one measurement
    :param loops: event loops; None for those that each workload wants
    :param quick: leave the peers out where nothing is compared with them
    """

    rounds: int
    budget: Budget
    loops: Sequence[str] | None = None
    quick: bool = False
    #: Why something is not in the table.
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    #: Whether one of them is of Hyps.
    has_failed: bool = False

    def measure(self, workload: Workload, systems: Sequence[System]) -> Result:
        """Measure a workload; the systems take turns, so that a bad moment hits all of them."""
        result = Result(workload)
        entries = list(self._entries(workload, systems))
        rounds = min(self.rounds, workload.most_rounds)
        for number in range(1, rounds + 1):
            for entry, system in list(entries):
                progress(f"{workload}: round {number} of {rounds}, {entry}")
                try:
                    outcome = self._measure(workload, entry, system)
                except CannotDo as why:
                    self.left_out.append(f"{entry.system} is left out of {workload}: {why}")
                    entries.remove((entry, system))
                except Exception as error:
                    self.failures.append(f"{workload}, {entry} failed: {error!r}")
                    self.has_failed = self.has_failed or entry.system == OURS
                    entries.remove((entry, system))
                    progress(self.failures[-1])
                else:
                    result.outcomes.setdefault(entry, []).append(outcome)
        return result

    def _entries(
        self, workload: Workload, systems: Sequence[System]
    ) -> Iterator[tuple[Entry, System]]:
        loops = self.loops or [loop for loop in workload.loops if is_installed(loop)]
        is_alone = workload.is_ours or (self.quick and workload.is_absolute)
        for loop in loops or ["asyncio"]:
            for system in systems:
                if loop in system.loops and (system.name == OURS or not is_alone):
                    yield Entry(system.name, loop), system

    def _measure(self, workload: Workload, entry: Entry, system: System) -> Outcome:
        if workload.is_fresh:
            return self._measure_afresh(workload, entry)
        return measure(workload, system, entry.loop, self.budget)

    def _measure_afresh(self, workload: Workload, entry: Entry) -> Outcome:
        """Let another process do it, with a server of its own."""
        order = {"workload": str(workload), **entry._asdict(), "budget": asdict(self.budget)}
        command = [sys.executable, "-m", "benchmarks.fresh", json.dumps(order)]
        CORES.release()
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
        finally:
            CORES.take(CORES.client)
        with process:
            try:
                output, _ = process.communicate(timeout=_PATIENCE)
            except BaseException:
                # Not killed: it has a server to end.
                process.terminate()
                raise
        answer: dict[str, Any] = json.loads(output or b"{}")
        if "cannot" in answer:
            raise CannotDo(answer["cannot"])
        if process.returncode or not answer:
            raise RuntimeError("its process failed")
        return Outcome(**answer)


def is_installed(loop: str) -> bool:
    """Tell whether an event loop can be run."""
    return find_spec(loop) is not None


def measure(workload: Workload, system: System, loop: str, budget: Budget) -> Outcome:
    """Run an event loop, and measure once."""

    async def go() -> Outcome:
        with anyio.fail_after(_PATIENCE):
            return await workload.measure(system, budget)

    if loop == "trio":
        return anyio.run(go, backend="trio")
    return anyio.run(go, backend_options={"use_uvloop": loop == "uvloop"})
