"""One session of a hub: whether its client is let in, and what the logs say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._net.sockets import reason_of
from ..protocol import (
    Closed,
    ErrorCode,
    Hello,
    PeerError,
    Refusal,
    RemoteProtocolError,
    State,
    Taken,
)
from ..protocol._wire.detection import HTTP1Request
from .gate import BEARER, EVERYBODY, CannotAuthenticate
from .identity import Credentials, GrantedAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._logs import Log
    from .._net.engine import Alarm, Engine
    from ..protocol import ClientEvent, ServerEvent, ServerProtocol
    from .audit import Audit
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
    :param tls: whether the connection has TLS
    :param entry: what operators see of it
    :param engine: gives the time and calls :meth:`tick`
    :param log: the hub's
    :param audit: the hub's
    :param on_open: called when the session opens
    :param resume: called when HELLO is answered later than in :meth:`on_event`
    """

    __slots__ = (
        "_alarm",
        "_audit",
        "_certificate",
        "_client",
        "_code",
        "_engine",
        "_entry",
        "_gate",
        "_has_left",
        "_host",
        "_identity",
        "_is_refused",
        "_log",
        "_number",
        "_on_open",
        "_opened_at",
        "_peer",
        "_protocol",
        "_reason",
        "_refusals",
        "_resume",
        "_tls",
        "_why",
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
        tls: bool,
        entry: Entry,
        engine: Engine,
        log: Log,
        audit: Audit,
        on_open: Callable[[], object],
        resume: Callable[[], object],
    ) -> None:
        self._number = number
        self._peer = peer
        # What the client calls itself, and its name in the grants.
        self._client: str | None = None
        self._identity: str | None = None
        self._tls = tls
        self._protocol = protocol
        self._host = host
        self._gate = gate
        self._certificate = certificate
        self._entry = entry
        self._engine = engine
        self._log = log
        self._audit = audit
        self._on_open = on_open
        self._resume = resume
        # How many codes of refusals the log has.
        self._refusals = 0
        # Why tick() will refuse the client, and the alarm for it.
        self._why = ""
        self._alarm: Alarm | None = None
        # When it was opened, if it was.
        self._opened_at: float | None = None
        self._is_refused = False
        # Whether the client sends nothing more.
        self._has_left = False
        # Why the session ends, and the code of the error by which the hub ends it.
        self._reason = ""
        self._code: str | None = None
        log.debug("connected", **self.fields)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of each line about the session."""
        return {"session": self._number, "identity": self._identity, "address": self._peer}

    @property
    def _audit_fields(self) -> dict[str, Any]:
        wire = self._protocol.wire_name or None
        return {**self.fields, "client": self._client, "wire": wire, "tls": self._tls}

    def on_event(self, event: ClientEvent | ServerEvent) -> None:
        """Handle an event of the protocol object."""
        if isinstance(event, Hello):
            self._on_hello(event)
        elif isinstance(event, Taken):
            for refused in self._protocol.refusals[self._refusals :]:
                # Clients of Hyps for Nim do not look at the codes of refusals.
                self._refusals += 1
                why = Refusal(0, bytes([refused])).error()
                self._log.warning("a record was refused: %s", why, **self.fields)
        elif isinstance(event, PeerError):
            self.note_end(f"the client gave up: {event.code}: {event.message}")
        elif isinstance(event, Closed):
            self._has_left = True

    def _on_hello(self, hello: Hello) -> None:
        self._client = hello.client
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
            grants = await self._gate.admit(credentials, self.fields)
        except CannotAuthenticate as error:
            self._entry.refuse("error")
            if self._protocol.state is State.GREETED:
                self._note_refusal(ErrorCode.INTERNAL, str(error))
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
            self._note_refusal(ErrorCode.LIMIT, "there are as many sessions as may be")
            return
        self._identity = grants.name or None
        self._opened_at = self._engine.clock.now()
        self._entry.open(credentials.client, grants.name)
        self._audit.opened(self._audit_fields)
        self._on_open()

    def _refuse_later(self, why: str) -> None:
        self._why = why
        self._entry.refuse("token")
        # Log it now: a guesser may not wait for the answer.
        self._note_refusal(ErrorCode.AUTH, why)
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
        """Note that the client broke the rules."""
        self._entry.refuse(error.code)
        if self._opened_at is not None:
            self.note_end(str(error), error.code)
        elif isinstance(error, HTTP1Request):
            self._audit.probed(self.fields)
        else:
            self._note_refusal(error.code, str(error))

    def _note_refusal(self, code: str, reason: str) -> None:
        if not self._is_refused:
            self._is_refused = True
            self._audit.refused(self._audit_fields, code, reason)

    def note_end(self, reason: str, code: str | None = None) -> None:
        """Note why the session is about to end, for the audit log. The first reason counts.

        :param code: of the error by which the hub ends it, if it does
        """
        if not self._reason:
            self._reason = reason
            self._code = code

    def end(self, broken: BaseException | None = None, *, is_leaving: bool = False) -> None:
        """Log that the connection has ended.

        :param broken: what broke it, if anything did
        :param is_leaving: whether the hub shuts down
        """
        if self._alarm is not None:
            self._engine.cancel(self._alarm)
            self._alarm = None
        if self._opened_at is None:
            self._log.debug("disconnected", **self.fields, reason=self._reason or None)
            return
        fields = {
            **self._audit_fields,
            "seconds": round(self._engine.clock.now() - self._opened_at, 3),
            "channels": self._protocol.channels_at_end,
            "published": self._protocol.published,
            "missed": self._protocol.missed,
            "bytes_received": self._protocol.bytes_received,
            "bytes_sent": self._protocol.bytes_sent,
        }
        self.note_end(self._why_ended(broken, is_leaving))
        self._audit.ended(fields, self._code, self._reason)

    def _why_ended(self, broken: BaseException | None, is_leaving: bool) -> str:
        if is_leaving:
            return "the hub shut down"
        if self._has_left:
            return "the client left"
        if broken is None:
            return "the hub closed the connection"
        why = reason_of(broken) if isinstance(broken, OSError) else str(broken)
        return f"the connection broke: {why or type(broken).__name__}"
