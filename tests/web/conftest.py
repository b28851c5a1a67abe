"""Tests against real servers: the users are on asyncio, whatever the server runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sites import Hub, running_hub

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub
