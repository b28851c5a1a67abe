"""The terminal of a command that has it to itself: single keys in, whole pictures out."""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from anyio import to_thread, wait_readable

from ._output import stdout
from ._signals import signals

if sys.platform != "win32":
    import termios

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_STDIN: Final = 0
_STDOUT: Final = 1

#: Another screen, so that the one before comes back; and no cursor.
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE: Final = b"\x1b[?25h\x1b[?1049l"

#: Seconds that a terminal may take to be left.
_LAST_WORDS: Final = 0.5


class Terminal:
    """Keys without Enter, and a screen of its own, while it is entered.

    Whatever ends the command, the terminal is then as it was before.
    """

    def __init__(self) -> None:
        self._before: list[Any] | None = None
        # Held while a thread writes, so that nothing is written after the screen was left.
        self._turn = threading.Lock()
        self._is_entered = False

    def __enter__(self) -> Self:
        # First of all, as a signal may come at any moment.
        signals.before_exit = self._leave_now
        self._is_entered = True
        if self.has_keys:
            self._before = termios.tcgetattr(_STDIN)
            mode = termios.tcgetattr(_STDIN)
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            # Ctrl-Z would leave a shell on this screen, without a cursor. Ctrl-C is a signal still.
            mode[6][termios.VSUSP] = b"\0"
            mode[6][termios.VMIN] = 1
            mode[6][termios.VTIME] = 0
            termios.tcsetattr(_STDIN, termios.TCSANOW, mode)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(_LAST_WORDS)
        signals.before_exit = None

    def _leave_now(self) -> None:
        self._leave(0)

    def _leave(self, patience: float) -> None:
        if not self._is_entered:
            return
        self._is_entered = False
        # The terminal may be gone.
        with suppress(OSError, ValueError):
            if self._before is not None:
                with suppress(termios.error):
                    termios.tcsetattr(_STDIN, termios.TCSANOW, self._before)
            # A terminal that is stopped must not keep the process.
            has_turn = self._turn.acquire(timeout=patience)
            if select.select([], [_STDOUT], [], patience)[1]:
                os.write(_STDOUT, _LEAVE)
            if has_turn:
                self._turn.release()

    @property
    def has_keys(self) -> bool:
        """Whether somebody can press keys."""
        return sys.platform != "win32" and os.isatty(_STDIN)

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and lines."""
        try:
            width, height = os.get_terminal_size(_STDOUT)
        except OSError:
            return 80, 24
        # A terminal that does not know says 0.
        return width or 80, height or 24

    async def enter_screen(self) -> None:
        """Switch to the screen."""
        await self._write(_ENTER)

    async def draw(self, lines: list[str]) -> None:
        """Replace the picture by one of its whole height. Each line fits, and may have colours."""
        # Each line is erased before it is written: after a full one the last character would be.
        await self._write("\x1b[H" + "\r\n".join([f"\x1b[K{line}" for line in lines]))

    async def _write(self, text: str) -> None:
        def write() -> None:
            with self._turn:
                if self._is_entered:
                    stdout.write(text)

        await to_thread.run_sync(write, abandon_on_cancel=True)

    async def keys(self) -> str:
        """Wait for keys; empty if nobody presses any ever again."""
        await wait_readable(_STDIN)
        return os.read(_STDIN, 64).decode("latin-1")
