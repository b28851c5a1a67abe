"""What a client can tell of itself at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reconnector import Reconnector
    from .totals import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """What a client has and has counted. :meth:`Client.stats` makes it.

    Counts are of the client's whole life: the end of a subscription, of a connection, and
    :meth:`Client.shutdown` leave them as they are.

    :param connected: see :attr:`Client.connected`
    :param url: URL of the hub that it is connected to; None without a connection
    :param reconnects: how often it had a connection again after it had lost one
    :param round_trip: seconds from the last PING that the hub has answered to its answer: by
        :meth:`Client.ping`, or by the heartbeat of a quiet connection, which with uvloop tells
        whole milliseconds. None before the first one.
    :param subscriptions: subscriptions that are entered and have not ended
    :param channels: channels that they hold, each counted once
    :param buffered: messages that wait in their buffers to be read
    :param missed_hub: messages that subscriptions missed because this process read too slowly, so
        that the hub dropped them. One that two subscriptions missed counts twice here, as in their
        :attr:`Subscription.missed`; likewise for the others.
    :param missed_client: messages that found the buffer of a subscription full, or that were too
        large for the client's own limits
    :param missed_reconnect: messages that were published between two connections
    :param unknown_gaps: gaps in subscriptions whose size nobody knows
    :param published: messages that the hub has answered, whether it took them or refused them
    :param in_flight: records that were sent and have no answer yet
    :param queued: bytes that wait to be sent, as ``limits.max_backlog`` counts them
    """

    connected: bool
    url: str | None
    reconnects: int
    round_trip: float | None
    subscriptions: int
    channels: int
    buffered: int
    missed_hub: int
    missed_client: int
    missed_reconnect: int
    unknown_gaps: int
    published: int
    in_flight: int
    queued: int

    @property
    def missed(self) -> int:
        """All messages that were missed, as far as anybody could count them."""
        return self.missed_hub + self.missed_client + self.missed_reconnect


def take_stats(totals: Totals, reconnector: Reconnector | None) -> ClientStats:
    """Look at a client. Any thread may do this.

    :param totals: the client's
    :param reconnector: None if it was never connected
    """
    routes = None if reconnector is None else reconnector.routes
    connection = None if reconnector is None else reconnector.connection
    protocol = None if connection is None else connection.protocol
    is_open = reconnector is not None and reconnector.is_open
    return ClientStats(
        connected=is_open,
        url=reconnector.url if is_open and reconnector is not None else None,
        reconnects=totals.reconnects,
        round_trip=totals.round_trip,
        subscriptions=0 if routes is None else routes.subscriptions,
        channels=0 if routes is None else len(routes),
        buffered=0 if routes is None else routes.buffered,
        missed_hub=totals.missed["hub"],
        missed_client=totals.missed["client"],
        missed_reconnect=totals.missed["reconnect"],
        unknown_gaps=totals.unknown_gaps,
        published=totals.published,
        in_flight=0 if protocol is None else protocol.in_flight,
        queued=0 if protocol is None else protocol.backlog,
    )
