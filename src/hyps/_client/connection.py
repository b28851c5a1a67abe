"""One connection to a hub: its operations, their answers, and the backlog's bound.

Subscriptions and all else that outlives a connection are in :mod:`hyps._client.reconnector`.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from anyio.lowlevel import checkpoint

from .._net.backend import Waiter, waiter_type, wake
from .._net.clock import clock_of
from .._net.engine import Engine
from .._net.pump import Pump
from ..protocol import Acked, ClientProtocol, HypsError, Rejected, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .._errors import ErrorFactory
    from .._net.sockets import Transport
    from ..protocol import ClientEvent, RemoteProtocolError, ServerEvent
    from ..protocol._records.layout import Data


class Answer:
    """The answer to an operation. Answers arrive in the order of the operations.

    :param operation: the operation's id
    :param waiter: what the task waits for
    :param is_own: whether the waiting call began the operation: then a refusal is its error
    """

    __slots__ = ("error", "is_here", "is_own", "operation", "waiter")

    def __init__(self, operation: int, waiter: Waiter, *, is_own: bool) -> None:
        self.operation = operation
        self.is_own = is_own
        self.is_here = False
        self.error: ErrorFactory | None = None
        self.waiter = waiter

    def come(self, error: ErrorFactory | None) -> None:
        self.is_here = True
        self.error = error
        wake(self.waiter)

    async def wait(self) -> None:
        """Wait for the answer, and raise its error."""
        if self.is_here:
            await checkpoint()
        await self.waiter
        if self.error is not None:
            raise self.error()


_by_operation: Final = attrgetter("operation")


class Unheard:
    """The first error of an operation that nobody awaits. It outlives its connection."""

    __slots__ = ("_error",)

    def __init__(self) -> None:
        self._error: ErrorFactory | None = None

    def note(self, error: ErrorFactory | None) -> None:
        if self._error is None:
            self._error = error

    def take(self) -> HypsError | None:
        error, self._error = self._error, None
        return None if error is None else error()


class _Reminder:
    """A call at a later time."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.is_over = False

    async def tick(self) -> None:
        """Make the call; the engine calls this."""
        self.is_over = True
        self._call()


