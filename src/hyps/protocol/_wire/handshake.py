"""HELLO, WELCOME, AUTH, GOAWAY and ERROR: the frames with JSON bodies, on both wires.

The events are their typed form. This module has the only place where each field is spelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._records.layout import RECORD_OVERHEAD
from .._records.position import MAX_COUNT
from ..events import GoingAway, Hello, PeerError, TokenExpiry, TokenOffered, Welcome
from ..limits import MAX_FRAME_CEILING, MAX_REASON
from .fields import Fields, dump

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The longest delay that a GOAWAY may ask for, in seconds.
_MAX_RECONNECT_AFTER: Final = 86_400

#: The longest time that a client believes a token to have, in seconds: some hundred years.
_MAX_EXPIRES_IN: Final = 1e10

#: The longest heartbeat interval, in seconds.
_MAX_HEARTBEAT: Final = 3_600


def encode_hello(hello: Hello) -> bytes:
    """Encode the body of HELLO."""
    return dump(client=hello.client, token=hello.token, features=hello.features)


def is_text(text: str) -> bool:
    """Tell whether text can be sent."""
    # The original error quotes the text, which may be a token, so no other may have it as a
    # context.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode_hello(body: bytes) -> Hello:
    """Decode the body of HELLO.

    :raises RemoteProtocolError: if it is malformed
    """
    fields = Fields("HELLO", body)
    return Hello(fields.text("client"), fields.optional_text("token"), fields.texts("features"))


def encode_welcome(welcome: Welcome) -> bytes:
    """Encode the body of WELCOME."""
    return dump(
        server=welcome.server,
        session=welcome.session,
        features=welcome.features,
        heartbeat=welcome.heartbeat,
        max_message=welcome.max_message,
        max_channel=welcome.max_channel,
        max_frame=welcome.max_frame,
        max_channels=welcome.max_channels,
        max_in_flight=welcome.max_in_flight,
        expires_in=welcome.expires_in,
    )


def decode_welcome(body: bytes) -> Welcome:
    """Decode the body of WELCOME.

    :raises RemoteProtocolError: if it is malformed, or a frame could not hold the largest record
    """
    fields = Fields("WELCOME", body)
    max_message = fields.integer("max_message", 1, MAX_FRAME_CEILING)
    max_channel = fields.integer("max_channel", 1, MAX_FRAME_CEILING)
    largest = max_message + max_channel + RECORD_OVERHEAD
    return Welcome(
        server=fields.text("server"),
        session=fields.text("session"),
        features=fields.texts("features"),
        heartbeat=fields.integer("heartbeat", 1, _MAX_HEARTBEAT),
        max_message=max_message,
        max_channel=max_channel,
        max_frame=fields.integer("max_frame", 1 + largest, MAX_FRAME_CEILING),
        max_channels=fields.integer("max_channels", 1, MAX_COUNT),
        max_in_flight=fields.integer("max_in_flight", 1, MAX_COUNT),
        expires_in=fields.optional_seconds("expires_in", _MAX_EXPIRES_IN),
    )


def encode_token(token: str) -> bytes:
    """Encode the body of a client's AUTH."""
    return dump(token=token)


def decode_token(body: bytes) -> TokenOffered:
    """Decode the body of a client's AUTH.

    :raises RemoteProtocolError: if it is malformed
    """
    return TokenOffered(Fields("AUTH", body).text("token"))


def encode_expiry(event: TokenExpiry) -> bytes:
    """Encode the body of a hub's AUTH."""
    return dump(expires_in=event.expires_in, renewed=event.renewed)


def decode_expiry(body: bytes) -> TokenExpiry:
    """Decode the body of a hub's AUTH.

    :raises RemoteProtocolError: if it is malformed
    """
    fields = Fields("AUTH", body)
    expires_in = fields.optional_seconds("expires_in", _MAX_EXPIRES_IN)
    return TokenExpiry(expires_in, fields.optional_flag("renewed"))


def encode_goaway(event: GoingAway) -> bytes:
    """Encode the body of GOAWAY; a reason that is too long is cut off."""
    return dump(reason=_sendable(event.reason), reconnect_after=event.reconnect_after)


def decode_goaway(body: bytes) -> GoingAway:
    """Decode the body of GOAWAY.

    :raises RemoteProtocolError: if it is malformed
    """
    fields = Fields("GOAWAY", body)
    delay = fields.seconds("reconnect_after", _MAX_RECONNECT_AFTER)
    return GoingAway(fields.text("reason"), delay)


def _sendable(text: str) -> str:
    """Cut a text off, and escape what has no UTF-8 form: the other end would refuse all of it."""
    return text[:MAX_REASON].encode("utf-8", "backslashreplace").decode()


def encode_error(error: PeerError, versions: Sequence[int] | None = None) -> bytes:
    """Encode the body of ERROR; a message that is too long is cut off.

    :param versions: the versions of the wire that this end speaks, if the peer's is not among them
    """
    return dump(code=error.code, message=_sendable(error.message), versions=versions)


def decode_error(body: bytes) -> PeerError:
    """Decode the body of ERROR.

    :raises RemoteProtocolError: if it is malformed
    """
    fields = Fields("ERROR", body)
    return PeerError(fields.text("code"), fields.text("message"))
