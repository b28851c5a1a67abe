"""A chat over WebSockets, and news over server-sent events, for any number of worker processes.

Run it beside a hub (``hyps serve``)::

    uvicorn --app-dir examples/fastapi_chat app:app --workers 2
"""

from pathlib import Path

from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse

import hyps
import hyps.asgi
from hyps.starlette import EventSourceResponse, websocket

client = hyps.connect()
app = FastAPI(lifespan=hyps.asgi.lifespan(client))


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(
        Path(__file__).with_name("page.html"), headers={"cache-control": "no-store"}
    )


@app.get("/news")
async def news() -> EventSourceResponse:
    return EventSourceResponse(client.subscribe("news", gaps=True))


@app.post("/news")
async def publish(text: str) -> None:
    await client.publish("news", text)


@app.websocket("/chat/{room}")
async def chat(ws: WebSocket, room: str) -> None:
    async def say(text: str) -> None:
        await client.publish(f"room.{room}", text)

    await websocket(ws, client.subscribe(f"room.{room}", gaps=True), on_text=say)
