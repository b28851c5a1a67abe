"""What changes over time: rates, and how late the event loop is."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import checkpoint
from prometheus_client.core import HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._server.census import Entry
    from .._server.server import Server
    from ..protocol._broker.channel import Channel

#: Other tasks run after as many sessions or channels.
SLICE: Final = 512

#: Seconds between two samples, and the least between two of which rates are told.
_PERIOD: Final = 1.0
_SHORTEST: Final = 0.5

#: Channels are sampled while somebody looks at them: the sample of a million takes some 100 MB.
_FORGOTTEN_AFTER: Final = 10.0

#: Seconds between two looks at the event loop.
_LOOK_EVERY: Final = 0.1
_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopDelay:
    """How late the event loop does what is due."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            due = anyio.current_time() + _LOOK_EVERY
            await anyio.sleep_until(due)
            self.observe(max(0.0, anyio.current_time() - due))

    def observe(self, delay: float) -> None:
        self._counts[bisect_left(_BOUNDS, delay)] += 1
        self._sum += delay

    def metric(self) -> HistogramMetricFamily:
        """Return the histogram, for Prometheus."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*_BOUNDS, "+Inf"), self._counts.copy(), strict=True):
            total += count
            buckets.append((str(bound), total))
        return HistogramMetricFamily(
            "hyps_loop_delay_seconds",
            "How late the event loop is, looked at ten times a second.",
            buckets=buckets,
            sum_value=self._sum,
        )


class Meter:
    """Rates of some counters.

    :param counts: at the beginning
    :param at: when that was
    """

    __slots__ = ("_at", "_counts", "rates")

    def __init__(self, counts: Sequence[int], at: float) -> None:
        self._counts = counts
        self._at = at
        #: Each counter's, in the second.
        self.rates: Sequence[float] = (0.0,) * len(counts)

    def note(self, counts: Sequence[int], now: float) -> None:
        """Note the counters of now."""
        seconds = now - self._at
        if seconds >= _SHORTEST:
            # A tuple of numbers costs the garbage collector nothing.
            self.rates = tuple(
                [
                    (count - before) / seconds
                    for count, before in zip(counts, self._counts, strict=True)
                ]
            )
            self._counts = counts
            self._at = now


_NO_RATES: Final = (0.0, 0.0, 0.0)


class Rates:
    """Rates of a hub, its sessions and its channels.

    :param server: the hub
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._hub = Meter((0,) * 5, 0.0)
        self._sessions: dict[Entry, Meter] = {}
        # The counts of all channels at two moments at most, the later one last.
        self._samples: list[tuple[float, dict[Channel, int]]] = []
        self._lock = anyio.Lock()

    async def watch(self) -> None:
        """Sample again and again, until cancelled."""
        broker, found = self._server.broker, self._server.census.connections()
        counts = (broker.published, broker.delivered, broker.missed)
        bytes_ = (found.bytes_received, found.bytes_sent)
        self._hub = Meter((*counts, *bytes_), anyio.current_time())
        while True:
            await anyio.sleep(_PERIOD)
            await self._sample()

    async def _sample(self) -> None:
        now = anyio.current_time()
        if self._samples and now - self._samples[-1][0] > _FORGOTTEN_AFTER:
            self._samples = []
        meters: dict[Entry, Meter] = {}
        broker, census = self._server.broker, self._server.census
        # A connection that ends from now on is among the entries.
        received, sent = census.ended
        for number, entry in enumerate(census.entries(), 1):
            protocol = entry.protocol
            counts = (protocol.published, protocol.bytes_received, protocol.bytes_sent)
            received += counts[1]
            sent += counts[2]
            meter = self._sessions.get(entry)
            if meter is None:
                meter = Meter(counts, now)
            else:
                meter.note(counts, now)
            meters[entry] = meter
            if not number % SLICE:
                await checkpoint()
                now = anyio.current_time()
        self._sessions = meters
        self._hub.note((broker.published, broker.delivered, broker.missed, received, sent), now)

    def of_hub(self) -> Sequence[float]:
        """Published, delivered and missed messages, bytes received and sent."""
        return self._hub.rates

    def of_session(self, entry: Entry) -> Sequence[float]:
        """Published messages, bytes received and sent."""
        meter = self._sessions.get(entry)
        return _NO_RATES if meter is None else meter.rates

    async def of_channels(self) -> tuple[list[Channel], Callable[[Channel], float]]:
        """Find all channels that sessions hold.

        :return: the channels, and what tells the messages of each in a second
        """
        # One at a time: the lists are long.
        async with self._lock:
            now, counts = await self._count_channels()
            if not self._samples or now - self._samples[-1][0] > _FORGOTTEN_AFTER:
                # Nobody has looked for a while. A rate takes two looks.
                self._samples = [(now, counts)]
                await anyio.sleep(_PERIOD)
                now, counts = await self._count_channels()
            at, before = next(
                (each for each in reversed(self._samples) if now - each[0] >= _SHORTEST),
                self._samples[0],
            )
            seconds = max(now - at, _SHORTEST)
            found: list[Channel] = []
            for number, channel in enumerate(counts, 1):
                if channel.subscribers:
                    found.append(channel)
                if not number % SLICE:
                    await checkpoint()
            if now - self._samples[-1][0] >= _PERIOD:
                self._samples = [self._samples[-1], (now, counts)]

        def rate(channel: Channel) -> float:
            return (counts[channel] - before.get(channel, 0)) / seconds

        return found, rate

    async def _count_channels(self) -> tuple[float, dict[Channel, int]]:
        now = anyio.current_time()
        counts: dict[Channel, int] = {}
        channels = self._server.broker.all_channels()
        for start in range(0, len(channels), SLICE):
            counts.update({each: each.count for each in channels[start : start + SLICE]})
            await checkpoint()
        return now, counts
