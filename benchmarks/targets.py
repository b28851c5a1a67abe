"""What Hyps is to reach, beside what it reached in this run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .report import middle
from .runs import Entry
from .systems import CALLED, OURS
from .workloads.base import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .runs import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of what is to be reached.

    :param workload: its name in the table
    :param metric: what is compared
    :param bound: the most where less is better, and else the least
    :param loop: of the client of Hyps
    :param peer_loop: of the peers' clients; None if the bound is of the value itself
    :param peer: the peer that it is compared with; None for the best one
    :param peer_workload: what the peers do, if it is another one
    :param is_iterated: the workload is to read in ``async for``, so who reads by callbacks is no
        peer in it. What Hyps reaches beside those stands in a column of its own.
    """

    workload: str
    metric: str
    bound: float
    loop: str = "uvloop"
    peer_loop: str | None = "uvloop"
    peer: str | None = None
    peer_workload: str | None = None
    is_iterated: bool = False

    @property
    def more_is_better(self) -> bool:
        return METRICS[self.metric].more_is_better

    def cells(self, results: Mapping[str, Result]) -> tuple[str, ...] | None:
        """Give a row of the table; None if it was not measured."""
        mine = self._median(results, self.workload, Entry(OURS, self.loop))
        if mine is None:
            return None
        name = f"{self.workload}, {METRICS[self.metric].label}"
        reached, against, unit = mine, "", f" {METRICS[self.metric].unit}"
        beside_callbacks = ""
        if self.peer_loop is not None:
            peers = self._find_peers(results)
            allowed = {
                entry: value
                for entry, value in peers.items()
                if not (self.is_iterated and entry.system in CALLED)
            }
            if not allowed:
                return None
            best = max if self.more_is_better else min
            peer = best(allowed, key=lambda entry: allowed[entry])
            reached, unit = mine / allowed[peer], "x"
            against = f"{allowed[peer]:,.0f} {METRICS[self.metric].unit}, {peer}"
            if len(allowed) < len(peers):
                beside_callbacks = f"{_number(mine / best(peers.values()))}x"
        is_met = reached >= self.bound if self.more_is_better else reached <= self.bound
        limit = "at least" if self.more_is_better else "at most"
        return (
            name,
            self.loop,
            f"{limit} {_number(self.bound)}{unit}",
            f"{_number(reached)}{unit}",
            "yes" if is_met else "NO",
            against,
            beside_callbacks,
        )

    def _median(self, results: Mapping[str, Result], workload: str, entry: Entry) -> float | None:
        values = results[workload].values(entry, self.metric) if workload in results else []
        return middle(values) if values else None

    def _find_peers(self, results: Mapping[str, Result]) -> dict[Entry, float]:
        workload = self.peer_workload or self.workload
        if workload not in results:
            return {}
        return {
            entry: value
            for entry in results[workload].outcomes
            if entry.loop == self.peer_loop
            and entry.system != OURS
            and self.peer in (None, entry.system)
            and (value := self._median(results, workload, entry))
        }


def _number(value: float) -> str:
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


_SIZES: Final = ("16 B varied", "1 KiB varied")


def _both(name: str, small: float, large: float, *, is_iterated: bool = True) -> Iterator[Target]:
    for size, bound in zip(_SIZES, (small, large), strict=True):
        yield Target(workload=f"{name} {size}", metric="rate", bound=bound, is_iterated=is_iterated)


def _make() -> Iterator[Target]:
    for size in _SIZES:
        name = f"pingpong {size}"
        yield Target(workload=name, metric="p50_us", bound=0.85)
        for loop in ("asyncio", "trio"):
            yield Target(workload=name, metric="p50_us", bound=1.05, loop=loop, peer_loop="asyncio")
    yield from _both("stream", 12, 6)
    for name, least in (("stream 16 B equal", 20), ("stream 1 KiB equal", 9)):
        yield Target(workload=name, metric="rate", bound=least, is_iterated=True)
    yield from _both("each", 6, 6)
    yield from _both("mixed", 9, 5)
    yield from _both("waiters", 4.5, 4.5, is_iterated=False)
    yield Target(
        workload=f"waiters {_SIZES[0]}",
        metric="rate",
        bound=2,
        loop="trio",
        peer_loop="asyncio",
    )
    yield from _both("fanout", 35, 35)
    yield Target(
        workload=f"fanout {_SIZES[0]}",
        metric="rate",
        bound=25,
        loop="trio",
        peer_loop="asyncio",
        is_iterated=True,
    )
    # 10 million deliveries a second where redis-py does 113,000.
    for size in _SIZES:
        yield Target(
            workload=f"fanout, receive_many {size}",
            metric="rate",
            bound=88.5,
            peer="redis-py",
            peer_workload=f"fanout {size}",
        )
    for window, bound in ((1, 1.2), (50, 0.7)):
        for size in _SIZES:
            yield Target(
                workload=f"connections, windows of {window} {size}",
                metric="server_ns",
                bound=bound,
                peer="redis-py",
            )
    for workload, metric, bound in (
        ("subscribe 100,000 channels", "rate", 400_000.0),
        ("subscribe 100,000 channels", "client_bytes", 200),
        ("subscribe 100,000 channels", "server_bytes", 200),
        ("100,000 subscriptions", "client_bytes", 500),
        ("1,000 idle connections", "server_bytes", 12_000),
        ("1,000 idle connections", "idle_percent", 1),
        ("growth", "growth", 1.5),
    ):
        yield Target(workload=workload, metric=metric, bound=bound, peer_loop=None)


TARGETS: Final[Sequence[Target]] = tuple(_make())


def rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """Lay out every target that was measured."""
    by_name = {str(result.workload): result for result in results}
    cells = [target.cells(by_name) for target in TARGETS]
    return [each for each in cells if each is not None]
