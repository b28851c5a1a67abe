"""The command line as its users see it: processes, their output and their exit codes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from support.processes import HYPS, TIMEOUT, Running, running, serving, without_audit

import hyps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKENDS = ("asyncio", "uvloop", "trio")


@contextmanager
def subscribed(*arguments: str) -> Iterator[Running]:
    with running("sub", *arguments) as sub:
        assert sub.read_line(sub.process.stderr).startswith("subscribed ")
        yield sub


def run(*arguments: str, data: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run([*HYPS, *arguments], input=data, capture_output=True, timeout=TIMEOUT)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def assert_one_line_of_error(outcome: tuple[int, str, str], *words: str) -> None:
    code, out, err = outcome
    assert code == 1
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sub_connects_again_and_tells_what_it_missed(backend: str) -> None:
    with serving() as (url, hub):
        port = url.rpartition(":")[2]
        with subscribed("news", "--count", "1", "--url", url, "--backend", backend) as sub:
            hub.end(signal.SIGKILL)
            assert "connecting again" in sub.read_line(sub.process.stderr)
            with running("serve", "--port", port) as hub_again:
                hub_again.read_line(hub_again.process.stdout)
                told = [sub.read_line(sub.process.stderr)]
                # Why it could not connect meanwhile, once for each reason.
                while "again: " in told[-1]:
                    told.append(sub.read_line(sub.process.stderr))
                told.append(sub.read_line(sub.process.stderr))
                assert any("an unknown number of messages in 1 gap" in line for line in told)
                assert f"connected to the hub at {url} again\n" in told
                assert run("pub", "news", "hello", "--url", url)[0] == 0
                assert sub.end() == (0, "news: hello\n", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_pub_and_sub(backend: str) -> None:
    backend_option = ("--backend", backend)
    with serving(*backend_option) as (url, hub):
        options = ("--url", url, *backend_option)
        with subscribed("news", "sport", "--count", "4", *options) as sub:
            assert run("pub", "news", "hello", *options) == (0, "", "published 1 message\n")
            assert run("pub", "other", "nobody reads it", *options)[0] == 0
            lines = b"one\r\n\nlast"
            assert run("pub", "sport", "-", *options, data=lines) == (
                0,
                "",
                "published 3 messages\n",
            )
            assert sub.end() == (0, "news: hello\nsport: one\nsport: \nsport: last\n", "")
        code, out, err = hub.end(signal.SIGTERM)
        assert (code, out, without_audit(err)) == (0, "", "hyps: closed\n")


def test_lines_are_published_as_they_come() -> None:
    with (
        serving() as (url, _),
        subscribed("news", "--url", url) as sub,
        running("pub", "news", "-", "--url", url, stdin=subprocess.PIPE) as pub,
    ):
        assert pub.process.stdin is not None
        for text in ("first", "second"):
            pub.process.stdin.write(f"{text}\n")
            pub.process.stdin.flush()
            assert sub.read_line(sub.process.stdout) == f"news: {text}\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_pub_ends_on_a_signal_while_it_waits_for_lines(backend: str) -> None:
    with (
        serving() as (url, _),
        subscribed("news", "--count", "1", "--url", url) as sub,
        running(
            "pub", "news", "-", "--url", url, "--backend", backend, stdin=subprocess.PIPE
        ) as pub,
    ):
        assert pub.process.stdin is not None
        pub.process.stdin.write("first\n")
        pub.process.stdin.flush()
        # It has begun to wait for the next one.
        assert sub.end()[0] == 0
        pub.process.send_signal(signal.SIGINT)
        assert pub.process.wait(TIMEOUT) == 128 + signal.SIGINT
        assert pub.end()[2] == ""


def test_a_long_line_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    line = b"x" * 1_000_000
    path.write_bytes(line + b"\n" + line)
    with serving() as (url, _):
        with path.open("rb") as lines:
            command = [*HYPS, "pub", "news", "-", "--url", url]
            done = subprocess.run(command, stdin=lines, capture_output=True, timeout=TIMEOUT)
        assert (done.returncode, done.stderr) == (0, b"published 2 messages\n")
        assert_one_line_of_error(run("pub", "news", "-", "--url", url, data=line * 3), "3000000")


@pytest.mark.parametrize(
    ("command", "code"),
    [("pub news - <&-", 0), ("pub news x 2>&-", 0), ("sub news --count 1 >/dev/full", 1)],
)
def test_files_that_are_closed_or_full(command: str, code: int) -> None:
    with serving() as (url, _):
        shell = f"exec {shlex.join(HYPS)} {command} --url {url}"
        with subprocess.Popen(["bash", "-c", shell], stderr=subprocess.PIPE, text=True) as process:
            if command.startswith("sub"):
                assert process.stderr is not None
                assert process.stderr.readline() == "subscribed news\n"
                run("pub", "news", "hello", "--url", url)
            _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == code
        assert "Traceback" not in err
        assert code == 0 or err.startswith("Error: ")


def test_nothing_raw_reaches_the_terminal() -> None:
    with serving() as (url, _), subscribed("news\x1b[2J", "--count", "3", "--url", url) as sub:
        for data in (b"a\x1b[31mb\r\x07\xc2\x9b", b"\xff\\", "\u202e\u2028é".encode()):
            run("pub", "news\x1b[2J", "-", "--url", url, data=data)
        _, out, _ = sub.end()
    assert out.splitlines() == [
        r"news\x1b[2J: a\x1b[31mb\r\x07\x9b",
        r"news\x1b[2J: \xff\\",
        "news\\x1b[2J: \\u202e\\u2028é",
    ]


def test_json() -> None:
    with serving() as (url, _), subscribed("news", "--json", "--count", "2", "--url", url) as sub:
        run("pub", "news", "-", "--url", url, data="\x1b é\n".encode())
        run("pub", "news", "-", "--url", url, data=b"\xff")
        _, out, _ = sub.end()
    assert out.isascii()
    assert "\x1b" not in out
    assert [json.loads(line) for line in out.splitlines()] == [
        {"channel": "news", "data": "\x1b é"},
        {"channel": "news", "data_base64": "/w=="},
    ]


def test_unix_socket(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    with serving("--uds", str(path)) as (url, hub):
        assert url == f"hyps+unix://{path}"
        with subscribed("news", "--count", "1", "--url", url) as sub:
            assert run("pub", "news", "hello", "--url", url)[0] == 0
            assert sub.end()[1] == "news: hello\n"
        assert hub.end(signal.SIGINT)[0] == 0
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", BACKENDS)
def test_serve_closes_cleanly_with_clients(number: signal.Signals, backend: str) -> None:
    with serving("--backend", backend) as (url, hub), subscribed("news", "--url", url) as sub:
        code, _, err = hub.end(number)
        assert (code, without_audit(err)) == (0, "hyps: closed\n")
        assert "leaving: the hub is shutting down; connecting again" in sub.read_line(
            sub.process.stderr
        )
        code, out, err = sub.end(signal.SIGINT)
        assert (code, out) == (130, "")
        # It may have tried to connect again by now.
        assert all("trying on" in line for line in err.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_clients_end_on_signals(number: signal.Signals) -> None:
    with serving() as (url, _), subscribed("news", "--url", url) as sub:
        assert sub.end(number) == (128 + number, "", "")


def test_sub_ends_quietly_when_nobody_reads_its_output() -> None:
    with serving() as (url, _), subscribed("news", "--url", url) as sub:
        assert sub.process.stdout is not None
        sub.process.stdout.close()
        sub.process.stdout = None
        run("pub", "news", "hello", "--url", url)
        code, _, err = sub.end()
        assert code != 0
        assert err == ""


def test_http_1_at_the_port_is_answered_and_no_warning() -> None:
    with serving() as (url, hub):
        host, port = url.removeprefix("hyps://").split(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 505 ")
        _, _, err = hub.end(signal.SIGTERM)
    # A load balancer sends such a request every few seconds.
    assert "WARNING" not in err
    assert err.count("an HTTP/1 request at the Hyps port") == 1


def test_serve_logs_sessions() -> None:
    with serving() as (url, hub):
        run("pub", "news", "hello", "--url", url)
        _, _, err = hub.end(signal.SIGTERM)
    assert err.count(f" client=hyps-py/{hyps.__version__} ") == 2
    assert "DEBUG" not in err


def test_verbose_logs_connections() -> None:
    with serving("--verbose") as (url, hub):
        run("pub", "news", "hello", "--url", url)
        _, _, err = hub.end(signal.SIGTERM)
    assert " DEBUG connected session=1 address=127.0.0.1:" in err


def test_token() -> None:
    with serving("--token", "secret") as (url, _):
        assert_one_line_of_error(run("pub", "news", "x", "--url", url), "token is required")
        wrong = run("pub", "news", "x", "--url", url, "--token", "guess")
        assert_one_line_of_error(wrong, "token is wrong")
        assert run("pub", "news", "x", "--url", url, "--token", "secret")[0] == 0


@pytest.mark.parametrize("variable", ["", None])
def test_an_empty_token_is_refused(variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: tuple[str, ...] = ()
    if variable is None:
        arguments = ("--token", "")
    else:
        monkeypatch.setenv("HYPS_TOKEN", variable)
    assert_one_line_of_error(run("serve", "--port", "0", *arguments), "token", "is empty")
    if variable is not None:
        # Clients of hubs without a token have none; and a hub may be given another one.
        with serving("--token", "secret") as (url, _):
            refused = run("pub", "news", "x", "--url", url)
            assert_one_line_of_error(refused, "token is required")


def test_a_port_that_kubernetes_sets_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPS_PORT", "tcp://10.0.0.1:8787")
    monkeypatch.setenv("HYPS_TOKEN", "")
    # It gets beyond the port.
    assert_one_line_of_error(run("serve"), "HYPS_TOKEN is empty")
    monkeypatch.delenv("HYPS_TOKEN")
    monkeypatch.setenv("HYPS_PORT", "many")
    code, _, err = run("serve")
    assert code == 2
    # Click names the variable, too, from 8.2 on.
    assert "'many' is not a valid" in err


def test_a_hub_may_have_as_many_files_as_the_system_allows() -> None:
    limit = ("bash", "-c", 'ulimit -Sn 64; exec "$@"', "bash")
    with serving(program=(*limit, *HYPS)) as (url, _):
        assert run("bench", "--pub", "100", "--msgs", "100", "--url", url)[0] == 0


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    both = tmp_path / "hub.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    key = tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(key)
    other, encrypted = tmp_path / "other.pem", tmp_path / "encrypted.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(other)
    command = ["openssl", "pkey", "-in", str(key), "-out", str(encrypted)]
    command += ["-aes256", "-passout", "pass:secret"]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    with serving("--cert", str(both)) as (url, _):
        assert url.startswith("hypss://")
        plain = url.replace("hypss", "hyps")
        assert_one_line_of_error(run("pub", "news", "x", "--url", plain), "perhaps it uses TLS")
        assert_one_line_of_error(run("pub", "news", "x", "--url", url), "TLS", "certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert run("pub", "news", "x", "--url", url)[0] == 0
    for arguments, words in (
        (("--key", str(key)), "--key: it needs --cert"),
        (("--cert", str(key)), "has no certificate"),
        (("--cert", str(tmp_path / "ca.pem")), "--key must name"),
        (("--cert", str(both), "--key", str(tmp_path / "ca.pem")), "--key: "),
        (("--cert", str(both), "--key", str(other)), "--key: it is not the private key"),
        (("--cert", str(both), "--key", str(encrypted)), "--key: the private key is encrypted"),
        (("--cert", str(both), "--uds", str(tmp_path / "socket")), "TLS"),
    ):
        code, _, err = run("serve", *arguments)
        assert code == 2
        assert words in err.splitlines()[-1]


def test_limits() -> None:
    with serving("--limit", "max_message=10", "--limit", "hello_timeout=0.5") as (url, _):
        assert run("pub", "news", "0123456789", "--url", url)[0] == 0
        assert_one_line_of_error(run("pub", "news", "0123456789a", "--url", url), "11 bytes")


def test_lines_before_a_refused_one_are_counted() -> None:
    with (
        serving("--limit", "max_message=10") as (url, _),
        subscribed("news", "--url", url) as sub,
        running("pub", "news", "-", "--url", url, stdin=subprocess.PIPE) as pub,
    ):
        assert pub.process.stdin is not None
        pub.process.stdin.write("good\n")
        pub.process.stdin.flush()
        assert sub.read_line(sub.process.stdout) == "news: good\n"
        pub.process.stdin.write("longer than ten\n")
        pub.process.stdin.close()
        pub.process.stdin = None
        assert_one_line_of_error(pub.end(), "(published 1 message before)")


def test_demo() -> None:
    for backend in BACKENDS:
        code, out, err = run("demo", "--backend", backend)
        assert (code, err) == (0, "")
        assert "eve       got from     weather" in out
        assert "50,000 of 50,000 messages arrived, 0 missed" in out


def test_port_in_use() -> None:
    with serving() as (url, _):
        port = url.rpartition(":")[2]
        assert_one_line_of_error(run("serve", "--port", port), url, "in use")


def test_the_mode_of_a_unix_socket(socket_folder: Path) -> None:
    path = socket_folder / "hub.sock"
    with serving("--uds", str(path), "--uds-mode", "660") as (url, _):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert run("pub", "news", "hello", "--url", url)[0] == 0


def test_unix_socket_in_use(socket_folder: Path) -> None:
    path = str(socket_folder / "hub.sock")
    with serving("--uds", path) as (url, _):
        assert_one_line_of_error(run("serve", "--uds", path), path, "in use")
        assert run("pub", "news", "still there", "--url", url)[0] == 0


@pytest.mark.parametrize("command", [("pub", "news", "x"), ("sub", "news")])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hyps://127.0.0.1:1", ("hyps://127.0.0.1:1", "refused")),
        ("hyps+unix:///no/such/socket", ("no such file",)),
        ("hyps://127.0.0.1:99999", ("bad URL",)),
        ("redis://127.0.0.1", ("bad URL", "redis")),
        ("localhost:8787", ("bad URL", "localhost:8787", "hyps://")),
        ("memory://name", ("memory",)),
    ],
)
def test_unusable_urls(command: tuple[str, ...], url: str, words: tuple[str, ...]) -> None:
    assert_one_line_of_error(run(*command, "--url", url), *words)


@pytest.mark.parametrize("command", [("pub", "a\nb", "x"), ("sub", "good", "a\nb"), ("sub", "")])
def test_bad_channels(command: tuple[str, ...]) -> None:
    assert_one_line_of_error(run(*command), "channel")


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--port", "65536"),
        ("serve", "--limit", "nothing=1"),
        ("serve", "--limit", "max_message=many"),
        ("serve", "--limit", "max_message=0"),
        ("serve", "--backend", "curio"),
        ("serve", "--limit", "max_message"),
        ("serve", "--uds", ""),
        ("serve", "--host", ""),
        ("serve", "--token", "x" * 20_000),
        ("serve", "--uds-mode", "660"),
        ("serve", "--uds", "/no/such", "--uds-mode", "680"),
        ("serve", "--uds", "/no/such", "--uds-mode", "1777"),
        ("sub",),
        ("sub", "news", "--count", "0"),
        ("pub", "news"),
        ("unknown",),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("command", [("pub", "a", "b"), ("sub", "a"), ("bench",)])
def test_a_token_that_cannot_be_sent(command: tuple[str, ...]) -> None:
    assert_one_line_of_error(run(*command, "--token", "x" * 20_000), "token is too long")


def test_without_a_command_there_is_help() -> None:
    # Click prints it as an error from 8.2 on.
    code, out, err = run()
    assert code in (0, 2)
    assert (out + err).splitlines()[:3] == [
        "Usage: hyps [OPTIONS] COMMAND [ARGS]...",
        "",
        "  Pub/sub in which many subscriptions share one connection.",
    ]


def test_subscribing_needs_a_standard_output() -> None:
    script = f"{shlex.join([*HYPS, 'sub', 'news'])} >&-"
    done = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert done.returncode == 1
    assert "standard output is closed" in done.stderr


def test_help_and_version() -> None:
    assert run("--version") == (0, f"hyps {hyps.__version__}\n", "")
    for command in ("serve", "sub", "pub", "bench", "demo"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Usage: hyps" in out
        assert command in run("--help")[1]


def test_the_console_script_is_the_same_command() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "hyps")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout == f"hyps {hyps.__version__}\n"
