"""What tests need besides their packages. A test without it is skipped, but not where CI=true."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Final

import pytest

#: Where a check that is skipped is a failure, see ``conftest``.
IN_CI: Final = os.environ.get("CI", "").lower() in ("1", "true")


def needs_program(name: str) -> pytest.MarkDecorator:
    """Skip a test on a machine that does not have a program."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


def needs_module(name: str) -> pytest.MarkDecorator:
    """Skip a test in an environment that does not have a package."""
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")
