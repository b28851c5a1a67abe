"""For operators: health, metrics, tables and publishing over HTTP/1.1.

This needs the extra ``ops``.
"""

from __future__ import annotations

try:
    from ._collector import Collector as Collector
    from ._server import HTTPServer as HTTPServer
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] not in ("h11", "prometheus_client"):
        raise
    raise ModuleNotFoundError(
        "hyps.ops needs h11 and prometheus-client: pip install 'hyps[ops]'", name=_error.name
    ) from None

__all__ = ("Collector", "HTTPServer")
