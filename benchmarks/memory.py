"""What sessions, channels, queues and messages cost a hub: for sizing. See docs/guides/tuning.md.

Each row has a hub of its own, ``hyps serve`` in a process that has done nothing before, because
memory that was freed once is not seen when it is taken again. On Linux only.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import socket
import ssl
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

import hyps
from hyps.protocol import NEED_DATA, ClientProtocol, Welcome

from .processes import CAN_LOOK, CORES, Missing, cpu_seconds, resident_bytes, running
from .report import package, processor, progress, table

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds after which what was left to do in the background is done.
_SETTLING: Final = 0.5

#: Operations under way at once, so that what is kept for their answers is no part of a row.
_BATCH: Final = 1_000

#: What the kernel takes of a session that reads nothing before the hub queues: Linux' largest
#: buffer for sending, unless net.ipv4.tcp_wmem says otherwise.
_KERNEL: Final = 4 * 2**20

_PUBLISHERS: Final = 8


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    sessions: int = 1_000
    channels: int = 100_000
    queue: int = 8 * 2**20


@dataclass(frozen=True)
class Row:
    """What one thing costs.

    :param bytes: memory of the hub's process for each; not a number where nothing stays
    :param seconds: of the hub's processor time for each
    :param ratio: that, by what the first of its kind needs; 0 where it says nothing
    :param is_part: whether it is no number of bytes, but by how many are counted
    """

    what: str
    bytes: float
    seconds: float = 0.0
    ratio: float = 0.0
    is_part: bool = False

    def cells(self) -> tuple[str, str, str, str]:
        """Give what a table has of it."""
        memory = ""
        if not math.isnan(self.bytes):
            memory = f"{self.bytes:.2f}x" if self.is_part else f"{self.bytes:,.0f} B"
        return self.what, "", memory, f"{self.ratio:.1f}x" if self.ratio else ""


def _compare(rows: list[Row]) -> list[Row]:
    """Give each row its ratio to the first one's time."""
    return [replace(row, ratio=row.seconds / rows[0].seconds) for row in rows]


class _Hub:
    """A hub in a process of its own, and what it has used since the last :meth:`note`."""

    def __init__(self, pid: int, url: str, context: ssl.SSLContext | None) -> None:
        self.pid = pid
        self.url = url
        self._context = context
        self._bytes = 0
        self._seconds = 0.0

    def client(self, scheme: str = "") -> hyps.Client:
        url = self.url.replace("hyps:", f"{scheme}:") if scheme else self.url
        return hyps.connect(url, ssl_context=self._context)

    async def note(self) -> None:
        await anyio.sleep(_SETTLING)
        self._bytes = resident_bytes(self.pid)
        self._seconds = cpu_seconds(self.pid)

    async def row(self, what: str, count: float) -> Row:
        # Before the pause, in which there may be heartbeats.
        seconds = cpu_seconds(self.pid) - self._seconds
        await anyio.sleep(_SETTLING)
        grown = resident_bytes(self.pid) - self._bytes
        return Row(what, grown / count, seconds / count)


@contextmanager
def _hub(*options: str, context: ssl.SSLContext | None = None) -> Iterator[_Hub]:
    command = [sys.executable, "-m", "hyps", "serve", "--port", "0", *options]
    with running(command) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if "listening at" not in line:
            raise Missing("the hub did not start")
        yield _Hub(process.pid, line.split()[-1], context)


@contextmanager
def _tls_hub() -> Iterator[_Hub]:
    # For this alone, and in the groups of tests and benchmarks only.
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder, "cert"), Path(folder, "key")
        certificate.private_key_pem.write_to_path(str(key))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(cert), append=True)
        with _hub("--cert", str(cert), "--key", str(key), context=context) as hub:
            yield hub


async def _sessions(hub: _Hub, scale: Scale, what: str, scheme: str = "") -> Row:
    async with AsyncExitStack() as stack:
        # What the first ones cost is not what each costs.
        for _ in range(10):
            await stack.enter_async_context(hub.client(scheme))
        await hub.note()
        for _ in range(scale.sessions):
            await stack.enter_async_context(hub.client(scheme))
        return await hub.row(what, scale.sessions)


async def measure_sessions(scale: Scale) -> list[Row]:
    """Let sessions be there and do nothing."""
    rows = []
    with _hub() as hub:
        rows.append(await _sessions(hub, scale, "an idle session; CPU to open it"))
    with _tls_hub() as hub:
        rows.append(await _sessions(hub, scale, "the same over TLS"))
    with _hub() as hub:
        rows.append(await _sessions(hub, scale, "the same over HTTP/2", "http"))
    return _compare(rows)


def _names(count: int) -> list[list[str]]:
    names = [f"channel-{number:07}" for number in range(count)]
    return [names[start : start + _BATCH] for start in range(0, count, _BATCH)]


async def measure_channels(scale: Scale) -> list[Row]:
    """Hold many channels, in one session and then in two."""
    with _hub() as hub:
        async with AsyncExitStack() as stack:
            rows = []
            for what in ("a channel", "the same channel in a second session"):
                client = await stack.enter_async_context(hub.client())
                subscription = await stack.enter_async_context(client.subscribe("first"))
                await hub.note()
                for names in _names(scale.channels):
                    await subscription.subscribe(*names)
                rows.append(await hub.row(what, scale.channels))
            return rows


