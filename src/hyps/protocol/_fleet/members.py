"""What a hub of a fleet knows of channels, of runs on their way, and of partitions."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A call of *publish* has at most so many runs and bytes.
_MAX_RUNS: Final = 200
_MAX_BYTES: Final = 262_144


class MemberState(enum.Enum):
    """Where a channel is between the engine and this hub."""

    JOINING = "joining"
    HERE = "here"
    DEAF = "deaf"


class Member:
    """A channel that somebody at this hub wants.

    :param name: its name
    :param partition: its partition
    """

    __slots__ = ("acks", "name", "partition", "pins", "state", "waiters")

    def __init__(self, name: bytes, partition: int) -> None:
        self.name = name
        self.partition = partition
        self.state = MemberState.JOINING
        #: Called with True when the channel is here, and with False if it cannot be had now.
        self.waiters: list[Callable[[bool], object]] = []
        #: Runs whose answer waits until this hub has handed them out: their position, and what to
        #: call then.
        self.acks: deque[tuple[bytes, int, Callable[[], object]]] = deque()


class Run:
    """A run on its way to the engine."""

    __slots__ = ("count", "done", "name", "records")

    def __init__(
        self, name: bytes, records: bytes, count: int, done: Callable[[bytes], object]
    ) -> None:
        self.name = name
        self.records = records
        self.count = count
        #: Called once with the code of the answer.
        self.done = done


class Partition:
    """What this hub knows of a partition."""

    __slots__ = ("epoch", "is_loading", "is_up", "joining", "looking", "replid", "resent", "runs")

    def __init__(self) -> None:
        # Whether there is a connection to its node, and the replid that the node had then.
        self.is_up = False
        self.replid = b""
        #: The epoch, while the partition is open.
        self.epoch: bytes | None = None
        # What leaves with the next flush().
        self.runs: list[Run] = []
        self.joining: list[Member] = []
        self.looking: list[Member] = []
        # Calls that wait until the scripts are loaded again, in order.
        self.is_loading = False
        self.resent: list[Callable[[], None]] = []


def batches(runs: list[Run]) -> Iterator[list[Run]]:
    """Cut runs to what one call of *publish* takes."""
    batch: list[Run] = []
    size = 0
    for run in runs:
        if batch and (len(batch) >= _MAX_RUNS or size + len(run.records) > _MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += len(run.records)
    if batch:
        yield batch
