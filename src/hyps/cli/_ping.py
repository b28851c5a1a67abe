"""``hyps ping``."""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import TYPE_CHECKING

import anyio
import click

from .. import Client, ConnectionLost, connect
from .._text import one_line
from ._certificates import tls_options
from ._common import backend_option, run, run_until_signal, token_option, url_option
from ._output import stdout

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


@click.command()
@click.option("--count", type=click.IntRange(min=1), help="End after this many PINGs.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.001),
    default=1.0,
    show_default=True,
    help="Seconds from one PING to the next.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Seconds after which a PING is lost.",
)
@url_option
@token_option()
@tls_options
@backend_option
def ping(
    count: int | None,
    interval: float,
    timeout: float,
    url: str,
    token: str | None,
    ssl_context: ssl.SSLContext | None,
    backend: str | None,
) -> None:
    """Ask a hub for signs of life, and print how long each answer takes, until interrupted.

    A connection that is lost is made again. The exit code is 1 if an answer did not come.
    """
    command = _Ping(count, interval, timeout)
    # The lines say what the log would.
    logging.getLogger("hyps.client").setLevel(logging.CRITICAL)
    connection = partial(
        connect, url, token=token, ssl_context=ssl_context, when_disconnected="raise"
    )
    number = run(partial(run_until_signal, partial(command.run, connection)), backend)
    stdout.finish(f"{command.summary}\n")
    if number == signal.SIGTERM:
        raise click.exceptions.Exit(128 + number)
    if command.lost or not command.took:
        raise click.exceptions.Exit(1)


class _Ping:
    def __init__(self, count: int | None, interval: float, timeout: float) -> None:
        self._count = count
        self._interval = interval
        self._timeout = timeout
        #: The seconds of each answer, in order.
        self.took: list[float] = []
        self.lost = 0

    @property
    def summary(self) -> str:
        took = self.took
        text = f"{len(took) + self.lost} sent, {len(took)} answered, {self.lost} lost"
        if took:
            values = (min(took), sum(took) / len(took), max(took))
            text += f"; min/avg/max {'/'.join(f'{1000 * each:.3f}' for each in values)} ms"
        return text

    async def run(self, connection: Callable[[], Client]) -> None:
        async with connection() as client:
            number = 0
            due = anyio.current_time()
            while True:
                number += 1
                await stdout.print(f"{number}: {await self._ping(client)}")
                if number == self._count:
                    return
                # At even distances, and never two at once to catch up.
                due = max(due + self._interval, anyio.current_time())
                await anyio.sleep_until(due)

    async def _ping(self, client: Client) -> str:
        """Wait for one answer.

        :return: what became of it
        """
        try:
            with anyio.fail_after(self._timeout):
                seconds = await client.ping()
        except TimeoutError:
            self.lost += 1
            return f"no answer in {self._timeout:g} s"
        except ConnectionLost as error:
            self.lost += 1
            return f"lost: {one_line(str(error))}"
        self.took.append(seconds)
        return f"{1000 * seconds:.3f} ms"
