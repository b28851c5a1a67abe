"""What the log is told of losses: few lines, and numbers that add up to what was missed."""

from __future__ import annotations

import re

import pytest
from support.helpers import memory_client, numbered, wait_until, warned

import hyps
from hyps import Gap
from hyps._client.buffer import make_buffer
from hyps._client.inbox import Inbox
from hyps._client.losses import LossLog
from hyps._client.totals import Totals
from hyps._logs import Log
from hyps.protocol import Run, encode
from hyps.testing import MemoryHub

#: Of the lines about full buffers, and about gaps.
MISSED = re.compile(r"messages missed: (\d+) |dropped (\d+) messages?\b")


class Time:
    """A clock that stands until it is told otherwise."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


class Scene:
    """The log of a client's losses, without a connection; its reminders come a second later."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.time = Time()
        self._caplog = caplog
        self._reminder: float | None = None
        self.losses = LossLog(
            Log("hyps.client", self.time.now), self._remind, Totals(), self.time.now
        )

    def _remind(self) -> None:
        if self._reminder is None:
            self._reminder = self.time.seconds + 1

    def inbox(self, *channels: str, max_messages: int) -> Inbox:
        inbox = Inbox(make_buffer("drop_newest", max_messages, 1_000_000))
        inbox.losses = self.losses
        inbox.channels = channels
        return inbox

    def go_on(self, seconds: float) -> None:
        self.time.seconds += seconds
        if self._reminder is not None and self.time.seconds >= self._reminder:
            self._reminder = None
            self.losses.write("the hub")

    def end(self) -> None:
        self.losses.write("the hub", is_end=True)

    @property
    def lines(self) -> list[str]:
        return warned(self._caplog, "hyps.client")

    @property
    def told(self) -> int:
        """The sum of all numbers in the log."""
        found = [match for line in self.lines for match in MISSED.findall(line)]
        return sum([int(one or other) for one, other in found])


@pytest.fixture
def scene(caplog: pytest.LogCaptureFixture) -> Scene:
    return Scene(caplog)


def run_of(count: int) -> Run:
    return Run("a", encode("a", b"1") * count, count)


def read_one(inbox: Inbox) -> None:
    while isinstance(inbox.buffer.take_one(), Gap):
        pass


@pytest.mark.parametrize("max_messages", [1, 2, 100])
@pytest.mark.parametrize("burst", [1, 3])
def test_a_reader_that_is_steadily_behind_is_told_of_in_few_lines(
    scene: Scene, max_messages: int, burst: int
) -> None:
    inbox = scene.inbox("a", max_messages=max_messages)
    for _ in range(max_messages):
        inbox.deliver(run_of(1))
    for _ in range(3_000):
        # There is room now, for a moment.
        read_one(inbox)
        inbox.deliver(run_of(burst))
        inbox.deliver(run_of(1))
        scene.go_on(0.01)
    assert 1 <= len(scene.lines) <= 4
    inbox.end(None)
    scene.go_on(60)
    assert scene.told == inbox.missed == 3_000 * burst
    assert len(scene.lines) <= 5


def test_room_for_a_while_ends_an_episode(scene: Scene) -> None:
    inbox = scene.inbox("a", max_messages=1)
    for _ in range(2):
        inbox.deliver(run_of(3))
        read_one(inbox)
        scene.go_on(0.5)
        assert not inbox.deliver(run_of(1))
        read_one(inbox)
        before = len(scene.lines)
        scene.go_on(1)
        assert len(scene.lines) == before
        inbox.deliver(run_of(1))
        read_one(inbox)
        scene.go_on(1)
        assert len(scene.lines) == before + 1
        assert scene.told == inbox.missed


def test_who_does_not_read_at_all_is_told_of_while_it_lasts(scene: Scene) -> None:
    inbox = scene.inbox("a", max_messages=1)
    inbox.deliver(run_of(101))
    scene.go_on(1)
    assert scene.told == 100
    inbox.deliver(run_of(500))
    scene.go_on(1)
    assert scene.told == 100
    inbox.deliver(run_of(500))
    scene.go_on(1)
    assert scene.told == inbox.missed == 1_100


@pytest.mark.parametrize("together", [True, False])
def test_thousands_of_overflows_are_few_lines(scene: Scene, together: bool) -> None:
    inboxes = [scene.inbox(f"c{number}", max_messages=1) for number in range(2_000)]
    for number, inbox in enumerate(inboxes):
        inbox.deliver(run_of(2 + number % 3))
        if not together:
            inbox.end(None)
            scene.go_on(0.01)
    for inbox in inboxes:
        inbox.end(None)
    scene.go_on(1)
    scene.go_on(10)
    assert scene.told == sum([inbox.missed for inbox in inboxes])
    assert len(scene.lines) <= (1 if together else 8)
    assert "(channels: c0, c1, c2, and others)" in scene.lines[0]


def test_what_there_was_no_room_for_is_told_at_the_end(scene: Scene) -> None:
    for _ in range(20):
        inbox = scene.inbox("a", max_messages=1)
        inbox.deliver(run_of(3))
        inbox.end(None)
        scene.losses.note(Gap("a", 3, "hub"))
        scene.go_on(1)
    assert scene.told < 20 * (2 + 3)
    scene.end()
    assert scene.told == 20 * (2 + 3)
    assert scene.lines[-1].startswith("until the end")


def test_gaps_without_end_are_few_lines_and_one_sum(scene: Scene) -> None:
    for number in range(10_000):
        scene.losses.note(Gap(f"c{number}", 2, "hub"))
    scene.losses.note(Gap("a", None, "hub"))
    assert scene.lines == []
    scene.go_on(1)
    [line] = scene.lines
    assert "20000 messages in 10000 gaps and an unknown number of messages in 1 gap" in line


class TestWithAHub:
    pytestmark = pytest.mark.anyio

    async def test_a_gap_is_logged_though_no_message_comes(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with MemoryHub() as hub:
            hub.freeze_clock()
            async with (
                hyps.connect(hub.url) as client,
                client.subscribe("a", gaps=True) as subscription,
            ):
                hub.drop_next(2)
                await client.publish_many(numbered("a", 2))
                assert await subscription.receive() == Gap("a", 2, "hub")
                assert warned(caplog, "hyps.client") == []
                hub.advance_clock(1)
                await wait_until(lambda: warned(caplog, "hyps.client"))
                [told] = warned(caplog, "hyps.client")
                assert "dropped 2 messages in 1 gap" in told

    async def test_losses_are_logged_when_the_connection_is_lost(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with MemoryHub() as hub:
            hub.freeze_clock()
            async with (
                hyps.connect(hub.url, reconnect_max_delay=0.01) as client,
                client.subscribe("a", gaps=True) as subscription,
            ):
                hub.drop_next(2)
                await client.publish_many(numbered("a", 2))
                await subscription.receive()
                hub.cut()
                await wait_until(lambda: any("dropped" in x for x in warned(caplog, "hyps.client")))

    async def test_the_numbers_add_up_at_the_end(self, caplog: pytest.LogCaptureFixture) -> None:
        async with memory_client() as client:
            missed = 0
            for number in range(1, 20):
                async with client.subscribe("a", max_messages=1) as subscription:
                    await client.publish_many(numbered("a", 1 + number))
                missed += subscription.missed
        found = [MISSED.search(line) for line in warned(caplog, "hyps.client")]
        assert sum([int(match[1]) for match in found if match]) == missed == sum(range(1, 20))
        assert len(found) <= 5
