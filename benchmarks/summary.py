"""A table in Markdown: one line for each workload, every system beside the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .report import amount, middle
from .runs import Entry
from .systems import CALLED, OURS, SYSTEMS
from .workloads.base import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .runs import Result

_NAMES: Final = tuple(system.name for system in SYSTEMS)


def markdown(results: Sequence[Result]) -> str:
    """Lay out what each workload is about, on uvloop where that was measured."""
    heads = ("", *_NAMES, "by the best", "by the best without callbacks", "p99", "lost")
    lines = [heads, ("---", *("--:" for _ in heads[1:]))]
    lines += [row for result in results for row in _rows(result)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    loops = {entry.loop for entry in result.outcomes}
    loop = "uvloop" if "uvloop" in loops else "asyncio"
    entries = [Entry(name, loop) for name in _NAMES]
    metric = result.workload.metrics[0]
    label, unit, more_is_better = METRICS[metric]
    values = [middle(result.values(entry, metric)) for entry in entries]
    mine = middle(result.values(Entry(OURS, loop), metric))

    def ratio(left_out: frozenset[str]) -> str:
        """Give our value by that of the best of the others."""
        peers = [
            value
            for entry, value in zip(entries, values, strict=True)
            if entry.system != OURS and entry.system not in left_out
        ]
        best = (max if more_is_better else min)(filter(None, peers), default=0.0)
        if not (mine and best):
            return ""
        return f"{mine / best:.2f}x" if more_is_better else f"{mine / best:.2f}x, less is better"

    def each(write: Callable[[Entry], str]) -> str:
        return " / ".join(write(entry) if entry in result.outcomes else "-" for entry in entries)

    def p99(entry: Entry) -> str:
        found = result.values(entry, "p99_us")
        return amount(middle(found), "us") if found else "-"

    def lost(entry: Entry) -> str:
        outcomes = result.outcomes[entry]
        return f"{sum(each.due - each.delivered for each in outcomes):,}"

    has_p99 = any(result.values(entry, "p99_us") for entry in entries)
    is_delivered = any(each.due for outcomes in result.outcomes.values() for each in outcomes)
    yield (
        f"{result.workload}, {label}",
        *(amount(value, unit) if value else "-" for value in values),
        ratio(frozenset()),
        ratio(CALLED),
        each(p99) if has_p99 else "",
        each(lost) if is_delivered else "",
    )
