"""What Prometheus reads of a hub."""

from __future__ import annotations

import platform
from dataclasses import fields
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector as _Collector

from .._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

    from .._server.server import Server

_T = TypeVar("_T")

#: How often to read again what another thread is changing.
_ATTEMPTS: Final = 1_000


class Collector(_Collector):
    """Figures of a hub, for a registry of ``prometheus_client``: ``REGISTRY.register(...)``.

    Any thread may collect. Each figure is read when it is asked for; nothing is done meanwhile. No
    label ever holds a channel or a session, so that the number of series stays the same.

    :param server: the hub
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> Iterator[Metric]:
        """Tell the names of the figures, which needs no figures."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Read all figures."""
        server = self._server
        census = server.census
        stats = _read(server.broker.stats)
        connections = _read(census.connections)

        yield InfoMetricFamily(
            "hyps_build",
            "Versions, and the event loop.",
            {
                "version": __version__,
                "python": platform.python_version(),
                "backend": census.loop,
            },
        )
        # Alerts compare with it, so that they need no change when a limit has one.
        limits = server.broker.limits
        family: GaugeMetricFamily | CounterMetricFamily
        family = GaugeMetricFamily(
            "hyps_limit", "What the hub is bounded by: the fields of hyps.Limits.", labels=("name",)
        )
        for each in fields(limits):
            family.add_metric((each.name,), getattr(limits, each.name))
        yield family
        yield GaugeMetricFamily("hyps_sessions", "Sessions that are open.", stats.sessions)
        yield CounterMetricFamily(
            "hyps_sessions_opened", "Sessions that were opened.", census.opened
        )
        family = GaugeMetricFamily(
            "hyps_connections",
            "Connections: without a session yet, with one, and about to end.",
            labels=("state",),
        )
        for state in ("opening", "open", "draining"):
            family.add_metric((state,), getattr(connections, state))
        yield family
        yield CounterMetricFamily(
            "hyps_connections_accepted", "Connections that were accepted.", census.accepted
        )
        family = CounterMetricFamily(
            "hyps_logins_refused",
            "Connections and requests that were refused before they had a session.",
            labels=("reason",),
        )
        for reason, count in sorted(census.refused.copy().items()):
            family.add_metric((reason,), count)
        yield family
        yield GaugeMetricFamily(
            "hyps_channels", "Channels that at least one session holds.", stats.channels
        )
        yield GaugeMetricFamily(
            "hyps_channels_kept",
            "Channels that no session holds, and that the hub still counts.",
            stats.kept,
        )
        yield CounterMetricFamily(
            "hyps_messages_published", "Messages taken from publishers.", stats.published
        )
        yield CounterMetricFamily(
            "hyps_messages_delivered",
            "Messages queued for subscribers, once for each of them.",
            stats.delivered,
        )
        family = CounterMetricFamily(
            "hyps_messages_missed",
            "Messages that subscribers missed, once for each of them.",
            labels=("reason",),
        )
        family.add_metric(("max_buffer",), stats.missed_max_buffer)
        family.add_metric(("max_total_buffer",), stats.missed_max_total_buffer)
        yield family
        yield GaugeMetricFamily(
            "hyps_queued_bytes", "Bytes queued for all sessions together.", stats.queued
        )
        yield CounterMetricFamily(
            "hyps_bytes_received", "Bytes from clients, without TLS.", connections.bytes_received
        )
        yield CounterMetricFamily(
            "hyps_bytes_sent", "Bytes to clients, without TLS.", connections.bytes_sent
        )


def _read(figures: Callable[[], _T]) -> _T:
    """Read figures, again if the thread of the hub changes a set meanwhile."""
    for _ in range(_ATTEMPTS):
        try:
            return figures()
        except RuntimeError:
            # "set changed size during iteration"
            continue
    return figures()
