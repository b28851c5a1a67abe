"""The commands of the README that download something, in a copy of the repository."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from support.pages import DEMO, ROOT, SPEED, TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


def test_demo_and_benchmarks_run_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "hyps"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__", "build"))
    # All of it would take a quarter of an hour.
    a_part = "-- --quick --systems hyps --only 'stream 16 B equal'"
    for command, expected in (
        (DEMO, "50,000 of 50,000 messages arrived, 0 missed"),
        (f"{SPEED.strip()} {a_part}", "stream 16 B equal, rate"),
    ):
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
