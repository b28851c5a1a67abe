"""Strangers at a hub: those who have connected, and have not opened a session."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from support.helpers import audited, begin, let_others_run, logged, port_of, wait_until, warned
from support.peers import OPENING, connect_raw, frame, raw_client

import hyps
from hyps.protocol import PREFACE, Kind, Limits
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.peers import Peer

pytestmark = pytest.mark.anyio

SERVER_LOG = "hyps.server"


@pytest.fixture
async def server(anyio_backend: object) -> AsyncIterator[hyps.Server]:
    """A hub at a port of its own."""
    async with hyps.Server(port=0) as server:
        yield server


async def connect_strangers(stack: AsyncExitStack, server: hyps.Server, count: int) -> list[Peer]:
    """Connect, and say nothing."""
    return [
        await stack.enter_async_context(await connect_raw(server.urls[0])) for _ in range(count)
    ]


@pytest.mark.parametrize("bound", ["max_strangers", "max_strangers_per_address"])
async def test_the_oldest_stranger_is_closed_and_clients_are_let_in(bound: str) -> None:
    async with (
        hyps.Server(port=0, limits=Limits(**{bound: 3})) as server,
        AsyncExitStack() as stack,
    ):
        strangers = await connect_strangers(stack, server, 3)
        async with hyps.connect(server.urls[0]) as client:
            await strangers[0].expect_end()
            await client.publish("a", b"")
            # A session is no stranger: there is room for three of these again.
            strangers += await connect_strangers(stack, server, 1)
            await strangers[1].send(OPENING)
            await strangers[1].expect(Kind.WELCOME)
            # Two are left, and this one has opened: one more fits, and another one does not.
            strangers += await connect_strangers(stack, server, 2)
            await strangers[2].expect_end()
            await strangers[1].send(frame(Kind.ERROR, code="internal", message="a test"))
            await client.publish("a", b"")


async def test_strangers_take_no_place_of_a_session() -> None:
    limits = Limits(max_sessions=1)
    async with hyps.Server(port=0, limits=limits) as server, AsyncExitStack() as stack:
        await connect_strangers(stack, server, 5)
        async with hyps.connect(server.urls[0]) as client:
            await client.publish("a", b"")


async def test_tls_handshakes_are_strangers() -> None:
    authority = trustme.CA()
    ssl_context = server_context(authority)
    limits = Limits(max_strangers=2)
    async with (
        hyps.Server(port=0, ssl_context=ssl_context, limits=limits) as server,
        AsyncExitStack() as stack,
    ):
        strangers = [
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port_of(server)))
            for _ in range(2)
        ]
        async with hyps.connect(server.urls[0], ssl_context=client_context(authority)) as client:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await strangers[0].receive()
            await client.publish("a", b"")


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_those_who_are_closed_are_logged_with_a_bounded_number_of_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with hyps.Server(port=0, limits=Limits(max_strangers=1)) as server:
        for _ in range(30):
            async with await connect_raw(server.urls[0]) as raw:
                await raw.send(PREFACE)
                async with await connect_raw(server.urls[0]):
                    await raw.expect_end()
    texts = warned(caplog, SERVER_LOG)
    assert 0 < len(texts) < 10
    assert "127.0.0.1" in texts[0]


async def test_junk_is_logged_with_a_bounded_number_of_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with hyps.Server(port=0) as server:
        for _ in range(50):
            async with await connect_raw(server.urls[0]) as raw:
                await raw.send(b"\x1b[2Jjunk")
                await raw.rest()
    texts = warned(caplog, "hyps.audit")
    assert 0 < len(texts) < 10
    assert not warned(caplog, SERVER_LOG)
    # At the end the hub tells how many it has left out, at the latest.
    assert texts[-1] == f"left out {51 - len(texts)} more lines like: session refused code=protocol"


async def test_what_a_client_chose_is_escaped_and_cut_in_the_log(
    server: hyps.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hyps")
    async with await connect_raw(server.urls[0]) as raw:
        await raw.send(PREFACE, frame(Kind.HELLO, client="\x1b[2J\r\nforged" + "x" * 10_000))
        await raw.expect(Kind.WELCOME)
        await raw.send(frame(Kind.ERROR, code="c" * 2_000, message="\x1b]0;title\x07\n" * 200))
        await wait_until(lambda: audited(caplog, "session ended"))
    for text in all_of(caplog):
        assert text.isprintable()
        assert len(text) < 5_000


def all_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        *logged(caplog, SERVER_LOG, logging.DEBUG),
        *logged(caplog, "hyps.audit", logging.DEBUG),
    ]


# Wrong tokens


@pytest.fixture
async def guarded_hub(anyio_backend: object) -> AsyncIterator[MemoryHub]:
    """A hub with a token, whose clock is stopped."""
    with MemoryHub(token="right") as hub:
        hub.freeze_clock()
        yield hub


async def test_a_wrong_token_is_answered_late_and_later(guarded_hub: MemoryHub) -> None:
    hub = guarded_hub
    waited = []
    for _ in range(4):
        async with anyio.create_task_group() as tasks:
            login = begin(tasks, hyps.connect(hub.url, token="wrong").connect)
            steps = 0
            while not login.is_known:
                await let_others_run()
                hub.advance_clock(0.05)
                steps += 1
            with pytest.raises(hyps.AuthenticationFailed):
                await login.get()
        waited.append(steps)
    assert waited[0] > 1
    assert waited == sorted(waited)
    assert waited[-1] > 4 * waited[0]


async def test_the_right_token_is_answered_at_once(guarded_hub: MemoryHub) -> None:
    hub = guarded_hub
    async with anyio.create_task_group() as tasks:
        logins = [begin(tasks, hyps.connect(hub.url, token="wrong").connect) for _ in range(5)]
        await let_others_run()
        async with hyps.connect(hub.url, token="right") as client:
            await client.publish("a", b"")
        assert not any(login.is_known for login in logins)
        hub.advance_clock(1.0)
        hub.advance_clock(1.0)
        for login in logins:
            await let_others_run()
            with pytest.raises(hyps.AuthenticationFailed):
                await login.get()


async def test_a_client_that_is_refused_late_may_leave_before(
    guarded_hub: MemoryHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub = guarded_hub
    async with anyio.create_task_group() as tasks:
        login = begin(tasks, hyps.connect(hub.url, token="wrong").connect)
        await wait_until(lambda: hub.connections)
        await let_others_run()
        await login.cancel()
        await wait_until(lambda: not hub.connections)
        hub.advance_clock(1.0)
        await let_others_run()
    # Who guesses does not wait for the answer.
    [refused] = audited(caplog, "session refused")
    assert refused["reason"] == "the token is wrong"


# Who is let in


@pytest.mark.parametrize(
    ("host", "options", "is_open"),
    [
        ("0.0.0.0", {}, True),
        ("0.0.0.0", {"token": "sesame"}, False),
        ("127.0.0.1", {}, False),
        ("127.0.0.2", {}, False),
    ],
)
async def test_a_hub_that_is_open_to_all_says_so_once(
    caplog: pytest.LogCaptureFixture, host: str, options: dict[str, str], is_open: bool
) -> None:
    async with hyps.Server(host, 0, **options):  # type: ignore[arg-type]
        pass
    texts = [text for text in warned(caplog, SERVER_LOG) if "no token" in text]
    assert len(texts) == is_open


async def test_client_certificates_do_as_well_as_a_token(caplog: pytest.LogCaptureFixture) -> None:
    ssl_context = server_context(trustme.CA())
    async with hyps.Server("0.0.0.0", 0, ssl_context=ssl_context):
        assert len(warned(caplog, SERVER_LOG)) == 1
    ssl_context.verify_mode = ssl.CERT_REQUIRED
    async with hyps.Server("0.0.0.0", 0, ssl_context=ssl_context):
        assert len(warned(caplog, SERVER_LOG)) == 1


async def test_without_descriptors_strangers_make_room(server: hyps.Server) -> None:
    resource = pytest.importorskip("resource")
    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with AsyncExitStack() as stack:
        [stranger] = await connect_strangers(stack, server, 1)
        async with raw_client(server.urls[0]):
            # The stranger has been accepted, as this session was after it.
            with socket.socket() as raw:
                with socket.socket() as next_one:
                    lowest_free = next_one.fileno()
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, bounds[1]))
                try:
                    raw.connect(("127.0.0.1", port_of(server)))
                    await stranger.expect_end()
                    raw.sendall(OPENING)
                    await wait_until(lambda: len(server.broker.sessions) == 2)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, bounds)
