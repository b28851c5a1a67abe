"""One session of a hub: whether its client is let in, and what the log says of it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from ..protocol import (
    ErrorCode,
    Hello,
    PeerError,
    Refusal,
    RemoteProtocolError,
    State,
    Taken,
    TokenOffered,
)
from .gate import BEARER, EVERYBODY, CannotAuthenticate, Refused
from .identity import Credentials, GrantedAccess, Grants, may_hold_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._logs import Log
    from .._net.engine import Alarm, Engine
    from ..protocol import ClientEvent, ServerEvent, ServerProtocol
    from .census import Entry
    from .gate import Gate


#: A client is warned this many seconds before its token expires, or a quarter of the time that is
#: left if that is less: enough to ask for another one and to try again.
_LONGEST_WARNING: Final = 60.0

#: Warning later is of no use.
_SHORTEST_WARNING: Final = 0.05

#: What a session is once it has opened, until it ends.
_OPENED: Final = (State.OPEN, State.DRAINING)

#: Of a session that is not open yet.
_NOTHING: Final = Grants()


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
    :param resume: called when the state has changed elsewhere than in :meth:`on_event`
    """

    __slots__ = (
        "_alarm",
        "_certificate",
        "_credentials",
        "_due",
        "_engine",
        "_entry",
        "_gate",
        "_grants",
        "_host",
        "_log",
        "_number",
        "_on_open",
        "_peer",
        "_protocol",
        "_refusals",
        "_resume",
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
        self._credentials: Credentials
        self._grants = _NOTHING
        # What tick() will do, and the alarm for it.
        self._due: Callable[[], object]
        self._alarm: Alarm | None = None
        log.debug("session %s: connected", self.name)

    def on_event(self, event: ClientEvent | ServerEvent) -> None:
        """Handle an event of the protocol object."""
        if isinstance(event, Hello):
            self._on_hello(event)
        elif isinstance(event, TokenOffered):
            self._on_token(event.token)
        elif isinstance(event, Taken):
            for refused in self._protocol.refusals[self._refusals :]:
                # Clients of Hyps for Nim do not look at the codes of refusals.
                self._refusals += 1
                why = Refusal(0, bytes([refused])).error()
                self._log.warning("session %s: a record was refused: %s", self.name, why)
        elif isinstance(event, PeerError):
            code, text = event.code, event.message
            self._log.info("session %s: the client gave up: %s: %s", self.name, code, text)

    # Who the client is

    def _on_hello(self, hello: Hello) -> None:
        self._credentials = Credentials(
            token=hello.token,
            certificate=self._certificate,
            address=self._host,
            client=hello.client,
        )
        if self._gate.is_immediate:
            try:
                self._open(self._gate.admit_now(self._credentials))
            except Refused as error:
                self._refuse_later(str(error))
        else:
            self._engine.start_soon(self._identify)

    async def _identify(self) -> None:
        """Find out who the client is, and open the session or refuse it."""
        try:
            grants = await self._gate.admit(self._credentials, f"session {self.name}")
        except Refused as error:
            self._refuse_later(str(error))
        except CannotAuthenticate as error:
            self._entry.refuse("error")
            if self._protocol.state is State.GREETED:
                self._protocol.refuse(str(error), ErrorCode.INTERNAL)
        else:
            if self._protocol.state is State.GREETED:
                self._open(grants)
                self._resume()

    def _open(self, grants: Grants) -> None:
        self._allow(grants)
        self._protocol.accept(_seconds_left(grants))
        if self._protocol.state is State.CLOSED:
            self._entry.refuse("limit")
            self._log.warning("session %s: refused (limit): there are as many as may be", self.name)
            return
        self._entry.open(self._credentials.client, grants.name)
        who = [self._peer, self._credentials.client, grants.name]
        self.name = f"{self._number} ({', '.join(filter(None, who))})"
        self._log.debug("session %s: opened", self.name)
        self._on_open()

    def _allow(self, grants: Grants) -> None:
        self._grants = grants
        everything = grants is EVERYBODY or grants is BEARER
        self._protocol.access = None if everything else GrantedAccess(grants)
        self._watch_expiry()

    def _refuse_later(self, why: str) -> None:
        self._entry.refuse("token")
        if self._protocol.state is State.CLOSED:
            return
        # Log it now: a guesser may not wait for the answer.
        self._log.warning("session %s: refused: %s", self.name, why)
        # Only this client waits: nothing else of its address does.
        now = self._engine.clock.now()
        delay = self._gate.penalize(self._host, now)
        left = _seconds_left(self._grants)
        delay = delay if left is None else min(delay, left)
        self._at(now + delay, partial(self._fail, why))

    # Later

    def _on_token(self, token: str) -> None:
        self._engine.start_soon(self._renew, replace(self._credentials, token=token))

    async def _renew(self, credentials: Credentials) -> None:
        """Replace the client's token by another one of its own, or end the session."""
        try:
            grants = await self._gate.admit(credentials, f"session {self.name}")
        except Refused as error:
            self._refuse_later(str(error))
        except CannotAuthenticate:
            self._protocol.tell_expiry(_seconds_left(self._grants), renewed=False)
        else:
            if grants.name != self._grants.name:
                self._refuse_later("the token is another client's")
                return
            self._credentials = credentials
            self._protocol.tell_expiry(_seconds_left(grants), renewed=True)
            self._change(grants)

    async def review(self) -> None:
        """Decide what the client may do by the rules of now, which have changed."""
        if self._protocol.state is State.GREETED and self._alarm is not None:
            # It was about to be told that it is refused.
            self._drop_alarm()
            await self._identify()
        if self._protocol.state not in _OPENED:
            return
        try:
            grants = await self._gate.review(
                self._credentials, self._grants, f"session {self.name}"
            )
        except Refused as error:
            if self._protocol.state in _OPENED:
                self._log.warning("session %s: refused: %s", self.name, error)
                self._protocol.revoke()
                self._fail(str(error))
        except CannotAuthenticate:
            pass  # it stays what it was
        else:
            self._change(grants)

    def _change(self, grants: Grants) -> None:
        if self._protocol.state not in _OPENED:
            return
        old = self._grants
        self._allow(grants)
        if not may_hold_all(grants, old):
            self._log.info("session %s: its grants have shrunk", self.name)
            self._protocol.revoke()
            self._go_away("what this client may subscribe has changed")

    def _watch_expiry(self) -> None:
        """Set the alarm for the warning before the grants expire."""
        left = _seconds_left(self._grants)
        if left is None:
            self._drop_alarm()
        else:
            lead = min(_LONGEST_WARNING, left / 4)
            self._at(self._engine.clock.now() + left - lead, partial(self._warn, lead))

    def _warn(self, left: float) -> None:
        self._at(self._engine.clock.now() + left, self._expire)
        if left >= _SHORTEST_WARNING and not self._protocol.tell_expiry(left):
            # A new token takes a new session.
            self._go_away("the token expires")

    def _expire(self) -> None:
        if self._protocol.state in _OPENED:
            self._log.info("session %s: the token has expired", self.name)
            self._fail("the token has expired")

    def _go_away(self, reason: str) -> None:
        self._protocol.go_away(reason)
        # The pump bounds the time that a goodbye takes.
        self._resume()

    def _fail(self, why: str) -> None:
        self._protocol.fail(why, ErrorCode.AUTH)
        self._resume()

    # Time

    def _at(self, deadline: float, function: Callable[[], object]) -> None:
        """Call a function at a time, and none that was to be called before."""
        self._drop_alarm()
        if self._protocol.state is not State.CLOSED:
            self._due = function
            self._alarm = self._engine.watch(self, deadline)

    def _drop_alarm(self) -> None:
        if self._alarm is not None:
            self._engine.cancel(self._alarm)
            self._alarm = None

    async def tick(self) -> None:
        """Do what is due; the engine calls this."""
        self._alarm = None
        self._due()

    # Ending

    def on_violation(self, error: RemoteProtocolError) -> None:
        """Log that the client broke the rules."""
        # The code is part of the line's text, by which the log bounds its rate: many refusals with
        # one code do not crowd out the first one with another.
        self._entry.refuse(error.code)
        self._log.warning(f"session %s: refused ({error.code}): %s", self.name, error)

    def end(self) -> None:
        """Log that the connection has ended."""
        self._drop_alarm()
        missed = self._protocol.missed
        if missed:
            self._log.info("session %s: missed %d messages", self.name, missed)
        self._log.debug("session %s: ended", self.name)


def _seconds_left(grants: Grants) -> float | None:
    return None if grants.expires_at is None else max(0.0, grants.expires_at - time.time())
