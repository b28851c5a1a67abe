"""One session of a hub: whether its client is let in, and what the log says of it."""

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

    :param protocol: the session's protocol object
    :param number: the session's, which no other one of this hub has
    :param peer: the client's address, as the log has it
    :param host: address of the client, by which the hub counts wrong tokens
    :param token: the token that clients must present; None lets everybody in
    :param penalties: the hub's, which delay the answer to a wrong token
    :param engine: gives the time and calls :meth:`tick`
    :param log: the hub's
    :param on_open: called when the session opens
    """

    __slots__ = (
        "_alarm",
        "_engine",
        "_host",
        "_log",
        "_number",
        "_on_open",
        "_peer",
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
        number: str,
        peer: str,
        *,
        host: str,
        token: bytes | None,
        penalties: Penalties,
        engine: Engine,
        log: Log,
        on_open: Callable[[], object],
    ) -> None:
        #: What the log calls the session.
        self.name = f"{number} ({peer})"
        self._number = number
        self._peer = peer
        self._protocol = protocol
        self._host = host
        self._token = token
        self._penalties = penalties
        self._engine = engine
        self._log = log
        self._on_open = on_open
        # How many codes of refusals the log has.
        self._refusals = 0
        # Why tick() will refuse the client, and the alarm for it.
        self._why = ""
        self._alarm: Alarm | None = None
        log.debug("session %s: connected", self.name)

    def on_event(self, event: ClientEvent | ServerEvent) -> None:
        """Handle an event of the protocol object."""
        if isinstance(event, Hello):
            self._on_hello(event)
        elif isinstance(event, Taken):
            for refused in self._protocol.refusals[self._refusals :]:
                # Clients of Hyps for Nim do not look at the codes of refusals.
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
            # Log it now: a guesser may not wait for the answer.
            self._log.warning("session %s: refused: %s", self.name, self._why)
            # Only this client waits: nothing else of its address does.
            now = self._engine.clock.now()
            delay = self._penalties.impose(self._host, now)
            self._alarm = self._engine.watch(self, now + delay)
            return
        self._protocol.accept()
        if self._protocol.state is State.CLOSED:
            self._log.warning("session %s: refused (limit): there are as many as may be", self.name)
        else:
            if hello.client:
                self.name = f"{self._number} ({self._peer}, {hello.client})"
            self._log.debug("session %s: opened", self.name)
            self._on_open()

    async def tick(self) -> None:
        """Refuse the client whose token was wrong; the engine calls this after the delay."""
        self._alarm = None
        if self._protocol.state is State.GREETED:
            self._protocol.refuse(self._why, ErrorCode.AUTH)

    def on_violation(self, error: RemoteProtocolError) -> None:
        """Log that the client broke the rules."""
        # The code is part of the line's text, by which the log bounds its rate: many refusals with
        # one code do not crowd out the first one with another.
        self._log.warning(f"session %s: refused ({error.code}): %s", self.name, error)

    def end(self) -> None:
        """Log that the connection has ended."""
        if self._alarm is not None:
            self._engine.cancel(self._alarm)
            self._alarm = None
        missed = self._protocol.missed
        if missed:
            self._log.info("session %s: missed %d messages", self.name, missed)
        self._log.debug("session %s: ended", self.name)
