"""Server-sent events with Litestar.

Run it beside a hub (``hyps serve``)::

    uvicorn --app-dir examples/litestar_sse app:app
"""

from litestar import Litestar, Request, get, post
from litestar.response import Stream

import hyps
import hyps.asgi

client = hyps.connect()


@get("/events")
async def events() -> Stream:
    return Stream(
        hyps.asgi.sse(client.subscribe("news", gaps=True)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


@post("/publish")
async def publish(request: Request) -> None:
    await client.publish("news", await request.body())


app = Litestar([events, publish], lifespan=[hyps.asgi.lifespan(client)])
