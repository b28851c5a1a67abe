"""``hyps sub``."""

from __future__ import annotations

import base64
import json
import logging
from functools import partial
from typing import TYPE_CHECKING

import click

from .. import connect
from .._text import one_line
from ._certificates import tls_options
from ._common import (
    backend_option,
    check_channel,
    run_client,
    token_option,
    url_option,
)
from ._logging import log_to_stderr
from ._output import stdout

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .. import Client, Message


@click.command()
@click.argument("channels", nargs=-1, required=True, metavar="CHANNEL...", callback=check_channel)
@click.option("--count", type=click.IntRange(min=1), help="End after this many messages.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print an object a line: channel, and data or, if that is not UTF-8, data_base64.",
)
@url_option
@token_option()
@tls_options
@backend_option
def sub(
    channels: tuple[str, ...],
    count: int | None,
    as_json: bool,
    url: str,
    token: str | None,
    ssl_context: ssl.SSLContext | None,
    backend: str | None,
) -> None:
    """Print the messages of CHANNELs, one a line, until interrupted.

    A connection that is lost is made again. That, and messages that were missed, are told on
    standard error.

    Control characters and bytes that are not UTF-8 are printed as escapes.
    """
    if stdout.is_closed:
        raise click.ClickException("standard output is closed, so messages would be thrown away")
    show = _as_json if as_json else _as_text

    # The client logs lost connections and missed messages.
    log_to_stderr(logging.INFO, "%(message)s")
    connection = partial(connect, url, token=token, ssl_context=ssl_context)
    run_client(partial(_print_messages, channels, count, show, connection), backend)


async def _print_messages(
    channels: tuple[str, ...],
    count: int | None,
    show: Callable[[Message], str],
    connection: Callable[[], Client],
) -> None:
    async with connection() as client, client.subscribe(*channels) as subscription:
        click.echo(f"subscribed {', '.join(map(one_line, channels))}", err=True)
        while count is None or count > 0:
            messages = (await subscription.receive_many())[:count]
            await stdout.print("\n".join([show(message) for message in messages]))
            if count is not None:
                count -= len(messages)


def _as_text(message: Message) -> str:
    data = message.data.decode("utf-8", "surrogateescape")
    # Decoding turned a byte that is not UTF-8 into a lone surrogate: show the byte.
    text = "".join(
        f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else one_line(char)
        for char in data
    )
    return f"{one_line(message.channel)}: {text}"


def _as_json(message: Message) -> str:
    shown = {"channel": message.channel}
    try:
        shown["data"] = message.data.decode()
    except UnicodeDecodeError:
        shown["data_base64"] = base64.b64encode(message.data).decode()
    return json.dumps(shown)
