"""The tables of sessions and channels: sorted, a page at a time, and never in one go."""

from __future__ import annotations

import json
import time
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio.lowlevel import checkpoint

from .._version import __version__
from ..protocol import State
from ._requests import Refusal
from ._sampling import SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._server.census import Entry
    from .._server.server import Server
    from ..protocol._broker.channel import Channel
    from ._sampling import Rates

_Row = TypeVar("_Row")

_MOST: Final = 1_000
_PAGE: Final = 100

#: Rows that are encoded at once.
_ENCODED: Final = 50

_SESSION_SORTS: Final = ("rate", "queued", "missed", "channels", "age", "name")
_CHANNEL_SORTS: Final = ("rate", "subscribers", "messages", "name")


class Page:
    """Which part of a table is asked for.

    :param query: the parameters of the URL
    :param sorts: what the table may be sorted by, the default one first
    :raises Refusal: if that is none
    """

    def __init__(self, query: dict[str, str], sorts: Sequence[str]) -> None:
        for name in query:
            if name not in ("sort", "limit", "offset"):
                raise Refusal(400, "the parameters are sort, limit and offset")
        self.sort: str = query.get("sort", sorts[0])
        if self.sort not in sorts:
            raise Refusal(400, f"sort must be one of {', '.join(sorts)}")
        self.limit: int = _read_number(query, "limit", _PAGE, _MOST)
        self.offset: int = _read_number(query, "offset", 0, 999_999_999)

    async def pick(
        self, rows: Sequence[_Row], key: Callable[[_Row], tuple[Any, ...]]
    ) -> list[_Row]:
        """Sort rows, and pick those of the page.

        Sorting a million of them takes a second. So slices are sorted, and merged as far as needed.
        Nothing is made for each row that stays: the garbage collector would look through the whole
        hub for it.

        :param key: no two rows have the same
        """
        runs: list[list[_Row]] = []
        for start in range(0, len(rows), SLICE):
            run = sorted(rows[start : start + SLICE], key=key)
            # What lies behind the page in its slice does so in the whole.
            del run[self.offset + self.limit :]
            runs.append(run)
            await checkpoint()
        merged = merge(*runs, key=key)
        skipped = 0
        while skipped < self.offset:
            count = min(SLICE, self.offset - skipped)
            for _ in islice(merged, count):
                pass
            skipped += count
            if skipped >= len(rows):
                return []
            await checkpoint()
        return list(islice(merged, self.limit))


def _read_number(query: dict[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) <= most):
        raise Refusal(400, f"{name} must be a number from 0 to {most}")
    return int(text)


class Tables:
    """Tables of a hub, as JSON.

    :param server: the hub
    :param rates: of it
    """

    def __init__(self, server: Server, rates: Rates) -> None:
        self._server = server
        self._rates = rates

    def describe_hub(self) -> dict[str, Any]:
        """Sum up the hub."""
        server, census = self._server, self._server.census
        stats = server.broker.stats()
        connections = census.connections()
        names = ("published", "delivered", "missed", "bytes_received", "bytes_sent")
        return {
            "version": __version__,
            "uptime": round(census.uptime, 3),
            "state": server.state,
            "sessions": stats.sessions,
            "channels": stats.channels,
            "published": stats.published,
            "delivered": stats.delivered,
            "missed": stats.missed,
            "queued": stats.queued,
            "bytes_received": connections.bytes_received,
            "bytes_sent": connections.bytes_sent,
            "rates": _named(names, self._rates.of_hub()),
        }

    async def sessions(self, query: dict[str, str]) -> bytes:
        """Make the table of sessions."""
        page = Page(query, _SESSION_SORTS)
        entries = [entry for entry in self._server.census.entries() if entry.is_open]
        picked = await page.pick(entries, self._session_key(page.sort))
        return await self._encode(page, "sessions", len(entries), picked, self._describe_session)

    def _session_key(self, sort: str) -> Callable[[Entry], tuple[Any, ...]]:
        rates = self._rates.of_session
        keys: dict[str, Callable[[Entry], float]] = {
            "rate": lambda entry: -(rates(entry)[1] + rates(entry)[2]),
            "queued": lambda entry: -entry.protocol.backlog,
            "missed": lambda entry: -entry.protocol.missed,
            "channels": lambda entry: -entry.protocol.channels,
            # The oldest first, as the most of everything else is.
            "age": lambda entry: entry.opened_at or 0.0,
        }
        if sort == "name":
            return lambda entry: (entry.client, int(entry.number))
        key = keys[sort]
        return lambda entry: (key(entry), int(entry.number))

    def _describe_session(self, entry: Entry) -> dict[str, Any]:
        protocol = entry.protocol
        names = ("published", "bytes_received", "bytes_sent")
        round_trip = entry.transport.round_trip()
        return {
            "session": entry.number,
            "name": entry.client,
            "identity": entry.identity,
            "address": entry.address,
            "wire": entry.wire,
            "tls": entry.tls,
            "state": "open" if protocol.state is State.OPEN else "draining",
            "age": round(time.monotonic() - (entry.opened_at or 0.0), 3),
            "channels": protocol.channels,
            "published": protocol.published,
            "bytes_received": protocol.bytes_received,
            "bytes_sent": protocol.bytes_sent,
            "rates": _named(names, self._rates.of_session(entry)),
            "queued": protocol.backlog,
            "missed": protocol.missed,
            "round_trip": round_trip,
        }

    async def channels(self, query: dict[str, str]) -> bytes:
        """Make the table of channels."""
        page = Page(query, _CHANNEL_SORTS)
        found, rate = await self._rates.of_channels()
        picked = await page.pick(found, _channel_key(page.sort, rate))

        def describe(channel: Channel) -> dict[str, Any]:
            return {
                "name": channel.name.decode(),
                "subscribers": len(channel.subscribers),
                "messages": channel.count,
                "rates": {"messages": round(rate(channel), 3)},
            }

        return await self._encode(page, "channels", len(found), picked, describe)

    async def _encode(
        self,
        page: Page,
        name: str,
        total: int,
        rows: Sequence[_Row],
        describe: Callable[[_Row], dict[str, Any]],
    ) -> bytes:
        head = {
            "hub": self.describe_hub(),
            "total": total,
            "offset": page.offset,
            "limit": page.limit,
            "sort": page.sort,
        }
        parts: list[str] = []
        for start in range(0, len(rows), _ENCODED):
            described = [describe(row) for row in rows[start : start + _ENCODED]]
            parts.append(json.dumps(described)[1:-1])
            await checkpoint()
        text = f'{json.dumps(head)[:-1]}, "{name}": [{", ".join(parts)}]}}\n'
        return text.encode()


def _named(names: Sequence[str], rates: Sequence[float]) -> dict[str, float]:
    return {name: round(rate, 3) for name, rate in zip(names, rates, strict=True)}


def _channel_key(
    sort: str, rate: Callable[[Channel], float]
) -> Callable[[Channel], tuple[Any, ...]]:
    match sort:
        case "rate":
            return lambda channel: (-rate(channel), channel.name)
        case "subscribers":
            return lambda channel: (-len(channel.subscribers), channel.name)
        case "messages":
            return lambda channel: (-channel.count, channel.name)
        case _:
            return lambda channel: (channel.name,)
