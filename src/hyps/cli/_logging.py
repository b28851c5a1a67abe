"""What log lines look like on standard error: text for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import os
import textwrap
import time
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from .._text import printable
from ._output import stderr

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_FORMATS: Final = ("text", "json")

_COLOURS: Final = {
    "DEBUG": "cyan",
    "INFO": "green",
    "WARNING": "yellow",
    "ERROR": "red",
    "CRITICAL": "bright_red",
}


def log_to_stderr(level: int, text: str, style: str = "text") -> None:
    """Send log records to standard error.

    :param level: the lowest level to log
    :param text: format of a line of text
    :param style: one of :data:`LOG_FORMATS`
    """
    handler = _Handler()
    handler.setFormatter(
        JSONFormatter() if style == "json" else TextFormatter(text, in_colour=_wants_colour())
    )
    logging.basicConfig(level=level, handlers=[handler])


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            # The formatters have escaped what is not theirs.
            stderr.draw(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)


def _wants_colour(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether standard error shows colours, see https://no-color.org."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return environment.get("TERM") != "dumb" and stderr.isatty()


class TextFormatter(logging.Formatter):
    """Keeps each log line on one line. Tracebacks keep their lines, indented.

    :param in_colour: colour the level and the fields
    """

    def __init__(self, text: str, *, in_colour: bool = False) -> None:
        super().__init__(text)
        self._in_colour = in_colour

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        shown = copy(record)
        message, fields = record.message, ""
        event = getattr(record, "hyps_event", None)
        if isinstance(event, str) and message.startswith(event):
            message, fields = event, message[len(event) :]
        message, fields, level = map(_one_line, (message, fields, record.levelname))
        if self._in_colour:
            level = click.style(level, fg=_COLOURS.get(record.levelname))
            fields = fields and click.style(fields, dim=True)
        shown.message = message + fields
        shown.levelname = level
        return super().formatMessage(shown)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return printable(textwrap.indent(super().formatException(ei), "  "))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return printable(textwrap.indent(stack_info, "  "))


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


class JSONFormatter(logging.Formatter):
    """Makes each record an object on a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        shown: dict[str, Any] = {
            "time": _time_of(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": getattr(record, "hyps_event", None) or record.getMessage(),
        }
        fields = getattr(record, "hyps", None)
        if isinstance(fields, dict):
            shown = {**shown, **fields, **shown}
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            shown["stack"] = record.stack_info
        # Escapes what is not ASCII, so nothing in it moves a terminal's cursor.
        return json.dumps(shown, default=str)


def json_line(message: str, **fields: object) -> str:
    """Make a line of a command's own in the same form."""
    beginning = {"time": _time_of(time.time()), "level": "INFO", "logger": "hyps.serve"}
    return json.dumps({**beginning, "message": message, **fields})


def _time_of(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
