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
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import charts, summary, targets
from .processes import CORES, Missing
from .report import amount, middle, package, processor, progress, spread, table
from .runs import Entry, Plan, Result, is_installed
from .systems import OURS, SYSTEMS
from .workloads import WORKLOADS
from .workloads.base import EVERY_LOOP, METRICS, Budget

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from .systems.base import System
    from .workloads.base import Workload

#: Rounds, messages of a round, seconds after which a round ends with fewer, seconds of idling.
_DEFAULT: Final = (5, 400_000, 0.8, 22.0)
_QUICK: Final = (1, 100_000, 0.2, 1.0)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end", description="Measure Hyps beside others."
    )
    parser.add_argument("--rounds", type=int, help=f"rounds of each ({_DEFAULT[0]})")
    parser.add_argument(
        "--count", type=int, help=f"messages published in a round at most ({_DEFAULT[1]:,})"
    )
    parser.add_argument(
        "--seconds", type=float, help=f"seconds that a round publishes at most ({_DEFAULT[2]})"
    )
    parser.add_argument(
        "--idle-seconds", type=float, help=f"seconds that idling is watched ({_DEFAULT[3]})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round, and no peers where nothing is compared with them",
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=EVERY_LOOP,
        help="run everything on these event loops of the client, and not each workload on those"
        " that its targets name; the hub always takes uvloop if it is there",
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=[system.name for system in SYSTEMS],
        help="measure only these",
    )
    parser.add_argument(
        "--only", metavar="TEXT", nargs="+", default=[""], help="workloads whose name holds one"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write a table in Markdown there"
    )
    parser.add_argument("--charts", type=Path, metavar="DIR", help="write charts there, as SVG")
    options = parser.parse_args(arguments)
    for name, value in zip(
        ("rounds", "count", "seconds", "idle_seconds"),
        _QUICK if options.quick else _DEFAULT,
        strict=True,
    ):
        if getattr(options, name) is None:
            setattr(options, name, value)
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    for loop in options.backend or ():
        if not is_installed(loop):
            parser.error(f"{loop} is not installed")
    if not _chosen(options):
        parser.error("--only: no workload's name holds that")
    # Now, and not when all was measured.
    for path in filter(None, (options.json, options.markdown)):
        path.parent.mkdir(parents=True, exist_ok=True)
    return options


def _chosen(options: argparse.Namespace) -> list[Workload]:
    return [each for each in WORKLOADS if any(text in str(each) for text in options.only)]


def start(options: argparse.Namespace, stack: ExitStack, plan: Plan) -> list[System]:
    """Start the systems, and note which are left out."""
    systems: list[System] = []
    for kind in SYSTEMS:
        if options.systems and kind.name not in options.systems:
            continue
        progress(f"starting {kind.name}")
        try:
            systems.append(stack.enter_context(kind()))
        except Missing as why:
            plan.left_out.append(f"{kind.name} is left out: {why}")
    return systems


def rows(result: Result) -> Iterator[tuple[str, ...]]:
    """Lay out one workload: a row for each metric of each system."""
    for metric in result.workload.metrics:
        label, unit, more_is_better = METRICS[metric]
        for entry, outcomes in result.outcomes.items():
            values = result.values(entry, metric)
            mine = middle(values)
            ratio = 0.0
            if entry.system == OURS and mine:
                best = _best_peer(result, metric, entry)
                ratio = (mine / best if more_is_better else best / mine) if best else 0.0
            is_first = metric == result.workload.metrics[0]
            beside = [result.values(entry, name) for name in _BESIDE]
            due = sum(outcome.due for outcome in outcomes)
            delivered = sum(outcome.delivered for outcome in outcomes)
            yield (
                f"{result.workload}, {label}",
                str(entry),
                amount(mine, unit) if values else "none",
                f"{spread(values):.0%}",
                f"{ratio:.2f}" if ratio else "",
                *(
                    amount(middle(each), METRICS[name].unit) if is_first and each else ""
                    for name, each in zip(_BESIDE, beside, strict=True)
                ),
                f"{delivered:,}" if is_first and due else "",
                f"{due - delivered:,}" if is_first and due else "",
            )


def _best_peer(result: Result, metric: str, entry: Entry) -> float:
    """Give the peers' best median on the same event loop, or on asyncio where none has that."""
    peers = [other for other in result.outcomes if other.system != OURS]
    loop = entry.loop if any(other.loop == entry.loop for other in peers) else "asyncio"
    found = [middle(result.values(other, metric)) for other in peers if other.loop == loop]
    best = max if METRICS[metric].more_is_better else min
    return best(filter(None, found), default=0.0)


def environment(systems: Sequence[System]) -> dict[str, str]:
    """Describe what the numbers depend on, before they are measured."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "not known"
    loops = [package(loop) for loop in ("uvloop", "trio") if is_installed(loop)]
    return {
        "command": " ".join(["python -m benchmarks.end_to_end", *sys.argv[1:]]),
        "machine": f"{processor()}, {os.cpu_count()} cores; {CORES}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "event loops": ", ".join(["asyncio", *loops]),
        "load before": load,
        **{system.name: system.versions for system in systems},
    }


def write_json(path: Path, about: dict[str, str], results: Sequence[Result]) -> None:
    """Write every round of everything."""
    content = {
        "environment": about,
        "targets": [
            dict(zip(_TARGET_HEADS, cells, strict=True)) for cells in targets.rows(results)
        ],
        "workloads": [
            {
                "name": str(result.workload),
                "load": asdict(result.workload.load),
                "rounds": [
                    {**entry._asdict(), "outcomes": [asdict(each) for each in outcomes]}
                    for entry, outcomes in result.outcomes.items()
                ],
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _leave(number: int, frame: FrameType | None) -> None:
    # As an exception it passes through every context on its way out, and so ends the servers.
    raise SystemExit(128 + number)


_HEADS: Final = (
    *("workload", "system", "median", "spread", "x best peer", "p50", "p99"),
    *("server CPU", "client CPU", "delivered", "lost"),
)
#: What stands in the table beside each workload's own metrics.
_BESIDE: Final = ("p50_us", "p99_us", "server_ns", "client_ns")
_TARGET_HEADS: Final = (
    *("target", "client on", "bound", "reached", "met", "compared with", "beside callbacks"),
)


def main() -> int:
    """Run the command line; 1 if a message was lost or a measurement of Hyps failed."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, _leave)
    CORES.take(CORES.client)
    budget = Budget(options.count, options.seconds, options.idle_seconds)
    plan = Plan(options.rounds, budget, options.backend, options.quick)
    with ExitStack() as stack:
        systems = start(options, stack, plan)
        about = environment(systems)
        results = [plan.measure(workload, systems) for workload in _chosen(options)]
    for name, value in about.items():
        print(f"{name}: {value}")
    print("\n".join(["", *plan.left_out, *plan.failures]).rstrip())
    print(f"\n{table(_HEADS, [row for result in results for row in rows(result)])}")
    reached = targets.rows(results)
    if reached:
        print(f"\n{table(_TARGET_HEADS, reached)}")
    if options.json is not None:
        write_json(options.json, about, results)
    if options.markdown is not None:
        options.markdown.write_text(summary.markdown(results))
    if options.charts is not None:
        charts.write(options.charts, results)
    return 1 if plan.has_failed or any(_lost(result) for result in results) else 0


def _lost(result: Result) -> int:
    outcomes = [each for found in result.outcomes.values() for each in found]
    return sum(outcome.due - outcome.delivered for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
