"""``hyps bench``: its options and its end. ``_bench_run`` runs it, ``_bench_report`` reports."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from ..protocol.limits import MAX_FRAME_CEILING
from ._bench_report import Progress, as_text, summarize
from ._bench_run import Bench, Plan
from ._certificates import tls_options
from ._common import (
    backend_option,
    check_channel,
    run,
    run_until_signal,
    token_option,
    url_option,
)

if TYPE_CHECKING:
    import ssl

_UNITS: Final = {"": 1, "k": 1024, "m": 1024 * 1024}


def _parse_sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Read a number of bytes, or two with a dash between them."""
    found = [re.fullmatch(r"(\d+)([km]?)(?:i?b)?", part) for part in value.lower().split("-")]
    sizes = [int(each[1]) * _UNITS[each[2]] for each in found if each]
    if len(sizes) != len(found) or len(sizes) > 2 or sizes != sorted(sizes):
        raise click.BadParameter(f"{value!r} is no size like 128, 1k, 2M or 64-1k")
    if sizes[-1] > MAX_FRAME_CEILING:
        raise click.BadParameter(f"{value!r} is over {MAX_FRAME_CEILING} bytes")
    return sizes[0], sizes[-1]


@click.command()
@click.argument("channel", default="bench", callback=check_channel)
@click.option(
    "--pub",
    "publishers",
    type=click.IntRange(min=0),
    help="Publishers. [default: 0, but 1 if there is no --sub either]",
)
@click.option(
    "--sub",
    "subscribers",
    type=click.IntRange(min=0),
    help="Subscribers. [default: 0, but 1 if there is no --pub either]",
)
@click.option(
    "--msgs",
    "messages",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Messages that the publishers share; each subscriber expects all of them.",
)
@click.option(
    "--size",
    "sizes",
    callback=_parse_sizes,
    metavar="BYTES",
    default="128",
    show_default=True,
    help="Of a message: 128, 1k, 2M; or from-to, 64-1k, at random.",
)
@click.option(
    "--batch",
    "--window",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Messages that a publisher sends before it waits for their ACKs.",
)
@click.option(
    "--channels",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Channels, CHANNEL.0 and so on if there are several. Each publisher sends to all in turn,"
    " and each subscriber reads all.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    help="Connections that the publishers share, and as many that the subscribers share."
    " [default: one for each]",
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="When nothing has come for so long, what is still expected counts as lost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one object.")
@click.option(
    "--progress/--no-progress",
    default=True,
    help="Show on standard error how far it is, if that is a terminal. [default: progress]",
)
@url_option
@token_option()
@tls_options
@backend_option
def bench(
    channel: str,
    publishers: int | None,
    subscribers: int | None,
    messages: int,
    sizes: tuple[int, int],
    batch: int,
    channels: int,
    connections: int | None,
    idle: float,
    as_json: bool,
    progress: bool,
    url: str,
    token: str | None,
    ssl_context: ssl.SSLContext | None,
    backend: str | None,
) -> None:
    """Measure how fast a hub takes and delivers messages in CHANNEL, by default "bench".

    Publishers always wait for the ACKs, and what was lost is shown beside what was delivered.

    \b
    One publisher and one subscriber:
      hyps bench
    Two publishers, four subscribers, messages of a KiB:
      hyps bench --pub 2 --sub 4 --size 1k --msgs 200000
    A thousand subscribers, as users of a web application, over one connection:
      hyps bench --pub 1 --sub 1000 --connections 1 --msgs 10000
    One message at a time, which shows the latency rather than the rate:
      hyps bench --batch 1 --msgs 10000
    In two processes or on two machines, the subscriber first:
      hyps bench --sub 1
      hyps bench --pub 1

    Publishers and subscribers of one command run on one core. It tells the latency of deliveries
    if it has both, and messages of 12 bytes or more.

    The exit code is 1 if messages were lost or the hub went away.
    """
    if publishers is None and subscribers is None:
        publishers = subscribers = 1
    plan = Plan(
        url=url,
        token=token,
        ssl_context=ssl_context,
        channels=(channel,) if channels == 1 else tuple(f"{channel}.{n}" for n in range(channels)),
        publishers=publishers or 0,
        subscribers=subscribers or 0,
        messages=messages,
        sizes=sizes,
        batch=batch,
        connections=connections,
        idle=idle,
    )
    if not plan.publishers and not plan.subscribers:
        raise click.UsageError("there is nothing to do without --pub and --sub")
    if plan.publishers > messages:
        raise click.UsageError("--msgs must be at least --pub")
    # The report counts losses, so the log need not.
    logging.getLogger("hyps").addHandler(logging.NullHandler())
    _run(Bench(plan, Progress(plan, progress and sys.stderr.isatty())), as_json, backend)


def _run(command: Bench, as_json: bool, backend: str | None) -> None:
    number: int | None = None
    error: click.ClickException | None = None
    try:
        number = run(partial(run_until_signal, command.run), backend)
    except click.ClickException as caught:
        error = caught
    if command.has_begun:
        ended_by = None if number is None else signal.Signals(number).name
        summary = summarize(command, ended_by, None if error is None else error.message)
        click.echo(json.dumps(summary) if as_json else as_text(summary))
    if error is not None:
        raise error
    if number is not None:
        raise click.exceptions.Exit(128 + number)
    if command.lost:
        raise click.ClickException(f"messages lost: {command.lost:,}")
