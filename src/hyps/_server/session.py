"""What a hub decides, and logs, about one connection."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from ..protocol import ErrorCode, Hello, PeerError, Refusal, RemoteProtocolError, State, Taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._logs import Log
    from .._net.engine import Alarm, Engine
    from ..protocol import ClientEvent, ServerEvent, ServerProtocol
    from .strangers import Penalties


class Session:
    """One session, from the first byte to its end.

    :param protocol: its protocol object
    :param name: for the log
    :param host: address of the client, by which wrong tokens are counted
    :param token: what it must know; None lets everybody in
    :param penalties: of the hub
    :param engine: tells the time
    :param log: of the hub
    :param on_open: called when the session is open
    """

    __slots__ = (
        "_alarm",
        "_engine",
        "_host",
        "_log",
        "_on_open",
        "_penalties",
        "_protocol",
        "_refusals",
        "_token",
        "_why",
        "name",
    )

    def __init__(
        self,
        protocol: ServerProtocol,
        name: str,
        *,
        host: str,
        token: bytes | None,
        penalties: Penalties,
        engine: Engine,
        log: Log,
        on_open: Callable[[], object],
    ) -> None:
        self.name = name
        self._protocol = protocol
        self._host = host
        self._token = token
        self._penalties = penalties
        self._engine = engine
        self._log = log
        self._on_open = on_open
        # How many kinds of refusals were logged.
        self._refusals = 0
        # Why it is refused, and when.
        self._why = ""
        self._alarm: Alarm | None = None
        log.debug("session %s: connected", name)

    def on_event(self, event: ClientEvent | ServerEvent) -> None:
        """Take an event."""
        if isinstance(event, Hello):
            self._on_hello(event)
        elif isinstance(event, Taken):
            for refused in self._protocol.refusals[self._refusals :]:
                # Its client may not see them.
                self._refusals += 1
                why = Refusal(0, bytes([refused])).error()
                self._log.warning("session %s: a record was refused: %s", self.name, why)
        elif isinstance(event, PeerError):
            code, text = event.code, event.message
            self._log.info("session %s: the client gave up: %s: %s", self.name, code, text)

    def _on_hello(self, hello: Hello) -> None:
        token = self._token
        if token is not None and not hmac.compare_digest((hello.token or "").encode(), token):
            self._why = "a token is required" if hello.token is None else "the token is wrong"
            # Now, as who guesses may not wait for the answer.
            self._log.warning("session %s: refused: %s", self.name, self._why)
            # Who guesses waits, and nobody else does.
            now = self._engine.clock.now()
            delay = self._penalties.impose(self._host, now)
            self._alarm = self._engine.watch(self, now + delay)
            return
        self._protocol.accept()
        if self._protocol.state is State.CLOSED:
            self._log.warning("session %s: refused (limit): there are as many as may be", self.name)
        else:
            self._log.debug("session %s: client %s", self.name, hello.client)
            self._on_open()

    async def tick(self) -> None:
        """Refuse the client: it has waited for long enough."""
        self._alarm = None
        if self._protocol.state is State.GREETED:
            self._protocol.refuse(self._why, ErrorCode.AUTH)

    def on_violation(self, error: RemoteProtocolError) -> None:
        """Take it that the client broke the rules."""
        # Lines of each code are of a kind: many of one do not leave out the first of another.
        self._log.warning(f"session %s: refused ({error.code}): %s", self.name, error)

    def end(self) -> None:
        """Take it that the connection has ended."""
        if self._alarm is not None:
            self._engine.drop(self._alarm)
            self._alarm = None
        missed = self._protocol.missed
        if missed:
            self._log.info("session %s: missed %d messages", self.name, missed)
        self._log.debug("session %s: ended", self.name)
