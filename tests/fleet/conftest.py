from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.redis import Redis, redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# As in tests/protocol: machines differ in speed, and nothing here has a deadline to keep.
settings.register_profile(
    "fleet", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("fleet")


@pytest.fixture
def server(socket_folder: Path) -> Iterator[Redis]:
    """A Redis of its own."""
    with redis(socket_folder) as server:
        yield server
