"""Whatever the application's logging does, hub and client go on."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.helpers import healthy_neighbours, let_others_run, take_data, wait_until
from support.peers import connect_raw

import hyps
from hyps._logs import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER, CLIENT = "hyps.server", "hyps.client"


class Failing(logging.Handler):
    """Fails with every record, in what takes it or before that."""

    def __init__(self, *, in_filter: bool) -> None:
        super().__init__()
        self.failures = 0
        if in_filter:
            self.addFilter(self._fail)

    def _fail(self, record: logging.LogRecord) -> bool:
        self.failures += 1
        raise LookupError("a test")

    def emit(self, record: logging.LogRecord) -> None:
        self._fail(record)


class Collecting(logging.Handler):
    """Keeps the texts, and may do something with each."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.records: list[logging.LogRecord] = []
        self._then = then

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.records.append(record)
        self._then()


@contextmanager
def handled(name: str, handler: logging.Handler) -> Iterator[None]:
    """Let a logger have this handler, and no other, and log everything."""
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@pytest.mark.anyio
@pytest.mark.parametrize("in_filter", [True, False])
async def test_a_hub_lives_on_when_logging_fails(
    in_filter: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = Failing(in_filter=in_filter)
    with handled(SERVER, failing):
        async with hyps.Server(port=0, token="sesame") as server:
            for _ in range(3):
                async with await connect_raw(server.urls[0]) as raw:
                    await raw.send(b"junk")
                    await raw.rest()
            with pytest.raises(hyps.AuthenticationFailed):
                await hyps.connect(server.urls[0], token="wrong").connect()
            async with hyps.connect(server.urls[0], token="sesame") as client:
                await client.publish("a", b"")
    assert failing.failures > 3
    # Whoever wrote that filter is told.
    assert capfd.readouterr().err.count("LookupError: a test") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("in_filter", [True, False])
async def test_a_client_lives_on_when_logging_fails(
    server: hyps.Server, in_filter: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = Failing(in_filter=in_filter)
    with handled(CLIENT, failing):
        async with (
            healthy_neighbours(server),
            hyps.connect(server.urls[0]) as client,
            client.subscribe("a", max_messages=2) as slow,
            client.subscribe("a") as subscription,
        ):
            await client.publish_many(("a", str(number)) for number in range(300))
            assert await take_data(subscription, 300) == [b"%d" % n for n in range(300)]
            await wait_until(lambda: failing.failures)
            assert slow.missed == 298
    capfd.readouterr()


@pytest.mark.anyio
async def test_a_handler_may_use_the_client_that_it_logs_for(server: hyps.Server) -> None:
    client = hyps.connect(server.urls[0])
    collecting = Collecting(lambda: client.publish_nowait("log", b"a line"))
    with handled(CLIENT, collecting):
        async with client, client.subscribe("a", "log", max_messages=1):
            await client.publish_many(("a", str(number)) for number in range(300))
            await let_others_run()
    assert 0 < len(collecting.texts) < 10


# One log by itself


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_lines_of_one_kind_are_bounded_and_what_is_left_out_is_counted() -> None:
    clock, collecting = Clock(), Collecting()
    log = Log("hyps.a-test", clock)
    with handled("hyps.a-test", collecting):
        for number in range(100):
            log.warning("again and again: %d", number)
        log.warning("another kind")
        told = len(collecting.texts)
        assert told < 10
        assert collecting.texts[0] == "again and again: 0"
        assert collecting.texts[-1] == "another kind"
        clock.time += 3600
        log.warning("again and again: %d", 100)
        omitted = 100 - (told - 1)
        assert collecting.texts[-1].startswith("again and again: 100 ")
        assert f"({omitted} more" in collecting.texts[-1]
        log.tell_omitted()
        assert len(collecting.texts) == told + 1


def test_what_was_left_out_last_is_told_too() -> None:
    clock, collecting = Clock(), Collecting()
    log = Log("hyps.a-test", clock)
    with handled("hyps.a-test", collecting):
        for number in range(100):
            log.warning("again and again: %d", number)
        told = len(collecting.texts)
        log.tell_omitted()
        assert str(100 - told) in collecting.texts[-1]
        assert "again and again" in collecting.texts[-1]
        log.tell_omitted()
        assert len(collecting.texts) == told + 1


def test_one_log_leaves_nothing_out_for_another() -> None:
    collecting = Collecting()
    with handled("hyps.a-test", collecting):
        logs = [Log("hyps.a-test", Clock()) for _ in range(10)]
        for log in logs:
            log.warning("again and again")
    assert len(collecting.texts) == 10


def test_a_handler_that_logs_what_it_handles_ends() -> None:
    log = Log("hyps.a-test", Clock())
    collecting = Collecting(lambda: log.warning("once more"))
    with handled("hyps.a-test", collecting):
        log.warning("first")
    assert collecting.texts == ["first"]


def test_arguments_are_escaped_and_cut() -> None:
    collecting = Collecting()
    log = Log("hyps.a-test", Clock())
    with handled("hyps.a-test", collecting):
        log.warning("it sent %s and %s", "\x1b[2J\n\u202e\\", "x" * 10_000)
    [text] = collecting.texts
    assert text.isprintable()
    assert len(text) < 1_000
    assert "\\x1b[2J\\n\\u202e\\\\" in text


def test_fields_stand_at_the_end_and_in_the_record() -> None:
    collecting = Collecting()
    log = Log("hyps.a-test", Clock())
    with handled("hyps.a-test", collecting):
        log.info("it has %d", 5, name="a b", empty="", nothing=None, yes=True, size=1.5, quote='"')
        log.info("it has none")
    assert collecting.texts == [
        'it has 5 name="a b" empty="" yes=true size=1.5 quote="\\""',
        "it has none",
    ]
    fields, nothing = [
        (each.__dict__["hyps_event"], each.__dict__["hyps"]) for each in collecting.records
    ]
    assert fields == (
        "it has 5",
        {"name": "a b", "empty": "", "yes": True, "size": 1.5, "quote": '"'},
    )
    assert nothing == ("it has none", {})


def test_fields_are_escaped_and_cut() -> None:
    collecting = Collecting()
    log = Log("hyps.a-test", Clock())
    with handled("hyps.a-test", collecting):
        log.warning("100% of it", client="\x1b[2J\n\u202e% s" + "x" * 10_000)
    [text] = collecting.texts
    assert text.isprintable()
    assert len(text) < 1_000
    [record] = collecting.records
    assert record.__dict__["hyps"]["client"].startswith("\\x1b[2J\\n\\u202e% sxxx")


def test_lines_of_several_kinds_may_have_one_text() -> None:
    clock, collecting = Clock(), Collecting()
    log = Log("hyps.a-test", clock)
    with handled("hyps.a-test", collecting):
        for _ in range(100):
            log.warning("refused", kind="refused code=a", code="a")
        log.warning("refused", kind="refused code=b", code="b")
        assert collecting.texts[-1] == "refused code=b"
        clock.time += 3600
        log.warning("refused", kind="refused code=a", code="a")
        assert re.fullmatch(
            r"refused code=a \(\d+ more like this were left out\)", collecting.texts[-1]
        )
        assert collecting.records[-1].__dict__["hyps"]["omitted"] == 101 - (
            len(collecting.texts) - 1
        )


def test_a_log_may_have_bounds_of_its_own() -> None:
    clock, collecting = Clock(), Collecting()
    log = Log("hyps.a-test", clock, burst=300, interval=0.5)
    with handled("hyps.a-test", collecting):
        for level in (log.info, log.warning):
            for _ in range(400):
                level("again")
        assert len(collecting.texts) == 300
        clock.time += 1.0
        for _ in range(10):
            log.info("again")
        assert len(collecting.texts) == 302
