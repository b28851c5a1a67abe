"""Errors that need no I/O to happen. Those of connections are in :mod:`hyps`."""

from __future__ import annotations


class HypsError(Exception):
    """Root of every error that Hyps raises."""


class InvalidChannel(HypsError, ValueError):
    """A channel name is empty, contains a newline, is not UTF-8 text, or is refused by the hub."""


class MessageTooLarge(HypsError, ValueError):
    """A message is larger than the hub takes."""


class PermissionDenied(HypsError):
    """The hub does not allow this operation (answer code ``d``)."""


class Unavailable(HypsError):
    """The hub did not take the operation (answer code ``u``); it may be sent again elsewhere."""


class ProtocolError(HypsError):
    """One side broke the rules of the wire."""


class LocalProtocolError(ProtocolError):
    """The caller asked a protocol object for what its state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules of the wire.

    :param message: what was wrong, in words that may be shown to the peer
    :param code: the ``code`` of the ERROR frame that the peer is told, see :class:`ErrorCode`
    """

    def __init__(self, message: str, code: str = "protocol") -> None:
        super().__init__(message)
        self.code = code


class MalformedRecord(RemoteProtocolError, ValueError):
    """Bytes that should have been a record are not one."""


class ErrorCode:
    """What the ``code`` of an ERROR frame may say; peers may know others."""

    PROTOCOL = "protocol"
    TOO_LARGE = "too_large"
    VERSION = "version"
    AUTH = "auth"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    INTERNAL = "internal"

    #: Trying again cannot help, unless it was right before.
    FINAL = frozenset({AUTH, VERSION})
