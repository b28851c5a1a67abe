"""The server: tokens, bounds, accepting, leaving, connections that others accepted."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream
from support.helpers import (
    audited,
    begin,
    drain,
    logged,
    port_of,
    reason_of_loss,
    take_data,
    wait_until,
    warned,
)
from support.peers import OPENING, Peer, connect_raw, publish_frame, raw_client, reset_when_closed

import hyps
from hyps.protocol import Kind, Limits

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


# Who may come in


async def test_the_right_token() -> None:
    async with (
        hyps.Server(port=0, token="s\u00e9same") as server,
        hyps.connect(server.urls[0], token="s\u00e9same") as client,
    ):
        await client.publish("foo_ch", b"")


@pytest.mark.parametrize(
    ("token", "why"), [(None, "required"), ("", "wrong"), ("SESAME", "wrong"), ("sesame ", "wrong")]
)
async def test_no_or_another_token(
    caplog: pytest.LogCaptureFixture, token: str | None, why: str
) -> None:
    async with hyps.Server(port=0, token="sesame") as server:
        with pytest.raises(hyps.AuthenticationFailed, match=f"token is {why}"):
            await hyps.connect(server.urls[0], token=token).connect()
        await wait_until(lambda: not server.broker.sessions)
    [text] = warned(caplog, "hyps.audit")
    assert f"token is {why}" in text
    assert "sesame" not in text.lower()


async def test_a_hub_without_a_token_lets_everybody_in(server: hyps.Server) -> None:
    async with hyps.connect(server.urls[0], token="any") as client:
        await client.publish("foo_ch", b"")


async def test_as_many_sessions_as_may_be(caplog: pytest.LogCaptureFixture) -> None:
    async with hyps.Server(port=0, limits=Limits(max_sessions=2)) as server:
        url = server.urls[0]
        async with hyps.connect(url) as first:
            async with hyps.connect(url):
                with pytest.raises(hyps.ConnectionRefused, match="limit"):
                    await hyps.connect(url).connect()
                # The others do not notice.
                await first.publish("foo_ch", b"")
            await wait_until(lambda: len(server.broker.sessions) == 1)
            # There is room again.
            async with hyps.connect(url) as third:
                await third.publish("foo_ch", b"")
    [refused] = audited(caplog, "session refused")
    assert refused["code"] == "limit"


# Starting and leaving


async def test_serve_is_started_and_cancelled() -> None:
    async with anyio.create_task_group() as tasks:
        server = await tasks.start(lambda **kwargs: hyps.serve(port=0, **kwargs))
        async with hyps.connect(server.urls[0]) as client:
            await client.publish("foo_ch", b"")
        assert server.broker.published == 1
        url = server.urls[0]
        tasks.cancel_scope.cancel()
    with pytest.raises(hyps.ConnectionRefused):
        await hyps.connect(url).connect()


async def test_serve_takes_what_a_server_takes(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    limits = Limits(max_message=3)
    async with anyio.create_task_group() as tasks:
        server = await tasks.start(
            lambda **kwargs: hyps.serve(uds=path, token="sesame", limits=limits, **kwargs)
        )
        async with hyps.connect(f"hyps+unix://{path}", token="sesame") as client:
            with pytest.raises(hyps.MessageTooLarge):
                await client.publish("foo_ch", b"four")
        assert server.broker.limits == limits
        tasks.cancel_scope.cancel()
    assert not path.exists()


async def test_a_port_that_is_free() -> None:
    server = hyps.Server(port=0)
    assert not server.urls
    async with server:
        assert server.urls == (f"hyps://127.0.0.1:{port_of(server)}",)
        assert port_of(server) > 0


async def test_a_host_with_several_addresses() -> None:
    async with hyps.Server("localhost", 0) as server:
        for url in server.urls:
            async with hyps.connect(url) as client:
                await client.publish("foo_ch", b"")
        assert server.broker.published == len(server.urls)


async def test_a_port_that_is_in_use(server: hyps.Server) -> None:
    with pytest.raises(hyps.CannotListen, match="in use"):
        async with hyps.Server(port=port_of(server)):
            raise AssertionError("it was entered")
    with pytest.raises(hyps.CannotListen, match="in use"):
        await hyps.serve(port=port_of(server))


async def test_an_address_of_another_machine() -> None:
    # Of the range for documentation, so it is nobody's.
    with pytest.raises(hyps.CannotListen):
        await hyps.serve("192.0.2.123", 0)


async def test_leaving_ends_the_sessions_of_clients_but_not_their_iterations() -> None:
    async with anyio.create_task_group() as tasks:
        async with hyps.Server(port=0) as server:
            clients = [hyps.connect(server.urls[0]) for _ in range(5)]
            readings = []
            for client in clients:
                await client.connect()
                subscription = await client.subscribe("foo_ch").__aenter__()
                readings.append(begin(tasks, drain, subscription))
            await clients[0].publish("foo_ch", b"last")
        for client in clients:
            assert "leaving" in await reason_of_loss(client)
            assert not client.connected
        assert not any(reading.is_known for reading in readings)
        for client, reading in zip(clients, readings, strict=True):
            await client.shutdown()
            # What the hub had for it was flushed.
            assert await reading.get() == [b"last"]
    assert not server.broker.sessions
    assert server.broker.channels == 0


async def test_leaving_does_not_wait_for_clients_that_do_not_leave(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "hyps.server")
    async with hyps.Server(port=0, limits=Limits(close_timeout=0.02)) as server:
        raw = await connect_raw(server.urls[0])
        await raw.open()
        await raw.subscribe("foo_ch")
        silent = await connect_raw(server.urls[0])
        await wait_until(lambda: server_log(caplog)[-1].startswith("connected session=2 "))
    assert not server.broker.sessions
    assert (await raw.expect_fields(Kind.GOAWAY))["reason"]
    for peer in (raw, silent):
        await peer.stream.aclose()


async def test_leaving_does_not_wait_for_clients_that_do_not_read() -> None:
    limits = Limits(close_timeout=0.02, max_buffer=1_000_000)
    async with hyps.Server(port=0, limits=limits) as server:
        raw = await connect_raw(server.urls[0])
        await raw.open()
        await raw.subscribe("foo_ch")
        async with hyps.connect(server.urls[0]) as client:
            while not server.broker.missed:
                await client.publish_many([("foo_ch", bytes(100_000))] * 10)
    assert not server.broker.sessions
    await raw.reset()


async def test_what_is_published_while_the_hub_leaves_is_not_taken() -> None:
    async with anyio.create_task_group() as tasks:
        raw: list[Peer] = []
        is_leaving = anyio.Event()

        async def serve() -> None:
            async with hyps.Server(port=0) as server:
                peer = await connect_raw(server.urls[0])
                await peer.open()
                raw.append(peer)
                await is_leaving.wait()
            assert server.broker.published == 0

        serving = begin(tasks, serve)
        await wait_until(lambda: raw)
        is_leaving.set()
        await raw[0].expect(Kind.GOAWAY)
        await raw[0].send(publish_frame("foo_ch", b"1", b"2"))
        assert await raw[0].expect(Kind.PUBLISH_ACK) == b"uu"
        await raw[0].stream.aclose()
        await serving.get()


async def test_a_server_can_listen_again() -> None:
    server = hyps.Server(port=0)
    for _ in range(2):
        async with server, hyps.connect(server.urls[0]) as client:
            await client.publish("foo_ch", b"")
    assert server.broker.published == 2


async def test_accepting_goes_on_when_there_are_no_descriptors(
    server: hyps.Server, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Connecting takes no descriptor beyond this one; accepting does.
    with socket.socket() as raw_socket:
        with socket.socket() as next_one:
            lowest_free = next_one.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, bounds[1]))
        try:
            raw_socket.connect(("127.0.0.1", port_of(server)))
            await wait_until(lambda: warned(caplog, "hyps.server"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, bounds)
        assert "cannot accept" in warned(caplog, "hyps.server")[0]
        raw_socket.sendall(OPENING)
        await wait_until(lambda: server.broker.sessions)
    await wait_until(lambda: not server.broker.sessions)


# Connections that others accepted


def make_pair() -> tuple[ByteStream, ByteStream]:
    """Make a stream pair as a user might."""
    up_send, up_receive = anyio.create_memory_object_stream[bytes](1)
    down_send, down_receive = anyio.create_memory_object_stream[bytes](1)
    return (
        StapledByteStream(_Sending(up_send), BufferedByteReceiveStream(down_receive)),
        StapledByteStream(_Sending(down_send), BufferedByteReceiveStream(up_receive)),
    )


class _Sending(ByteSendStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_handle_serves_any_stream(server: hyps.Server) -> None:
    ours, theirs = make_pair()
    async with anyio.create_task_group() as tasks, hyps.connect(server.urls[0]) as client:
        handling = begin(tasks, server.handle, theirs)
        raw = Peer(ours, is_hub=False)
        await raw.open()
        await raw.subscribe("foo_ch")
        # It is a session as any other.
        await client.publish("foo_ch", b"1")
        assert await raw.expect_messages() == [("foo_ch", b"1")]
        await raw.stream.send_eof()
        await raw.expect_end()
        await handling.get()
        assert server.broker.channels == 0
        await ours.aclose()


async def test_handle_of_a_server_that_does_not_listen() -> None:
    server = hyps.Server(limits=Limits(hello_timeout=0.02))
    ours, theirs = make_pair()
    async with anyio.create_task_group() as tasks:
        handling = begin(tasks, server.handle, theirs)
        raw = Peer(ours, is_hub=False)
        assert (await raw.expect_fields(Kind.ERROR))["code"] == "timeout"
        await ours.aclose()
        await handling.get()


async def test_handle_is_cancelled(server: hyps.Server) -> None:
    ours, theirs = make_pair()
    async with anyio.create_task_group() as tasks:
        handling = begin(tasks, server.handle, theirs)
        raw = Peer(ours, is_hub=False)
        await raw.open()
        await raw.subscribe("foo_ch")
        await handling.cancel()
        assert server.broker.channels == 0
        assert not server.broker.sessions
        await ours.aclose()


class _Broken(ByteReceiveStream):
    """A stream with a defect."""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        raise RuntimeError("a defect")

    async def aclose(self) -> None:
        pass


async def test_a_sessions_internal_failure_does_not_end_the_server(
    server: hyps.Server, caplog: pytest.LogCaptureFixture
) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](10)
    async with hyps.connect(server.urls[0]) as client, client.subscribe("foo_ch") as subscription:
        await server.handle(StapledByteStream(_Sending(send), _Broken()))
        assert len(server.broker.sessions) == 1
        await client.publish("foo_ch", b"1")
        assert await take_data(subscription, 1) == [b"1"]
    [text] = warned(caplog, "hyps.server")
    assert "internal error" in text
    [error] = [record.exc_info for record in caplog.records if record.exc_info]
    assert error is not None
    receive.close()


async def test_a_connection_that_is_gone_before_it_is_handled(
    server: hyps.Server, caplog: pytest.LogCaptureFixture
) -> None:
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with multi:
        listener: Any = multi.listeners[0]
        with socket.socket() as raw_socket:
            raw_socket.connect(listener.extra(SocketAttribute.local_address))
            reset_when_closed(raw_socket)
        stream = await listener.accept()
        await server.handle(stream)
    assert not server.broker.sessions
    assert warned(caplog, "hyps.server") == []


@pytest.mark.native_wire
async def test_the_hub_says_who_came_and_went(
    server: hyps.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "hyps")
    async with raw_client(server.urls[0]):
        pass
    await wait_until(lambda: not server.broker.sessions)
    await wait_until(lambda: audited(caplog, "session ended"))
    assert any("127.0.0.1" in text for text in server_log(caplog))
    [opened] = audited(caplog, "session opened")
    assert opened["client"] == "a test"


def server_log(caplog: pytest.LogCaptureFixture) -> list[str]:
    return logged(caplog, "hyps.server", logging.DEBUG)


def test_what_a_server_cannot_be() -> None:
    with pytest.raises(ValueError, match="token"):
        hyps.Server(token="")
    for port in (-1, 65_536):
        with pytest.raises(ValueError, match="port"):
            hyps.Server(port=port)
    for uds, mode in ((None, 0o660), ("hub.sock", -1), ("hub.sock", 0o1000)):
        with pytest.raises(ValueError, match="uds_mode"):
            hyps.Server(uds=uds, uds_mode=mode)


async def test_the_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPS_TOKEN", "secret")
    async with hyps.Server(port=0, token="secret") as server:
        async with hyps.connect(server.urls[0]) as client:
            assert client.connected
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(server.urls[0], token="another").connect()
