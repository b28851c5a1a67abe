"""SIGHUP: tokens, certificates and bounds change under load, and nobody loses anything."""

from __future__ import annotations

import datetime
import signal
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme
from support.helpers import PATIENCE
from support.processes import HYPS, in_thread, running, serving

import hyps

if TYPE_CHECKING:
    from pathlib import Path

    from support.processes import Running

pytestmark = pytest.mark.anyio

CONFIG = """
cert = "{folder}/cert.pem"
key = "{folder}/key.pem"

[[clients]]
name = "web"
token = {token}
subscribe = ["*"]
publish = ["*"]
"""


class Files:
    """The files of a hub, and what clients need to trust it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = str(folder / "hub.toml")
        self.renew_certificate()

    def renew_certificate(self, **options: Any) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("127.0.0.1", **options)
        issued.private_key_pem.write_to_path(self.folder / "key.pem")
        issued.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")

    def write(self, token: str, above: str = "", below: str = "") -> None:
        text = CONFIG.format(folder=self.folder, token=token)
        (self.folder / "hub.toml").write_text(f"{above}\n{text}\n{below}")

    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


async def hang_up(hub: Running, *, expect: str = "reloaded") -> list[str]:
    """Send SIGHUP, and read the log until it tells of the outcome."""
    hub.process.send_signal(signal.SIGHUP)
    lines: list[str] = []
    with anyio.fail_after(PATIENCE):
        while not lines or expect not in lines[-1]:
            lines.append(await in_thread(hub.read_line, hub.process.stderr))
    return lines


async def test_a_reload_under_load_loses_no_session_and_no_message(
    tmp_path: Path, backend: str
) -> None:
    files = Files(tmp_path)
    files.write('["old"]')
    received: list[int] = []
    done = anyio.Event()
    with serving("--config", files.config, "--backend", backend) as (url, hub):
        connect = partial(hyps.connect, url, when_disconnected="raise")
        async with (
            connect(token="old", ssl_context=files.trust()) as publisher,
            connect(token="old", ssl_context=files.trust()) as reader,
            reader.subscribe("news") as subscription,
            anyio.create_task_group() as tasks,
        ):
            published = 0

            async def publish() -> None:
                nonlocal published
                while not done.is_set():
                    await publisher.publish_many(
                        ("news", b"%d" % number) for number in range(published, published + 50)
                    )
                    published += 50

            async def read() -> None:
                async for message in subscription:
                    received.append(int(message.data))

            tasks.start_soon(publish)
            tasks.start_soon(read)
            for _ in range(3):
                files.renew_certificate()
                files.write('["old", "new"]')
                await hang_up(hub)
                files.write('["new"]')
                await hang_up(hub)
                # New connections: by the new certificate and token alone.
                async with connect(token="new", ssl_context=files.trust()):
                    pass
                with pytest.raises(hyps.AuthenticationFailed):
                    await connect(token="old", ssl_context=files.trust()).connect()
                so_far = published
                with anyio.fail_after(PATIENCE):
                    while published < so_far + 100:
                        await anyio.lowlevel.checkpoint()
            done.set()
            with anyio.fail_after(PATIENCE):
                while len(received) < published:
                    await anyio.lowlevel.checkpoint()
            assert reader.connected
            assert publisher.connected
            assert subscription.missed == 0
            subscription.leave()
            tasks.cancel_scope.cancel()
    assert received == list(range(published))


async def test_a_faulty_file_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write('["old"]')
    with serving("--config", files.config) as (url, hub):
        trust = files.trust()
        async with hyps.connect(url, token="old", ssl_context=trust) as client:
            files.write('["new"]', 'hots = "x"', "[limits]\nmax_message = 0")
            lines = await hang_up(hub, expect="max_message")
            assert any("not reloaded" in line and "host is meant" in line for line in lines)
            (tmp_path / "key.pem").write_text("nonsense")
            files.write('["new"]')
            await hang_up(hub, expect="no private key")
            expired = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
            files.renew_certificate(not_after=expired)
            await hang_up(hub, expect="expired")
            await client.publish("news", b"")
        async with hyps.connect(url, token="old", ssl_context=trust):
            pass
        code, _, errors = await in_thread(hub.end, signal.SIGTERM)
    assert code == 0
    assert "Traceback" not in errors


async def test_a_certificate_that_has_expired_is_told_at_the_start(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.renew_certificate(not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    files.write('["old"]')
    with serving("--config", files.config) as (url, hub):
        line = await in_thread(hub.read_line, hub.process.stderr)
        assert "no client will accept the certificate" in line
        assert "expired" in line
        # It can be mended without a restart.
        files.renew_certificate()
        await hang_up(hub)
        async with hyps.connect(url, token="old", ssl_context=files.trust()):
            pass


async def test_a_file_that_is_cut_off_lets_nobody_in(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text('[limits]\nmax_sessions = 50\n[[clients]]\nname = "web"\ntoken = "secret"\n')
    with serving("--config", str(config)) as (url, hub):
        for text in ("", "[limits]\nmax_sessions = 1\n", "clients = []", "token = ''"):
            config.write_text(text)
            await hang_up(hub, expect="not reloaded")
        config.write_text("[limits]\nmax_sessions = 1\n[jwt]\n")
        await hang_up(hub, expect="not reloaded: ")
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(url).connect()
        # Nothing of those files has taken effect.
        async with hyps.connect(url, token="secret"), hyps.connect(url, token="secret"):
            pass


async def test_each_reload_that_fails_is_told(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text("")
    with serving("--config", str(config)) as (_, hub):
        config.write_text("\n".join(f"unknown{number} = 1" for number in range(20)))
        for _ in range(3):
            lines = await hang_up(hub, expect="unknown19")
            assert sum("not reloaded" in line for line in lines) == 20


async def test_what_needs_a_restart_is_told(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write('["old"]')
    with serving("--config", files.config) as (url, hub):
        files.write('["old"]', 'host = "127.0.0.2"', "[limits]\nmax_sessions = 1")
        lines = await hang_up(hub)
        assert any("host has changed, and needs a restart" in line for line in lines)
        connect = partial(hyps.connect, url, token="old", ssl_context=files.trust())
        async with connect():
            with pytest.raises(hyps.ConnectionRefused, match="as many sessions"):
                await connect().connect()
        files.write('["old"]', below="[limits]\nmax_message = 5")
        await hang_up(hub, expect="max_message cannot change")


async def test_without_a_file_the_token_and_the_sessions_stay() -> None:
    with serving("--token", "secret") as (url, hub):
        async with hyps.connect(url, token="secret") as client:
            await hang_up(hub)
            await client.publish("news", b"")


# Certificates of clients


async def test_the_name_in_a_certificate_is_the_client_s(tmp_path: Path, scheme: str) -> None:
    files = Files(tmp_path)
    files.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "hub.toml").write_text(
        f"""
