"""What an engine sends, spelled; and an engine that sends nothing but what it is told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import SocketAttribute

from hyps.protocol._fleet.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from anyio.abc import SocketStream


class Push(list[Any]):
    """A push."""


def spell(value: object) -> bytes:
    """Spell a reply or a push in RESP3."""
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case float():
            return b",%s\r\n" % repr(value).encode()
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case EngineError():
            return b"-%s\r\n" % str(value).encode()
        case list():
            kind = b">" if isinstance(value, Push) else b"*"
            return b"%s%d\r\n%s" % (kind, len(value), b"".join(map(spell, value)))
        case dict():
            return b"%%%d\r\n%s" % (
                len(value),
                b"".join(spell(key) + spell(each) for key, each in value.items()),
            )
    raise AssertionError(value)


#: What is enough of an answer to HELLO, and to INFO.
HELLO: Final = spell({b"server": b"redis", b"mode": b"standalone"})
INFO: Final = {"redis_version": "7.0.0", "role": "master", "master_replid": "a", "run_id": "b"}


def spell_info(**changes: str) -> bytes:
    """Spell INFO with lines that differ, or are left out if they are empty."""
    fields = {**INFO, **changes}
    return spell("".join(f"{name}:{text}\r\n" for name, text in fields.items() if text).encode())


#: What is enough of a login. The commands behind SCRIPT come with it, and so do their replies.
LOGIN: Final = {
    b"HELLO": HELLO,
    b"INFO": spell_info(),
    b"PING": spell(b"PONG"),
    b"SCRIPT": spell(b"0") + b"-NOSCRIPT\r\n" + 2 * spell(b"hyps"),
}


@asynccontextmanager
async def scripted(script: Mapping[bytes, bytes]) -> AsyncIterator[str]:
    """Give the host and port of what replies to a command by its first word.

    An empty reply ends the connection.
    """

    async def serve(stream: SocketStream) -> None:
        async with stream:
            async for data in stream:
                word = data.split(b"\r\n")[2]
                reply = script.get(word, spell(EngineError("ERR", "unknown command")))
                if not reply:
                    return
                await stream.send(reply)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        [port] = {each.extra(SocketAttribute.local_port) for each in listener.listeners}
        yield f"127.0.0.1:{port}"
        tasks.cancel_scope.cancel()
