"""Doing something until the user has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive


async def run_until_first(
    scope: anyio.CancelScope, *functions: Callable[[], Awaitable[object]]
) -> None:
    """Run functions until one of them ends, and raise its error as it is, without a group.

    :param scope: not entered; cancelling it ends all of them
    """
    errors: list[Exception] = []

    async def run_one(function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except Exception as error:
            errors.append(error)
        scope.cancel()

    with scope:
        async with anyio.create_task_group() as tasks:
            for function in functions:
                tasks.start_soon(run_one, function)
    if errors:
        raise errors[0]


async def run_until_disconnected(
    receive: Receive, scope: anyio.CancelScope, run: Callable[[], Awaitable[object]]
) -> None:
    """Run a function until it ends, or the user leaves."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await run_until_first(scope, run, watch)
