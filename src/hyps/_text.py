"""Text that somebody else chose, made safe to show."""

from __future__ import annotations


def one_line(text: str, most: int | None = None) -> str:
    """Escape what could move a terminal's cursor, hide text or begin another line.

    Backslashes are doubled, so that an escape in the result is one of ours.

    :param text: any text
    :param most: characters of it that are shown, at most; the rest is counted
    :return: printable characters, in one line
    """
    if most is not None and len(text) > most:
        return f"{one_line(text[:most])}... ({len(text) - most} more characters)"
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in text)


def printable(text: str) -> str:
    """Escape the same in text that has its own lines, and may hold escapes already.

    :return: printable characters and newlines
    """
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def _escape(char: str) -> str:
    return "\\\\" if char == "\\" else char.encode("unicode_escape").decode()
