"""The code blocks of the documentation that need frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.pages import blocks_of, run_block, users_environment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("code", blocks_of(needs_web=True))
def test_examples(code: str, tmp_path: Path) -> None:
    run_block(code, users_environment(), tmp_path)
