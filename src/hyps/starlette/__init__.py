"""Hyps in Starlette and FastAPI: responses of server-sent events, and WebSockets.

This needs the extra ``starlette``.
"""

from __future__ import annotations

try:
    from ._response import EventSourceResponse as EventSourceResponse
    from ._websocket import websocket as websocket
except ModuleNotFoundError as _error:
    if _error.name != "starlette":
        raise
    raise ModuleNotFoundError(
        "hyps.starlette needs Starlette: pip install 'hyps[starlette]'", name="starlette"
    ) from None

__all__ = ("EventSourceResponse", "websocket")
