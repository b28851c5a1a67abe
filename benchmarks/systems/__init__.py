"""The systems that are measured side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .hyps_hub import HypsHub
from .nats_server import NatsCallbacks, NatsServer
from .redis_server import RedisServer

if TYPE_CHECKING:
    from .base import System

SYSTEMS: Final[tuple[type[System], ...]] = (HypsHub, RedisServer, NatsServer, NatsCallbacks)

#: The system that is compared with the best of the others.
OURS: Final = HypsHub.name

#: Those that do not read as the workloads have it, and are faster for it.
CALLED: Final = frozenset(system.name for system in SYSTEMS if not system.is_iterated)
