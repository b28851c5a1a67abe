"""SIGINT and SIGTERM: the first one asks, the second one ends, and nothing else can happen."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from support.processes import HYPS, PYTHON, TIMEOUT, running, serving, without_audit

from hyps.protocol import ClientProtocol

BACKENDS = ("asyncio", "uvloop", "trio")
NUMBERS = (signal.SIGINT, signal.SIGTERM)
#: More messages than a test waits for.
ENDLESS = "1000000000"


def connect_raw(url: str) -> socket.socket:
    """Open a session that does nothing by itself, so that a hub that closes waits for it."""
    host, port = url.removeprefix("hyps://").split(":")
    sock = socket.create_connection((host, int(port)), TIMEOUT)
    sock.sendall(ClientProtocol().data_to_send())
    assert sock.recv(65_536)
    return sock


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_second_signal_ends_a_hub_that_is_closing(backend: str, number: signal.Signals) -> None:
    arguments = ("--limit", "close_timeout=1000", "--backend", backend)
    with serving(*arguments) as (url, hub), connect_raw(url) as client:
        hub.process.send_signal(signal.SIGTERM)
        assert b"shutting down" in client.recv(65_536)
        code, out, err = hub.end(number)
        assert (code, out, without_audit(err)) == (128 + number, "", "")


@pytest.mark.parametrize(
    ("arguments", "stream", "code"),
    [
        (("serve", "--port", "0", "--backend", "asyncio"), "stdout", 0),
        (("serve", "--port", "0", "--backend", "uvloop"), "stdout", 0),
        (("serve", "--port", "0", "--backend", "trio"), "stdout", 0),
        (("sub", "news", "--backend", "uvloop"), "stderr", 128 + signal.SIGINT),
        (("sub", "news", "--backend", "trio"), "stderr", 128 + signal.SIGINT),
        (("bench", "--msgs", ENDLESS, "--backend", "asyncio"), "stderr", 128 + signal.SIGINT),
        (("demo", "--backend", "uvloop"), "stdout", 128 + signal.SIGINT),
        (("demo", "--backend", "trio"), "stdout", 128 + signal.SIGINT),
    ],
)
def test_two_signals_at_once(arguments: tuple[str, ...], stream: str, code: int) -> None:
    with ExitStack() as stack:
        where: tuple[str, ...] = ()
        if arguments[0] in ("sub", "bench"):
            url, _ = stack.enter_context(serving())
            where = ("--url", url)
        for number in range(3):
            with running(*arguments, *where) as command:
                assert command.read_line(getattr(command.process, stream))
                command.process.send_signal(signal.SIGINT)
                # Long enough for each thing that the first one causes.
                time.sleep(number * 0.0005)
                command.process.send_signal(signal.SIGTERM)
                ended, _, err = command.end()
            assert ended in (code, 128 + signal.SIGTERM, 128 + signal.SIGINT)
            assert err in ("", "hyps: closed\n")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_a_command_is_imported(number: signal.Signals) -> None:
    code = f"""
import signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "anyio":
            signal.raise_signal({int(number)})

import hyps.cli
assert "anyio" not in sys.modules
sys.meta_path.insert(0, Finder())
hyps.cli.main()
"""
    with running("serve", "--port", "0", program=(*PYTHON, "-c", code)) as command:
        assert command.end() == (128 + number, "", "")


#: Names are resolved in threads, which nothing can interrupt.
STUCK_RESOLVER = """
import os, socket, time, hyps.cli

def resolve(host, port, family=0, type=0, proto=0, flags=0):
    if flags & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_NONAME, "not an address")
    os.write(2, b"resolving\\n")
    time.sleep(1000)

socket.getaddrinfo = resolve
hyps.cli.main()
"""


# uvloop does not ask Python.
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_while_a_name_is_resolved(backend: str) -> None:
    arguments = ("sub", "news", "--url", "hyps://hub.example", "--backend", backend)
    with running(*arguments, program=(*PYTHON, "-c", STUCK_RESOLVER)) as sub:
        assert sub.read_line(sub.process.stderr) == "resolving\n"
        assert sub.end(signal.SIGTERM) == (128 + signal.SIGTERM, "", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_that_the_parent_ignores_stays_ignored(backend: str) -> None:
    # As of a job that a shell runs in the background.
    program = ("bash", "-c", 'trap "" INT; exec "$@"', "bash", *HYPS)
    with serving("--backend", backend, program=program) as (url, hub):
        for _ in range(2):
            hub.process.send_signal(signal.SIGINT)
            connect_raw(url).close()
        code, out, err = hub.end(signal.SIGTERM)
        assert (code, out, without_audit(err)) == (0, "", "hyps: closed\n")


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hyps", "serve", "--port", "-1"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: hyps serve ")
