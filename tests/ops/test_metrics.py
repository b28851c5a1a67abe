"""The metrics, as Prometheus reads them."""

from __future__ import annotations

import dataclasses
import ssl
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from anyio import to_thread
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.helpers import holds, take, wait_until
from support.http import ask, bearer, talking
from support.ops import hub_with_http
from support.peers import connect_raw, raw_client

import hyps
from hyps.ops import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

pytestmark = pytest.mark.anyio

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def figures_of(
    text: str, parse: Callable[[str], Iterable[Metric]] = parse_text
) -> dict[str, float]:
    """The figures by name and labels, such as ``name{a=b}``."""
    found = {}
    for family in parse(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def scrape(url: str) -> dict[str, float]:
    response = await ask(url, "GET", "/metrics")
    assert response.status == 200
    return figures_of(response.body.decode())


async def test_figures_are_those_of_the_broker(scheme: str) -> None:
    async with hub_with_http(scheme) as (server, url):
        before = await scrape(url)
        assert before["hyps_messages_published_total"] == before["hyps_sessions"] == 0
        async with (
            hyps.connect(server.urls[0]) as one,
            hyps.connect(server.urls[0]) as other,
            one.subscribe("foo", "bar") as subscription,
            other.subscribe("foo") as others,
        ):
            await one.publish_many([("foo", b"1"), ("bar", b"2"), ("nobody", b"3")])
            assert (await ask(url, "POST", "/publish/foo", body=b"4")).status == 200
            await take(subscription, 3)
            await take(others, 2)
            found = await scrape(url)
            stats = server.broker.stats()
            assert found["hyps_sessions"] == stats.sessions == 2
            assert found["hyps_channels"] == stats.channels == 2
            assert found["hyps_messages_published_total"] == stats.published == 4
            assert found["hyps_messages_delivered_total"] == stats.delivered == 5
            assert found["hyps_messages_missed_total{reason=max_buffer}"] == 0
            assert found["hyps_messages_missed_total{reason=max_total_buffer}"] == 0
            assert found["hyps_queued_bytes"] == stats.queued
            assert found["hyps_connections{state=open}"] == 2
            assert found["hyps_sessions_opened_total"] == 2
            assert found["hyps_connections_accepted_total"] == 2
            assert found["hyps_http_requests_total{path=/publish,status=200}"] == 1
            received = found["hyps_bytes_received_total"]
            sent = found["hyps_bytes_sent_total"]
            assert received > 0
            assert sent > 0
        await wait_until(lambda: not server.broker.sessions)
        await wait_until(lambda: not server.census.entries())
        found = await scrape(url)
        assert found["hyps_connections{state=open}"] == found["hyps_sessions"] == 0
        assert found["hyps_channels_kept"] == 2
        # What went through connections that have ended is not forgotten.
        assert found["hyps_bytes_received_total"] >= received
        assert found["hyps_bytes_sent_total"] >= sent


async def test_both_formats_say_the_same() -> None:
    async with hub_with_http() as (server, url), hyps.connect(server.urls[0]) as client:
        await client.publish("c", b"")
        text = await ask(url, "GET", "/metrics")
        openmetrics = await ask(url, "GET", "/metrics", {"Accept": OPENMETRICS})
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.body.endswith(b"# EOF\n")
        ours = [
            {name: value for name, value in found.items() if name.startswith("hyps_m")}
            for found in (
                figures_of(text.body.decode()),
                figures_of(openmetrics.body.decode(), parse_openmetrics),
            )
        ]
        assert ours[0] == ours[1]
        assert ours[0]["hyps_messages_published_total"] == 1


async def test_what_it_cannot_make_is_answered_as_if_nothing_was_asked() -> None:
    async with hub_with_http() as (_, url):
        for accept in ("text/plain;version=abc", "application/openmetrics-text;version=x.y", "?;;"):
            response = await ask(url, "GET", "/metrics", {"Accept": accept})
            assert response.status == 200
            assert response.headers["content-type"].startswith("text/plain")
            assert figures_of(response.body.decode())


async def test_build_process_and_loop(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    backend, options = anyio_backend
    async with hub_with_http() as (_, url):
        while True:
            found = await scrape(url)
            if found["hyps_loop_delay_seconds_count"] >= 2:
                break
        name = "uvloop" if options.get("use_uvloop") else backend
        [build] = [each for each in found if each.startswith("hyps_build_info")]
        assert f"backend={name}," in build
        assert f"version={hyps.__version__}" in build
        assert found["hyps_loop_delay_seconds_sum"] >= 0
        assert found["hyps_loop_delay_seconds_bucket{le=+Inf}"] >= 2
        assert {"process_cpu_seconds_total", "process_open_fds"} <= found.keys()
        assert any(each.startswith("python_gc_") for each in found)


async def test_refused_logins_are_told_by_reason() -> None:
    limits = hyps.Limits(max_sessions=1)
    async with hub_with_http(token="right", limits=limits) as (server, url):
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(server.urls[0], token="wrong").connect()
        async with hyps.connect(server.urls[0], token="right"):
            with pytest.raises(hyps.ConnectionRefused):
                await hyps.connect(server.urls[0], token="right").connect()
        async with await connect_raw(server.urls[0]) as peer:
            await peer.send(b"what is this?\r\n")
            await peer.rest()
        assert (await ask(url, "POST", "/publish/c", bearer("wrong"), b"")).status == 401
        found = await scrape(url)
        refused = {
            name.partition("reason=")[2]: value
            for name, value in found.items()
            if name.startswith("hyps_logins_refused_total")
        }
        assert refused == {
            "token}": 2,
            "limit}": 1,
            "protocol}": 1,
            "crowd}": 0,
            "error}": 0,
            "tls}": 0,
        }
        assert found["hyps_sessions_opened_total"] == 1


async def test_connections_without_tls_and_those_that_open_nothing() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    limits = hyps.Limits(max_strangers=2, max_strangers_per_address=2)
    async with hub_with_http(ssl_context=context, limits=limits) as (server, url):
        port = int(server.urls[0].rpartition(":")[2])
        async with (
            await anyio.connect_tcp("127.0.0.1", port) as first,
            await anyio.connect_tcp("127.0.0.1", port),
        ):
            await wait_until(lambda: server.census.handshaking == 2)
            assert (await scrape(url))["hyps_connections{state=opening}"] == 2
            async with await anyio.connect_tcp("127.0.0.1", port) as third:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await first.receive()
                await third.send(b"no TLS\r\n" * 100)
                await wait_until(lambda: server.census.refused["tls"])
        found = await scrape(url)
        assert found["hyps_logins_refused_total{reason=crowd}"] == 1
        assert found["hyps_logins_refused_total{reason=tls}"] >= 1
        assert found["hyps_connections_accepted_total"] == 3


async def test_losses_are_told_by_the_bound() -> None:
    limits = hyps.Limits(max_buffer=1, max_message=100_000)
    async with (
        hub_with_http(limits=limits) as (server, url),
        raw_client(server.urls[0]) as raw,
        hyps.connect(server.urls[0]) as client,
    ):
        await raw.subscribe("foo")
        while not server.broker.missed:
            await client.publish_many([("foo", bytes(90_000))] * 10)
        found = await scrape(url)
        missed = found["hyps_messages_missed_total{reason=max_buffer}"]
        assert missed == server.broker.missed > 0
        delivered = found["hyps_messages_delivered_total"]
        assert delivered + missed == found["hyps_messages_published_total"]
        assert found["hyps_queued_bytes"] == server.broker.stats().queued


async def test_no_label_holds_a_channel_or_a_session() -> None:
    async with hub_with_http() as (server, url):
        before = set(await scrape(url))
        async with (
            hyps.connect(server.urls[0], name="my-client") as client,
            client.subscribe("my-channel"),
        ):
            await wait_until(lambda: holds(server, 1))
            assert (await ask(url, "POST", "/publish/my-channel", body=b"")).status == 200
            assert (await ask(url, "GET", "/made-up")).status == 404
            text = (await ask(url, "GET", "/metrics")).body
        assert b"my-" not in text
        assert b"made-up" not in text
        # The requests themselves are new.
        new = {each for each in figures_of(text.decode()) if each not in before}
        assert all(each.startswith("hyps_http_requests_total") for each in new)


async def test_an_application_has_a_registry_of_its_own() -> None:
    registry = CollectorRegistry()
    async with hyps.Server(port=0) as server, hyps.connect(server.urls[0]) as client:
        registry.register(Collector(server))
        await client.publish("c", b"")
        # Its own HTTP server may run in a thread.
        text = await to_thread.run_sync(generate_latest, registry)
        found = figures_of(text.decode())
        assert found["hyps_messages_published_total"] == 1
        assert found["hyps_sessions"] == 1
        assert all(each.startswith("hyps_") for each in found)


async def test_many_scrapes_on_one_connection() -> None:
    async with hub_with_http() as (_, url), talking(url) as talk:
        for count in range(3):
            found = figures_of((await talk.ask("GET", "/metrics")).body.decode())
            name = "hyps_http_requests_total{path=/metrics,status=200}"
            assert found.get(name, 0) == count


async def test_limits_are_those_of_now() -> None:
    async with hub_with_http("hyps") as (server, url):
        limits = {
            name.removeprefix("hyps_limit{name=").rstrip("}"): value
            for name, value in (await scrape(url)).items()
            if name.startswith("hyps_limit")
        }
        assert limits == dataclasses.asdict(server.broker.limits)
        server.set_limits(dataclasses.replace(server.broker.limits, max_sessions=5))
        assert (await scrape(url))["hyps_limit{name=max_sessions}"] == 5
