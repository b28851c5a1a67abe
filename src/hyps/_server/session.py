"""One session of a hub: whether its client is let in, and what the log says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol import ErrorCode, Hello, PeerError, Refusal, RemoteProtocolError, State, Taken
from .gate import BEARER, EVERYBODY, CannotAuthenticate
from .identity import Credentials, GrantedAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._logs import Log
    from .._net.engine import Alarm, Engine
    from ..protocol import ClientEvent, ServerEvent, ServerProtocol
    from .census import Entry
    from .gate import Gate
    from .identity import Grants


class Session:
    """One session, from the first byte to its end.

    :param protocol: the session's protocol object
    :param number: the session's, which no other one of this hub has
    :param peer: the client's address, as the log has it
    :param host: address of the client, by which the hub counts wrong tokens
    :param gate: decides who the client is
    :param certificate: the client's, if it has one
    :param entry: what operators see of it
    :param engine: gives the time and calls :meth:`tick`
    :param log: the hub's
    :param on_open: called when the session opens
    :param resume: called when HELLO is answered later than in :meth:`on_event`
    """

    __slots__ = (
        "_alarm",
        "_certificate",
        "_engine",
        "_entry",
        "_gate",
        "_host",
        "_log",
        "_number",
        "_on_open",
        "_peer",
        "_protocol",
        "_refusals",
        "_resume",
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
        gate: Gate,
        certificate: Mapping[str, Any] | None,
        entry: Entry,
        engine: Engine,
        log: Log,
        on_open: Callable[[], object],
        resume: Callable[[], object],
    ) -> None:
        #: What the log calls the session.
        self.name = f"{number} ({peer})"
        self._number = number
        self._peer = peer
        self._protocol = protocol
        self._host = host
        self._gate = gate
        self._certificate = certificate
        self._entry = entry
        self._engine = engine
        self._log = log
        self._on_open = on_open
        self._resume = resume
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
        credentials = Credentials(
            token=hello.token,
            certificate=self._certificate,
            address=self._host,
            client=hello.client,
        )
        if self._gate.is_immediate:
            self._decide(credentials, self._gate.admit_now(credentials))
        else:
            self._engine.start_soon(self._identify, credentials)

    async def _identify(self, credentials: Credentials) -> None:
        """Find out who the client is, and open the session or refuse it."""
        try:
            grants = await self._gate.admit(credentials, f"session {self.name}")
        except CannotAuthenticate as error:
            self._entry.refuse("error")
            if self._protocol.state is State.GREETED:
                self._protocol.refuse(str(error), ErrorCode.INTERNAL)
            return
        if self._protocol.state is State.GREETED:
            self._decide(credentials, grants)
            self._resume()

    def _decide(self, credentials: Credentials, grants: Grants | None) -> None:
        if grants is None:
            self._refuse_later(self._gate.why_refused(credentials))
        else:
            self._open(credentials, grants)

    def _open(self, credentials: Credentials, grants: Grants) -> None:
        if grants not in (EVERYBODY, BEARER):
            self._protocol.access = GrantedAccess(grants)
        self._protocol.accept()
        if self._protocol.state is State.CLOSED:
            self._entry.refuse("limit")
            self._log.warning("session %s: refused (limit): there are as many as may be", self.name)
            return
        self._entry.open(credentials.client, grants.name)
        who = [self._peer, credentials.client, grants.name]
        self.name = f"{self._number} ({', '.join(filter(None, who))})"
        self._log.debug("session %s: opened", self.name)
        self._on_open()

    def _refuse_later(self, why: str) -> None:
        self._why = why
        self._entry.refuse("token")
        # Log it now: a guesser may not wait for the answer.
        self._log.warning("session %s: refused: %s", self.name, self._why)
        # Only this client waits: nothing else of its address does.
        now = self._engine.clock.now()
        delay = self._gate.penalize(self._host, now)
        self._alarm = self._engine.watch(self, now + delay)

    async def tick(self) -> None:
        """Refuse the client whose token was wrong; the engine calls this after the delay."""
        self._alarm = None
        if self._protocol.state is State.GREETED:
            self._protocol.refuse(self._why, ErrorCode.AUTH)

    def on_violation(self, error: RemoteProtocolError) -> None:
        """Log that the client broke the rules."""
        # The code is part of the line's text, by which the log bounds its rate: many refusals with
        # one code do not crowd out the first one with another.
        self._entry.refuse(error.code)
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
