"""The beginning of a connection: who we are, what the engine is, and whether it will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._net.sockets import reason_of
from ..protocol._fleet.engine import EngineError
from .addresses import Kind
from .talk import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..protocol._fleet.engine import Reply
    from .addresses import EngineURL
    from .talk import EngineUnavailable, Talk

#: The first version of Redis that will do: it has SSUBSCRIBE, and ACLs that tell channels apart.
_LEAST_VERSION: Final = 7

_NEEDED: Final = f"Redis {_LEAST_VERSION} or Valkey is needed"

#: What is answered, once it is permitted, to running a script that nobody has loaded, and to
#: subscribing a channel of a slot that is elsewhere.
_HARMLESS: Final = frozenset(["NOSCRIPT", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"])


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a node says of itself.

    :param replid: changes when a replica is promoted and when the node restarts, so that what was
        counted before is not taken for what was counted after
    :param run_id: changes when the node restarts
    :param version: its name and version, as in ``Redis 7.0.15``
    :param policy: what it does when its memory is full; None if it does not tell
    :param is_cluster: whether it is a node of a Cluster
    """

    replid: str
    run_id: str
    version: str
    policy: str | None
    is_cluster: bool


def read_credentials(talk: Talk, url: EngineURL) -> tuple[str, str] | None:
    """Return user and password.

    :raises EngineUnavailable: if they are in a file that cannot be read
    """
    try:
        return url.read_credentials()
    except (OSError, UnicodeDecodeError) as error:
        why = reason_of(error) if isinstance(error, OSError) else "it is no text in UTF-8"
        raise talk.failure(f"no password: cannot read {url.password_file}: {why}") from error


async def say_hello(talk: Talk, credentials: tuple[str, str] | None, name: str = "hyps") -> str:
    """Agree on RESP3, and log in.

    :param credentials: user and password
    :param name: of the connection, for operators: CLIENT LIST shows it
    :return: what the other end is: standalone, cluster or sentinel
    :raises EngineUnavailable: if it refuses
    """
    command = [b"HELLO", b"3"]
    if credentials is not None:
        command += [b"AUTH", *(each.encode() for each in credentials)]
    [reply] = await talk.ask([*command, b"SETNAME", name.encode()])
    if isinstance(reply, EngineError):
        if reply.code == "NOPROTO" or "unknown command" in reply.text:
            raise talk.failure(f"it does not speak RESP3: {_NEEDED}")
        if credentials is not None and credentials[1]:
            # Some errors quote the command.
            reply = EngineError(reply.code, reply.text.replace(credentials[1], "***"))
        raise _refusal(talk, "HELLO", reply)
    if not isinstance(reply, dict):
        raise talk.failure(f"it does not speak RESP3: {_NEEDED}")
    return _text(reply.get(b"mode", b""))


async def log_in(talk: Talk, url: EngineURL, name: str, channel: str) -> EngineInfo:
    """Log in at a node, and find out whether it will do.

    :param name: of the connection
    :param channel: the name of a channel that the user must be permitted
    :raises EngineUnavailable: if it will not do
    """
    mode = await say_hello(talk, read_credentials(talk, url), name)
    if mode == "sentinel":
        raise talk.failure("that is a Sentinel, whose URL begins with redis+sentinel://")
    info = await _read_info(talk)
    if info.is_cluster and url.kind is not Kind.CLUSTER:
        raise talk.failure("it is a node of a Cluster, whose URL begins with redis+cluster://")
    # What subscribes needs PING.
    await _try(talk, [b"PING"])
    if url.db:
        await _try(talk, [b"SELECT", b"%d" % url.db])
    shard, name_of_channel = b"S" * info.is_cluster, channel.encode()
    await _try(
        talk,
        [b"SCRIPT", b"LOAD", b"return 1"],
        [b"EVALSHA", b"0" * 40, b"0"],
        [shard + b"SUBSCRIBE", name_of_channel],
        [shard + b"UNSUBSCRIBE", name_of_channel],
    )
    return info


async def _read_info(talk: Talk) -> EngineInfo:
    [reply] = await talk.ask([b"INFO"])
    if isinstance(reply, EngineError):
        raise _refusal(talk, "INFO", reply)
    lines = _text(reply).splitlines()
    fields = {name: value for name, _, value in [line.partition(":") for line in lines]}
    version = fields.get("redis_version", "")
    if "valkey_version" in fields:
        version = f"Valkey {fields['valkey_version']}"
    else:
        major = version.partition(".")[0]
        if not major.isdecimal() or int(major) < _LEAST_VERSION:
            raise talk.failure(f"it is Redis {version or '(no version)'}: {_NEEDED}")
        version = f"Redis {version}"
    if fields.get("role") != "master":
        host, port = fields.get("master_host", "?"), fields.get("master_port", "?")
        raise talk.failure(f"it is a replica, of {host}:{port}")
    run_id = fields.get("run_id", "")
    replid = fields.get("master_replid", "") or run_id
    if not replid:
        raise talk.failure(
            "INFO has neither master_replid nor run_id, and a restart would be unnoticed"
        )
    return EngineInfo(
        replid,
        run_id or replid,
        version,
        fields.get("maxmemory_policy") or None,
        fields.get("cluster_enabled") == "1",
    )


async def _try(talk: Talk, *commands: Sequence[bytes]) -> None:
    """Find out what is not permitted, before there is anybody to disappoint."""
    for command, reply in zip(commands, await talk.ask(*commands), strict=True):
        if isinstance(reply, EngineError) and reply.code not in _HARMLESS:
            raise _refusal(talk, command[0].decode(), reply)


def _refusal(talk: Talk, what: str, error: EngineError) -> EngineUnavailable:
    return talk.failure(explain(error) or f"it refused {what}: {error}")


def _text(reply: Reply) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
