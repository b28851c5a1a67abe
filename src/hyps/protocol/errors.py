"""The errors that the core raises. Those of connections are in :mod:`hyps`."""

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
    """The hub did not take the operation (answer code ``u``). It may be tried again elsewhere."""


class ProtocolError(HypsError):
    """One side broke the rules of the wire."""


class LocalProtocolError(ProtocolError):
    """The caller asked a protocol object for something that its state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules of the wire.

    :param message: what was wrong, in words that may be shown to the peer
    :param code: the ``code`` of the ERROR frame for the peer, see :class:`ErrorCode`
    """

    def __init__(self, message: str, code: str = "protocol") -> None:
        super().__init__(message)
        self.code = code


class MalformedRecord(RemoteProtocolError, ValueError):
    """Bytes that should have been a record are not one."""


class ErrorCode:
    """The values of ``code`` in an ERROR frame; peers may send others."""

    PROTOCOL = "protocol"
    TOO_LARGE = "too_large"
    VERSION = "version"
    AUTH = "auth"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    INTERNAL = "internal"

    #: Trying again cannot help, unless the same attempt succeeded before.
    FINAL = frozenset({AUTH, VERSION})
