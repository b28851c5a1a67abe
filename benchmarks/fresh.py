"""A program: makes one measurement in a process of its own. Used by the benchmark itself."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from .processes import CORES
from .runs import measure
from .systems import SYSTEMS
from .systems.base import CannotDo
from .workloads import WORKLOADS
from .workloads.base import Budget

if TYPE_CHECKING:
    from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    # As an exception it passes through every context on its way out, and so ends the server.
    raise SystemExit(128 + number)


def main() -> None:
    """Do what the argument says, and print what came out."""
    signal.signal(signal.SIGTERM, _leave)
    order = json.loads(sys.argv[1])
    [workload] = [each for each in WORKLOADS if str(each) == order["workload"]]
    [kind] = [each for each in SYSTEMS if each.name == order["system"]]
    CORES.take(CORES.client)
    with kind() as system:
        try:
            outcome = measure(workload, system, order["loop"], Budget(**order["budget"]))
        except CannotDo as why:
            print(json.dumps({"cannot": str(why)}))
        else:
            print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
