"""A subscription: a bounded buffer that its user iterates."""

from __future__ import annotations

import logging
from collections import deque
from operator import length_hint
from typing import TYPE_CHECKING, Final, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ._errors import SubscriptionClosed, WouldBlock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from types import TracebackType
    from typing import Any, Self

    from ._backend import Waiter
    from ._connection import Connection
    from .protocol import HypsError, Message, Run

logger = logging.getLogger("hyps.client")

#: Runs that a reader takes from its buffer before it lets other tasks run.
_RUNS_PER_PASS: Final = 64


class Subscription:
    """Channels, and the messages that arrive in them. Made by :meth:`Client.subscribe`.

    Enter it, iterate it, leave it. Its channels may change meanwhile, and several tasks may
    change them; one at a time may read. Messages of its channels arrive in the order in which
    the hub took them.

    The buffer is bounded. A message that finds it full is dropped and counted in
    :attr:`missed`; other subscriptions are not affected.
    """

    def __init__(
        self,
        connection: Callable[[], Connection],
        channels: tuple[str, ...],
        max_messages: int,
        max_bytes: int,
    ) -> None:
        if max_messages < 1 or max_bytes < 1:
            raise ValueError("max_messages and max_bytes must be positive")
        self._get_connection = connection
        self._connection: Connection | None = None
        self._first_channels = channels
        #: The channels, for the connection to change.
        self.held: set[str] = set()
        # The buffer holds runs, as they came: what is per message is done when it is read.
        self._runs: deque[Run] = deque()
        self._count = 0
        self._size = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        # The run that is being read, as an iterator over its messages, and its bytes.
        self._ready: Iterator[Message] = iter(())
        self._ready_size = 0
        self._passes = 0
        self._reader: Waiter | None = None
        self._missed = 0
        self._missed_unknown = False
        self._episode = 0
        self._is_ended = False
        self._error: Callable[[], HypsError] | None = None

    # Lifetime

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            raise RuntimeError("this subscription has been entered before")
        connection = self._get_connection()
        self._connection = connection
        try:
            await connection.join(self, self._first_channels)
        except BaseException:
            connection.forget(self)
            self.end(None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Without waiting, so that it works in a cancelled task and in a generator's finaliser.
        assert self._connection is not None
        self._connection.forget(self)
        self.end(None)

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise TypeError("a subscription is entered: async with client.subscribe(...) as name:")

    # Channels

    @property
    def channels(self) -> frozenset[str]:
        """The channels that it holds now."""
        return frozenset(self.held)

    async def subscribe(self, *channels: str) -> None:
        """Add channels; returns when the hub has ACKed. Those that it holds are left alone.

        It is all of them or, if it raises or is cancelled, none.

        :raises InvalidChannel: if a name cannot be a channel's, or the hub refuses it
        :raises PermissionDenied: if the hub does not allow it, or the session has too many
        :raises ConnectionLost: if the connection is lost
        :raises SubscriptionClosed: if the subscription was left
        """
        await self._entered().join(self, channels)

    async def unsubscribe(self, *channels: str) -> None:
        """Remove channels; returns when the hub has ACKed. Those that it does not hold are ignored.

        Nothing of them arrives from now on. What is in the buffer stays there.

        :raises ConnectionLost: if the connection is lost before the hub ACKed
        :raises SubscriptionClosed: if the subscription was left
        """
        await self._entered().leave_and_wait(self, channels)

    def _entered(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("enter the subscription first: async with ... as name:")
        if self._is_ended:
            raise self._closed()
        return self._connection

    def _closed(self) -> HypsError:
        if self._error is not None:
            return self._error()
        return SubscriptionClosed("the subscription has ended")

    # Losses

    @property
    def missed(self) -> int:
        """Messages that were lost, as far as they could be counted.

        At the hub, because this process read too slowly, and here, because the buffer was full.
        """
        return self._missed

    @property
    def missed_unknown(self) -> bool:
        """Whether messages were lost whose number cannot be known."""
        return self._missed_unknown

    # Reading

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        # Per message: these two lines. The rest is per run.
        for message in self._ready:
            return message
        if await self._next_run():
            return next(self._ready)
        raise StopAsyncIteration

    async def receive(self) -> Message:
        """Wait for the next message.

        :raises SubscriptionClosed: if the subscription has ended and nothing is left to read
        :raises ConnectionLost: if the connection was lost and nothing is left to read
        """
        for message in self._ready:
            return message
        if await self._next_run():
            return next(self._ready)
        raise self._closed()

    def receive_nowait(self) -> Message:
        """Give the next message if there is one.

        :raises WouldBlock: if there is none now
        :raises SubscriptionClosed: if the subscription has ended and nothing is left to read
        :raises ConnectionLost: if the connection was lost and nothing is left to read
        """
        if self._reader is not None:
            raise anyio.BusyResourceError("reading from")
        for message in self._ready:
            return message
        if self._take_run():
            return next(self._ready)
        if self._is_ended:
            raise self._closed()
        raise WouldBlock("there is no message now")

    async def receive_many(self) -> list[Message]:
        """Wait for a message, and give it and all others that are there, in order.

        :raises SubscriptionClosed: if the subscription has ended and nothing is left to read
        :raises ConnectionLost: if the connection was lost and nothing is left to read
        """
        messages = list(self._ready)
        if not messages:
            await self._receive_some()
            messages = list(self._ready)
        for run in self._runs:
            messages += run.messages
        self._forget_buffer()
        return messages

    async def receive_raw(self) -> bytes:
        """Do what :meth:`receive_many` does, and give concatenated records.

        For forwarding, to who decodes them with :func:`hyps.protocol.records` or the like. Unless
        a run was begun with another method, no message is looked at on the way.

        :raises SubscriptionClosed: if the subscription has ended and nothing is left to read
        :raises ConnectionLost: if the connection was lost and nothing is left to read
        """
        from .protocol import encode

        records = [encode(message.channel, message.data) for message in self._ready]
        if not records and not self._runs:
            await self._wait()
            if not self._runs:
                raise self._closed()
        elif not records:
            await self._let_others_run()
        records += [run.records for run in self._runs]
        self._forget_buffer()
        return b"".join(records)

    async def _receive_some(self) -> None:
        if not await self._next_run():
            raise self._closed()

    async def _next_run(self) -> bool:
        """Wait for the next run; False at the subscription's end."""
        if self._runs:
            await self._let_others_run()
        else:
            await self._wait()
        return self._take_run()

    async def _let_others_run(self) -> None:
        self._passes += 1
        if self._passes >= _RUNS_PER_PASS:
            self._passes = 0
            await checkpoint()

    async def _wait(self) -> None:
        """Wait until there is a run, or the subscription has ended."""
        if self._reader is not None:
            raise anyio.BusyResourceError("reading from")
        if self._connection is None:
            raise RuntimeError("enter the subscription first: async with ... as name:")
        if self._is_ended:
            await checkpoint()
            return
        self._reader = self._connection.new_waiter()
        try:
            await self._reader.wait()
        finally:
            self._reader = None

    def _take_run(self) -> bool:
        """Make the next run the one that is read; False if there is none."""
        if not self._runs:
            if self._error is not None:
                raise self._closed()
            return False
        run = self._runs.popleft()
        self._ready = iter(run.messages)
        self._ready_size = len(run.records)
        self._count -= run.count
        self._size -= self._ready_size
        return True

    def _forget_buffer(self) -> None:
        self._ready = iter(())
        self._runs.clear()
        self._count = self._size = 0

    # For the connection. None of it waits.

    def deliver(self, run: Run) -> None:
        """Take messages as far as there is room, and count the others as missed."""
        # Per run and subscription.
        unread = length_hint(self._ready)
        count = self._count + unread
        size = self._size + self._ready_size if unread else self._size
        records = len(run.records)
        if count + run.count > self._max_messages or size + records > self._max_bytes:
            room = _fit(run, self._max_messages - count, self._max_bytes - size)
            # However large, a message is admitted to an empty buffer.
            room = max(room, 0 if count else 1)
            self._miss(run.count - room)
            if not room:
                return
            if room < run.count:
                run = run.split(room)[0]
                records = len(run.records)
        elif self._episode:
            self._log_episode()
        self._runs.append(run)
        self._count += run.count
        self._size += records
        if self._reader is not None:
            self._reader.set()

    def _miss(self, count: int) -> None:
        self._missed += count
        self._episode += count

    def _log_episode(self) -> None:
        logger.warning("a subscription's buffer was full: %d messages missed", self._episode)
        self._episode = 0

    def miss(self, count: int | None) -> None:
        """Note that messages were missed before they came here."""
        if count is None:
            self._missed_unknown = True
            logger.warning("messages were missed, and it is not known how many")
        else:
            self._missed += count
            logger.warning("this process read too slowly: the hub dropped %d messages", count)

    def end(self, error: Callable[[], HypsError] | None) -> None:
        """End the iteration when the buffer is empty, with an error or without."""
        if self._is_ended:
            return
        self._is_ended = True
        self._error = error
        if self._episode:
            self._log_episode()
        if self._reader is not None:
            self._reader.set()


def _fit(run: Run, max_messages: int, max_bytes: int) -> int:
    """Count the run's first messages that stay within both bounds."""
    count = position = 0
    records = run.records
    while count < max_messages and position < len(records):
        position += 4 + int.from_bytes(records[position : position + 4], "big")
        if position > max_bytes:
            break
        count += 1
    return count
