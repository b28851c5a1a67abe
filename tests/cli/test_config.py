"""The configuration file of ``hyps serve``."""

from __future__ import annotations

import datetime
import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import trustme
from support.pages import find
from support.processes import HYPS, TIMEOUT, serving

import hyps

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

SOUND = """
host = "127.0.0.1"
uds_mode = "660"
verbose = false

[limits]
max_message = 10
hello_timeout = 5.5

[[clients]]
name = "web"
token = ["old", "new"]
subscribe = ["*"]
publish = ["*"]

[[clients]]
name = "billing"
token_file = "{folder}/billing"
token_sha256 = "{digest}"
publish = ["user.*", "news"]
"""


def write(folder: Path, text: str) -> str:
    path = folder / "hub.toml"
    path.write_text(text)
    return str(path)


@pytest.fixture
def sound(tmp_path: Path) -> str:
    (tmp_path / "billing").write_text("from-a-file\n")
    digest = hashlib.sha256(b"digested").hexdigest()
    text = SOUND.format(folder=tmp_path, digest=digest)
    return write(tmp_path, text.replace('uds_mode = "660"\n', ""))


def check(path: str, **environment: str) -> tuple[int, str, list[str]]:
    command = [*HYPS, "serve", "--config", path, "--check-config"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


async def test_clients_have_tokens_and_grants(sound: str) -> None:
    with serving("--config", sound) as (url, _):
        for token in ("old", "new"):
            async with hyps.connect(url, token=token) as web, web.subscribe("any") as subscription:
                await web.publish("any", b"1")
                assert (await subscription.receive()).data == b"1"
        for token in ("from-a-file", "digested"):
            async with hyps.connect(url, token=token) as billing:
                await billing.publish("user.7", b"")
                with pytest.raises(hyps.PermissionDenied):
                    await billing.publish("user", b"")
                with pytest.raises(hyps.PermissionDenied):
                    await billing.subscribe("news").__aenter__()
                # The limits are those of the file.
                with pytest.raises(hyps.MessageTooLarge):
                    await billing.publish("news", bytes(11))
        for wrong in ("unknown", None):
            with pytest.raises(hyps.AuthenticationFailed):
                await hyps.connect(url, token=wrong).connect()


async def test_the_command_line_goes_before_the_file(sound: str) -> None:
    with serving("--config", sound, "--limit", "max_message=5") as (url, _):
        async with hyps.connect(url, token="new") as client:
            await client.publish("a", bytes(5))
            with pytest.raises(hyps.MessageTooLarge):
                await client.publish("a", bytes(6))


def test_a_sound_file(sound: str) -> None:
    assert check(sound) == (0, "the configuration is sound\n", [])


def test_the_example_of_the_documentation_is_sound(tmp_path: Path) -> None:
    assert check(write(tmp_path, find("text", "host = ")))[0] == 0


def test_every_fault_is_told_with_its_place(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
prot = 1
verbose = 1
port = "80"
[limits]
max_message = "x"
max_mesage = 1
heartbeat = 0
[[clients]]
name = "web"
token = ["a", ""]
publish = ["a*b"]
[[clients]]
token_sha256 = "zz"
token_file = "/no/such/file"
subscribe = 5
sbscribe = []
[[clients]]
name = "none"
""",
    )
    code, out, errors = check(path)
    assert (code, out) == (1, "")
    beginning = f"Error: {path}: "
    assert all(error.startswith(beginning) for error in errors)
    assert [error.removeprefix(beginning).split(": ")[0] for error in errors] == [
        "prot",
        "port",
        "verbose",
        "limits.max_mesage",
        "limits.max_message",
        "limits.heartbeat",
        "clients[1]",
        "clients[1].token",
        "clients[2].sbscribe",
        "clients[2].name",
        "clients[2].subscribe",
        "clients[2].token_file",
        "clients[2].token_sha256",
        "clients[3]",
    ]
    assert "perhaps port is meant" in errors[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("host = \nport = 1", "line 1"),
        ("clients = 5", "expected tables: [[clients]]"),
        ('token = "a"\n[[clients]]\nname = "b"\ntoken = "c"', "beside [[clients]]"),
        ('[[clients]]\nname = "b"\ntoken = ["c", "c"]', "the same token"),
        ("limits = 5", "expected a table"),
        ("port = 70000", ": port: 70000 is not in the range"),
        ('http = "8788"', ": http: bad address '8788': expected host:port"),
        ('uds = "a"\nuds_mode = "9"', ": uds_mode: '9' is no octal number"),
        ('uds_mode = "660"', ": uds_mode: it needs uds"),
        ('host = ""', ": host: it is empty"),
        ('token = ""', ": token: the token is empty"),
        ('cert = "missing"', "missing' does not exist"),
        ('cert = "hub.toml"', ": cert: {folder}/hub.toml has no certificate"),
        ('key = "hub.toml"', ": key: it needs cert"),
        ('[[clients]]\nname = "b"\ntoken_file = "no"', "{folder}/no: no such file"),
        ('[[clients]]\nname = "b"\ntoken_file = "hub.toml"', "more than one token"),
        (
            '[[clients]]\nname = "b"\ntoken = "c"\n[[clients]]\nname = "d"\ntoken = "e"\n'
            '[[clients]]\nname = "f"\ntoken = "c"',
            ": clients[3]: the same token as clients[1]",
        ),
    ],
)
def test_what_a_file_cannot_say(text: str, words: str, tmp_path: Path) -> None:
    code, out, errors = check(write(tmp_path, text))
    assert (code, out, len(errors)) == (1, "", 1)
    assert words.format(folder=tmp_path) in errors[0]


def test_faults_of_options_stand_beside_the_others(tmp_path: Path) -> None:
    authority = trustme.CA()
    expired = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    old = authority.issue_cert("old.example", not_after=expired)
    old.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "old.pem"))
    path = write(
        tmp_path,
        """
port = 70000
http = "8788"
cert = "old.pem"
client_ca = "hub.toml"
[limits]
max_message = 0
""",
    )
    code, out, errors = check(path)
    assert (code, out) == (1, "")
    assert sorted(error.removeprefix(f"Error: {path}: ").split(": ")[0] for error in errors) == [
        "cert",
        "client_ca",
        "http",
        "limits.max_message",
        "port",
    ]


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    one, other = authority.issue_cert("a.example"), authority.issue_cert("a.example")
    one.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    other.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    path = write(tmp_path, 'cert = "cert.pem"\nkey = "key.pem"')
    fault = f"Error: {path}: key: it is not the private key of the certificate"
    assert check(path) == (1, "", [fault])


async def test_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    (folder / "tokens").mkdir(parents=True)
    (folder / "tokens" / "web").write_text("secret")
    text = 'uds = "hub.sock"\n[[clients]]\nname = "web"\ntoken_file = "tokens/web"\n'
    write(folder, text + 'publish = ["*"]')
    monkeypatch.chdir(tmp_path)
    with serving("--config", "etc/hub.toml") as (url, _):
        assert url == f"hyps+unix://{folder}/hub.sock"
        async with hyps.connect(url, token="secret") as client:
            await client.publish("news", b"")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    code, _, errors = check(str(tmp_path / "nothing"))
    assert code == 1
    assert "no such file" in errors[0]


def test_a_token_on_the_command_line_and_clients_in_the_file(sound: str) -> None:
    command = [*HYPS, "serve", "--config", sound, "--token", "secret"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 2
    assert "--token is set beside the clients" in done.stderr


def test_a_token_in_the_environment_and_clients_in_the_file(sound: str) -> None:
    code, out, errors = check(sound, HYPS_TOKEN="secret")
    assert (code, out) == (2, "")
    assert "HYPS_TOKEN is set beside the clients" in errors[-1]
