"""How a client is let in, and for how long: from HELLO to the end of its grants.

Grants can end by themselves, the client can replace its token, and the hub's rules can change. All
of this comes together here, and nothing else decides what a session may do.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from ..protocol import ErrorCode, State
from .gate import BEARER, EVERYBODY, CannotAuthenticate, Refused
from .identity import Credentials, GrantedAccess, Grants, may_hold_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._net.engine import Alarm, Engine
    from ..protocol import Hello, ServerProtocol
    from .gate import Gate

    class Observer(Protocol):
        """Learns what becomes of a client."""

        @property
        def fields(self) -> dict[str, Any]:
            """The fields of a line in the log about the client."""

        def on_opened(self, identity: str) -> None:
            """The session is open."""

        def on_refused(self, what: str, code: str, why: str) -> None:
            """The client is not let in."""

        def on_shrunk(self) -> None:
            """The client's grants have shrunk, and it is asked to come back."""

        def note_end(self, reason: str, code: str | None = None) -> None:
            """The hub is about to end the session."""


#: A client is warned this many seconds before its token expires, or a quarter of the time that is
#: left if that is less: enough to ask for another one and to try again.
_LONGEST_WARNING: Final = 60.0

#: Warning later is of no use.
_SHORTEST_WARNING: Final = 0.05

#: Some decades, in seconds: what clients take for a time.
_LONGEST: Final = 1e9

#: Of a session that is not open yet.
_NOTHING: Final = Grants()

#: What a session is once it has opened, until it ends.
_OPENED: Final = (State.OPEN, State.DRAINING)


class Admission:
    """What one client may do.

    :param protocol: its protocol object
    :param gate: decides who the client is
    :param engine: gives the time and calls :meth:`tick`
    :param host: address of the client, by which the hub counts wrong tokens
    :param certificate: the client's, if it has one
    :param observer: learns what happens, until :meth:`end`
    :param resume: called when the state has changed elsewhere than in an event's handler
    """

    __slots__ = (
        "_alarm",
        "_certificate",
        "_credentials",
        "_due",
        "_engine",
        "_gate",
        "_grants",
        "_host",
        "_is_refused",
        "_observer",
        "_protocol",
        "_resume",
    )

    def __init__(
        self,
        protocol: ServerProtocol,
        gate: Gate,
        engine: Engine,
        *,
        host: str,
        certificate: Mapping[str, Any] | None,
        observer: Observer,
        resume: Callable[[], object],
    ) -> None:
        self._protocol = protocol
        self._gate = gate
        self._engine = engine
        self._host = host
        self._certificate = certificate
        self._observer: Observer | None = observer
        self._resume = resume
        self._credentials: Credentials
        self._grants = _NOTHING
        # Whether the client is about to be told that it is refused.
        self._is_refused = False
        # What tick() will do, and the alarm for it.
        self._due: Callable[[], object]
        self._alarm: Alarm | None = None

    # Who the client is

    def on_hello(self, hello: Hello) -> None:
        """Let the client in or refuse it, now or when that is decided."""
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
        if self._observer is None:
            return
        try:
            grants = await self._gate.admit(self._credentials, self._observer.fields)
        except Refused as error:
            self._refuse_later(str(error))
        except CannotAuthenticate as error:
            self._tell_refusal("error", ErrorCode.INTERNAL, str(error))
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
            self._tell_refusal("limit", ErrorCode.LIMIT, "there are as many sessions as may be")
        elif self._observer is not None:
            self._observer.on_opened(grants.name)

    def _allow(self, grants: Grants) -> None:
        self._grants = grants
        everything = grants is EVERYBODY or grants is BEARER
        self._protocol.access = None if everything else GrantedAccess(grants)
        self._watch_expiry()

    def _refuse_later(self, why: str) -> None:
        if self._protocol.state is State.CLOSED:
            return
        # Tell it now: a guesser may not wait for the answer.
        self._tell_refusal("token", ErrorCode.AUTH, why)
        # Only this client waits: nothing else of its address does.
        now = self._engine.clock.now()
        delay = self._gate.penalize(self._host, now)
        left = _seconds_left(self._grants)
        delay = delay if left is None else min(delay, left)
        self._at(now + delay, partial(self._fail, why))
        self._is_refused = True

    def _tell_refusal(self, what: str, code: str, why: str) -> None:
        if self._observer is not None:
            self._observer.on_refused(what, code, why)

    # Later

    def on_token(self, token: str) -> None:
        """Take the token that the client offers, or end the session."""
        self._engine.start_soon(self._renew, replace(self._credentials, token=token))

    async def _renew(self, credentials: Credentials) -> None:
        if self._observer is None:
            return
        try:
            grants = await self._gate.admit(credentials, self._observer.fields)
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
        if self._protocol.state is State.GREETED and self._is_refused:
            self._is_refused = False
            self._drop_alarm()
            await self._identify()
        if self._protocol.state not in _OPENED or self._observer is None:
            return
        try:
            grants = await self._gate.review(self._credentials, self._grants, self._observer.fields)
        except Refused as error:
            if self._protocol.state in _OPENED:
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
            if self._observer is not None:
                self._observer.on_shrunk()
            self._protocol.revoke()
            self._go_away("what this client may subscribe has changed")

    def _watch_expiry(self) -> None:
        """Set the alarm for the warning before the grants expire."""
        left = _seconds_left(self._grants)
        if self._is_refused:
            pass  # that alarm is earlier
        elif left is None:
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
        # What is queued is for a client that may not have it any more.
        self._protocol.revoke()
        self._fail("the token has expired")

    def _go_away(self, reason: str) -> None:
        if self._observer is not None:
            self._observer.note_end(f"asked to leave: {reason}")
        self._protocol.go_away(reason)
        # The pump bounds the time that a goodbye takes.
        self._resume()

    def _fail(self, why: str) -> None:
        if self._protocol.state in _OPENED and self._observer is not None:
            self._observer.note_end(why, ErrorCode.AUTH)
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

    def end(self) -> None:
        """Do nothing more: the session has ended."""
        self._drop_alarm()
        self._observer = None


def _seconds_left(grants: Grants) -> float | None:
    if grants.expires_at is None:
        return None
    return min(max(0.0, grants.expires_at - time.time()), _LONGEST)
