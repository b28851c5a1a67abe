"""What a client counts as long as it lives, over all its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from ..protocol import GapReason

if TYPE_CHECKING:
    from ..protocol import ClientProtocol


class Totals:
    """Sums that never fall, because no end of a connection or a subscription takes from them."""

    __slots__ = ("_protocol", "_published", "missed", "reconnects", "round_trip", "unknown_gaps")

    def __init__(self) -> None:
        #: Messages that subscriptions missed, each counted once for each of them.
        self.missed: dict[GapReason, int] = dict.fromkeys(get_args(GapReason), 0)
        #: Gaps of a size that nobody knows.
        self.unknown_gaps: int = 0
        #: How often the client had a connection again.
        self.reconnects: int = 0
        #: Seconds from the last PING that was answered to its PONG.
        self.round_trip: float | None = None
        # What counts on this connection, and the sum of the earlier ones.
        self._protocol: ClientProtocol | None = None
        self._published = 0

    def miss(self, missed: int | None, reason: GapReason) -> None:
        """Note messages that a subscription missed; None is an unknown number."""
        if missed is None:
            self.unknown_gaps += 1
        else:
            self.missed[reason] += missed

    # The protocol object counts anyway, so that publishing costs nothing more here.

    def begin(self, protocol: ClientProtocol) -> None:
        """Count what is published on this connection too."""
        self.end(self._protocol)
        self._protocol = protocol

    def end(self, protocol: ClientProtocol | None) -> None:
        """Keep what a connection has counted, and let go of it."""
        if protocol is not None and self._protocol is protocol:
            self._published, self._protocol = self._published + protocol.published, None

    @property
    def published(self) -> int:
        """Messages that the hub has answered."""
        protocol = self._protocol
        return self._published + (0 if protocol is None else protocol.published)
