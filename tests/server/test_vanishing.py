"""Clients that vanish: what they held is freed, and nobody else notices."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from support.helpers import audited, healthy_neighbours, let_others_run, wait_until, warned
from support.peers import OPENING, Peer, connect_raw, frame, publish_frame, raw_client

import hyps
from hyps._net.engine import Alarm
from hyps.protocol import PREFACE, Kind, Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    Vanish: TypeAlias = Callable[[Peer], Awaitable[None]]

pytestmark = [pytest.mark.anyio, pytest.mark.native_wire]


async def vanish_by_eof(raw: Peer) -> None:
    await raw.stream.send_eof()
    await raw.expect_end()


async def vanish_by_reset(raw: Peer) -> None:
    await raw.reset()


async def vanish_by_error(raw: Peer) -> None:
    await raw.send(frame(Kind.ERROR, code="internal", message="a test"))
    await raw.expect_end()


@pytest.mark.parametrize("half", [b"", publish_frame("a", bytes(100))[:50], b"\0\0"])
@pytest.mark.parametrize("vanish", [vanish_by_eof, vanish_by_reset])
async def test_a_client_vanishes_within_a_frame(
    server: hyps.Server, caplog: pytest.LogCaptureFixture, vanish: Vanish, half: bytes
) -> None:
    async with healthy_neighbours(server), raw_client(server.urls[0]) as raw:
        await raw.subscribe("a", "b", "c")
        assert server.broker.channels == 4
        if half:
            await raw.send(half)
        await vanish(raw)
        # That everything is freed is checked at the end.
    assert warned(caplog, "hyps.server") == []


@pytest.mark.parametrize("data", [b"", PREFACE[:3], PREFACE, OPENING[:-1]])
@pytest.mark.parametrize("vanish", [vanish_by_eof, vanish_by_reset])
async def test_a_client_vanishes_before_it_has_opened(
    server: hyps.Server, caplog: pytest.LogCaptureFixture, vanish: Vanish, data: bytes
) -> None:
    caplog.set_level("DEBUG", "hyps.server")

    def lines(start: str) -> int:
        return sum(one.getMessage().startswith(start) for one in caplog.records)

    async with healthy_neighbours(server), await connect_raw(server.urls[0]) as raw:
        await wait_until(lambda: lines("connected") == 3)
        if data:
            await raw.send(data)
        await vanish(raw)
        await wait_until(lambda: lines("disconnected") == 1)
    assert not warned(caplog, "hyps.audit")


async def test_nothing_is_kept_until_a_heartbeat_would_have_been_due() -> None:
    async with hyps.Server(port=0, limits=Limits(heartbeat=3600)) as server:
        before = sum(isinstance(each, Alarm) for each in gc.get_objects())
        for _ in range(100):
            async with raw_client(server.urls[0]):
                pass
        await wait_until(lambda: not server.broker.sessions)
        assert sum(isinstance(each, Alarm) for each in gc.get_objects()) - before < 100


async def test_a_client_gives_up(server: hyps.Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hyps.audit")
    async with healthy_neighbours(server), raw_client(server.urls[0]) as raw:
        await raw.subscribe("a")
        await vanish_by_error(raw)
    reasons = [ended["reason"] for ended in audited(caplog, "session ended")]
    assert reasons.count("the client gave up: internal: a test") == 1


async def test_a_client_vanishes_while_it_is_sent_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hyps.audit")
    async with (
        hyps.Server(port=0, limits=Limits(max_buffer=1_000_000)) as server,
        healthy_neighbours(server),
        hyps.connect(server.urls[0]) as client,
    ):
        async with raw_client(server.urls[0]) as raw:
            await raw.subscribe("a")
            # It does not read, until messages are missed; the others do not wait for it.
            while not server.broker.missed:
                await client.publish_many([("a", bytes(100_000))] * 10)
            await raw.reset()
        await wait_until(lambda: server.broker.channels == 1)
        await let_others_run()
    [ended] = [each for each in audited(caplog, "session ended") if each["missed"]]
    assert ended["missed"] == server.broker.missed
    # A send may have taken the socket's error, and then a read finds the end.
    assert ended["reason"].startswith(("the connection broke: ", "the client left"))
