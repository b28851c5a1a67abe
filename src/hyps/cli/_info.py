"""``hyps info``."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from .. import connect
from .._net.addresses import TCPAddress, parse_url
from .._text import one_line
from ._certificates import tls_options
from ._common import backend_option, run_client, token_option, url_option
from ._output import stdout

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .. import Client

#: Seconds to wait for the round trip, which some hubs do not tell over HTTP/2.
_PATIENCE: Final = 5.0

#: What begins so in WELCOME is a limit.
_LIMIT: Final = "max_"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@url_option
@token_option()
@tls_options
@backend_option
def info(
    as_json: bool,
    url: str,
    token: str | None,
    ssl_context: ssl.SSLContext | None,
    backend: str | None,
) -> None:
    """Connect to a hub, and print what it says of itself: its version, its limits, how far it is.

    Over HTTP/2 a hub says nothing, and the limits are those of this program.
    """
    # The command's error says what the log would.
    logging.getLogger("hyps.client").setLevel(logging.CRITICAL)
    connection = partial(
        connect, url, token=token, ssl_context=ssl_context, when_disconnected="raise"
    )
    run_client(partial(_print_info, as_json, connection), backend)


async def _print_info(as_json: bool, connection: Callable[[], Client]) -> None:
    async with connection() as client:
        welcome = client.welcome
        found = client.stats().url
        with anyio.move_on_after(_PATIENCE):
            await client.ping()
        round_trip = client.stats().round_trip
    assert welcome is not None
    assert found is not None
    [address] = parse_url(found)
    said = asdict(welcome)
    limits = {name: said.pop(name) for name in list(said) if name.startswith(_LIMIT)}
    is_http = isinstance(address, TCPAddress) and address.is_http
    if is_http:
        # The client made these up.
        said.update(server=None, session=None)
    shown = {
        "hub": said.pop("server"),
        "url": found,
        "wire": "http2" if is_http else "hyps",
        "tls": isinstance(address, TCPAddress) and address.tls,
        **said,
        "limits": limits,
        "round_trip": round_trip,
    }
    await stdout.print(json.dumps(shown) if as_json else _as_text(shown))


def _as_text(shown: dict[str, Any]) -> str:
    rows = {**shown, **shown["limits"]}
    del rows["limits"]
    return "\n".join([f"{name:<14} {_say(name, value)}" for name, value in rows.items()])


def _say(name: str, value: Any) -> str:
    match value:
        case None | () | [] | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float() if name == "round_trip":
            return f"{1000 * value:.3f} ms"
        case int() | float() if name in ("heartbeat", "expires_in"):
            return f"{value:g} s"
        case int():
            return f"{value:,}"
        case list() | tuple():
            return one_line(", ".join(map(str, value)))
        case _:
            # The hub chose it.
            return one_line(str(value))
