"""The tables of sessions and channels, and who may read them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.helpers import holds, let_others_run, take, wait_until
from support.http import ask, bearer
from support.ops import hub_with_http
from support.peers import raw_client

import hyps
from hyps import Credentials, Grants

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.anyio

ELSEWHERE = {"X-Forwarded-For": "203.0.113.7"}

CLIENTS = {
    "root": Grants(name="operator", admin=True),
    "web": Grants(name="web", subscribe=("*",), publish=("*",)),
}


def by_token(credentials: Credentials) -> Grants | None:
    return CLIENTS.get(credentials.token or "")


async def read(url: str, target: str) -> Any:
    response = await ask(url, "GET", target)
    assert response.status == 200, response
    return response.json


async def test_a_session_is_described(scheme: str) -> None:
    async with hub_with_http(scheme, authenticate=by_token) as (server, url):
        async with (
            hyps.connect(server.urls[0], name="worker-3", token="web") as client,
            client.subscribe("foo", "bar") as subscription,
        ):
            await client.publish_many([("foo", b"1"), ("foo", b"2"), ("other", b"3")])
            await take(subscription, 2)
            table = await read(url, "/connz")
            [session] = table.pop("sessions")
            hub = table.pop("hub")
            assert table == {"total": 1, "offset": 0, "limit": 100, "sort": "rate"}
            [broker_session] = server.broker.sessions
            [entry] = server.census.entries()
            age, round_trip = session.pop("age"), session.pop("round_trip")
            assert 0 <= age < 30
            if sys.platform == "linux":
                assert 0 < round_trip < 10
            assert session == {
                "session": entry.number,
                "name": "worker-3",
                "identity": "web",
                "address": entry.address,
                "wire": "http2" if scheme == "http" else "hyps",
                "tls": False,
                "state": "open",
                "channels": 2,
                "published": 3,
                "bytes_received": entry.protocol.bytes_received,
                "bytes_sent": entry.protocol.bytes_sent,
                "rates": session["rates"],
                "queued": broker_session.backlog,
                "missed": 0,
            }
            assert session["address"].startswith("127.0.0.1:")
            assert session["rates"].keys() == {"published", "bytes_received", "bytes_sent"}
            stats = server.broker.stats()
            assert hub.pop("rates").keys() == {
                "published",
                "delivered",
                "missed",
                "bytes_received",
                "bytes_sent",
            }
            assert 0 < hub.pop("uptime") < 30
            assert hub == {
                "version": hyps.__version__,
                "state": "ready",
                "sessions": 1,
                "channels": 2,
                "published": stats.published,
                "delivered": stats.delivered,
                "missed": 0,
                "queued": stats.queued,
                "bytes_received": session["bytes_received"],
                "bytes_sent": session["bytes_sent"],
            }
        await wait_until(lambda: not server.broker.sessions)
        assert (await read(url, "/connz"))["sessions"] == []


async def test_sessions_are_sorted_and_paged() -> None:
    async with (
        hub_with_http() as (server, url),
        hyps.connect(server.urls[0], name="b") as one,
        hyps.connect(server.urls[0], name="a") as two,
        hyps.connect(server.urls[0], name="c") as three,
        one.subscribe("foo"),
        two.subscribe("foo", "bar"),
    ):
        await wait_until(lambda: holds(server, 2))

        async def names(query: str) -> list[str]:
            table = await read(url, f"/connz?{query}")
            assert table["total"] == 3
            return [session["name"] for session in table["sessions"]]

        assert await names("sort=name") == ["a", "b", "c"]
        assert await names("sort=channels") == ["a", "b", "c"]
        assert await names("sort=age") == ["b", "a", "c"]
        assert await names("sort=name&limit=1&offset=1") == ["b"]
        assert await names("sort=name&offset=2&limit=1000") == ["c"]
        assert await names("offset=3") == await names("limit=0") == []
        assert len(await names("sort=queued")) == len(await names("sort=missed")) == 3
        # Rates are those of whole seconds.
        with anyio.fail_after(20):
            while True:
                await three.publish("nobody", bytes(10_000))
                table = await read(url, "/connz")
                first = table["sessions"][0]
                if first["name"] == "c" and first["rates"]["bytes_received"] > 10_000:
                    break
            assert table["hub"]["rates"]["bytes_received"] > 10_000
            assert first["rates"]["published"] > 1


async def test_a_slow_session_stands_out() -> None:
    async with (
        hub_with_http(limits=hyps.Limits(max_buffer=100_000)) as (server, url),
        raw_client(server.urls[0]) as raw,
        hyps.connect(server.urls[0]) as client,
    ):
        await raw.subscribe("foo")
        while not (server.broker.missed and server.broker.stats().queued):
            await client.publish_many([("foo", bytes(90_000))] * 10)
        for sort in ("queued", "missed"):
            [session] = (await read(url, f"/connz?sort={sort}&limit=1"))["sessions"]
            assert session["missed"] == server.broker.missed
            assert session["queued"] > 0


async def test_channels_are_sorted_and_paged() -> None:
    async with (
        hub_with_http() as (server, url),
        hyps.connect(server.urls[0]) as one,
        hyps.connect(server.urls[0]) as two,
        one.subscribe("much", "little", "crowd") as subscription,
        two.subscribe("crowd") as other,
    ):
        await one.publish_many([("much", b"")] * 10 + [("little", b"")] + [("crowd", b"")] * 3)
        await take(subscription, 14)
        await take(other, 3)

        async def names(query: str) -> list[str]:
            table = await read(url, f"/channelz?{query}")
            assert table["total"] == table["hub"]["channels"] == 3
            return [channel["name"] for channel in table["channels"]]

        assert await names("sort=messages") == ["much", "crowd", "little"]
        assert await names("sort=subscribers") == ["crowd", "little", "much"]
        assert await names("sort=name") == ["crowd", "little", "much"]
        assert await names("sort=name&limit=1&offset=1") == ["little"]
        await one.publish_many([("little", b"")] * 5)
        await take(subscription, 5)
        table = await read(url, "/channelz?limit=1")
        assert table["sort"] == "rate"
        [channel] = table["channels"]
        assert channel["rates"].pop("messages") > 0
        assert channel == {"name": "little", "subscribers": 1, "messages": 6, "rates": {}}


@pytest.mark.patience(120)
async def test_many_channels_are_walked_in_slices() -> None:
    count = 100_000
    async with (
        hub_with_http() as (server, url),
        hyps.connect(server.urls[0]) as client,
        client.subscribe(*[f"channel-{number:06}" for number in range(count)]),
    ):
        passes = 0

        async def tick() -> None:
            nonlocal passes
            while True:
                await let_others_run(1)
                passes += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            table = await read(url, f"/channelz?sort=name&offset={count - 2}&limit=1000")
            tasks.cancel_scope.cancel()
        assert [channel["name"] for channel in table["channels"]] == [
            "channel-099998",
            "channel-099999",
        ]
        assert table["total"] == count
        # Each of the walks is of a hundred slices.
        assert passes > 400


@pytest.mark.parametrize("page", ["/connz", "/channelz"])
async def test_bad_parameters(page: str) -> None:
    async with hub_with_http() as (_, url):
        for query in (
            "sort=size",
            "limit=1001",
            "limit=-1",
            "limit=",
            "limit=x",
            "offset=1e3",
            "offset=9999999999",
            "limit=1&limit=2",
            "what=1",
            "sort=%FF",
            "sort=name&" * 40,
        ):
            response = await ask(url, "GET", f"{page}?{query}")
            assert response.status == 400, query
            assert response.error


@pytest.mark.parametrize("page", ["/connz", "/channelz?sort=name"])
async def test_from_elsewhere_only_an_admin_may_look(page: str) -> None:
    async with hub_with_http(authenticate=by_token) as (_, url):
        assert (await ask(url, "GET", page)).status == 200
        response = await ask(url, "GET", page, ELSEWHERE)
        assert response.status == 401
        assert response.headers["www-authenticate"] == "Bearer"
        response = await ask(url, "GET", page, {**ELSEWHERE, **bearer("web")})
        assert (response.status, response.error) == (
            403,
            "looking at sessions and channels is not granted",
        )
        assert (await ask(url, "GET", page, {**ELSEWHERE, **bearer("root")})).status == 200
        response = await ask(url, "GET", page, {**ELSEWHERE, **bearer("guess")})
        assert response.status == 401
        assert 'error="invalid_token"' in response.headers["www-authenticate"]


def web_pages() -> Iterable[dict[str, str]]:
    """Headers of requests that a web page makes a browser send to loopback."""
    yield {"Host": "evil.example:8788"}
    yield {"Host": "localhost.evil.example"}
    yield {"Host": "127.0.0.1.evil.example"}
    yield {"Origin": "https://evil.example"}
    yield {"Origin": "null"}
    yield {"Sec-Fetch-Site": "cross-site"}


@pytest.mark.parametrize("headers", list(web_pages()))
async def test_a_web_page_may_not_look(headers: dict[str, str]) -> None:
    async with hub_with_http(token="secret") as (_, url):
        assert (await ask(url, "GET", "/connz", headers)).status == 401
        assert (await ask(url, "GET", "/connz", {**headers, **bearer("secret")})).status == 200
    async with hub_with_http() as (server, url):
        assert (await ask(url, "GET", "/connz", headers)).status == 403
        assert (await ask(url, "POST", "/publish/c", headers, b"")).status == 403
        assert server.broker.published == 0


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:99"])
async def test_people_at_this_machine_may(host: str) -> None:
    async with hub_with_http() as (server, url):
        headers = {"Host": host, "Sec-Fetch-Site": "none"}
        assert (await ask(url, "GET", "/connz", headers)).status == 200
        assert (await ask(url, "POST", "/publish/c", headers, b"")).status == 200
        assert server.broker.published == 1


async def test_behind_a_proxy_nobody_is_at_this_machine() -> None:
    async with hub_with_http() as (_, url):
        for header in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"):
            response = await ask(url, "GET", "/connz", {header: "127.0.0.1"})
            assert response.status == 403
            response = await ask(url, "POST", "/publish/c", {header: "127.0.0.1"}, b"")
            assert response.status == 403


async def test_no_browser_keeps_or_shows_an_answer() -> None:
    async with hub_with_http() as (_, url):
        for page in ("/connz", "/healthz", "/nowhere"):
            headers = (await ask(url, "GET", page)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers
