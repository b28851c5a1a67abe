"""``--ca``, ``--cert`` and ``--key`` of the commands that connect."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
import trustme
from support.processes import HYPS, TIMEOUT, running, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    hub = authority.issue_cert("127.0.0.1")
    hub.private_key_and_cert_chain_pem.write_to_path(str(folder / "hub.pem"))
    client = authority.issue_cert("worker.example", common_name="worker")
    client.cert_chain_pems[0].write_to_path(str(folder / "worker.pem"))
    client.private_key_pem.write_to_path(str(folder / "worker.key"))
    (folder / "nonsense").write_text("nonsense")
    return folder


@pytest.fixture
def url(files: Path) -> Iterator[str]:
    options = ("--cert", f"{files}/hub.pem", "--client-ca", f"{files}/ca.pem")
    with serving(*options) as (url, _):
        yield url


def shown(files: Path) -> list[str]:
    return [
        *("--ca", f"{files}/ca.pem"),
        *("--cert", f"{files}/worker.pem"),
        *("--key", f"{files}/worker.key"),
    ]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HYPS, *arguments], capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.parametrize(
    "command",
    [
        ("ping", "--count", "1"),
        ("info",),
        ("pub", "news", "hello"),
        ("bench", "--msgs", "10", "--no-progress"),
    ],
    ids=lambda command: command[0],
)
def test_a_hub_that_asks_for_certificates(command: tuple[str, ...], url: str, files: Path) -> None:
    done = run(*command, "--url", url, *shown(files))
    assert done.returncode == 0, done.stderr


def test_sub_shows_its_certificate_too(url: str, files: Path) -> None:
    options = ("--url", url, *shown(files))
    with running("sub", "news", "--count", "1", *options) as sub:
        assert sub.read_line(sub.process.stderr) == "subscribed news\n"
        assert run("pub", "news", "hello", *options).returncode == 0
        assert sub.end() == (0, "news: hello\n", "")


def test_the_other_wire(url: str, files: Path) -> None:
    done = run("info", "--json", "--url", url.replace("hypss:", "https:"), *shown(files))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["wire"], found["tls"]) == ("http2", True)
    # Over HTTP/2 a hub tells neither.
    assert found["hub"] is found["session"] is None


def test_without_a_certificate_the_hub_refuses(url: str, files: Path) -> None:
    done = run("ping", "--count", "1", "--url", url, "--ca", f"{files}/ca.pem")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--ca", "{files}/other.pem")])
def test_a_hub_that_is_not_trusted(options: tuple[str, ...], url: str, files: Path) -> None:
    given = [option.format(files=files) for option in options]
    done = run("ping", "--count", "1", "--url", url, *given)
    assert done.returncode == 1
    assert "TLS: " in done.stderr
    assert "certificate" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ca", "{files}/ca.pem", "--url", "hyps://127.0.0.1"), "--ca: the URL is without TLS"),
        (("--ca", "{files}/missing"), "'--ca': File"),
        (("--ca", "{files}/nonsense"), "--ca: {files}/nonsense has no certificate"),
        (("--key", "{files}/worker.key"), "--key: it needs --cert"),
        (("--cert", "{files}/worker.pem"), "has no private key, so --key must name its file"),
        (
            ("--cert", "{files}/worker.pem", "--key", "{files}/nonsense"),
            "--key: {files}/nonsense has no private key",
        ),
        (
            ("--cert", "{files}/worker.pem", "--key", "{files}/hub.pem"),
            "--key: it is not the private key of the certificate",
        ),
    ],
)
def test_files_that_are_wrong(options: tuple[str, ...], words: str, files: Path) -> None:
    given = [option.format(files=files) for option in options]
    done = run("ping", "--url", "hypss://127.0.0.1", *given)
    assert done.returncode == 2
    assert words.format(files=files) in done.stderr
