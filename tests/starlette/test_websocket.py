"""A subscription over a WebSocket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.websockets import WebSocket
from support.asgi import Exchange, exchanging
from support.helpers import let_others_run, wait_until

import hyps
from hyps.protocol import Limits
from hyps.starlette import websocket
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from hyps import Gap, Message, Subscription

pytestmark = pytest.mark.anyio


def opened(
    subscription: Subscription[Message] | Subscription[Message | Gap], **options: Any
) -> AbstractAsyncContextManager[Exchange]:
    """Let a user open a WebSocket, and leave at the end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await websocket(WebSocket(scope, receive, send), subscription, **options)

    return exchanging(app, "websocket.disconnect", type="websocket")


async def begin(exchange: Exchange) -> None:
    exchange.send(type="websocket.connect")
    assert (await exchange.receive())["type"] == "websocket.accept"


async def hear(exchange: Exchange) -> str:
    """Receive a message of a user."""
    message = json.loads((await exchange.receive())["text"])
    assert message.keys() == {"channel", "data"}
    data: str = message["data"]
    return data


async def say(exchange: Exchange, text: str) -> None:
    exchange.send(type="websocket.receive", text=text)


@pytest.fixture
async def client(hyps_hub: MemoryHub) -> AsyncIterator[hyps.Client]:
    async with hyps.connect(hyps_hub.url, reconnect_max_delay=0.01) as client:
        yield client


