"""``hyps demo``."""

from __future__ import annotations

import time
from functools import partial

import anyio
import click

from .. import Client, Server, connect
from ._common import backend_option, run_client
from ._output import stdout

_USERS = {
    "ann": ("news", "sport"),
    "ben": ("news",),
    "eve": ("news", "weather"),
}
_PUBLISHED = (
    ("editor", "news", "a hub, two clients, three users"),
    ("editor", "sport", "one connection for all users of a process"),
    ("station", "weather", "sunny, with a chance of messages"),
    ("editor", "news", "each message once on the wire, however many users read it"),
)
_BURST = 50_000


@click.command()
@backend_option
def demo(backend: str | None) -> None:
    """Run a hub, users and publishers in this process, and show what they do."""
    run_client(_demo, backend)


async def _demo() -> None:
    async with Server(port=0) as server:
        (url,) = server.urls
        await stdout.print(f"hub       listens at {url}")
        async with connect(url) as web, connect(url) as backoffice:
            await _show_users(web, backoffice)
            await _show_burst(web, backoffice)
        stats = server.broker.stats()
        await stdout.print(
            f"hub       took {stats.published:,} messages, queued {stats.delivered:,} for its"
            f" sessions, missed {stats.missed:,}"
        )


async def _show_users(web: Client, backoffice: Client) -> None:
    """Several users share one connection and read what another connection publishes."""
    async with anyio.create_task_group() as users:
        for name, channels in _USERS.items():
            await users.start(partial(_user, web, name, channels))
        for publisher, channel, text in _PUBLISHED:
            await backoffice.publish(channel, text)
            await stdout.print(f"{publisher:<9} published in {channel:<9} {text!r}: ACKed")


async def _user(
    web: Client,
    name: str,
    channels: tuple[str, ...],
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    expected = sum(channel in channels for _, channel, _ in _PUBLISHED)
    async with web.subscribe(*channels) as subscription:
        await stdout.print(f"{name:<9} subscribed {', '.join(channels)}")
        task_status.started()
        for _ in range(expected):
            message = await subscription.receive()
            await stdout.print(
                f"{name:<9} got from     {message.channel:<9} {message.data.decode()!r}"
            )


async def _show_burst(web: Client, backoffice: Client) -> None:
    """One publisher publishes as fast as it can and awaits the ACKs; one user counts."""
    async with web.subscribe("burst", max_messages=_BURST) as subscription:
        start = time.perf_counter()
        async with anyio.create_task_group() as publisher:
            publisher.start_soon(
                backoffice.publish_many, (("burst", b"%016d" % i) for i in range(_BURST))
            )
            received = 0
            while received + subscription.missed < _BURST:
                received += len(await subscription.receive_many())
        rate = _BURST / (time.perf_counter() - start)
        await stdout.print(
            f"burst     {received:,} of {_BURST:,} messages arrived, {subscription.missed} missed,"
            f" {rate:,.0f} a second"
        )
