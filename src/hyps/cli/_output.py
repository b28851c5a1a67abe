"""Standard output and standard error of the commands: nothing that happens to them holds one.

Whoever reads them may be slow or gone, their disk may be full. So an event loop never writes to
them itself:

- what a command prints waits in a thread until it is written, and can be abandoned there;
- what it says on standard error, log lines and tracebacks included, goes into a bounded queue of
  which a thread writes. What has no room is counted.

A thread that is blocked in a write does not prevent the end of the process, which skips the
interpreter's shutdown, see ``_main``.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any, Final

import anyio
import click
from anyio import to_thread

from .._text import printable
from ._signals import signals

if TYPE_CHECKING:
    from typing import TextIO

_STDOUT: Final = 1
_STDERR: Final = 2
#: Bytes that wait for standard error, at most, besides as many that are being written.
_MAX_WAITING: Final = 256 * 1024
#: Seconds that a command which is over gives others to read the last of what it has said.
_LAST_WORDS: Final = 1.0


def open_standard_files() -> None:
    """Open those of standard input, output and error that were closed.

    Else the next file or socket would take the place of one.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # Another process that has it made it so.
            select.select([], [descriptor], [])


def _encoding_of(file: TextIO | None) -> str:
    # There is none if it was closed when Python began.
    return file.encoding if file is not None and file.encoding else "utf-8"


class StandardError(io.TextIOBase):
    """Takes the place of ``sys.stderr``: writing to it never waits and never fails.

    Control characters are escaped, whoever wrote them: most of what is logged was chosen by others.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._encoding = _encoding_of(file)
        # Its lock can be taken again by who has it: the garbage collector may warn at any time.
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._size = 0
        self._omitted = 0
        self._is_idle = True
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        # Click mends files that say they are ASCII, which needs more of them than there is here.
        return "utf-8"

    def fileno(self) -> int:
        return _STDERR

    def isatty(self) -> bool:
        return os.isatty(_STDERR)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            # How Click tells files of text from those of bytes.
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        self.draw(printable(text))
        return len(text)

    def draw(self, text: str) -> None:
        """Write what may move the cursor."""
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
        """Wait until all is written, but not for long."""
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
                pass  # there is nowhere left to say so


class StandardOutput:
    """What a command prints for its user or for the next program."""

    def __init__(self, file: TextIO | None) -> None:
        self._encoding = _encoding_of(file)
        # Lines of several tasks come in the order in which they were printed.
        self._turn = anyio.Lock()

    async def print(self, text: str) -> None:
        """Write a line, or several, and wait until somebody has taken them.

        :raises click.exceptions.Exit: if nobody ever will
        :raises click.ClickException: if it fails otherwise
        """
        async with self._turn:
            await to_thread.run_sync(self._write, f"{text}\n", abandon_on_cancel=True)

    def finish(self, text: str) -> None:
        """Write the last of it, outside of an event loop.

        It waits for as long as it takes, unless a signal has asked the command to end.

        :raises click.exceptions.Exit: as :meth:`print` does
        :raises click.ClickException: as :meth:`print` does
        """
        errors: list[Exception] = []

        def write() -> None:
            try:
                self._write(text)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        # Whoever waits for a thread can be interrupted.
        thread.join(None if signals.received is None else _LAST_WORDS)
        for error in errors:
            raise error

    def _write(self, text: str) -> None:
        try:
            _write_all(_STDOUT, text.encode(self._encoding, "backslashreplace"))
        except BrokenPipeError:
            # As programs end to whom SIGPIPE happens: without a word.
            raise click.exceptions.Exit(141) from None
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise click.ClickException(f"cannot write to standard output: {why}") from None


#: Of this process.
stdout: Final = StandardOutput(sys.stdout)
stderr: Final = StandardError(sys.stderr)


class _Formatter(logging.Formatter):
    """A line of the log is one line, whatever is in it. Tracebacks have their lines, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record)).replace("\n", "\\n")

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return textwrap.indent(super().formatException(ei), "  ")


def log_to_stderr(level: int, text: str) -> None:
    """Log what comes to standard error.

    :param level: from which on
    :param text: how a line is made
    """
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(_Formatter(text))
    logging.basicConfig(level=level, handlers=[handler])
