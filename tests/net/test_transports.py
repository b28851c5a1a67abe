"""URLs, and what is special about TCP, Unix sockets and hubs in memory."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import sys
import traceback
import weakref
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.helpers import (
    begin,
    hub_at,
    let_others_run,
    memory_client,
    port_of,
    take_data,
    wait_until,
)
from support.peers import Peer, scripted_hub

import hyps
from hyps._net.sockets import adopt
from hyps.protocol import Limits

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

BAD_URLS = [
    "junk",
    "127.0.0.1:8787",
    "localhost",
    "//127.0.0.1:8787",
    "ftp://127.0.0.1:8787",
    "redis://127.0.0.1",
    "HYPS2://127.0.0.1",
    "hyps://",
    "hyps:///path",
    "hyps://:8787",
    "hyps://127.0.0.1:8787/path",
    "hyps://127.0.0.1:8787?query",
    "hyps://127.0.0.1:8787#fragment",
    "hyps://user:secret@127.0.0.1:8787",
    "hyps://127.0.0.1:port",
    "hyps://127.0.0.1:65536",
    "hyps://127.0.0.1:-1",
    "hyps://[::1",
    "hyps+unix://",
    "hyps+unix://relative",
    "hyps+unix://host/path",
    "memory://",
    "memory:///path",
    "memory://name/path",
    "memory:name",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_url(url: str) -> None:
    with pytest.raises(hyps.InvalidURL, match="bad URL"):
        hyps.connect(url)


GOOD_URLS = {
    "hyps://127.0.0.1": "hyps://127.0.0.1:8787",
    "hyps://127.0.0.1:1/": "hyps://127.0.0.1:1",
    "hyps://localhost:8787": "hyps://localhost:8787",
    "HYPS://LOCALHOST": "hyps://localhost:8787",
    "hyps://[::1]:8787": "hyps://[::1]:8787",
    "hyps://[fe80::1%25eth0]:8787": "hyps://[fe80::1%25eth0]:8787",
    "hyps://[fe80::1%eth0]:8787": "hyps://[fe80::1%25eth0]:8787",
    "hyps://[fe80::1%2525]:8787": "hyps://[fe80::1%2525]:8787",
    "hyps+unix:///a/path.sock": "hyps+unix:///a/path.sock",
    "memory://name": "memory://name",
    "memory://Name": "memory://Name",
}


@pytest.mark.parametrize(("url", "meaning"), GOOD_URLS.items())
def test_good_url(url: str, meaning: str) -> None:
    assert f"of {meaning}," in repr(hyps.connect(url))


@pytest.mark.parametrize("url", GOOD_URLS.values())
def test_what_a_url_is_shown_as_can_be_read_again(url: str) -> None:
    assert f"of {url}," in repr(hyps.connect(url))


@pytest.mark.parametrize(
    "url",
    [
        "hyps://user:s3cr3t@127.0.0.1:8787",
        "hyps://s3cr3t@127.0.0.1:8787",
        "hyps://:s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t/s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t@s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t,s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t?s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t#s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t[s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t]s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t\u2100@127.0.0.1:8787",
        "hyps://user:pass://s3cr3t@127.0.0.1:8787",
        "hyps://user:s3cr3t@one:1,user:s3cr3t@two:2",
        "hyps://one:1,user:s3cr3t@two:2",
        "hyps://user:s3cr3t@one:1,two:2",
        "hyps://user:s3cr3t@",
        "hyps://user:s3cr3t",
        "hyps://user:s3cr3t/",
        "hyps://127.0.0.1:8787?token=s3cr3t",
        "hyps://127.0.0.1:8787/?token=s3cr3t@s3cr3t",
        "hyps://127.0.0.1:8787#s3cr3t",
        "redis://:s3cr3t@127.0.0.1",
        "memory://user:s3cr3t@name",
        "memory://name?s3cr3t",
        "hyps+unix://user:s3cr3t@host/path",
        "user:s3cr3t@127.0.0.1:8787",
        "s3cr3t@127.0.0.1",
        "//user:s3cr3t@127.0.0.1",
        "user:s3cr3t",
    ],
)
def test_a_bad_url_is_shown_without_what_may_be_a_secret(url: str) -> None:
    with pytest.raises(hyps.InvalidURL, match="bad URL") as caught:
        hyps.connect(url)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value, chain=False)[-1:])
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cr3t" not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@127.0.0.1:6379", "redis://***@127.0.0.1:6379"),
        ("hyps://127.0.0.1:8787/path", "hyps://127.0.0.1:8787/path"),
        ("hyps://[::1]:8787/path", "hyps://[::1]:8787/path"),
        ("hyps://127.0.0.1:65536", "hyps://127.0.0.1:65536"),
        ("127.0.0.1:8787", "127.0.0.1:8787"),
    ],
)
def test_what_is_left_of_a_bad_url_helps(url: str, shown: str) -> None:
    with pytest.raises(hyps.InvalidURL) as caught:
        hyps.connect(url)
    assert f"bad URL {shown!r}: " in str(caught.value)


def test_the_token_is_shown_by_nothing() -> None:
    client = hyps.connect("memory://name", token="s3cr3t")
    assert "s3cr3t" not in repr(client)
    assert "s3cr3t" not in repr(vars(client))


# TCP


async def test_nobody_listens_at_a_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"hyps://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(hyps.ConnectionRefused, match="refused") as caught:
            async with hyps.connect(url):
                raise AssertionError("it was entered")
    assert url in str(caught.value)


async def test_nobody_listens_at_any_address_of_a_host() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(hyps.ConnectionRefused, match="refused"):
            await hyps.connect(f"hyps://localhost:{unused.getsockname()[1]}").connect()


async def test_a_hub_without_tls_at_a_tls_url() -> None:
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        opening = begin(tasks, hyps.connect(hub.url.replace("hyps", "hypss")).connect)
        session = await hub.accept()
        # The client's first words in a handshake, and no answer to them.
        assert await session.stream.receive()
        await session.stream.aclose()
        with pytest.raises(hyps.ConnectionRefused):
            await opening.get()


@pytest.mark.parametrize("host", ["a..b", "-", "\u2028", "a" * 64])
async def test_a_host_that_cannot_be(host: str) -> None:
    with pytest.raises((hyps.ConnectionRefused, hyps.InvalidURL)):
        await hyps.connect(f"hyps://{host}:8787").connect()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# Containers often have none, and that cannot be installed.
@pytest.mark.needs_machine
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_tcp_version_6() -> None:
    async with hyps.Server("::1", 0) as server, hyps.connect(server.urls[0]) as client:
        assert server.urls == (f"hyps://[::1]:{port_of(server)}",)
        await client.publish("foo_ch", b"")
        if sys.platform == "linux":
            # Its loopback interface is the first. In a URL its % is spelled %25.
            async with hyps.connect(f"hyps://[::1%251]:{port_of(server)}") as zoned:
                await zoned.publish("foo_ch", b"")


# Unix sockets


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
async def test_the_mode_of_a_unix_socket(socket_folder: Path, mode: int) -> None:
    path = socket_folder / "hub.sock"
    async with hyps.Server(uds=path, uds_mode=mode) as server:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        async with hyps.connect(server.urls[0]) as client:
            await client.publish("foo_ch", b"")


@pytest.mark.parametrize("name", ["hub.sock", "a b", "a%41", "a#b", "a?b", "\u00e9"])
async def test_a_unix_socket(socket_folder: Path, name: str) -> None:
    path = socket_folder / name
    async with hyps.Server(uds=path) as server:
        assert stat.S_ISSOCK(path.stat().st_mode)
        async with hyps.connect(server.urls[0]) as client, client.subscribe("a") as subscription:
            await client.publish("a", b"1")
            assert await take_data(subscription, 1) == [b"1"]
    assert not path.exists()


async def test_a_unix_socket_at_a_relative_path(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(socket_folder)
    async with hyps.Server(uds="hub.sock") as server:
        assert server.urls == (f"hyps+unix://{socket_folder}/hub.sock",)
        monkeypatch.chdir("/")
        async with hyps.connect(server.urls[0]) as client:
            await client.publish("a", b"")
    assert not (socket_folder / "hub.sock").exists()


async def test_a_unix_socket_in_use(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    async with hyps.Server(uds=path) as server:
        with pytest.raises(hyps.CannotListen, match="in use"):
            await hyps.serve(uds=path)
        # The first one is not disturbed.
        async with hyps.connect(server.urls[0]) as client:
            await client.publish("a", b"")


async def test_a_stale_unix_socket_is_replaced(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.exists()
    async with hyps.Server(uds=path) as server, hyps.connect(server.urls[0]) as client:
        await client.publish("a", b"")
    assert not path.exists()


async def test_a_file_is_not_replaced(socket_folder: Path) -> None:
    path = socket_folder / "file"
    path.write_text("precious")
    with pytest.raises(hyps.CannotListen, match="exists"):
        await hyps.serve(uds=path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/hub.sock", "a" * 200])
async def test_a_unix_socket_that_cannot_be(socket_folder: Path, name: str) -> None:
    with pytest.raises(hyps.CannotListen):
        await hyps.serve(uds=socket_folder / name)
    with pytest.raises(hyps.ConnectionRefused):
        await hyps.connect(f"hyps+unix://{socket_folder / name}").connect()


async def test_a_path_with_a_null_in_it() -> None:
    with pytest.raises((hyps.ConnectionRefused, hyps.InvalidURL)):
        await hyps.connect("hyps+unix:///a%00b").connect()


async def test_nobody_listens_at_a_unix_socket(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    with pytest.raises(hyps.ConnectionRefused, match="no such file"):
        await hyps.connect(f"hyps+unix://{path}").connect()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(hyps.ConnectionRefused, match="refused"):
        await hyps.connect(f"hyps+unix://{path}").connect()


async def test_a_socket_file_that_was_removed_meanwhile(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    async with hyps.Server(uds=path):
        os.unlink(path)
    assert not path.exists()


async def test_a_hub_that_leaves_does_not_remove_its_successors_socket(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    async with anyio.create_task_group() as tasks:
        peers: list[Peer] = []
        is_leaving = anyio.Event()

        async def serve_first() -> None:
            async with hyps.Server(uds=path, limits=Limits(close_timeout=60)):
                # A client that takes its time to leave.
                peer = Peer(await anyio.connect_unix(path), is_hub=False)
                await peer.open()
                peers.append(peer)
                await is_leaving.wait()

        first = begin(tasks, serve_first)
        await wait_until(lambda: peers)
        is_leaving.set()
        [peer] = peers
        await peer.next_frame()
        async with hyps.Server(uds=path) as second:
            await peer.stream.aclose()
            await first.get()
            async with hyps.connect(second.urls[0]) as client:
                await client.publish("a", b"")


# In memory


async def test_one_name_is_one_hub() -> None:
    async with (
        hyps.connect("memory://one") as reader,
        hyps.connect("memory://one") as writer,
        reader.subscribe("a") as subscription,
    ):
        await writer.publish("a", b"1")
        assert await take_data(subscription, 1) == [b"1"]


async def test_another_name_is_another_hub() -> None:
    async with (
        hyps.connect("memory://one") as reader,
        hyps.connect("memory://other") as writer,
        reader.subscribe("a") as subscription,
    ):
        await writer.publish("a", b"not heard")
        with pytest.raises(hyps.WouldBlock):
            subscription.receive_nowait()


def servers() -> list[hyps.Server]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is hyps.Server]


async def test_the_last_client_removes_the_hub() -> None:
    before = {id(one) for one in servers()}
    async with hyps.connect("memory://one"):
        async with hyps.connect("memory://one"):
            [server] = [weakref.ref(one) for one in servers() if id(one) not in before]
        gc.collect()
        assert server() is not None
    gc.collect()
    assert server() is None


async def test_a_client_in_memory_connects_again() -> None:
    client = hyps.connect("memory://one")
    for _ in range(3):
        async with client, client.subscribe("a") as subscription:
            await client.publish("a", b"1")
            assert await take_data(subscription, 1) == [b"1"]


async def test_connecting_in_memory_is_cancelled() -> None:
    for _ in range(3):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await hyps.connect("memory://one").connect()
        assert scope.cancelled_caught
    async with hyps.connect("memory://one") as client:
        await client.publish("a", b"")


async def test_a_large_message_in_memory() -> None:
    large = bytes(1024 * 1024)
    async with memory_client() as client, client.subscribe("a") as subscription:
        await client.publish("a", large)
        assert await take_data(subscription, 1) == [large]


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_a_client_outlives_the_task_that_connected_it(
    socket_folder: Path, transport: str
) -> None:
    async with hub_at(transport, socket_folder) as url:
        client = hyps.connect(url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
        await client.publish("a", b"")
        await client.shutdown()


async def test_what_nobody_reads_stays_with_the_sender() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with theirs:
        theirs.setblocking(False)
        ours.setblocking(False)
        # It is there before anybody reads.
        theirs.send(bytes(65_536))
        transport = await adopt(ours)
        async with transport.stream:
            await let_others_run()
            await transport.stream.receive(65_536)
            sent = 0
            for _ in range(2_000):
                with contextlib.suppress(BlockingIOError):
                    sent += theirs.send(bytes(65_536))
                await checkpoint()
    # What the buffers of the system take, and one read.
    assert sent < 32 * 1024 * 1024
