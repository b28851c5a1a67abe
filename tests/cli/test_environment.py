"""Variables of the environment that stand for options of ``hyps serve``."""

from __future__ import annotations

import signal
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
import trustme
from support.processes import HYPS, TIMEOUT, running, serving, without_audit

import hyps

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, text: str) -> str:
    path = folder / "hub.toml"
    path.write_text(text)
    return str(path)


def test_a_hub_that_gets_everything_from_the_environment(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "both.pem"
    )
    environment = {
        "HYPS_HOST": "127.0.0.1",
        "HYPS_PORT": "0",
        "HYPS_CERT": str(tmp_path / "both.pem"),
        "HYPS_KEY": str(tmp_path / "both.pem"),
        "HYPS_TOKEN": "secret",
        "HYPS_LIMIT": "max_message=5 close_timeout=1",
        "HYPS_LOG_FORMAT": "json",
    }
    with running("serve", environment=environment) as hub:
        assert '"urls": ["hypss://127.0.0.1:' in hub.read_line(hub.process.stdout)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    environment = {"HYPS_UDS": str(path), "HYPS_UDS_MODE": "600"}
    with running("serve", environment=environment) as hub:
        assert hub.read_url() == f"hyps+unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.anyio
async def test_flags_go_before_variables_and_those_before_the_file(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        'token = "of the file"\nlog_format = "json"\n[limits]\nmax_message = 1\nmax_channel = 9\n',
    )
    environment = {
        "HYPS_CONFIG": config,
        "HYPS_TOKEN": "of the environment",
        "HYPS_LIMIT": "max_message=2",
        "HYPS_LOG_FORMAT": "text",
    }
    with serving(environment=environment) as (url, _):
        async with hyps.connect(url, token="of the environment") as client:
            await client.publish("a" * 9, b"12")
            with pytest.raises(hyps.MessageTooLarge):
                await client.publish("a", b"123")
            with pytest.raises(hyps.InvalidChannel):
                await client.publish("a" * 10, b"")
    arguments = ("--token", "of the command line", "--limit", "max_message=3")
    with serving(*arguments, environment=environment) as (url, _):
        async with hyps.connect(url, token="of the command line") as client:
            await client.publish("a", b"123")


def test_the_format_of_the_log_stands_in_the_file(tmp_path: Path) -> None:
    with running("serve", "--port", "0", "--config", write(tmp_path, 'log_format = "json"')) as hub:
        assert hub.read_line(hub.process.stdout).startswith('{"time": ')


@pytest.mark.parametrize("line", ['log_format = "xml"', 'backend = "gevent"'])
def test_a_choice_that_there_is_not(line: str, tmp_path: Path) -> None:
    path = write(tmp_path, line)
    command = [*HYPS, "serve", "--config", path, "--check-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 1
    name = line.split()[0]
    assert done.stderr.startswith(f"Error: {path}: {name}: ")
    assert " is not one of " in done.stderr


def test_empty_variables_are_not_set() -> None:
    names = ("HOST", "UDS", "UDS_MODE", "CERT", "KEY", "LIMIT", "LOG_FORMAT", "CONFIG")
    with serving(environment=dict.fromkeys((f"HYPS_{name}" for name in names), "")) as (url, hub):
        assert url.startswith("hyps://127.0.0.1:")
        code, _, err = hub.end(signal.SIGINT)
        assert (code, without_audit(err)) == (0, "hyps: closed\n")
