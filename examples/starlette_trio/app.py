"""Starlette on trio: everything works as on asyncio.

Run it beside a hub (``hyps serve``)::

    hypercorn -k trio --bind 127.0.0.1:8000 examples/starlette_trio/app.py:app
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import hyps
import hyps.asgi
from hyps.starlette import EventSourceResponse, websocket

client = hyps.connect()


async def events(request: Request) -> Response:
    return EventSourceResponse(client.subscribe("news", gaps=True))


async def publish(request: Request) -> Response:
    await client.publish("news", await request.body())
    return Response(status_code=204)


async def chat(ws: WebSocket) -> None:
    async def say(text: str) -> None:
        await client.publish("chat", text)

    await websocket(ws, client.subscribe("chat", gaps=True), on_text=say)


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/publish", publish, methods=["POST"]),
        WebSocketRoute("/chat", chat),
    ],
    lifespan=hyps.asgi.lifespan(client),
)
