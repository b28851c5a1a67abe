"""A subscription as a response of server-sent events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.routing import Route
from support.asgi import Exchange, exchanging
from support.helpers import let_others_run, wait_until

import hyps
from hyps.asgi import Event
from hyps.protocol import Limits
from hyps.starlette import EventSourceResponse
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

pytestmark = pytest.mark.anyio


def requested(response: Any) -> AbstractAsyncContextManager[Exchange]:
    """Let a user request a response, and leave at the end."""
    return exchanging(response, "http.disconnect")


@pytest.fixture
async def client(hyps_hub: MemoryHub) -> AsyncIterator[hyps.Client]:
    async with hyps.connect(hyps_hub.url, reconnect_max_delay=0.01) as client:
        yield client


async def test_it_is_subscribed_before_the_status_line(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    async with requested(EventSourceResponse(client.subscribe("news"))) as exchange:
        start = await exchange.receive()
        assert hyps_hub.broker.channels == 1
        assert start["status"] == 200
        assert dict(start["headers"]) == {
            b"content-type": b"text/event-stream; charset=utf-8",
            b"cache-control": b"no-store",
            b"x-accel-buffering": b"no",
        }
        assert (await exchange.receive())["body"] == b": ping\n\n"
        await client.publish_many([("news", "one"), ("news", "two\nlines")])
        assert await exchange.receive_body("lines") == "data: one\n\ndata: two\ndata: lines\n\n"
    # The user has left.
    assert exchange.error is None
    await client.flush()
    assert hyps_hub.broker.channels == 0


async def test_gaps_are_events(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    async with requested(EventSourceResponse(client.subscribe("news", gaps=True))) as exchange:
        await exchange.receive_body_start()
        hyps_hub.drop_next(2)
        await client.publish_many([("news", "1"), ("news", "2"), ("news", "3")])
        text = await exchange.receive_body("data: 3")
    [gap, message, _] = text.split("\n\n")
    assert gap.startswith("event: gap\ndata: ")
    assert json.loads(gap.partition("data: ")[2]) == {
        "channel": "news",
        "missed": 2,
        "reason": "hub",
    }
    assert message == "data: 3"


async def test_pages_that_show_the_latest_are_not_told_of_what_was_skipped(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    subscription = client.subscribe("news", gaps=True, overflow="latest")
    async with requested(EventSourceResponse(subscription)) as exchange:
        await exchange.receive_body_start()
        await client.publish_many([("news", str(number)) for number in range(100)])
        assert "gap" not in await exchange.receive_body("data: 99")
        # But what was lost elsewhere leaves an old state on the page.
        hyps_hub.restart()
        assert '"reason": "reconnect"' in await exchange.receive_body("event: gap")


async def test_an_encoding_of_ones_own(client: hyps.Client) -> None:
    def encode(item: hyps.Message | hyps.Gap) -> Any:
        assert isinstance(item, hyps.Message)
        match item.data:
            case b"none":
                return None
            case b"bytes":
                return b"as bytes"
            case b"many":
                return ["1", Event("2", "two", "7")]
        return Event(item.data.decode(), event=item.channel, id="5")

    response = EventSourceResponse(client.subscribe("news"), encode=encode, retry=100)
    async with requested(response) as exchange:
        await exchange.receive()
        assert (await exchange.receive())["body"] == b"retry: 100\n\n"
        await client.publish_many([("news", each) for each in ("none", "bytes", "many", "x")])
        assert await exchange.receive_body("id: 5") == (
            "data: as bytes\n\ndata: 1\n\nevent: two\nid: 7\ndata: 2\n\n"
            "event: news\nid: 5\ndata: x\n\n"
        )


async def test_an_encoding_that_fails_ends_the_response(client: hyps.Client) -> None:
    def encode(item: object) -> str:
        raise KeyError("a bug")

    response = EventSourceResponse(client.subscribe("news"), encode=encode)
    async with requested(response) as exchange:
        await exchange.receive_body_start()
        await client.publish("news", "")
        await exchange.ended.wait()
        # As it is, and in no group.
        assert isinstance(exchange.error, KeyError)


async def test_encodings_that_are_none(client: hyps.Client) -> None:
    async def encode(item: object) -> str:
        return ""

    with pytest.raises(TypeError, match="must not be async"):
        EventSourceResponse(client.subscribe("news"), encode=encode)  # type: ignore[arg-type]
    wrong: Any = lambda item: {"data": "1"}  # noqa: E731
    async with requested(EventSourceResponse(client.subscribe("news"), encode=wrong)) as exchange:
        await exchange.receive_body_start()
        await client.publish("news", "")
        await exchange.ended.wait()
        assert isinstance(exchange.error, TypeError)


async def test_silence_is_filled_with_comments(client: hyps.Client) -> None:
    async with requested(EventSourceResponse(client.subscribe("a"), ping=0.001)) as exchange:
        await exchange.receive()
        for _ in range(3):
            assert (await exchange.receive())["body"] == b": ping\n\n"
        await client.publish("a", "1")
        assert "data: 1" in await exchange.receive_body("data: 1")


async def test_what_is_replayed_is_read_after_the_ack(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    def replay() -> Iterator[Any]:
        assert hyps_hub.broker.channels == 1
        yield "before"
        yield hyps.Message("news", b"a message")
        yield hyps.Gap("news", 3, "reconnect")

    async with requested(
        EventSourceResponse(client.subscribe("news"), replay=replay())
    ) as exchange:
        await exchange.receive_body_start()
        await client.publish("news", "after")
        text = await exchange.receive_body("after")
        assert [part.split("\n")[0] for part in text.split("\n\n")] == [
            "data: before",
            "data: a message",
            "event: gap",
            "data: after",
            "",
        ]


async def test_what_is_replayed_may_be_async(client: hyps.Client) -> None:
    async def replay() -> AsyncIterator[str]:
        await let_others_run()
        yield "before"

    response = EventSourceResponse(client.subscribe("news"), replay=replay())
    async with requested(response) as exchange:
        await exchange.receive_body_start()
        await exchange.receive_body("data: before")


async def test_what_is_replayed_ends_with_the_user_and_with_the_server(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    closed: list[str] = []

    async def replay() -> AsyncIterator[str]:
        try:
            while True:
                yield "again"
        finally:
            # Such as to give a database's session back.
            await let_others_run()
            closed.append("closed")

    response = EventSourceResponse(client.subscribe("news"), replay=replay())
    async with requested(response) as exchange:
        await exchange.receive_body_start()
        await exchange.receive_body("data: again")
    assert closed == ["closed"]
    response = EventSourceResponse(client.subscribe("news"), replay=replay())
    async with requested(response) as exchange:
        await exchange.receive_body_start()
        client.end_subscriptions()
        while (await exchange.receive())["more_body"]:
            pass
    assert closed == ["closed", "closed"]


async def test_a_head_request_has_no_body(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    response = EventSourceResponse(client.subscribe("news"))
    async with exchanging(response, "http.disconnect", method="HEAD") as exchange:
        assert (await exchange.receive())["status"] == 200
        assert not (await exchange.receive())["more_body"]
        await exchange.ended.wait()
    await client.flush()
    assert hyps_hub.broker.channels == 0


async def test_a_server_that_says_by_an_error_that_the_user_has_left(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    async with requested(EventSourceResponse(client.subscribe("news"))) as exchange:
        await exchange.receive_body_start()
        exchange.sent.close()
        await client.publish("news", "1")
        await exchange.ended.wait()
    assert exchange.error is None
    await client.flush()
    assert hyps_hub.broker.channels == 0


# What goes wrong


@pytest.mark.parametrize("name", ["a\nb", "", "too long"])
async def test_names_that_cannot_be_are_bad_requests(name: str) -> None:
    with MemoryHub(limits=Limits(max_channel=5)) as hub:
        async with (
            hyps.connect(hub.url) as client,
            requested(EventSourceResponse(client.subscribe(name))) as exchange,
        ):
            await exchange.ended.wait()
            assert isinstance(exchange.error, HTTPException)
            assert exchange.error.status_code == 400


async def test_channels_that_are_denied_are_forbidden() -> None:
    with MemoryHub(limits=Limits(max_channels=1)) as hub:
        async with hyps.connect(hub.url) as client:

            async def events(request: object) -> EventSourceResponse:
                return EventSourceResponse(client.subscribe("a", "b"))

            app = Starlette(routes=[Route("/", events)])
            async with requested(app) as exchange:
                assert (await exchange.receive())["status"] == 403
                assert "most that the hub allows" in await exchange.receive_body("allows")
            assert exchange.error is None


async def test_without_a_hub_the_browser_is_told_to_come_back(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    client.end_subscriptions()
    async with requested(EventSourceResponse(client.subscribe("a"))) as exchange:
        # With another status it would never come back.
        assert (await exchange.receive())["status"] == 200
        last = await exchange.receive()
        retry = int(last["body"].removeprefix(b"retry: "))
        assert 1_000 <= retry <= 5_000
        assert not last["more_body"]
    assert exchange.error is None


async def test_the_stream_ends_when_the_server_stops(client: hyps.Client) -> None:
    async with requested(EventSourceResponse(client.subscribe("a"))) as exchange:
        await exchange.receive_body_start()
        client.end_subscriptions()
        last = await exchange.receive()
        assert (last["body"], last["more_body"]) == (b"", False)
    assert exchange.error is None


async def test_a_hub_that_restarts_is_a_gap(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    async with requested(EventSourceResponse(client.subscribe("a", gaps=True))) as exchange:
        await exchange.receive_body_start()
        hyps_hub.restart()
        assert '"missed": null' in await exchange.receive_body("event: gap")


async def test_a_browser_that_reads_nothing_is_given_up(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    response = EventSourceResponse(client.subscribe("a"), send_timeout=0.05)
    async with requested(response) as exchange:
        # The status line is sent, and nothing takes what follows.
        await exchange.receive()
        await exchange.ended.wait()
        await client.flush()
        assert hyps_hub.broker.channels == 0
    assert exchange.error is None


async def test_a_stream_whose_buffer_is_full_ends(client: hyps.Client) -> None:
    subscription = client.subscribe("a", overflow="close", max_messages=1)
    async with requested(EventSourceResponse(subscription)) as exchange:
        await exchange.receive_body_start()
        await client.publish_many([("a", "1"), ("a", "2")])
        assert "data: 1" in await exchange.receive_body("data: 1")
        assert not (await exchange.receive())["more_body"]


async def test_what_follows_the_response(client: hyps.Client) -> None:
    done: list[str] = []

    async def finish() -> None:
        done.append("done")

    def respond() -> EventSourceResponse:
        return EventSourceResponse(
            client.subscribe("a"),
            background=BackgroundTask(finish),
            headers={"X-Mine": "1", "Cache-Control": "no-cache"},
        )

    async with requested(respond()) as exchange:
        headers = (await exchange.receive())["headers"]
        assert (b"x-mine", b"1") in headers
        assert [value for name, value in headers if name == b"cache-control"] == [b"no-cache"]
        await exchange.receive()
        exchange.send(type="http.disconnect")
        await wait_until(lambda: done == ["done"])
    client.end_subscriptions()
    async with requested(respond()) as exchange:
        await exchange.receive()
        await exchange.receive()
        await wait_until(lambda: done == ["done", "done"])


@pytest.mark.parametrize(
    "options", [{"ping": 0}, {"send_timeout": -1}, {"retry": -1}, {"retry": 1.5}]
)
async def test_options_out_of_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        EventSourceResponse(hyps.connect("memory://nobody").subscribe("a"), **options)
