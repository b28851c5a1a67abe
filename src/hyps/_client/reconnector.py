"""The task that gives a client its connection, and gives it another one when it is lost.

The task outlives the calls of its users and every connection. All that is known of a client's
connection lives here and not in the :class:`.Client`, so that a client that nobody refers to any
more can be noticed. Users wait only for an answer, for room, or for the connection to open or to
end.

When a connection is lost, everybody with an unanswered operation is told, and the position of each
channel is noted. When there is another connection, the Reconnector subscribes all channels in one
batch. Once that is answered, operations can begin again.

:mod:`.states` has the states, and what may follow each.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint

from .._errors import AuthenticationFailed, ConnectionLost, ConnectionRefused
from .._logs import Log
from .._net.addresses import name_of
from .._net.backend import here, spawn, waiter_type
from .._net.backoff import Backoff
from ..protocol import (
    Acked,
    Closed,
    ErrorCode,
    Gap,
    GoingAway,
    HypsError,
    Messages,
    PeerError,
    Pong,
    Refusal,
    Rejected,
    State,
    TokenExpiry,
    Welcome,
)
from .attempt import Attempt
from .connection import Unheard
from .losses import LossLog
from .reporter import Reporter
from .routes import Routes
from .states import CLIENT_TRANSITIONS, AttemptState, AttemptStep, ClientState, ClientStep
from .tokens import Renewer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._errors import ErrorFactory
    from ..protocol import ClientEvent, RemoteProtocolError, ServerEvent
    from .connection import Connection
    from .inbox import Inbox
    from .settings import Settings
    from .status import Status
    from .totals import Totals

#: A hub restores at least as many channels in a second.
_RESTORES_PER_SECOND: Final = 10_000

#: The log sums up losses for this long, in seconds, before it tells of them.
_LOSSES_TIME: Final = 1.0


class Reconnector:
    """Dials, keeps and restores the connection of one client.

    :param settings: how to connect
    :param status: learns of each change
    :param totals: counts for all connections of the client
    :param is_in_background: no caller waits who could be told that there is no hub
    """

    def __init__(
        self,
        settings: Settings,
        status: Status,
        totals: Totals,
        *,
        is_in_background: bool = False,
    ) -> None:
        self._settings = settings
        self._is_in_background = is_in_background
        #: Everything that this client logs.
        self.log = Log("hyps.client")
        self._url = name_of(settings.addresses)
        self._reporter = Reporter(self.log, status, self._url)
        self._home = here()
        #: Whether the caller runs in the event loop of the client. Others must wake nobody, and
        #: would do things in the middle of other changes.
        self.is_here = self._home.is_here
        #: Makes what one task waits for.
        self.new_waiter = waiter_type()
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        # Set while the client is open, and when it never will be again.
        self._decided = anyio.Event()
        # The number of calls that wait for it to open, and whether one has seen it open.
        self._openers = 0
        self._is_taken = is_in_background
        self._state = ClientState.STARTING
        #: Why nothing new can begin ever again.
        self.over: ErrorFactory | None = None
        # Why hosts refused the first connection.
        self._refusals: list[HypsError] = []
        self._backoff = Backoff(settings.reconnect_max_delay)
        self._renewer = Renewer(settings.token, self.log)
        #: The subscriptions and their channels.
        self.routes = Routes()
        #: The first error of operations that nobody awaits.
        self.unheard = Unheard()
        self._totals = totals
        #: Counts losses for the log.
        self.losses = LossLog(self.log, self._remind_of_losses, totals)
        self._attempt: Attempt | None = None
        #: The connection, if operations can begin on it.
        self.open_connection: Connection | None = None

    @property
    def connection(self) -> Connection | None:
        """The connection, if there is one in any state."""
        return None if self._attempt is None else self._attempt.connection

    # Lifetime

    @property
    def url(self) -> str:
        """URL of the hub that it connects to, or is connected to."""
        return self._url

    @property
    def is_open(self) -> bool:
        """Whether something new can begin. Any thread may ask."""
        return self.open_connection is not None and not self._home.is_gone

    @property
    def trouble(self) -> str | None:
        """Why the client is not open, if that is known."""
        if self.over is not None:
            # If there never was a connection, what prevented it says more.
            failure = None if self._was_open else self._reporter.trouble
            return failure or str(self.over())
        return None if self.open_connection is not None else self._reporter.trouble

    @property
    def is_over(self) -> bool:
        """Whether the client is closing or has ended."""
        return self.over is not None

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked from the one that the client belongs to."""
        return self._home.is_inherited

    @property
    def _was_open(self) -> bool:
        return self._reporter.was_open

    @property
    def _waits_first(self) -> bool:
        return self._settings.waits_first or self._is_in_background

    def start(self) -> None:
        """Start to dial, in a task of its own."""
        spawn(self._run, f"hyps client of {self._url}")

    def check_here(self) -> None:
        """Raise if the caller runs in another event loop, thread or process.

        :raises RuntimeError: with advice that works there
        :raises HypsError: if the client has ended, wherever that was
        """
        if not self.is_here():
            has_ended = self._state in (ClientState.ENDED, ClientState.ABANDONED)
            if self.over is not None and has_ended:
                raise self.over()
            raise RuntimeError(self._home.advice())

    def abandon_if_gone(self) -> bool:
        """Find out whether the event loop is gone, and touch nothing of it any more if so.

        No waiter is woken and no task is ended. The socket is shut down, so that the hub notices;
        but not in a forked child, where it is the parent's.
        """
        if self.is_here() or not self._home.is_gone:
            return False
        self._step(ClientStep.ABANDON)
        connection = self.connection
        self.open_connection = None
        if self.over is None:
            self.over = partial(ConnectionLost, "the event loop of this connection is gone")
        if connection is not None and not self.is_inherited:
            connection.cut()
        self.losses.write(self._hub, is_end=True)
        return True

    async def wait_open(self, inbox: Inbox | None = None) -> Connection:
        """Wait until operations can begin.

        :param inbox: if it ends, stop waiting
        :raises HypsError: if that will not happen
        """
        if self.open_connection is not None:
            await checkpoint()
        while self.open_connection is None:
            if self.over is not None:
                raise self.over()
            if inbox is not None:
                inbox.check_open()
            self._openers += 1
            try:
                await self._decided.wait()
            except BaseException:
                if self._openers == 1 and not self._is_taken and self.is_here():
                    # Nobody else wants the connection or has it, even if it opened in this moment.
                    self.close_nowait()
                raise
            finally:
                self._openers -= 1
        self._is_taken = True
        return self.open_connection

    def wake_openers(self) -> None:
        """Let those who wait for a connection find out whether they still want it."""
        if not self._decided.is_set():
            decided, self._decided = self._decided, anyio.Event()
            decided.set()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the client's event loop, soon. Any thread may call this."""
        self._home.call(function)

    async def close(self) -> None:
        """Begin to close, and wait until the client has ended. See :meth:`check_may_close`."""
        if self._ended.is_set() or self._state is ClientState.ABANDONED:
            await checkpoint()
        else:
            self.close_nowait()
            await self._ended.wait()

    def check_may_close(self) -> None:
        """Raise if only code in another place can close the client, or leave a subscription."""
        if not self.abandon_if_gone() and not self._ended.is_set():
            self.check_here()

    def close_nowait(self) -> None:
        """Send what is queued, end every iteration, and close, all in bounded time."""
        try:
            self.routes.end(None)
            self._finish(partial(ConnectionLost, "the client was shut down"), is_wanted=True)
            connection = self.connection
            if connection is not None and connection.protocol.state is not State.OPENING:
                connection.close()
            else:
                self._scope.cancel()
        except Exception:
            self.log.exception("internal error while closing; the connection is cut")
            self._scope.cancel()

    async def _run(self) -> None:
        # This task has no parent that could handle an exception, so none may leave it.
        try:
            with self._scope:
                while self.over is None:
                    try:
                        await self._try_hosts()
                    except Exception as caught:
                        # Even telling of the connection's end has failed.
                        self.log.exception("%s: internal error", self._hub)
                        if not (self._was_open or self._waits_first):
                            self._finish(self._loss(f"internal error: {caught!r}"))
                    if self.over is None:
                        await anyio.sleep(self._backoff.next_delay())
        finally:
            # Whatever fails here, close() must not wait for ever.
            try:
                self._step(ClientStep.END)
                end = partial(ConnectionLost, "the event loop of this connection has ended")
                self._finish(end)
                self._settle(end)
                self.losses.write(self._hub, is_end=True)
                self.log.tell_omitted()
            except Exception:
                self.log.exception("internal error")
            finally:
                self._ended.set()
                self._decided.set()

    async def _try_hosts(self) -> None:
        """Dial the hosts in order, and run the first connection that opens until it is lost."""
        reasons: list[str] = []
        for address in self._settings.addresses:
            attempt = self._attempt = Attempt(address, self._settings)
            self._url = attempt.url
            try:
                why = await attempt.run(self._on_event, self._on_violation, self.unheard)
                error = self._loss(why)
            except Exception as caught:
                # A bug in this client costs the connection, and no more.
                self.log.exception("%s: internal error", self._hub)
                error = self._loss(f"internal error: {caught!r}")
            self._settle(error)
            if attempt.has_opened or self.over is not None:
                return
            reasons.append(str((attempt.why or error)()))
            self.log.debug("%s", reasons[-1])
        self._reporter.failed("; ".join(reasons))

    def _settle(self, error: ErrorFactory) -> None:
        """End the attempt, if there is one."""
        attempt = self._attempt
        if attempt is None:
            return
        try:
            self._backoff.note_lifetime(anyio.current_time() - attempt.opened_at)
            self._fail_waiters(error)
            self._write_losses()
        finally:
            self._attempt = None
            if attempt.connection is not None:
                self._totals.end(attempt.connection.protocol)

    @property
    def _hub(self) -> str:
        return f"the hub at {self._url}"

    def _remind_of_losses(self) -> None:
        connection = self.connection
        if connection is not None and self.is_here():
            connection.remind(self._write_losses, _LOSSES_TIME)

    def _write_losses(self) -> None:
        self.losses.write(self._hub)

    def _loss(self, text: str) -> ErrorFactory:
        """Make an error for the end of a connection; its type is chosen when it is raised."""
        return lambda: (ConnectionLost if self._was_open else ConnectionRefused)(text)

    # Changes of state

    def _step(self, step: ClientStep) -> None:
        self._state = CLIENT_TRANSITIONS[self._state, step]

    def _open(self, attempt: Attempt) -> None:
        """Let operations begin on a connection, unless it has stopped already."""
        if attempt.state is not AttemptState.OPENING:
            return
        attempt.step(AttemptStep.OPEN)
        self._step(ClientStep.OPEN)
        self.open_connection = attempt.connection
        attempt.patience.deadline = math.inf
        attempt.opened_at = anyio.current_time()
        self._backoff.note_open()
        self._write_losses()
        self._totals.reconnects += self._was_open
        self._reporter.opened(self._url)
        self._decided.set()

    def _stop_new(self, error: ErrorFactory) -> None:
        """Begin nothing new on the connection. The first reason stays."""
        attempt = self._attempt
        if attempt is None:
            return
        if attempt.why is None:
            attempt.why = error
            attempt.step(AttemptStep.STOP)
        why = attempt.why
        if attempt.connection is not None:
            attempt.connection.stop_new(why)
        if self.open_connection is not None:
            self.open_connection = None
            self._step(ClientStep.LOSE)
            self._decided = anyio.Event()
            self._reporter.lost(why, is_final=self.over is not None)

    def _fail_waiters(self, error: ErrorFactory) -> None:
        """Tell everybody who waits for the connection that it is lost, or could not be had."""
        self._stop_new(error)
        attempt = self._attempt
        if attempt is None or attempt.state is AttemptState.FAILED:
            return
        attempt.step(AttemptStep.FAIL)
        why = attempt.why or error
        if attempt.connection is not None:
            attempt.connection.fail_waiters(why)
            self.routes.on_lost(attempt.connection.protocol)
        if not self._was_open:
            self._on_refused(why())

    def _on_refused(self, error: HypsError) -> None:
        """Note that a host refused the first connection; if it was the last host, that is final."""
        if self._waits_first:
            return
        self._refusals.append(error)
        if len(self._refusals) == len(self._settings.addresses):
            kind = type(error) if len(self._refusals) == 1 else ConnectionRefused
            self._finish(partial(kind, "; ".join(map(str, self._refusals))))

    def _finish(self, error: ErrorFactory, *, is_wanted: bool = False) -> None:
        """Begin nothing new ever again. The first reason stays.

        :param is_wanted: the user closes the client
        """
        if self.over is not None:
            return
        self.over = error
        was_lost = self.open_connection is None
        self._stop_new(error)
        self._step(ClientStep.FINISH)
        self._decided.set()
        self.routes.end(error)
        self._reporter.ended(str(error()) if was_lost and not is_wanted else None)

    # Events

    def _on_event(self, event: ClientEvent | ServerEvent) -> None:
        match event:
            case Messages():
                unwanted = self.routes.deliver(event.batches)
                if unwanted and self.connection is not None:
                    self.connection.unsubscribe(unwanted)
            case Acked(operations):
                self.routes.on_answered(operations.stop)
                if self._attempt is not None and self._attempt.restoring in operations:
                    self._open(self._attempt)
            case Rejected(operation, refusals):
                self._on_rejected(operation, refusals)
            case Pong():
                if self.connection is not None:
                    self._totals.round_trip = self.connection.on_pong(event)
            case Gap():
                self.losses.note(event)
                self.routes.miss(event)
            case Welcome():
                self._on_welcome(event)
            case GoingAway(reason, reconnect_after):
                self._backoff.ask(reconnect_after)
                # A hub that served this client still sends what it has queued.
                end = self._stop_new if self._was_open else self._fail_waiters
                end(self._loss(f"{self._hub} is leaving: {reason}"))
            case TokenExpiry() if self.connection is not None:
                self._renewer.on_expiry(event, self.connection, self._hub)
            case PeerError(code, text):
                self._on_peer_error(code, text)
            case Closed():
                hint = "" if self._attempt is None else self._attempt.hint
                self._fail_waiters(self._loss(f"{self._hub} closed the connection{hint}"))

    def _on_welcome(self, welcome: Welcome) -> None:
        attempt, connection = self._attempt, self.connection
        assert attempt is not None
        assert connection is not None
        self._totals.begin(connection.protocol)
        operation = self.routes.restore(connection.protocol, welcome)
        attempt.restoring = connection.note_and_flush(operation)
        if operation is None:
            self._open(attempt)
        else:
            seconds = self._settings.limits.hello_timeout + len(self.routes) / _RESTORES_PER_SECOND
            attempt.patience.deadline = anyio.current_time() + seconds

    def _on_rejected(self, operation: int, refusals: tuple[Refusal, ...]) -> None:
        attempt, connection = self._attempt, self.connection
        assert attempt is not None
        assert connection is not None
        is_restored = operation == attempt.restoring
        if is_restored and any(refusal.code == b"u" for refusal in refusals):
            # Not now, or not at this hub: the channels are still wanted.
            self._stop_new(self._loss(f"{self._hub} did not take the subscriptions"))
            connection.close()
            return
        connection.unsubscribe(self.routes.on_refused(operation, refusals))
        if is_restored:
            self._open(attempt)

    def _on_peer_error(self, code: str, text: str) -> None:
        error = self._loss(f"{self._hub} refused ({code}): {text}")
        if code in ErrorCode.FINAL:
            is_over = self._attempt is not None and self._attempt.has_opened
            if self._was_open or self._is_in_background:
                # The token was right before, so the hub may be misconfigured for a while; or
                # nobody is there to be told, but those who read the log. Unless the session has
                # ended with its token, and there is another one.
                if not (is_over and callable(self._settings.token)):
                    self._backoff.ask(math.inf)
            else:
                if code == ErrorCode.AUTH:
                    error = partial(AuthenticationFailed, str(error()))
                self._finish(error)
        self._fail_waiters(error)

    def _on_violation(self, error: RemoteProtocolError) -> None:
        if self._was_open:
            self._fail_waiters(partial(ConnectionLost, f"{self._hub}: {error}"))
        elif error.code == ErrorCode.TIMEOUT:
            self._fail_waiters(partial(ConnectionRefused, f"{self._hub} does not answer"))
        else:
            why = f"{self._url} does not speak Hyps: {error}"
            self._fail_waiters(partial(ConnectionRefused, why))

    # Operations

    async def ready(self) -> Connection:
        """Wait for the connection, and for room in its backlog. Then call ``let_in()``."""
        while True:
            connection = await self.get_connection()
            if not connection.is_full or await connection.wait_for_room():
                return connection

    async def get_connection(self, inbox: Inbox | None = None) -> Connection:
        """Return the connection that operations begin on; wait for it if the user wants that.

        :param inbox: if it ends, stop waiting
        """
        if self.open_connection is not None:
            return self.open_connection
        self.check_may_wait()
        return await self.wait_open(inbox)

    def check_may_wait(self) -> None:
        """Raise why there is no connection, unless calls are to wait for one."""
        loss = self._reporter.loss
        if self.over is None and loss is not None and not self._settings.waits:
            raise loss()
