"""What the log of ``hyps serve`` looks like: text, text in colours, JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.processes import HYPS, PYTHON, TIMEOUT, running, serving

import hyps

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = ("--log-format", "json")
BACKENDS = ("asyncio", "uvloop", "trio")


def publish(url: str, *arguments: str) -> int:
    command = [*HYPS, "pub", "news", "hello", "--url", url, *arguments]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False).returncode


def run_json(*arguments: str, act: Callable[[str], object], **options: Any) -> list[dict[str, Any]]:
    """Run a hub that logs JSON, do something with its URL, and give the lines of its log."""
    with running("serve", "--port", "0", *JSON, *arguments, **options) as hub:
        listening: dict[str, Any] = json.loads(hub.read_line(hub.process.stdout))
        act(*listening["urls"])
        code, out, err = hub.end(signal.SIGTERM)
    assert (code, out) == (0, "")
    return [listening, *map(json.loads, err.splitlines())]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_line_is_an_object(backend: str) -> None:
    lines = run_json(
        "--token",
        "correct-horse",
        "--backend",
        backend,
        act=lambda url: [
            publish(url, "--token", "correct-horse"),
            publish(url, "--token", "guessed-horse"),
        ],
    )
    assert [(line["logger"], line["level"], line["message"]) for line in lines] == [
        ("hyps.serve", "INFO", "listening"),
        ("hyps.audit", "INFO", "session opened"),
        ("hyps.audit", "INFO", "session ended"),
        ("hyps.audit", "WARNING", "session refused"),
        ("hyps.serve", "INFO", "closed"),
    ]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        ago = datetime.now().astimezone() - datetime.fromisoformat(line["time"])
        assert timedelta(seconds=-1) < ago < timedelta(seconds=TIMEOUT)
    assert lines[0]["version"] == hyps.__version__
    assert lines[2]["published"] == 1
    assert lines[2]["tls"] is False
    assert lines[3]["reason"] == "the token is wrong"
    assert "-horse" not in json.dumps(lines)


def test_what_is_left_out_is_a_field() -> None:
    def send_junk(url: str) -> None:
        host, port = url.removeprefix("hyps://").split(":")
        for _ in range(50):
            with socket.create_connection((host, int(port)), TIMEOUT) as sock:
                sock.sendall(b"junk\r\n" * 10)
                while sock.recv(65_536):
                    pass

    lines = run_json(act=send_junk)
    refused = [line for line in lines if line["message"] == "session refused"]
    assert 0 < len(refused) < 20
    omitted = sum(line.get("omitted", 0) for line in refused)
    for line in lines:
        if found := re.match(r"left out (\d+) more lines", line["message"]):
            omitted += int(found[1])
    assert len(refused) + omitted == 50


#: A record of the log with an exception and fields, all of them hostile.
SPOILED = r"""
import logging, hyps.cli

def spoil(record):
    record.msg = record.hyps_event = "\x1b[2J\r\n{} \u202e\udcff"
    record.args = ()
    record.hyps = {"time": "forged", "level": "forged", "client": "\x1b]0;title\x07\n{}"}
    error = ValueError("\x1b]0;title\x07\n{}")
    record.exc_info = (ValueError, error, None)
    return True

logging.getLogger("hyps.audit").addFilter(spoil)
hyps.cli.main()
"""


def test_exceptions_and_control_characters() -> None:
    lines = run_json(act=publish, program=(*PYTHON, "-c", SPOILED))
    spoiled = lines[1]
    assert spoiled["message"] == "\x1b[2J\r\n{} \u202e\udcff"
    assert spoiled["exception"] == "ValueError: \x1b]0;title\x07\n{}"
    assert spoiled["client"] == "\x1b]0;title\x07\n{}"
    # Fields replace nothing.
    assert spoiled["level"] == "INFO"
    assert spoiled["time"] != "forged"


def test_text_is_one_line_for_each_event() -> None:
    with serving() as (url, hub):
        publish(url)
        _, _, err = hub.end(signal.SIGTERM)
    opened, ended, closed = err.splitlines()
    start = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO session"
    assert re.fullmatch(
        rf"{start} opened session=1 address=127\.0\.0\.1:\d+ client=\S+ wire=hyps tls=false", opened
    )
    assert re.match(rf"{start} ended session=1 address=", ended)
    assert ended.endswith(' reason="the client left"')
    assert closed == "hyps: closed"


# Colours

COLOURED = "\x1b[32mINFO\x1b[0m session opened\x1b[2m session=1 "


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_on_a_terminal(environment: dict[str, str], is_coloured: bool) -> None:
    terminal, end = pty.openpty()
    environment = {"TERM": "xterm", "NO_COLOR": "", "FORCE_COLOR": "", **environment}
    with (
        os.fdopen(terminal, "rb", buffering=0) as reader,
        os.fdopen(end, "wb") as writer,
        serving(stderr=writer.fileno(), environment=environment) as (url, _),
    ):
        publish(url)
        shown = b""
        while b"session ended" not in shown or not shown.endswith(b"\n"):
            shown += reader.read(65_536)
    assert (COLOURED.encode() in shown) is is_coloured
    assert (b"\x1b" in shown) is is_coloured


@pytest.mark.parametrize(("forced", "is_coloured"), [("", False), ("1", True)])
def test_no_colours_in_a_file(forced: str, is_coloured: bool) -> None:
    environment = {"TERM": "xterm", "NO_COLOR": "", "FORCE_COLOR": forced}
    with serving(environment=environment) as (url, hub):
        publish(url)
        _, _, err = hub.end(signal.SIGTERM)
    assert (COLOURED in err) is is_coloured
    assert ("\x1b" in err) is is_coloured


def test_json_has_no_colours() -> None:
    lines = run_json(act=publish, environment={"FORCE_COLOR": "1"})
    assert lines[1]["level"] == "INFO"
