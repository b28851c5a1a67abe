"""Events that survive a reconnect: a table has them all, and ``Last-Event-ID`` says where to go on.

Hyps stores nothing. So the table decides what there is, and Hyps tells when to look: the stream
subscribes first, then reads the table, and reads it again whenever a message or a gap arrives. Run
it beside a hub (``hyps serve``)::

    uvicorn --app-dir examples/resume app:app --workers 2
"""

import os
import sqlite3
from collections.abc import Iterator

from fastapi import FastAPI, Header

import hyps
import hyps.asgi
from hyps.starlette import EventSourceResponse

client = hyps.connect()
app = FastAPI(lifespan=hyps.asgi.lifespan(client))
database = sqlite3.connect(
    os.environ.get("DATABASE", "events.db"), isolation_level=None, check_same_thread=False
)
database.execute("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, text TEXT)")


@app.post("/events")
async def add(text: str) -> int:
    number = database.execute("INSERT INTO events (text) VALUES (?)", (text,)).lastrowid
    await client.publish("events", b"")
    return number or 0


@app.get("/events")
async def events(last_event_id: int = Header(0)) -> EventSourceResponse:
    seen = last_event_id

    def read() -> Iterator[hyps.asgi.Event]:
        nonlocal seen
        query = "SELECT id, text FROM events WHERE id > ? ORDER BY id"
        for number, text in database.execute(query, (seen,)).fetchall():
            seen = number
            yield hyps.asgi.Event(text, id=str(number))

    return EventSourceResponse(
        client.subscribe("events", gaps=True, overflow="drop_oldest"),
        replay=read(),
        encode=lambda item: read(),
    )
