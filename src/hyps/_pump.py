"""Moves bytes between a byte stream and a protocol object. The only reader and the only writer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from ._backend import Waiter, waiter_type
from ._clock import clock_of
from ._transport import count_unsent
from .protocol import NEED_DATA, ClientProtocol, RemoteProtocolError, ServerProtocol, State, Taken
from .protocol.limits import PASS_WORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from .protocol import ClientEvent, ServerEvent

#: As much as uvloop reads at once: AnyIO copies what is left over at every smaller one.
READ_SIZE: Final = 4 * 65_536
WRITE_SIZE: Final = 4 * 65_536

_Endpoint = TypeVar("_Endpoint", ClientProtocol, ServerProtocol)

#: What a stream raises when the connection is gone.
_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Pump(Generic[_Endpoint]):
    """Runs one connection from its first byte until it is closed.

    No other task ever sends on the stream or receives from it. So a cancelled user never cuts a
    frame, and what is queued while a send is under way goes out with the next one: that is the
    batching, and it needs no timer.

    :param stream: closed at the end
    :param protocol: makes the protocol object, given what it is to call when it has output
    :param shield: go on when the task that runs it is cancelled, until :meth:`abort`
    """

    def __init__(
        self,
        stream: ByteStream,
        protocol: Callable[[Callable[[], None]], _Endpoint],
        *,
        shield: bool = False,
    ) -> None:
        self._stream = stream
        #: What tells the protocol object the time.
        self.clock = clock_of(stream)
        self._new_waiter = waiter_type()
        self._waiter: Waiter | None = None
        self._written = self._new_waiter()
        self._scope = anyio.CancelScope(shield=shield)
        self._sleep = anyio.CancelScope()
        self._is_opening = True
        self._is_lingering = False
        self.protocol: _Endpoint = protocol(self.wake)
        #: What broke the stream, if it did not just end.
        self.broken: BaseException | None = None

    def wake(self) -> None:
        """Say that the protocol object has output."""
        if self._waiter is not None:
            self._waiter.set()
            self._waiter = None

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
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        """Move bytes until the connection is closed.

        :param on_event: takes each event, at once
        :param on_violation: told once when the peer broke the rules, before it is told itself
        :param on_sent: called when output was taken, so that there is room for more
        """
        self._on_event = on_event
        self._on_violation: Callable[[RemoteProtocolError], None] | None = on_violation
        self._on_sent = on_sent
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._keep_time)
                    tasks.start_soon(self._write)
                    await self._read()
                    await self._written.wait()
                    tasks.cancel_scope.cancel()
        finally:
            # What is queued can be much, and must not wait for the collector of cycles.
            self.protocol.discard()
            with anyio.move_on_after(self.protocol.limits.close_timeout, shield=True):
                await anyio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        protocol = self.protocol
        receive = self._stream.receive
        try:
            while True:
                protocol.receive_data(await receive(READ_SIZE))
                await self._handle_events()
        except anyio.EndOfStream:
            protocol.receive_data(b"")
            await self._handle_events()
            self._linger()
        except _BROKEN as error:
            self._break(error)

    async def _write(self) -> None:
        protocol = self.protocol
        send = self._stream.send
        try:
            while True:
                data = protocol.data_to_send(WRITE_SIZE)
                if protocol.wants_tick:
                    self._sleep.cancel()
                if data:
                    self._on_sent()
                    await send(data)
                elif protocol.eof_is_due:
                    self._linger()
                    await self._half_close()
                    self._written.set()
                    return
                else:
                    self._on_sent()
                    await self._park()
        except (*_BROKEN, anyio.EndOfStream) as error:
            # The end of the stream is what TLS finds when it must read to be able to write.
            self._break(error)

    async def _park(self) -> None:
        """Wait until the protocol object has output."""
        self._waiter = self._new_waiter()
        await self._waiter.wait()

    async def _half_close(self) -> None:
        if isinstance(self._stream, TLSStream):
            # It cannot half-close. Closing tells the peer too, but has to wait until it has said
            # everything.
            while not self.protocol.is_finished:
                await self._park()
            self._scope.cancel()
            return
        try:
            await self._stream.send_eof()
        except RuntimeError as error:
            # uvloop, of a connection that was reset.
            self._break(error)

    async def _keep_time(self) -> None:
        while True:
            unsent = count_unsent(self._stream)
            deadline = self.protocol.tick(self.clock.now(), unsent)
            # It may have given the peer up.
            await self._handle_events()
            if deadline == math.inf:
                break
            if self.protocol.wants_tick:
                continue
            with anyio.CancelScope() as self._sleep:
                await self.clock.sleep_until(deadline)

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
                        await checkpoint()
        except RemoteProtocolError as error:
            if self._on_violation is not None:
                self._on_violation(error)
                self._on_violation = None
        state = self.protocol.state
        if state in (State.CLOSED, State.DRAINING):
            self._linger()
        elif self._is_opening and state is not State.OPENING:
            # What the clock sleeps for is the time to open.
            self._is_opening = False
            self._sleep.cancel()

    def _break(self, error: BaseException) -> None:
        self.broken = error.__cause__ or error
        self._scope.cancel()
