"""What nobody expects, in a client's own tasks: it costs the link, and never the client."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import begin, let_others_run, logged, take_data, wait_until

import hyps
from hyps._client.attempt import Attempt
from hyps._client.reconnector import Reconnector
from hyps._client.routes import Routes
from hyps._net.pump import Pump
from hyps.protocol import ClientProtocol
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Fail: TypeAlias = Callable[[], None]

pytestmark = pytest.mark.anyio


class Defect(Exception):
    """What no code expects."""


def failing(function: Any, error: type[Exception], times: int = 1) -> Any:
    """Give a function that fails so many times before it works."""
    left = times

    def fail(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise error("a defect")
        return function(*arguments, **named)

    return fail


#: Where something may fail, in the root, the pump, its writer and the engine's tasks.
PLACES = [
    (ClientProtocol, "receive_data"),
    (ClientProtocol, "next_event"),
    (ClientProtocol, "tick"),
    (ClientProtocol, "data_to_send"),
    (Routes, "on_answered"),
    (Routes, "deliver"),
]


@pytest.fixture
def hub() -> Iterator[MemoryHub]:
    with MemoryHub() as hub:
        yield hub


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=str)
@pytest.mark.parametrize("error", [Defect, KeyError, anyio.BusyResourceError])
async def test_a_defect_costs_the_link_and_not_the_client(
    owner: type,
    name: str,
    error: type[Exception],
    hub: MemoryHub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = hyps.connect(hub.url, reconnect_max_delay=0.01, limits=hyps.Limits(heartbeat=1))
    async with client, client.subscribe("a") as subscription:
        events = client.events()
        await anext(events)

        seen: list[hyps.ConnectionEvent] = []

        async def watch() -> None:
            while len(seen) < 2:
                seen.append(await anext(events))

        async def publish() -> None:
            while not seen:
                await client.publish("a", b"0")

        async with anyio.create_task_group() as tasks:
            monkeypatch.setattr(owner, name, failing(getattr(owner, name), error))
            watching = begin(tasks, watch)
            publishing = begin(tasks, publish)
            # For what happens with the time.
            while not seen:
                hub.advance_clock(0.4)
                await let_others_run()
            await watching.get()
            # The outcome is unknown, on the first link of all too. Or the defect is met by the
            # caller, who has it then.
            with contextlib.suppress(hyps.ConnectionLost, error):
                await publishing.get()
        lost, again = seen
        assert isinstance(lost, hyps.Disconnected)
        assert "internal error" in lost.reason
        assert isinstance(again, hyps.Reconnected)
        await client.publish("a", b"1")
        while (await take_data(subscription, 1)) != [b"1"]:
            pass
    with_traceback = [record for record in caplog.records if record.exc_info]
    assert len(with_traceback) == 1
    assert with_traceback[0].levelno == logging.ERROR


async def test_a_defect_that_stays_is_met_with_patience(
    hub: MemoryHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with hyps.connect(hub.url, reconnect_max_delay=0.001) as client:
        with monkeypatch.context() as broken:
            fail = failing(None, Defect, times=1_000_000)
            broken.setattr(Reconnector, "_on_welcome", fail)
            hub.connections[0].cut()
            await wait_until(lambda: "a defect" in repr(client))
            await let_others_run(500)
        await client.publish("a", b"")
    # Not each time.
    assert 1 <= len([record for record in caplog.records if record.exc_info]) <= 10


async def test_a_defect_while_a_loss_is_told(
    hub: MemoryHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = hyps.connect(hub.url, reconnect_max_delay=0.001)
    async with client, client.subscribe("a") as subscription:
        with monkeypatch.context() as broken:
            broken.setattr(Routes, "on_lost", failing(None, Defect))
            hub.connections[0].cut()
            await wait_until(lambda: not client.connected)
            await let_others_run()
        await client.publish("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]
    assert "a defect" in caplog.text


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Reconnector, "_on_welcome"), (Attempt, "_make_protocol"), (Reconnector, "_on_event")],
)
async def test_a_defect_of_the_first_connection_is_told_at_once(
    owner: type, name: str, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = hyps.connect(hub.url)
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, failing(None, Defect, times=10))
        with pytest.raises(hyps.ConnectionRefused, match=r"internal error: .*a defect"):
            await client.connect()
        await let_others_run()
    assert not client.connected
    async with client:
        await client.publish("a", b"")


async def test_the_first_link_that_breaks_is_lost_and_not_refused(hub: MemoryHub) -> None:
    async with hyps.connect(hub.url, reconnect_max_delay=0.01) as client:
        hub.stall()
        async with anyio.create_task_group() as tasks:
            publishing = begin(tasks, client.publish, "a", b"")
            await let_others_run()
            hub.connections[0].cut()
            with pytest.raises(hyps.ConnectionLost):
                await publishing.get()


# Shutting down


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Routes, "end"),
        (Routes, "on_lost"),
        (ClientProtocol, "close"),
        (Pump, "close"),
        (Reconnector, "_finish"),
        (Reconnector, "_fail_waiters"),
    ],
    ids=str,
)
async def test_a_shutdown_ends_whatever_fails(
    owner: type, name: str, hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = hyps.connect(hub.url, reconnect_max_delay=0.01)
    await client.connect()
    subscription = await client.subscribe("a").__aenter__()
    with monkeypatch.context() as broken, anyio.fail_after(10):
        broken.setattr(owner, name, failing(getattr(owner, name), Defect))
        await client.shutdown()
    await subscription.__aexit__(None, None, None)
    assert not client.connected
    async with client:
        await client.publish("a", b"")


class Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise LookupError("a request's variable")


async def test_a_filter_that_raises_is_not_noticed(
    hub: MemoryHub, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("hyps.client")
    defect = Filter()
    logger.addFilter(defect)
    try:
        client = hyps.connect(hub.url, reconnect_max_delay=0.01)
        async with client, client.subscribe("a", max_messages=1) as subscription:
            events = client.events()
            await client.publish_many([("a", b"")] * 1000)
            hub.drop_next(3)
            await client.publish_many([("a", b"")] * 4)
            hub.restart()
            while not isinstance(await anext(events), hyps.Reconnected):
                pass
            await client.publish("a", b"1")
            assert subscription.missed >= 999
            with anyio.fail_after(10):
                await client.shutdown()
    finally:
        logger.removeFilter(defect)
    assert logged(caplog, "hyps.client", logging.DEBUG) == []
    # It is told once, as Python's own handlers do.
    assert capfd.readouterr().err.count("Logging error") == 1
