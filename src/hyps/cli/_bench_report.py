"""The output of ``hyps bench``: progress, and the summary as text or as a JSON object."""

from __future__ import annotations

import shutil
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Final

import click

from .._text import one_line
from ._output import stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._bench_run import Bench, Plan, Publisher, Samples, Subscriber, Worker

_MIB: Final = 1024 * 1024
#: Workers of a kind that are shown one by one; of more only what they do together.
_MAX_SHOWN: Final = 10
#: Seconds that a picture of the progress stays.
_REDRAW: Final = 0.5
_BAR: Final = 20


class Progress:
    """Shows the progress on a terminal: one line for each worker, redrawn again and again.

    :param plan: the scenarios and sizes to run
    :param enabled: whether to show progress after the first line
    """

    def __init__(self, plan: Plan, enabled: bool) -> None:
        self._plan = plan
        self._enabled = enabled
        self._shown = 0.0
        self._lines = 0
        self._counts: dict[Worker, int] = {}

    def begin(self, now: float) -> None:
        """Describe the run."""
        self._shown = now
        plan = self._plan
        least, most = plan.sizes
        size = f"{least:,}" if least == most else f"{least:,}-{most:,}"
        several = f" and {len(plan.channels) - 1:,} more" if len(plan.channels) > 1 else ""
        connections = sum(map(plan.count_connections, (plan.publishers, plan.subscribers)))
        click.echo(
            f"Starting benchmark at {one_line(plan.url)}"
            f" [channel={one_line(plan.channels[0])}{several}, msgs={plan.messages:,},"
            f" size={size} B, pubs={plan.publishers:,}, subs={plan.subscribers:,},"
            f" batch={plan.batch:,}, connections={connections:,}]",
            err=True,
        )

    def show(
        self, now: float, publishers: Sequence[Publisher], subscribers: Sequence[Subscriber]
    ) -> None:
        """Show the progress and the rates since the last time, if it is time to redraw."""
        passed = now - self._shown
        if self._enabled and passed >= _REDRAW:
            self._shown = now
            self._draw(publishers, subscribers, passed)

    def end(self, publishers: Sequence[Publisher], subscribers: Sequence[Subscriber]) -> None:
        """Show the final state, and the rates over the whole run."""
        if self._enabled:
            self._draw(publishers, subscribers, None)

    def _draw(
        self,
        publishers: Sequence[Publisher],
        subscribers: Sequence[Subscriber],
        passed: float | None,
    ) -> None:
        lines = []
        for kind, workers in (("publisher", publishers), ("subscriber", subscribers)):
            if len(workers) > _MAX_SHOWN:
                lines.append(self._line(f"{len(workers)} {kind}s", workers, passed))
            else:
                for number, worker in enumerate(workers, 1):
                    lines.append(self._line(f"{kind} {number}", [worker], passed))
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self._lines}A" if self._lines else ""
        stderr.draw(up + "".join([f"\r{line[:width]}\x1b[K\n" for line in lines]))
        self._lines = len(lines)

    def _line(self, name: str, workers: Sequence[Worker], passed: float | None) -> str:
        rates = []
        for worker in workers:
            if passed is None:
                rates.append(_rate(worker.messages, worker.seconds))
            else:
                rates.append((worker.messages - self._counts.get(worker, 0)) / passed)
            self._counts[worker] = worker.messages
        part = sum(each.messages for each in workers) / sum(each.expected for each in workers)
        bar = ("=" * int(part * _BAR))[:_BAR].ljust(_BAR)
        each = f" (each {min(rates):,.0f} to {max(rates):,.0f})" if len(rates) > 1 else ""
        return f"{name:<16} [{bar}] {part:4.0%} {sum(rates):>12,.0f} msgs/s{each}"


# The summary. The object holds all numbers, and the text is made from the object.


def summarize(bench: Bench, ended_by: str | None, error: str | None) -> dict[str, Any]:
    """Return the summary as a JSON object.

    :param bench: what has run
    :param ended_by: the signal that ended it early
    :param error: what ended it early
    """
    plan = bench.plan
    least, most = plan.sizes
    summary: dict[str, Any] = {
        "url": plan.url,
        "channels": len(plan.channels),
        "messages": plan.messages,
        "min_size": least,
        "max_size": most,
        "batch": plan.batch,
        "ended_by": ended_by,
        "error": error,
    }
    if bench.publishers:
        summary["publishers"] = {
            **_summarize_workers(bench.publishers),
            "connections": plan.count_connections(plan.publishers),
            "unknown": sum(each.unknown for each in bench.publishers),
            "ack_seconds": _summarize_samples(bench.acks),
            "workers": [
                {**_summarize_worker(each), "unknown": each.unknown} for each in bench.publishers
            ],
        }
    if bench.subscribers:
        summary["subscribers"] = {
            **_summarize_workers(bench.subscribers),
            "connections": plan.count_connections(plan.subscribers),
            "missed": sum(each.missed for each in bench.subscribers),
            "missed_unknown": any(each.missed_unknown for each in bench.subscribers),
            "outstanding": sum(each.outstanding for each in bench.subscribers),
            "delivery_seconds": _summarize_samples(bench.deliveries),
            "workers": [
                {
                    **_summarize_worker(each),
                    "missed": each.missed,
                    "missed_unknown": each.missed_unknown,
                    "outstanding": each.outstanding,
                }
                for each in bench.subscribers
            ],
        }
    return summary


