"""``hyps pub``."""

from __future__ import annotations

import logging
import os
import stat
from functools import partial
from typing import TYPE_CHECKING

import click
from anyio import wait_readable
from anyio.lowlevel import checkpoint

from .. import Client, MessageTooLarge, connect
from ..protocol.limits import MAX_FRAME_CEILING
from ._certificates import tls_options
from ._common import (
    backend_option,
    check_channel,
    run_client,
    token_option,
    url_option,
)

if TYPE_CHECKING:
    import ssl

_STDIN = 0
_READ_SIZE = 65_536


@click.command()
@click.argument("channel", callback=check_channel)
@click.argument("message")
@url_option
@token_option()
@tls_options
@backend_option
def pub(
    channel: str,
    message: str,
    url: str,
    token: str | None,
    ssl_context: ssl.SSLContext | None,
    backend: str | None,
) -> None:
    """Publish MESSAGE in CHANNEL.

    With - as MESSAGE each line of standard input is a message. The command ends when the hub has
    ACKed everything.
    """
    command = _Pub(partial(connect, url, token=token, ssl_context=ssl_context), channel, message)
    # The command's error says what the log would, and it does not wait for a reconnection.
    logging.getLogger("hyps.client").setLevel(logging.CRITICAL)
    try:
        run_client(command.run, backend)
    except click.ClickException as error:
        if not command.published:
            raise
        raise click.ClickException(f"{error.message} ({command.summary} before)") from None
    click.echo(command.summary, err=True)


class _Pub:
    def __init__(self, connection: partial[Client], channel: str, message: str) -> None:
        # A user of this command wants an error if the hub is gone, and not a wait.
        self._connect = partial(connection, when_disconnected="raise")
        self._channel = channel
        self._message = message
        self.published = 0

    @property
    def summary(self) -> str:
        return f"published {self.published} message{'' if self.published == 1 else 's'}"

    async def run(self) -> None:
        async with self._connect() as client:
            if self._message == "-":
                await self._publish_lines(client)
            else:
                # The bytes that the shell passed, which need not be UTF-8.
                await client.publish(self._channel, os.fsencode(self._message))
                self.published = 1

    async def _publish_lines(self, client: Client) -> None:
        """Publish lines as they arrive, in one batch for each read."""
        start: list[bytes] = []  # of an incomplete line
        size = 0
        while data := await _read_input():
            *lines, rest = data.split(b"\n")
            if lines:
                lines[0] = b"".join([*start, lines[0]])
                start = []
                size = 0
                await self._publish_all(client, lines)
            start.append(rest)
            size += len(rest)
            if size > MAX_FRAME_CEILING:
                raise MessageTooLarge(f"a line of standard input is over {MAX_FRAME_CEILING} bytes")
        if size:
            await self._publish_all(client, [b"".join(start)])

    async def _publish_all(self, client: Client, lines: list[bytes]) -> None:
        await client.publish_many((self._channel, line.removesuffix(b"\r")) for line in lines)
        self.published += len(lines)


async def _read_input() -> bytes:
    """Read what standard input has now; empty at its end."""
    # A buffered reader would wait until its buffer is full, and a thread could not be cancelled.
    # Regular files are always readable, and event loops cannot wait for them.
    mode = os.fstat(_STDIN).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(_STDIN):
        await wait_readable(_STDIN)
    else:
        await checkpoint()
    return os.read(_STDIN, _READ_SIZE)
