"""Clients of HTTP/2 that are not ours, with ``hyps serve``: curl, nghttp and h2load."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from support.processes import HYPS, TIMEOUT, running, serving
from support.programs import needs_program

from hyps.protocol import encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.processes import Running

RECORD = encode("news", b"hello")
CURL = ("curl", "--silent", "--show-error", "--max-time", str(TIMEOUT))


def run(*command: str, data: bytes = b"", fails: bool = False) -> str:
    done = subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode != 0) == fails, done.stderr.decode()
    return done.stdout.decode()


@contextmanager
def hub(*arguments: str) -> Iterator[str]:
    """Run a hub that says nothing but how it is until the end; give its URL for HTTP/2."""
    with serving(*arguments) as (url, process):
        yield url.replace("hyps", "http", 1)
        code, out, err = process.end(signal.SIGTERM)
        assert (code, out, err.splitlines()[-1]) == (0, "", "hyps: closed")
        assert "ERROR" not in err


def curl(url: str, *arguments: str, data: bytes | None = None) -> str:
    body = () if data is None else ("--data-binary", "@-")
    return run(*CURL, "--http2-prior-knowledge", *body, *arguments, url, data=data or b"")


@contextmanager
def listening(url: str) -> Iterator[Running]:
    """Let curl subscribe; the hub has accepted it."""
    command = (*CURL, "--no-buffer", "--verbose", "--http2-prior-knowledge")
    with running(url, program=command) as listener:
        while not listener.read_line(listener.process.stderr).startswith("< HTTP/2 200"):
            assert listener.process.poll() is None
        yield listener


@needs_program("curl")
@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_curl_publishes_and_listens(backend: str) -> None:
    with hub("--backend", backend) as url:
        with listening(f"{url}/messages?channel=news&channel=b") as listener:
            assert curl(f"{url}/publish", data=RECORD) == "k"
            assert curl(f"{url}/publish", data=RECORD * 3 + encode("other", b"")) == "kkkk"
            for _ in range(4):
                # The length of what follows, which holds a newline.
                assert listener.read_line(listener.process.stdout) == "\0\0\0\x0bnews\n"
                assert listener.read_line(listener.process.stdout) == "hello\n"
        with running("sub", "news", "--count", "1", "--url", url.replace("http", "hyps")) as sub:
            assert sub.read_line(sub.process.stderr).startswith("subscribed ")
            assert curl(f"{url}/publish", data=RECORD) == "k"
            assert sub.end()[1].strip().endswith("hello")


@needs_program("curl")
def test_large_bodies_of_curl() -> None:
    with hub() as url:
        assert curl(f"{url}/publish", data=encode("news", bytes(1024 * 1024))) == "k"
        count = 100_000
        assert curl(f"{url}/publish", data=RECORD * count) == "k" * count


STATUSES: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("", (), 404),
    ("/nothing", (), 404),
    ("/publish/", (), 404),
    ("/publish", (), 405),
    ("/publish", ("-X", "PUT"), 405),
    ("/subscribe", ("-I",), 405),
    ("/messages", ("-d", "x"), 405),
    ("/messages?channel=", (), 400),
)


@needs_program("curl")
def test_statuses_for_curl() -> None:
    with hub() as url:
        for path, arguments, status in STATUSES:
            out = curl(f"{url}{path}", "--include", *arguments)
            assert out.startswith(f"HTTP/2 {status}")
            if status == 405:
                assert f"allow: {'GET' if path == '/messages' else 'POST'}\r\n" in out


@needs_program("curl")
def test_a_refused_body_of_curl() -> None:
    # A reset while it still sends would make it forget the answer.
    with hub() as url:
        for body in (b"x", bytes(300_000)):
            for _ in range(10):
                assert curl(f"{url}/messages", data=body) == "/messages takes GET\n"


@needs_program("curl")
def test_the_token_of_curl() -> None:
    with serving("--token", "secret", "--verbose") as (hyps_url, process):
        url = hyps_url.replace("hyps", "http", 1)
        for header, status in (("x: y", 401), ("authorization: Bearer other", 401)):
            out = curl(f"{url}/publish", "-H", header, "-w", "%{http_code}", data=RECORD)
            assert out.endswith(str(status))
        header = "authorization: Bearer secret"
        assert curl(f"{url}/publish", "-H", header, data=RECORD) == "k"
        code, _, log = process.end(signal.SIGTERM)
        assert code == 0
        # It says a lot, but not that.
        assert "curl" in log
        assert "secret" not in log


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """Files of a certificate with its key, and of whom to trust for it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    identity = authority.issue_cert("127.0.0.1")
    identity.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "hub.pem"))
    return str(tmp_path / "hub.pem"), str(tmp_path / "ca.pem")


