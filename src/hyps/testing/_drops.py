"""A hub that drops messages on demand, as a hub does when a session's queue is full."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .._server.server import Server
from ..protocol import Broker, ServerProtocol
from ..protocol._records.layout import end_of
from ..protocol._session.outbox import Outbox

if TYPE_CHECKING:
    from ..protocol._broker.channel import Channel
    from ..protocol._records.scanning import Runs


class _DroppingOutbox(Outbox):
    """An outbox that has no room for some of the next messages."""

    __slots__ = ("_to_drop",)

    _to_drop: int

    def drop_next(self, messages: int) -> None:
        self._to_drop = getattr(self, "_to_drop", 0) + messages

    def deliver(self, channels: dict[Channel, int], records: bytes, count: int) -> int | None:
        if not getattr(self, "_to_drop", 0):
            return super().deliver(channels, records, count)
        self._drop(channels, count)
        self._to_drop -= 1
        if not self._to_drop:
            self._is_dropping = False
            self._tell_gaps()
        return None


class _DroppingProtocol(ServerProtocol):
    _outbox_type: ClassVar[type[Outbox]] = _DroppingOutbox

    def drop_next(self, messages: int) -> None:
        assert isinstance(self._outbox, _DroppingOutbox)
        self._outbox.drop_next(messages)


class _SingleBroker(Broker):
    """A broker that hands out each record by itself, so that drops are counted in messages."""

    def publish(
        self, data: bytes, position: int, codes: list[bytes], runs: Runs | None = None
    ) -> int:
        stop = end_of(data, position)
        return position + super().publish(data[position:stop], 0, codes)


class DroppingServer(Server):
    """A hub whose sessions drop messages on demand."""

    _broker_type: ClassVar[type[Broker]] = _SingleBroker
    _protocol_type: ClassVar[type[ServerProtocol]] = _DroppingProtocol

    def drop_next(self, messages: int) -> None:
        """Drop messages on their way to each session.

        :param messages: how many of each session's next ones
        """
        for session in self.broker.sessions:
            assert isinstance(session, _DroppingProtocol)
            session.drop_next(messages)
