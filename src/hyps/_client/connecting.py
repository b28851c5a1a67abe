"""The function that makes a client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from .client import DEFAULT_RECONNECT_MAX_DELAY, Client

if TYPE_CHECKING:
    import ssl

    from ..protocol import Limits
    from .client import WhenDisconnected
    from .tokens import Token

DEFAULT_URL: Final = "hyps://127.0.0.1:8787"


def connect(
    url: str | None = None,
    *,
    token: Token | None = None,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    when_disconnected: WhenDisconnected = "wait",
    reconnect_max_delay: float = DEFAULT_RECONNECT_MAX_DELAY,
    limits: Limits | None = None,
    wait: bool = False,
    name: str | None = None,
) -> Client:
    """Make a client. It connects when it is entered.

    The first connection fails at once if there is no hub, unless ``wait`` is true. When the
    connection is lost later, the client makes another one, however long that takes, and restores
    the channels of all subscriptions.

    :param url: ``hyps://host:port``, ``hypss://host:port`` (TLS), ``hyps+unix:///path`` or
        ``memory://name``; over HTTP/2, for a hub of Hyps for Nim, ``http://host:port`` or
        ``https://host:port``. The default is the environment's ``HYPS_URL``, or else
        ``hyps://127.0.0.1:8787``. The client tries several hosts, ``hyps://host:port,host:port``,
        in this order each time it connects. Hubs know nothing of each other, so give all clients
        the same list.
    :param token: the token, if the hub asks for one; or a function that returns it, async or not,
        which is asked at each connecting and before a token expires. One that is not async runs in
        a thread. The default is the environment's ``HYPS_TOKEN``.
    :param ssl_context: for TLS; None trusts whom the system trusts. For ``https`` it must offer
        HTTP/2: ``ssl_context.set_alpn_protocols(["h2"])``.
    :param server_hostname: for TLS; the name that the hub's certificate must be for, if it is not
        the host in the URL
    :param when_disconnected: what operations do while the client connects again: ``"wait"``, or
        ``"raise"`` :class:`ConnectionLost`
    :param reconnect_max_delay: the longest delay between two attempts, in seconds. The first delay
        is up to 0.1 seconds, and each further one up to twice as long, at random.
    :param limits: the client's own bounds
    :param wait: wait for the first hub, instead of raising :class:`ConnectionRefused`. The log has
        each reason why there is none, once. A hub that refuses the token still raises.
    :param name: what the hub's log calls this client, such as ``"worker-3"``: up to 200 printable
        characters
    :raises InvalidURL: if Hyps cannot connect to the URL, or needs the extra ``http2`` for it
    :raises ValueError: if an argument has another value, the token or the name cannot be sent, or
        there is an ``ssl_context`` or a ``server_hostname`` without TLS
    """
    if url is None:
        url = os.environ.get("HYPS_URL") or DEFAULT_URL
    if token is None:
        token = os.environ.get("HYPS_TOKEN") or None
    return Client(
        url,
        token=token,
        ssl_context=ssl_context,
        server_hostname=server_hostname,
        when_disconnected=when_disconnected,
        reconnect_max_delay=reconnect_max_delay,
        limits=limits,
        wait=wait,
        name=name,
    )
