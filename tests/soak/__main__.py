"""Hundreds of clients, faults all the time, and every message is accounted for.

A hub, clients that come and go, and a proxy between them run in one process. What was published
is known, as publishers are left in peace, so each subscription can be checked. At the end nothing
may be left: ``nox -s soak -- --minutes 1 --backend trio --seed 7``.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import secrets
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Final

import anyio

from .run import Soak

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds after its time in which the soak has ended, or has failed; and in which the process ends
#: itself, if not even being cancelled ends the soak.
_GRACE: Final = 90
_LAST_GRACE: Final = 120


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (%(default)s)")
    parser.add_argument(
        "--backend",
        choices=("asyncio", "uvloop", "trio"),
        default="asyncio",
        help="event loop (%(default)s)",
    )
    parser.add_argument("--clients", type=int, default=60, help="at a time (%(default)s)")
    parser.add_argument("--seed", type=int, help="of what happens; not of when (any)")
    return parser.parse_args(arguments)


def end_process() -> None:
    """Say where the process hangs, and end it."""
    print("FAILURE: it did not end, not even when it was cancelled", flush=True)
    faulthandler.dump_traceback()
    os._exit(1)


def main() -> int:
    arguments = parse_arguments()
    seconds = 60 * arguments.minutes
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    print(f"soak: {arguments.minutes:g} minutes on {arguments.backend}, --seed {seed}", flush=True)
    warnings.simplefilter("error", ResourceWarning)
    watchdog = threading.Timer(seconds + _LAST_GRACE, end_process)
    watchdog.daemon = True
    watchdog.start()
    soak = Soak(seconds, arguments.clients, seed)
    is_uvloop = arguments.backend == "uvloop"
    anyio.run(
        soak.run_in_time,
        seconds + _GRACE,
        backend="asyncio" if is_uvloop else arguments.backend,
        backend_options={"use_uvloop": True} if is_uvloop else {},
    )
    watchdog.cancel()
    failures = soak.report.failures
    if failures:
        first = failures[0].partition("\n")[0]
        print(f"FAILED: {len(failures)} failures, --seed {seed}; the first: {first}")
        return 1
    print("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
