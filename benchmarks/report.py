"""Tables, and the numbers in them."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
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
