"""The sans-IO core by itself: what a record costs before any I/O. See README.md."""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from hyps.protocol import (
    NEED_DATA,
    Acked,
    Batch,
    Broker,
    ClientProtocol,
    Hello,
    Messages,
    Run,
    ServerProtocol,
    Welcome,
    encode,
)
from hyps.protocol._records.scanning import scan

from .loads import LOADS, Load
from .report import middle, package, progress, spread, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Records that are made, and gone through over and over.
_RECORDS: Final = 16_000

#: Records that are published with one call.
_WINDOW: Final = 1_000

#: Channels that neighbouring messages are spread over, one after the other: with more than one no
#: two neighbours make a run.
_CHANNELS: Final = (1, 1_000)

#: Sessions that hold every channel.
_SUBSCRIBERS: Final = (1, 10)


@dataclass(frozen=True, slots=True)
class Case:
    """What the records are."""

    load: Load
    channels: int

    def __str__(self) -> str:
        return f"{self.load}, {self.channels:,} channel{'s' * (self.channels > 1)}"

    def names(self) -> list[str]:
        """Give the channels."""
        return [f"channel-{number:04}" for number in range(self.channels)]

    def messages(self) -> list[tuple[str, bytes]]:
        """Give channel and message of each record."""
        names = self.names()
        data = self.load.messages(_RECORDS)
        return [(names[index % len(names)], content) for index, content in enumerate(data)]


# Each step is prepared by a function that gives what is timed: one pass over all records.
Step = tuple[str, "Callable[[Case], Callable[[], None]]"]


def prepare_encode(case: Case) -> Callable[[], None]:
    """Encode each record by itself."""
    messages = case.messages()

    def go() -> None:
        for channel, data in messages:
            encode(channel, data)

    return go


def _windows(case: Case) -> list[bytes]:
    messages = case.messages()
    return [
        b"".join([encode(channel, data) for channel, data in messages[start : start + _WINDOW]])
        for start in range(0, len(messages), _WINDOW)
    ]


def prepare_scan(case: Case) -> Callable[[], None]:
    """Check records and find their runs."""
    windows = _windows(case)

    def go() -> None:
        for window in windows:
            for _ in scan(window):
                pass

    return go


def prepare_expand(case: Case) -> Callable[[], None]:
    """Make messages of runs that were found before."""
    found: list[tuple[str, bytes, int]] = []
    for window in _windows(case):
        position = 0
        for name, stop, count in scan(window):
            found.append((name.decode(), window[position:stop], count))
            position = stop

    def go() -> None:
        for channel, records, count in found:
            # A new one each time, as a run keeps its messages.
            _ = Run(channel, records, count).messages

    return go


class Link:
    """A client's protocol and its session's, joined by a function call."""

    def __init__(self, broker: Broker, session: str) -> None:
        self.client = ClientProtocol()
        self.server = ServerProtocol(broker, session=session)
        #: What came with the last call of :meth:`receive`.
        self.batches: list[Run | Batch] = []
        self.answered = 0
        self.send()
        self.receive()

    def send(self) -> None:
        """Move what the client has to send, and let the session handle it."""
        while data := self.client.data_to_send():
            self.handle(data)

    def handle(self, data: bytes) -> None:
        """Let the session handle what the client has sent."""
        self.server.receive_data(data)
        while (event := self.server.next_event()) is not NEED_DATA:
            if isinstance(event, Hello):
                self.server.accept()

    def receive(self) -> None:
        """Move what the session has to send, and let the client handle it."""
        self.batches = []
        while data := self.server.data_to_send():
            self.client.receive_data(data)
            while (event := self.client.next_event()) is not NEED_DATA:
                if isinstance(event, Messages):
                    self.batches += event.batches
                elif isinstance(event, Acked):
                    self.answered = event.operations.stop - 1
                elif not isinstance(event, Welcome):
                    raise TypeError(f"not expected: {event!r}")


class Hub:
    """A publisher and its subscribers, without anything between them."""

    def __init__(self, case: Case, subscribers: int) -> None:
        broker = Broker("benchmark")
        self.publisher = Link(broker, "publisher")
        self.subscribers = [Link(broker, str(number)) for number in range(subscribers)]
        for link in self.subscribers:
            link.client.subscribe(case.names())
            link.send()
            link.receive()

    def publish(self, window: Sequence[tuple[str, bytes]]) -> None:
        """Publish, route, and deliver."""
        operation = self.publisher.client.publish_many(window)
        self.publisher.send()
        for link in self.subscribers:
            link.receive()
            if sum([batch.count for batch in link.batches]) != len(window):
                raise RuntimeError("a message was not delivered")
        self.publisher.receive()
        if self.publisher.answered != operation:
            raise RuntimeError("a publish was not ACKed")


def prepare_route(case: Case, subscribers: int) -> Callable[[], None]:
    """Publish, route, and deliver, as runs and not as messages."""
    messages = case.messages()
    windows = [messages[start : start + _WINDOW] for start in range(0, len(messages), _WINDOW)]
    hub = Hub(case, subscribers)

    def go() -> None:
        for window in windows:
            hub.publish(window)

    return go


def _steps() -> Iterator[Step]:
    yield "encode", prepare_encode
    yield "scan into runs", prepare_scan
    yield "expand into messages", prepare_expand
    for count in _SUBSCRIBERS:
        name = f"publish -> {count} session{'s' * (count > 1)}"
        yield name, partial(prepare_route, subscribers=count)


def measure(step: Callable[[], None], rounds: int) -> list[float]:
    """Give nanoseconds per record of each round."""
    step()
    gc.collect()
    found = []
    for _ in range(rounds):
        start = perf_counter_ns()
        step()
        found.append((perf_counter_ns() - start) / _RECORDS)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.core", description="Measure the core without I/O."
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    if rounds < 1:
        parser.error("--rounds must be positive")
    rows = []
    for name, prepare in _steps():
        for channels in _CHANNELS:
            for load in LOADS:
                case = Case(load, channels)
                progress(f"{name}: {case}")
                found = measure(prepare(case), rounds)
                rows.append(
                    (
                        name,
                        str(case),
                        f"{middle(found):,.0f} ns",
                        f"{1e9 / middle(found):,.0f} /s",
                        f"{spread(found):.0%}",
                    )
                )
    print(f"{package('hyps')}, Python {sys.version.split()[0]}\n")
    print(table(("step", "records", "per record", "records", "spread"), rows))


if __name__ == "__main__":
    main()
