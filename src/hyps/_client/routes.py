"""Which subscriptions hold which channels. Nothing here waits, and nothing does I/O.

Routes outlive the connections that messages come over: they are what the client restores when it
has a new one. A subscription holds a channel from its joining, which the hub has to answer, to its
leaving it, which takes effect at once.
"""

from __future__ import annotations

from functools import partial
from itertools import filterfalse
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from .._errors import SubscriptionOverflow
from ..protocol import InvalidChannel, Refusal, Run
from ..protocol._records.layout import encode_channel
from ..protocol._records.runs import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._errors import ErrorFactory
    from ..protocol import Batch, ClientProtocol, Gap, Welcome
    from .inbox import Inbox

_Value = TypeVar("_Value")

#: The subscriptions of a channel. They share one SUBSCRIBE, and one copy on the wire. A
#: subscription that holds its channels alone uses one tuple for all that it joined in one call.
_Route: TypeAlias = "tuple[Inbox] | dict[Inbox, None]"


class Joining:
    """A call that joins channels, and waits until they are answered.

    :param subscription: it joins
    :param names: channels that it was not told of by an earlier call
    :param operation: the id of the operation after which all of them are answered
    :param calls: all calls that wait, by their subscriptions
    """

    __slots__ = ("_calls", "error", "names", "operation", "subscription")

    def __init__(
        self,
        subscription: Inbox,
        names: dict[str, None],
        operation: int,
        calls: dict[Inbox, list[Joining]],
    ) -> None:
        self.subscription = subscription
        self.operation = operation
        #: Those that it still waits for: not what was left meanwhile, or refused.
        self.names = names
        #: Why the hub refused the first of those that it did.
        self.error: ErrorFactory | None = None
        self._calls = calls
        calls.setdefault(subscription, []).append(self)

    def finish(self) -> None:
        """Keep the channels: they were answered.

        :raises HypsError: if the hub refused one
        """
        if self.error is not None:
            raise self.error()
        for other in self._remove():
            # The subscription has these channels now, whatever becomes of the other call.
            for name in self.names:
                other.names.pop(name, None)

    def give_up(self) -> list[str]:
        """Give the channels that no other call has or waits for."""
        others = self._remove()
        return [name for name in self.names if not any(name in other.names for other in others)]

    def _remove(self) -> list[Joining]:
        """Wait no more.

        :return: the other calls of the subscription
        """
        others = self._calls[self.subscription]
        others.remove(self)
        if not others:
            del self._calls[self.subscription]
        return others


