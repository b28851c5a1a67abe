"""Processes that tests start: they are read line by line, and none outlives its test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from anyio.to_thread import run_sync

import hyps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

#: Seconds after which a process has hung, and is killed.
TIMEOUT = 30
PYTHON = (sys.executable, "-W", "error")
HYPS = (*PYTHON, "-m", "hyps")


class Running:
    """A command that runs until it is told to end, or until it took too long."""

    def __init__(
        self,
        *arguments: str,
        program: Sequence[str] = HYPS,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        **files: int,
    ) -> None:
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=files.get("stdin", subprocess.DEVNULL),
            stdout=files.get("stdout", subprocess.PIPE),
            stderr=files.get("stderr", subprocess.PIPE),
            text=True,
            env={**os.environ, **(environment or {})},
            pass_fds=pass_fds,
        )
        self.watchdog = threading.Timer(TIMEOUT, self.process.kill)
        self.watchdog.start()

    def read_line(self, stream: IO[str] | None) -> str:
        assert stream is not None
        return stream.readline()

    def read_url(self) -> str:
        """Wait until a hub says where it listens."""
        line = self.read_line(self.process.stdout)
        assert line.startswith(f"hyps {hyps.__version__} listening at hyps")
        return line.split()[-1]

    def stop(self) -> None:
        """Let it do nothing, until :meth:`go_on`; returns when it does nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate()
        return self.process.returncode, out or "", err or ""

    def count_memory(self) -> int:
        """Give the bytes of memory that it has, as Linux tells."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def without_audit(lines: str) -> str:
    """Leave out what a hub's log says of sessions that open and end, and that it asks to leave."""
    return "".join(
        line
        for line in lines.splitlines(keepends=True)
        if not re.search(" INFO (session (opened|ended)|shutting down:) ", line)
    )


@contextmanager
def running(
    *arguments: str,
    program: Sequence[str] = HYPS,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    **files: int,
) -> Iterator[Running]:
    """Run a command.

    :param environment: variables besides those of the tests
    :param pass_fds: descriptors that it inherits
    :param files: what standard input, output and error are, as :class:`subprocess.Popen` has it
    """
    command = Running(
        *arguments, program=program, environment=environment, pass_fds=pass_fds, **files
    )
    with command.process:
        try:
            yield command
        finally:
            command.watchdog.cancel()
            command.process.kill()


@contextmanager
def serving(*arguments: str, **options: Any) -> Iterator[tuple[str, Running]]:
    with running("serve", "--port", "0", *arguments, **options) as hub:
        yield hub.read_url(), hub


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call what waits for a process, and let other tasks go on meanwhile."""
    # It ends with its process, at the latest.
    return await run_sync(function, *arguments, abandon_on_cancel=True)
