"""Clients that do not speak HTTP, or not to the end."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import logged, wait_until, warned
from support.http import Talk, ask, bearer, talking
from support.ops import hub_with_http

import hyps
from hyps.ops import HTTPServer
from hyps.protocol import Broker

if TYPE_CHECKING:
    from anyio.abc import SocketStream

    from hyps.protocol._broker.channel import Channel

pytestmark = pytest.mark.anyio

LOG = "hyps.ops"

#: Seconds that slow clients have here, and those that are never waited for.
SHORT = {"timeout": 0.2}

POST = b"POST /publish/c HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "junk",
    [
        b"what is this?\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",  # no Host
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
        POST + b"Content-Length: x\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HYPS/1\r\n\r\n",
    ],
)
async def test_junk_is_answered_and_ends_its_connection(
    junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with hub_with_http() as (server, url):
        async with talking(url) as talk:
            await talk.stream.send(junk)
            found = await talk.ended()
        assert found.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501 ", b"HTTP/1.1 505 "))
        assert found.count(b'{"error": ') == 1
        assert (await ask(url, "GET", "/healthz")).status == 200
        assert server.broker.published == 0
    assert not warned(caplog, LOG)


async def test_a_head_is_bounded() -> None:
    async with hub_with_http() as (_, url), talking(url) as talk:
        await talk.stream.send(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert (await talk.ended()).startswith(b"HTTP/1.1 431 ")


async def test_a_head_and_a_body_have_their_time() -> None:
    async with hub_with_http(http=SHORT) as (server, url):
        async with talking(url) as talk:
            assert await talk.ended() == b""
        async with talking(url) as talk:
            await talk.stream.send(b"GET /healthz HTTP/1.1\r\n")
            assert (await talk.ended()).startswith(b"HTTP/1.1 408 ")
        for length in (b"Content-Length: 2", b"Transfer-Encoding: chunked"):
            async with talking(url) as talk:
                await talk.stream.send(POST + length + b"\r\n\r\n1")
                assert (await talk.ended()).startswith(b"HTTP/1.1 408 ")
        async with talking(url) as talk:
            # One that is kept for a further request has the same time.
            assert (await talk.ask("GET", "/healthz")).status == 200
            assert await talk.ended() == b""
        assert server.broker.published == 0


async def test_a_client_that_reads_nothing_has_its_time() -> None:
    async with hub_with_http(http=SHORT) as (_, url), talking(url) as talk:
        # More answers than the sockets hold.
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
        with contextlib.suppress(anyio.BrokenResourceError):
            while True:
                await talk.stream.send(request)
        assert (await ask(url, "GET", "/healthz")).status == 200


async def test_clients_that_end_in_the_middle() -> None:
    async with hub_with_http() as (server, url):
        for sent in (b"GET /hea", POST + b"Content-Length: 5\r\n\r\n12", POST + b"Expect: 100-"):
            async with talking(url) as talk:
                await talk.stream.send(sent)
            async with talking(url) as talk:
                await talk.stream.send(sent)
                await talk.stream.send_eof()
                assert (await talk.ended()).startswith(b"HTTP/1.1 400 ")
        assert (await ask(url, "GET", "/healthz")).status == 200
        assert server.broker.published == 0


async def test_a_body_where_none_belongs() -> None:
    async with hub_with_http() as (_, url), talking(url) as talk:
        assert (await talk.ask("GET", "/healthz", body=b"")).status == 200
        response = await talk.ask("GET", "/healthz", body=b"1")
        assert response.status == 413
        assert await talk.ended() == b""


@pytest.mark.parametrize("name", ["token", "access_token", "Token", "tok%65n"])
@pytest.mark.parametrize("page", ["/connz", "/publish/c", "/healthz", "/nowhere", "/metrics"])
async def test_a_token_in_a_url_is_refused_and_not_logged(
    page: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    method = "POST" if page.startswith("/publish") else "GET"
    async with hub_with_http(token="my-secret") as (server, url):
        for headers in ({}, bearer("my-secret")):
            target = f"{page}?{name}=my-secret"
            response = await ask(url, method, target, headers)
            assert response.status == 400
            assert "Authorization" in response.error
            assert "my-secret" not in response.error
        assert server.broker.published == 0
        assert b"my-secret" not in (await ask(url, "GET", "/metrics")).body
    assert "my-secret" not in caplog.text


async def test_two_tokens() -> None:
    async with hub_with_http(token="right") as (server, url), talking(url) as talk:
        tokens = b"Authorization: Bearer right\r\nAuthorization: Bearer wrong\r\n"
        await talk.stream.send(POST + tokens + b"Content-Length: 0\r\n\r\n")
        assert (await talk.stream.receive()).startswith(b"HTTP/1.1 400 ")
        assert server.broker.published == 0


async def test_a_target_with_a_host() -> None:
    async with hub_with_http() as (_, url):
        assert (await ask(url, "GET", f"{url}/healthz")).status == 200
        assert (await ask(url, "GET", "http://other.example")).status == 404
        assert (await ask(url, "GET", "*")).status == 404


@pytest.mark.patience(60)
async def test_a_thousand_connections_that_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    most = 50
    caplog.set_level(logging.DEBUG)
    async with hub_with_http(http={"max_connections": most}) as (_, url):
        port = int(url.rpartition(":")[2])
        silent: deque[SocketStream] = deque()
        for _ in range(1_000):
            silent.append(await anyio.connect_tcp("127.0.0.1", port))
            if len(silent) > most:
                # The oldest has made room for it.
                async with silent.popleft() as oldest:
                    assert await Talk(oldest, url).ended() == b""
        assert (await ask(url, "GET", "/healthz")).status == 200
        for stream in silent:
            await stream.aclose()
    warnings = warned(caplog, LOG)
    assert len(warnings) <= 2
    assert all("to make room: there may be 50" in warning for warning in warnings)
    assert len(logged(caplog, LOG, logging.DEBUG)) <= 3


async def test_the_oldest_silent_one_gives_way() -> None:
    async with (
        hub_with_http(http={"max_connections": 2}) as (_, url),
        talking(url) as first,
        talking(url) as second,
    ):
        assert (await second.ask("GET", "/healthz")).status == 200
        async with talking(url) as third:
            assert (await third.ask("GET", "/healthz")).status == 200
            assert await first.ended() == b""
            assert (await second.ask("GET", "/healthz")).status == 200
            assert (await third.ask("GET", "/healthz")).status == 200


async def test_those_that_are_being_answered_do_not_give_way() -> None:
    begun = anyio.Event()

    class WatchedBroker(Broker):
        def all_channels(self) -> list[Channel]:
            begun.set()
            return super().all_channels()

    class WatchedServer(hyps.Server):
        _broker_type = WatchedBroker

    server = WatchedServer(port=0)
    async with HTTPServer(server, ":0", max_connections=1) as site, server:
        [url] = site.urls
        async with talking(url) as busy:
            # The rates of channels take a second.
            await busy.stream.send(b"GET /channelz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await begun.wait()
            async with talking(url) as third:
                assert await third.ended() == b""
            assert (await busy.stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_those_who_guess_tokens_give_way() -> None:
    async with (
        hub_with_http(http={"max_connections": 1}, token="right") as (server, url),
        talking(url) as first,
    ):
        # The first answer is late by 0.1 seconds, and each further one by twice the time.
        for _ in range(3):
            assert (await first.ask("POST", "/publish/c", bearer("wrong"), b"")).status == 401
        refused = server.census.refused["token"]
        await first.stream.send(POST + b"Authorization: Bearer w\r\nContent-Length: 0\r\n\r\n")
        await wait_until(lambda: server.census.refused["token"] > refused)
        response = await ask(url, "POST", "/publish/c", bearer("right"), b"")
        assert response.status == 200
        assert await first.ended() == b""


async def test_a_bug_ends_one_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with hub_with_http() as (server, url), talking(url) as talk:
        monkeypatch.setattr(server.broker, "stats", None)
        response = await talk.ask("GET", "/connz")
        assert (response.status, response.error) == (
            500,
            "an internal error, which the hub's log has",
        )
        assert (await talk.ask("GET", "/healthz")).status == 200
        monkeypatch.undo()
    assert warned(caplog, LOG) == ["/connz: internal error"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost:8788/connz", 200),
        ("http://127.0.0.1/connz", 200),
        ("http://evil.example/connz", 403),
        ("http://user@localhost/connz", 403),
    ],
)
async def test_the_host_in_a_target_is_what_counts(target: str, status: int) -> None:
    async with hub_with_http() as (_, url), talking(url) as talk:
        await talk.stream.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert (await talk.stream.receive()).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "localhost:x", "evil.example"])
async def test_a_host_that_is_not_this_machine(host: str) -> None:
    async with hub_with_http() as (_, url):
        assert (await ask(url, "GET", "/connz", {"Host": host})).status == 403


async def test_two_lengths_of_a_body() -> None:
    async with hub_with_http() as (server, url), talking(url) as talk:
        await talk.stream.send(
            b"POST /publish/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert (await talk.stream.receive()).startswith(b"HTTP/1.1 400 ")
        assert server.broker.published == 0


@pytest.mark.parametrize("query", ["a=1;token=x", "a=1&TOKEN=x", "%74oken=x"])
async def test_a_token_that_hides_in_a_url(query: str) -> None:
    async with hub_with_http() as (_, url):
        response = await ask(url, "GET", f"/healthz?{query}")
        assert response.status == 400
        assert "Authorization" in response.json["error"]