async def measure_kept(scale: Scale) -> list[Row]:
    """Leave channels, which the hub goes on counting."""
    with _hub("--limit", "keep_time=3600") as hub:
        async with hub.client() as client, client.subscribe("first") as subscription:
            await hub.note()
            for names in _names(scale.channels):
                await subscription.subscribe(*names)
                await subscription.unsubscribe(*names)
            return [await hub.row("a channel that is kept", scale.channels)]


def _stall(url: str, channel: str) -> socket.socket:
    """Open a session that subscribes a channel, and never reads what comes."""
    host, _, port = url.removeprefix("hyps://").rpartition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect((host, int(port)))
    client = ClientProtocol()
    sock.sendall(client.data_to_send())
    while not isinstance(event := client.next_event(), Welcome):
        if event is NEED_DATA:
            client.receive_data(sock.recv(65_536))
    client.subscribe([channel])
    sock.sendall(client.data_to_send())
    while client.next_event() is NEED_DATA:
        client.receive_data(sock.recv(65_536))
    return sock


async def _publish(hub: _Hub, data: bytes, scale: Scale, window: int) -> None:
    """Publish more than fits into a queue, and into what the kernel takes besides."""
    needed = _KERNEL + scale.queue * 3 // 2
    calls = needed // (len(data) * window) // _PUBLISHERS + 1

    async def publish() -> None:
        async with hub.client() as client:
            for _ in range(calls):
                await client.publish_many([("news", data)] * window)

    async with anyio.create_task_group() as tasks:
        for _ in range(_PUBLISHERS):
            tasks.start_soon(publish)


async def _queue(what: str, scale: Scale, length: int, window: int, sessions: int = 1) -> Row:
    with _hub("--limit", f"max_buffer={scale.queue}") as hub, ExitStack() as stack:
        # Publishing was done once, and is no part of it.
        await _publish(hub, bytes(1_024), replace(scale, queue=0), 100)
        for _ in range(sessions):
            stack.enter_context(_stall(hub.url, "news"))
        await hub.note()
        await _publish(hub, bytes(length), scale, window)
        row = await hub.row(f"a full queue, by its bound: {what}", scale.queue)
        return replace(row, is_part=True)


async def measure_queues(scale: Scale) -> list[Row]:
    """Let one session read nothing, until its queue is full; then ten that wait for the same."""
    large = "messages of 1,024 B"
    return [
        await _queue(f"{large}, in windows of 100", scale, 1_024, 100),
        await _queue(f"{large}, one at a time", scale, 1_024, 1),
        await _queue("messages of 16 B, in windows of 1,000", scale, 16, 1_000),
        await _queue("messages of 128 B, one at a time", scale, 128, 1),
        await _queue(f"ten sessions that wait for the same {large}", scale, 1_024, 100, 10),
    ]


async def _deliver(hub: _Hub, scale: Scale, what: str, window: int) -> Row:
    """Deliver messages to a session that reads."""
    count = scale.channels // window
    messages = [("news", bytes(1_024))] * window
    async with hub.client() as client, client.subscribe("news") as subscription:
        await hub.note()
        for _ in range(count):
            await client.publish_many(messages)
            left = window
            while left:
                left -= len(await subscription.receive_many())
        return replace(await hub.row(what, count * window), bytes=math.nan)


async def measure_deliveries(scale: Scale) -> list[Row]:
    """Compare what the hub does for a message, in windows and not, and with TLS and not."""
    rows = []
    with _hub() as hub:
        rows.append(await _deliver(hub, scale, "CPU for a message of 1,024 B, in windows", 100))
    with _tls_hub() as hub:
        rows.append(await _deliver(hub, scale, "the same over TLS", 100))
    few = replace(scale, channels=scale.channels // 20)
    with _hub() as hub:
        rows.append(await _deliver(hub, few, "one at a time", 1))
    with _tls_hub() as hub:
        rows.append(await _deliver(hub, few, "one at a time, over TLS", 1))
    return _compare(rows)


MEASUREMENTS: Final = (
    measure_sessions,
    measure_channels,
    measure_kept,
    measure_queues,
    measure_deliveries,
)


async def run(scale: Scale) -> list[Row]:
    """Make all measurements."""
    rows = []
    for measurement in MEASUREMENTS:
        for row in await measurement(scale):
            progress(" ".join(row.cells()))
            rows.append(row)
    return rows


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, for a first look")
    arguments = parser.parse_args()
    if not CAN_LOOK:
        parser.error("memory and CPU of other processes are known on Linux only")
    if missing := [name for name in ("trustme", "h2") if find_spec(name) is None]:
        parser.exit(1, f"missing {' and '.join(missing)}: pip install '.[uvloop,http2]' trustme\n")
    scale = Scale(sessions=50, channels=5_000, queue=2**20) if arguments.quick else Scale()
    CORES.take(CORES.client)
    loop = "uvloop" if find_spec("uvloop") else "asyncio"
    print(f"{platform.python_implementation()} {platform.python_version()}, {loop}, ", end="")
    print(f"{package('anyio')}, {processor()}, pages of {os.sysconf('SC_PAGE_SIZE'):,} B\n")
    rows = anyio.run(run, scale)
    print(table(("", " ", "memory", "CPU"), [row.cells() for row in rows]))


if __name__ == "__main__":
    main()
