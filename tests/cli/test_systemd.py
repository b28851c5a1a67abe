"""``hyps serve`` under systemd: what it tells, and the sockets that it takes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click
import pytest
from support.http import ask
from support.processes import (
    HYPS,
    PYTHON,
    TIMEOUT,
    Running,
    in_thread,
    running,
    serving,
    without_audit,
)

import hyps
from hyps.cli._systemd import Systemd, take_sockets
from hyps.protocol import ClientProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    class HasFileno(Protocol):
        def fileno(self) -> int: ...


pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is for Linux"),
]

BACKENDS = ("asyncio", "uvloop", "trio")


class Manager:
    """The end of systemd."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(TIMEOUT)
        self.environment = {"NOTIFY_SOCKET": address}

    def close(self) -> None:
        self._socket.close()

    def read(self) -> dict[str, str]:
        lines = self._socket.recv(65_536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture(params=["a file", "abstract"])
def manager(request: pytest.FixtureRequest, socket_folder: Path) -> Iterator[Manager]:
    address = f"{socket_folder}/notify"
    manager = Manager(address if request.param == "a file" else f"@{address}")
    yield manager
    manager.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hub_tells_when_it_is_ready_and_when_it_stops(manager: Manager, backend: str) -> None:
    with serving("--backend", backend, environment=manager.environment) as (url, hub):
        assert manager.read() == {"READY": "1", "STATUS": f"listening at {url}"}
        hub.process.send_signal(signal.SIGTERM)
        stopping = manager.read()
        assert stopping["STOPPING"] == "1"
        assert stopping["STATUS"]
        assert hub.end() == (0, "", "hyps: closed\n")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_event_loop_feeds_the_watchdog(manager: Manager, backend: str) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "20000"}
    with serving("--backend", backend, environment=environment):
        told = [manager.read() for _ in range(10)]
        assert told.count({"WATCHDOG": "1"}) == 9


