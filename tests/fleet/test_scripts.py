"""The scripts in a real Redis do what the model engine does, call by call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fleet.seats import Seat, seated
from protocol.fleet.model import ModelConnection, ModelEngine
from support.helpers import wait_until
from support.redis import Redis, needs_redis

from hyps._fleet.addresses import parse_engine
from hyps.protocol import encode
from hyps.protocol._fleet.engine import EngineError
from hyps.protocol._fleet.names import Names
from hyps.protocol._fleet.scripts import ALL, OPEN, PUBLISH, WHERE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyps.protocol._fleet.engine import Reply
    from hyps.protocol._fleet.scripts import Script

pytestmark = [pytest.mark.anyio, needs_redis]

NAMES = Names()
PART = NAMES.partition_key(0)


def key(name: bytes) -> bytes:
    return NAMES.channel_key(0, name)


class Both:
    """A real engine and the model of it, which are asked the same."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self.model = ModelEngine()
        self._connection = ModelConnection(self.model)

    async def ask(self, *command: bytes) -> Reply:
        real: Reply = await self._seat.ask(*command)
        modelled = self.model.execute(command, self._connection)
        if command[0] == b"SCRIPT":
            return real
        if isinstance(real, EngineError) and isinstance(modelled, EngineError):
            assert real.code == modelled.code
        else:
            assert real == modelled, command
        return real

    async def call(self, script: Script, keys: list[bytes], *arguments: bytes) -> Reply:
        return await self.ask(b"EVALSHA", script.digest, b"%d" % len(keys), *keys, *arguments)

    async def open(self, replid: bytes = b"r1", epoch: bytes = b"e1") -> Reply:
        return await self.call(OPEN, [PART], replid, epoch, b"60000", b"10", b"5")

    async def where(self, *names: bytes, epoch: bytes = b"e1") -> Reply:
        return await self.call(WHERE, [PART, *map(key, names)], epoch, b"30000", b"60000")

    async def publish(self, *runs: tuple[bytes, bytes], epoch: bytes = b"e1") -> Reply:
        arguments = [epoch, b"hub", b"PUBLISH"]
        for name, data in runs:
            run = encode(name.decode(), data) * len(data)
            arguments += (NAMES.engine_channel(0, name), b"%d" % len(data), run)
        return await self.call(PUBLISH, [PART, *[key(name) for name, _ in runs]], *arguments)


@pytest.fixture
async def both(server: Redis) -> AsyncIterator[Both]:
    async with seated(parse_engine(server.url)) as seat:
        both = Both(seat)
        for script in ALL:
            assert await both.ask(b"SCRIPT", b"LOAD", script.text) == script.digest
        yield both


async def test_a_partition_keeps_its_epoch_while_the_engine_is_the_same(both: Both) -> None:
    assert await both.open(b"r1", b"e1") == [b"ok", b"e1"]
    assert await both.open(b"r1", b"e2") == [b"ok", b"e1"]
    # After a promotion or a restart from disk the counts may be old ones.
    assert await both.open(b"r2", b"e3") == [b"ok", b"e3"]
    assert await both.where(b"a", epoch=b"e1") == b"stale"
    assert await both.publish((b"a", b"1"), epoch=b"e1") == b"stale"


async def test_channels_are_made_by_where_alone(both: Both) -> None:
    await both.open()
    assert await both.publish((b"a", b"1")) == [b""]
    assert await both.where(b"a", b"b") == [b"e1.1:0", b"e1.1:0"]
    assert await both.publish((b"a", b"12"), (b"b", b"1"), (b"c", b"1"), (b"a", b"1")) == [
        b"e1.1:2",
        b"e1.1:1",
        b"",
        b"e1.1:3",
    ]
    assert await both.where(b"c", b"a") == [b"e1.2:0", b"e1.1:3"]


async def test_counts_of_an_earlier_epoch_are_never_used_again(both: Both) -> None:
    await both.open(b"r1", b"e1")
    await both.where(b"a", b"b")
    await both.publish((b"a", b"123"), (b"b", b"12"))
    await both.open(b"r2", b"e2")
    assert await both.publish((b"a", b"1"), epoch=b"e2") == [b"e2.1:1"]
    assert await both.where(b"a", b"b", epoch=b"e2") == [b"e2.1:1", b"e2.2:0"]


async def test_one_key_that_is_something_else_spoils_no_other(both: Both, server: Redis) -> None:
    await both.open()
    await both.where(b"a", b"b")
    await server.call("SET", key(b"x"), "not a hash")
    seat = both._seat
    answers = await seat.ask(
        b"EVALSHA",
        PUBLISH.digest,
        b"4",
        PART,
        *map(key, (b"a", b"x", b"b")),
        *(b"e1", b"hub", b"PUBLISH"),
        *(b"ca", b"1", encode("a", b"1")),
        *(b"cx", b"1", encode("x", b"1")),
        *(b"cb", b"1", encode("b", b"1")),
    )
    assert isinstance(answers, list)
    assert (answers[0], answers[2]) == (b"e1.1:1", b"e1.1:1")
    assert answers[1].startswith(b"!WRONGTYPE")
    answers = await seat.ask(
        b"EVALSHA", WHERE.digest, b"3", PART, key(b"x"), key(b"a"), b"e1", b"30000", b"60000"
    )
    assert isinstance(answers, list)
    assert answers[0].startswith(b"!WRONGTYPE")
    assert answers[1] == b"e1.1:1"


async def test_hubs_with_other_limits_are_told(both: Both) -> None:
    await both.open()
    answer = await both._seat.ask(
        b"EVALSHA", OPEN.digest, b"1", PART, b"r1", b"e9", b"60000", b"11", b"5"
    )
    assert answer == [b"differs", b"10", b"5"]


async def test_keys_go_away_when_no_hub_needs_them(both: Both, server: Redis) -> None:
    await both.open()
    await both.where(b"a")
    assert 0 < await server.call("PTTL", key(b"a")) <= 30_000
    assert 0 < await server.call("PTTL", PART) <= 60_000


async def test_what_is_published_is_an_envelope(both: Both, server: Redis) -> None:
    await both.open()
    await both.where(b"a")
    channel = NAMES.engine_channel(0, b"a")
    async with seated(parse_engine(server.url)) as reader:
        await reader.ask(b"SUBSCRIBE", channel)
        await both.publish((b"a", b"xy"))
        await both._seat.ask(b"DEL", key(b"a"))
        both.model.delete("a")
        await both.publish((b"a", b"z"))
        run = encode("a", b"xy") * 2

        def messages() -> list[list[bytes]]:
            return [push[1:] for push in reader.pushes if push[0] == b"message"]

        await wait_until(lambda: len(messages()) == 2)
    assert messages() == [
        [channel, b"e1.1:2 2 hub\n" + run],
        # The key is gone: who holds the channel cannot know what it misses.
        [channel, b""],
    ]
