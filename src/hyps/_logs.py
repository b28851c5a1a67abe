"""Logging that can do no harm. Everything that the package logs goes through :class:`Log`.

1. It contains what filters and handlers raise. Lines are written in the middle of changes of state,
   and the application's logging must not leave such a change half done.
2. It bounds the rate of lines that a peer or a slow reader can cause again and again. It counts the
   lines that it leaves out, and the next line of the kind tells the number.
3. It bounds the length of what it quotes and escapes it, because peers choose most of it.
4. Lines have fields, for people and for programs. They stand at the end of the message, as in
   ``session opened session=12 address=127.0.0.1:4711``, whatever formatter an application has. The
   record also has them as ``record.hyps``, and the message without them as ``record.hyps_event``.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ._text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

#: This many lines of one kind may come at once, and another one after each interval in seconds.
#: Lines below the level of warnings are details, which the application has asked for.
_BURST: Final = 5
_INTERVAL: Final = 10.0
_DETAIL_BURST: Final = 200
_DETAIL_INTERVAL: Final = 0.05

#: The bound of each argument and of each field of a line, in characters.
_MAX_ARGUMENT: Final = 500


#: Where a line has an argument.
_PLACE: Final = re.compile("%[a-z]")


class _Allowance:
    """The allowance for lines of one kind: a token bucket."""

    __slots__ = ("_at", "_burst", "_interval", "_room", "omitted")

    def __init__(self, burst: int, interval: float, now: float) -> None:
        self._burst = burst
        self._interval = interval
        self._room: float = burst
        self._at = now
        #: How many lines were left out since the last one.
        self.omitted = 0

    def has_room(self, now: float) -> bool:
        self._room = min(self._burst, self._room + (now - self._at) / self._interval)
        self._at = now
        return self._room >= 1

    def spend(self) -> None:
        self._room -= 1


class Log:
    """A logger for one hub or one client, so that no other one uses up its allowance.

    Lines are of one kind if they have the same text but for their arguments and fields. The
    methods that write lines take ``kind`` for those whose text does not tell; this package, and not
    a peer, must bound the number of kinds. A field that is None is left out.

    :param name: of the logger
    :param now: seconds on a clock that does not go backwards
    :param burst: lines of one kind that may come at once; None for what suits their level
    :param interval: seconds after which there may be another one, with ``burst``
    """

    def __init__(
        self,
        name: str,
        now: Callable[[], float] = time.monotonic,
        *,
        burst: int | None = None,
        interval: float = _INTERVAL,
    ) -> None:
        self._logger = logging.getLogger(name)
        self._now = now
        self._bounds = None if burst is None else (burst, interval)
        self._allowances: dict[str, _Allowance] = {}
        self._is_writing = False
        self._has_complained = False

    def debug(self, text: str, *args: object, kind: str = "", **fields: object) -> None:
        self._write(logging.DEBUG, text, args, fields, kind)

    def info(self, text: str, *args: object, kind: str = "", **fields: object) -> None:
        self._write(logging.INFO, text, args, fields, kind)

    def warning(self, text: str, *args: object, kind: str = "", **fields: object) -> None:
        self._write(logging.WARNING, text, args, fields, kind)

    def error(self, text: str, *args: object, kind: str = "", **fields: object) -> None:
        self._write(logging.ERROR, text, args, fields, kind)

    def exception(self, text: str, *args: object, kind: str = "", **fields: object) -> None:
        """Write a line with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, text, args, fields, kind, exc_info=True)

    def has_room(self, text: str, level: int = logging.WARNING) -> bool:
        """Tell whether a line of this kind would be written now.

        For callers that can sum up what they have to say until there is room.
        """
        return not self._is_writing and self._allowance(text, level).has_room(self._now())

    def tell_omitted(self) -> None:
        """Tell how many lines were left out, as far as no later line has told."""
        for kind, allowance in list(self._allowances.items()):
            omitted, allowance.omitted = allowance.omitted, 0
            if omitted:
                like = _PLACE.sub("...", kind)
                text = "left out %d more lines like: %s"
                self._emit(logging.WARNING, text, (omitted, like), {})

    def _allowance(self, kind: str, level: int) -> _Allowance:
        # The texts and kinds in this package bound their number.
        allowance = self._allowances.get(kind)
        if allowance is None:
            is_detail = level < logging.WARNING
            usual = (_DETAIL_BURST, _DETAIL_INTERVAL) if is_detail else (_BURST, _INTERVAL)
            burst, interval = self._bounds or usual
            allowance = self._allowances[kind] = _Allowance(burst, interval, self._now())
        return allowance

    def _write(
        self,
        level: int,
        text: str,
        args: tuple[object, ...],
        fields: dict[str, object],
        kind: str,
        *,
        exc_info: bool = False,
    ) -> None:
        try:
            is_wanted = self._logger.isEnabledFor(level)
        except Exception:
            self._complain()
            return
        if not is_wanted:
            return
        allowance = self._allowance(kind or text, level)
        # A handler that uses the client or hub itself could cause lines without end.
        if self._is_writing or not allowance.has_room(self._now()):
            allowance.omitted += 1
            return
        allowance.spend()
        omitted, allowance.omitted = allowance.omitted, 0
        self._emit(level, text, args, fields, omitted, exc_info=exc_info)

    def _emit(
        self,
        level: int,
        text: str,
        args: tuple[object, ...],
        fields: dict[str, object],
        omitted: int = 0,
        *,
        exc_info: bool = False,
    ) -> None:
        self._is_writing = True
        try:
            shown = [_shown(arg) for arg in args]
            told = {name: _shown(value) for name, value in fields.items() if value is not None}
            extra = {"hyps": told, "hyps_event": text % tuple(shown) if shown else text}
            if not shown and (told or omitted):
                # Logging formats only texts with arguments, and now there are some.
                text = text.replace("%", "%%")
            if told:
                text += " %s"
                shown.append(" ".join(f"{name}={_spelled(told[name])}" for name in told))
            if omitted:
                text += " (%d more like this were left out)"
                shown.append(omitted)
                told["omitted"] = omitted
            self._logger.log(level, text, *shown, exc_info=exc_info, stacklevel=4, extra=extra)
        except Exception:
            self._complain()
        finally:
            self._is_writing = False

    def _complain(self) -> None:
        """Report on standard error that logging fails, once, like Python's own handlers."""
        if self._has_complained or not logging.raiseExceptions:
            return
        self._has_complained = True
        with suppress(Exception):
            print(f"--- Logging error of {self._logger.name}, told once ---", file=sys.stderr)
            traceback.print_exc()


def _shown(value: object) -> str | int | float:
    if isinstance(value, int | float):
        return value
    return one_line(str(value), _MAX_ARGUMENT)


def _spelled(value: str | float) -> str:
    """Spell a field's value, so that people and programs see where it ends."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if isinstance(value, str) and (not text or any(char in ' "=' for char in text)):
        return '"' + text.replace('"', '\\"') + '"'
    return text
