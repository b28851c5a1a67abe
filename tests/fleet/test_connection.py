"""A connection to a real Redis: what it carries, in which order, and how it ends."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from fleet.resp import LOGIN, scripted, spell
from fleet.seats import Seat, seated
from support.helpers import begin, let_others_run, wait_until
from support.redis import Redis, needs_redis, redis, tls_options

from hyps._fleet.addresses import parse_engine
from hyps._fleet.connection import EngineConnection
from hyps._net.engine import Engine
from hyps.protocol._fleet.engine import EngineError, Lost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, needs_redis]

#: Counts, and publishes the count: what the fleet does for each message.
PUBLISH = b"""
local count = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[1], count)
return count
"""


@pytest.fixture
async def seat(server: Redis) -> AsyncIterator[Seat]:
    async with seated(parse_engine(server.url)) as seat:
        yield seat


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_commands_and_replies(server: Redis, transport: str) -> None:
    async with seated(server.url_at(transport)) as seat:
        assert await seat.ask(b"SET", b"a", b"\r\n\0\xff") == b"OK"
        assert await seat.ask(b"GET", b"a") == b"\r\n\0\xff"
        assert await seat.ask(b"GET", b"b") is None
        assert await seat.ask(b"HINCRBY", b"a", b"n", b"1") == EngineError(
            "WRONGTYPE", "Operation against a key holding the wrong kind of value"
        )
        seat.connection.close()
        assert await seat.outcome.get() == "the hub has closed it"


async def test_tls(socket_folder: Path) -> None:
    context = ssl.create_default_context()
    options = tls_options(socket_folder, trustme.CA(), context)
    with redis(socket_folder, *options, tls=True) as server:
        async with seated(server.url_at("tls"), ssl_context=context) as seat:
            data = b"x" * 5_000_000
            assert await seat.ask(b"SET", b"a", data) == b"OK"
            assert await seat.ask(b"GET", b"a") == data
            server.kill()
            assert await seat.outcome.get()


async def test_operators_see_whose_connection_it_is(server: Redis) -> None:
    async with seated(parse_engine(server.url), name="hyps-7"):
        assert b" name=hyps-7 " in await server.call("CLIENT", "LIST")


async def test_the_database_is_the_urls(server: Redis) -> None:
    async with seated(parse_engine(f"{server.url}/3")) as seat:
        assert await seat.ask(b"SET", b"a", b"1") == b"OK"
        assert await server.call("GET", "a") is None
        assert b"db3:keys=1" in await server.call("INFO", "keyspace")


async def test_what_is_queued_in_one_pass_is_answered_in_order(seat: Seat) -> None:
    for _ in range(1000):
        seat.send(b"INCR", b"a")
    await wait_until(lambda: len(seat.told) == 1000)
    assert seat.told == [(number, number + 1) for number in range(1000)]


async def test_pushes_and_replies_have_one_order(server: Redis, seat: Seat) -> None:
    """A reply that tells a count stands between the messages up to it and those behind it."""
    script = await seat.ask(b"SCRIPT", b"LOAD", PUBLISH)
    assert await seat.ask(b"SUBSCRIBE", b"channel") is None
    async with seated(parse_engine(server.url)) as other, anyio.create_task_group() as tasks:

        async def publish() -> None:
            for _ in range(300):
                await other.ask(b"EVALSHA", script, b"1", b"count", b"channel")

        publishing = begin(tasks, publish)
        while not publishing.is_known:
            seat.send(b"GET", b"count")
            await seat.ask(b"EVALSHA", script, b"1", b"count", b"channel")
        await publishing.get()
    final = await seat.ask(b"GET", b"count")
    seen = 0
    for each in seat.told[1:]:
        if isinstance(each, list):
            seen += 1
            assert each == [b"message", b"channel", b"%d" % seen]
        else:
            assert int(each[1] or 0) == seen
    assert b"%d" % seen == final


async def test_messages_of_shard_channels_come_on_the_same_connection(seat: Seat) -> None:
    assert await seat.ask(b"SSUBSCRIBE", b"a", b"b") is None
    assert await seat.ask(b"SPUBLISH", b"a", b"1") == 1
    assert await seat.ask(b"SUNSUBSCRIBE", b"a", b"b") is None
    assert await seat.ask(b"SPUBLISH", b"a", b"2") == 0
    assert seat.pushes == [
        [b"ssubscribe", b"a", 1],
        [b"ssubscribe", b"b", 2],
        [b"smessage", b"a", b"1"],
        [b"sunsubscribe", b"a", 1],
        [b"sunsubscribe", b"b", 0],
    ]


async def test_a_subscription_is_answered_when_it_is_refused(seat: Seat) -> None:
    seat.send(b"SUBSCRIBE")
    seat.send(b"ECHO", b"next")
    await wait_until(lambda: len(seat.told) == 2)
    error = EngineError("ERR", "wrong number of arguments for 'subscribe' command")
    assert seat.replies == [error, b"next"]


async def test_a_script_that_was_flushed(server: Redis, seat: Seat) -> None:
    script = await seat.ask(b"SCRIPT", b"LOAD", PUBLISH)
    assert await server.call("SCRIPT", "FLUSH") == b"OK"
    reply = await seat.ask(b"EVALSHA", script, b"1", b"count", b"channel")
    assert isinstance(reply, EngineError)
    assert reply.code == "NOSCRIPT"


async def test_much_waits_and_leaves_when_the_engine_reads(server: Redis, seat: Seat) -> None:
    server.stop()
    for number in range(40):
        seat.send(b"SET", b"a", b"%d" % number * 500_000)
    await wait_until(lambda: seat.connection.backlog)
    await let_others_run()
    assert seat.connection.backlog > 1_000_000
    server.go_on()
    await wait_until(lambda: len(seat.told) == 40)
    assert seat.connection.backlog == 0
    assert seat.replies == [b"OK"] * 40
    assert await seat.ask(b"GET", b"a") == b"39" * 500_000


# The end


async def test_an_engine_that_is_killed(server: Redis, seat: Seat) -> None:
    server.stop()
    seat.send(b"INCR", b"a")
    await wait_until(lambda: seat.connection.backlog == 0)
    server.kill()
    assert await seat.outcome.get() in ("it closed the connection", "connection reset by peer")
    assert seat.told == [(0, Lost(was_sent=True))]
    seat.send(b"INCR", b"a")
    assert seat.told[1:] == [(1, Lost(was_sent=False))]


async def test_an_engine_that_is_frozen(server: Redis, seat: Seat) -> None:
    server.stop()
    seat.send(b"INCR", b"a")
    await wait_until(lambda: seat.connection.backlog == 0)
    # The socket does not take as much.
    seat.send(b"SET", b"a", b"x" * 50_000_000)
    seat.send(b"INCR", b"a")
    assert await seat.outcome.get() == "it did not answer for 2 seconds"
    assert seat.replies == [Lost(was_sent=True), Lost(was_sent=True), Lost(was_sent=False)]


async def test_an_engine_that_is_frozen_is_missed_by_who_only_listens(
    server: Redis, seat: Seat
) -> None:
    await seat.ask(b"SUBSCRIBE", b"channel")
    server.stop()
    assert await seat.outcome.get() == "it did not answer for 2 seconds"


async def test_an_operator_kills_the_connection(server: Redis, seat: Seat) -> None:
    number = await seat.ask(b"CLIENT", b"ID")
    assert await server.call("CLIENT", "KILL", "ID", str(number)) == 1
    assert await seat.outcome.get() in ("it closed the connection", "connection reset by peer")


@pytest.mark.parametrize(
    ("junk", "reason"),
    [
        (b"HTTP/1.1 400\r\n", "it sent something that is not Redis's protocol"),
        (spell(1) + spell(2), "it sent a reply to nothing"),
        (b">1000000000\r\n", "it sent a reply of more than 67108864 bytes"),
        (b"", "it closed the connection"),
    ],
)
async def test_an_engine_that_breaks_the_rules(junk: bytes, reason: str) -> None:
    async with (
        scripted(LOGIN | {b"ECHO": junk}) as host,
        seated(parse_engine(f"redis://{host}")) as seat,
    ):
        await seat.ask(b"ECHO")
        assert await seat.outcome.get() == reason


async def test_the_engines_output_limit(server: Redis, seat: Seat) -> None:
    limit = ("client-output-buffer-limit", "pubsub 1mb 0 0")
    assert await server.call("CONFIG", "SET", *limit) == b"OK"
    await seat.ask(b"SUBSCRIBE", b"channel")
    flood = "for i = 1, 500 do redis.call('PUBLISH', 'channel', string.rep('x', 100000)) end"
    await server.call("EVAL", flood, "0")
    assert await seat.outcome.get() in ("it closed the connection", "connection reset by peer")
    assert len(seat.pushes) < 500


async def test_whoever_cancels_it_loses_what_has_no_reply(server: Redis) -> None:
    url = parse_engine(server.url)
    told: list[object] = []
    async with (
        Engine() as flusher,
        EngineConnection.open(url, url.hosts[0], told.append, flusher) as connection,
        anyio.create_task_group() as tasks,
    ):
        running = begin(tasks, connection.run)
        server.stop()
        connection.send(b"INCR", b"a", on_reply=told.append)
        await wait_until(lambda: connection.backlog == 0)
        await running.cancel()
        assert told == [Lost(was_sent=True)]
        connection.send(b"INCR", b"a", on_reply=told.append)
        assert told[1:] == [Lost(was_sent=False)]


async def test_what_was_queued_before_it_runs_is_sent(server: Redis) -> None:
    url = parse_engine(server.url)
    replies: list[object] = []
    async with (
        Engine() as flusher,
        EngineConnection.open(url, url.hosts[0], replies.append, flusher) as connection,
        anyio.create_task_group() as tasks,
    ):
        connection.send(b"ECHO", b"early", on_reply=replies.append)
        tasks.start_soon(connection.run)
        await wait_until(lambda: replies == [b"early"])
        connection.close()


async def test_a_connection_that_never_runs_loses_what_was_queued(server: Redis) -> None:
    url = parse_engine(server.url)
    replies: list[object] = []
    async with (
        Engine() as flusher,
        EngineConnection.open(url, url.hosts[0], replies.append, flusher) as connection,
    ):
        connection.send(b"ECHO", b"early", on_reply=replies.append)
    assert replies == [Lost(was_sent=False)]
