"""Web applications on real servers: a hub, a server of the application, and its users."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
APPS: Final = ROOT / "tests" / "web"

#: Seconds after which something has hung.
TIMEOUT: Final = 30

#: The commands of the servers: of the application's module and folder, and the port.
SERVERS: Final = {
    "uvicorn": "uvicorn --app-dir {folder} {module}:app --port {port}",
    "uvicorn-workers": "uvicorn --app-dir {folder} {module}:app --port {port} --workers 2",
    "uvicorn-reload": "uvicorn --app-dir {folder} {module}:app --port {port} --reload",
    "gunicorn-uvicorn": (
        "gunicorn --chdir {folder} {module}:app -b 127.0.0.1:{port} -w 2 "
        "-k uvicorn.workers.UvicornWorker"
    ),
    "gunicorn-preload": (
        "gunicorn --chdir {folder} {module}:app -b 127.0.0.1:{port} -w 3 --preload --max-requests 5"
    ),
    "hypercorn": "hypercorn -b 127.0.0.1:{port} {folder}/{module}.py:app",
    "hypercorn-trio": "hypercorn -k trio -b 127.0.0.1:{port} {folder}/{module}.py:app",
    "granian": (
        "granian --interface asgi --working-dir {folder} {module}:app --port {port} --loop asyncio"
    ),
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Program:
    """A process, and what it writes.

    :param command: the arguments; the first one is a script of this environment
    :param environment: further variables
    """

    def __init__(self, *command: str, **environment: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is closed in close()
        self.command = command
        # One process group, as workers outlive a server that is killed.
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        """Everything that it has written so far."""
        self._log.seek(0)
        return self._log.read()

    def assert_clean(self) -> None:
        """Raise if it has written a traceback, or of an error."""
        for words in ("Traceback", "ERROR"):
            before, found, after = self.log.partition(words)
            assert not found, f"{before[-500:]}{found}{after[:4_000]}"

    def wait_for_log(self, words: str) -> str:
        """Wait until it has written something."""
        deadline = time.monotonic() + TIMEOUT
        while words not in (log := self.log):
            assert time.monotonic() < deadline, f"{self.command} did not write {words!r}:\n{log}"
            assert self.process.poll() is None, f"{self.command} has ended:\n{log}"
            time.sleep(0.02)
        return log

    def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = TIMEOUT) -> float:
        """Send a signal, and wait for the end; return the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} does not end:\n{self.log}") from None
        return time.monotonic() - began

    def close(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._log.close()


class Hub(Program):
    """A hub in a process, which tells its counters and can be killed."""

    def __init__(self, port: int) -> None:
        super().__init__("python", str(APPS / "hub.py"), str(port))
        self.url = f"hyps://127.0.0.1:{port}"
        self._told = 0
        self.wait_for_log("listening")

    def stats(self) -> dict[str, Any]:
        """Ask for the hub's counters."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"stats\n")
        self.process.stdin.flush()
        self._told += 1
        deadline = time.monotonic() + TIMEOUT
        while len(lines := [line for line in self.log.splitlines() if line[0] == "{"]) < self._told:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stats: dict[str, Any] = json.loads(lines[-1])
        return stats


@contextmanager
def running_hub(port: int = 0) -> Iterator[Hub]:
    hub = Hub(port or free_port())
    try:
        yield hub
    finally:
        hub.close()


class Site(Program):
    """An application on a server.

    :param server: one of :data:`SERVERS`
    :param folder: of the application
    :param hub: URL of its hub
    :param module: of the application
    :param port: to listen on; 0 for any free one
    :param environment: further variables
    """

    def __init__(
        self,
        server: str,
        folder: Path,
        hub: str,
        module: str = "app",
        port: int = 0,
        **environment: str,
    ) -> None:
        self.port = port or free_port()
        command = SERVERS[server].format(folder=folder, module=module, port=self.port)
        super().__init__(*command.split(), HYPS_URL=hub, **environment)
        self.url = f"http://127.0.0.1:{self.port}"
        self.websocket_url = f"ws://127.0.0.1:{self.port}"

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                httpx.get(self.url, timeout=5)
            except httpx.TransportError:
                assert time.monotonic() < deadline, f"{self.command} does not answer:\n{self.log}"
                assert self.process.poll() is None, f"{self.command} has ended:\n{self.log}"
                time.sleep(0.05)
            else:
                return


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other processes do, of which no event can tell."""
    with anyio.fail_after(TIMEOUT):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


@contextmanager
def running_site(*arguments: Any, **options: Any) -> Iterator[Site]:
    """Run an application; the arguments are those of :class:`Site`."""
    site = Site(*arguments, **options)
    try:
        site.wait_until_it_answers()
        yield site
    finally:
        site.close()
