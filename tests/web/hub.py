"""A hub that tells its counters when it is asked on standard input."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import anyio

import hyps


async def main() -> None:
    async with hyps.Server(port=int(sys.argv[1])) as server:
        print("listening", flush=True)
        async for _ in anyio.wrap_file(sys.stdin):
            print(json.dumps(asdict(server.broker.stats())), flush=True)


anyio.run(main)