def _summarize_worker(worker: Worker) -> dict[str, Any]:
    return {
        "expected": worker.expected,
        "messages": worker.messages,
        "bytes": worker.size,
        "seconds": worker.seconds,
        "messages_per_second": _rate(worker.messages, worker.seconds),
        "bytes_per_second": _rate(worker.size, worker.seconds),
    }


def _summarize_workers(workers: Sequence[Worker]) -> dict[str, Any]:
    messages = sum(worker.messages for worker in workers)
    size = sum(worker.size for worker in workers)
    # From the first worker's start to the last one's end; some may never have started.
    began = min((each.began for each in workers if each.began), default=0.0)
    seconds = max(each.ended for each in workers) - began
    rates = [_rate(worker.messages, worker.seconds) for worker in workers]
    return {
        "expected": sum(worker.expected for worker in workers),
        "messages": messages,
        "bytes": size,
        "seconds": seconds,
        "messages_per_second": _rate(messages, seconds),
        "bytes_per_second": _rate(size, seconds),
        "per_worker": {
            "min": min(rates),
            "avg": fmean(rates),
            "max": max(rates),
            "stddev": pstdev(rates),
        },
    }


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _summarize_samples(samples: Samples) -> dict[str, float] | None:
    values = sorted(samples.seconds)
    if not values:
        return None
    return {
        "p50": values[(len(values) - 1) // 2],
        # The smallest value that 99 % do not exceed; of a few samples, the largest.
        "p99": values[-(-len(values) * 99 // 100) - 1],
        "max": values[-1],
    }


def as_text(summary: dict[str, Any]) -> str:
    """Format the summary for people."""
    publishers = summary.get("publishers")
    subscribers = summary.get("subscribers")
    lines = []
    if publishers is not None:
        lines += _show_workers("Pub", publishers)
        batch = f"ACKs of {summary['batch']:,}" if summary["batch"] > 1 else "ACK"
        lines += _show_samples(batch, publishers["ack_seconds"])
    if subscribers is not None:
        lines += _show_workers("Sub", subscribers)
        lines += _show_samples("delivery", subscribers["delivery_seconds"])
    if summary["ended_by"] is not None:
        lines.append(f"Ended early by {summary['ended_by']}")
    if publishers is not None:
        unknown = publishers["unknown"]
        lines.append(
            f"Published {publishers['messages']:,} of {publishers['expected']:,}"
            + (f", outcome unknown {unknown:,}" if unknown else "")
        )
    if subscribers is not None:
        # Over HTTP/2 the hub cannot tell of losses, but a complete count proves that none happened.
        is_unknown = subscribers["missed_unknown"] and subscribers["outstanding"]
        more = ", and an unknown number more" if is_unknown else ""
        lines.append(
            f"Delivered {subscribers['messages']:,} of {subscribers['expected']:,},"
            f" missed {subscribers['missed']:,}{more}, did not come {subscribers['outstanding']:,}"
        )
    return "\n".join(lines)


def _show_workers(kind: str, summary: dict[str, Any]) -> list[str]:
    lines = [f"{kind} stats: {_show_rate(summary)}"]
    workers = summary["workers"]
    if len(workers) > 1:
        if len(workers) <= _MAX_SHOWN:
            lines += [
                f" [{number}] {_show_rate(worker)} ({worker['messages']:,} msgs)"
                for number, worker in enumerate(workers, 1)
            ]
        rates = " | ".join(f"{name} {rate:,.0f}" for name, rate in summary["per_worker"].items())
        lines.append(f" {rates} msgs/s")
    return lines


def _show_rate(summary: dict[str, Any]) -> str:
    size = summary["bytes_per_second"] / _MIB
    return f"{summary['messages_per_second']:,.0f} msgs/s ~ {size:,.2f} MiB/s"


def _show_samples(name: str, summary: dict[str, float] | None) -> list[str]:
    if summary is None:
        return []
    times = " | ".join(f"{label} {value * 1000:,.3f}" for label, value in summary.items())
    return [f" {name}: {times} ms"]
