"""Whether the hub is well, and whether it takes clients."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import begin, logged, wait_until
from support.http import ask, talking
from support.ops import hub_with_http
from support.peers import raw_client

import hyps
from hyps.ops import HTTPServer

if TYPE_CHECKING:
    from support.http import Response

pytestmark = pytest.mark.anyio


async def test_a_hub_that_listens_is_ready() -> None:
    async with hub_with_http() as (server, url):
        for page in ("/healthz", "/readyz"):
            response = await ask(url, "GET", page)
            assert (response.status, response.json) == (200, {"state": "ready"})
        assert server.state == "ready"
    assert server.state == "closed"


async def test_a_hub_is_not_ready_before_it_listens_and_after_it_has_shut_down() -> None:
    server = hyps.Server(port=0)
    async with HTTPServer(server, ":0") as site:
        [url] = site.urls

        async def readiness() -> Response:
            health = await ask(url, "GET", "/healthz")
            assert (health.status, health.json) == (200, {"state": server.state})
            return await ask(url, "GET", "/readyz")

        response = await readiness()
        assert (response.status, response.error) == (503, "the hub does not listen yet")
        async with server:
            assert (await readiness()).status == 200
        response = await readiness()
        assert (response.status, response.error) == (503, "the hub has shut down")


async def test_a_hub_that_drains_is_well_and_not_ready() -> None:
    limits = hyps.Limits(close_timeout=30)
    leave = anyio.Event()

    async def run(server: hyps.Server, site: HTTPServer) -> None:
        # Both are cancelled together, as when a signal ends the process.
        with anyio.CancelScope() as scope:
            async with site, server, anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    await leave.wait()
                    scope.cancel()

                tasks.start_soon(cancel)

    server = hyps.Server(port=0, limits=limits)
    site = HTTPServer(server, ":0")
    async with anyio.create_task_group() as tasks:
        ended = begin(tasks, run, server, site)
        await wait_until(lambda: server.state == "ready")
        async with raw_client(server.urls[0]) as client:
            leave.set()
            await wait_until(lambda: server.state == "draining")
            [url] = site.urls
            response = await ask(url, "GET", "/readyz")
            assert (response.status, response.error) == (503, "the hub is shutting down")
            assert response.headers["retry-after"] == "1"
            assert (await ask(url, "GET", "/healthz")).status == 200
            assert (await ask(url, "GET", "/connz")).json["hub"]["state"] == "draining"
            assert (await ask(url, "POST", "/publish/c", body=b"")).status == 503
            await client.reset()
        await ended.get()
    with pytest.raises(OSError, match="connect"):
        await ask(url, "GET", "/healthz")


async def test_head_is_get_without_a_body() -> None:
    async with hub_with_http() as (_, url), talking(url) as talk:
        for page in ("/healthz", "/readyz", "/metrics", "/connz"):
            response = await talk.ask("HEAD", page)
            assert (response.status, response.body) == (200, b"")
            assert int(response.headers["content-length"]) > 0


async def test_one_connection_serves_many_requests() -> None:
    async with hub_with_http() as (_, url), talking(url) as talk:
        for page, status in (("/healthz", 200), ("/nowhere", 404), ("/readyz", 200)):
            assert (await talk.ask("GET", page)).status == status
        assert (await talk.ask("POST", "/publish/c", body=b"m")).status == 200
        assert (await talk.ask("GET", "/healthz")).status == 200
        # Several at once are answered in order.
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await talk.stream.send(3 * request)
        found = b""
        while found.count(b'{"state": "ready"}') < 3:
            found += await talk.stream.receive()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
async def test_a_client_that_wants_no_further_answer(version: str, more: str) -> None:
    async with hub_with_http() as (server, url):
        for method, page, data in (("GET", "/readyz", ""), ("POST", "/publish/c", "hello")):
            async with talking(url) as talk:
                length = f"Content-Length: {len(data)}\r\n" if data else ""
                head = f"{method} {page} HTTP/{version}\r\nHost: localhost\r\n{more}{length}"
                await talk.stream.send(f"{head}\r\n{data}".encode())
                if version == "1.0" or more:
                    found = await talk.ended()
                    assert b"\r\nConnection: close\r\n" in found
                else:
                    found = await talk.stream.receive()
                assert found.startswith(b"HTTP/1.1 200 ")
        assert server.broker.published == 1


async def test_a_page_that_is_none_and_a_method_that_is_none() -> None:
    async with hub_with_http() as (_, url):
        response = await ask(url, "GET", "/nowhere")
        assert response.status == 404
        assert "/metrics" in response.error
        for method, page, allowed in (
            ("POST", "/healthz", "GET, HEAD"),
            ("DELETE", "/metrics", "GET, HEAD"),
            ("GET", "/publish/c", "POST"),
            ("OPTIONS", "/publish/c", "POST"),
        ):
            response = await ask(url, method, page)
            assert (response.status, response.headers["allow"]) == (405, allowed)


async def test_it_says_where_it_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site = HTTPServer(hyps.Server(), "localhost:0")
    assert not site.urls
    async with site:
        assert logged(caplog, "hyps.ops", logging.INFO) == [
            f"health, metrics and tables at {', '.join(site.urls)}"
        ]
        for url in site.urls:
            assert (await ask(url, "GET", "/healthz")).status == 200


@pytest.mark.parametrize("address", ["", "8788", "host:", ":x", ":70000", "::1:80", "http://h:80"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(hyps.InvalidURL, match="bad address"):
        HTTPServer(hyps.Server(), address)


async def test_an_address_that_is_in_use() -> None:
    async with hub_with_http() as (_, url):
        with pytest.raises(hyps.CannotListen, match="address already in use"):
            async with HTTPServer(hyps.Server(), url.removeprefix("http://")):
                pass


async def test_an_error_within_is_raised_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with hub_with_http():
            raise LookupError("mine")
