"""The wires that a hub speaks: a new one is a module beside this and a line in :data:`WIRES`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import RemoteProtocolError
from .frames import PREFACE
from .native import NativeWire

if TYPE_CHECKING:
    from collections.abc import Callable

    from .base import Wire


@dataclass(frozen=True, slots=True)
class KnownWire:
    """A wire that a client may choose.

    :param name: its name
    :param opening: the first bytes of a client that speaks it, enough to tell it from the others
    :param make: makes the hub's end, given the bytes that a frame may have; it raises
        ``RemoteProtocolError`` if a package is missing
    """

    name: str
    opening: bytes
    make: Callable[[int], Wire]


def _make_http2(max_frame: int) -> Wire:
    try:
        from .http2 import ServerWire
    except ImportError:
        raise RemoteProtocolError("HTTP/2, for which hyps[http2] is not installed") from None
    return ServerWire(max_frame)


WIRES: Final = (
    KnownWire("native", PREFACE[:5], partial(NativeWire, preface=True)),
    KnownWire("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", _make_http2),
)


def load_wires() -> None:
    """Import now what the wires need, and not when the first client speaks one of them.

    Importing h2 takes a hundred milliseconds, which a hub that serves other clients does not have.
    """
    with suppress(ImportError):
        from . import http2  # noqa: F401
