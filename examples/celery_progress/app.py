"""A page that starts a Celery task and shows its progress, through server-sent events.

Run it beside a hub (``hyps serve``) and the worker of ``tasks.py``::

    uvicorn --app-dir examples/celery_progress app:app
"""

from pathlib import Path
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from tasks import work

import hyps
import hyps.asgi
from hyps.starlette import EventSourceResponse

client = hyps.connect()


async def page(request: Request) -> Response:
    return FileResponse(
        Path(__file__).with_name("page.html"), headers={"cache-control": "no-store"}
    )


async def progress(request: Request) -> Response:
    job = uuid4().hex

    def start():  # once the subscription is ACKed, so that the first step is not missed
        work.delay(job)
        yield "started"

    return EventSourceResponse(client.subscribe(f"job.{job}", gaps=True), replay=start())


app = Starlette(
    routes=[Route("/", page), Route("/progress", progress)],
    lifespan=hyps.asgi.lifespan(client),
)
