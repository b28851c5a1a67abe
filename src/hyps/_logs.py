"""Logging that can do no harm. Everything that the package logs goes through :class:`Log`.

1. It contains what filters and handlers raise. Lines are written in the middle of changes of state,
   and the application's logging must not leave such a change half done.
2. It bounds the rate of lines that a peer or a slow reader can cause again and again. It counts the
   lines that it leaves out, and the next line of the kind tells the number.
3. It bounds the length of what it quotes and escapes it, because peers choose most of it.
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

#: The bound of each argument of a line, in characters.
_MAX_ARGUMENT: Final = 500


#: Where a line has an argument.
_PLACE: Final = re.compile("%[a-z]")


class _Allowance:
    """The allowance for lines of one kind: a token bucket."""

    __slots__ = ("_at", "_burst", "_interval", "_room", "omitted")

    def __init__(self, level: int, now: float) -> None:
        is_detail = level < logging.WARNING
        self._burst = _DETAIL_BURST if is_detail else _BURST
        self._interval = _DETAIL_INTERVAL if is_detail else _INTERVAL
        self._room: float = self._burst
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

    Lines are of one kind if they have the same text but for their arguments.

    :param name: of the logger
    :param now: seconds on a clock that does not go backwards
    """

    def __init__(self, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._logger = logging.getLogger(name)
        self._now = now
        self._allowances: dict[str, _Allowance] = {}
        self._is_writing = False
        self._has_complained = False

    def debug(self, text: str, *args: object) -> None:
        self._write(logging.DEBUG, text, args)

    def info(self, text: str, *args: object) -> None:
        self._write(logging.INFO, text, args)

    def warning(self, text: str, *args: object) -> None:
        self._write(logging.WARNING, text, args)

    def error(self, text: str, *args: object) -> None:
        self._write(logging.ERROR, text, args)

    def exception(self, text: str, *args: object) -> None:
        """Write a line with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, text, args, exc_info=True)

    def has_room(self, text: str, level: int = logging.WARNING) -> bool:
        """Tell whether a line of this kind would be written now.

        For callers that can sum up what they have to say until there is room.
        """
        return not self._is_writing and self._allowance(text, level).has_room(self._now())

    def tell_omitted(self) -> None:
        """Tell how many lines were left out, as far as no later line has told."""
        for text, allowance in list(self._allowances.items()):
            omitted, allowance.omitted = allowance.omitted, 0
            if omitted:
                like = _PLACE.sub("...", text)
                self._emit(logging.WARNING, "left out %d more lines like: %s", (omitted, like))

    def _allowance(self, text: str, level: int) -> _Allowance:
        # The texts in this package bound their number.
        allowance = self._allowances.get(text)
        if allowance is None:
            allowance = self._allowances[text] = _Allowance(level, self._now())
        return allowance

    def _write(
        self, level: int, text: str, args: tuple[object, ...], *, exc_info: bool = False
    ) -> None:
        try:
            is_wanted = self._logger.isEnabledFor(level)
        except Exception:
            self._complain()
            return
        if not is_wanted:
            return
        allowance = self._allowance(text, level)
        # A handler that uses the client or hub itself could cause lines without end.
        if self._is_writing or not allowance.has_room(self._now()):
            allowance.omitted += 1
            return
        allowance.spend()
        omitted, allowance.omitted = allowance.omitted, 0
        if omitted:
            text += " (%d more like this were left out)"
            args = (*args, omitted)
        self._emit(level, text, args, exc_info=exc_info)

    def _emit(
        self, level: int, text: str, args: tuple[object, ...], *, exc_info: bool = False
    ) -> None:
        self._is_writing = True
        try:
            shown = [
                arg if isinstance(arg, int | float) else one_line(str(arg), _MAX_ARGUMENT)
                for arg in args
            ]
            self._logger.log(level, text, *shown, exc_info=exc_info, stacklevel=4)
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
