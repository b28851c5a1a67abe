"""Publishing over HTTP."""

from __future__ import annotations

import ssl
import time
from typing import Any
from urllib.parse import quote

import anyio
import jwt
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from support.helpers import take, take_data, wait_until, warned
from support.http import ask, bearer, talking
from support.ops import hub_with_http
from support.peers import raw_client

import hyps
from hyps import Credentials, Grants
from hyps._server.clients import ClientTable
from hyps._server.jwt import JWTVerifier
from hyps.ops import HTTPServer

pytestmark = pytest.mark.anyio

SERVER_LOG = "hyps.server"

CLIENTS = {
    "all": Grants(name="all", subscribe=("*",), publish=("*",)),
    "writer": Grants(name="writer", publish=("news", "user.*")),
    "reader": Grants(name="reader", subscribe=("*",)),
}


def by_token(credentials: Credentials) -> Grants | None:
    return CLIENTS.get(credentials.token or "")


async def test_subscribers_receive_it_at_once(scheme: str) -> None:
    async with (
        hub_with_http(scheme) as (server, url),
        hyps.connect(server.urls[0]) as client,
        client.subscribe("foo") as subscription,
        talking(url) as talk,
    ):
        for data in (b"1", b"", b"\x00\xff\n" * 100_000):
            response = await talk.ask("POST", "/publish/foo", body=data)
            assert (response.status, response.json) == (200, {})
            assert await take_data(subscription, 1) == [data]
        stats = server.broker.stats()
        assert (stats.published, stats.delivered, stats.missed) == (3, 3, 0)


async def test_messages_over_http_and_over_sessions_are_in_order() -> None:
    async with (
        hub_with_http() as (server, url),
        hyps.connect(server.urls[0]) as client,
        client.subscribe("foo") as subscription,
        talking(url) as talk,
    ):
        for number in range(0, 20, 2):
            await client.publish("foo", str(number))
            await talk.ask("POST", "/publish/foo", body=str(number + 1).encode())
        assert await take_data(subscription, 20) == [str(number).encode() for number in range(20)]


@pytest.mark.parametrize("channel", ["a/b", "a b", "ü", "100%", "a?b#c", "x" * 255, "..", "a\0b"])
async def test_any_channel_can_be_named(channel: str) -> None:
    async with (
        hub_with_http() as (server, url),
        hyps.connect(server.urls[0]) as client,
        client.subscribe(channel) as subscription,
    ):
        target = f"/publish/{quote(channel, safe='/')}"
        assert (await ask(url, "POST", target, body=b"m")).status == 200
        [message] = await take(subscription, 1)
        assert message.channel == channel


@pytest.mark.parametrize(
    "target",
    ["", "a%0Ab", "a%FFb", "%ED%A0%80", "100%", "a%zz", "a?b", f"{'x' * 256}", "%C3%BC" * 128],
)
async def test_a_channel_that_is_none(target: str) -> None:
    async with hub_with_http() as (server, url):
        response = await ask(url, "POST", f"/publish/{target}", body=b"m")
        assert response.status == 400
        assert response.error
        assert server.broker.published == 0


async def test_who_may_publish_where() -> None:
    async with hub_with_http(authenticate=by_token) as (server, url):

        async def status(token: str, channel: str) -> int:
            return (await ask(url, "POST", f"/publish/{channel}", bearer(token), b"m")).status

        assert await status("writer", "news") == 200
        assert await status("writer", "user.7") == 200
        assert await status("all", "anything") == 200
        for token, channel in (("writer", "new"), ("writer", "newss"), ("reader", "news")):
            assert await status(token, channel) == 403
        assert server.broker.published == 3
        assert await status("guess", "news") == 401
        assert server.broker.published == 3


async def test_a_token_is_asked_for() -> None:
    async with hub_with_http(token="secret") as (server, url):
        for headers in (
            {},
            {"Authorization": "Basic c2VjcmV0"},
            {"Authorization": "Bearer"},
            {"Authorization": "secret"},
            {"Authorization": "Bearer a b"},
            bearer("wrong"),
            bearer("secret2"),
        ):
            response = await ask(url, "POST", "/publish/c", headers, b"m")
            assert response.status == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "secret" not in response.error
        assert server.broker.published == 0
        headers = {"Authorization": "bearer secret"}
        assert (await ask(url, "POST", "/publish/c", headers, b"m")).status == 200
        assert server.broker.published == 1


