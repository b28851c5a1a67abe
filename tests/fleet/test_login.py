"""What stands between a hub and an engine, said in one sentence that has no secret."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from fleet.resp import HELLO, LOGIN, scripted, spell, spell_info
from fleet.seats import seated
from support.helpers import hub_at
from support.redis import Redis, free_port, needs_redis, redis, sentinel, tls_options

from hyps._fleet.addresses import EngineURL, parse_engine
from hyps._fleet.talk import EngineUnavailable
from hyps.protocol._fleet.engine import EngineError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, needs_redis]


async def refusal(url: str | EngineURL, **options: Any) -> str:
    """Return why an engine cannot be used, behind its address."""
    engine = parse_engine(url) if isinstance(url, str) else url
    with pytest.raises(EngineUnavailable) as caught:
        async with seated(engine, **options):
            pass
    text = str(caught.value)
    assert "\n" not in text
    assert "s3cr3t" not in text
    start = f"no engine at {engine.hosts[0]}: "
    assert text.startswith(start)
    return text.removeprefix(start)


# What it says of itself


async def test_what_is_known_of_an_engine(server: Redis) -> None:
    async with seated(parse_engine(server.url)) as seat:
        info = seat.connection.info
        fields = (await seat.ask(b"INFO")).decode()
    assert f"master_replid:{info.replid}\r\n" in fields
    assert f"run_id:{info.run_id}\r\n" in fields
    name, version = info.version.split()
    assert f"{name.lower()}_version:{version}\r\n" in fields
    assert info.policy == "noeviction"
    assert not info.is_cluster


async def test_an_engine_that_restarts_is_another_one(socket_folder: Path) -> None:
    seen = set()
    for _ in range(2):
        with redis(socket_folder) as server:
            async with seated(parse_engine(server.url)) as seat:
                seen.add((seat.connection.info.replid, seat.connection.info.run_id))
    assert len(seen) == 2


# Who may log in


async def test_a_password(socket_folder: Path) -> None:
    file = socket_folder / "password"
    file.write_text("s3cr3t\n")
    with redis(socket_folder, "--requirepass", "s3cr3t") as server:
        for login in ("tcp", "unix"):
            async with seated(server.url_at(login, ":s3cr3t@")) as seat:
                assert await seat.ask(b"PING") == b"PONG"
        async with seated(parse_engine(f"{server.url}?password_file={file}")) as seat:
            assert await seat.ask(b"PING") == b"PONG"
        assert await refusal(server.url) == "it wants a password"
        wrong = "the password is wrong, or the user"
        assert await refusal(f"redis://:s3cr3t2@{server.host}") == wrong
        assert await refusal(f"redis://nobody:s3cr3t@{server.host}") == wrong
        file.unlink()
        assert (
            await refusal(f"{server.url}?password_file={file}")
            == f"no password: cannot read {file}: no such file or directory"
        )
        file.write_bytes(b"\xff")
        assert "it is no text in UTF-8" in await refusal(f"{server.url}?password_file={file}")


#: All that a hub needs, and what the engine says of a user who lacks one of them.
PERMISSIONS = {
    "+info": "no permissions to run the 'info' command",
    "+select": "no permissions to run the 'select' command",
    "+ping": "no permissions to run the 'ping' command",
    "+script|load": "no permissions to run the 'script|load' command",
    "+evalsha": "no permissions to run the 'evalsha' command",
    "+subscribe": "no permissions to run the 'subscribe' command",
    "+unsubscribe": "no permissions to run the 'unsubscribe' command",
    "&hyps:*": "no permissions to access",
}


async def test_permissions(server: Redis) -> None:
    url = f"redis://user:s3cr3t@{server.host}/1"
    user = ("ACL", "SETUSER", "user", "on", ">s3cr3t")
    assert await server.call(*user, "resetchannels", *PERMISSIONS) == b"OK"
    async with seated(parse_engine(url), channel="hyps:try") as seat:
        assert seat.connection.info.policy == "noeviction"
        reply = await seat.ask(b"GET", b"a")
        assert isinstance(reply, EngineError)
        assert reply.code == "NOPERM"
    for missing, text in PERMISSIONS.items():
        others = [each for each in PERMISSIONS if each != missing]
        assert await server.call(*user, "nocommands", "resetchannels", *others) == b"OK"
        why = await refusal(url, channel="hyps:try")
        # Engines differ in how they spell it.
        assert why.lower().startswith(f"the user lacks a permission: {text}")


# What will not do


async def test_a_replica(server: Redis, socket_folder: Path) -> None:
    with redis(socket_folder, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        assert await refusal(replica.url) == f"it is a replica, of {server.host}"


async def test_a_sentinel(server: Redis, socket_folder: Path) -> None:
    with sentinel(socket_folder, "name", server) as guard:
        why = "that is a Sentinel, whose URL begins with redis+sentinel://"
        assert await refusal(guard.url) == why


async def test_a_database_that_is_not_there(server: Redis) -> None:
    why = "it refused SELECT: ERR DB index is out of range"
    assert await refusal(f"{server.url}/99") == why


async def test_nobody_is_there(socket_folder: Path) -> None:
    assert await refusal(f"redis://127.0.0.1:{free_port()}") == "connection refused"
    assert await refusal(f"redis+unix://{socket_folder}/none") == "no such file or directory"
    assert await refusal("redis://no.such.host.invalid")


async def test_nobody_answers(server: Redis) -> None:
    server.stop()
    assert await refusal(server.url) == "it did not answer for 2 seconds"


async def test_somebody_without_tls(server: Redis) -> None:
    # Redis waits for the end of a line.
    why = "nobody has answered for 2 seconds; perhaps there is no TLS there"
    assert await refusal(f"rediss://{server.host}") == why


async def test_a_certificate_that_nobody_trusts(socket_folder: Path) -> None:
    options = tls_options(socket_folder, trustme.CA(), ssl.create_default_context())
    with redis(socket_folder, *options, tls=True) as server:
        why = await refusal(server.url_at("tls"))
        assert why == "TLS: self-signed certificate in certificate chain"


async def test_something_else(socket_folder: Path) -> None:
    async with hub_at("tcp", socket_folder) as url:
        why = await refusal(url.replace("hyps", "redis", 1))
        assert why.startswith(("it sent something", "it closed", "connection reset"))


# Engines that cannot be started here


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ({}, "it does not speak RESP3: Redis 7 or Valkey is needed"),
        ({b"HELLO": b"-NOPROTO unsupported\r\n"}, "it does not speak RESP3"),
        ({b"HELLO": b"+OK\r\n"}, "it does not speak RESP3"),
        ({b"HELLO": b"HTTP/1.1 400 Bad\r\n\r\n"}, "it sent something that is not Redis's protocol"),
        ({b"HELLO": b""}, "it closed the connection"),
        ({b"HELLO": b"$99999999\r\n"}, "it sent a reply of more than"),
        ({b"HELLO": b"-ERR max number of clients reached\r\n"}, "it refused HELLO: ERR max"),
        ({b"HELLO": b"-DENIED Redis is running in protected mode\r\n"}, "it is in protected mode"),
        ({b"HELLO": HELLO, b"INFO": b"-LOADING Redis is loading\r\n"}, "it is not ready: Redis is"),
        ({b"HELLO": HELLO}, "it refused INFO: ERR unknown command"),
        ({b"HELLO": HELLO, b"INFO": spell(1)}, "it is Redis (no version)"),
        (
            {b"HELLO": HELLO, b"INFO": spell_info(redis_version="6.2.1")},
            "it is Redis 6.2.1: Redis 7 or",
        ),
        ({b"HELLO": HELLO, b"INFO": spell_info(role="slave")}, "it is a replica, of ?:?"),
        ({b"HELLO": HELLO, b"INFO": spell_info(master_replid="", run_id="")}, "INFO has neither"),
    ],
)
async def test_engines_that_will_not_do(script: dict[bytes, bytes], why: str) -> None:
    async with scripted(script) as host:
        assert (await refusal(f"redis://{host}")).startswith(why)


async def test_what_an_engine_says_is_shown_safely() -> None:
    error = b"-ERR \x1b[2J args beginning with: 3 AUTH user s3cr3t\r\n"
    async with scripted({b"HELLO": error}) as host:
        why = await refusal(f"redis://user:s3cr3t@{host}")
    assert why == r"it refused HELLO: ERR \x1b[2J args beginning with: 3 AUTH user ***"
    async with scripted({b"HELLO": b"-ERR " + b"x" * 9000 + b"\r\n"}) as host:
        assert len(await refusal(f"redis://{host}")) < 400


async def test_valkey_has_versions_of_its_own() -> None:
    script = LOGIN | {b"INFO": spell_info(valkey_version="9.1.0", master_replid="")}
    async with scripted(script) as host, seated(parse_engine(f"redis://{host}")) as seat:
        found = seat.connection.info
        assert found.version == "Valkey 9.1.0"
        assert found.replid == found.run_id == "b"
        assert found.policy is None
