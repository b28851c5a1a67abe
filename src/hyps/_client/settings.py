"""How a client connects, as its user has said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from .._net.addresses import Address
    from ..protocol import Limits
    from .tokens import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a client connects.

    :param addresses: the hubs' addresses, in the order in which to try them
    :param token: the token to present, or a function that returns it
    :param ssl_context: for TLS
    :param server_hostname: the name that the hub's certificate is for, if it is not the host's
    :param limits: the client's own bounds
    :param name: what the hub calls the client
    :param waits_first: whether to go on if there is no hub for the first connection
    :param waits: whether operations wait for the next connection when one was lost
    :param reconnect_max_delay: the longest delay between two attempts, in seconds
    """

    addresses: tuple[Address, ...]
    token: Token | None = field(repr=False)
    ssl_context: ssl.SSLContext | None
    server_hostname: str | None
    limits: Limits
    name: str
    waits_first: bool
    waits: bool
    reconnect_max_delay: float
