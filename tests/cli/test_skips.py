"""What the rest of the tests relies on: in CI none of them is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import TIMEOUT

TESTS = Path(__file__).parents[1]
MARKED = """
import pytest
from support.programs import needs_module, needs_program

@needs_program("no-such-program")
def test_program():
    pass

@needs_module("no_such_module")
def test_module():
    pass

@pytest.fixture
def machine():
    pytest.skip("not today")

def test_fixture(machine):
    pass

@pytest.mark.xfail
def test_that_fails():
    raise ValueError

@pytest.mark.needs_machine
def test_machine(machine):
    pass
"""
WHOLE_MODULE = 'import pytest; pytest.importorskip("no_such_module")'


@pytest.mark.parametrize(
    ("variable", "outcomes"),
    [("true", "1 skipped, 1 xfailed, 4 errors"), ("", "5 skipped, 1 xfailed")],
)
def test_what_is_skipped_fails_in_ci(variable: str, outcomes: str, tmp_path: Path) -> None:
    (tmp_path / "test_marked.py").write_text(MARKED)
    (tmp_path / "test_module.py").write_text(WHOLE_MODULE)
    options = ("-q", "-p", "conftest", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path],
        env={**os.environ, "CI": variable, "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stdout.splitlines()[-1].startswith(outcomes), done.stdout + done.stderr