@needs_program("curl")
def test_curl_over_tls(certificate: tuple[str, str]) -> None:
    own, trusted = certificate
    with hub("--cert", own) as url:
        assert url.startswith("https://")
        # It speaks HTTP/1 unless the hub offers it HTTP/2.
        command = (*CURL, "--cacert", trusted, "--data-binary", "@-", "-w", " %{http_version}")
        assert run(*command, f"{url}/publish", data=RECORD) == "k 2"


def test_our_own_over_tls(certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    own, trusted = certificate
    with hub("--cert", own) as url:
        assert run(*HYPS, "pub", "news", "--url", url, "hello", fails=True) == ""
        # Whom the system trusts.
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        with running("sub", "news", "--count", "1", "--url", url) as sub:
            assert sub.read_line(sub.process.stderr).startswith("subscribed ")
            run(*HYPS, "pub", "news", "--url", url.replace("http", "hyps"), "hello")
            assert sub.end()[1].strip().endswith("hello")


@needs_program("nghttp")
def test_nghttp(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(RECORD * 10)
    with hub() as url:
        out = run("nghttp", "--verbose", f"--data={body}", f"{url}/publish")
        assert "k" * 10 in out
        assert ":status: 200" in out
        # It ends the connection, and is not refused.
        assert "recv GOAWAY" not in out
        assert ":status: 404" in run("nghttp", "--verbose", f"{url}/nothing")
        assert run("nghttp", "--padding=100", f"--data={body}", f"{url}/publish") == "k" * 10


@needs_program("nghttp")
def test_more_headers_than_may_be() -> None:
    with hub() as url:
        # Four of 3 KiB, which HPACK makes small, in several frames.
        command = ("nghttp", "--verbose", "--continuation", "--data=/dev/null", f"{url}/publish")
        assert "ENHANCE_YOUR_CALM" in run(*command)
        assert run("nghttp", f"{url}/publish") == "/publish takes POST\n"


@needs_program("nghttp")
def test_nghttp_over_tls(certificate: tuple[str, str], tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(RECORD)
    with hub("--cert", certificate[0]) as url:
        out = run("nghttp", "--verbose", "--no-verify-peer", f"--data={body}", f"{url}/publish")
        assert "The negotiated protocol: h2" in out
        assert ":status: 200" in out


@needs_program("h2load")
@pytest.mark.parametrize(("clients", "streams"), [(1, 1), (4, 10), (10, 100)])
def test_h2load(clients: int, streams: int, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(RECORD)
    with hub() as url, running("sub", "news", "--count", "500", "--url", url) as sub:
        assert sub.read_line(sub.process.stderr).startswith("subscribed ")
        options = ("-n500", f"-c{clients}", f"-m{streams}", f"--data={body}")
        out = run("h2load", *options, f"{url}/publish")
        assert "500 succeeded, 0 failed, 0 errored" in out
        assert "status codes: 500 2xx" in out
        # A code for each.
        assert "(500) data" in out
        code, found, _ = sub.end()
        assert (code, len(found.splitlines())) == (0, 500)