def test_it_feeds_the_watchdog_while_its_clients_leave(manager: Manager) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "20000"}
    with serving("--limit", "close_timeout=1000", environment=environment) as (url, hub):
        host, port = url.removeprefix("hyps://").split(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as client:
            client.sendall(ClientProtocol().data_to_send())
            assert client.recv(65_536)
            hub.process.send_signal(signal.SIGTERM)
            while "STOPPING" not in manager.read():
                pass
            assert [manager.read() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3


@pytest.mark.parametrize(
    ("usec", "pid"), [("0", ""), ("x", ""), ("-5", ""), ("20000", "1"), ("", "")]
)
async def test_without_a_watchdog_it_tells_nothing(usec: str, pid: str, manager: Manager) -> None:
    systemd = Systemd()
    environment = {**manager.environment, "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    systemd.take(environment)
    assert environment == {}
    await systemd.watch()
    systemd.ready("a test")
    assert "READY" in manager.read()


def test_a_reload(manager: Manager) -> None:
    systemd = Systemd()
    systemd.take(manager.environment)
    systemd.reloading()
    told = manager.read()
    assert told["RELOADING"] == "1"
    assert int(told["MONOTONIC_USEC"]) > 0
    systemd.ready("two\nlines")
    assert manager.read() == {"READY": "1", "STATUS": "two lines"}


@pytest.mark.parametrize("address", ["/no/such/socket", "vsock:2:1234", "", "@", "/" + "x" * 200])
def test_systemd_that_does_not_listen_costs_nothing(address: str) -> None:
    with serving(environment={"NOTIFY_SOCKET": address}) as (_, hub):
        assert hub.end(signal.SIGTERM) == (0, "", "hyps: closed\n")


# Sockets

#: Does what systemd does: gives a command sockets from descriptor 3 on, and says whose they are.
ACTIVATE = """
import os, sys
passed = os.environ.pop("PASSED").split()
for number, each in enumerate(map(int, passed), 3):
    os.dup2(each, number)
    os.close(each)
os.environ["LISTEN_FDS"] = str(len(passed))
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def activated(
    *arguments: str, files: Sequence[HasFileno], names: str = "", **environment: str
) -> Iterator[Running]:
    """Run ``hyps serve`` as systemd does that listens for it."""
    # Far from the numbers that they get in the end.
    passed = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, 100) for each in files]
    environment["PASSED"] = " ".join(map(str, passed))
    environment["LISTEN_FDNAMES"] = names
    program = (*PYTHON, "-c", ACTIVATE, *HYPS)
    try:
        with running(
            "serve", *arguments, program=program, environment=environment, pass_fds=passed
        ) as hub:
            yield hub
    finally:
        for each in passed:
            os.close(each)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as raw:
        yield raw


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hub_listens_at_the_sockets_that_it_is_given(
    backend: str, tcp: socket.socket, socket_folder: Path
) -> None:
    path = socket_folder / "hub.sock"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        with activated("--backend", backend, files=[tcp, unix], names="hub:other") as hub:
            line = hub.read_line(hub.process.stdout)
            urls = line.partition(" listening at ")[2].strip().split(", ")
            port = tcp.getsockname()[1]
            assert urls == [f"hyps://127.0.0.1:{port}", f"hyps+unix://{path}"]
            for url in urls:
                with running("pub", "news", "hello", "--url", url) as pub:
                    assert pub.end()[0] == 0
            code, out, err = hub.end(signal.SIGTERM)
            assert (code, out, without_audit(err)) == (0, "", "hyps: closed\n")
    # It is systemd's.
    assert path.exists()


async def test_a_socket_for_http(tcp: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as http:
        url = f"http://127.0.0.1:{http.getsockname()[1]}"
        with activated(files=[tcp, http], names="hub:http") as hub:
            hub.read_url()
            assert (await ask(url, "GET", "/readyz")).status == 200
            code, _, _ = await in_thread(hub.end, signal.SIGTERM)
            assert code == 0
        with activated("--http", ":0", files=[tcp, http], names="hub:http") as hub:
            code, _, err = await in_thread(hub.end)
        assert code == 2
        assert "--http is another" in err


async def test_clients_wait_while_the_hub_is_started_again(tcp: socket.socket) -> None:
    url = f"hyps://127.0.0.1:{tcp.getsockname()[1]}"
    for number in range(2):
        with activated(files=[tcp]) as hub:
            async with hyps.connect(url, name=f"client-{number}") as client:
                await client.publish("news", b"")
            await in_thread(hub.end, signal.SIGTERM)


def test_sockets_for_another_process_are_left_alone(tcp: socket.socket) -> None:
    with activated("--port", "0", files=[tcp], LISTEN_PID="1") as hub:
        assert hub.read_url() != f"hyps://127.0.0.1:{tcp.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (("--port", "0"), {}, "--port: systemd passes"),
        (("--uds", "/tmp/a.sock"), {}, "--uds: systemd passes"),
        ((), {"HYPS_HOST": "0.0.0.0"}, "--host: systemd passes"),
    ],
)
def test_sockets_and_another_address(
    arguments: tuple[str, ...], environment: dict[str, str], words: str, tcp: socket.socket
) -> None:
    with activated(*arguments, files=[tcp], **environment) as hub:
        code, out, err = hub.end()
    assert (code, out) == (2, "")
    assert words in err


def test_what_is_no_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, activated(files=[file]) as hub:
        code, out, err = hub.end()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "descriptor 3 is no socket" in err


def test_a_socket_that_does_not_listen() -> None:
    with socket.socket() as raw, activated(files=[raw]) as hub:
        code, out, err = hub.end()
    assert (code, out) == (2, "")
    assert "does not listen" in err


def test_the_environment_is_not_passed_on() -> None:
    environment = {
        "LISTEN_PID": "1",
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "a:b:c",
        "LISTEN_PIDFDID": "7",
        "LISTENER": "of something else",
    }
    passed = take_sockets(environment)
    assert not passed.hub
    assert not passed.http
    assert environment == {"LISTENER": "of something else"}


@pytest.mark.parametrize("count", ["", "x", "-1", "\u0663"])
def test_a_number_that_is_none(count: str) -> None:
    with pytest.raises(click.ClickException, match="LISTEN_FDS is no number"):
        take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})