cert = "{tmp_path}/cert.pem"
key = "{tmp_path}/key.pem"
client_ca = "{tmp_path}/ca.pem"
[[clients]]
name = "billing"
publish = ["news"]
"""
    )

    expired = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

    def context(
        authority: trustme.CA | None, name: str = "billing", **options: Any
    ) -> ssl.SSLContext:
        trust = files.trust()
        trust.set_alpn_protocols(["h2"])
        if authority is not None:
            host = f"{name}.example"
            authority.issue_cert(host, common_name=name, **options).configure_cert(trust)
        return trust

    with serving("--config", files.config) as (url, hub):
        url = url.replace("hypss:", "https:" if scheme == "http" else "hypss:")
        async with hyps.connect(url, ssl_context=context(files.authority)) as client:
            await client.publish("news", b"")
            with pytest.raises(hyps.PermissionDenied):
                await client.publish("orders", b"")
            with pytest.raises(hyps.PermissionDenied):
                await client.subscribe("news").__aenter__()
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(url, ssl_context=context(files.authority, "web")).connect()
        for wrong in (
            context(None),
            context(trustme.CA()),
            context(files.authority, not_after=expired),
        ):
            with pytest.raises(hyps.ConnectionRefused, match=r"(?i)certificate|unknown ca|broke"):
                await hyps.connect(url, ssl_context=wrong).connect()
        _, _, errors = await in_thread(hub.end, signal.SIGTERM)
    assert "Traceback" not in errors
    for reason in ("did not return a certificate", "certificate has expired"):
        assert errors.count(reason) == 1, errors


async def test_a_certificate_without_a_table_is_enough(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ["--cert", tmp_path / "cert.pem", "--key", tmp_path / "key.pem"]
    options += ["--client-ca", tmp_path / "ca.pem", "-v"]
    with serving(*map(str, options)) as (url, hub):
        trust = files.trust()
        files.authority.issue_cert("x.example", common_name="worker").configure_cert(trust)
        async with hyps.connect(url, ssl_context=trust) as client:
            await client.publish("news", b"")
        _, _, errors = await in_thread(hub.end, signal.SIGTERM)
    assert "worker" in errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--client-ca", "{folder}/cert.pem"], "--client-ca: it needs --cert"),
        (
            ["--cert={folder}/cert.pem", "--key={folder}/key.pem", "--client-ca={folder}/key.pem"],
            "has no certificate",
        ),
    ],
)
async def test_options_that_do_not_fit(tmp_path: Path, options: list[str], words: str) -> None:
    Files(tmp_path)
    given = [option.format(folder=tmp_path) for option in options]
    with running("serve", *given, program=HYPS) as command:
        code, _, errors = await in_thread(command.end)
    assert code == 2
    assert words in errors
