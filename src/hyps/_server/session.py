"""One session of a hub: whether its client is let in, and what the logs say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._net.sockets import reason_of
from ..protocol import (
    Closed,
    Hello,
    PeerError,
    Refusal,
    RemoteProtocolError,
    Taken,
    TokenOffered,
)
from ..protocol._wire.detection import HTTP1Request
from .admission import Admission

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._logs import Log
    from .._net.engine import Engine
    from ..protocol import ClientEvent, ServerEvent, ServerProtocol
    from .audit import Audit
    from .census import Entry
    from .gate import Gate


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
    :param engine: gives the time
    :param log: the hub's
    :param audit: the hub's
    :param on_open: called when the session opens
    :param resume: called when the state has changed elsewhere than in :meth:`on_event`
    """

    __slots__ = (
        "_admission",
        "_audit",
        "_client",
        "_code",
        "_engine",
        "_entry",
        "_has_left",
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
        "_tls",
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
        self._entry = entry
        self._engine = engine
        self._log = log
        self._audit = audit
        self._on_open = on_open
        # How many codes of refusals the log has.
        self._refusals = 0
        self._admission = Admission(
            protocol,
            gate,
            engine,
            host=host,
            certificate=certificate,
            observer=self,
            resume=resume,
        )
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
            self._client = event.client
            self._admission.on_hello(event)
        elif isinstance(event, TokenOffered):
            self._admission.on_token(event.token)
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

    # What becomes of the client

    def on_opened(self, identity: str) -> None:
        """Note that the session is open."""
        self._identity = identity or None
        self._opened_at = self._engine.clock.now()
        self._entry.open(self._client or "", identity)
        self._audit.opened(self._audit_fields)
        self._on_open()

    def on_refused(self, what: str, code: str, why: str) -> None:
        """Note that the client is not let in, or its new token is not taken.

        :param what: see :data:`~.census.REASONS`
        :param code: of the error that it gets
        :param why: without a word about others
        """
        self._entry.refuse(what)
        if self._opened_at is None:
            self._note_refusal(code, why)
        else:
            self._log.warning("a new token was refused: %s", why, **self.fields)

    def on_shrunk(self) -> None:
        """Note that the client may subscribe less than before."""
        self._log.info("the grants have shrunk", **self.fields)

    async def review(self) -> None:
        """Decide anew what the client may do: the rules have changed."""
        await self._admission.review()

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
        self._admission.end()
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
