"""What is done with the systems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..loads import Load
from .base import EVERY_LOOP
from .holding import Growth, Idle, Subscribing, Subscriptions
from .single import Pingpong, Waiters
from .windows import Connections, Each, Fanout, FanoutMany, Mixed, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base import Workload

_SMALL: Final = Load(16)
_LARGE: Final = Load(1024)

#: Most are measured on uvloop alone, and some on each event loop.
WORKLOADS: Final[Sequence[Workload]] = (
    Pingpong(_SMALL, EVERY_LOOP),
    Pingpong(_LARGE, EVERY_LOOP),
    Stream(_SMALL, EVERY_LOOP),
    Stream(Load(16, varied=False)),
    Stream(_LARGE),
    Stream(Load(1024, varied=False)),
    Each(_SMALL),
    Each(_LARGE),
    Mixed(_SMALL),
    Mixed(_LARGE),
    Waiters(_SMALL, EVERY_LOOP),
    Waiters(_LARGE),
    Fanout(_SMALL, EVERY_LOOP),
    Fanout(_LARGE),
    FanoutMany(_SMALL, EVERY_LOOP),
    FanoutMany(_LARGE),
    Connections(_SMALL, 1),
    Connections(_LARGE, 1),
    Connections(_SMALL, 50),
    Connections(_LARGE, 50),
    Subscribing(),
    Subscriptions(),
    Idle(),
    Growth(),
)
