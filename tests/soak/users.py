"""Clients that come, subscribe, change their minds, are cancelled, and go."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

import anyio

import hyps

from .account import encode_message
from .seats import Seat
from .stage import LIMITS, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from random import Random

    from .stage import Stage

#: Seconds that a client lives, on average.
_LIFE: Final = 12.0

#: The share of calls that are cancelled, if they take that long, and after how many seconds.
_CANCELLED: Final = 0.3
_CANCELLED_AFTER: Final = (0.0, 0.0, 0.001, 0.01, 0.1)

_Ending = Literal["politely", "by shutdown", "cancelled"]
_ENDINGS: Final[tuple[_Ending, ...]] = ("politely", "politely", "by shutdown", "cancelled")


class User:
    """One client, through the proxy, and its subscriptions.

    :param name: no other has it
    :param url: of the proxy
    """

    def __init__(self, stage: Stage, name: str, url: str, random: Random) -> None:
        self.stage = stage
        self.report = stage.report
        self.name = name
        self.random = random
        self.client = hyps.connect(url, reconnect_max_delay=0.05, limits=LIMITS)
        self.seats: list[Seat] = []
        #: The client is shut down, and what ends meanwhile has a reason to.
        self.is_over = False

    # Life

    async def live(self) -> None:
        self.report.counts["clients"] += 1
        try:
            if await self._connect():
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._watch)
                        tasks.start_soon(self._publish)
                        for _ in range(self.random.randint(1, 4)):
                            seat = Seat(self)
                            self.seats.append(seat)
                            tasks.start_soon(seat.run)
                        await self._end(scope)
        finally:
            self.is_over = True
            with anyio.CancelScope(shield=True):
                await self.in_time("shutdown()", self.client.shutdown)
        self.report.check(not self.client.connected, "a client was shut down and is connected")

    async def _connect(self) -> bool:
        """Connect, which the first time fails at once if there is no hub."""
        while not self.stage.leave.is_set():
            try:
                with self.may_be_cancelled():
                    await self.in_time("connect()", self.client.connect)
                    return True
            except hyps.ConnectionRefused:
                await anyio.sleep(0.1)
        return False

    async def _end(self, scope: anyio.CancelScope) -> None:
        with anyio.move_on_after(self.random.expovariate(1 / _LIFE)):
            await self.stage.leave.wait()
        ending = "politely" if self.stage.leave.is_set() else self.random.choice(_ENDINGS)
        self.report.counts[f"clients that left {ending}"] += 1
        match ending:
            case "politely":
                async with anyio.create_task_group() as tasks:
                    for seat in self.seats:
                        tasks.start_soon(seat.leave)
                self.is_over = True
                await self.client.shutdown()
            case "by shutdown":
                self.is_over = True
                await self.client.shutdown()
            case "cancelled":
                scope.cancel()

    async def _watch(self) -> None:
        """Check that losses and reconnects come in turn, and count them."""
        was_connected = False
        async for event in self.client.events():
            is_connected = not isinstance(event, hyps.Disconnected)
            # There may be several reasons why it is not connected, one after the other.
            is_next = not (is_connected and was_connected)
            self.report.check(is_next, f"{event} after its like")
            was_connected = is_connected
            if isinstance(event, hyps.Reconnected):
                self.report.counts["reconnects"] += 1
            elif isinstance(event, hyps.Disconnected):
                self._check_reason(event.reason)
        self.report.check(self.is_over, "the events of a client ended before it did")

    def _check_reason(self, reason: str) -> None:
        wrong = ("internal error", "(protocol)", "(limit)", "(too_large)", "not allow")
        if any(each in reason for each in wrong):
            self.report.fail(f"a connection was lost for a reason that there is none for: {reason}")

    async def _publish(self) -> None:
        """Publish in a channel of its own, now and then cancelled."""
        channel = f"own.{self.name}"
        for number in itertools.count(1):
            await anyio.sleep(self.random.expovariate(4))
            if self.is_over:
                return
            data = encode_message((0, number))
            with self.may_be_cancelled():
                try:
                    await self.in_time("publish()", self.client.publish, channel, data)
                except (hyps.ConnectionLost, hyps.Unavailable) as error:
                    self.report.counts[f"publishes that raised {type(error).__name__}"] += 1

    # Calls

    async def in_time(
        self, what: str, call: Callable[..., Awaitable[object]], *arguments: object
    ) -> None:
        """Await a call, which must end, whatever happens to the connection."""
        try:
            with anyio.fail_after(PATIENCE):
                await call(*arguments)
        except TimeoutError:
            self.report.fail(f"{what} of {self.name} took more than {PATIENCE} s")

    @contextmanager
    def may_be_cancelled(self) -> Iterator[anyio.CancelScope]:
        """Cancel what is within, or not."""
        with anyio.CancelScope() as scope:
            if self.random.random() < _CANCELLED:
                delay = self.random.choice(_CANCELLED_AFTER)
                scope.deadline = anyio.current_time() + self.random.uniform(0, delay)
            yield scope
        if scope.cancelled_caught:
            self.report.counts["calls cancelled"] += 1

    def is_shared(self, channel: str, seat: Seat) -> bool:
        """Tell whether another subscription of the client has a channel."""
        return any(each.has(channel) for each in self.seats if each is not seat)
