"""Standard output and error that nobody reads, that are full, closed, or of few characters."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import termios
import time
from contextlib import nullcontext
from select import PIPE_BUF
from typing import TYPE_CHECKING

import pytest
from support.processes import HYPS, PYTHON, TIMEOUT, running, serving

from hyps.protocol import ClientProtocol

if TYPE_CHECKING:
    from typing import Self

BACKENDS = ("asyncio", "uvloop", "trio")
#: More messages than a test waits for.
ENDLESS = "1000000000"


class FullPipe:
    """A pipe that nobody drains, with room for so many bytes and no more."""

    def __init__(self, room: int = 0) -> None:
        self.reader, self.writer = os.pipe()
        size = fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BUF)
        self._filled = os.write(self.writer, bytes(size - room))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        if self.writer >= 0:
            os.close(self.writer)

    def wait_for_text(self) -> None:
        """Wait until something was written to it."""
        while struct.unpack("i", fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)))[0] <= (
            self._filled
        ):
            # It can be read all the time, so there is no event.
            time.sleep(0.01)

    def drain(self) -> str:
        """Read until nobody has it for writing."""
        os.close(self.writer)
        self.writer = -1
        with os.fdopen(os.dup(self.reader), "rb") as file:
            return file.read()[self._filled :].decode()


def publish(url: str, *arguments: str) -> None:
    done = subprocess.run([*HYPS, "pub", *arguments, "--url", url], timeout=TIMEOUT, check=False)
    assert done.returncode == 0


# Nobody reads


@pytest.mark.parametrize(
    ("backend", "number"),
    [("asyncio", signal.SIGTERM), ("uvloop", signal.SIGINT), ("trio", signal.SIGTERM)],
)
def test_a_signal_ends_sub_while_nobody_reads(backend: str, number: signal.Signals) -> None:
    arguments = ("sub", "news", "--backend", backend)
    with (
        serving() as (url, _),
        FullPipe(room=100) as pipe,
        running(*arguments, "--url", url, stdout=pipe.writer) as sub,
    ):
        assert sub.read_line(sub.process.stderr) == "subscribed news\n"
        publish(url, "news", "first")
        pipe.wait_for_text()
        publish(url, "news", "x" * 1000)
        assert sub.end(number) == (128 + number, "", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_ends_demo_while_nobody_reads(backend: str) -> None:
    with (
        FullPipe(room=100) as pipe,
        running("demo", "--backend", backend, stdout=pipe.writer) as demo,
    ):
        pipe.wait_for_text()
        assert demo.end(signal.SIGTERM) == (128 + signal.SIGTERM, "", "")


def test_a_signal_ends_bench_while_nobody_reads_its_summary() -> None:
    with (
        serving() as (url, _),
        FullPipe() as pipe,
        running("bench", "--msgs", ENDLESS, "--url", url, stdout=pipe.writer) as bench,
    ):
        assert bench.read_line(bench.process.stderr).startswith("Starting benchmark ")
        assert bench.end(signal.SIGTERM) == (128 + signal.SIGTERM, "", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_nobody_reads_the_standard_error_of_a_hub(backend: str) -> None:
    with (
        FullPipe() as pipe,
        serving("--backend", backend, stderr=pipe.writer) as (url, hub),
    ):
        publish(url, "news", "hello")
        assert hub.end(signal.SIGTERM)[0] == 0


def test_nobody_reads_the_standard_error_of_clients() -> None:
    with serving() as (url, _), FullPipe() as pipe:
        for arguments, code in (
            (("pub", "news", "hello"), 0),
            (("pub", "a\nb", "hello"), 1),
            (("pub", "too", "many", "arguments"), 2),
            (("bench", "--msgs", "10"), 0),
        ):
            with running(*arguments, "--url", url, stderr=pipe.writer) as command:
                assert command.end()[0] == code


#: Each line that the hub logs is very long, and tells of an exception.
LONG_LINES = """
import logging, hyps.cli

def lengthen(record):
    record.msg, record.args = "x" * 100_000, ()
    return True

logging.getLogger("hyps.audit").addFilter(lengthen)
hyps.cli.main()
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_lines_of_the_log_that_have_no_room_are_counted(backend: str) -> None:
    program = (*PYTHON, "-c", LONG_LINES)
    with (
        FullPipe() as pipe,
        serving("--backend", backend, program=program, stderr=pipe.writer) as (url, hub),
    ):
        host, port = url.removeprefix("hyps://").split(":")
        for _ in range(5):
            with socket.create_connection((host, int(port)), TIMEOUT) as sock:
                sock.sendall(b"\xff" * 100)
                while sock.recv(65_536):
                    pass
        publish(url, "news", "hello")
        hub.process.send_signal(signal.SIGTERM)
        lines = pipe.drain().splitlines()
        assert hub.end()[0] == 0
    written = sum(line.endswith("x" * 100_000) for line in lines)
    [omitted] = [
        int(found[1]) for line in lines if (found := re.match(r"hyps: left out (\d+) lines", line))
    ]
    assert written >= 2
    assert omitted >= 1
    assert "hyps: closed" in lines or omitted + written == 8


# Full, closed or broken


