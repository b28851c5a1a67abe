"""The pump: it moves bytes between a stream and a protocol object, and nothing else does."""

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

#: uvloop reads as much at once. With a smaller size AnyIO would copy the rest at each read.
READ_SIZE: Final = 4 * 65_536
WRITE_SIZE: Final = 4 * 65_536

_Endpoint = TypeVar("_Endpoint", ClientProtocol, ServerProtocol)

#: What a stream raises when the connection is gone.
_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


def _ignore(event: object = None) -> None:
    pass


class Pump(Generic[_Endpoint]):
    """Runs one connection from its first byte until it is closed.

    The engine calls :meth:`flush`, which sends on the socket without waiting. The writer, a task
    that starts when it is first needed, sends what the socket does not take, and everything if the
    stream has no socket. At any time one of the two sends, and no user's task ever does. So
    cancelling a task never cuts a frame, and what is queued while the writer sends leaves with the
    next send.

    :param transport: the pump closes it at the end
    :param engine: it must run while the pump runs
    :param protocol: makes the protocol object; its argument is the protocol object's ``on_output``
    :param shield: go on when the task that runs the pump is cancelled, until :meth:`abort`
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
        # The writer's scope, once it has started.
        self._writer: anyio.CancelScope | None = None
        # What the writer waits for when there is nothing to send.
        self._parked: Waiter | None = None
        self._rest = b""
        # True before run(), so that nothing is sent before it.
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
        """Note that the protocol object has output."""
        # The hub calls this and flush() for each delivery.
        self._engine.note_output(self)

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self.protocol.backlog

    def resume(self) -> None:
        """Look for events soon: HELLO was answered, and frames that follow it may be waiting."""
        self._set_alarm()

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

        :param on_event: takes each event, without waiting
        :param on_violation: called once if the peer broke the rules, before the peer learns of it
        :param on_sent: called when output has left the queue, so that there is room for more
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
            # Break reference cycles by hand. The queue can be large and must not wait for the
            # garbage collector, and sessions that come and go would pile up.
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
            # The writer may be waiting for the peer's end of the stream.
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
                        # One session's flood must not delay the others.
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
            # Until now the alarm bounded the time for opening.
            self._is_opening = False
            self._set_alarm()

    # Sending

    def flush(self) -> None:
        """Send what the socket takes at once, and leave the rest to the writer."""
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
                # A second call marks the first chunk as sent.
                rest = rest[sent:] if sent < len(rest) else protocol.data_to_send(WRITE_SIZE)
            self._on_taken()
            if rest or protocol.eof_is_due or self._tls_has_pending:
                self._leave_to_writer(rest)
        except _BROKEN as error:
            self._break(error)
        except Exception as error:
            # A bug in this connection; the caller is another one.
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
        """Send what waits, and half-close at the end."""
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
            # TLS may have to read in order to write, and find the end of the stream.
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
            # TLS cannot half-close here. Close instead, but only once the peer has sent everything.
            while not self.protocol.is_finished:
                self._is_writing = False
                await self._park()
            self._scope.cancel()
            return
        try:
            await stream.send_eof()
        except RuntimeError as error:
            # uvloop raises this if the connection was reset.
            self._break(error)

    # Time

    def _set_alarm(self, deadline: float = -math.inf) -> None:
        self._drop_alarm()
        if deadline < math.inf:
            self._alarm = self._engine.watch(self, deadline)

    def _drop_alarm(self) -> None:
        if self._alarm is not None:
            self._engine.cancel(self._alarm)
            self._alarm = None

    async def tick(self) -> None:
        """Let the protocol object judge the time; the engine calls this."""
        self._alarm = None
        try:
            now = self._engine.clock.now()
            self._set_alarm(self.protocol.tick(now, self._transport.count_unsent()))
            # The protocol object may have given up the peer.
            await self._handle_events()
        except Exception as error:
            self._fail(error)

    # Ending

    def _break(self, error: BaseException) -> None:
        # Drop the traceback: its frames hold the bytes that were being sent, until the garbage
        # collector runs.
        self.broken = (error.__cause__ or error).with_traceback(None)
        self._scope.cancel()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._scope.cancel()
