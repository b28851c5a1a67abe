"""What ``hyps top`` draws, of an answer and a width."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from hyps.cli._top_source import parse
from hyps.cli._top_view import OTHER_LINES, count, duration, footer, trouble, view

#: Clients choose their names, and hostile ones choose such.
NAMES = (
    "worker-3",
    "evil\x1b[2J\x1b]0;title\x07\r\nname",
    "[red]markup[/red] :smile:",
    "a-very-long-name-of-a-client-that-takes-more-room-than-there-is",
    "right-to-left \u202e and a tab\t",
    "日本語の名前",
)


def answer(names: tuple[str, ...] = NAMES, **hub: Any) -> bytes:
    """What ``/connz`` says."""
    rates = {
        "published": 1234.5,
        "delivered": 2.5,
        "missed": 0.0,
        "bytes_received": 123_456,
        "bytes_sent": 34_567_890,
    }
    sessions = [
        {
            "session": str(number),
            "name": name,
            "identity": "web",
            "address": f"127.0.0.1:{50_000 + number}",
            "wire": "hyps",
            "tls": False,
            "state": "open",
            "age": 90_061.0,
            "channels": 12,
            "published": 5,
            "bytes_received": 10,
            "bytes_sent": 20,
            "rates": {"published": 0.5, "bytes_received": 1_500_000.0, "bytes_sent": 42.0},
            "queued": 4321,
            "missed": 7,
            "round_trip": 0.00042,
        }
        for number, name in enumerate(names)
    ]
    told = {
        "version": "0.1.0",
        "uptime": 3_725.5,
        "state": "ready",
        "sessions": len(names),
        "channels": 12_345,
        "published": 10,
        "delivered": 20,
        "missed": 3,
        "queued": 65_536,
        "rates": rates,
        **hub,
    }
    return json.dumps({"hub": told, "sessions": sessions, "total": len(names)}).encode()


def draw(what: Any, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [1, 2, 10, 20, 40, 60, 79, 80, 81, 120, 200, 300])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = draw(view(parse(answer()), "rate", width), width)
    # Head, an empty line, titles, and a line for each session: nothing is wrapped.
    assert len(lines) == OTHER_LINES - 1 + len(NAMES)
    for line in [
        *lines,
        *draw(footer("rate", width), width),
        *draw(trouble("x" * 500, width), width),
    ]:
        assert cell_len(line.rstrip()) <= width
        assert line.isprintable()


def test_at_200_columns_everything_is_there() -> None:
    lines = draw(view(parse(answer()), "rate", 200), 200)
    assert lines[0].split("  ")[:3] == ["hyps 0.1.0", "ready", "up 1h02m"]
    assert lines[1].startswith("1234 published/s  2.5 delivered/s  0 missed/s  123kB/s in")
    assert lines[3].split("  ")[0] == "session"
    assert lines[4].split() == [
        *("0", "worker-3", "web", "127.0.0.1:50000", "hyps", "open"),
        *("12", "0.5", "1.5M", "42", "4321", "7", "0.4ms", "1d01h"),
    ]
    text = "\n".join(lines)
    assert r"evil\x1b[2J\x1b]0;title\x07\r\nname" in text
    assert "[red]markup[/red] :smile:" in text
    assert r"right-to-left \u202e and a tab\t" in text


def test_at_80_columns_the_least_important_are_left_out() -> None:
    lines = draw(view(parse(answer()), "rate", 80), 80)
    titles = lines[3].split()
    assert {"name", "queued", "missed", "chan", "age"} <= set(titles)
    assert not {"identity", "address", "wire", "state"} & set(titles)
    assert "worker-3" in lines[4]
    assert "a-very-long-name" in lines[7]
    assert "…" in lines[7]


def test_in_few_columns_the_name_stays() -> None:
    assert draw(view(parse(answer(("abc",))), "rate", 8), 8)[-1].strip() == "abc"


def test_in_few_lines_it_tells_how_many_there_are_more() -> None:
    lines = draw(view(parse(answer()), "rate", 80, 2), 80)
    assert len(lines) == OTHER_LINES + 2
    assert lines[-1] == "4 more"
    assert len(draw(view(parse(answer()), "rate", 80, -5), 80)) == OTHER_LINES


def test_no_session() -> None:
    lines = draw(view(parse(answer(())), "rate", 80), 80)
    assert "0 sessions" in lines[0]
    assert lines[3].split()[0] == "session"


def test_the_footer_tells_the_keys() -> None:
    [line] = draw(footer("missed", 80), 80)
    assert line.rstrip() == ("q quit   sort: r rate  u queued  m missed  c channels  a age  n name")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)
fields = st.sampled_from(
    ["version", "uptime", "state", "sessions", "channels", "missed", "queued", "rates", "name"]
)


@given(st.dictionaries(fields, json_values), st.lists(st.dictionaries(fields, json_values)))
def test_a_hub_may_say_anything(hub: dict[str, Any], sessions: list[dict[str, Any]]) -> None:
    snapshot = parse(json.dumps({"hub": hub, "sessions": sessions}).encode())
    for line in draw(view(snapshot, "rate", 80), 80):
        assert cell_len(line.rstrip()) <= 80
        assert line.isprintable()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"hub": 1, "sessions": []}', b"1"])
def test_what_is_no_answer_of_a_hub(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(body)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (0.25, "0.2"),
        (9.5, "9.5"),
        (12.3, "12"),
        (9_999, "9999"),
        (10_000, "10k"),
        (999_499, "999k"),
        (1_000_000, "1.0M"),
        (123_456_789, "123M"),
        (5e12, "5.0T"),
        (5e16, "50P"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (3_661, "1h01m"), (90_000, "1d01h"), (-1, "0s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
