"""Hyps beside others, over real sockets. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import anyio

from .loads import LOADS, Load
from .processes import CORES, Missing
from .report import middle, package, progress, spread, table
from .systems import OURS, SYSTEMS
from .workloads import Budget, Outcome, Pingpong, Stream, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from .systems.base import System

#: Rounds, messages of a round, and seconds after which a round ends with fewer.
_DEFAULT: Final = (5, 400_000, 1.5)
_QUICK: Final = (2, 100_000, 0.4)

#: Round trips are few: each takes the time of hundreds of streamed messages.
_PINGPONG_PART: Final = 200

_UNITS: Final = {
    "p50_us": ("p50", "us"),
    "p99_us": ("p99", "us"),
    "messages_per_s": ("rate", "/s"),
}

#: Rounds of a workload, by the name of the system.
Rounds = dict[str, list[Outcome]]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    from pathlib import Path

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end", description="Measure Hyps beside others."
    )
    parser.add_argument("--rounds", type=int, help=f"rounds of each ({_DEFAULT[0]})")
    parser.add_argument(
        "--count", type=int, help=f"messages streamed in a round at most ({_DEFAULT[1]:,})"
    )
    parser.add_argument(
        "--seconds", type=float, help=f"seconds that a round streams at most ({_DEFAULT[2]})"
    )
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    parser.add_argument(
        "--backend",
        choices=("asyncio", "uvloop", "trio"),
        default="uvloop" if find_spec("uvloop") else "asyncio",
        help="the client's event loop (%(default)s); the hub always takes uvloop if it is there",
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=[system.name for system in SYSTEMS],
        help="measure only these",
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="workloads whose name holds it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args(arguments)
    for name, value in zip(
        ("rounds", "count", "seconds"), _QUICK if options.quick else _DEFAULT, strict=True
    ):
        if getattr(options, name) is None:
            setattr(options, name, value)
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be positive")
    return options


def start(options: argparse.Namespace, stack: ExitStack) -> list[System]:
    """Start the systems, and say which are left out."""
    systems: list[System] = []
    for kind in SYSTEMS:
        if options.systems and kind.name not in options.systems:
            continue
        if options.backend not in kind.backends:
            print(f"{kind.name} is left out: its client does not run on {options.backend}")
            continue
        progress(f"starting {kind.name}")
        try:
            systems.append(stack.enter_context(kind()))
        except Missing as why:
            print(f"{kind.name} is left out: {why}")
    return systems


def measure(
    options: argparse.Namespace, systems: Sequence[System]
) -> Iterator[tuple[Workload, Rounds]]:
    """Measure every workload; the systems take turns, so that a bad moment hits all of them."""
    workloads = [Pingpong(Load(16)), *(Stream(load) for load in LOADS)]
    loop = "trio" if options.backend == "trio" else "asyncio"
    loop_options = {"use_uvloop": options.backend == "uvloop"} if loop == "asyncio" else {}
    for workload in workloads:
        if options.only not in str(workload):
            continue
        count = options.count
        if isinstance(workload, Pingpong):
            count = max(count // _PINGPONG_PART, 1)
        budget = Budget(count, options.seconds)
        rounds: Rounds = {system.name: [] for system in systems}
        for number in range(1, options.rounds + 1):
            for system in systems:
                progress(f"{workload}: round {number} of {options.rounds}, {system.name}")
                outcome = anyio.run(
                    workload.measure, system, budget, backend=loop, backend_options=loop_options
                )
                rounds[system.name].append(outcome)
        yield workload, rounds


def lines(workload: Workload, rounds: Rounds) -> Iterator[tuple[str, ...]]:
    """Lay out one workload: a line for each metric of each system."""
    for metric, more_is_better in workload.metrics.items():
        values = {
            name: [outcome.values[metric] for outcome in outcomes if metric in outcome.values]
            for name, outcomes in rounds.items()
        }
        name, unit = _UNITS[metric]
        peers = [middle(found) for system, found in values.items() if system != OURS and found]
        best_of = max if more_is_better else min
        best = best_of(peers, default=0.0)
        for system, outcomes in rounds.items():
            mine = middle(values[system])
            ratio = 0.0
            if system == OURS and best and mine:
                ratio = mine / best if more_is_better else best / mine
            published = sum(outcome.published for outcome in outcomes)
            delivered = sum(outcome.delivered for outcome in outcomes)
            yield (
                f"{workload}, {name}",
                system,
                f"{mine:,.0f} {unit}" if mine else "none",
                f"{best_of(values[system], default=0.0):,.0f}",
                f"{spread(values[system]):.0%}",
                f"{ratio:.2f}" if ratio else "",
                f"{delivered:,}",
                f"{published - delivered:,}",
            )


def environment(options: argparse.Namespace, systems: Sequence[System]) -> dict[str, str]:
    """Describe what the numbers depend on, before they are measured."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "not known"
    loop = package(options.backend) if options.backend != "asyncio" else "asyncio"
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "client's event loop": loop,
        "cores": str(CORES),
        "load before": load,
        **{system.name: system.versions for system in systems},
    }


def write_json(path: Path, about: dict[str, str], results: list[tuple[Workload, Rounds]]) -> None:
    """Write every round of everything."""
    content = {
        "environment": about,
        "workloads": [
            {
                "name": workload.name,
                "load": asdict(workload.load),
                "systems": {
                    name: [asdict(outcome) for outcome in outcomes]
                    for name, outcomes in rounds.items()
                },
            }
            for workload, rounds in results
        ],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _leave(number: int, frame: FrameType | None) -> None:
    # As an exception it passes through every context on its way out, and so ends the servers.
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command line; 1 if a message was lost."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, _leave)
    CORES.take(CORES.client)
    with ExitStack() as stack:
        systems = start(options, stack)
        about = environment(options, systems)
        results = list(measure(options, systems))
    for name, value in about.items():
        print(f"{name}: {value}")
    heads = ("workload", "system", "median", "best", "spread", "x best peer", "delivered", "lost")
    rows = [row for workload, rounds in results for row in lines(workload, rounds)]
    print(f"\n{table(heads, rows)}")
    if options.json is not None:
        write_json(options.json, about, results)
    lost = [
        outcome.published - outcome.delivered
        for _, rounds in results
        for outcomes in rounds.values()
        for outcome in outcomes
    ]
    return 1 if any(lost) else 0


if __name__ == "__main__":
    sys.exit(main())
