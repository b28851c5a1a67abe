"""The work for a message, in function calls: the same on every machine, however busy it is.

What is timed elsewhere says how fast it is; this says whether something is done per message that
was done per run before. ``tests/protocol/test_work.py`` holds the numbers.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import anyio

from hyps import Subscription
from hyps.protocol import Batch, Run, Verb

from .core import Case, Hub
from .loads import Load
from .report import package, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from hyps.protocol import Message

#: Messages that are published with one call, and how often.
WINDOW: Final = 1_000
_WINDOWS: Final = 4

CASES: Final = tuple(Case(Load(16), channels) for channels in (1, 1_000))

STEPS: Final = (
    *("publish", "publish singly", "route", "route granted", "deliver", "take ACKs", "read"),
    "read many",
)


class Everything:
    """An access that allows everything, and has to be asked."""

    def may(self, verb: Verb, channel: str) -> bool:
        return True


class Calls:
    """Calls of functions, in Python and in C; a generator that goes on is one, too."""

    def __init__(self) -> None:
        self.count = 0

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self.count += 1

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is called meanwhile, in this thread."""
        # What the collector calls is nobody's work, and comes when it likes.
        gc.disable()
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(before)
            gc.enable()


def _overhead() -> int:
    """Give what counting counts of itself."""
    calls = Calls()
    with calls.counted():
        pass
    return calls.count


def count(work: Callable[[], object]) -> int:
    """Count the calls that a function makes."""
    calls = Calls()
    with calls.counted():
        work()
    return calls.count - _overhead()


def _new_subscription() -> Subscription[Message]:
    return Subscription(
        cast("Any", None),  # it is never entered
        (),
        gaps=False,
        overflow="drop_newest",
        max_messages=WINDOW,
        max_bytes=2**30,
    )


def _anew(batch: Run | Batch) -> Run | Batch:
    """Give the same without the messages that it keeps."""
    if isinstance(batch, Run):
        return Run(batch.channel, batch.records, batch.count)
    return Batch(batch.records, batch.parts)


def _read(batches: Sequence[Run | Batch], *, at_once: bool) -> int:
    """Count what a subscription does from getting messages to handing out the last message."""
    calls = Calls()
    subscription = _new_subscription()

    async def go() -> None:
        with calls.counted():
            for batch in batches:
                subscription._inbox.deliver(batch)
            left = WINDOW
            if at_once:
                left -= len(await subscription.receive_many())
            else:
                async for _ in subscription:
                    left -= 1
                    if not left:
                        break
            if left:
                raise RuntimeError("not all messages were read")

    # Without uvloop: its calls cannot be seen.
    anyio.run(go, backend="asyncio", backend_options={"use_uvloop": False})
    return calls.count - _overhead()


def measure(case: Case) -> dict[str, float]:
    """Give the calls for a message of each step, of a window in the middle of traffic."""
    messages = case.messages()
    windows = [messages[start : start + WINDOW] for start in range(0, len(messages), WINDOW)]
    hub = Hub(case, 1)
    [subscriber] = hub.subscribers
    publisher = hub.publisher
    # What is cached is so from now on.
    hub.publish(windows[0])
    found = dict.fromkeys(STEPS, 0)
    for window in windows[1 : _WINDOWS + 1]:
        found["publish"] += count(lambda: publisher.client.publish_many(window))  # noqa: B023
        found["route"] += count(publisher.send)
        found["deliver"] += count(subscriber.receive)
        found["take ACKs"] += count(publisher.receive)
        publisher.server.access = Everything()
        for is_known in (False, True):
            # The session remembers from the first time on what it may do.
            publisher.client.publish_many(window)
            calls = count(publisher.send)
            if is_known:
                found["route granted"] += calls
            subscriber.receive()
            publisher.receive()
        publisher.server.access = None
        for name, at_once in (("read", False), ("read many", True)):
            found[name] += _read(list(map(_anew, subscriber.batches)), at_once=at_once)

        sent: list[bytes] = []

        def publish_singly() -> None:
            for channel, data in window:  # noqa: B023
                publisher.client.publish(channel, data)
            sent.append(publisher.client.data_to_send())  # noqa: B023

        found["publish singly"] += count(publish_singly)
        publisher.handle(sent.pop())
        publisher.send()
        subscriber.receive()
        publisher.receive()
    return {name: calls / WINDOW / _WINDOWS for name, calls in found.items()}


def main() -> None:
    """Run the command line."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.count", description="Count function calls in the core."
    ).parse_args()
    print(f"{package('hyps')}, {platform.python_implementation()} {platform.python_version()}\n")
    rows = [
        (name, str(case), f"{calls:.3f}") for case in CASES for name, calls in measure(case).items()
    ]
    print(table(("step", "records", "calls a message"), rows))


if __name__ == "__main__":
    main()
