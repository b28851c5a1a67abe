"""What is known of subscriptions without I/O: what each is owed, and what it was given."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hyps.protocol import ClientProtocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import hyps
    from hyps import Gap, Message
    from hyps._client.inbox import Inbox
    from hyps._client.routes import Joining
    from hyps._client.subscription import Subscription


class Recorder(ClientProtocol):
    """Notes which records the hub is going to take, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: deque[tuple[int, bool, str]] = deque()
        #: Of each channel that is being joined: the operation.
        self.joining: dict[str, int] = {}

    def subscribe(
        self, channels: Iterable[str], positions: Mapping[str, bytes] | None = None
    ) -> int | None:
        channels = list(channels)
        operation = super().subscribe(channels, positions)
        if operation is not None:
            self.sent += [(operation, True, channel) for channel in channels]
            self.joining.update(dict.fromkeys(channels, operation))
        return operation

    def unsubscribe(self, channels: Iterable[str]) -> int | None:
        channels = list(channels)
        operation = super().unsubscribe(channels)
        for channel in channels:
            self.sent.append((operation or 0, False, channel))
            self.joining.pop(channel, None)
        return operation


@dataclass
class Stretch:
    """Numbers of a channel's messages that a subscription is owed, from ``start`` to ``stop``."""

    start: int
    #: Whether a gap of unknown size comes before it.
    is_anew: bool = False
    stop: int | None = None


@dataclass
class Account:
    """What a subscription is owed of a channel, and what of it was read."""

    stretches: list[Stretch] = field(default_factory=list)
    #: The next number to be read, and the stretch of the last one that was.
    number: int = 0
    index: int = 0
    #: What the gaps since then say.
    known: int = 0
    unknown: bool = False

    def begin(self, start: int, *, is_anew: bool = False) -> None:
        self.end(start)
        self.stretches.append(Stretch(start, is_anew))

    def end(self, stop: int) -> None:
        if self.stretches and self.stretches[-1].stop is None:
            self.stretches[-1].stop = stop

    def count(self, start: int, stop: int) -> int:
        """Count the numbers that are owed within bounds."""
        return sum([
            max(0, min(stop, stop if each.stop is None else each.stop) - max(start, each.start))
            for each in self.stretches
        ])  # fmt: skip

    def read(self, number: int) -> None:
        found = [
            index
            for index, each in enumerate(self.stretches)
            if each.start <= number and (each.stop is None or number < each.stop)
        ]
        assert found, "a message that it is not owed"
        self.check(number, found[0])
        self.number, self.index = number + 1, found[0]
        self.known, self.unknown = 0, False

    def check(self, number: int, index: int) -> None:
        """Check that the gaps since the last message are what lies before this number."""
        assert number >= self.number
        owed = self.count(self.number, number)
        anew = [each.is_anew for each in self.stretches[self.index + 1 : index + 1]]
        assert self.unknown == any(anew)
        # A gap that is added to one of unknown size is of unknown size too.
        assert self.known <= owed if self.unknown else self.known == owed


@dataclass(eq=False)
class Reader:
    """A subscription, and what the model knows of it."""

    #: With gaps, or typed as if.
    subscription: Subscription[Message | Gap]
    gaps: bool
    #: With "close": how many messages it holds, at most.
    room: int | None
    accounts: defaultdict[str, Account] = field(default_factory=lambda: defaultdict(Account))
    #: The channels that it holds, those of them whose start is known, and those that it was told.
    held: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    unread: int = 0
    yielded: int = 0
    end: type[hyps.HypsError] | None = None

    @property
    def inbox(self) -> Inbox:
        return self.subscription._inbox

    def check_end(self, error: hyps.HypsError) -> None:
        assert type(error) is self.end

    def let_go(self, channel: str, stands: int) -> None:
        self.held.discard(channel)
        self.told.discard(channel)
        if channel in self.started:
            self.started.discard(channel)
            self.accounts[channel].end(stands)


@dataclass(eq=False)
class Call:
    """A call that joins channels, in a task that runs when the test says so."""

    reader: Reader
    joining: Joining
    names: set[str]
    #: What it still wants: not what was left meanwhile.
    wanted: set[str]
    is_first: bool
    is_answered: bool = False
    is_lost: bool = False
    may_fail: bool = False
    must_fail: bool = False
