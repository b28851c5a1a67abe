"""Publishing without a session, for what comes to the hub over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol import Refusal, Verb, encode
from .identity import GrantedAccess

if TYPE_CHECKING:
    from ..protocol import HypsError
    from .identity import Grants
    from .server import Server


def post(server: Server, grants: Grants, channel: str, data: bytes) -> None:
    """Publish one message, as a session with these grants would.

    It is queued for the subscribers at once, and their sessions are flushed before the event loop
    waits.

    :raises InvalidChannel: if that is no name of a channel
    :raises HypsError: what the hub refused, as a client's ``publish()`` would raise
    """
    record = encode(channel, data)
    error = _refuse(server, grants, channel)
    if error is None:
        broker = server.broker
        codes: list[bytes] = []
        broker.publish(record, 0, codes)
        # As after the records of a session: chores go on while the hub is busy.
        broker.do_chores()
        error = _error_of(b"".join(codes))
    if error is not None:
        raise error


def _refuse(server: Server, grants: Grants, channel: str) -> HypsError | None:
    if server.state != "ready":
        return _error_of(b"u")
    if not GrantedAccess(grants).may(Verb.PUBLISH, channel):
        return _error_of(b"d")
    return None


def _error_of(code: bytes) -> HypsError | None:
    return None if code == b"k" else Refusal(0, code).error()