@pytest.mark.parametrize(
    ("command", "code", "errors"),
    [
        ("demo --backend asyncio | head -1", 141, 0),
        ("demo --backend uvloop | head -1", 141, 0),
        ("demo --backend trio | head -1", 141, 0),
        ("demo >/dev/full", 1, 1),
        ("demo --backend trio >/dev/full 2>&-", 1, 0),
        ("demo >&-", 0, 0),
        ("serve --port 0 >/dev/full", 1, 1),
        ("bench --url $URL --msgs 10 >/dev/full 2>/dev/full", 1, 0),
        ("bench --url $URL --msgs 10 2>/dev/full", 0, 0),
        ("pub --url $URL news hello 2>/dev/full >&- <&-", 0, 0),
        ("--help >/dev/full", 1, 1),
        ("--version >/dev/full 2>&-", 1, 0),
        ("--version >&-", 0, 0),
        ("serve --help | (exec <&-; cat /dev/null)", 141, 0),
        ("no-such-command 2>&-", 2, 0),
        ("no-such-command 2>/dev/full", 2, 0),
        ("no-such-command 2> >(exec <&-)", 2, 0),
    ],
)
def test_one_line_or_silence(command: str, code: int, errors: int) -> None:
    script = f"{shlex.join(HYPS)} {command}; exit ${{PIPESTATUS[0]}}"
    with serving() if "$URL" in command else nullcontext(("", None)) as (url, _):
        done = subprocess.run(
            ["bash", "-c", script],
            env={**os.environ, "URL": url},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert (done.returncode, done.stderr.count("\n")) == (code, errors), done.stderr
    assert done.stderr == "" or done.stderr.startswith("Error: ")


def test_shells_complete_commands() -> None:
    env = {**os.environ, "_HYPS_COMPLETE": "bash_source"}
    done = subprocess.run(HYPS, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert "_HYPS_COMPLETE=bash_complete" in done.stdout
    assert done.stderr == ""


# What is shown


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"caf\\xe9 \\u20ac"),
        ({"PYTHONIOENCODING": "latin-1"}, b"caf\xe9 \\u20ac"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"caf\\xe9 \\u20ac"),
        ({"PYTHONIOENCODING": "utf-8"}, "caf\u00e9 \u20ac".encode()),
    ],
)
def test_characters_that_the_output_does_not_have(variables: dict[str, str], shown: bytes) -> None:
    with serving() as (url, _):
        command = [*HYPS, "sub", "news", "--count", "1", "--url", url]
        with subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as sub:
            assert sub.stderr is not None
            assert sub.stderr.readline() == b"subscribed news\n"
            publish(url, "news", "caf\u00e9 \u20ac")
            assert sub.communicate(timeout=TIMEOUT) == (b"news: " + shown + b"\n", b"")


#: A record of the log that a peer could not do worse.
BAD_RECORD = """
import logging, hyps.cli

def spoil(record):
    record.msg, record.args = "\\x1b[2J\\r\\n2000-01-01 INFO all is well \\u202e\\udcff", ()
    error = ValueError("\\x1b]0;title\\x07\\n2000-01-01 INFO all is well")
    record.exc_info = (ValueError, error, None)
    return True

logging.getLogger("hyps.audit").addFilter(spoil)
hyps.cli.main()
"""


def test_a_record_of_the_log_is_a_line_and_has_no_control_characters() -> None:
    with serving(program=(*PYTHON, "-c", BAD_RECORD)) as (url, hub):
        host, port = url.removeprefix("hyps://").split(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as sock:
            sock.sendall(b"\xff" * 100)
            while sock.recv(65_536):
                pass
        code, _, err = hub.end(signal.SIGTERM)
    assert code == 0
    assert all(char.isprintable() or char == "\n" for char in err)
    lines = err.splitlines()
    assert lines[0].endswith(r" WARNING \x1b[2J\r\n2000-01-01 INFO all is well \u202e\udcff")
    assert lines[1:] == [
        r"  ValueError: \x1b]0;title\x07",
        "  2000-01-01 INFO all is well",
        "hyps: closed",
    ]


def test_what_a_hub_says_is_escaped() -> None:
    client = ClientProtocol()
    client.data_to_send()
    said = json.dumps({"code": "auth", "message": "\x1b[2J\r\nError: \u202e"}).encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"hyps://127.0.0.1:{listener.getsockname()[1]}"
        with running("pub", "news", "hello", "--url", url) as pub:
            session, _ = listener.accept()
            with session:
                session.sendall(struct.pack(">IB", 1 + len(said), 14) + said)
                _, _, err = pub.end()
    assert err.startswith("Error: ")
    assert r"\x1b[2J\r\nError: \u202e" in err
    assert err.count("\n") == 1
    assert err.removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ("sub", "a\x1b[2J\nb"),
        ("serve", "--limit", "\x1b[2J\nb=1"),
        ("serve", "--limit", "max_message=\x1b[2J\nb"),
        ("serve", "--port", "\x1b[2J\nb"),
        ("serve", "--backend", "\x1b[2J\nb"),
        ("serve", "--cert", "\x1b[2J\nb"),
        ("serve", "--uds-mode", "\x1b[2J\nb"),
        ("bench", "--size", "\x1b[2J\nb"),
        ("pub", "news", "hello", "--url", "\x1b[2J\nb"),
        ("--\x1b[2J\nb",),
        ("no\x1b[2J\nb",),
    ],
)
def test_a_bad_argument_is_escaped(arguments: tuple[str, ...]) -> None:
    with running(*arguments) as command:
        code, out, err = command.end()
    assert code in (1, 2)
    assert out == ""
    assert all(line.isprintable() for line in err.splitlines())
    assert err.splitlines()[-1].startswith("Error: ")
