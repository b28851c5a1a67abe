"""Whose turn it is to send, and what a pass of the event loop may take."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.helpers import let_others_run, wait_until
from support.peers import raw_client

import hyps
from hyps._net.engine import Engine
from hyps._server.session import Session
from hyps.protocol import Limits, ServerProtocol

if TYPE_CHECKING:
    from support.peers import Peer

pytestmark = pytest.mark.anyio

KIB = 1024
MIB = 1024 * KIB


class Sender:
    """Something that has bytes to send, and notes in which order these go."""

    def __init__(self, name: str, backlog: int, sent: list[str]) -> None:
        self.name = name
        self.backlog = backlog
        self._sent = sent

    def flush(self) -> None:
        if self.backlog:
            self._sent.append(self.name)
        self.backlog = 0


async def test_who_has_little_does_not_wait_for_those_who_have_much() -> None:
    sent: list[str] = []
    async with Engine() as engine:
        for number in range(20):
            engine.note_output(Sender(f"much {number}", MIB, sent))
        engine.note_output(Sender("little", 10, sent))
        engine.flush()
        assert sent[0] == "little"
        await wait_until(lambda: len(sent) == 21)
    assert sent[1:] == [f"much {number}" for number in range(20)]


async def test_a_pass_sends_no_more_than_it_may() -> None:
    sent: list[str] = []
    async with Engine() as engine:
        for number in range(20):
            engine.note_output(Sender(str(number), MIB, sent))
        engine.flush()
        assert 1 <= len(sent) <= 4
        passes = 0
        while len(sent) < 20:
            before = len(sent)
            await checkpoint()
            passes += 1
            assert len(sent) - before <= 8
        assert passes >= 3


async def test_a_message_for_thousands_is_sent_in_turns() -> None:
    sent: list[str] = []
    async with Engine() as engine:
        for number in range(5_000):
            engine.note_output(Sender(str(number), 100, sent))
        engine.flush()
        assert 0 < len(sent) < 1_000
        await wait_until(lambda: len(sent) == 5_000)
    assert sent == [str(number) for number in range(5_000)]


async def test_who_was_heard_just_now_goes_first() -> None:
    sent: list[str] = []
    async with Engine() as engine:
        senders = [Sender(str(number), 100, sent) for number in range(5_000)]
        for sender in senders:
            engine.note_output(sender)
        engine.flush(senders[-1])
        assert sent[0] == "4999"


async def test_those_with_much_have_their_turn_however_many_have_little() -> None:
    sent: list[str] = []
    async with Engine() as engine:
        engine.note_output(Sender("much", MIB, sent))
        for _ in range(10):
            for _ in range(2_000):
                engine.note_output(Sender("little", 100, sent))
            await checkpoint()
        assert "much" in sent


async def fill(server: hyps.Server, client: hyps.Client, raw: Peer) -> None:
    """Let a session that does not read have much that was not sent."""
    await raw.subscribe("a")
    while not server.broker.missed:
        await client.publish_many([("a", bytes(100_000))] * 10)


async def test_what_a_dead_session_had_unsent_is_free_at_once() -> None:
    """It must not wait for the collector of cycles, which comes late where memory is large."""
    size = 8 * MIB
    async with (
        hyps.Server(port=0, limits=Limits(max_buffer=size)) as server,
        hyps.connect(server.urls[0]) as client,
    ):
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            async with raw_client(server.urls[0]) as raw:
                await fill(server, client, raw)
                assert tracemalloc.get_traced_memory()[0] > size / 2
                await raw.reset()
            await wait_until(lambda: len(server.broker.sessions) == 1)
            await let_others_run()
            with anyio.fail_after(10):
                while tracemalloc.get_traced_memory()[0] > size / 4:
                    await checkpoint()
        finally:
            tracemalloc.stop()
            gc.enable()


def count_sessions() -> Counter[type]:
    return Counter(
        type(each) for each in gc.get_objects() if isinstance(each, ServerProtocol | Session)
    )


async def test_sessions_that_come_and_go_leave_no_cycles() -> None:
    async with hyps.Server(port=0) as server:
        gc.collect()
        gc.disable()
        # What tests before this one keep, such as event loops that were never closed, stays.
        before = count_sessions()
        try:
            for _ in range(20):
                async with raw_client(server.urls[0]) as raw:
                    await raw.subscribe("a")
                    await raw.reset()
            await wait_until(lambda: not server.broker.sessions)
            await let_others_run()
            assert all(count <= 2 for count in (count_sessions() - before).values())
        finally:
            gc.enable()