async def test_what_cannot_be_decided_now_may_be_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def authenticate(credentials: Credentials) -> None:
        raise ConnectionError("the database is away")

    async with hub_with_http(authenticate=authenticate) as (_, url):
        response = await ask(url, "POST", "/publish/c", bearer("any"), b"m")
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert "database" not in response.error
    assert len(warned(caplog, SERVER_LOG)) == 1


async def test_the_function_learns_who_asks() -> None:
    seen = []

    def authenticate(credentials: Credentials) -> Grants:
        seen.append(credentials)
        return CLIENTS["all"]

    async with hub_with_http(authenticate=authenticate) as (_, url):
        headers = {**bearer("t"), "User-Agent": "curl/8"}
        assert (await ask(url, "POST", "/publish/c", headers, b"")).status == 200
    assert seen == [Credentials(token="t", certificate=None, address="127.0.0.1", client="curl/8")]


async def test_a_hub_that_asks_for_certificates_takes_nothing_without() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with hub_with_http(ssl_context=context) as (server, url):
        for headers in ({}, bearer("any")):
            response = await ask(url, "POST", "/publish/c", headers, b"")
            assert response.status == 403
            assert "certificates" in response.error
        assert server.broker.published == 0


async def test_a_message_of_the_size_and_one_above() -> None:
    limits = hyps.Limits(max_message=1_000)
    async with hub_with_http(limits=limits) as (server, url), talking(url) as talk:
        assert (await talk.ask("POST", "/publish/c", body=bytes(1_000))).status == 200
        response = await talk.ask("POST", "/publish/c", body=bytes(1_001))
        assert (response.status, response.headers["connection"]) == (413, "close")
        assert "1000" in response.error
        assert await talk.ended() == b""
        assert server.broker.published == 1


async def test_a_size_above_is_refused_before_the_body_is_sent() -> None:
    limits = hyps.Limits(max_message=1_000)
    async with hub_with_http(limits=limits) as (_, url):
        for headers in ("", "Expect: 100-continue\r\n"):
            async with talking(url) as talk:
                head = f"POST /publish/c HTTP/1.1\r\nHost: localhost\r\n{headers}"
                await talk.stream.send(f"{head}Content-Length: 100000\r\n\r\n".encode())
                found = await talk.stream.receive()
                assert found.startswith(b"HTTP/1.1 413 ")


async def test_a_body_in_chunks() -> None:
    limits = hyps.Limits(max_message=1_000)
    head = b"POST /publish/c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        hub_with_http(limits=limits) as (server, url),
        hyps.connect(server.urls[0]) as client,
        client.subscribe("c") as subscription,
        talking(url) as talk,
    ):
        await talk.stream.send(head + b"3\r\nfoo\r\n" + b"3\r\nbar\r\n0\r\n\r\n")
        assert await take_data(subscription, 1) == [b"foobar"]
        assert (await talk.stream.receive()).startswith(b"HTTP/1.1 200 ")
        # A byte in each chunk is the longest way.
        await talk.stream.send(head + b"1\r\nx\r\n" * 1_000 + b"0\r\n\r\n")
        assert await take_data(subscription, 1) == [b"x" * 1_000]
        assert (await talk.stream.receive()).startswith(b"HTTP/1.1 200 ")
        # It is refused at the first byte above, however much is to come.
        await talk.stream.send(head + b"1\r\nx\r\n" * 1_001)
        assert (await talk.stream.receive()).startswith(b"HTTP/1.1 413 ")
        assert await talk.ended() == b""
        assert server.broker.published == 2


async def test_a_client_that_waits_is_told_to_go_on() -> None:
    async with hub_with_http() as (server, url), talking(url) as talk:
        head = b"POST /publish/c HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        await talk.stream.send(head + b"Content-Length: 3\r\n\r\n")
        assert await talk.stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await talk.stream.send(b"foo")
        assert (await talk.stream.receive()).startswith(b"HTTP/1.1 200 ")
        assert server.broker.published == 1


