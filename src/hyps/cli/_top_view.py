"""What ``hyps top`` shows: numbers and a width in, lines out. Nothing here does I/O.

Names of sessions are chosen by clients, so they are escaped, and never read as markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .._text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from ._top_source import Hub, Session, Snapshot

#: Spaces between two columns.
_GAP: Final = 2

#: The keys of the footer, and what they sort by.
KEYS: Final = {
    "r": "rate",
    "u": "queued",
    "m": "missed",
    "c": "channels",
    "a": "age",
    "n": "name",
}


class _Column(NamedTuple):
    """A column.

    :param title: what stands above it
    :param show: makes the text of a cell
    :param importance: where there is no room, columns with a smaller one go first
    :param most: cells that a text may take where room is short; 0 is a number, which takes what it
        needs
    :param sorts: the order that it shows
    """

    title: str
    show: Callable[[Session], str]
    importance: int
    most: int = 0
    sorts: str = ""


_COLUMNS: Final = (
    _Column("session", lambda each: one_line(each.session), 50, 8),
    _Column("name", lambda each: one_line(each.name) or "-", 100, 16, "name"),
    _Column("identity", lambda each: one_line(each.identity) or "-", 40, 10),
    _Column("address", lambda each: one_line(each.address) or "-", 30, 21),
    _Column("wire", lambda each: one_line(each.wire), 10, 6),
    _Column("state", lambda each: one_line(each.state), 20, 8),
    _Column("chan", lambda each: count(each.channels), 70, 0, "channels"),
    _Column("msg/s", lambda each: count(each.rates["published"]), 75),
    _Column("B/s in", lambda each: count(each.rates["bytes_received"]), 90, 0, "rate"),
    _Column("B/s out", lambda each: count(each.rates["bytes_sent"]), 95, 0, "rate"),
    _Column("queued", lambda each: count(each.queued), 85, 0, "queued"),
    _Column("missed", lambda each: count(each.missed), 80, 0, "missed"),
    _Column("rtt", lambda each: milliseconds(each.round_trip), 45),
    _Column("age", lambda each: duration(each.age), 60, 0, "age"),
)


def view(snapshot: Snapshot, sort: str, width: int, rows: int | None = None) -> RenderableType:
    """Show a hub and its sessions.

    :param sort: the order that the sessions are in
    :param width: cells of a line
    :param rows: sessions to show, at most; the last line tells how many there are beside them
    """
    sessions = snapshot.sessions if rows is None else snapshot.sessions[: max(rows, 0)]
    parts: list[RenderableType] = [*_head(snapshot.hub, width), Text("")]
    parts.append(_table(sessions, sort, width))
    hidden = snapshot.hub.sessions - len(sessions)
    if hidden > 0:
        parts.append(_line(f"{hidden:,} more", width, "dim"))
    return Group(*parts)


#: Lines of :func:`view` that are no session's: the head, an empty line, titles, and how many more.
OTHER_LINES: Final = 5


def footer(sort: str, width: int) -> Text:
    """Tell the keys."""
    keys = [f"{key} {name}" for key, name in KEYS.items()]
    line = Text(no_wrap=True, overflow="crop", end="")
    line.append("q quit   sort: ", "dim")
    for shown, name in zip(keys, KEYS.values(), strict=True):
        line.append(shown, "reverse" if name == sort else "dim")
        line.append("  ")
    line.truncate(width)
    return line


def trouble(text: str, width: int) -> Text:
    """Tell why the numbers are not those of now."""
    return _line(text, width, "bold red")


def _head(hub: Hub, width: int) -> list[Text]:
    rates = hub.rates
    first = [
        f"hyps {one_line(hub.version)}",
        one_line(hub.state),
        f"up {duration(hub.uptime)}",
        _many(hub.sessions, "session"),
        _many(hub.channels, "channel"),
        f"{count(hub.missed)} missed",
        f"{count(hub.queued)}B queued",
    ]
    second = [
        f"{count(rates['published'])} published/s",
        f"{count(rates['delivered'])} delivered/s",
        f"{count(rates['missed'])} missed/s",
        f"{count(rates['bytes_received'])}B/s in",
        f"{count(rates['bytes_sent'])}B/s out",
    ]
    return [
        _line(_join(first, width), width, "bold" if hub.state == "ready" else "bold yellow"),
        _line(_join(second, width), width, "bold red" if rates["missed"] else ""),
    ]


def _join(parts: list[str], width: int) -> str:
    """Join the parts that have room, the first one in any case."""
    text = parts[0]
    for part in parts[1:]:
        if cell_len(text) + _GAP + cell_len(part) > width:
            break
        text += " " * _GAP + part
    return text


def _line(text: str, width: int, style: str) -> Text:
    line = Text(text, style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line


def _table(sessions: Sequence[Session], sort: str, width: int) -> Table:
    cells = [[column.show(each) for column in _COLUMNS] for each in sessions]
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_edge=False)
    shown = _fit(cells, width)
    for index, size in shown.items():
        column = _COLUMNS[index]
        table.add_column(
            Text(column.title),
            header_style="bold underline" if column.sorts == sort else "bold",
            justify="left" if column.most else "right",
            width=size,
            no_wrap=True,
            overflow="ellipsis",
        )
    for session, row in zip(sessions, cells, strict=True):
        table.add_row(
            *[Text(row[index], no_wrap=True, overflow="ellipsis") for index in shown],
            style="red" if session.missed else "yellow" if session.queued else "",
        )
    return table


def _fit(cells: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """Choose the columns that have room, and how wide each is.

    :return: widths by the columns' indexes, in the columns' order
    """
    wanted: list[int] = []
    needed: dict[int, int] = {}
    for index, column in enumerate(_COLUMNS):
        longest = max([cell_len(row[index]) for row in cells], default=0)
        wanted.append(max(longest, len(column.title)))
        needed[index] = min(wanted[-1], max(column.most, len(column.title)) or wanted[-1])
        if not column.most:
            needed[index] = wanted[-1]
    by_importance = sorted(needed, key=lambda index: _COLUMNS[index].importance)
    for index in by_importance:
        if len(needed) == 1 or _total(needed) <= width:
            break
        del needed[index]
    if len(needed) == 1:
        return {index: min(size, width) for index, size in needed.items()}
    # What room is left goes to texts that were to be cut, the most important first.
    for index in reversed(by_importance):
        if index in needed:
            needed[index] += min(width - _total(needed), wanted[index] - needed[index])
    return needed


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


# Numbers


def count(value: float) -> str:
    """Show a number in at most five characters."""
    if abs(value) < 10 and value != int(value):
        return f"{value:.1f}"
    if abs(value) < 9_999.5:
        return f"{value:.0f}"
    for unit in "kMGT":
        value /= 1000
        if abs(value) < 9.95:
            return f"{value:.1f}{unit}"
        if abs(value) < 999.5:
            return f"{value:.0f}{unit}"
    return f"{value / 1000:.0f}P"


def milliseconds(seconds: float | None) -> str:
    """Show a short time."""
    return "-" if seconds is None else f"{1000 * seconds:.1f}ms"


def duration(seconds: float) -> str:
    """Show a long time, by its two largest units."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3_600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3_600}h{whole // 60 % 60:02}m"
    return f"{whole // 86_400}d{whole // 3_600 % 24:02}h"


def _many(number: int, what: str) -> str:
    return f"{count(number)} {what}{'' if number == 1 else 's'}"
