"""A subscription of a client, which keeps the account of each of its channels."""

from __future__ import annotations

from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import anyio

import hyps

from .account import Account, Ascending, Mismatch
from .stage import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from hyps._client.buffer import Overflow

    from .users import User

_POLICIES: Final[tuple[Overflow, ...]] = ("drop_newest", "drop_oldest", "latest", "close")

#: How many messages a buffer takes, and how many bytes.
_BUFFER_MESSAGES: Final = (3, 30, 1_000)
_BUFFER_BYTES: Final = (500, 50_000, 500_000)

#: Seconds from one change of the channels to the next, on average.
_CHANGE_EVERY: Final = 1.5


class Seat:
    """One subscription, from its entering to the check of what it was given."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._random = random = user.random
        self._report = user.report
        self._books = user.stage.books
        self._policy = random.choice(_POLICIES)
        self._own = f"own.{user.name}"
        self._first = random.sample(sorted(self._books), random.randint(0, 8))
        if random.random() < 0.5:
            self._first.append(self._own)
        self.subscription = user.client.subscribe(
            *self._first,
            gaps=True,
            overflow=self._policy,
            max_messages=random.choice(_BUFFER_MESSAGES),
            max_bytes=random.choice(_BUFFER_BYTES),
        )
        self._is_slow = random.random() < 0.3
        self._accounts: dict[str, Account] = {}
        self._of_own = Ascending()
        self._missed = 0
        self._missed_unknown = False
        self._ended = anyio.Event()
        # Set when everything is to be read up to here, and then when it was.
        self._goals: dict[str, tuple[int, int]] | None = None
        self._settled = anyio.Event()

    def has(self, channel: str) -> bool:
        return channel in self.subscription.channels

    # Life

    async def run(self) -> None:
        self._report.counts["subscriptions"] += 1
        try:
            async with AsyncExitStack() as stack:
                if await self._enter(stack):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._read, tasks.cancel_scope)
                        tasks.start_soon(self._change)
                        await self._settled.wait()
                        tasks.cancel_scope.cancel()
        finally:
            # Also when it is cancelled: the account has to be right at any time.
            self._read_rest()
            self._check()
            self._ended.set()

    async def leave(self) -> None:
        """Read what was published up to now, and leave."""
        accounts = self._accounts.items()
        self._goals = {name: self._books[name].acked for name, _ in accounts if self.has(name)}
        with anyio.move_on_after(PATIENCE) as patience:
            while not self._ended.is_set() and not self._has_passed(self._goals):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        if not patience.cancelled_caught:
            self._settled.set()
            await self._ended.wait()
            return
        late = [
            f"{name} at {self._accounts[name].position} of {goal}"
            for name, goal in self._goals.items()
            if self.has(name) and not self._accounts[name].has_passed(goal)
        ]
        self._report.fail(f"{self} was not told of messages within {PATIENCE} s: {late}")
        self._settled.set()
        await self._ended.wait()

    def __repr__(self) -> str:
        return f"{self._user.name}'s {self._policy} {self.subscription}"

    async def _enter(self, stack: AsyncExitStack) -> bool:
        return await self._join(self._first, stack.enter_async_context, self.subscription)

    # Changing

    async def _change(self) -> None:
        while True:
            await anyio.sleep(self._random.expovariate(1 / _CHANGE_EVERY))
            if self._goals is not None or self._user.stage.calm.is_set():
                return
            names = self._random.sample(sorted(self._books), self._random.randint(1, 3))
            if self._random.random() < 0.5:
                await self._join(names, self.subscription.subscribe, *names)
            else:
                await self._leave(names)

    async def _join(
        self, names: Iterable[str], call: Callable[..., Awaitable[object]], *arguments: object
    ) -> bool:
        """Join channels: all of them, or none."""
        joined = [name for name in names if not self.has(name)]
        accounts = []
        for name in joined:
            if name in self._books:
                account = self._accounts.setdefault(name, Account(self._books[name]))
                account.join(is_shared=self._user.is_shared(name, self))
                accounts.append(account)
        is_done = False
        try:
            with self._user.may_be_cancelled():
                try:
                    await self._user.in_time("joining", call, *arguments)
                    is_done = True
                except (hyps.ConnectionLost, hyps.Unavailable) as error:
                    self._report.counts[f"joinings that raised {type(error).__name__}"] += 1
                except (hyps.SubscriptionClosed, hyps.SubscriptionOverflow):
                    self._check_may_end()
        finally:
            for account in accounts:
                account.joined()
            held = [name for name in joined if self.has(name)]
            if not is_done:
                self._report.check(not held, f"{self} failed to join {joined} and holds {held}")
        return is_done

    async def _leave(self, names: list[str]) -> None:
        with self._user.may_be_cancelled():
            try:
                await self._user.in_time("leaving", self.subscription.unsubscribe, *names)
            except (hyps.ConnectionLost, hyps.Unavailable):
                pass
            except (hyps.SubscriptionClosed, hyps.SubscriptionOverflow):
                self._check_may_end()
        held = [name for name in names if self.has(name)]
        self._report.check(not held, f"{self} left {names} and holds {held}")

    # Reading

    async def _read(self, scope: anyio.CancelScope) -> None:
        methods: tuple[Callable[[], Awaitable[None]], ...] = (
            self._iterate,
            self._receive,
            self._receive_many,
        )
        try:
            while True:
                if self._is_slow and self._goals is None:
                    await anyio.sleep(self._random.expovariate(2))
                with self._user.may_be_cancelled():
                    await self._random.choice(methods)()
        except hyps.SubscriptionOverflow:
            self._report.counts["subscriptions closed by overflow"] += 1
            self._report.check(self._policy == "close", f"{self} ended as if its policy were close")
        except (StopAsyncIteration, hyps.SubscriptionClosed):
            self._check_may_end()
        scope.cancel()

    async def _iterate(self) -> None:
        self._take(await anext(self.subscription))

    async def _receive(self) -> None:
        self._take(await self.subscription.receive())

    async def _receive_many(self) -> None:
        for item in await self.subscription.receive_many():
            self._take(item)

    def _has_passed(self, goals: dict[str, tuple[int, int]]) -> bool:
        return all(
            self._accounts[name].has_passed(goal) for name, goal in goals.items() if self.has(name)
        )

    def _read_rest(self) -> None:
        """Read what was unread at the end: it counts too."""
        try:
            while True:
                self._take(self.subscription.receive_nowait())
                self._report.counts["items unread at the end"] += 1
        except (hyps.SubscriptionClosed, hyps.SubscriptionOverflow, hyps.ConnectionLost):
            pass

    def _take(self, item: hyps.Message | hyps.Gap) -> None:
        if isinstance(item, hyps.Gap):
            if item.missed is None:
                self._report.unknown[item.reason] += 1
                self._missed_unknown = True
            else:
                self._report.missed[item.reason] += item.missed
                self._missed += item.missed
        else:
            self._report.counts["messages delivered"] += 1
        account = self._of_own if item.channel == self._own else self._accounts[item.channel]
        with self._checking():
            account.take(item)

    @contextmanager
    def _checking(self) -> Iterator[None]:
        try:
            yield
        except Mismatch as error:
            self._report.fail(f"{self}: {error}")

    # Checking

    def _check_may_end(self) -> None:
        self._report.check(self._user.is_over or self._policy == "close", f"{self} ended")

    def _check(self) -> None:
        subscription = self.subscription
        for account in self._accounts.values():
            with self._checking():
                account.check_end()
            self._report.counts["accounts checked"] += 1
            self._report.counts["accounts without an unknown gap"] += account.is_exact
        is_unknown = subscription.missed_unknown
        # A gap of unknown size may have one of known size in it.
        adds_up = (
            self._missed <= subscription.missed
            if is_unknown
            else (self._missed == subscription.missed)
        )
        self._report.check(
            adds_up and is_unknown is self._missed_unknown,
            f"{self} missed {subscription.missed}, its gaps say {self._missed}; "
            f"unknown ones {is_unknown}, its gaps say {self._missed_unknown}",
        )
