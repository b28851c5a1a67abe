"""``hyps top`` as its users see it: on a terminal, into a pipe, and with a hub that is away."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
from support.pages import free_port
from support.processes import HYPS, PYTHON, TIMEOUT, running, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKENDS = ("asyncio", "uvloop", "trio")
LEAVES = b"\x1b[?25h\x1b[?1049l"


class Port:
    """An HTTP port that says what a test wants.

    :param port: where it listens; 0 is any
    """

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.body = answer("worker-3")
        self.token: str | None = None
        self.sorts: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                outer.sorts += parse_qs(parts.query)["sort"]
                outer.token = self.headers["Authorization"]
                assert parts.path == "/connz"
                # The test may change it meanwhile.
                body = outer.body
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def answer(*names: str) -> bytes:
    sessions = [{"session": "7", "name": name, "address": "127.0.0.1:1"} for name in names]
    return json.dumps(
        {"hub": {"version": "1", "sessions": len(names)}, "sessions": sessions}
    ).encode()


class Screen:
    """A command on a terminal."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (24, 80)) -> None:
        self.terminal, self._its_end = pty.openpty()
        termios.tcsetwinsize(self._its_end, size)
        self.mode = termios.tcgetattr(self._its_end)
        self.process = subprocess.Popen(
            [*HYPS, "top", "--interval", "0.1", *arguments],
            stdin=self._its_end,
            stdout=self._its_end,
            stderr=self._its_end,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        self.seen = b""

    @property
    def picture(self) -> list[str]:
        """The lines of the last picture."""
        last = self.seen.rpartition(b"\x1b[H")[2].decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).replace("\r", "").split("\n")

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def wait(self, condition: Callable[[], object]) -> None:
        """Read what is drawn until a condition holds."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, self.picture
            if select.select([self.terminal], [], [], 0.05)[0]:
                self.seen += os.read(self.terminal, 65_536)

    def wait_for(self, text: str) -> None:
        self.wait(lambda: any(text in line for line in self.picture))

    def end(self) -> int:
        """Wait until the command has ended, and the terminal is as it was before."""
        code = self.process.wait(TIMEOUT)
        self.wait(lambda: LEAVES in self.seen)
        assert termios.tcgetattr(self._its_end) == self.mode
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
        os.close(self._its_end)


@contextmanager
def screen(*arguments: str, **options: Any) -> Iterator[Screen]:
    found = Screen(*arguments, **options)
    try:
        yield found
    finally:
        found.close()


def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*HYPS, "top", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "COLUMNS": "", **variables},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_terminal(backend: str) -> None:
    with Port() as port, screen("--http", port.url, "--backend", backend) as top:
        top.wait_for("worker-3")
        assert len(top.picture) == 24
        assert all(len(line) <= 80 for line in top.picture)
        assert "q quit" in top.picture[-1]
        assert port.sorts[0] == "rate"
        top.press("m")
        top.wait(lambda: port.sorts[-1] == "missed")
        port.body = answer("web\x1b[2J", "billing")
        top.wait_for(r"web\x1b[2J")
        top.press("xq")
        assert top.end() == 0


def test_a_terminal_of_another_size() -> None:
    with Port() as port, screen("--http", port.url) as top:
        top.wait_for("worker-3")
        assert "127.0.0.1:1" not in "".join(top.picture)
        termios.tcsetwinsize(top.terminal, (40, 200))
        top.wait(lambda: len(top.picture) == 40 and "127.0.0.1:1" in "".join(top.picture))
        termios.tcsetwinsize(top.terminal, (3, 20))
        top.wait(lambda: len(top.picture) == 3 and all(len(line) <= 20 for line in top.picture))
        top.press("q")
        assert top.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_signals_leave_the_terminal_as_it_was(number: signal.Signals, times: int) -> None:
    with Port() as port, screen("--http", port.url) as top:
        top.wait_for("worker-3")
        for _ in range(times):
            top.process.send_signal(number)
        assert top.end() == 128 + number


def test_ctrl_c_is_a_signal_still() -> None:
    with Port() as port, screen("--http", port.url) as top:
        top.process.send_signal(signal.SIGCONT)
        top.wait_for("worker-3")
        assert termios.tcgetattr(top.terminal)[3] & termios.ISIG
        top.press("q")
        top.end()


def test_a_hub_that_goes_and_comes_back() -> None:
    place = free_port()
    with screen("--http", f"http://127.0.0.1:{place}") as top:
        top.wait_for("connection refused; trying on")
        with Port(place):
            top.wait_for("worker-3")
            assert "trying on" not in "".join(top.picture)
        top.wait_for("trying on")
        # The last numbers stay.
        top.wait_for("worker-3")
        with Port(place) as port:
            top.wait(lambda: "trying on" not in "".join(top.picture))
            port.body = b"half an ans"
            top.wait_for("is not the HTTP port of a hub")
            port.body = b'{"error": "the hub is \\u001b busy"}'
            port.status = 503
            top.wait_for(r"the hub is \x1b busy; trying on")
        top.press("q")
        assert top.end() == 0


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token(status: int, is_live: bool) -> None:
    with Port() as port:
        port.status, port.body = status, b'{"error": "this token may not look"}'
        if is_live:
            with screen("--http", port.url, "--token", "wrong") as top:
                assert top.end() == 1
                top.wait(lambda: b"\n" in top.seen.rpartition(LEAVES)[2])
                rest = top.seen.rpartition(LEAVES)[2].decode()
        else:
            code, out, rest = run("--http", port.url, HYPS_TOKEN="wrong")
            assert (code, out) == (1, "")
        assert port.token == "Bearer wrong"
    assert rest.strip() == f"Error: {port.url} refused: this token may not look"


def test_into_a_pipe() -> None:
    with Port() as port:
        port.body = answer("worker-3", "web")
        outcome = run("--sort", "age", HYPS_HTTP_URL=port.url)
        assert outcome[::2] == (0, "")
        assert port.sorts == ["age"]
        narrow = run("--http", port.url, COLUMNS="40")[1]
    lines = outcome[1].splitlines()
    assert lines[0].startswith("hyps 1  ")
    assert "address" in lines[3]
    assert [line.split()[1] for line in lines[4:]] == ["worker-3", "web"]
    assert "\x1b" not in outcome[1]
    assert max(map(len, narrow.splitlines())) <= 40


def test_once_on_a_terminal() -> None:
    with Port() as port, screen("--http", port.url, "--once") as top:
        top.wait(lambda: b"worker-3" in top.seen)
        assert top.process.wait(TIMEOUT) == 0
        assert b"\x1b" not in top.seen


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"", "not the HTTP port of a hub: 404 not found"),
        (200, b"<html>", "answered with something else"),
        (200, b"[" * 100_000, "answered with something else"),
        (500, b"\x1b", "500 internal server error"),
    ],
)
def test_what_is_no_hub(status: int, body: bytes, words: str) -> None:
    with Port() as port:
        port.status, port.body = status, body
        code, out, err = run("--http", port.url)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert words in err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "connection refused"),
        ("hyps://127.0.0.1:1", "not the URL of a hub's HTTP port"),
        ("127.0.0.1:1", "connection refused"),
        (":1", "connection refused"),
        ("[::1]:1", "no hub at http://[::1]:1"),
        ("127.0.0.1", "not the URL of a hub's HTTP port"),
        ("token:secret@127.0.0.1:1", "HYPS_TOKEN"),
        ("http://127.0.0.1:x", "not a URL"),
        ("http://token:secret@127.0.0.1", "HYPS_TOKEN"),
        ("http://127.0.0.1?token=secret", "HYPS_TOKEN"),
    ],
)
def test_wrong_urls(url: str, words: str) -> None:
    code, out, err = run("--http", url)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert words in err
    assert "secret" not in err


def test_without_rich() -> None:
    program = "import sys; sys.modules['rich'] = None; from hyps.cli import main; main()"
    done = subprocess.run(
        [*PYTHON, "-c", program, "top"], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: rich is not installed: pip install hyps[ops]\n"


def test_a_hub() -> None:
    http = f"127.0.0.1:{free_port()}"
    with (
        serving("--http", http) as (url, hub),
        running("sub", "news", "sport", "--url", url) as sub,
    ):
        sub.read_line(sub.process.stderr)
        code, out, err = run("--http", f"http://{http}")
        assert (code, err) == (0, "")
        head, _, _, titles, session = out.splitlines()
        assert "1 session  2 channels" in head
        row = dict(zip(titles.replace("B/s ", "B/s-").split(), session.split(), strict=True))
        assert row["name"].startswith("hyps-py/")
        assert (row["wire"], row["chan"], row["missed"]) == ("hyps", "2", "0")
        with screen("--http", f"http://{http}", "--sort", "age") as top:
            top.wait_for("hyps-py/")
            hub.process.kill()
            top.wait_for("trying on")
            top.press("q")
            assert top.end() == 0
