"""Where a client's token comes from: it is given once, or a function is asked each time."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
from anyio import to_thread

from ..protocol import HypsError, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._logs import Log
    from ..protocol import TokenExpiry
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


class Renewer:
    """Gives the hub another token before a session's own expires.

    :param token: as the application gave it
    :param log: the client's
    """

    def __init__(self, token: Token | None, log: Log) -> None:
        self._token = token
        self._log = log
        # The connection that gets one now. Its task may end before it has begun.
        self._renewing: Connection | None = None
        self._began_at = -math.inf

    def on_expiry(self, expiry: TokenExpiry, connection: Connection, hub: str) -> None:
        """See to it that the session gets another token, if it is about to need one.

        :param expiry: what the hub has said
        :param hub: the hub's name in the log
        """
        left = expiry.expires_in
        if left is None or expiry.renewed or self._renewing is connection:
            return
        is_refused = expiry.renewed is False
        if callable(self._token):
            self._renewing = connection
            connection.start(partial(self._renew, connection, left, is_refused=is_refused))
        elif not is_refused:
            self._log.warning(
                "%s: the token expires in %d seconds, and token= is no function that gives another",
                hub,
                left,
            )

    async def _renew(self, connection: Connection, expires_in: float, *, is_refused: bool) -> None:
        """Offer another token.

        :param expires_in: seconds
        :param is_refused: whether the hub could not take the one before
        """
        protocol = connection.protocol
        delay = max(_SHORTEST_DELAY, min(_LONGEST_DELAY, expires_in / 4))
        # However often the hub warns, the function is not called more often than this.
        too_early = self._began_at + _SHORTEST_DELAY - anyio.current_time()
        wait = delay if is_refused else too_early
        try:
            while True:
                if wait > 0:
                    await anyio.sleep(wait)
                self._began_at = anyio.current_time()
                if protocol.state is not State.OPEN:
                    return
                try:
                    new = await ask_for(self._token, protocol.limits.hello_timeout)
                    if new is not None and protocol.state is State.OPEN:
                        protocol.authenticate(new)
                except (NoToken, ValueError, HypsError) as error:
                    self._log.warning("the token expires, and there is no other one: %s", error)
                else:
                    return
                wait = delay
        finally:
            if self._renewing is connection:
                self._renewing = None
