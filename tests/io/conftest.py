"""A hub and a client for those tests that need no particular ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import hyps

from .helpers import TRANSPORTS, hub_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def server(anyio_backend: object) -> AsyncIterator[hyps.Server]:
    """A hub at a port of its own."""
    async with hyps.Server(port=0) as server:
        yield server


@pytest.fixture
async def client(server: hyps.Server) -> AsyncIterator[hyps.Client]:
    """A client of the hub."""
    async with hyps.connect(server.urls[0]) as client:
        yield client


@pytest.fixture
def backend(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    """The event loop's name, for the other process to run on the same."""
    name, options = anyio_backend
    return "uvloop" if options.get("use_uvloop") else name


@pytest.fixture(params=TRANSPORTS)
async def url(
    request: pytest.FixtureRequest, anyio_backend: object, tmp_path: Path
) -> AsyncIterator[str]:
    """The URL of a hub, at each transport in turn."""
    async with hub_at(request.param, tmp_path) as url:
        yield url
