"""A client's connection: a task of its own that outlives the calls of its users.

What is known about the connection lives here and not in the :class:`Client`, so that a client
that nobody refers to any more can be noticed. Every change of state is made in one go, without
waiting; users wait only for an answer, for room, or for the connection to open or to end.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint

from ._backend import Waiter, spawn, waiter_type
from ._errors import AuthenticationFailed, ConnectionLost, ConnectionRefused, WouldBlock
from ._pump import Pump
from ._transport import Address, dial
from ._version import __version__
from .protocol import (
    Acked,
    ClientProtocol,
    Closed,
    ErrorCode,
    Gap,
    GoingAway,
    HypsError,
    Limits,
    Messages,
    PeerError,
    Refusal,
    Rejected,
    RemoteProtocolError,
    Welcome,
)
from .protocol.limits import FRAME_SIZE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from ._subscription import Subscription
    from .protocol import ClientEvent, ServerEvent
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


class _Route:
    """The subscriptions of a channel. They share one SUBSCRIBE, and one copy on the wire."""

    __slots__ = ("claims", "error", "operation")

    def __init__(self) -> None:
        #: The subscriptions, and for each how many calls wait to be told that it has the channel.
        #: When one of them was told it is 0: what becomes of the others changes nothing.
        self.claims: dict[Subscription, int] = {}
        #: The id of its SUBSCRIBE.
        self.operation = 0
        #: Why the hub refused it, if it did.
        self.error: ErrorFactory | None = None


def _raise_refusal(routes: Iterable[_Route]) -> None:
    for route in routes:
        if route.error is not None:
            raise route.error()


class Connection:
    """One connection to a hub, from dialling to its end.

    :param address: where the hub is
    :param token: what the hub knows the client by
    :param ssl_context: for TLS
    :param limits: the client's own bounds
    """

    def __init__(
        self,
        address: Address,
        token: str | None,
        ssl_context: ssl.SSLContext | None,
        limits: Limits,
    ) -> None:
        self._address = address
        self._token = token
        self._ssl_context = ssl_context
        self._limits = limits
        #: Makes what one task waits for.
        self.new_waiter = waiter_type()
        self._pump: Pump[ClientProtocol] | None = None
        self._scope = anyio.CancelScope()
        # Set when the hub has welcomed this client, or when it is clear that it will not.
        self._decided = anyio.Event()
        self._is_welcome = False
        self._ended = anyio.Event()
        self._openers = 0
        # Why nothing new can be begun.
        self._over: ErrorFactory | None = None
        # Those who wait, in the order of the operations.
        self._answers: deque[_Answer] = deque()
        self._answered = 0
        self._last_operation = 0
        self._room: deque[Waiter] = deque()
        # The first error that nobody was there to be told.
        self._unheard: ErrorFactory | None = None
        self._routes: dict[str, _Route] = {}
        # By the id of their SUBSCRIBE, the routes that wait for its answer.
        self._joining: dict[int, dict[str, _Route]] = {}
        self._subscriptions: dict[Subscription, None] = {}

    # Lifetime

    @property
    def is_open(self) -> bool:
        """Whether something new can be begun."""
        return self._is_welcome and self._over is None

    @property
    def is_over(self) -> bool:
        """Whether it is closing or has ended."""
        return self._over is not None

    def start(self) -> None:
        """Start to dial, in a task of its own."""
        spawn(self._run, f"hyps client of {self._address}")

    async def wait_opened(self) -> None:
        """Wait until something can be begun.

        :raises ConnectionRefused: if that is not going to happen
        """
        self._openers += 1
        try:
            await self._decided.wait()
        finally:
            self._openers -= 1
            if not self._openers and not self._decided.is_set():
                # Cancelled, and nobody else wants it.
                self.close_nowait()
        if self._over is not None:
            raise self._over()

    async def close(self) -> None:
        """Begin to close, and wait until the connection has ended."""
        self.close_nowait()
        await self._ended.wait()

    def close_nowait(self) -> None:
        """Send what is queued, end every iteration, and close, all in bounded time."""
        self._begin_nothing_new(partial(ConnectionLost, "the client was shut down"))
        self._end_subscriptions(None)
        if self._is_welcome and self._pump is not None:
            self._pump.close()
        else:
            self._scope.cancel()

    async def _run(self) -> None:
        # The root. Everything that happens to the connection happens below it, and nothing that
        # happens there may come out: there is nobody above.
        error: HypsError | None = None
        try:
            with self._scope:
                async with dial(self._address, self._ssl_context) as stream:
                    self._pump = Pump(stream, self._make_protocol)
                    await self._pump.run(self._on_event, self._on_violation, self._let_in)
        except HypsError as caught:
            error = caught
        except Exception as caught:
            # A defect of this client. Users see what it means for them.
            error = ConnectionLost(f"internal error: {caught!r}")
        finally:
            self._on_end(error)

    def _make_protocol(self, on_output: Callable[[], None]) -> ClientProtocol:
        return ClientProtocol(
            client=f"hyps-py/{__version__}",
            token=self._token,
            limits=self._limits,
            on_output=on_output,
        )

    def _on_end(self, error: HypsError | None) -> None:
        if error is not None:
            self._drop(type(error), str(error))
        elif self._pump is not None and self._pump.broken is not None:
            self._lose(f"the connection to {self._address} broke: {self._pump.broken}")
        else:
            self._lose(f"the connection to {self._address} has ended")
        self._ended.set()

    def _lose(self, text: str) -> None:
        self._drop(ConnectionLost if self._is_welcome else ConnectionRefused, text)

    def _drop(self, kind: type[HypsError], text: str) -> None:
        """End everything that the connection carried. The first reason for it stays."""
        error = self._begin_nothing_new(partial(kind, text))
        self._end_subscriptions(error)
        if self._last_operation > self._answered and self._unheard is None:
            self._unheard = error
        while self._answers:
            self._answers.popleft().come(error)

    def _begin_nothing_new(self, error: ErrorFactory) -> ErrorFactory:
        """Note why, unless it is known already; gives the reason that stays."""
        if self._over is None:
            self._over = error
        self._decided.set()
        while self._room:
            self._room.popleft().set()
        return self._over

    def _end_subscriptions(self, error: ErrorFactory | None) -> None:
        subscriptions, self._subscriptions = self._subscriptions, {}
        self._routes.clear()
        for subscription in subscriptions:
            subscription.end(error)

    # Events

    def _on_event(self, event: ClientEvent | ServerEvent) -> None:
        match event:
            case Messages(runs):
                routes = self._routes
                for run in runs:
                    route = routes.get(run.channel)
                    if route is not None:
                        for subscription in route.claims:
                            subscription.deliver(run)
            case Acked(operations):
                self._on_answered(operations.stop)
            case Rejected():
                self._on_rejected(event)
            case Gap(channel, missed):
                route = self._routes.get(channel)
                if route is not None:
                    for subscription in route.claims:
                        subscription.miss(missed)
            case Welcome():
                self._is_welcome = True
                self._decided.set()
            case GoingAway(reason):
                kind = ConnectionLost if self._is_welcome else ConnectionRefused
                text = f"the hub at {self._address} is leaving: {reason}"
                self._begin_nothing_new(partial(kind, text))
            case PeerError(ErrorCode.AUTH, text):
                self._drop(AuthenticationFailed, f"the hub at {self._address}: {text}")
            case PeerError(code, text):
                self._lose(f"the hub at {self._address} refused ({code}): {text}")
            case Closed():
                self._lose(f"the hub at {self._address} closed the connection")

    def _on_violation(self, error: RemoteProtocolError) -> None:
        if self._is_welcome:
            self._lose(f"the hub at {self._address}: {error}")
        else:
            self._lose(f"{self._address} does not speak Hyps: {error}")

    def _on_answered(self, stop: int) -> None:
        self._answered = stop - 1
        while self._joining and next(iter(self._joining)) < stop:
            del self._joining[next(iter(self._joining))]
        answers = self._answers
        while answers and answers[0].operation < stop:
            answers.popleft().come(None)

    def _on_rejected(self, event: Rejected) -> None:
        self._on_answered(event.operation)
        self._answered = event.operation
        error = event.refusals[0].error
        is_heard = False
        joining = self._joining.pop(event.operation, None)
        if joining is not None:
            is_heard = True
            for refusal in event.refusals:
                self._refuse_route(joining, refusal)
        answers = self._answers
        while answers and answers[0].operation == event.operation:
            answer = answers.popleft()
            is_heard = is_heard or answer.is_own
            answer.come(error if answer.is_own else None)
        if not is_heard and self._unheard is None:
            self._unheard = error

    def _refuse_route(self, joining: dict[str, _Route], refusal: Refusal) -> None:
        route = joining.get(refusal.channel or "")
        if route is None:
            return
        # Those who joined it find the error when their answer comes. If it was left and joined
        # anew meanwhile, that is another route.
        route.error = refusal.error
        if self._routes.get(refusal.channel or "") is route:
            del self._routes[refusal.channel or ""]
            for subscription in route.claims:
                subscription.held.discard(refusal.channel or "")
        route.claims.clear()

    # Operations

    def _check_open(self) -> ClientProtocol:
        if self._over is not None:
            raise self._over()
        if self._pump is None or not self._is_welcome:
            raise ConnectionLost("the client is not connected")
        return self._pump.protocol

    def _expect(self, operation: int, *, is_own: bool) -> _Answer:
        answer = _Answer(operation, self.new_waiter(), is_own=is_own)
        if self._answers and self._answers[-1].operation > operation:
            insort(self._answers, answer, key=_by_operation)
        else:
            self._answers.append(answer)
        return answer

    async def publish(self, channel: str, data: Data) -> None:
        protocol = self._check_open()
        if self._room or protocol.backlog >= self._limits.max_backlog:
            protocol = await self._wait_for_room()
        try:
            self._last_operation = operation = protocol.publish(channel, data)
        finally:
            self._let_in()
        await self._wait_for_answers([self._expect(operation, is_own=True)])

    def publish_nowait(self, channel: str, data: Data) -> None:
        protocol = self._check_open()
        if self._room or protocol.backlog >= self._limits.max_backlog:
            raise WouldBlock("the hub is not reading as fast as this client publishes")
        self._last_operation = protocol.publish(channel, data)

    async def publish_many(self, messages: Iterable[tuple[str, Data]]) -> None:
        await checkpoint()
        iterator = iter(messages)
        answers: deque[_Answer] = deque()
        error: Exception | None = None
        try:
            while not (answers and answers[0].error):
                protocol = self._check_open()
                if self._room or protocol.backlog >= self._limits.max_backlog:
                    protocol = await self._wait_for_room()
                try:
                    operation = protocol.publish_many(iterator, max_bytes=FRAME_SIZE)
                finally:
                    self._let_in()
                if operation is None:
                    break
                self._last_operation = operation
                answers.append(self._expect(operation, is_own=True))
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
        await self._wait_for_answers(answers)
        if error is not None:
            raise error

    async def _wait_for_answers(self, answers: Iterable[_Answer]) -> None:
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
            self._check_open()
            await self._expect(self._last_operation, is_own=False).wait()
        else:
            await checkpoint()
        if self._unheard is not None:
            error, self._unheard = self._unheard, None
            raise error()
        self._check_open()

    # Room to publish

    async def _wait_for_room(self) -> ClientProtocol:
        waiter = self.new_waiter()
        self._room.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            if waiter in self._room:
                self._room.remove(waiter)
            else:
                self._let_in()
            raise
        return self._check_open()

    def _let_in(self) -> None:
        """Let the first of those who wait for room go on, if there is room."""
        if self._room and self._check_open().backlog < self._limits.max_backlog:
            self._room.popleft().set()

    # Subscriptions

    async def join(self, subscription: Subscription, channels: Iterable[str]) -> None:
        """Add channels to a subscription, all or none."""
        protocol = self._check_open()
        held = subscription.held
        names = dict.fromkeys(channels)
        operation = protocol.subscribe([name for name in names if name not in self._routes])
        claimed: dict[str, _Route] = {}
        self._subscriptions[subscription] = None
        for name in names:
            route = self._routes.get(name)
            if route is None:
                assert operation is not None
                route = self._routes[name] = _Route()
                self._last_operation = route.operation = operation
                self._joining.setdefault(operation, {})[name] = route
            claims = route.claims.get(subscription)
            if claims != 0:
                route.claims[subscription] = (claims or 0) + 1
                claimed[name] = route
        held.update(claimed)
        last = max([route.operation for route in claimed.values()], default=0)
        try:
            if last > self._answered:
                await self._expect(last, is_own=False).wait()
            else:
                await checkpoint()
            _raise_refusal(claimed.values())
        except BaseException:
            self._give_up(subscription, claimed)
            raise
        for route in claimed.values():
            if subscription in route.claims:
                route.claims[subscription] = 0

    def _give_up(self, subscription: Subscription, claimed: dict[str, _Route]) -> None:
        """Leave channels, unless another call has them or waits for them too."""
        unwanted = []
        for name, route in claimed.items():
            claims = route.claims.get(subscription, 0)
            if claims > 1:
                route.claims[subscription] = claims - 1
            elif claims == 1:
                unwanted.append(name)
        self.leave(subscription, unwanted)

    def leave(self, subscription: Subscription, channels: Iterable[str]) -> int | None:
        """Remove channels from a subscription, without waiting.

        :return: the id of the operation, if there was one
        """
        gone: list[str] = []
        for name in channels:
            if name in subscription.held:
                subscription.held.discard(name)
                route = self._routes.get(name)
                if route is not None:
                    del route.claims[subscription]
                    if not route.claims:
                        del self._routes[name]
                        gone.append(name)
        if not gone or not self.is_open:
            return None
        operation = self._check_open().unsubscribe(gone)
        assert operation is not None
        self._last_operation = operation
        return operation

    async def leave_and_wait(self, subscription: Subscription, channels: Iterable[str]) -> None:
        """Remove channels from a subscription, and wait for the answer."""
        self._check_open()
        operation = self.leave(subscription, channels)
        if operation is None:
            await checkpoint()
        else:
            await self._expect(operation, is_own=True).wait()

    def forget(self, subscription: Subscription) -> None:
        """Remove a subscription, without waiting."""
        self.leave(subscription, list(subscription.held))
        self._subscriptions.pop(subscription, None)
