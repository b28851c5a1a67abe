"""Django: a view that is not async publishes, and an async view streams.

Run it beside a hub (``hyps serve``), under any ASGI server::

    uvicorn --app-dir examples/django_sync app:app
"""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

import hyps
import hyps.asgi
import hyps.sync

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)

publisher = hyps.sync.connect()
client = hyps.connect()
lifespan = hyps.asgi.lifespan(client)


def publish(request: HttpRequest) -> HttpResponse:
    publisher.publish("news", request.body)
    return HttpResponse(status=204)


async def events(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        hyps.asgi.sse(client.subscribe("news", gaps=True)),
        content_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


urlpatterns = [path("publish", publish), path("events", events)]
# Django knows no lifespan.
app = hyps.asgi.with_lifespan(get_asgi_application(), lifespan)
