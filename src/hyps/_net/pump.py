"""Moves bytes between a byte stream and a protocol object. The only one that sends and receives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..protocol import NEED_DATA, ClientProtocol, RemoteProtocolError, ServerProtocol, State, Taken
from ..protocol.limits import PASS_WORK
from .backend import Waiter, waiter_type, wake
from .tls import TLSStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..protocol import ClientEvent, ServerEvent
    from .engine import Alarm, Engine
    from .sockets import Transport

#: As much as uvloop reads at once: AnyIO copies what is left over at every smaller one.
READ_SIZE: Final = 4 * 65_536
WRITE_SIZE: Final = 4 * 65_536

_Endpoint = TypeVar("_Endpoint", ClientProtocol, ServerProtocol)

#: What a stream raises when the connection is gone.
_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


def _ignore(event: object = None) -> None:
    pass


class Pump(Generic[_Endpoint]):
    """Runs one connection from its first byte until it is closed.

    Output goes out in :meth:`flush`, which never waits and which the engine calls. What the socket
    does not take, and all of it where there is no socket to be had, is sent by the writer, a task
    that is started when it is needed first. Either one or the other sends, and no user's task
    does, so nobody who is cancelled cuts a frame; and what is queued while the writer sends goes
    out with the next send.

    :param transport: closed at the end
    :param engine: runs while the pump does
    :param protocol: makes the protocol object, given what it is to call when it has output
    :param shield: go on when the task that runs it is cancelled, until :meth:`abort`
    """

    __slots__ = (
        "_alarm",
        "_engine",
        "_failure",
        "_is_lingering",
        "_is_opening",
        "_is_writing",
        "_on_event",
        "_on_sent",
        "_on_violation",
        "_parked",
        "_rest",
        "_scope",
        "_transport",
        "_writer",
        "_written",
        "broken",
        "protocol",
    )

    def __init__(
        self,
        transport: Transport,
        engine: Engine,
        protocol: Callable[[Callable[[], None]], _Endpoint],
        *,
        shield: bool = False,
    ) -> None:
        self._transport = transport
        self._engine = engine
        self._alarm: Alarm | None = None
        self._scope = anyio.CancelScope(shield=shield)
        # The writer's, once it was started.
        self._writer: anyio.CancelScope | None = None
        # What it waits for when there is nothing to send.
        self._parked: Waiter | None = None
        self._rest = b""
        # Until it runs nothing is sent.
        self._is_writing = True
        self._written = waiter_type()()
        self._is_opening = True
        self._is_lingering = False
        self._failure: Exception | None = None
        self._on_sent: Callable[[], None] | None = None
        self.protocol: _Endpoint = protocol(self.wake)
        #: What broke the stream, if it did not just end.
        self.broken: BaseException | None = None

    def wake(self) -> None:
        """Say that the protocol object has output."""
        # Per delivery at the hub, as is flush().
        self._engine.note_output(self)

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self.protocol.backlog

    def close(self) -> None:
        """End the connection: flush, half-close, wait for the peer, all in bounded time."""
        self.protocol.close()
        self._linger()

    def abort(self) -> None:
        """End the connection now, whatever is queued."""
        self._scope.cancel()

    def _linger(self) -> None:
        if not self._is_lingering:
            self._is_lingering = True
            self._scope.deadline = anyio.current_time() + self.protocol.farewell_time

    async def run(
        self,
        on_event: Callable[[ClientEvent | ServerEvent], None],
        on_violation: Callable[[RemoteProtocolError], None],
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        """Move bytes until the connection is closed.

        :param on_event: takes each event, at once
        :param on_violation: told once when the peer broke the rules, before it is told itself
        :param on_sent: called when output was taken, so that there is room for more
        """
        self._on_event: Callable[[ClientEvent | ServerEvent], None] = on_event
        self._on_violation: Callable[[RemoteProtocolError], None] | None = on_violation
        self._on_sent = on_sent
        self._is_writing = False
        if isinstance(self._transport.stream, TLSStream):
            self._transport.stream.on_pending = self.wake
        try:
            with self._scope:
                self._set_alarm()
                self.flush()
                await self._read()
                await self._written
        finally:
            self._is_writing = True
            self._drop_alarm()
            if self._writer is not None:
                self._writer.cancel()
            # What is queued can be much, and must not wait for the collector of cycles. Nor should
            # the rest: sessions that come and go would pile up.
            self._rest = b""
            self.protocol.discard()
            self._on_event = _ignore
            self._on_violation = self._on_sent = None
            if isinstance(self._transport.stream, TLSStream):
                self._transport.stream.on_pending = _ignore
            with anyio.move_on_after(self.protocol.limits.close_timeout, shield=True):
                await anyio.aclose_forcefully(self._transport.stream)
        if self._failure is not None:
            raise self._failure

    async def _read(self) -> None:
        protocol = self.protocol
        receive = self._transport.stream.receive
        try:
            while True:
                protocol.receive_data(await receive(READ_SIZE))
                await self._handle_events()
        except anyio.EndOfStream:
            protocol.receive_data(b"")
            await self._handle_events()
            self._linger()
            # The writer may wait for this.
            self.wake()
        except _BROKEN as error:
            self._break(error)

    async def _handle_events(self) -> None:
        next_event = self.protocol.next_event
        work = 0
        try:
            while (event := next_event()) is not NEED_DATA:
                self._on_event(event)
                if type(event) is Taken:
                    work += event.work
                    if work >= PASS_WORK:
                        # One session's flood must not keep the others waiting.
                        work = 0
                        self._engine.flush()
                        await checkpoint()
        except RemoteProtocolError as error:
            if self._on_violation is not None:
                self._on_violation(error)
                self._on_violation = None
        state = self.protocol.state
        if self._is_opening or state is not State.OPEN:
            self._on_state(state)
        self._engine.flush(self)

    def _on_state(self, state: State) -> None:
        if state in (State.CLOSED, State.DRAINING):
            self._linger()
        elif self._is_opening and state is not State.OPENING:
            # The alarm is for the time to open.
            self._is_opening = False
            self._set_alarm()

    # Sending

    def flush(self) -> None:
        """Send what can be sent at once, and leave the rest to the writer."""
        if self._is_writing:
            return
        protocol = self.protocol
        try:
            rest = protocol.data_to_send(WRITE_SIZE)
            if rest and (raw := self._transport.socket) is not None:
                try:
                    sent = raw.send(rest)
                except BlockingIOError:
                    sent = 0
                # Asked again, it knows that this has been sent.
                rest = rest[sent:] if sent < len(rest) else protocol.data_to_send(WRITE_SIZE)
            self._on_taken()
            if rest or protocol.eof_is_due or self._tls_has_pending:
                self._leave_to_writer(rest)
        except _BROKEN as error:
            self._break(error)
        except Exception as error:
            # A defect, and not of the one who called this.
            self._fail(error)

    @property
    def _tls_has_pending(self) -> bool:
        stream = self._transport.stream
        return isinstance(stream, TLSStream) and stream.has_pending

    def _take(self) -> bytes:
        data = self.protocol.data_to_send(WRITE_SIZE)
        self._on_taken()
        return data

    def _on_taken(self) -> None:
        if self._on_sent is not None:
            self._on_sent()
        if self.protocol.wants_tick:
            self._set_alarm()

    def _leave_to_writer(self, rest: bytes) -> None:
        self._rest = rest
        self._is_writing = True
        if self._writer is None:
            self._writer = self._engine.start(self._write)
        elif self._parked is not None:
            wake(self._parked)

    async def _write(self) -> None:
        """Send what waits, and say goodbye at the end."""
        send = self._transport.stream.send
        try:
            while True:
                rest, self._rest = self._rest, b""
                if (data := rest or self._take()) or self._tls_has_pending:
                    await send(data)
                elif self.protocol.eof_is_due:
                    self._linger()
                    await self._half_close()
                    wake(self._written)
                    return
                else:
                    self._is_writing = False
                    await self._park()
        except (*_BROKEN, anyio.EndOfStream) as error:
            # The end of the stream is what TLS finds when it must read to be able to write.
            self._break(error)
        except Exception as error:
            self._fail(error)

    async def _park(self) -> None:
        """Wait until the protocol object has output."""
        self._parked = waiter_type()()
        await self._parked

    async def _half_close(self) -> None:
        stream = self._transport.stream
        if isinstance(stream, TLSStream):
            # It cannot half-close. Closing tells the peer too, but has to wait until it has said
            # everything.
            while not self.protocol.is_finished:
                self._is_writing = False
                await self._park()
            self._scope.cancel()
            return
        try:
            await stream.send_eof()
        except RuntimeError as error:
            # uvloop, of a connection that was reset.
            self._break(error)

    # Time

    def _set_alarm(self, deadline: float = -math.inf) -> None:
        self._drop_alarm()
        if deadline < math.inf:
            self._alarm = self._engine.watch(self, deadline)

    def _drop_alarm(self) -> None:
        if self._alarm is not None:
            self._engine.drop(self._alarm)
            self._alarm = None

    async def tick(self) -> None:
        """Judge what the time means; called by the engine."""
        self._alarm = None
        try:
            now = self._engine.clock.now()
            self._set_alarm(self.protocol.tick(now, self._transport.count_unsent()))
            # It may have given the peer up.
            await self._handle_events()
        except Exception as error:
            self._fail(error)

    # Ending

    def _break(self, error: BaseException) -> None:
        # Without the frames that it was raised through: they hold what was being sent, and would
        # keep it until the collector of cycles comes.
        self.broken = (error.__cause__ or error).with_traceback(None)
        self._scope.cancel()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._scope.cancel()