class Connection:
    """One connection to a hub.

    :param transport: to the hub; closed at the end
    :param make_protocol: makes the protocol object; its argument is the object's ``on_output``
    :param unheard: receives the errors of operations that nobody awaits
    """

    def __init__(
        self,
        transport: Transport,
        make_protocol: Callable[[Callable[[], None]], ClientProtocol],
        unheard: Unheard,
    ) -> None:
        self._transport = transport
        self._engine = Engine(clock_of(transport.stream))
        self._pump = Pump(transport, self._engine, make_protocol)
        self._new_waiter = waiter_type()
        self.protocol: ClientProtocol = self._pump.protocol
        # Why nothing new can begin; None while it can.
        self._over: ErrorFactory | None = None
        self._unheard = unheard
        # The answers that tasks wait for, in the order of the operations.
        self._answers: deque[Answer] = deque()
        self._last_operation = 0
        # The last operation that nobody awaits, so that flush() has to tell of its loss.
        self._unawaited = 0
        # The last operation with an answer; all before it have one too.
        self._answered = 0
        self._room_waiters: deque[Waiter] = deque()
        self._reminder: _Reminder | None = None

    # Lifetime

    async def run(
        self,
        on_event: Callable[[ClientEvent | ServerEvent], None],
        on_violation: Callable[[RemoteProtocolError], None],
    ) -> BaseException | None:
        """Run the connection until it is closed.

        :param on_event: takes each event
        :param on_violation: called once if the hub broke the rules
        :return: what broke the stream, if it did not just end
        """

        def take(event: ClientEvent | ServerEvent) -> None:
            if isinstance(event, Acked):
                self._on_answered(event.operations.stop)
            elif isinstance(event, Rejected):
                self._on_rejected(event)
            on_event(event)

        async with self._engine:
            await self._pump.run(take, on_violation, self.let_in)
        return self._pump.broken

    def close(self) -> None:
        """Send what is queued, collect the answers, and close, all in bounded time."""
        self._pump.close()

    def cut(self) -> None:
        """Shut the socket down, when no event loop is left that could close the stream."""
        self._transport.cut()

    def stop_new(self, error: ErrorFactory) -> None:
        """Begin nothing new. The first reason stays."""
        if self._over is None:
            self._over = error
        while self._room_waiters:
            wake(self._room_waiters.popleft())

    def fail_waiters(self, error: ErrorFactory) -> None:
        """Tell everybody who waits that no answer will come."""
        self.stop_new(error)
        if self._unawaited > self._answered:
            self._unheard.note(self._over)
        self._answered = self._last_operation
        while self._answers:
            self._answers.popleft().come(self._over)

    def start(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a function in a task that ends with the connection."""
        self._engine.start(function)

    def remind(self, call: Callable[[], None], seconds: float) -> None:
        """Call something later, once however often this is called, unless the connection ends."""
        if self._reminder is None or self._reminder.is_over:
            self._reminder = _Reminder(call)
            self._engine.watch(self._reminder, self._engine.clock.now() + seconds)

    # Answers

    def _on_answered(self, stop: int) -> None:
        self._answered = stop - 1
        answers = self._answers
        while answers and answers[0].operation < stop:
            answers.popleft().come(None)

    def _on_rejected(self, event: Rejected) -> None:
        self._on_answered(event.operation)
        self._answered = event.operation
        error = event.refusals[0].error
        # The Reconnector tells the calls that wait for refused channels.
        is_heard = event.refusals[0].channel is not None
        answers = self._answers
        while answers and answers[0].operation == event.operation:
            answer = answers.popleft()
            is_heard = is_heard or answer.is_own
            answer.come(error if answer.is_own else None)
        if not is_heard:
            self._unheard.note(error)

    def note_and_flush(self, operation: int | None) -> int:
        """Note an operation that has begun, and send it at once if no other one is unanswered.

        A lone operation gains nothing by waiting for others: its caller waits for the answer.

        :param operation: its id; None if there was nothing to do
        :return: the id of the last operation
        """
        if operation is not None:
            is_alone = self._last_operation == self._answered
            self._last_operation = operation
            if is_alone:
                self._engine.flush()
        return self._last_operation

    def expect(self, operation: int, *, is_own: bool) -> Answer:
        """Return the answer to an operation, to wait for it."""
        answer = Answer(operation, self._new_waiter(), is_own=is_own)
        if operation <= self._answered:
            answer.come(None)
        elif self._answers and self._answers[-1].operation > operation:
            insort(self._answers, answer, key=_by_operation)
        else:
            self._answers.append(answer)
        return answer

    async def answered(self, operation: int) -> None:
        """Wait for the answer to an operation that the caller began, and raise its error."""
        answer = self.expect(operation, is_own=True)
        try:
            await answer.waiter
        except BaseException:
            self.abandon((answer,))
            raise
        if answer.error is not None:
            raise answer.error()

    async def wait_for(self, answers: Iterable[Answer]) -> None:
        """Wait for all of these answers, and raise the first error among them."""
        error: HypsError | None = None
        try:
            for answer in answers:
                try:
                    await answer.wait()
                except HypsError as caught:
                    error = error or caught
        except BaseException:
            self.abandon(answers)
            raise
        if error is not None:
            raise error

    async def wait_for_all(self) -> None:
        """Wait until all operations so far have an answer.

        :raises ConnectionLost: if the connection is lost meanwhile
        """
        await self.expect(self._last_operation, is_own=False).wait()

    def abandon(self, answers: Iterable[Answer]) -> None:
        """Leave answers to ``flush()``, because the task that waited for them was cancelled."""
        for answer in answers:
            answer.is_own = False
            if answer.is_here:
                self._unheard.note(answer.error)
            else:
                self._unawaited = max(self._unawaited, answer.operation)

    def unsubscribe(self, channels: list[str]) -> int | None:
        """Unsubscribe channels, if there are any and the session is open.

        :return: the id of the operation, if there was one
        """
        if not channels or self.protocol.state is not State.OPEN:
            return None
        return self.note_and_flush(self.protocol.unsubscribe(channels))

    def publish_unawaited(self, channel: str, data: Data) -> None:
        """Publish, and leave the answer to ``flush()``."""
        self._unawaited = self.note_and_flush(self.protocol.publish(channel, data))

    # The bound of the backlog

    @property
    def is_full(self) -> bool:
        """Whether publishing must wait until the backlog has room."""
        protocol = self.protocol
        return True if self._room_waiters else protocol.backlog >= protocol.limits.max_backlog

    async def wait_for_room(self) -> bool:
        """Wait for a turn to publish; the caller calls :meth:`let_in` after it.

        :return: False if there will be no room, because the connection ends
        """
        waiter = self._new_waiter()
        self._room_waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter in self._room_waiters:
                self._room_waiters.remove(waiter)
            else:
                self.let_in()
            raise
        return self._over is None

    def let_in(self) -> None:
        """Let the first task that waits for room go on, if there is room."""
        if self._room_waiters and self.protocol.backlog < self.protocol.limits.max_backlog:
            wake(self._room_waiters.popleft())


class Batches:
    """The answers that one ``publish_many()`` waits for, all on one connection."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._answers: deque[Answer] = deque()

    @property
    def failed(self) -> bool:
        """Whether the first of them is an error. Answers come in order, so no other one can be."""
        return bool(self._answers) and self._answers[0].error is not None

    def are_on(self, connection: Connection | None) -> bool:
        """Whether they belong to this connection, or there are none."""
        return self._connection is connection or not self._answers

    def append(self, connection: Connection, answer: Answer) -> None:
        answers = self._answers
        answers.append(answer)
        while answers and answers[0].is_here and not answers[0].error:
            answers.popleft()
        self._connection = connection

    def abandon(self) -> None:
        if self._connection is not None:
            self._connection.abandon(self._answers)

    async def wait(self) -> None:
        if self._connection is not None:
            await self._connection.wait_for(self._answers)
