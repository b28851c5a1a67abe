"""Standard output and standard error of the commands, which never block a command.

Their reader may be slow or gone, or their disk full. So no event loop ever writes to them itself:

- A thread writes what a command prints, and a command that ends abandons it.
- Standard error, log lines and tracebacks included, has a bounded queue that a thread empties. It
  counts the lines that find no room.

A thread that is blocked in a write does not delay the end of the process, which skips the
interpreter's shutdown, see ``_main``.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Final

import anyio
import click
from anyio import to_thread

from .._text import printable
from ._signals import signals

if TYPE_CHECKING:
    from typing import TextIO

_STDOUT: Final = 1
_STDERR: Final = 2
#: The bound of the queue for standard error, in bytes. The thread may hold as many more.
_MAX_WAITING: Final = 256 * 1024
#: A command that has ended waits this long, in seconds, for its reader to take the last output.
_LAST_WORDS: Final = 1.0


def open_standard_files() -> None:
    """Open standard input, output and error where the parent process closed them.

    Otherwise the next file or socket would get the number of one of them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            if number == _STDOUT:
                stdout.is_closed = True


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # Another process that shares the file made it non-blocking.
            select.select([], [descriptor], [])


def _encoding_of(file: TextIO | None) -> str:
    # Python has no file object for a descriptor that was closed at its start.
    return file.encoding if file is not None and file.encoding else "utf-8"


class StandardError(io.TextIOBase):
    """The replacement of ``sys.stderr``: writing to it never waits and never fails.

    It escapes control characters, because peers choose most of what the log quotes.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._encoding = _encoding_of(file)
        # Its lock is reentrant: the garbage collector may issue a warning inside of write().
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._size = 0
        self._omitted = 0
        self._is_idle = True
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        # Click wraps files that claim to be ASCII, and this one lacks what the wrapper needs.
        return "utf-8"

    def fileno(self) -> int:
        return _STDERR

    def isatty(self) -> bool:
        return os.isatty(_STDERR)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            # Click distinguishes text files from binary ones by this error.
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        self.draw(printable(text))
        return len(text)

    def draw(self, text: str) -> None:
        """Write text that may contain control sequences."""
        data = text.encode(self._encoding, "backslashreplace")
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
                self._thread.start()
            if self._size + len(data) > _MAX_WAITING:
                self._omitted += max(1, text.count("\n"))
                return
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until everything is written, for a bounded time."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle and not self._waiting, _LAST_WORDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_idle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._is_idle = False
                if self._omitted:
                    self._waiting.append(b"hyps: left out %d lines: nobody read\n" % self._omitted)
                data = b"".join(self._waiting)
                self._waiting.clear()
                self._size = self._omitted = 0
            try:
                _write_all(_STDERR, data)
            except OSError:
                pass  # nothing is left to report this on


class StandardOutput:
    """Standard output: what a command prints for its user or for the next program."""

    def __init__(self, file: TextIO | None) -> None:
        self._encoding = _encoding_of(file)
        #: Whether the parent process closed it.
        self.is_closed = False
        # Several tasks print: their lines keep the order of the calls.
        self._turn = anyio.Lock()

    async def print(self, text: str) -> None:
        """Write one or more lines, and wait until they are written.

        :raises click.exceptions.Exit: if the reader is gone
        :raises click.ClickException: if writing fails otherwise
        """
        async with self._turn:
            await to_thread.run_sync(self.write, f"{text}\n", abandon_on_cancel=True)

    def finish(self, text: str) -> None:
        """Write the last output, outside of an event loop.

        This waits without a bound, unless a signal has asked the command to end.

        :raises click.exceptions.Exit: as :meth:`print` does
        :raises click.ClickException: as :meth:`print` does
        """
        errors: list[Exception] = []

        def write() -> None:
            try:
                self.write(text)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        # A signal can interrupt join(), but not a write.
        thread.join(None if signals.received is None else _LAST_WORDS)
        for error in errors:
            raise error

    def write(self, text: str) -> None:
        """Write text, and wait until it is written: this is for threads.

        :raises click.exceptions.Exit: as :meth:`print` does
        :raises click.ClickException: as :meth:`print` does
        """
        try:
            _write_all(_STDOUT, text.encode(self._encoding, "backslashreplace"))
        except BrokenPipeError:
            # Programs that SIGPIPE ends exit with this code, silently.
            raise click.exceptions.Exit(141) from None
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise click.ClickException(f"cannot write to standard output: {why}") from None


#: Of this process.
stdout: Final = StandardOutput(sys.stdout)
stderr: Final = StandardError(sys.stderr)
