"""Server-sent events with Quart.

Run it beside a hub (``hyps serve``)::

    hypercorn --bind 127.0.0.1:8000 examples/quart_sse/app.py:app
"""

from collections.abc import AsyncIterator

from quart import Quart, request
from quart.wrappers import Response

import hyps
import hyps.asgi

client = hyps.connect()
app = Quart(__name__)


@app.while_serving
async def lifespan() -> AsyncIterator[None]:
    async with hyps.asgi.lifespan(client):
        yield


@app.get("/events")
async def events() -> Response:
    response = Response(
        hyps.asgi.sse(client.subscribe("news", gaps=True)),
        content_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )
    response.timeout = None  # Quart ends responses after a minute, unless it is told not to
    return response


@app.post("/publish")
async def publish() -> tuple[str, int]:
    await client.publish("news", await request.get_data())
    return "", 204
