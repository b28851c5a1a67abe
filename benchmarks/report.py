"""Tables, and the numbers in them."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def progress(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(text, file=sys.stderr, flush=True)


def middle(values: Sequence[float]) -> float:
    """Give the median, or 0 if there is nothing."""
    return median(values) if values else 0.0


def spread(values: Sequence[float]) -> float:
    """Say how far apart the best and the worst round are, as a part of the median."""
    return (max(values) - min(values)) / median(values) if values and median(values) else 0.0


def package(name: str) -> str:
    """Give a package's name and version."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out columns: the first two are text, the others numbers."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def amount(value: float, unit: str) -> str:
    """Write a value with its unit."""
    for small, large in (("ns", "us"), ("us", "ms")):
        if unit == small and value >= 10_000:
            value, unit = value / 1_000, large
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} {unit}"


def processor() -> str:
    """Give the processor's name, as far as it can be found out."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
