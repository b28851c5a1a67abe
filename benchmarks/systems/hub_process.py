"""A program: runs a hub on a free port of the loopback interface and prints its URL."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import anyio
from anyio import to_thread

import hyps


async def main() -> None:
    """Serve until standard input ends, which it does with the process that started this one."""
    async with anyio.create_task_group() as tasks:
        server: hyps.Server = await tasks.start(hyps.serve, "127.0.0.1", 0)
        print(server.urls[0], flush=True)
        await to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})
