"""Clients of both wires at one hub."""

from __future__ import annotations

import logging
import signal
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import pytest
import trustme
from support.helpers import (
    audited,
    data_of,
    reason_of_loss,
    take,
    take_data,
    wait_until,
    warned,
)
from support.processes import in_thread, serving

import hyps
from hyps.protocol import NEED_DATA, Acked, ClientProtocol, Limits, Welcome
from hyps.protocol._wire.http2 import ClientWire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Connect = Callable[..., hyps.Client]

pytestmark = pytest.mark.anyio

MANY: Final = 500


def http_url(url: str) -> str:
    return url.replace("hyps", "http", 1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["plain", "TLS"])
async def clients(
    request: pytest.FixtureRequest, anyio_backend: object, authority: trustme.CA
) -> AsyncIterator[tuple[Connect, Connect]]:
    """What makes clients of a hub, over either wire."""
    hub_context = client_context = None
    if request.param == "TLS":
        hub_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        hub_context.set_alpn_protocols(["h2"])
        authority.issue_cert("127.0.0.1").configure_cert(hub_context)
        client_context = ssl.create_default_context()
        client_context.set_alpn_protocols(["h2"])
        authority.configure_trust(client_context)
    async with hyps.Server(port=0, ssl_context=hub_context) as server:
        url = server.urls[0]
        yield (
            partial(hyps.connect, url, ssl_context=client_context),
            partial(hyps.connect, http_url(url), ssl_context=client_context),
        )


