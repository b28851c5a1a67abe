"""What the servers that people use do when they are told to stop, and when users misbehave."""

from __future__ import annotations

import json
import signal
import socket
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
import websockets
from support.sites import (
    APPS,
    SERVERS,
    TIMEOUT,
    Hub,
    Site,
    free_port,
    running_hub,
    running_site,
    until,
)
from support.users import hear, read_until, using
from websockets.exceptions import ConnectionClosed, InvalidStatus

import hyps

pytestmark = pytest.mark.anyio

#: How streams end when the server is told to stop. granian may end a WebSocket before the close
#: frame has left.
CLEAN: dict[str, set[object]] = {"granian": {"end", 1012, 1006}}


#: Those that run ASGI applications.
ASGI_SERVERS = sorted(SERVERS.keys() - {"gunicorn-preload"})


@pytest.mark.parametrize("server", ASGI_SERVERS)
async def test_a_server_that_is_told_to_stop_ends_its_streams(server: str, hub: Hub) -> None:
    with running_site(server, APPS, hub.url, "site_app") as site:
        async with using(site) as users:
            await wait_for_workers(hub, site, server)
            for _ in range(4):
                await users.open_stream("/events")
            await users.open_stream("/generator")
            for _ in range(3):
                await users.open_socket("a")
            await users.sockets[0].send("hello")
            for ws in users.sockets:
                assert await hear(ws) == "hello"
            await users.publish("news")
            for lines in users.streams:
                await read_until(lines, "data: news")
            site.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(TIMEOUT):
                assert set(await users.see_ends()) <= CLEAN.get(server, {"end", 1012})
        # Nobody holds a connection open any more.
        site.end()
        site.assert_clean()
    await until(lambda: not hub.stats()["sessions"])
    assert hub.stats()["channels"] == 0


#: What a worker of a server writes when it is ready; a signal before that is lost with some.
READY = {
    "granian": "Started worker",
    "hypercorn": "Running on",
    "hypercorn-trio": "Running on",
}


async def wait_for_workers(hub: Hub, site: Site, server: str) -> None:
    """Wait until every worker is connected and ready."""
    count = 2 if server in ("uvicorn-workers", "gunicorn-uvicorn") else 1
    words = READY.get(server, "Application startup complete")
    await until(lambda: hub.stats()["sessions"] == count and site.log.count(words) >= count)


# One by one, what goes wrong without help


async def test_bad_names_and_no_hub_are_told_by_the_status(hub: Hub) -> None:
    with running_site("uvicorn", APPS, hub.url, "site_app") as site:
        for name in ("a\nb", ""):
            async with httpx.AsyncClient() as http:
                answer = await http.get(f"{site.url}/events", params={"channel": name})
                assert answer.status_code == 400
        with pytest.raises(InvalidStatus, match="403"):
            await websockets.connect(f"{site.websocket_url}/chat/a%0Ab")
        hub.close()
        await until(lambda: not httpx.get(site.url).json()["connected"])
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            answer = await http.get(f"{site.url}/events")
        assert answer.status_code == 200
        assert answer.text.startswith("retry: ")
        ws = await websockets.connect(f"{site.websocket_url}/chat/a")
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1013
        site.end()
        site.assert_clean()


async def test_the_application_starts_before_the_hub() -> None:
    port = free_port()
    with running_site("uvicorn", APPS, f"hyps://127.0.0.1:{port}", "site_app") as site:
        async with using(site) as users:
            with running_hub(port):
                lines = await users.open_stream("/events")
                await users.publish("hello")
                await read_until(lines, "data: hello")
        site.end()
        site.assert_clean()
        assert site.log.count("cannot connect: no hub at") == 1


async def test_a_publish_that_fails_is_told_to_its_user(hub: Hub) -> None:
    port = int(hub.url.rpartition(":")[2])
    with running_site("uvicorn", APPS, hub.url, "site_app") as site:
        async with using(site) as users:
            sockets = [await users.open_socket("a") for _ in range(3)]
            lines = await users.open_stream("/events")
            # The hub takes the message and gives no answer.
            hub.process.send_signal(signal.SIGSTOP)
            await sockets[0].send("lost")
            await until(lambda: httpx.get(site.url).json()["said"] == 1)
            hub.close()
            error = json.loads(await sockets[0].recv())["error"]
            assert error["type"] == "ConnectionLost"
            with running_hub(port):
                # Nobody was dropped, and everybody is told.
                await sockets[1].send("hello")
                for ws in sockets:
                    gap = json.loads(await ws.recv())["gap"]
                    assert (gap["missed"], gap["reason"]) == (None, "reconnect")
                    assert await hear(ws) == "hello"
                text = await read_until(lines, "event: gap")
                await users.publish("again")
                await read_until(lines, "data: again")
                assert "event: gap" in text
        site.end()
        site.assert_clean()


@pytest.mark.parametrize("path", ["/events", "/generator", "/chat/a"])
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "hypercorn-trio", "granian"])
async def test_a_browser_that_reads_nothing_costs_nobody_anything(
    server: str, path: str, hub: Hub
) -> None:
    with running_site(server, APPS, hub.url, "site_app", SEND_TIMEOUT="0.5") as site:
        frozen = open_frozen(site, path)
        async with hyps.connect(hub.url) as publisher:
            with anyio.fail_after(TIMEOUT):
                await until(lambda: hub.stats()["channels"])
                # It takes the room of the systems' buffers, and no more.
                while hub.stats()["channels"]:
                    for channel in ("news", "room.a"):
                        await publisher.publish(channel, bytes(200_000).replace(b"\0", b"x"))
                    await anyio.sleep(0.02)
            async with using(site) as users:
                lines = await users.open_stream("/events")
                await users.publish("hello")
                await read_until(lines, "data: hello")
        frozen.close()


def open_frozen(site: Site, path: str) -> socket.socket:
    """Request a stream, and read nothing of it."""
    address = urlsplit(site.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect((address.hostname, address.port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {address.netloc}"]
    if path.startswith("/chat"):
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    return sock


async def test_a_page_that_shows_the_latest_gets_no_gaps(hub: Hub) -> None:
    with running_site("uvicorn", APPS, hub.url, "site_app") as site:
        async with using(site) as users:
            lines = await users.open_stream("/latest")
            async with hyps.connect(hub.url) as publisher:
                await publisher.publish_many([("news", str(number)) for number in range(10_000)])
            assert "gap" not in await read_until(lines, "data: 9999")


async def test_users_who_leave_by_reset_leave_nothing(hub: Hub) -> None:
    with running_site("uvicorn", APPS, hub.url, "site_app") as site:
        for path in ("/events", "/generator", "/chat/a") * 5:
            sock = open_frozen(site, path)
            sock.recv(100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        await until(lambda: not hub.stats()["channels"])
        site.end()
        site.assert_clean()


async def test_code_that_is_not_async_publishes_after_a_fork(hub: Hub) -> None:
    """gunicorn's sync workers are forks of a process that has used the client already."""
    async with hyps.connect(hub.url) as client, client.subscribe("news") as subscription:
        with running_site("gunicorn-preload", APPS, hub.url, "wsgi_app") as site:
            assert (await subscription.receive()).data == b"preloaded"
            processes: set[str] = set()
            async with httpx.AsyncClient() as http:
                # Workers are replaced after some requests.
                while len(processes) < 5:
                    processes.add((await http.get(f"{site.url}/publish")).text)
            site.end()
            site.assert_clean()
        received = {message.data.decode() for message in await subscription.receive_many()}
        assert processes <= received
