"""A hub and a client for those tests that need no particular ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

import hyps

from .helpers import SCHEMES, TRANSPORTS, Http2Server, hub_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: Modules and tests that speak the native wire themselves.
RAW: Final = frozenset(
    {
        "test_bad_input",
        "test_refusals",
        "test_vanishing",
        "test_connections_that_are_reset_at_once",
        "test_a_violation_and_a_reset_are_one_line",
        "test_what_a_session_was_owed_is_forgotten_with_it",
        "test_the_hub_says_who_came_and_went",
    }
)

#: Tests that look for what was unsubscribed at the hub, to which HTTP/2 does not tell it.
UNSUBSCRIBED_AT_THE_HUB: Final = frozenset(
    {
        "test_cancelled_entering_leaves_no_channel_at_the_hub",
        "test_a_generator_that_is_closed_early",
        "test_a_generator_that_is_closed_by_another_task",
        "test_a_generator_that_is_closed_in_a_cancelled_task",
        "test_a_subscription_may_begin_and_end_without_channels",
    }
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a hub or a client over HTTP/2 too, but for what that cannot do."""
    if "scheme" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        is_native = {module, metafunc.function.__name__} & (RAW | UNSUBSCRIBED_AT_THE_HUB)
        metafunc.parametrize("scheme", ["hyps"] if is_native else SCHEMES)


@pytest.fixture
async def server(anyio_backend: object, scheme: str) -> AsyncIterator[hyps.Server]:
    """A hub at a port of its own, whose clients speak each wire in turn."""
    kind = hyps.Server if scheme == "hyps" else Http2Server
    async with kind(port=0) as server:
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
    request: pytest.FixtureRequest, anyio_backend: object, socket_folder: Path
) -> AsyncIterator[str]:
    """The URL of a hub, at each transport in turn."""
    async with hub_at(request.param, socket_folder) as url:
        yield url
