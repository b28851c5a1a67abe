"""What a system must do to be measured. A new one is a class in a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

#: The channel of all workloads that need only one.
CHANNEL: Final = "benchmark"

#: Channel and message.
Pair = tuple[str, bytes]

#: Told whenever so many messages were read, and the last of them.
Tally = Callable[[int, bytes], None]

#: Reads every message that arrives, until cancelled, and tells at every so many of them, and how
#: many are left over at the end.
#:
#: The loop belongs to the system and not to the workload, so that next to nothing stands between
#: two steps of the system's own iterator.
Reader = Callable[[int, Tally], Coroutine[Any, Any, None]]


class CannotDo(Exception):
    """A system has no way to do what a workload wants; the text says why."""


class Session(ABC):
    """What one client process has open: it publishes, and its readers are subscribed.

    Each system is used as its own users would use it, in the fastest way that it has, and with the
    same guarantee from the server: a call returns when the server has answered that it took what
    was published.
    """

    #: One for each subscription.
    readers: Sequence[Reader]
    #: The same, by taking what is there at once. Empty if the system cannot do that.
    batch_readers: Sequence[Reader] = ()

    @abstractmethod
    async def publish(self, channel: str, data: bytes) -> None:
        """Publish a message; returns when it is ACKed."""

    @abstractmethod
    async def publish_many(self, messages: Sequence[Pair]) -> None:
        """Publish messages; returns when all are ACKed."""

    @abstractmethod
    async def publish_each(self, messages: Sequence[Pair]) -> None:
        """Publish messages with a call for each; returns when all are ACKed."""


class Holder(ABC):
    """A client that takes channels and subscriptions, and reads nothing."""

    @abstractmethod
    async def subscribe(self, channels: Sequence[str]) -> None:
        """Subscribe channels, to one subscription where there is such a thing."""

    @abstractmethod
    async def add_subscriptions(self, count: int) -> None:
        """Make subscriptions of one channel, each of which could be read by a task of its own.

        :raises CannotDo: if one client cannot have so many
        """


class System(ABC):
    """A server, which runs while this is entered, and how it is connected to."""

    name: ClassVar[str]
    #: Event loops that its client runs on.
    loops: ClassVar[frozenset[str]] = frozenset({"asyncio", "uvloop"})
    #: Whether its readers iterate, as the workloads have it, and are not called.
    is_iterated: ClassVar[bool] = True
    #: Whether a reader of several channels sees their messages in the order of publishing.
    orders_channels: ClassVar[bool] = True

    #: The server's process.
    pid: int = 0

    def __init__(self) -> None:
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.start(stack)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()

    @abstractmethod
    def start(self, stack: ExitStack) -> None:
        """Start the server, and leave its end to the stack.

        :raises Missing: if the system cannot be measured here
        """

    @property
    @abstractmethod
    def versions(self) -> str:
        """The versions of everything that is measured."""

    @abstractmethod
    def session(self, channels: Sequence[str] = (CHANNEL,)) -> AbstractAsyncContextManager[Session]:
        """Connect, with one reader of all channels. When it is entered, it is subscribed."""

    @abstractmethod
    def group(self, readers: int, *, shared: bool) -> AbstractAsyncContextManager[Session]:
        """Connect with readers of one channel, each with a subscription of its own.

        :param readers: how many
        :param shared: they belong to one client; else each has its own
        """

    @abstractmethod
    def holder(self) -> AbstractAsyncContextManager[Holder]:
        """Connect, and subscribe nothing."""