async def test_everybody_gets_the_same_in_the_same_order(clients: tuple[Connect, Connect]) -> None:
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(connect()) for connect in clients * 2]
        readers = [await stack.enter_async_context(connect()) for connect in clients * 2]
        subscriptions = [
            await stack.enter_async_context(reader.subscribe("a", "b")) for reader in readers
        ]

        async def write(writer: hyps.Client, name: int) -> None:
            for number in range(MANY // 10):
                batch = [("ab"[number % 2], f"{name}:{number}:{n}" * 20) for n in range(10)]
                await writer.publish_many(batch)

        async with anyio.create_task_group() as tasks:
            for name, writer in enumerate(writers):
                tasks.start_soon(write, writer, name)
        found = [await take(subscription, 4 * MANY) for subscription in subscriptions]
        for name in range(4):
            own = [each.data for each in found[0] if each.data.startswith(b"%d:" % name)]
            assert own == [
                (b"%d:%d:%d" % (name, number, n)) * 20
                for number in range(MANY // 10)
                for n in range(10)
            ]
    for other in found[1:]:
        assert other == found[0]
    assert [each.missed_unknown for each in subscriptions] == [False, True] * 2


async def test_large_messages_and_small_ones(clients: tuple[Connect, Connect]) -> None:
    messages = [("a", bytes([n % 256]) * (200_000 if n % 7 == 0 else n)) for n in range(40)]
    for writing, reading in (clients, reversed(clients)):
        async with (
            writing() as writer,
            reading() as reader,
            reader.subscribe("a") as subscription,
        ):
            await writer.publish_many(messages)
            assert await take_data(subscription, 40) == data_of(messages)


async def test_a_hub_that_is_left_while_both_are_busy() -> None:
    async with AsyncExitStack() as stack:
        async with hyps.Server(port=0) as server:
            clients = [
                await stack.enter_async_context(hyps.connect(url, when_disconnected="raise"))
                for url in (server.urls[0], http_url(server.urls[0]))
            ]
            subscriptions = [
                await stack.enter_async_context(client.subscribe("a")) for client in clients
            ]
            for client in clients:
                client.publish_nowait("a", b"queued")
            # It takes what is under way.
            await wait_until(lambda: server.broker.published == 2)
        for client, subscription in zip(clients, subscriptions, strict=True):
            assert await take_data(subscription, 2) == [b"queued"] * 2
            assert "leaving: the hub is shutting down" in await reason_of_loss(client)
            await client_is_flushed(client)


async def client_is_flushed(client: hyps.Client) -> None:
    with pytest.raises(hyps.ConnectionLost, match="leaving"):
        await client.publish("a", b"")


async def test_a_hub_that_comes_back() -> None:
    async with hyps.Server(port=0) as server:
        url = server.urls[0]
        port = int(url.rpartition(":")[2])
        client = hyps.connect(http_url(url), reconnect_max_delay=0.01)
        await client.connect()
        subscription = client.subscribe("a", gaps=True)
        await subscription.__aenter__()
        await client.publish("a", b"1")
        assert (await take(subscription, 1))[0] == hyps.Message("a", b"1")  # type: ignore[arg-type]
    async with hyps.Server(port=port):
        await wait_until(lambda: client.connected)
        await client.publish("a", b"2")
        with anyio.fail_after(10):
            assert await subscription.receive() == hyps.Gap("a", None, "reconnect")
            assert await subscription.receive() == hyps.Message("a", b"2")
        await client.shutdown()


async def test_sigterm_with_clients_of_both_wires(backend: str) -> None:
    with serving("--backend", backend) as (url, hub):
        async with (
            hyps.connect(url) as native,
            hyps.connect(http_url(url)) as client,
            client.subscribe("a") as subscription,
        ):
            await native.publish("a", b"1")
            assert await take_data(subscription, 1) == [b"1"]
            hub.process.send_signal(signal.SIGTERM)
            for each in (native, client):
                assert "leaving" in await reason_of_loss(each)
            code, out, err = await in_thread(hub.end)
    assert code == 0
    assert (out, err.splitlines()[-1]) == ("", "hyps: closed")


# The token


async def test_the_token(caplog: pytest.LogCaptureFixture) -> None:
    async with hyps.Server(port=0, token="sécret") as server:
        url = http_url(server.urls[0])
        async with hyps.connect(url, token="sécret") as client:
            await client.publish("a", b"1")
        for token, text in ((None, "wants a token"), ("other", "not take the token")):
            with pytest.raises(hyps.AuthenticationFailed, match=text):
                await hyps.connect(url, token=token).connect()
        assert len(warned(caplog, "hyps.audit")) == 2
        assert "sécret" not in caplog.text


@pytest.mark.parametrize("token", ["a\nb", " a"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    hyps.connect("hyps://127.0.0.1", token=token)
    with pytest.raises(ValueError, match="token"):
        hyps.connect("http://127.0.0.1", token=token)


# Losses


@asynccontextmanager
async def reader_that_stops(url: str, channel: str) -> AsyncIterator[None]:
    """Subscribe over HTTP/2, and read nothing more."""
    protocol = ClientProtocol(wire=ClientWire("a hub"))
    async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stream:
        event: object = NEED_DATA
        while not isinstance(event, Acked):
            if isinstance(event, Welcome):
                protocol.subscribe([channel])
            await stream.send(protocol.data_to_send())
            if event is NEED_DATA:
                protocol.receive_data(await stream.receive())
            event = protocol.next_event()
        yield


async def test_a_slow_reader_costs_the_others_nothing() -> None:
    limits = Limits(max_buffer=300_000)
    async with hyps.Server(port=0, limits=limits) as server:
        url = server.urls[0]
        async with (
            reader_that_stops(url, "a"),
            hyps.connect(url) as native,
            hyps.connect(http_url(url)) as client,
            native.subscribe("a") as one,
            client.subscribe("a") as other,
        ):
            # More than its windows.
            for number in range(200):
                data = b"%d" % number + bytes(10_000)
                await native.publish("a", data)
                assert await take_data(one, 1) == await take_data(other, 1) == [data]
            assert one.missed == other.missed == 0
            assert server.broker.missed > 0


# What it says of itself


async def test_a_session_of_each_wire_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hyps.audit")
    async with hyps.Server(port=0) as server:
        async with hyps.connect(http_url(server.urls[0])):
            pass
        await wait_until(lambda: audited(caplog, "session ended"))
    for event in ("session opened", "session ended"):
        [fields] = audited(caplog, event)
        assert fields["client"] == f"hyps-py/{hyps.__version__}"
        assert fields["wire"] == "http2"
    assert fields["reason"] == "the client left"
    assert not warned(caplog, "hyps.server")


async def test_what_is_refused_over_http2_is_logged_once_for_each_session_and_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients of Hyps for Nim do not look at the codes."""
    limits = Limits(max_message=10, max_channel=4)
    async with hyps.Server(port=0, limits=limits) as server:
        for count in (2, 4):
            async with hyps.connect(http_url(server.urls[0])) as client, client.subscribe("a"):
                for _ in range(3):
                    with pytest.raises(hyps.MessageTooLarge):
                        await client.publish("a", bytes(11))
                    with pytest.raises(hyps.InvalidChannel):
                        await client.publish("abcde", b"")
                await client.publish("a", b"1")
            assert len(warned(caplog, "hyps.server")) == count
        async with hyps.connect(server.urls[0]) as client:
            with pytest.raises(hyps.MessageTooLarge):
                await client.publish("a", bytes(11))
    lines = warned(caplog, "hyps.server")
    assert len(lines) == 4
    for line, code in zip(lines, "sn" * 2, strict=True):
        assert f"{code!r}: " in line
        assert "a record was refused" in line


async def test_no_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither at DEBUG, where hpack logs all headers, nor where a header is not allowed."""
    token = "correct-horse"
    caplog.set_level(logging.DEBUG)
    async with hyps.Server(port=0, token=token) as server:
        url = http_url(server.urls[0])
        async with hyps.connect(url, token=token) as client:
            await client.publish("a", b"1")
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(url, token=f"not {token}").connect()
        block = b"".join(
            [
                b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
                for name, value in (
                    (b":method", b"POST"),
                    (b":scheme", b"http"),
                    (b":path", b"/publish"),
                    (b"authorization", f"Bearer {token} ".encode()),
                )
            ]
        )
        frames = b"\0\0\0\4\0\0\0\0\0" + len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block
        port = int(server.urls[0].rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames)
            answer = b""
            with suppress(anyio.EndOfStream):
                while True:
                    answer += await stream.receive()
    assert b"HTTP/2, HeadersFrame" in answer
    assert token.encode() not in answer
    assert "HTTP/2, HeadersFrame" in caplog.text
    assert token not in caplog.text
