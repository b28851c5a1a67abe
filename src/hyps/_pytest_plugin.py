"""The fixture ``hyps_hub``. Pytest finds this module by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .testing import MemoryHub


@pytest.fixture
def hyps_hub() -> Iterator[MemoryHub]:
    """A hub in memory, of this test's own: ``hyps.connect(hyps_hub.url)``."""
    # Here, so that a run without such tests need not load it.
    from .testing import MemoryHub

    with MemoryHub() as hub:
        yield hub
