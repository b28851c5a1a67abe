"""Errors of connections and subscriptions. Those that need no I/O are the core's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import anyio

from .protocol import HypsError

#: Makes an error anew for each task that it is raised in.
ErrorFactory: TypeAlias = Callable[[], HypsError]


class InvalidURL(HypsError, ValueError):
    """A URL is not one that Hyps can connect to."""


class CannotListen(HypsError):
    """The server's address is in use, or is not one of this machine."""


class ConnectionRefused(HypsError):
    """No session could be opened: nobody listens there, or the hub turned the client away."""


class AuthenticationFailed(ConnectionRefused):
    """The hub does not know the client's token, at the first connection.

    A client that was connected before takes it for a fault of the hub, and tries again.
    """


class ConnectionLost(HypsError):
    """There is no connection any more.

    The outcome of an unanswered operation is unknown: the hub may have carried it out.
    """


class SubscriptionClosed(HypsError):
    """The subscription has ended, and everything it had buffered was read."""


class SubscriptionOverflow(HypsError):
    """The subscription's buffer was full, and ``overflow="close"`` ended it."""


class WouldBlock(HypsError, anyio.WouldBlock):
    """What was asked for cannot be done without waiting."""
