"""The HTTP/2 wire of Hyps for Nim, on the library h2 (extra ``http2``), for both ends.

A session is three requests: ``POST /subscribe`` and ``POST /publish`` carry records up and a code
for each down, ``GET /messages`` carries records down. This wire has no unsubscribe, no
positions and no gaps, so what it cannot do is done at this end, or is said to be unknown.
"""

from .client import ClientWire as ClientWire
from .server import ServerWire as ServerWire

__all__ = ("ClientWire", "ServerWire")
