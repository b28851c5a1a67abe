"""What a broker counts, at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """All counters of a broker, as they stood when :meth:`Broker.stats` was called.

    The counts of messages only grow. Each of ``delivered``, ``missed_max_buffer`` and
    ``missed_max_total_buffer`` counts a message once for every subscriber. A message that was
    queued, and dropped again because of ``max_total_buffer``, is in the first and in the last: what
    was published for subscribers is ``delivered + missed_max_buffer``.

    :param sessions: sessions that are open
    :param channels: channels that at least one session holds
    :param kept: channels that no session holds and that the hub still counts
    :param published: messages taken from publishers
    :param delivered: messages queued for subscribers, whatever became of them in the queue
    :param missed_max_buffer: messages dropped because a session had ``Limits.max_buffer`` queued
    :param missed_max_total_buffer: queued messages dropped because all sessions together had
        ``Limits.max_total_buffer`` queued
    :param queued: bytes queued for all sessions. What several sessions wait for counts for each,
        and each chunk counts 64 bytes more.
    """

    sessions: int
    channels: int
    kept: int
    published: int
    delivered: int
    missed_max_buffer: int
    missed_max_total_buffer: int
    queued: int

    @property
    def missed(self) -> int:
        """Messages dropped, for any reason."""
        return self.missed_max_buffer + self.missed_max_total_buffer
