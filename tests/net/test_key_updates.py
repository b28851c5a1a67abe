"""TLS peers that change their keys while a send is blocked, and ask for ours to be changed."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from support.helpers import PATIENCE, begin, let_others_run, logged, port_of, take_data, wait_until
from support.peers import GRANTED, OPENING, publish_frame, subscribe_frame, welcome_frame
from support.processes import in_thread, running
from support.proxy import Proxy, Way, proxy_to

import hyps
from hyps._net import tls as _tls
from hyps.protocol import Kind, encode, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.processes import Running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        shutil.which("openssl") is None and not os.environ.get("CI"),
        reason="openssl is not installed",
    ),
]


class Certificates:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        self.file = str(folder / "hub.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(self.file)
        self.hub = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self.hub)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@contextmanager
def openssl(*arguments: str) -> Iterator[Running]:
    """Run a peer that sends each line of its input; one that begins with K changes the keys."""
    with running(*arguments, program=["openssl"], stdin=subprocess.PIPE) as peer:
        yield peer


async def say(peer: Running, data: bytes) -> None:
    """Let it read this in one go."""
    stdin = peer.process.stdin
    assert stdin is not None
    await in_thread(os.write, stdin.fileno(), data)


async def change_keys(peer: Running, proxy: Proxy, way: Way) -> None:
    before = proxy.passed[way]
    await say(peer, b"K\n")
    await wait_until(lambda: proxy.passed[way] > before)


async def test_a_client_changes_keys_while_the_hub_cannot_send(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        hyps.Server(port=0, ssl_context=certificates.hub) as server,
        hyps.connect(server.urls[0], ssl_context=certificates.client) as publisher,
        publisher.subscribe("from the peer") as subscription,
        proxy_to(port_of(server)) as proxy,
    ):
        address = proxy.url.removeprefix("hyps://")
        with openssl("s_client", "-connect", address, "-tls1_3") as peer:
            await say(peer, OPENING + subscribe_frame("a"))
            await wait_until(lambda: server.broker.channels == 2)
            proxy.hold(Way.TO_CLIENT)
            for _ in range(8):
                await publisher.publish("a", bytes(1_000_000))
            await let_others_run()
            for number in range(3):
                await change_keys(peer, proxy, Way.TO_HUB)
                # It is read all the same, though nothing can be sent.
                await say(peer, publish_frame("from the peer", b"%d" % number))
                assert await take_data(subscription, 1) == [b"%d" % number]
            assert len(server.broker.sessions) == 2
    assert "internal error" not in caplog.text


async def test_a_hub_changes_keys_while_the_client_cannot_send(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    port = str(_unused_port())
    arguments = ("s_server", "-accept", port, "-tls1_3", "-cert", certificates.file)
    with openssl(*arguments) as peer:
        line = await in_thread(peer.read_line, peer.process.stdout)
        while "ACCEPT" not in line:
            line = await in_thread(peer.read_line, peer.process.stdout)
        async with proxy_to(int(port)) as proxy, anyio.create_task_group() as tasks:
            url = proxy.url.replace("hyps:", "hypss:")
            client = hyps.connect(
                url, ssl_context=certificates.client, limits=hyps.Limits(close_timeout=0.1)
            )
            opening = begin(tasks, client.connect)
            await wait_until(lambda: proxy.passed[Way.TO_HUB])
            await say(peer, welcome_frame())
            await opening.get()
            subscription = client.subscribe("a")
            entering = begin(tasks, subscription.__aenter__)
            await let_others_run()
            await say(peer, encode_frame(Kind.SUBSCRIBE_ACK, encode("a", GRANTED)))
            await entering.get()
            proxy.hold(Way.TO_HUB)
            publishing = [begin(tasks, client.publish, "b", bytes(1_000_000)) for _ in range(8)]
            await let_others_run()
            for number in range(3):
                await change_keys(peer, proxy, Way.TO_CLIENT)
                await say(peer, encode_frame(Kind.MESSAGES, encode("a", b"%d" % number)))
                assert await take_data(subscription, 1) == [b"%d" % number]
            assert client.connected
            assert not any(outcome.is_known for outcome in publishing)
            for outcome in publishing:
                await outcome.cancel()
            await client.shutdown()
    assert logged(caplog, "hyps.client", 0) == []


def _unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


# What TLS has to say by itself


async def test_a_peer_that_changes_keys_for_ever_and_does_not_read_is_given_up(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        hyps.Server(port=0, ssl_context=certificates.hub) as server,
        hyps.connect(server.urls[0], ssl_context=certificates.client) as publisher,
        proxy_to(port_of(server)) as proxy,
    ):
        with pytest.MonkeyPatch.context() as smaller:
            smaller.setattr(_tls, "_MAX_PENDING", 100)
            address = proxy.url.removeprefix("hyps://")
            with openssl("s_client", "-connect", address, "-tls1_3") as peer:
                await say(peer, OPENING + subscribe_frame("a"))
                await wait_until(lambda: server.broker.channels == 1)
                proxy.hold(Way.TO_CLIENT)
                for _ in range(8):
                    await publisher.publish("a", bytes(1_000_000))
                with anyio.fail_after(PATIENCE):
                    while len(server.broker.sessions) > 1:
                        await say(peer, b"K\n")
                        await let_others_run(500)
