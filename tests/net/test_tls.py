"""The same over TLS, which has no half-close."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from support.helpers import PATIENCE, port_of, reason_of_loss, warned
from support.peers import Peer

import hyps
from hyps.protocol import PREFACE, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def hub_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def tls_url(anyio_backend: object, hub_context: ssl.SSLContext) -> AsyncIterator[str]:
    limits = hyps.Limits(hello_timeout=0.5)
    async with hyps.Server(port=0, ssl_context=hub_context, limits=limits) as server:
        (url,) = server.urls
        assert url.startswith("hypss://")
        yield url


async def test_messages_arrive(tls_url: str, client_context: ssl.SSLContext) -> None:
    async with (
        hyps.connect(tls_url, ssl_context=client_context) as client,
        client.subscribe("foo_ch") as subscription,
    ):
        await client.publish_many(("foo_ch", b"%d" % i * 1000) for i in range(1000))
        for i in range(1000):
            assert (await subscription.receive()).data == b"%d" % i * 1000


async def test_what_is_queued_at_the_shutdown_is_sent(
    tls_url: str, client_context: ssl.SSLContext
) -> None:
    async with (
        hyps.connect(tls_url, ssl_context=client_context) as reader,
        reader.subscribe("foo_ch") as subscription,
    ):
        async with hyps.connect(tls_url, ssl_context=client_context) as client:
            for i in range(100):
                client.publish_nowait("foo_ch", b"%d" % i)
        with anyio.fail_after(10):
            assert [(await subscription.receive()).data for _ in range(100)] == [
                b"%d" % i for i in range(100)
            ]


async def test_an_untrusted_hub_is_refused(tls_url: str) -> None:
    with pytest.raises(hyps.ConnectionRefused, match=r"TLS: .*certificate"):
        await hyps.connect(tls_url).connect()


async def test_a_client_without_tls_is_refused(
    tls_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(hyps.ConnectionRefused, match=r"perhaps it uses TLS \(hypss://\)"):
        await hyps.connect(tls_url.replace("hypss:", "hyps:")).connect()
    assert caplog.text.count('code=tls reason="the client does not use TLS"') == 1


async def test_a_hub_without_tls_is_refused(
    client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with hyps.Server(port=0) as server:
        url = server.urls[0].replace("hyps:", "hypss:")
        with pytest.raises(hyps.ConnectionRefused, match="perhaps there is no TLS there"):
            await hyps.connect(url, ssl_context=client_context).connect()
    assert caplog.text.count('code=protocol reason="the preface is missing: this is TLS') == 1


async def test_a_peer_that_never_begins_the_handshake_is_closed(
    tls_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(tls_url.rpartition(":")[2])
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
    assert caplog.text.count("code=tls") == 1


async def test_a_hub_that_leaves_says_goodbye(
    hub_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with hyps.Server(port=0, ssl_context=hub_context) as server:
        client = hyps.connect(server.urls[0], ssl_context=client_context)
        await client.connect()
    assert "leaving" in await reason_of_loss(client)
    await client.shutdown()


async def test_tls_is_for_tcp(hub_context: ssl.SSLContext, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unix"):
        hyps.Server(uds=tmp_path / "hub.sock", ssl_context=hub_context)


async def test_a_context_is_for_tls(client_context: ssl.SSLContext) -> None:
    for url in ("hyps://127.0.0.1", "hyps+unix:///hub.sock", "memory://name"):
        with pytest.raises(ValueError, match="hypss"):
            hyps.connect(url, ssl_context=client_context)


async def test_the_certificate_is_for_another_name_than_the_url_has(
    authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    asked: list[str] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("hub.example").configure_cert(context)
    context.sni_callback = lambda _tls, name, _context: asked.append(name)
    async with hyps.Server(port=0, ssl_context=context) as server:
        (url,) = server.urls
        with pytest.raises(hyps.ConnectionRefused, match=r"TLS: .*(mismatch|not valid)"):
            await hyps.connect(url, ssl_context=client_context).connect()
        for name in ("hub.example", "HUB.example"):
            async with hyps.connect(
                url, ssl_context=client_context, server_hostname=name
            ) as client:
                await client.publish("a", b"")
        other = hyps.connect(url, ssl_context=client_context, server_hostname="other.example")
        with pytest.raises(hyps.ConnectionRefused, match=r"TLS: .*mismatch"):
            await other.connect()
    assert [name.lower() for name in asked if name] == ["hub.example"] * 2 + ["other.example"]


async def test_a_name_for_the_certificate_is_for_tls() -> None:
    for url in ("hyps://127.0.0.1", "http://127.0.0.1", "hyps+unix:///hub.sock", "memory://name"):
        with pytest.raises(ValueError, match="server_hostname is for hypss"):
            hyps.connect(url, server_hostname="hub.example")
    for name in ("", ".example", "hub example", "hub\0.example"):
        with pytest.raises(ValueError, match="no name of a host"):
            hyps.connect("hypss://127.0.0.1", server_hostname=name)


async def test_a_hub_whose_certificate_does_not_do_any_more_is_told(
    authority: trustme.CA, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    limits = hyps.Limits(close_timeout=0.1)
    async with hyps.Server(port=0, ssl_context=context, limits=limits) as server:
        url = server.urls[0]
        client = hyps.connect(url, ssl_context=client_context, reconnect_max_delay=0.01)
        await client.connect()
    events = client.events()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("another.example").configure_cert(context)
    async with hyps.Server(port=int(url.rpartition(":")[2]), ssl_context=context, limits=limits):
        with anyio.fail_after(PATIENCE):
            async for event in events:
                if isinstance(event, hyps.Disconnected) and "certificate" in event.reason:
                    break
        assert "not connected: no hub at" in repr(client)
        await client.shutdown()
    told = [line for line in warned(caplog, "hyps.client") if "certificate" in line]
    assert len(told) == 1
    assert told[0].startswith("cannot connect again: ")


async def test_a_client_that_was_refused_and_has_left_is_not_waited_for(
    hub_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    limits = hyps.Limits(close_timeout=60)
    with anyio.fail_after(PATIENCE):
        async with hyps.Server(port=0, ssl_context=hub_context, limits=limits) as server:
            stream = await anyio.connect_tcp(
                "127.0.0.1",
                port_of(server),
                tls=True,
                ssl_context=client_context,
                tls_standard_compatible=False,
            )
            async with Peer(stream, is_hub=False) as peer:
                await peer.send(PREFACE + b"\0\0\0\0")
                await peer.expect(Kind.ERROR)
