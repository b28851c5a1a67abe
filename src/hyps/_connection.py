"""A client's connection: a task of its own that outlives the calls of its users.

What is known about the connection lives here and not in the :class:`Client`, so that a client
that nobody refers to any more can be noticed. Every change of state is made in one go, without
waiting; users wait only for an answer, for room, or for the connection to open or to end.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from ._backend import spawn, waiter_type
from ._errors import (
    AuthenticationFailed,
    ConnectionLost,
    ConnectionRefused,
    SubscriptionOverflow,
)
from ._link import Link
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
    Message,
    Messages,
    PeerError,
    Refusal,
    Rejected,
    RemoteProtocolError,
    Welcome,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from ._link import ErrorFactory
    from ._subscription import Subscription
    from .protocol import ClientEvent, ServerEvent
    from .protocol.client import Data

    AnySubscription = Subscription[Message] | Subscription[Message | Gap]


logger = logging.getLogger("hyps.client")


class _Claim:
    """A subscription's hold on a channel, from its joining to its leaving it."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        #: How many calls wait to be told that it has the channel. When one of them was told it is
        #: 0, and what becomes of the others changes nothing.
        self.waiting = 0


class _Route:
    """The subscriptions of a channel. They share one SUBSCRIBE, and one copy on the wire."""

    __slots__ = ("claims", "error", "operation")

    def __init__(self) -> None:
        self.claims: dict[AnySubscription, _Claim] = {}
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
        self._hub = f"the hub at {address}"
        self._token = token
        self._ssl_context = ssl_context
        self._limits = limits
        #: Makes what one task waits for.
        self.new_waiter = waiter_type()
        self._link: Link | None = None
        self._scope = anyio.CancelScope()
        # Set when the hub has welcomed this client, or when it is clear that it will not.
        self._decided = anyio.Event()
        self._is_welcome = False
        self._ended = anyio.Event()
        # Calls that wait for it to open, and whether one has seen it open.
        self._openers = 0
        self._is_taken = False
        # Why nothing new can be begun.
        self._over: ErrorFactory | None = None
        self._routes: dict[str, _Route] = {}
        # By the id of their SUBSCRIBE, the routes that wait for its answer.
        self._joining: dict[int, dict[str, _Route]] = {}
        self._subscriptions: dict[AnySubscription, None] = {}
        # What the gaps were that no log tells of yet.
        self._gaps: list[int | None] = []

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
        except BaseException:
            if self._openers == 1 and not self._is_taken:
                # Nobody else wants it, or has it: not even if it has opened in this very moment.
                self.close_nowait()
            raise
        finally:
            self._openers -= 1
        if self._over is not None:
            raise self._over()
        self._is_taken = True

    async def close(self) -> None:
        """Begin to close, and wait until the connection has ended."""
        self.close_nowait()
        await self._ended.wait()

    def close_nowait(self) -> None:
        """Send what is queued, end every iteration, and close, all in bounded time."""
        self._begin_nothing_new(partial(ConnectionLost, "the client was shut down"))
        self._end_subscriptions(None)
        if self._is_welcome and self._link is not None:
            self._link.close()
        else:
            self._scope.cancel()

    async def _run(self) -> None:
        # The root. Everything that happens to the connection happens below it, and nothing that
        # happens there may come out: there is nobody above.
        kind: type[HypsError] | None = None
        text = f"the connection to {self._address} has ended"
        try:
            with self._scope:
                async with dial(self._address, self._ssl_context) as stream:
                    self._link = Link(stream, self._make_protocol)
                    broken = await self._link.run(self._on_event, self._on_violation)
                if broken is not None:
                    text = f"the connection to {self._address} broke: {broken}"
                if self._gaps:
                    self._log_gaps()
        except HypsError as caught:
            kind, text = type(caught), str(caught)
        except Exception as caught:
            # A defect of this client. Users see what it means for them.
            text = f"internal error: {caught!r}"
        finally:
            self._drop(kind or self._loss, text)
            self._ended.set()

    def _make_protocol(self, on_output: Callable[[], None]) -> ClientProtocol:
        return ClientProtocol(
            client=f"hyps-py/{__version__}",
            token=self._token,
            limits=self._limits,
            on_output=on_output,
        )

    @property
    def _loss(self) -> type[HypsError]:
        return ConnectionLost if self._is_welcome else ConnectionRefused

    def _drop(self, kind: type[HypsError], text: str) -> None:
        """End everything that the connection carried. The first reason for it stays."""
        error = self._begin_nothing_new(partial(kind, text))
        self._end_subscriptions(error)
        if self._link is not None:
            self._link.drop(error)

    def _begin_nothing_new(self, error: ErrorFactory) -> ErrorFactory:
        """Note why, unless it is known already; gives the reason that stays."""
        if self._over is None:
            self._over = error
        self._decided.set()
        if self._link is not None:
            self._link.end(self._over)
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
                if self._gaps:
                    self._log_gaps()
                routes = self._routes
                for run in runs:
                    route = routes.get(run.channel)
                    if route is not None:
                        full = [each for each in route.claims if each.deliver(run)]
                        if full:
                            self._end_full(full)
            case Acked(operations):
                while self._joining and next(iter(self._joining)) < operations.stop:
                    del self._joining[next(iter(self._joining))]
            case Rejected(operation, refusals):
                joining = self._joining.pop(operation, {})
                for refusal in refusals:
                    self._refuse_route(joining, refusal)
            case Gap(channel, missed):
                self._gaps.append(missed)
                route = self._routes.get(channel)
                if route is not None:
                    for subscription in route.claims:
                        subscription.miss(event)
            case Welcome():
                self._is_welcome = True
                self._decided.set()
            case GoingAway(reason):
                self._begin_nothing_new(partial(self._loss, f"{self._hub} is leaving: {reason}"))
            case PeerError(ErrorCode.AUTH, text):
                self._drop(AuthenticationFailed, f"{self._hub}: {text}")
            case PeerError(code, text):
                self._drop(self._loss, f"{self._hub} refused ({code}): {text}")
            case Closed():
                self._drop(self._loss, f"{self._hub} closed the connection")

    def _end_full(self, subscriptions: Iterable[AnySubscription]) -> None:
        for subscription in subscriptions:
            self.forget(subscription)
            subscription.end(partial(SubscriptionOverflow, "the subscription's buffer was full"))

    def _log_gaps(self) -> None:
        """Tell of the gaps that one overflow at the hub made, in one line."""
        known = sum([missed for missed in self._gaps if missed is not None])
        unknown = None in self._gaps
        logger.warning(
            "this process read too slowly: %s dropped %d messages in %d channels%s",
            self._hub,
            known,
            len(self._gaps),
            ", and an unknown number of others" if unknown else "",
        )
        self._gaps.clear()

    def _on_violation(self, error: RemoteProtocolError) -> None:
        if self._is_welcome:
            self._drop(ConnectionLost, f"{self._hub}: {error}")
        else:
            self._drop(ConnectionRefused, f"{self._address} does not speak Hyps: {error}")

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

    def _check_open(self) -> Link:
        if self._over is not None:
            raise self._over()
        if self._link is None or not self._is_welcome:
            raise ConnectionLost("the client is not connected")
        return self._link

    async def publish(self, channel: str, data: Data) -> None:
        await self._check_open().publish(channel, data)

    def publish_nowait(self, channel: str, data: Data) -> None:
        self._check_open().publish_nowait(channel, data)

    async def publish_many(self, messages: Iterable[tuple[str, Data]]) -> None:
        await self._check_open().publish_many(messages)

    async def flush(self) -> None:
        if self._link is None:
            self._check_open()
        else:
            await self._link.flush()

    # Subscriptions

    async def join(self, subscription: AnySubscription, channels: Iterable[str]) -> None:
        """Add channels to a subscription, all or none."""
        link = self._check_open()
        names = dict.fromkeys(channels)
        unknown = [name for name in names if name not in self._routes]
        operation = link.begun(link.protocol.subscribe(unknown))
        claimed: dict[str, tuple[_Route, _Claim]] = {}
        self._subscriptions[subscription] = None
        for name in names:
            route = self._routes.get(name)
            if route is None:
                route = self._routes[name] = _Route()
                route.operation = operation
                self._joining.setdefault(operation, {})[name] = route
            claim = route.claims.get(subscription)
            if claim is None:
                claim = route.claims[subscription] = _Claim()
            elif not claim.waiting:
                continue
            claim.waiting += 1
            claimed[name] = (route, claim)
        subscription.held.update(claimed)
        last = max([route.operation for route, _ in claimed.values()], default=0)
        try:
            await link.expect(last, is_own=False).wait()
            _raise_refusal([route for route, _ in claimed.values()])
        except BaseException:
            self._give_up(subscription, claimed)
            raise
        for _, claim in claimed.values():
            claim.waiting = 0

    def _give_up(
        self, subscription: AnySubscription, claimed: dict[str, tuple[_Route, _Claim]]
    ) -> None:
        """Leave channels, unless another call has them or waits for them too."""
        unwanted: list[str] = []
        for name, (route, claim) in claimed.items():
            # It may have been left meanwhile, and joined anew.
            if claim.waiting and route.claims.get(subscription) is claim:
                claim.waiting -= 1
                if not claim.waiting:
                    unwanted.append(name)
        self.leave(subscription, unwanted)

    def leave(self, subscription: AnySubscription, channels: Iterable[str]) -> int | None:
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
        link = self._check_open()
        return link.begun(link.protocol.unsubscribe(gone))

    async def leave_and_wait(self, subscription: AnySubscription, channels: Iterable[str]) -> None:
        """Remove channels from a subscription, and wait for the answer."""
        link = self._check_open()
        operation = self.leave(subscription, channels)
        if operation is None:
            await checkpoint()
        else:
            await link.wait_for([link.expect(operation, is_own=True)])

    def forget(self, subscription: AnySubscription) -> None:
        """Remove a subscription, without waiting."""
        self.leave(subscription, list(subscription.held))
        self._subscriptions.pop(subscription, None)
