"""``hyps.Server(sockets=)``: sockets that somebody else bound and that listen already."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from anyio.lowlevel import checkpoint

import hyps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


def make_tcp(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    return socket.create_server((host, 0), family=family)


def make_unix(path: Path) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX)
    raw.bind(str(path))
    raw.listen()
    return raw


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with make_tcp() as raw:
        yield raw


async def exchange(url: str, context: ssl.SSLContext | None = None) -> None:
    async with (
        hyps.connect(url, ssl_context=context) as client,
        client.subscribe("a") as subscription,
    ):
        await client.publish("a", b"1")
        assert (await subscription.receive()).data == b"1"


async def test_tcp_and_unix_at_once(tcp: socket.socket, socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    port = tcp.getsockname()[1]
    async with hyps.Server(sockets=[tcp, make_unix(path)]) as server:
        assert server.urls == (f"hyps://127.0.0.1:{port}", f"hyps+unix://{path}")
        for url in server.urls:
            await exchange(url)
    # Whoever made the file removes it.
    assert path.exists()
    assert tcp.fileno() == -1


async def test_ipv6() -> None:
    try:
        raw = make_tcp(socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    async with hyps.Server(sockets=[raw]) as server:
        assert server.urls[0].startswith("hyps://[::1]:")
        await exchange(server.urls[0])


async def test_tls(tcp: socket.socket) -> None:
    authority = trustme.CA()
    hub_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(hub_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    async with hyps.Server(sockets=[tcp], ssl_context=hub_context) as server:
        assert server.urls[0].startswith("hypss://127.0.0.1:")
        await exchange(server.urls[0], client_context)


async def test_serve_takes_them_too(tcp: socket.socket) -> None:
    async with anyio.create_task_group() as tasks:
        server = await tasks.start(lambda **options: hyps.serve(sockets=[tcp], **options))
        await exchange(server.urls[0])
        tasks.cancel_scope.cancel()


async def test_clients_that_came_before_the_hub(tcp: socket.socket) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange, f"hyps://127.0.0.1:{tcp.getsockname()[1]}")
        await checkpoint()
        async with hyps.Server(sockets=[tcp]) as server:
            while not server.broker.published:
                await checkpoint()
            while server.broker.sessions:
                await checkpoint()


async def test_sockets_that_were_closed_meanwhile(tcp: socket.socket) -> None:
    other = make_tcp()
    server = hyps.Server(sockets=[other, tcp])
    tcp.close()
    with pytest.raises(hyps.CannotListen, match="cannot listen at the sockets"):
        await server.__aenter__()
    assert other.fileno() == -1


def make_unbound() -> socket.socket:
    return socket.socket()


def make_datagram() -> socket.socket:
    return socket.socket(type=socket.SOCK_DGRAM)


def make_connected() -> socket.socket:
    one, other = socket.socketpair()
    other.close()
    return one


def make_closed() -> socket.socket:
    raw = make_tcp()
    raw.close()
    return raw


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_unbound, "does not listen"),
        (make_datagram, "not one of streams"),
        (make_connected, "does not listen"),
        (make_closed, "is closed"),
    ],
)
def test_sockets_that_cannot_be_listened_at(make: Callable[[], socket.socket], words: str) -> None:
    with make() as raw, pytest.raises(ValueError, match=words):
        hyps.Server(sockets=[raw])


def test_arguments_that_contradict_each_other(tcp: socket.socket, socket_folder: Path) -> None:
    with pytest.raises(ValueError, match="give sockets, or host"):
        hyps.Server("0.0.0.0", sockets=[tcp])
    with pytest.raises(ValueError, match="give sockets, or host"):
        hyps.Server(port=0, sockets=[tcp])
    with pytest.raises(ValueError, match="give sockets, or host"):
        hyps.Server(uds=socket_folder / "a", sockets=[tcp])
    with pytest.raises(ValueError, match="there are no sockets"):
        hyps.Server(sockets=[])
    with pytest.raises(TypeError, match="expected a socket"):
        hyps.Server(sockets=[tcp.fileno()])  # type: ignore[list-item]
    with (
        make_unix(socket_folder / "hub.sock") as unix,
        pytest.raises(ValueError, match="must be a TCP socket"),
    ):
        hyps.Server(sockets=[unix], ssl_context=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
