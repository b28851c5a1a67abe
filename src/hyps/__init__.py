"""Hyps: async pub/sub in which many subscriptions share one connection.

The names are loaded when they are first used: importing the sans-IO core, ``hyps.protocol``, must
import nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._client.client import Client as Client
    from ._client.connecting import connect as connect
    from ._client.stats import ClientStats as ClientStats
    from ._client.status import Connected as Connected
    from ._client.status import ConnectionEvent as ConnectionEvent
    from ._client.status import Disconnected as Disconnected
    from ._client.status import Reconnected as Reconnected
    from ._client.subscription import Subscription as Subscription
    from ._errors import AuthenticationFailed as AuthenticationFailed
    from ._errors import CannotListen as CannotListen
    from ._errors import ConnectionLost as ConnectionLost
    from ._errors import ConnectionRefused as ConnectionRefused
    from ._errors import InvalidURL as InvalidURL
    from ._errors import SubscriptionClosed as SubscriptionClosed
    from ._errors import SubscriptionOverflow as SubscriptionOverflow
    from ._errors import WouldBlock as WouldBlock
    from ._server.identity import Credentials as Credentials
    from ._server.identity import Grants as Grants
    from ._server.server import Server as Server
    from ._server.serving import serve as serve
    from .protocol import Gap as Gap
    from .protocol import HypsError as HypsError
    from .protocol import InvalidChannel as InvalidChannel
    from .protocol import Limits as Limits
    from .protocol import Message as Message
    from .protocol import MessageTooLarge as MessageTooLarge
    from .protocol import PermissionDenied as PermissionDenied
    from .protocol import ProtocolError as ProtocolError
    from .protocol import Unavailable as Unavailable

__all__ = (
    "AuthenticationFailed",
    "CannotListen",
    "Client",
    "ClientStats",
    "Connected",
    "ConnectionEvent",
    "ConnectionLost",
    "ConnectionRefused",
    "Credentials",
    "Disconnected",
    "Gap",
    "Grants",
    "HypsError",
    "InvalidChannel",
    "InvalidURL",
    "Limits",
    "Message",
    "MessageTooLarge",
    "PermissionDenied",
    "ProtocolError",
    "Reconnected",
    "Server",
    "Subscription",
    "SubscriptionClosed",
    "SubscriptionOverflow",
    "Unavailable",
    "WouldBlock",
    "__version__",
    "connect",
    "serve",
)

_HOMES = {
    "_client.client": ("Client",),
    "_client.connecting": ("connect",),
    "_errors": (
        "AuthenticationFailed",
        "CannotListen",
        "ConnectionLost",
        "ConnectionRefused",
        "InvalidURL",
        "SubscriptionClosed",
        "SubscriptionOverflow",
        "WouldBlock",
    ),
    "_server.identity": ("Credentials", "Grants"),
    "_server.server": ("Server",),
    "_server.serving": ("serve",),
    "_client.stats": ("ClientStats",),
    "_client.status": (
        "Connected",
        "ConnectionEvent",
        "Disconnected",
        "Reconnected",
    ),
    "_client.subscription": ("Subscription",),
    "protocol": (
        "Gap",
        "HypsError",
        "InvalidChannel",
        "Limits",
        "Message",
        "MessageTooLarge",
        "PermissionDenied",
        "ProtocolError",
        "Unavailable",
    ),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            found: object = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
