"""An application with every kind of stream, for the tests."""

from __future__ import annotations

import asyncio
import logging
import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import hyps
import hyps.asgi
from hyps.starlette import EventSourceResponse, websocket

logging.basicConfig(level=logging.INFO)
client = hyps.connect(name=f"worker-{os.getpid()}", reconnect_max_delay=0.2)
#: What users have said, as far as it is published or under way.
said: list[str] = []
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", "30"))


def count_tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0  # this is trio


async def health(request: Request) -> Response:
    return JSONResponse({"connected": client.connected, "tasks": count_tasks(), "said": len(said)})


async def events(request: Request) -> Response:
    channels = request.query_params.getlist("channel") or ["news"]
    subscription = client.subscribe(*channels, gaps=True)
    return EventSourceResponse(subscription, send_timeout=SEND_TIMEOUT)


async def latest(request: Request) -> Response:
    return EventSourceResponse(client.subscribe("news", gaps=True, overflow="latest"))


async def generator(request: Request) -> Response:
    stream = hyps.asgi.sse(client.subscribe("news", gaps=True), send_timeout=SEND_TIMEOUT)
    return StreamingResponse(stream, media_type="text/event-stream")


async def publish(request: Request) -> Response:
    await client.publish(request.query_params.get("channel", "news"), await request.body())
    return Response(status_code=204)


async def chat(ws: WebSocket) -> None:
    room = f"room.{ws.path_params['room']}"

    async def say(text: str) -> None:
        said.append(text)
        await client.publish(room, text)

    subscription = client.subscribe(room, gaps=True)
    await websocket(ws, subscription, on_text=say, send_timeout=SEND_TIMEOUT)


app = Starlette(
    routes=[
        Route("/", health),
        Route("/events", events),
        Route("/latest", latest),
        Route("/generator", generator),
        Route("/publish", publish, methods=["POST"]),
        WebSocketRoute("/chat/{room}", chat),
    ],
    lifespan=hyps.asgi.lifespan(client),
)
