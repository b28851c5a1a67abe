"""What a system must do to be measured. A new one is a class in a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import TYPE_CHECKING, ClassVar, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

#: The channel that is published to and subscribed.
CHANNEL: Final = "benchmark"


class Session(ABC):
    """What one process has open: it publishes to one channel, and is subscribed to it.

    Each system is used as its own users would use it, with the same guarantee from the server:
    a publish returns when the server has answered that it took the message.
    """

    @abstractmethod
    async def publish(self, data: bytes) -> None:
        """Publish a message; returns when it is ACKed."""

    @abstractmethod
    async def publish_many(self, messages: Sequence[bytes]) -> None:
        """Publish messages; returns when all are ACKed."""

    @abstractmethod
    async def read(self, take: Callable[[bytes], None]) -> None:
        """Give every message that arrives, until cancelled.

        The loop belongs to the system and not to the workload, so that nothing but the system's
        own iterator stands between a message and ``take``.
        """


class System(ABC):
    """A server, which runs while this is entered, and how it is connected to."""

    name: ClassVar[str]
    #: Event loops that its client runs on.
    backends: ClassVar[frozenset[str]] = frozenset({"asyncio", "uvloop"})

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
    def session(self) -> AbstractAsyncContextManager[Session]:
        """Connect. When it is entered, the subscription is there."""
