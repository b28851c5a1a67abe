"""Engines that tests start: Redis on loopback, each in a folder of its own."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from support.processes import Running, running
from support.programs import needs_program

from hyps._fleet.addresses import EngineURL, parse_engine
from hyps._fleet.login import say_hello
from hyps._fleet.talk import talk_to

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence
    from pathlib import Path

needs_redis: Final = needs_program("redis-server")

#: Nothing is stored, and no file of the machine is read.
_OPTIONS: Final = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1")

#: What a server says when it can be used.
_READY: Final = ("Ready to accept connections", "Sentinel ID is")


def free_port() -> int:
    """Return a port of loopback that nobody has.

    It is below those that systems give to whoever connects, so that nobody gets it meanwhile.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as raw, suppress(OSError):
            raw.bind(("127.0.0.1", port))
            return port


class Redis:
    """A running Redis, or Sentinel."""

    def __init__(self, process: Running, port: int, unix: Path) -> None:
        self.process = process
        self.port = port
        self.unix = unix

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.host}"

    def url_at(self, transport: str, login: str = "") -> EngineURL:
        """Return the URL at a transport: tcp, unix, or tls if that is what its port speaks."""
        scheme = {"tcp": "redis", "tls": "rediss", "unix": "redis+unix"}[transport]
        return parse_engine(f"{scheme}://{login}{self.unix if transport == 'unix' else self.host}")

    async def call(self, *command: str | bytes, login: tuple[str, str] | None = None) -> Any:
        """Ask it something, over a connection that ends with the answer."""
        encoded = [each.encode() if isinstance(each, str) else each for each in command]
        async with talk_to(parse_engine(self.url).hosts[0]) as talk:
            await say_hello(talk, login, "test")
            [reply] = await talk.ask(encoded)
            return reply

    def kill(self) -> None:
        """Kill it as kill -9 does, and wait until it is gone."""
        self.process.process.kill()
        self.process.process.wait()

    def stop(self) -> None:
        """Let it do nothing, until :meth:`go_on`; connections are still accepted."""
        self.process.stop()

    def go_on(self) -> None:
        self.process.go_on()


@contextmanager
def redis(
    folder: Path, *options: str, port: int | None = None, tls: bool = False
) -> Iterator[Redis]:
    """Run a Redis.

    :param folder: for its socket and its files; a short path
    :param options: of the command line, as in ``"--requirepass", "secret"``
    :param port: where it listens; None for a free one
    :param tls: whether it speaks TLS at its port; the options say with which certificate
    """
    for _ in range(5):
        chosen = port or free_port()
        unix = folder / f"{chosen}.sock"
        ports = ["--port", "0", "--tls-port"] if tls else ["--port"]
        arguments = [
            *_OPTIONS,
            *ports,
            str(chosen),
            "--unixsocket",
            str(unix),
            "--dir",
            str(folder),
        ]
        with running(*arguments, *options, program=("redis-server",)) as process:
            if _is_ready(process):
                yield Redis(process, chosen, unix)
                return
    raise AssertionError("redis-server does not start")


@contextmanager
def sentinel(folder: Path, name: str, master: Redis, *, quorum: int = 1) -> Iterator[Redis]:
    """Run a Sentinel, which takes a master for down after half a second."""
    port = free_port()
    path = folder / f"sentinel-{port}.conf"
    path.write_text(
        f"sentinel monitor {name} 127.0.0.1 {master.port} {quorum}\n"
        f"sentinel down-after-milliseconds {name} 500\n"
        f"sentinel failover-timeout {name} 5000\n"
    )
    arguments = ["--sentinel", "--bind", "127.0.0.1", "--port", str(port)]
    with running(str(path), *arguments, program=("redis-server",)) as process:
        assert _is_ready(process)
        yield Redis(process, port, folder)


def _is_ready(process: Running) -> bool:
    while line := process.read_line(process.process.stdout):
        if any(each in line for each in _READY):
            return True
    return False


#: Slots of a Cluster of three, the first and the last one of each node.
SLOTS: Final = ((0, 5460), (5461, 10_922), (10_923, 16_383))


@contextmanager
def cluster(folder: Path) -> Iterator[Sequence[Redis]]:
    """Run a Cluster of three masters; each knows the others soon, see :func:`join`."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            inner = folder / str(number)
            inner.mkdir()
            bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            quick = ("--cluster-node-timeout", "1000")
            nodes.append(stack.enter_context(redis(inner, *bus, *quick)))
        yield nodes


async def join(nodes: Sequence[Redis]) -> None:
    """Let nodes form a Cluster, and return when each has all slots."""
    for node, (first, last) in zip(nodes, SLOTS, strict=True):
        assert await node.call("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"OK"
    for other in nodes[1:]:
        bus = (await other.call("CONFIG", "GET", "cluster-port"))[b"cluster-port"]
        reply = await nodes[0].call("CLUSTER", "MEET", "127.0.0.1", str(other.port), bus)
        assert reply == b"OK"
    for node in nodes:
        while b"cluster_state:ok" not in await node.call("CLUSTER", "INFO"):
            pass


def tls_options(folder: Path, authority: Any, context: ssl.SSLContext) -> Sequence[str]:
    """Make a certificate for loopback, which a context trusts, and options that use it."""
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.configure_trust(context)
    file = str(folder / "server.pem")
    return (
        *("--tls-cert-file", file, "--tls-key-file", file),
        *("--tls-ca-cert-file", str(folder / "ca.pem"), "--tls-auth-clients", "no"),
    )
