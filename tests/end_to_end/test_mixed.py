"""A hub and a client on different event loops."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal
from support.helpers import data_of, numbered, take_data
from support.programs import needs_module

import hyps

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"debug": True}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@pytest.fixture(
    params=[
        "asyncio",
        pytest.param("uvloop", marks=needs_module("uvloop")),
        pytest.param("trio", marks=needs_module("trio")),
    ]
)
def hub_elsewhere(request: pytest.FixtureRequest) -> Iterator[hyps.Server]:
    """A hub in a thread of its own, on each event loop in turn."""
    backend, options = LOOPS[request.param]
    with (
        start_blocking_portal(backend, options) as portal,
        portal.wrap_async_context_manager(hyps.Server(port=0)) as server,
    ):
        yield server


async def test_client_and_hub_on_any_two_event_loops(hub_elsewhere: hyps.Server) -> None:
    async with (
        hyps.connect(hub_elsewhere.urls[0]) as client,
        client.subscribe("foo_ch") as subscription,
    ):
        await client.publish_many(numbered("foo_ch", 1_000))
        assert await take_data(subscription, 1_000) == data_of(numbered("foo_ch", 1_000))
        for channel, data in numbered("foo_ch", 20):
            await client.publish(channel, data)
            assert await take_data(subscription, 1) == [data]


ASYNCIO_ALONE = """
import sys
import anyio, hyps

async def main():
    async with hyps.connect("memory://alone") as client, client.subscribe("a") as subscription:
        await client.publish("a", b"1")
        assert (await subscription.receive()).data == b"1"

anyio.run(main, backend="asyncio")
assert "trio" not in sys.modules
"""


def test_asyncio_needs_no_trio() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASYNCIO_ALONE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
