"""One connection of a client's: its operations, their answers, and room for more.

What is not about operations, above all the subscriptions, is in :mod:`hyps._connection`.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint

from ._backend import Waiter, waiter_type
from ._errors import WouldBlock
from ._pump import Pump
from .protocol import Acked, ClientProtocol, HypsError, Rejected
from .protocol.limits import FRAME_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anyio.abc import ByteStream

    from .protocol import ClientEvent, RemoteProtocolError, ServerEvent
    from .protocol.client import Data

    #: Makes an error anew for each task that it is raised in.
    ErrorFactory = Callable[[], HypsError]


class _Answer:
    """The answer to an operation, which comes after those to all operations before it.

    :param operation: its id
    :param waiter: what its task waits for
    :param is_own: the one who waits began the operation, and is told if it is refused
    """

    __slots__ = ("_waiter", "error", "is_here", "is_own", "operation")

    def __init__(self, operation: int, waiter: Waiter, *, is_own: bool) -> None:
        self.operation = operation
        self.is_own = is_own
        self.is_here = False
        self.error: ErrorFactory | None = None
        self._waiter = waiter

    def come(self, error: ErrorFactory | None) -> None:
        self.is_here = True
        self.error = error
        self._waiter.set()

    async def wait(self) -> None:
        """Wait for it; its error is raised."""
        await self._waiter.wait()
        if self.error is not None:
            raise self.error()


_by_operation: Final = attrgetter("operation")


class Link:
    """One connection to a hub, over a stream.

    :param stream: to the hub; closed at the end
    :param make_protocol: makes the protocol object, given what it is to call when it has output
    """

    def __init__(
        self,
        stream: ByteStream,
        make_protocol: Callable[[Callable[[], None]], ClientProtocol],
    ) -> None:
        self._pump = Pump(stream, make_protocol)
        self._new_waiter = waiter_type()
        self.protocol: ClientProtocol = self._pump.protocol
        # Why nothing new can be begun; None while it can.
        self._over: ErrorFactory | None = None
        # The first error that nobody was there to be told.
        self._unheard: ErrorFactory | None = None
        # Those who wait, in the order of the operations.
        self._answers: deque[_Answer] = deque()
        self._last_operation = 0
        # The last operation that was answered; all before it were too.
        self._answered = 0
        self._room: deque[Waiter] = deque()

    # Lifetime

    async def run(
        self,
        on_event: Callable[[ClientEvent | ServerEvent], None],
        on_violation: Callable[[RemoteProtocolError], None],
    ) -> BaseException | None:
        """Run the connection until it is closed.

        :param on_event: takes each event
        :param on_violation: told once if the hub broke the rules
        :return: what broke the stream, if it did not just end
        """

        def take(event: ClientEvent | ServerEvent) -> None:
            if isinstance(event, Acked):
                self._on_answered(event.operations.stop)
            elif isinstance(event, Rejected):
                self._on_rejected(event)
            on_event(event)

        await self._pump.run(take, on_violation, self._let_in)
        return self._pump.broken

    def close(self) -> None:
        """Send what is queued, collect the answers, and close, all in bounded time."""
        self._pump.close()

    def end(self, error: ErrorFactory) -> None:
        """Begin nothing new. The first reason stays."""
        if self._over is None:
            self._over = error
        while self._room:
            self._room.popleft().set()

    def drop(self, error: ErrorFactory) -> None:
        """Tell everybody who waits that no answer will come."""
        self.end(error)
        assert self._over is not None
        if self._last_operation > self._answered and self._unheard is None:
            self._unheard = self._over
        while self._answers:
            self._answers.popleft().come(self._over)

    def _check(self) -> ClientProtocol:
        if self._over is not None:
            raise self._over()
        return self.protocol

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
        # Refused channels are told to those who wait for them, by the connection.
        is_heard = event.refusals[0].channel is not None
        answers = self._answers
        while answers and answers[0].operation == event.operation:
            answer = answers.popleft()
            is_heard = is_heard or answer.is_own
            answer.come(error if answer.is_own else None)
        if not is_heard and self._unheard is None:
            self._unheard = error

    def begun(self, operation: int | None) -> int:
        """Note an operation that was begun, and that is None only where there was nothing to do."""
        if operation is not None:
            self._last_operation = operation
        return self._last_operation

    def expect(self, operation: int, *, is_own: bool) -> _Answer:
        """Give the answer to an operation, to be waited for."""
        answer = _Answer(operation, self._new_waiter(), is_own=is_own)
        if operation <= self._answered:
            answer.come(None)
        elif self._answers and self._answers[-1].operation > operation:
            insort(self._answers, answer, key=_by_operation)
        else:
            self._answers.append(answer)
        return answer

    async def wait_for(self, answers: Iterable[_Answer]) -> None:
        """Wait for answers, and raise the first error among them when all are here."""
        error: HypsError | None = None
        try:
            for answer in answers:
                try:
                    await answer.wait()
                except HypsError as caught:
                    error = error or caught
        except BaseException:
            self._abandon(answers)
            raise
        if error is not None:
            raise error

    def _abandon(self, answers: Iterable[_Answer]) -> None:
        """Let :meth:`flush` tell what is refused: who asked has been cancelled."""
        for answer in answers:
            answer.is_own = False
            if answer.is_here and self._unheard is None:
                self._unheard = answer.error

    async def flush(self) -> None:
        """Wait until all operations so far are answered, and raise what nobody was told yet."""
        if self._last_operation > self._answered:
            self._check()
        await self.expect(self._last_operation, is_own=False).wait()
        if self._unheard is not None:
            error, self._unheard = self._unheard, None
            raise error()
        self._check()

    # Publishing

    async def publish(self, channel: str, data: Data) -> None:
        """Publish, and wait for the answer."""
        protocol = self._check()
        if self._is_full(protocol):
            protocol = await self._wait_for_room()
        try:
            operation = self.begun(protocol.publish(channel, data))
        finally:
            self._let_in()
        await self.wait_for([self.expect(operation, is_own=True)])

    def publish_nowait(self, channel: str, data: Data) -> None:
        """Publish, or raise if there is no room."""
        protocol = self._check()
        if self._is_full(protocol):
            raise WouldBlock("the hub is not reading as fast as this client publishes")
        self.begun(protocol.publish(channel, data))

    async def publish_many(self, messages: Iterable[tuple[str, Data]]) -> None:
        """Publish in batches, as there is room, and wait for all answers."""
        await checkpoint()
        iterator = iter(messages)
        answers: deque[_Answer] = deque()
        error: Exception | None = None
        try:
            while not (answers and answers[0].error):
                protocol = self._check()
                if self._is_full(protocol):
                    protocol = await self._wait_for_room()
                try:
                    operation = protocol.publish_many(iterator, max_bytes=FRAME_SIZE)
                finally:
                    self._let_in()
                if operation is None:
                    break
                answers.append(self.expect(self.begun(operation), is_own=True))
                while answers and answers[0].is_here and not answers[0].error:
                    answers.popleft()
                # The writer sends this batch while the next one is made.
                await checkpoint()
        except anyio.get_cancelled_exc_class():
            self._abandon(answers)
            raise
        except Exception as caught:
            # A message is wrong, the iterable failed, or the connection is lost. The answers that
            # are due come first, as they are about what came before.
            error = caught
        await self.wait_for(answers)
        if error is not None:
            raise error

    # Room

    def _is_full(self, protocol: ClientProtocol) -> bool:
        return bool(self._room) or protocol.backlog >= protocol.limits.max_backlog

    async def _wait_for_room(self) -> ClientProtocol:
        waiter = self._new_waiter()
        self._room.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            if waiter in self._room:
                self._room.remove(waiter)
            else:
                self._let_in()
            raise
        return self._check()

    def _let_in(self) -> None:
        """Let the first of those who wait for room go on, if there is room."""
        if self._room and self.protocol.backlog < self.protocol.limits.max_backlog:
            self._room.popleft().set()
