"""Servers in processes of their own, on a core of their own, that end with the benchmark."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Whether other processes' memory and processor time can be read.
CAN_LOOK: Final = sys.platform == "linux"

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
        self._all = found
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

    def release(self) -> None:
        """Give up the core, for a process that is to choose among all."""
        if self.client is not None:
            os.sched_setaffinity(0, self._all)


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


def free_port() -> int:
    """Give a port that is free now, for servers that cannot choose one themselves."""
    with closing(socket.socket()) as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
        return port


def wait_for_answer(
    process: subprocess.Popen[bytes], port: int, question: bytes, answer: bytes
) -> None:
    """Wait until a server answers.

    :raises Missing: if it does not, or has ended
    """
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
                stream.sendall(question)
                if stream.recv(4096).startswith(answer):
                    return
        except OSError:
            time.sleep(0.02)
    raise Missing("its server did not start")


def cpu_seconds(pid: int) -> float:
    """Give the processor time that a process has used, all threads together. On Linux only.

    By the clock that it has for each process (``clock_getcpuclockid(3)``): /proc/PID/stat has the
    same in hundredths of a second, which is too coarse.
    """
    return time.clock_gettime(~pid << 3 | 2)


class CpuClock:
    """The processor time of a server and of this process, from its making on, where it is known."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._start = self._now()

    def _now(self) -> tuple[float, float]:
        return cpu_seconds(self._server) if CAN_LOOK else 0.0, time.process_time()

    def each(self, count: int) -> dict[str, float]:
        """Give it as nanoseconds, divided by how many things were done."""
        if not CAN_LOOK:
            return {}
        passed = [now - start for now, start in zip(self._now(), self._start, strict=True)]
        server, client = (seconds / count * 1e9 for seconds in passed)
        return {"server_ns": server, "client_ns": client}


def resident_bytes(pid: int) -> int:
    """Give the memory that a process has for itself. On Linux only."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
