"""Connections to an engine that run, as a hub would hold them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from support.helpers import PATIENCE, Outcome, begin

from hyps._fleet.connection import EngineConnection
from hyps._net.engine import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyps._fleet.addresses import EngineURL, Node


class Seat:
    """A connection that runs, and everything that came of it, in order."""

    connection: EngineConnection
    #: What :meth:`~hyps._fleet.connection.EngineConnection.run` returns.
    outcome: Outcome[str]

    def __init__(self) -> None:
        #: Pushes are lists, replies are tuples of a number and a reply.
        self.told: list[Any] = []
        self._sent = 0

    @property
    def pushes(self) -> list[list[Any]]:
        return [each for each in self.told if isinstance(each, list)]

    @property
    def replies(self) -> list[Any]:
        return [each[1] for each in self.told if isinstance(each, tuple)]

    def send(self, *command: bytes) -> None:
        """Queue a command, whose reply is told."""
        number = self._sent
        self._sent += 1
        self.connection.send(*command, on_reply=lambda reply: self.told.append((number, reply)))

    async def ask(self, *command: bytes) -> Any:
        """Send a command, and wait for its reply."""
        replies: list[Any] = []
        come = anyio.Event()

        def on_reply(reply: object) -> None:
            replies.append(reply)
            come.set()

        self.connection.send(*command, on_reply=on_reply)
        with anyio.fail_after(PATIENCE):
            await come.wait()
        [reply] = replies
        return reply


@asynccontextmanager
async def seated(url: EngineURL, node: Node | None = None, **options: Any) -> AsyncIterator[Seat]:
    """Run a connection to a node; the first one of the URL, if none is given."""
    seat = Seat()
    async with (
        Engine() as flusher,
        EngineConnection.open(
            url, node or url.hosts[0], seat.told.append, flusher, **options
        ) as seat.connection,
        anyio.create_task_group() as tasks,
    ):
        seat.outcome = begin(tasks, seat.connection.run)
        yield seat
        seat.connection.close()
