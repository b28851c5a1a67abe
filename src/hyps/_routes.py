"""Which subscriptions hold which channels. Nothing here waits, and nothing does I/O.

Routes outlive the links that messages come over: they are what the client restores when it has a
new one. A subscription holds a channel from its joining, which the hub has to answer, to its
leaving it, which takes effect at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ._errors import SubscriptionOverflow
from .protocol import InvalidChannel, Refusal, Run
from .protocol.records import encode_channel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._link import ErrorFactory
    from ._subscription import Subscription
    from .protocol import ClientProtocol, Gap, Message, Welcome

    AnySubscription = Subscription[Message] | Subscription[Message | Gap]


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

    def __init__(self, operation: int) -> None:
        self.claims: dict[AnySubscription, _Claim] = {}
        #: The id of its SUBSCRIBE.
        self.operation = operation
        #: Why the hub refused it, if it did.
        self.error: ErrorFactory | None = None


class Joining:
    """What a call that joins channels waits for.

    :param subscription: it joins
    """

    __slots__ = ("_claimed", "subscription")

    def __init__(self, subscription: AnySubscription) -> None:
        self.subscription = subscription
        self._claimed: list[tuple[str, _Route, _Claim]] = []

    @property
    def operation(self) -> int:
        """The id of the operation after which all of it is answered."""
        return max([route.operation for _, route, _ in self._claimed], default=0)

    def claim(self, name: str, route: _Route) -> None:
        claim = route.claims.get(self.subscription)
        if claim is None:
            claim = route.claims[self.subscription] = _Claim()
            self.subscription.held.add(name)
        elif not claim.waiting:
            return
        claim.waiting += 1
        self._claimed.append((name, route, claim))

    def finish(self) -> None:
        """Keep the channels: they were answered.

        :raises HypsError: if the hub refused one
        """
        for _, route, _ in self._claimed:
            if route.error is not None:
                raise route.error()
        for _, _, claim in self._claimed:
            claim.waiting = 0

    def give_up(self) -> list[str]:
        """Give the channels that were claimed, and that no other call has or waits for."""
        unwanted: list[str] = []
        for name, route, claim in self._claimed:
            # It may have been left meanwhile, and joined anew.
            if claim.waiting and route.claims.get(self.subscription) is claim:
                claim.waiting -= 1
                if not claim.waiting:
                    unwanted.append(name)
        return unwanted


class Routes:
    """The subscriptions of a client, and the channels that they hold."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        # By the id of their SUBSCRIBE, the routes that wait for its answer.
        self._joining: dict[int, dict[str, _Route]] = {}
        self._subscriptions: dict[AnySubscription, None] = {}
        # Where channels stood when the last link was lost.
        self._positions: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._routes)

    # Channels

    def join(
        self, subscription: AnySubscription, channels: Iterable[str], protocol: ClientProtocol
    ) -> tuple[Joining, int | None]:
        """Add channels to a subscription.

        :return: what to wait for, and the id of the operation that was begun for it, if any
        """
        channels = list(channels)
        for channel in channels:
            if not isinstance(channel, str):
                kind = type(channel).__name__
                raise TypeError(f"a channel must be a str, not {kind}: subscribe(*channels)")
        names = dict.fromkeys(channels)
        unknown = [name for name in names if name not in self._routes]
        operation = protocol.subscribe(unknown)
        if operation is not None:
            routes = self._joining[operation] = {name: _Route(operation) for name in unknown}
            self._routes.update(routes)
        self._subscriptions[subscription] = None
        joining = Joining(subscription)
        for name in names:
            joining.claim(name, self._routes[name])
        if names and not protocol.counts_losses:
            subscription.may_miss()
        return joining, operation

    def leave(self, subscription: AnySubscription, channels: Iterable[str]) -> list[str]:
        """Remove channels from a subscription.

        :return: those that no other subscription holds
        """
        gone: list[str] = []
        for name in channels:
            if name in subscription.held:
                subscription.held.discard(name)
                route = self._routes[name]
                del route.claims[subscription]
                if not route.claims:
                    del self._routes[name]
                    gone.append(name)
        return gone

    def forget(self, subscription: AnySubscription) -> list[str]:
        """Remove a subscription.

        :return: see :meth:`leave`
        """
        self._subscriptions.pop(subscription, None)
        return self.leave(subscription, list(subscription.held))

    def end(self, error: ErrorFactory | None) -> None:
        """End every subscription, with an error or without."""
        subscriptions, self._subscriptions = self._subscriptions, {}
        self._routes.clear()
        self._joining.clear()
        for subscription in subscriptions:
            subscription.held.clear()
            subscription.end(error)

    # What the hub says

    def deliver(self, runs: Sequence[Run]) -> list[str]:
        """Give messages to the subscriptions of their channels.

        :return: channels that nobody holds any more, see :meth:`leave`
        """
        # Per run and subscription.
        routes = self._routes
        unwanted: list[str] = []
        for run in runs:
            route = routes.get(run.channel)
            if route is not None:
                full = [each for each in route.claims if each.deliver(run)]
                for subscription in full:
                    unwanted += self.forget(subscription)
                    subscription.end(_overflow)
        return unwanted

    def miss(self, gap: Gap) -> None:
        """Tell the subscriptions of a channel that messages were missed."""
        route = self._routes.get(gap.channel)
        if route is not None:
            for subscription in route.claims:
                subscription.miss(gap)

    def on_answered(self, stop: int) -> None:
        """Take it that all operations before this one were answered."""
        joining = self._joining
        while joining and (operation := next(iter(joining))) < stop:
            del joining[operation]

    def on_refused(self, operation: int, refusals: Iterable[Refusal]) -> list[str]:
        """Take it that the hub refused channels.

        :return: other channels that nobody holds any more, see :meth:`leave`
        """
        # A route that was left and joined anew meanwhile is another one.
        routes = self._joining.pop(operation, self._routes)
        unwanted: list[str] = []
        for refusal in refusals:
            if refusal.channel in routes:
                unwanted += self._refuse(refusal.channel, routes[refusal.channel], refusal.error)
        return unwanted

    def _refuse(self, name: str, route: _Route, error: ErrorFactory) -> list[str]:
        # Those who joined it find the error when their answer comes.
        route.error = error
        if self._routes.get(name) is route:
            del self._routes[name]
        unwanted: list[str] = []
        for subscription, claim in route.claims.items():
            subscription.held.discard(name)
            if not claim.waiting:
                # It had the channel on an earlier link, and would wait for its messages in vain.
                unwanted += self.forget(subscription)
                subscription.end(error)
        route.claims.clear()
        return unwanted

    # From one link to the next

    def on_lost(self, protocol: ClientProtocol) -> None:
        """Let go of what was not answered, and note where the other channels stand."""
        for routes in self._joining.values():
            for name, route in routes.items():
                for subscription in route.claims:
                    subscription.held.discard(name)
                route.claims.clear()
                if self._routes.get(name) is route:
                    del self._routes[name]
        self._joining.clear()
        before, self._positions = self._positions, {}
        for name in self._routes:
            position = protocol.position(name) or before.get(name)
            if position is not None:
                self._positions[name] = position

    def restore(self, protocol: ClientProtocol, welcome: Welcome) -> int | None:
        """Subscribe all channels, on a new link.

        :return: the id of the operation; None if there is nothing to restore
        """
        for name, route in list(self._routes.items()):
            size = len(encode_channel(name))
            if size > welcome.max_channel:
                error = partial(
                    InvalidChannel,
                    f"a channel of {size} bytes; the hub takes {welcome.max_channel}",
                )
                self._refuse(name, route, error)
        operation = protocol.subscribe(self._routes, self._positions)
        for route in self._routes.values():
            route.operation = operation or 0
        return operation


def _overflow() -> SubscriptionOverflow:
    return SubscriptionOverflow("the subscription's buffer was full")
