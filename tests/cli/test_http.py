"""``hyps serve --http``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from support.processes import HYPS, PYTHON, TIMEOUT, Running, running

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = ("asyncio", "uvloop", "trio")


def read_http_url(hub: Running) -> str:
    line = hub.read_line(hub.process.stderr)
    assert " INFO health, metrics and tables at http://127.0.0.1:" in line
    return line.split()[-1]


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hub_that_is_told_to_end_is_well_and_not_ready(backend: str) -> None:
    with running(
        "serve", "--port", "0", "--http", ":0", "--backend", backend, "--limit", "close_timeout=20"
    ) as hub:
        http_url = read_http_url(hub)
        url = hub.read_url()
        assert get(f"{http_url}/readyz")[0] == 200
        request = urllib.request.Request(f"{http_url}/publish/news", data=b"hello")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            assert json.load(response) == {}
        status, text = get(f"{http_url}/metrics")
        assert status == 200
        assert f'backend="{backend}"'.encode() in text
        assert b"hyps_messages_published_total 1.0\n" in text
        with running("sub", "news", "--url", url) as client:
            assert client.read_line(client.process.stderr).startswith("subscribed ")
            # It does not leave when it is asked to.
            client.stop()
            hub.process.send_signal(signal.SIGTERM)
            while (found := get(f"{http_url}/readyz"))[0] == 200:
                pass
            assert found == (503, b'{"error": "the hub is shutting down"}\n')
            assert get(f"{http_url}/healthz")[0] == 200
            client.go_on()
        assert hub.process.wait(TIMEOUT) == 0


def test_an_address_that_is_in_use_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f":{taken.getsockname()[1]}"
        done = subprocess.run(
            [*HYPS, "serve", "--port", "0", "--http", address],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert (
        done.stderr
        == f"Error: cannot listen at http://127.0.0.1{address}: address already in use\n"
    )
    done = subprocess.run(
        [*HYPS, "serve", "--http", "8788"], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 2
    assert "Error: --http: bad address '8788': expected host:port or :port" in done.stderr


@pytest.mark.parametrize("module", ["h11", "prometheus_client"])
def test_without_the_extra_it_says_what_to_install(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from hyps.cli import main; main()"
    done = subprocess.run(
        [*PYTHON, "-c", code, "serve", "--port", "0", "--http", ":0"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "Error: --http: hyps.ops needs h11 and prometheus-client: pip install 'hyps[ops]'\n"
    )
    code = f"import sys; sys.modules[{module!r}] = None; import hyps.ops"
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stderr.endswith(
        "ModuleNotFoundError: hyps.ops needs h11 and prometheus-client: pip install 'hyps[ops]'\n"
    )


def test_the_environment_and_the_file_say_it_too(tmp_path: Path) -> None:
    file = tmp_path / "hyps.toml"
    file.write_text('http = ":0"\nport = 0\n', encoding="utf-8")
    with running("serve", "--config", str(file)) as hub:
        http_url = read_http_url(hub)
        hub.read_url()
        assert get(f"{http_url}/readyz")[0] == 200
    file.write_text('http = "nonsense"\nport = 0\n', encoding="utf-8")
    done = subprocess.run(
        [*HYPS, "serve", "--config", str(file), "--check-config"],
        env={**os.environ, "HYPS_HTTP": ":0"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stdout) == (0, "the configuration is sound\n")
    done = subprocess.run(
        [*HYPS, "serve", "--config", str(file), "--check-config"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode != 0
    assert ": http: bad address 'nonsense'" in done.stderr
