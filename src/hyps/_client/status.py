"""What becomes of a client's connection, as events that users can watch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from anyio.lowlevel import checkpoint

from .._net.backend import here, waiter_type, wake

if TYPE_CHECKING:
    from .._net.backend import Home, Waiter

#: Events that one watcher may leave unread; older ones are forgotten. Each loss is two of them.
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

    There is another one for each new reason why it cannot have one again.

    :param hub: URL of the hub that it had
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
    """An async iterator of what becomes of a client's connection. Made by :meth:`Client.events`.

    It ends when the client is shut down. Of a watcher that does not read the last 100 events are
    kept.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._events: deque[ConnectionEvent] = deque(maxlen=_MAX_UNREAD)
        self._waiters: list[Waiter] = []
        # Where they wait.
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
            # Each time: it may have been connected elsewhere meanwhile.
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
        """Raise if nobody could wake the caller: the client, or others who wait, are elsewhere."""
        homes = (self._status.home, self._home if self._waiters else None)
        for home in homes:
            if not self._is_ended and home is not None and not home.is_here():
                raise RuntimeError(home.advice())

    def take(self, event: ConnectionEvent | None) -> None:
        """Take an event; none is the end."""
        if event is None:
            self._is_ended = True
        else:
            self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again, wherever they are."""
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
    """Tells all who watch a client what becomes of its connection."""

    def __init__(self) -> None:
        #: The last event, if it still says how things are.
        self.current: ConnectionEvent | None = None
        #: Whether nothing more is to come, unless the client is connected anew.
        self.is_over = False
        #: Where the client is connected, if it is.
        self.home: Home | None = None
        #: Weak: a watcher that nobody reads any more needs not be told.
        self.watchers: WeakSet[ConnectionEvents] = WeakSet()

    def post(self, event: ConnectionEvent) -> None:
        self.current = event
        for watcher in list(self.watchers):
            watcher.take(event)

    def begin(self) -> None:
        """Take it that the client is being connected here, for the first time or anew."""
        self.is_over = False
        self.home = here()
        for watcher in list(self.watchers):
            # Elsewhere they would be told too late, or never: that they are told.
            watcher.wake()

    def end(self) -> None:
        """End every iteration."""
        self.is_over = True
        self.current = None
        self.home = None
        for watcher in list(self.watchers):
            watcher.take(None)
        self.watchers.clear()
