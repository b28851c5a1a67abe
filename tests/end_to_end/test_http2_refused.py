"""What is no hub over HTTP/2, and what refuses; and doing without the extra."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import begin
from support.nim import MESSAGES, PUBLISH, SUBSCRIBE
from support.nim_server import nim_server
from support.peers import Peer, scripted_hub
from support.processes import TIMEOUT

import hyps
from hyps.protocol import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio


async def fail_to_connect(
    answer: Callable[[Peer], Awaitable[None]], limits: Limits | None = None
) -> hyps.ConnectionRefused:
    """Connect to what answers so; give the error."""
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        url = hub.url.replace("hyps", "http", 1)
        client = hyps.connect(url, limits=limits)
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        data = await session.stream.receive()
        assert data.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await answer(session)
        with pytest.raises(hyps.ConnectionRefused, match=url) as caught:
            await opening.get()
        assert not client.connected
    return caught.value


NO_HUBS = {
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "the native wire": b"HYPS/1: this port speaks the Hyps pub/sub protocol\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "its echo": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "junk": b"\xff" * 100,
}


@pytest.mark.parametrize("answer", NO_HUBS.values(), ids=NO_HUBS)
async def test_it_does_not_speak_http2(answer: bytes) -> None:
    async def send(session: Peer) -> None:
        await session.send(answer)
        await session.stream.aclose()

    assert "does not speak Hyps: HTTP/2" in str(await fail_to_connect(send))


async def test_it_closes_at_once() -> None:
    async def close(session: Peer) -> None:
        await session.stream.aclose()

    assert "closed" in str(await fail_to_connect(close))


async def test_it_resets_at_once() -> None:
    async def reset(session: Peer) -> None:
        await session.reset()

    await fail_to_connect(reset)


async def test_it_never_answers() -> None:
    async def be_silent(session: Peer) -> None:
        pass

    limits = Limits(hello_timeout=0.5, close_timeout=0.02)
    assert "does not answer" in str(await fail_to_connect(be_silent, limits))


@pytest.mark.parametrize("path", [SUBSCRIBE, PUBLISH, MESSAGES])
async def test_it_answers_with_another_status(path: str) -> None:
    async with nim_server(statuses={path: 503}) as server:
        with pytest.raises(hyps.ConnectionRefused, match=rf"HTTP 503.*{path}"):
            await hyps.connect(server.url).connect()
        server.options["statuses"] = {path: 401}
        with pytest.raises(hyps.AuthenticationFailed, match="token"):
            await hyps.connect(server.url).connect()


async def test_it_refuses_when_the_client_connects_again() -> None:
    async with nim_server() as server:
        client = hyps.connect(server.url, reconnect_max_delay=0.001)
        async with client, client.subscribe("a") as subscription:
            first = await server.accept()
            server.options["statuses"] = {PUBLISH: 404}
            await first.close()
            for _ in range(3):
                await (await server.accept()).expect_end()
            server.options["statuses"] = {}
            await client.publish("a", b"1")
            # So it does if that is for the token.
            server.options["statuses"] = {PUBLISH: 401}
            for session in server.sessions:
                await session.close()
            async for event in client.events():
                if isinstance(event, hyps.Disconnected) and "token" in event.reason:
                    break
            server.options["statuses"] = {}
            await client.publish("a", b"1")
            assert subscription.channels == {"a"}


async def test_a_hub_has_as_many_sessions_as_may_be() -> None:
    async with hyps.Server(port=0, limits=Limits(max_sessions=1)) as server:
        url = server.urls[0].replace("hyps", "http", 1)
        async with hyps.connect(url):
            with pytest.raises(hyps.ConnectionRefused):
                await hyps.connect(url).connect()
        async with hyps.connect(url) as client:
            await client.publish("a", b"")


# Without the extra

HUB_WITHOUT = """
import sys
sys.modules["h2"] = None
import logging, anyio, hyps

logging.basicConfig(format="%(message)s")
PREFACE = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"

async def main():
    async with hyps.Server(port=0) as server:
        url = server.urls[0]
        for data in (PREFACE, PREFACE + bytes(1000)):
            async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stream:
                await stream.send(data)
                with anyio.fail_after(10):
                    answer = b""
                    try:
                        while True:
                            answer += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        print(answer)
        async with hyps.connect(url) as client:
            await client.publish("a", b"")
    try:
        hyps.connect(url.replace("hyps", "http", 1))
    except hyps.InvalidURL as error:
        print(error)

anyio.run(main)
"""


def test_without_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HUB_WITHOUT],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, other, invalid = done.stdout.splitlines()
    assert one == other
    assert "HTTP/2" in one
    assert "pip install 'hyps[http2]'" in invalid
    # A line for each session.
    assert [line.count("HTTP/2") for line in done.stderr.splitlines()] == [1, 1]


HUB_WITH = """
import sys, anyio, hyps

async def main():
    assert "h2" not in sys.modules
    async with hyps.Server(port=0):
        assert "h2" in sys.modules

anyio.run(main)
"""


def test_no_client_waits_for_the_first_one_over_http2() -> None:
    """Importing h2 takes a hundred milliseconds, so a hub does it before it listens."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HUB_WITH],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
