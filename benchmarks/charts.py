"""Charts as SVG, written by hand: bars beside each other, readable on light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from .report import middle
from .runs import Entry
from .systems import OURS, SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from .runs import Result

_WIDTH: Final = 760
_LABEL: Final = 190
#: Room right of the bars for the longest number.
_NUMBER: Final = 170
_BAR: Final = 15
_GAP: Final = 14
_TOP: Final = 86

# Colours that can be told apart by those who see red and green alike. The page's background shows
# through, so text has one colour on light pages and another on dark ones.
_STYLE: Final = """
  text { font: 13px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .note { font-size: 11.5px; fill: #59636e; }
  .s0 { fill: #0969da; } .s1 { fill: #bf8700; } .s2 { fill: #8c959f; }
  .s3 { fill: #57606a; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .note { fill: #9198a1; }
    .s0 { fill: #4493f8; } .s1 { fill: #d29922; } .s2 { fill: #9198a1; }
    .s3 { fill: #b6bdc6; }
  }
"""


@dataclass(frozen=True, slots=True)
class _Bar:
    """One value, and how it is written."""

    system: str
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class _Chart:
    """Bars of each system, in groups. Each group has a scale of its own, and its numbers."""

    title: str
    note: str
    groups: list[tuple[str, list[_Bar]]] = field(default_factory=list)

    def draw(self) -> str:
        parts = list(self._groups())
        height = _TOP + sum(len(bars) * _BAR + _GAP for _, bars in self.groups) + 8
        legend = self._legend()
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
                f' width="{_WIDTH}" height="{height}" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{_STYLE}</style>",
                f'<text class="title" x="4" y="20">{escape(self.title)}</text>',
                f'<text class="note" x="4" y="40">{escape(self.note)}</text>',
                *legend,
                *parts,
                "</svg>\n",
            ]
        )

    def _legend(self) -> Iterator[str]:
        x = 4
        for index, system in enumerate(SYSTEMS):
            yield f'<rect class="s{index}" x="{x}" y="51" width="11" height="11" rx="2"/>'
            yield f'<text x="{x + 16}" y="61">{escape(system.name)}</text>'
            x += 36 + 7 * len(system.name)

    def _groups(self) -> Iterator[str]:
        indexes = {system.name: index for index, system in enumerate(SYSTEMS)}
        room = _WIDTH - _LABEL - _NUMBER
        y = _TOP
        for label, bars in self.groups:
            most = max(bar.value for bar in bars)
            middle_y = y + len(bars) * _BAR / 2 + 4
            yield f'<text x="4" y="{middle_y:.1f}">{escape(label)}</text>'
            for bar in bars:
                width = max(bar.value / most * room, 1)
                yield (
                    f'<rect class="s{indexes[bar.system]}" x="{_LABEL}" y="{y}"'
                    f' width="{width:.1f}" height="{_BAR - 3}" rx="2"/>'
                )
                yield (
                    f'<text x="{_LABEL + width + 6:.1f}" y="{y + _BAR - 4}">'
                    f"{escape(bar.text)}</text>"
                )
                y += _BAR
            y += _GAP


def _written(metric: str, value: float) -> str:
    if metric == "rate":
        size, unit = (1e6, "M/s") if value >= 1e6 else (1e3, "k/s")
    else:
        size, unit = (1e3, " us") if metric == "server_ns" else (1.0, " us")
    value /= size
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{unit}"


def _bars(
    results: Mapping[str, Result], workload: str, metric: str, loops: Sequence[str]
) -> list[_Bar]:
    """Give a bar for each system; that of Hyps also says how it compares with the best peer."""
    if workload not in results:
        return []
    result = results[workload]
    found: dict[str, float] = {}
    for system in SYSTEMS:
        # A peer has its asyncio where the loop is one that it does not run on.
        for loop in loops:
            values = result.values(Entry(system.name, loop), metric)
            if values:
                found[system.name] = middle(values)
                break
    peers = [value for name, value in found.items() if name != OURS]
    more_is_better = metric == "rate"
    bars = []
    for name, value in found.items():
        text = _written(metric, value)
        if name == OURS and peers and value:
            best = max(peers) if more_is_better else min(peers)
            ratio = value / best
            text += f"  ({ratio:.1f}x)" if more_is_better else f"  ({ratio:.2f}x the least)"
        bars.append(_Bar(name, value, text))
    return bars


_UVLOOP: Final = ("uvloop", "asyncio")

_RATES: Final = ("stream", "each", "mixed", "waiters", "fanout")


def _charts(results: Mapping[str, Result]) -> Iterator[tuple[str, _Chart]]:
    for file, size in (("throughput-16B", "16 B"), ("throughput-1KiB", "1 KiB")):
        chart = _Chart(
            f"Messages delivered a second, {size}",
            "More is better. In brackets: by the best of the others. Each group has its own scale.",
        )
        for name in _RATES:
            bars = _bars(results, f"{name} {size} varied", "rate", _UVLOOP)
            chart.groups.append((name, bars))
        yield file, chart
    chart = _Chart(
        "From publish to delivery, one message of 16 B at a time",
        "Less is better. In brackets: by the least of the others; trio by their asyncio.",
    )
    for loop in ("uvloop", "asyncio", "trio"):
        for metric, name in (("p50_us", "p50"), ("p99_us", "p99")):
            bars = _bars(results, "pingpong 16 B varied", metric, (loop, "asyncio"))
            if any(bar.system == OURS for bar in bars):
                chart.groups.append((f"{name}, {loop}", bars))
    yield "latency", chart
    chart = _Chart(
        "The server's CPU for a delivery to one of 100 connections",
        "Less is better. In brackets: by the least of the others. Each group has its own scale.",
    )
    for window in (1, 50):
        for size in ("16 B", "1 KiB"):
            workload = f"connections, windows of {window} {size} varied"
            bars = _bars(results, workload, "server_ns", _UVLOOP)
            chart.groups.append((f"windows of {window}, {size}", bars))
    yield "server-cpu", chart


def write(folder: Path, results: Sequence[Result]) -> None:
    """Write the charts of what was measured, each to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {str(result.workload): result for result in results}
    for name, chart in _charts(by_name):
        chart.groups[:] = [group for group in chart.groups if group[1]]
        if chart.groups:
            (folder / f"{name}.svg").write_text(chart.draw())
