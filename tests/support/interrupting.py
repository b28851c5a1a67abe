"""Calls that are cancelled at each of their suspensions in turn."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import anyio
from support.helpers import PATIENCE, let_others_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

T = TypeVar("T")

#: As it suspends; or as a suspension has ended, in whose place asyncio can then tell of a cancel().
Moment = Literal["suspends", "resumes"]

MOMENTS: Final[tuple[Moment, ...]] = ("suspends", "resumes")


class Interrupted(Generic[T]):
    """A call that is cancelled at its n-th suspension, and what became of it.

    :param number: 0 for none
    :param gives_up_after: passes of the event loop after which it is cancelled wherever it is
    """

    def __init__(
        self,
        call: Callable[[], Awaitable[T]],
        number: int,
        moment: Moment = "suspends",
        *,
        gives_up_after: int | None = None,
    ) -> None:
        self.was_reached = False
        #: What it returned, unless it was cancelled.
        self.results: list[T] = []
        self.suspensions = 0
        self._call = call
        self._number = number
        self._moment = moment
        self._passes = gives_up_after
        self._scope = anyio.CancelScope()
        self._thrown: BaseException | None = None

    async def run(self) -> None:
        try:
            with anyio.fail_after(PATIENCE), self._scope:
                async with anyio.create_task_group() as tasks:
                    if self._passes is not None:
                        tasks.start_soon(self._cancel_after, self._passes)
                    self.results.append(await self)
                    tasks.cancel_scope.cancel()
        except asyncio.CancelledError as error:
            if error is not self._thrown:
                raise

    def __await__(self) -> Generator[Any, Any, T]:
        # All that suspends comes by here, on its way to the event loop.
        steps = self._call().__await__()
        value: object = None
        error: BaseException | None = None
        while True:
            try:
                suspension = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            self.suspensions += 1
            is_now = self.suspensions == self._number
            self.was_reached = self.was_reached or is_now
            if is_now and self._moment == "suspends":
                self._scope.cancel()
            value = error = None
            try:
                value = yield suspension
            except BaseException as caught:
                error = caught
            else:
                if is_now and self._moment == "resumes":
                    error = self._cancel_now()

    def _cancel_now(self) -> BaseException | None:
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            # As a task's own cancel() does when what it waits for is there but it has not run yet.
            self._thrown = asyncio.CancelledError()
        else:
            self._scope.cancel()
        return self._thrown

    async def _cancel_after(self, passes: int) -> None:
        await let_others_run(passes)
        self._scope.cancel()


async def cancel_at_each(
    call: Callable[[], Awaitable[T]], *, suspensions: int = 1, may_be_early: bool = False
) -> AsyncIterator[Interrupted[T]]:
    """Call again and again, cancelled a suspension later each time, until it ends before.

    :param suspensions: how many there are, at least
    :param may_be_early: what it waits for may be there before it can be cancelled
    """
    for moment in MOMENTS:
        cancelled = 0
        for number in itertools.count(1):
            attempt = Interrupted(call, number, moment)
            await attempt.run()
            cancelled += not attempt.results
            yield attempt
            if not attempt.was_reached:
                break
        assert attempt.results
        assert number > suspensions
        assert cancelled or moment == "resumes" or may_be_early


async def cancel_while_it_waits(call: Callable[[], Awaitable[object]]) -> None:
    """Cancel a call that waits in vain at each suspension: then it waits for nothing else."""
    for number in itertools.count(1):
        attempt = Interrupted(call, number, gives_up_after=50)
        await attempt.run()
        assert not attempt.results
        if not attempt.was_reached:
            assert number > 1
            return
        # A checkpoint of trio that raises takes two.
        assert attempt.suspensions <= number + 1
