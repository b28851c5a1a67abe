"""``hyps ping`` and ``hyps info``."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest
from support.processes import HYPS, TIMEOUT, running, serving

import hyps

BACKENDS = ("asyncio", "uvloop", "trio")
WIRES = ("hyps", "http")
ANSWER = re.compile(r"(\d+): (\d+\.\d{3}) ms\n")


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([*HYPS, *arguments], capture_output=True, text=True, timeout=TIMEOUT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_ping(backend: str, wire: str) -> None:
    with serving("--backend", backend) as (url, _):
        options = ("--url", url.replace("hyps", wire), "--backend", backend)
        code, out, err = run("ping", "--count", "3", "--interval", "0.01", *options)
    assert (code, err) == (0, "")
    *answers, summary = out.splitlines(keepends=True)
    found = [ANSWER.fullmatch(line) for line in answers]
    assert [match and match[1] for match in found] == ["1", "2", "3"]
    took = [float(match[2]) for match in found if match]
    least, most = f"{min(took):.3f}", f"{max(took):.3f}"
    assert re.fullmatch(
        rf"3 sent, 3 answered, 0 lost; min/avg/max {least}/\d+\.\d+/{most} ms\n", summary
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_the_summary(number: signal.Signals, code: int) -> None:
    with serving() as (url, _), running("ping", "--interval", "1000", "--url", url) as ping:
        assert ANSWER.fullmatch(ping.read_line(ping.process.stdout))
        found, out, err = ping.end(number)
    assert (found, err) == (code, "")
    assert out.startswith("1 sent, 1 answered, 0 lost; min/avg/max ")


def test_answers_that_do_not_come() -> None:
    with (
        serving() as (url, hub),
        running("ping", "--interval", "0.1", "--timeout", "0.2", "--url", url) as ping,
    ):

        def read_until(words: str) -> None:
            while words not in ping.read_line(ping.process.stdout):
                assert ping.process.poll() is None

        read_until(" ms\n")
        hub.stop()
        read_until(": no answer in 0.2 s\n")
        hub.process.kill()
        read_until(": lost: ")
        code, out, err = ping.end(signal.SIGINT)
    assert (code, err) == (1, "")
    summary = out.splitlines()[-1]
    sent, answered, lost = map(int, re.findall(r"(\d+) (?:sent|answered|lost)", summary))
    assert sent == answered + lost
    assert answered >= 1
    assert lost >= 2


@pytest.mark.parametrize("command", ["ping", "info"])
def test_no_hub_and_a_wrong_token(command: str) -> None:
    with serving("--token", "right") as (url, _):
        code, out, err = run(command, "--url", url, "--token", "wrong")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "token" in err
    code, out, err = run(command, "--url", url)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "connection refused" in err


@pytest.mark.parametrize("wire", WIRES)
def test_info_for_programs(wire: str) -> None:
    with serving("--limit", "max_message=1000") as (native, _):
        url = native.replace("hyps", wire)
        code, out, err = run("info", "--json", "--url", url)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found.keys() >= {
        "hub",
        "url",
        "wire",
        "tls",
        "session",
        "features",
        "heartbeat",
        "limits",
        "round_trip",
    }
    assert (found["url"], found["tls"]) == (url, False)
    assert 0 < found["round_trip"] < TIMEOUT
    if wire == "hyps":
        assert found["wire"] == "hyps"
        assert hyps.__version__ in found["hub"]
        assert found["limits"]["max_message"] == 1000
    else:
        assert found["wire"] == "http2"


@pytest.mark.parametrize("wire", WIRES)
def test_info_for_people(wire: str) -> None:
    with serving() as (url, _):
        code, out, err = run("info", "--url", url.replace("hyps", wire))
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["tls"] == "no"
    assert rows["heartbeat"] == "20 s"
    assert rows["round_trip"].endswith(" ms")
    assert rows["max_message"] == "1,048,576"