async def test_a_chat(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    async def on_text(text: str) -> None:
        await client.publish("room", text)

    async with opened(client.subscribe("room"), on_text=on_text) as exchange:
        await begin(exchange)
        assert hyps_hub.broker.channels == 1
        await say(exchange, "hello")
        assert await hear(exchange) == "hello"
        # What is not text is bytes; and nobody handles bytes.
        exchange.send(type="websocket.receive", bytes=b"ignored")
        await client.publish("room", b"\xff")
        assert (await exchange.receive())["bytes"] == b"\xff"
    assert exchange.error is None
    await client.flush()
    assert hyps_hub.broker.channels == 0


async def test_bytes_of_the_user(client: hyps.Client) -> None:
    async def on_bytes(data: bytes) -> None:
        await client.publish("room", data)

    async with opened(client.subscribe("room"), on_bytes=on_bytes) as exchange:
        await begin(exchange)
        await say(exchange, "ignored")
        exchange.send(type="websocket.receive", bytes=b"\xfe")
        assert (await exchange.receive())["bytes"] == b"\xfe"


async def test_gaps_and_an_encoding_of_ones_own(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    async with opened(client.subscribe("room", gaps=True)) as exchange:
        await begin(exchange)
        hyps_hub.drop_next(1)
        await client.publish_many([("room", "1"), ("room", "2")])
        gap = {"channel": "room", "missed": 1, "reason": "hub"}
        assert json.loads((await exchange.receive())["text"]) == {"gap": gap}
        assert await hear(exchange) == "2"

    def encode(item: Message | Gap) -> str | None:
        return "shown" if getattr(item, "data", None) == b"2" else None

    async with opened(client.subscribe("room"), encode=encode) as exchange:
        await begin(exchange)
        await client.publish_many([("room", "1"), ("room", "2")])
        assert (await exchange.receive())["text"] == "shown"


async def test_a_publish_that_fails_is_told_to_its_user_alone(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    async def on_text(text: str) -> None:
        if text == "break":
            hyps_hub.stall()
            client.publish_nowait("room", "lost")
            hyps_hub.connections[0].cut()
            hyps_hub.resume()
            await client.flush()
        await client.publish("room", text)

    async with opened(client.subscribe("room"), on_text=on_text) as exchange:
        await begin(exchange)
        await say(exchange, "break")
        error = json.loads((await exchange.receive())["text"])["error"]
        assert error["type"] == "ConnectionLost"
        # A user need not know where the hub is.
        assert "memory://" not in error["message"]
        await say(exchange, "hello")
        assert await hear(exchange) == "hello"


async def test_what_takes_too_long_or_is_wrong_is_told_too(client: hyps.Client) -> None:
    async def on_text(text: str) -> None:
        if text == "slow":
            raise TimeoutError
        await client.publish(text, "")

    async with opened(client.subscribe("room"), on_text=on_text) as exchange:
        await begin(exchange)
        for text, kind in (("slow", "TimeoutError"), ("a\nb", "InvalidChannel")):
            await say(exchange, text)
            assert json.loads((await exchange.receive())["text"])["error"]["type"] == kind


async def test_what_a_user_says_cannot_pass_for_something_else(client: hyps.Client) -> None:
    async with opened(client.subscribe("room")) as exchange:
        await begin(exchange)
        for text in ('{"gap": {}}', '{"error": {}}', "{"):
            await client.publish("room", text)
            assert await hear(exchange) == text


async def test_another_exception_leaves_as_it_is(client: hyps.Client, hyps_hub: MemoryHub) -> None:
    async def on_text(text: str) -> None:
        raise KeyError(text)

    async with opened(client.subscribe("room"), on_text=on_text) as exchange:
        await begin(exchange)
        await say(exchange, "a bug")
        await exchange.ended.wait()
        assert isinstance(exchange.error, KeyError)
    await client.flush()
    assert hyps_hub.broker.channels == 0


async def test_a_frame_that_is_none(client: hyps.Client) -> None:
    wrong: Any = lambda item: {"data": 1}  # noqa: E731
    async with opened(client.subscribe("room"), encode=wrong) as exchange:
        await begin(exchange)
        await client.publish("room", "1")
        await exchange.ended.wait()
        assert isinstance(exchange.error, TypeError)


# How it ends


async def test_what_a_user_has_sent_comes_to_an_end_when_the_server_stops(
    client: hyps.Client,
) -> None:
    done: list[str] = []
    may_end = anyio.Event()

    async def on_text(text: str) -> None:
        done.append("begun")
        await may_end.wait()
        done.append("ended")

    async with opened(client.subscribe("room"), on_text=on_text) as exchange:
        await begin(exchange)
        await say(exchange, "1")
        await wait_until(lambda: done)
        await say(exchange, "2")
        client.end_subscriptions()
        await let_others_run()
        may_end.set()
        assert (await exchange.receive())["code"] == 1012
    assert done == ["begun", "ended"]


async def test_the_server_stops(client: hyps.Client) -> None:
    async with opened(client.subscribe("room")) as exchange:
        await begin(exchange)
        client.end_subscriptions()
        closed = await exchange.receive()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1012)
    assert exchange.error is None


@pytest.mark.parametrize("channels", [("a\nb",), ("too long",), ("a", "b")])
async def test_channels_that_are_refused(channels: tuple[str, ...]) -> None:
    with MemoryHub(limits=Limits(max_channel=5, max_channels=1)) as hub:
        async with hyps.connect(hub.url) as client, opened(client.subscribe(*channels)) as exchange:
            exchange.send(type="websocket.connect")
            # Closed and not accepted, which servers answer with 403.
            closed = await exchange.receive()
            assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        assert exchange.error is None


async def test_there_is_no_hub(client: hyps.Client) -> None:
    client.end_subscriptions()
    async with opened(client.subscribe("room")) as exchange:
        await begin(exchange)
        closed = await exchange.receive()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1013)
    assert exchange.error is None


@pytest.mark.parametrize("channels", [("room",), ("a\nb",)])
async def test_a_user_who_has_left_before_the_answer(
    client: hyps.Client, channels: tuple[str, ...]
) -> None:
    client.end_subscriptions()
    async with opened(client.subscribe(*channels)) as exchange:
        exchange.sent.close()
        exchange.send(type="websocket.connect")
        await exchange.ended.wait()
    assert exchange.error is None


async def test_a_user_who_reads_nothing_is_given_up(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    async with opened(client.subscribe("room"), send_timeout=0.05) as exchange:
        await begin(exchange)
        await client.publish("room", "nobody takes this")
        await wait_until(lambda: hyps_hub.broker.channels == 0)
        closed = await exchange.receive()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1013)
    assert exchange.error is None


async def test_a_buffer_that_is_full_closes(client: hyps.Client) -> None:
    subscription = client.subscribe("room", overflow="close", max_messages=1)
    async with opened(subscription) as exchange:
        await begin(exchange)
        await client.publish_many([("room", "1"), ("room", "2")])
        assert await hear(exchange) == "1"
        closed = await exchange.receive()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1013)


async def test_a_user_whose_connection_breaks_while_something_is_sent(
    client: hyps.Client, hyps_hub: MemoryHub
) -> None:
    async with opened(client.subscribe("room")) as exchange:
        await begin(exchange)
        # Servers raise an OSError, which Starlette makes a WebSocketDisconnect of.
        exchange.sent.close()
        await client.publish("room", "1")
        await exchange.ended.wait()
    assert exchange.error is None
    await client.flush()
    assert hyps_hub.broker.channels == 0


async def test_options_out_of_bounds(client: hyps.Client) -> None:
    async with opened(client.subscribe("room"), send_timeout=0) as exchange:
        await exchange.ended.wait()
    assert isinstance(exchange.error, ValueError)
