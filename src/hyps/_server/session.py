"""One session of a hub: whether its client is let in, and what the log says of it."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from ..protocol import ErrorCode, Hello, PeerError, Refusal, RemoteProtocolError, State, Taken
from .identity import Credentials, GrantedAccess, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._logs import Log
    from .._net.engine import Alarm, Engine
    from ..protocol import ClientEvent, ServerEvent, ServerProtocol
    from .identity import Authenticate, Grants
    from .strangers import Penalties


class Session:
    """One session, from the first byte to its end.

    :param protocol: the session's protocol object
    :param number: the session's, which no other one of this hub has
    :param peer: the client's address, as the log has it
    :param host: address of the client, by which the hub counts wrong tokens
    :param token: the token that clients must present; None lets everybody in
    :param authenticate: decides who the client is instead
    :param certificate: the client's, if it has one
    :param penalties: the hub's, which delay the answer to a wrong token
    :param engine: gives the time and calls :meth:`tick`
    :param log: the hub's
    :param on_open: called when the session opens
    :param resume: called when HELLO is answered later than in :meth:`on_event`
    """

    __slots__ = (
        "_alarm",
        "_authenticate",
        "_certificate",
        "_engine",
        "_host",
        "_log",
        "_number",
        "_on_open",
        "_peer",
        "_penalties",
        "_protocol",
        "_refusals",
        "_resume",
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
        authenticate: Authenticate | None,
        certificate: Mapping[str, Any] | None,
        penalties: Penalties,
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
        self._token = token
        self._authenticate = authenticate
        self._certificate = certificate
        self._penalties = penalties
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
        token = self._token
        if self._authenticate is not None:
            self._engine.start_soon(self._identify, self._authenticate, hello)
        elif token is None or hmac.compare_digest((hello.token or "").encode(), token):
            self._open(hello, None)
        else:
            self._refuse_later(
                "a token is required" if hello.token is None else "the token is wrong"
            )

    async def _identify(self, authenticate: Authenticate, hello: Hello) -> None:
        """Find out who the client is, and open the session or refuse it."""
        credentials = Credentials(
            token=hello.token,
            certificate=self._certificate,
            address=self._host,
            client=hello.client,
        )
        try:
            grants = await ask(authenticate, credentials, self._protocol.limits.hello_timeout / 2)
        except TimeoutError:
            self._log.warning("session %s: refused: authenticating took too long", self.name)
            self._refuse_now("the hub cannot authenticate clients now", ErrorCode.INTERNAL)
        except Exception:
            self._log.exception("session %s: authenticating failed", self.name)
            self._refuse_now("the hub cannot authenticate clients now", ErrorCode.INTERNAL)
        else:
            if self._protocol.state is not State.GREETED:
                return
            if grants is None:
                self._refuse_later("it is not known here")
            else:
                self._open(hello, grants)
                self._resume()

    def _open(self, hello: Hello, grants: Grants | None) -> None:
        if grants is not None:
            self._protocol.access = GrantedAccess(grants)
        self._protocol.accept()
        if self._protocol.state is State.CLOSED:
            self._log.warning("session %s: refused (limit): there are as many as may be", self.name)
            return
        who = [self._peer, hello.client, grants.name if grants is not None else ""]
        self.name = f"{self._number} ({', '.join(filter(None, who))})"
        self._log.debug("session %s: opened", self.name)
        self._on_open()

    def _refuse_now(self, why: str, code: str) -> None:
        if self._protocol.state is State.GREETED:
            self._protocol.refuse(why, code)

    def _refuse_later(self, why: str) -> None:
        self._why = why
        # Log it now: a guesser may not wait for the answer.
        self._log.warning("session %s: refused: %s", self.name, self._why)
        # Only this client waits: nothing else of its address does.
        now = self._engine.clock.now()
        delay = self._penalties.impose(self._host, now)
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
