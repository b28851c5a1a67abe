"""An application that is not async, which publishes where it is imported and in each request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hyps.sync

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

client = hyps.sync.connect()
client.publish("news", "preloaded")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = str(os.getpid())
    if environ["PATH_INFO"] == "/publish":
        client.publish("news", text)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
