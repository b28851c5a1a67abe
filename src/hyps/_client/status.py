"""The events of a client's connection, which users can watch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from anyio.lowlevel import checkpoint

from .._net.backend import here, waiter_type, wake

if TYPE_CHECKING:
    from .._net.backend import Home, Waiter

#: A watcher that does not read keeps at most this many events, the newest. Each loss makes two.
_MAX_UNREAD: Final = 100


@dataclass(frozen=True, slots=True)
class Connected:
    """The client has its first connection.

    :param hub: URL of the hub
    """

    hub: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The client has no connection. It connects again, unless this is the last event.

    Each new reason why it cannot connect gives another event.

    :param hub: URL of the hub that it had, or the client's own if it has had none
    :param reason: in words
    """

    hub: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The client has a connection again, and its subscriptions have their channels again.

    :param hub: URL of the hub
    """

    hub: str


ConnectionEvent = Connected | Disconnected | Reconnected


class ConnectionEvents:
    """An async iterator of a client's connection events. :meth:`Client.events` makes it.

    It ends when the client is shut down. It keeps the last 100 events for a watcher that does not
    read.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._events: deque[ConnectionEvent] = deque(maxlen=_MAX_UNREAD)
        self._waiters: list[Waiter] = []
        # The event loop in which they wait.
        self._home: Home | None = None
        if status.current is not None:
            self._events.append(status.current)
        self._is_ended = status.is_over
        status.watchers.add(self)

    def __aiter__(self) -> ConnectionEvents:
        return self

    async def __anext__(self) -> ConnectionEvent:
        self._check_here()
        await checkpoint()
        while True:
            # Check each time: the client may have been connected in another event loop since.
            self._check_here()
            if self._events:
                return self._events.popleft()
            if self._is_ended:
                raise StopAsyncIteration
            self._home = here()
            waiter = waiter_type()()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise

    def _check_here(self) -> None:
        """Raise if nobody could wake the caller: the client or other waiters are elsewhere."""
        homes = (self._status.home, self._home if self._waiters else None)
        for home in homes:
            if not self._is_ended and home is not None and not home.is_here():
                raise RuntimeError(home.advice())

    def take(self, event: ConnectionEvent | None) -> None:
        """Add an event; None is the end."""
        if event is None:
            self._is_ended = True
        else:
            self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Wake all waiters, wherever they are."""
        waiters, self._waiters = self._waiters, []
        if not waiters or self._home is None:
            return

        def wake_all() -> None:
            for waiter in waiters:
                wake(waiter)

        if self._home.is_here():
            wake_all()
        else:
            self._home.call(wake_all)


class Status:
    """Passes a client's connection events to all watchers."""

    def __init__(self) -> None:
        #: The last event, while it tells the present state.
        self.current: ConnectionEvent | None = None
        #: Whether no more events come, unless the client is connected anew.
        self.is_over = False
        #: The event loop that the client is connected in, if it is.
        self.home: Home | None = None
        #: Weak references: a watcher that nobody reads any more needs no events.
        self.watchers: WeakSet[ConnectionEvents] = WeakSet()

    def post(self, event: ConnectionEvent) -> None:
        self.current = event
        for watcher in list(self.watchers):
            watcher.take(event)

    def begin(self) -> None:
        """Note that the client connects in this event loop, for the first time or anew."""
        self.is_over = False
        self.home = here()
        for watcher in list(self.watchers):
            # Watchers in other event loops learn by an error that they are in the wrong place.
            watcher.wake()

    def end(self) -> None:
        """End every iteration."""
        self.is_over = True
        self.current = None
        self.home = None
        for watcher in list(self.watchers):
            watcher.take(None)
        self.watchers.clear()
