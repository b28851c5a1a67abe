"""What went through a hub, counted beside it, to compare with the figures that it gives itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from prometheus_client.parser import text_string_to_metric_families
from support.http import ask

import hyps
from hyps.protocol import Broker, ServerProtocol, records
from hyps.protocol._session.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyps.protocol._broker.channel import Channel
    from hyps.protocol._records.scanning import Runs

    from .account import Book
    from .report import Report


class Ledger:
    """Counts the messages of one run of a hub where they come in, are queued and are dropped."""

    def __init__(self) -> None:
        #: Messages that were taken, by channel.
        self.taken: Counter[str] = Counter()
        self.delivered = 0
        self.missed = 0
        self.shed = 0
        #: Messages that were sent over HTTP, and those that were answered.
        self.posted = 0
        self.answered = 0

    def make_server(self, **options: Any) -> hyps.Server:
        """Make the hub."""
        ledger = self

        class CountedBroker(Broker):
            def publish(
                self, data: bytes, position: int, codes: list[bytes], runs: Runs | None = None
            ) -> int:
                before = len(codes)
                stop = super().publish(data, position, codes, runs)
                found = b"".join(codes[before:])
                answered = zip(records(data[position:stop]), found, strict=True)
                ledger.taken.update(channel for (channel, _), code in answered if code == ord("k"))
                return stop

        class CountedOutbox(Outbox):
            __slots__ = ()

            def deliver(
                self, channels: dict[Channel, int], records: bytes, count: int
            ) -> int | None:
                told = super().deliver(channels, records, count)
                if told is not None:
                    ledger.delivered += count
                elif not self.is_closed:
                    ledger.missed += count
                return told

            def note_shed(self, channels: dict[Channel, int], count: int) -> None:
                ledger.shed += count
                super().note_shed(channels, count)

        class CountedProtocol(ServerProtocol):
            _outbox_type: ClassVar[type[Outbox]] = CountedOutbox

        class CountedServer(hyps.Server):
            _broker_type: ClassVar[type[Broker]] = CountedBroker
            _protocol_type: ClassVar[type[ServerProtocol]] = CountedProtocol

        return CountedServer(**options)

    async def check(self, url: str, books: Iterable[Book], report: Report) -> None:
        """Compare with what Prometheus would read, to the message, after the hub has closed."""
        response = await ask(url, "GET", "/metrics")
        figures = {
            (sample.name, sample.labels.get("reason") or sample.labels.get("state") or ""): (
                sample.value
            )
            for family in text_string_to_metric_families(response.body.decode())
            for sample in family.samples
        }
        for name, label, expected in (
            ("hyps_messages_published_total", "", self.taken.total()),
            ("hyps_messages_delivered_total", "", self.delivered),
            ("hyps_messages_missed_total", "max_buffer", self.missed),
            ("hyps_messages_missed_total", "max_total_buffer", self.shed),
            ("hyps_sessions", "", 0),
            ("hyps_connections", "open", 0),
            ("hyps_queued_bytes", "", 0),
        ):
            told = figures[name, label]
            report.check(told == expected, f"{name} {label} is {told:.0f} and not {expected}")
            report.counts["figures of the hub that were compared"] += 1
        report.counts["shed at the hub"] += self.shed
        # What publishers know: no less was taken than they have ACKs for, and no more than they
        # have sent.
        known = [(book.channel, book.acked[1], book.issued[1]) for book in books]
        for channel, acked, issued in (*known, ("posted", self.answered, self.posted)):
            taken = self.taken[channel]
            report.check(
                acked <= taken <= issued,
                f"the hub took {taken} of {channel}: {acked} have ACKs, {issued} were sent",
            )