class Routes:
    """The subscriptions of a client, and the channels that they hold."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        self._subscriptions: dict[Inbox, None] = {}
        # The calls that wait. A subscription that holds a channel was told so, if none of them is
        # about it.
        self._calls: dict[Inbox, list[Joining]] = {}
        # Operations without an answer: their channels, and of each channel that is held the one
        # that it waits for.
        self._joining: dict[int, list[str]] = {}
        self._operations: dict[str, int] = {}
        # By operation and channel, the calls whose channel was left meanwhile. If it is refused
        # they are told all the same.
        self._left: dict[int, dict[str, list[Joining]]] = {}
        # Where channels stood when the last connection was lost.
        self._positions: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._routes)

    @property
    def subscriptions(self) -> int:
        """How many subscriptions there are."""
        return len(self._subscriptions)

    @property
    def buffered(self) -> int:
        """How many messages wait in their buffers. Any thread may ask."""
        # A copy: the client may add another one meanwhile.
        return sum([each.buffer.count_items(gaps=False) for each in list(self._subscriptions)])

    # Channels

    def add(self, subscription: Inbox) -> None:
        """Add a subscription, with no channels yet."""
        self._subscriptions[subscription] = None

    def join(
        self, subscription: Inbox, channels: Iterable[str], protocol: ClientProtocol
    ) -> tuple[Joining, int | None]:
        """Add channels to a subscription that was added.

        :return: what to wait for, and the id of the operation that was begun for it, if any
        """
        names = dict.fromkeys(channels)
        routes = self._routes
        unknown = list(filterfalse(routes.__contains__, names))
        operation = protocol.subscribe(unknown)
        new: Iterable[str] = names
        if len(unknown) < len(names):
            new = unknown
            names = self._join_known(subscription, names)
        if operation is not None:
            self._joining[operation] = unknown
            self._operations = _with(self._operations, new, operation)
            self._routes = _with(routes, new, (subscription,))
            _hold(subscription, unknown)
        if names and not protocol.counts_losses:
            # This hub cannot report what it drops.
            subscription.missed_unknown = True
        last = operation or max([self._operations.get(name, 0) for name in names], default=0)
        return Joining(subscription, names, last, self._calls), operation

    def _join_known(self, subscription: Inbox, names: dict[str, None]) -> dict[str, None]:
        """Add those of the channels that are known.

        :return: all but those that the subscription was told that it holds
        """
        calls = self._calls.get(subscription, [])
        wanted = dict(names)
        new: list[str] = []
        for name in names:
            route = self._routes.get(name)
            if route is None:
                continue
            if subscription in route:
                if not any(name in call.names for call in calls):
                    del wanted[name]
                continue
            if isinstance(route, tuple):
                route = self._routes[name] = dict.fromkeys(route)
            route[subscription] = None
            new.append(name)
        _hold(subscription, new)
        return wanted

    def leave(self, subscription: Inbox, channels: Iterable[str]) -> list[str]:
        """Remove channels from a subscription.

        :return: those that no other subscription holds
        """
        gone: list[str] = []
        for name in channels:
            route = self._routes.get(name)
            if route is not None and subscription in route:
                self._let_go(subscription, name)
                if isinstance(route, dict) and len(route) > 1:
                    del route[subscription]
                else:
                    del self._routes[name]
                    self._operations.pop(name, None)
                    gone.append(name)
        return gone

    def _let_go(self, subscription: Inbox, name: str) -> None:
        operation = self._operations.get(name)
        for call in self._calls.get(subscription, ()):
            if name in call.names:
                del call.names[name]
                if operation is not None:
                    left = self._left.setdefault(operation, {})
                    left.setdefault(name, []).append(call)
        held = subscription.channels
        if held:
            if isinstance(held, tuple):
                held = subscription.channels = dict.fromkeys(held)
            del held[name]

    def forget(self, subscription: Inbox) -> list[str]:
        """Remove a subscription.

        :return: see :meth:`leave`
        """
        self._subscriptions.pop(subscription, None)
        held, subscription.channels = subscription.channels, ()
        return self.leave(subscription, held)

    def end(self, error: ErrorFactory | None) -> list[str]:
        """End every subscription, with an error or without.

        :return: see :meth:`leave`
        """
        held = list(self._routes)
        subscriptions, self._subscriptions = self._subscriptions, {}
        self._routes.clear()
        self._forget_operations()
        for subscription in subscriptions:
            subscription.channels = ()
            subscription.end(error)
        return held

    # What the hub says

    def deliver(self, batches: Sequence[Run | Batch]) -> list[str]:
        """Give messages to the subscriptions of their channels.

        :return: channels that nobody holds any more, see :meth:`leave`
        """
        unwanted: list[str] = []
        for batch in batches:
            if isinstance(batch, Run):
                unwanted += self._deliver(self._routes.get(batch.channel, ()), batch)
            else:
                unwanted += self._deliver_batch(batch)
        return unwanted

    def _deliver_batch(self, batch: Batch) -> list[str]:
        # Per run, and so per message where no two neighbours are of one channel.
        unwanted: list[str] = []
        get = self._routes.get
        parts = batch.parts
        route = get(parts[0][0], ())
        first = start = position = 0
        for index, (channel, stop, _) in enumerate(parts):
            found = get(channel, ())
            if found is not route and found != route:
                part = join(batch.records, start, parts[first:index])
                unwanted += self._deliver(route, part)
                first, start = index, position
                # An overflow may have ended some.
                route = get(channel, ())
            position = stop
        part = batch if not first else join(batch.records, start, parts[first:])
        unwanted += self._deliver(route, part)
        return unwanted

    def _deliver(self, route: _Route | tuple[()], batch: Run | Batch) -> list[str]:
        # Per batch and subscription.
        unwanted: list[str] = []
        full = [each for each in route if each.deliver(batch)]
        for subscription in full:
            unwanted += self.forget(subscription)
            subscription.end(_overflow)
        return unwanted

    def miss(self, gap: Gap) -> None:
        """Tell the subscriptions of a channel that messages were missed."""
        for subscription in self._routes.get(gap.channel, ()):
            subscription.miss(gap)

    def on_answered(self, stop: int) -> None:
        """Take it that all operations before this one were answered."""
        joining = self._joining
        while joining and (operation := next(iter(joining))) < stop:
            self._on_answered(operation)

    def _on_answered(self, operation: int) -> None:
        names = self._joining.pop(operation, [])
        self._left.pop(operation, None)
        if not self._joining:
            self._operations.clear()
            return
        for name in names:
            # It may have been left, and joined anew.
            if self._operations.get(name) == operation:
                del self._operations[name]

    def _forget_operations(self) -> None:
        self._joining.clear()
        self._operations.clear()
        self._left.clear()

    def on_refused(self, operation: int, refusals: Iterable[Refusal]) -> list[str]:
        """Take it that the hub refused channels.

        :return: other channels that nobody holds any more, see :meth:`leave`
        """
        unwanted: list[str] = []
        left = self._left.get(operation, {})
        for refusal in refusals:
            name = refusal.channel
            if name is None:
                break  # The operation was not a SUBSCRIBE.
            for call in left.get(name, ()):
                call.error = call.error or refusal.error
            # One that was left and joined anew meanwhile waits for another answer.
            if name in self._routes and self._operations.get(name, operation) == operation:
                unwanted += self._refuse(name, refusal.error)
        self._on_answered(operation)
        return unwanted

    def _refuse(self, name: str, error: ErrorFactory) -> list[str]:
        self._operations.pop(name, None)
        unwanted: list[str] = []
        for subscription in self._routes.pop(name):
            waiting = [each for each in self._calls.get(subscription, ()) if name in each.names]
            self._let_go(subscription, name)
            for call in waiting:
                # It finds the error when its answer comes.
                call.error = call.error or error
            if not waiting:
                # It had the channel on an earlier connection, and would wait for its messages in
                # vain.
                unwanted += self.forget(subscription)
                subscription.end(error)
        return unwanted

    # From one connection to the next

    def on_lost(self, protocol: ClientProtocol) -> None:
        """Let go of what was not answered, and note where the other channels stand."""
        for name in self._operations:
            for subscription in self._routes.pop(name):
                self._let_go(subscription, name)
        self._forget_operations()
        before, self._positions = self._positions, {}
        for name in self._routes:
            position = protocol.position(name) or before.get(name)
            if position is not None:
                self._positions[name] = position

    def restore(self, protocol: ClientProtocol, welcome: Welcome) -> int | None:
        """Subscribe all channels, on a new connection.

        :return: the id of the operation; None if there is nothing to restore
        """
        for name in list(self._routes):
            size = len(encode_channel(name))
            # One that was refused may have ended the subscription of others.
            if size > welcome.max_channel and name in self._routes:
                error = partial(
                    InvalidChannel,
                    f"a channel of {size} bytes; the hub takes {welcome.max_channel}",
                )
                self._refuse(name, error)
        return protocol.subscribe(self._routes, self._positions)


def check_names(channels: Iterable[str]) -> None:
    """Check names of channels, before anything is done with them.

    :raises InvalidChannel: if a name cannot be a channel's
    :raises TypeError: if it is no string
    """
    for channel in channels:
        if not isinstance(channel, str):
            raise TypeError(
                f"a channel must be a str, not {type(channel).__name__}: subscribe(*channels)"
            )
        encode_channel(channel)


def _with(before: dict[str, _Value], names: Iterable[str], value: _Value) -> dict[str, _Value]:
    """Add names, all with the same value."""
    if not before:
        # At once, and of its final size where the names are a dict's. One that grows leaves its
        # smaller tables behind, as holes in the process's memory.
        return dict.fromkeys(names, value)
    for name in names:
        before[name] = value
    return before


def _hold(subscription: Inbox, names: list[str]) -> None:
    """Note channels of a subscription, none of which it held before."""
    held = subscription.channels
    if held:
        if isinstance(held, tuple):
            held = subscription.channels = dict.fromkeys(held)
        held.update(dict.fromkeys(names))
    else:
        subscription.channels = tuple(names)


def _overflow() -> SubscriptionOverflow:
    return SubscriptionOverflow("the subscription's buffer was full")
