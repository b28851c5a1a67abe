"""``hyps bench`` as its users see it, against real hubs. How fast it is, is not asked here."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support.processes import HYPS, TIMEOUT, Running, running, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = ("asyncio", "uvloop", "trio")
#: More messages than a test waits for.
ENDLESS = "1000000000"


def bench(*arguments: str) -> tuple[int, str, str]:
    with running("bench", *arguments) as process:
        return process.end()


def bench_as_json(*arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = bench(*arguments, "--json")
    summary: dict[str, Any] = json.loads(out)
    return code, summary


@contextmanager
def begun(*arguments: str) -> Iterator[Running]:
    with running("bench", *arguments) as process:
        assert process.read_line(process.process.stderr).startswith("Starting benchmark ")
        yield process


def assert_adds_up(kind: dict[str, Any], *counts: str) -> None:
    """Check that messages are accounted for, by each worker and by all of them."""
    workers = kind["workers"]
    for each in (kind, *workers):
        assert each["expected"] == sum(each[count] for count in ("messages", *counts))
    for count in ("expected", "messages", "bytes", *counts):
        assert kind[count] == sum(each[count] for each in workers)
    rates = kind["per_worker"]
    assert rates["min"] <= rates["avg"] * 1.001
    assert rates["avg"] <= rates["max"] * 1.001


def assert_ordered(times: dict[str, float]) -> None:
    assert 0 < times["p50"] <= times["p99"] <= times["max"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_publishers_and_subscribers(backend: str) -> None:
    with serving("--backend", backend) as (url, _):
        code, out, err = bench(
            *("--pub", "3", "--sub", "2", "--msgs", "1000", "--batch", "70", "--size", "1k"),
            *("--url", url, "--backend", backend),
        )
    assert code == 0
    assert err == (
        f"Starting benchmark at {url} [channel=bench, msgs=1,000, size=1,024 B, pubs=3, subs=2,"
        " batch=70, connections=5]\n"
    )
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines if line[0] != " "] == [
        "Pub stats",
        "Sub stats",
        "Published 1,000 of 1,000",
        "Delivered 2,000 of 2,000, missed 0, did not come 0",
    ]
    assert [line.rpartition(" (")[2] for line in lines if line.startswith(" [")] == [
        *("334 msgs)", "333 msgs)", "333 msgs)"),
        *("1,000 msgs)", "1,000 msgs)"),
    ]
    assert sum(line.startswith(" min ") for line in lines) == 2
    assert any(line.startswith(" ACKs of 70: p50 ") for line in lines)
    assert any(line.startswith(" delivery: p50 ") for line in lines)


def test_json() -> None:
    with serving() as (url, _):
        code, summary = bench_as_json(
            *("stock", "--pub", "2", "--sub", "3", "--msgs", "1001", "--size", "100-1k"),
            *("--batch", "1", "--channels", "7", "--url", url),
        )
    assert code == 0
    assert summary["url"] == url
    assert (summary["min_size"], summary["max_size"]) == (100, 1024)
    assert (summary["channels"], summary["messages"], summary["batch"]) == (7, 1001, 1)
    assert summary["error"] is summary["ended_by"] is None
    publishers = summary["publishers"]
    subscribers = summary["subscribers"]
    assert_adds_up(publishers, "unknown")
    assert_adds_up(subscribers, "missed", "outstanding")
    assert [each["messages"] for each in publishers["workers"]] == [501, 500]
    assert [each["messages"] for each in subscribers["workers"]] == [1001, 1001, 1001]
    assert subscribers["bytes"] == 3 * publishers["bytes"]
    assert 100 * 1001 < publishers["bytes"] < 1024 * 1001
    assert_ordered(publishers["ack_seconds"])
    assert_ordered(subscribers["delivery_seconds"])


def test_many_subscribers_over_one_connection() -> None:
    with serving("--verbose") as (url, hub):
        code, summary = bench_as_json(
            *("--pub", "3", "--sub", "100", "--msgs", "1000", "--connections", "1", "--url", url)
        )
        _, _, err = hub.end(signal.SIGTERM)
    assert code == 0
    assert summary["subscribers"]["messages"] == 100_000
    assert summary["subscribers"]["connections"] == summary["publishers"]["connections"] == 1
    assert err.count("session opened ") == err.count("session ended ") == 2


def test_only_so_many_are_shown_one_by_one() -> None:
    with serving() as (url, _):
        code, out, _ = bench("--pub", "1", "--sub", "11", "--msgs", "100", "--url", url)
    assert code == 0
    assert out.count(" [") == 0
    assert out.count(" min ") == 1


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ((), {"publishers", "subscribers"}),
        (("--pub", "1"), {"publishers"}),
        (("--pub", "1", "--sub", "0"), {"publishers"}),
    ],
)
def test_who_takes_part(arguments: tuple[str, ...], kinds: set[str]) -> None:
    with serving() as (url, _):
        code, summary = bench_as_json(*arguments, "--msgs", "10", "--url", url)
    assert code == 0
    assert summary.keys() & {"publishers", "subscribers"} == kinds


def test_two_processes() -> None:
    sizes = ("--msgs", "1000", "--size", "20")
    with serving() as (url, _), begun("--sub", "2", *sizes, "--json", "--url", url) as subscribers:
        assert bench("--pub", "2", *sizes, "--url", url)[0] == 0
        code, out, err = subscribers.end()
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["subscribers"]["bytes"] == 40_000
    # Clocks of two machines cannot be compared, and these may be two.
    assert summary["subscribers"]["delivery_seconds"] is None


@pytest.mark.parametrize(("size", "is_told"), [("0", False), ("11", False), ("12", True)])
def test_small_messages(size: str, is_told: bool) -> None:
    with serving() as (url, _):
        code, summary = bench_as_json("--msgs", "100", "--size", size, "--url", url)
    assert code == 0
    assert summary["subscribers"]["bytes"] == 100 * int(size)
    assert (summary["subscribers"]["delivery_seconds"] is not None) == is_told


def test_lost_messages_are_told() -> None:
    # What a hub gets from several publishers at once is more than it may queue.
    arguments = ("--sub", "2", "--pub", "20", "--msgs", "10000", "--batch", "50")
    with serving("--limit", "max_buffer=1") as (url, _):
        code, out, err = bench(*arguments, "--url", url)
        as_json_code, summary = bench_as_json(*arguments, "--url", url)
    assert code == as_json_code == 1
    start, error = err.splitlines()
    assert start.startswith("Starting benchmark ")
    assert error.startswith("Error: messages lost: ")
    assert "Published 10,000 of 10,000\n" in out
    assert out.endswith(f", missed {error.rpartition(' ')[2]}, did not come 0\n")
    subscribers = summary["subscribers"]
    assert_adds_up(subscribers, "missed", "outstanding")
    assert subscribers["missed"] > 0
    assert subscribers["outstanding"] == 0


def test_what_does_not_come_is_lost() -> None:
    arguments = ("news", "--sub", "1", "--msgs", "10", "--idle", "0.3", "--json")
    with serving() as (url, _), begun(*arguments, "--url", url) as subscriber:
        assert bench("news", "--pub", "1", "--msgs", "7", "--url", url)[0] == 0
        code, out, err = subscriber.end()
    assert (code, err) == (1, "Error: messages lost: 3\n")
    summary = json.loads(out)["subscribers"]
    assert (summary["messages"], summary["missed"], summary["outstanding"]) == (7, 0, 3)


@pytest.mark.parametrize(
    ("number", "backend"),
    [(signal.SIGINT, "asyncio"), (signal.SIGTERM, "uvloop"), (signal.SIGINT, "trio")],
)
def test_a_signal_ends_it_with_a_summary(number: signal.Signals, backend: str) -> None:
    arguments = ("--pub", "2", "--sub", "2", "--msgs", ENDLESS, "--json", "--backend", backend)
    with serving() as (url, _), begun(*arguments, "--url", url) as process:
        code, out, err = process.end(number)
    assert (code, err) == (128 + number, "")
    summary = json.loads(out)
    assert summary["ended_by"] == number.name
    assert summary["error"] is None
    # What was sent and is under way is neither lost nor expected to come any more.
    assert_adds_up(summary["subscribers"], "missed", "outstanding")
    publishers = summary["publishers"]
    sent = publishers["messages"] + publishers["unknown"]
    assert sent < publishers["expected"]
    assert [each["expected"] for each in summary["subscribers"]["workers"]] == [sent, sent]


def test_a_signal_while_nothing_comes() -> None:
    with serving() as (url, _), begun("--sub", "2", "--url", url) as process:
        code, out, err = process.end(signal.SIGTERM)
    assert (code, err) == (128 + signal.SIGTERM, "")
    assert "Ended early by SIGTERM\n" in out
    assert out.endswith("Delivered 0 of 200,000, missed 0, did not come 200,000\n")


@pytest.mark.parametrize(
    ("kinds", "backend"),
    [
        (("--pub", "2", "--sub", "2"), "asyncio"),
        (("--pub", "1"), "uvloop"),
        (("--sub", "1"), "trio"),
    ],
)
def test_the_hub_goes_away(kinds: tuple[str, ...], backend: str) -> None:
    arguments = (*kinds, "--msgs", ENDLESS, "--backend", backend)
    with serving() as (url, hub), begun(*arguments, "--url", url) as process:
        hub.end(signal.SIGKILL)
        code, out, err = process.end()
    assert code == 1
    assert out.startswith("Pub stats: " if "--pub" in kinds else "Sub stats: ")
    assert err.startswith("Error: ")
    assert url in err
    assert err.count("\n") == 1


def test_the_hub_closes() -> None:
    with serving() as (url, hub), begun("--msgs", ENDLESS, "--json", "--url", url) as process:
        hub.end(signal.SIGTERM)
        code, out, err = process.end()
    assert code == 1
    assert err == f"Error: {json.loads(out)['error']}\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_hub(backend: str) -> None:
    url = "hyps://127.0.0.1:1"
    code, out, err = bench("--pub", "5", "--sub", "5", "--url", url, "--backend", backend)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: no hub at {url}: ")
    assert err.count("\n") == 1


def test_what_the_hub_refuses() -> None:
    with serving("--token", "secret", "--limit", "max_message=100") as (url, _):
        code, out, err = bench("--url", url)
        assert (code, out) == (1, "")
        assert "token" in err
        assert err.count("\n") == 1
        code, out, err = bench("--url", url, "--token", "secret", "--size", "101", "--msgs", "10")
        assert code == 1
        assert "Published 0 of 10\n" in out
        assert err.splitlines()[1] == "Error: a message of 101 bytes; the hub takes 100"
        code, out, err = bench("--url", url, "--token", "secret", "x" * 255, "--channels", "2")
        assert (code, out) == (1, "")
        assert "channel" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--pub", "0"),
        ("--pub", "0", "--sub", "0"),
        ("--pub", "-1"),
        ("--pub", "11", "--msgs", "10"),
        ("--msgs", "0"),
        ("--size", "many"),
        ("--size", "-1"),
        ("--size", "1k-1"),
        ("--size", "1-2-3"),
        ("--size", "1000m"),
        ("--batch", "0"),
        ("--channels", "0"),
        ("--connections", "0"),
        ("--idle", "0"),
        ("one", "two"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(("option", "is_shown"), [("--progress", True), ("--no-progress", False)])
def test_progress_on_a_terminal(option: str, is_shown: bool) -> None:
    terminal, its_end = pty.openpty()
    arguments = ("--pub", "1", "--sub", "11", "--msgs", "100", option)
    with serving() as (url, _):
        command = [*HYPS, "bench", *arguments, "--url", url]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=its_end, timeout=TIMEOUT)
    shown = os.read(terminal, 65_536).decode()
    os.close(its_end)
    os.close(terminal)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    assert shown.startswith("Starting benchmark ")
    assert ("publisher 1 " in shown) == is_shown
    assert ("11 subscribers " in shown) == is_shown
    assert ("100%" in shown) == is_shown
