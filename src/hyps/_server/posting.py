"""Publishing without a session, for what comes to the hub over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol import Refusal, Verb, encode
from .identity import GrantedAccess

if TYPE_CHECKING:
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
    check(server, grants, channel)
    codes: list[bytes] = []
    server.broker.publish(record, 0, codes)
    # As after the records of a session: chores go on while the hub is busy.
    server.broker.do_chores()
    [code] = codes
    if code != b"k":
        raise Refusal(0, code).error()


def check(server: Server, grants: Grants, channel: str) -> None:
    """Raise what :func:`post` would, as far as it does not depend on the message."""
    # It must be a name before anything else is said of it.
    encode(channel, b"")
    code = b""
    if server.state != "ready":
        code = b"u"
    elif not GrantedAccess(grants).may(Verb.PUBLISH, channel):
        code = b"d"
    elif len(channel.encode()) > server.broker.limits.max_channel:
        code = b"n"
    if code:
        raise Refusal(0, code).error()
