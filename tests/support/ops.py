"""Hubs with an HTTP server beside them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hyps
from hyps.ops import HTTPServer

from .helpers import Http2Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def hub_with_http(
    scheme: str = "hyps", http: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[hyps.Server, str]]:
    """Give a hub, and the URL of its HTTP server."""
    kind = hyps.Server if scheme == "hyps" else Http2Server
    server = kind(port=0, **options)
    async with HTTPServer(server, ":0", **(http or {})) as site, server:
        yield server, site.urls[0]
