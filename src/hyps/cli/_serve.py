"""``hyps serve``."""

from __future__ import annotations

import logging
import ssl
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

import anyio
import click

from .. import Limits, Server, __version__
from ._common import backend_option, run, run_until_signal, token_option

if TYPE_CHECKING:
    from typing import Any


def _parse_limits(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> Limits:
    kinds = {field.name: type(getattr(Limits(), field.name)) for field in fields(Limits)}
    found: dict[str, Any] = {}
    for value in values:
        name, _, number = value.partition("=")
        if name not in kinds:
            raise click.BadParameter(f"{name!r} is none of {', '.join(kinds)}")
        try:
            found[name] = kinds[name](number)
        except ValueError:
            raise click.BadParameter(f"{name} must be a number, not {number!r}") from None
    try:
        return Limits(**found)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _make_ssl_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise ValueError("--key needs --cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        raise ValueError(f"--cert: {error}") from None
    # Clients over HTTP/2 want to be told that it is spoken here.
    context.set_alpn_protocols(["h2"])
    return context


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    envvar="HYPS_PORT",
    show_envvar=True,
    help="Port to listen at; 0 for one that is free.",
)
@click.option(
    "--uds", metavar="PATH", help="Unix socket to listen at, instead of a host and a port."
)
@token_option
@click.option(
    "--cert",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Certificate chain for TLS, with the private key unless --key has it.",
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Private key of --cert.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_parse_limits,
    help="Set a bound of the hub, for example max_message=65536. May be given several times.",
)
@backend_option
@click.option("-v", "--verbose", is_flag=True, help="Log each session.")
def serve(
    host: str,
    port: int,
    uds: str | None,
    token: str | None,
    cert: str | None,
    key: str | None,
    limits: Limits,
    backend: str | None,
    verbose: bool,
) -> None:
    """Run a hub until SIGINT or SIGTERM, then close cleanly."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        ssl_context = _make_ssl_context(cert, key)
        server = Server(host, port, uds=uds, token=token, ssl_context=ssl_context, limits=limits)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    run(partial(run_until_signal, partial(_serve, server)), backend)
    click.echo("hyps: closed", err=True)


async def _serve(server: Server) -> None:
    async with server:
        click.echo(f"hyps {__version__} listening at {', '.join(server.urls)}")
        await anyio.sleep_forever()