async def test_bounds_of_sessions_hold_for_it_too() -> None:
    limits = hyps.Limits(max_buffer=1, max_message=1_000_000)
    async with (
        hub_with_http(limits=limits) as (server, url),
        raw_client(server.urls[0]) as raw,
        talking(url) as talk,
    ):
        await raw.subscribe("foo")
        sent = 0
        while not server.broker.missed:
            assert (await talk.ask("POST", "/publish/foo", body=bytes(900_000))).status == 200
            sent += 1
        stats = server.broker.stats()
        assert stats.published == sent == stats.delivered + stats.missed_max_buffer


async def test_a_publisher_that_waits_for_its_body_holds_nobody() -> None:
    async with (
        hub_with_http() as (server, url),
        hyps.connect(server.urls[0]) as client,
        client.subscribe("c") as subscription,
        talking(url) as slow,
        talking(url) as talk,
    ):
        head = b"POST /publish/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        await slow.stream.send(head + b"1")
        assert (await talk.ask("POST", "/publish/c", body=b"0")).status == 200
        await slow.stream.send(b"2")
        assert await take_data(subscription, 2) == [b"0", b"12"]
        assert server.broker.published == 2


async def test_a_hub_that_began_to_drain_takes_no_body_any_more() -> None:
    server = hyps.Server(port=0, limits=hyps.Limits(close_timeout=30))
    leave = anyio.Event()

    async def run() -> None:
        async with server:
            await leave.wait()

    async with HTTPServer(server, ":0") as site, anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await wait_until(lambda: server.state == "ready")
        async with raw_client(server.urls[0]) as client, talking(site.urls[0]) as slow:
            head = b"POST /publish/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            await slow.stream.send(head + b"Expect: 100-continue\r\n\r\n")
            assert (await slow.stream.receive()).startswith(b"HTTP/1.1 100 ")
            leave.set()
            await wait_until(lambda: server.state == "draining")
            await slow.stream.send(b"1")
            assert (await slow.stream.receive()).startswith(b"HTTP/1.1 503 ")
            assert server.broker.published == 0
            await client.reset()


async def test_grants_that_shrink_while_the_body_is_on_its_way() -> None:
    less = Grants(name="writer", publish=("user.*",))

    async def later(credentials: Credentials) -> Grants | None:
        return less

    async with (
        hub_with_http(authenticate=by_token) as (server, url),
        talking(url) as slow,
    ):
        head = b"POST /publish/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        await slow.stream.send(
            head + b"Authorization: Bearer writer\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await slow.stream.receive()).startswith(b"HTTP/1.1 100 ")
        await server.set_authentication(authenticate=later)
        await slow.stream.send(b"1")
        assert (await slow.stream.receive()).startswith(b"HTTP/1.1 403 ")
        assert server.broker.published == 0


async def test_a_json_web_token() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def sign(life: float, **claims: Any) -> str:
        claims = {"sub": "cron", "exp": time.time() + life, "hyps_publish": ["news"], **claims}
        return jwt.encode(claims, key, "EdDSA")

    table = ClientTable([], JWTVerifier([pem], ["EdDSA"]))
    async with hub_with_http(authenticate=table) as (server, url):
        for token, channel, status in (
            (sign(60), "news", 200),
            (sign(60), "orders", 403),
            (sign(60, hyps_publish=None), "news", 401),
            (sign(60, hyps_publish=[]), "news", 403),
            (sign(-1), "news", 401),
            (sign(60, nbf=time.time() + 600), "news", 401),
            (jwt.encode({"sub": "cron", "exp": time.time() + 60}, "", "none"), "news", 401),
        ):
            response = await ask(url, "POST", f"/publish/{channel}", bearer(token), b"x")
            assert response.status == status, (channel, response)
            if status == 401:
                assert "not valid" in response.json["error"] or "signed" in response.json["error"]
                assert token not in response.body.decode()
        # One of 64 KiB is more than a head may have.
        long = await ask(url, "POST", "/publish/news", bearer(sign(60, filler="x" * 65_536)), b"x")
        assert long.status == 431
        assert server.broker.published == 1
