"""A client that nothing happens to: it holds channels as long as a hub runs, and gets all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

import hyps

from .account import Account, Mismatch
from .stage import LIMITS

if TYPE_CHECKING:
    from .stage import Stage


async def keep(stage: Stage) -> None:
    """Hold the channels that the hub is not to forget, until everybody leaves."""
    report = stage.report
    accounts = {book.channel: Account(book) for book in stage.books.values() if book.is_kept}
    async with hyps.connect(stage.url, reconnect_max_delay=0.05, limits=LIMITS) as client:
        for account in accounts.values():
            account.join(is_shared=False)
        async with (
            client.subscribe(*accounts, gaps=True) as subscription,
            anyio.create_task_group() as tasks,
        ):
            for account in accounts.values():
                account.joined()
            tasks.start_soon(_read, stage, subscription, accounts)
            await stage.leave.wait()
            tasks.cancel_scope.cancel()
    for account in accounts.values():
        goal = stage.books[account.channel].acked
        report.check(account.has_passed(goal), f"the keeper has {account.position} of {goal}")
        report.counts["messages delivered to the keeper"] += account.read


async def _read(
    stage: Stage,
    subscription: hyps.Subscription[hyps.Message | hyps.Gap],
    accounts: dict[str, Account],
) -> None:
    async for item in subscription:
        # A burst may be more than the hub queues; but a connection is not lost without the hub.
        if isinstance(item, hyps.Gap) and item.missed is not None and item.reason != "hub":
            stage.report.fail(f"the keeper missed messages: {item}")
        try:
            accounts[item.channel].take(item)
        except Mismatch as error:
            stage.report.fail(f"the keeper: {error}")
