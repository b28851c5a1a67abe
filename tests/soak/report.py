"""What the soak has counted, what it has found wrong, and what the process weighs."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Failures that are printed: the first ones tell most.
_MAX_PRINTED: Final = 30


class Report:
    """Counts and failures, by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        #: Messages missed, by reason, and gaps of unknown size, likewise.
        self.missed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()
        self.failures: list[str] = []

    def fail(self, what: str) -> None:
        """Note that something does not hold, and go on: the next failure may explain it."""
        self.failures.append(what)
        if len(self.failures) <= _MAX_PRINTED:
            print(f"FAILURE: {what}", flush=True)

    def check(self, holds: object, what: str) -> None:
        if not holds:
            self.fail(what)

    def print_figures(self, figures: Mapping[str, object]) -> None:
        lines = {
            **{name: f"{count:,}" for name, count in sorted(self.counts.items())},
            "messages missed": _listed(self.missed),
            "gaps of unknown size": _listed(self.unknown),
            "faults": _listed(self.faults),
            "warnings logged": _listed(self.warnings),
            **figures,
        }
        width = max(map(len, lines))
        for name, value in lines.items():
            print(f"{name:<{width}}  {value}")
        sys.stdout.flush()


def _listed(counter: Counter[str]) -> str:
    listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items()))
    return f"{counter.total():,} ({listed})" if listed else "0"


class LogWatch(logging.Handler):
    """Takes what the hub, the clients and the event loop log: an error there is a failure here."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        if record.levelno >= logging.ERROR or "internal error" in text:
            self._report.fail(f"{record.name} logged: {text}")
        elif getattr(record, "hyps", {}).get("code", "timeout") != "timeout":
            # Nobody here breaks the rules of the wire: bytes are lost, but never changed.
            self._report.fail(f"{record.name} logged: {text}")
        # By the words before the first figure: addresses and numbers differ.
        self._report.warnings[f"{record.name}: {record.msg[:40]}..."] += 1

    def install(self) -> None:
        for name in ("hyps.client", "hyps.server", "hyps.audit", "hyps.ops", "asyncio", "trio"):
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False
        sys.unraisablehook = self._on_unraisable

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        # Among others a ResourceWarning, if warnings are errors: what was never closed.
        self._report.fail(f"{unraisable.err_msg}: {unraisable.exc_value!r} {unraisable.object!r}")


class Load:
    """What the process holds at one moment."""

    def __init__(self) -> None:
        gc.collect()
        _trim()
        self.rss = _rss()
        self.objects = len(gc.get_objects())
        self.blocks = sys.getallocatedblocks()
        self.tasks = Counter(str(task.name) for task in anyio.get_running_tasks())
        self.files = _open_files()

    def __str__(self) -> str:
        return (
            f"RSS {self.rss / 2**20:.1f} MiB, {self.objects:,} objects that the collector knows, "
            f"{self.blocks:,} blocks, {self.tasks.total():,} tasks, {self.files:,} files"
        )


def _trim() -> None:
    """Let go of the memory that the C library only keeps for later: it hides what is held."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        # Only glibc has it.
        pass


def _rss() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        # Where there is no /proc the peak has to do.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
