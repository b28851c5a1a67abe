"""Where a client's token comes from: it is given once, or a function is asked each time."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
from anyio import to_thread

from ..protocol import HypsError, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._logs import Log
    from .connection import Connection

#: A token, or a function that returns one, async or not.
Token: TypeAlias = "str | Callable[[], str | Awaitable[str]]"

#: The longest and the shortest delay before a client asks again for a token that it did not get,
#: in seconds.
_LONGEST_DELAY: Final = 10.0
_SHORTEST_DELAY: Final = 0.1


class NoToken(Exception):
    """The application's function gave no token."""


async def ask_for(token: Token | None, seconds: float) -> str | None:
    """Return the token for the next session.

    :param token: as the application gave it; a function that is not async runs in a thread
    :param seconds: how long the function may take
    :raises NoToken: if the function fails, takes longer or returns something else
    """
    if token is None or isinstance(token, str):
        return token
    try:
        found: object
        with anyio.fail_after(seconds):
            if inspect.iscoroutinefunction(token):
                found = await token()
            else:
                found = await to_thread.run_sync(token, abandon_on_cancel=True)
                if inspect.isawaitable(found):
                    found = await found
    except TimeoutError:
        raise NoToken("the function for the token took too long") from None
    except Exception as error:
        raise NoToken(f"the function for the token failed: {error!r}") from error
    if not isinstance(found, str):
        raise NoToken(f"the function for the token returned no str: {type(found).__name__}")
    return found


async def renew(
    connection: Connection, token: Token, log: Log, expires_in: float, *, is_refused: bool
) -> None:
    """Give the hub a new token, before the session's own expires.

    :param expires_in: seconds
    :param is_refused: whether the hub could not take the one before
    """
    protocol = connection.protocol
    delay = max(_SHORTEST_DELAY, min(_LONGEST_DELAY, expires_in / 4))
    if is_refused:
        await anyio.sleep(delay)
    while protocol.state is State.OPEN:
        try:
            new = await ask_for(token, protocol.limits.hello_timeout)
            if new is not None and protocol.state is State.OPEN:
                protocol.authenticate(new)
        except (NoToken, ValueError, HypsError) as error:
            log.warning("the token expires, and there is no other one: %s", error)
        else:
            return
        await anyio.sleep(delay)
