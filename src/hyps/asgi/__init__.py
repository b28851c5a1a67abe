"""Hyps in ASGI applications, whatever their framework: the lifespan, and server-sent events.

This needs nothing but Hyps itself. :mod:`hyps.starlette` has more for Starlette and FastAPI.
"""

from __future__ import annotations

from ._events import Event as Event
from ._generators import events as events
from ._generators import sse as sse
from ._lifespan import lifespan as lifespan
from ._lifespan import with_lifespan as with_lifespan

__all__ = ("Event", "events", "lifespan", "sse", "with_lifespan")
