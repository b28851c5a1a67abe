"""Servers in processes of their own, on a core of their own, that end with the benchmark."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Seconds that a server may take to be there, and again to be gone.
PATIENCE: Final = 10.0


class Missing(Exception):
    """A system cannot be measured here; the text says why."""


class _Cores:
    """One core for the client and one for the servers, where there are two to be had.

    Without them the scheduler moves both about, and what is measured is its mood.
    """

    def __init__(self) -> None:
        found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
        self.server: int | None = None
        self.client: int | None = None
        if len(found) > 1:
            self.server, self.client = found[:2]

    def __str__(self) -> str:
        if self.client is None:
            return "not pinned to cores"
        return f"servers on core {self.server}, client on core {self.client}"

    def take(self, core: int | None) -> None:
        """Move this process, and those that it starts from now on."""
        if core is not None:
            os.sched_setaffinity(0, {core})


CORES: Final = _Cores()


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for as long as the context is entered.

    Its standard input is a pipe from this process, for programs that want to end with it even
    when it is killed.
    """
    # The child inherits the core, and so does every thread that it starts.
    CORES.take(CORES.server)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise Missing(f"cannot run {command[0]}: {error}") from error
    finally:
        CORES.take(CORES.client)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
