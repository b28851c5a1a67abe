"""The broker of a hub in a fleet: what it hands out has come back from the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._broker.broker import Broker
from .._broker.channel import Channel
from .._records.layout import decode_channel, end_of, pack
from .._records.scanning import find_runs
from ..limits import PASS_WORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import MalformedRecord
    from ..limits import Limits
    from .envelope import Envelope

#: A hub stays subscribed to a channel for this many seconds after its last holder has left.
LINGER: Final = 1.0


class Taken:
    """Records that were taken from a publisher, and are not with the engine yet.

    :param codes: a code for each record; ``?`` for those of runs
    :param runs: for each run the channel, the records, the index of its first code, and the number
        of its records
    :param stop: the offset behind the last record
    :param error: what is wrong behind it, if that is why they end
    """

    __slots__ = ("codes", "error", "runs", "stop")

    def __init__(self, stop: int) -> None:
        self.codes: bytearray = bytearray()
        self.runs: list[tuple[bytes, bytes, int, int]] = []
        self.stop: int = stop
        self.error: MalformedRecord | None = None


class FleetBroker(Broker):
    """A broker whose channels are the engine's.

    A channel is here while somebody at this hub holds it, and for :data:`LINGER` after that. Its
    count is what was handed out here; generation and count are those of the whole fleet.

    :param boot_id: see :class:`.Broker`
    :param limits: see :class:`.Broker`
    :param on_chore: see :class:`.Broker`
    """

    def __init__(
        self,
        boot_id: str,
        limits: Limits | None = None,
        on_chore: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(boot_id, limits, on_chore)
        #: Called with the name of each channel that is here no more.
        self.on_forgotten: Callable[[bytes], object] = lambda name: None

    def _keep_time(self) -> float:
        return LINGER

    def _remove(self, channel: Channel) -> None:
        super()._remove(channel)
        self.on_forgotten(channel.name)

    # Taking

    def take(self, data: bytes, position: int) -> Taken:
        """Check records, as many as a pass allows, and cut them to runs.

        :param data: concatenated records
        :param position: where the first one starts
        :raises MalformedRecord: if the first one is malformed
        """
        taken = Taken(position)
        names, stops, counts, error = find_runs(data, position, most=PASS_WORK)
        for name, stop, count in zip(names, stops, counts, strict=True):
            if name not in self._channels:
                decode_channel(name)
            if len(name) > self.limits.max_channel:
                taken.codes += b"n" * count
            elif stop - taken.stop <= self._max_message:
                taken.runs.append((name, data[taken.stop : stop], len(taken.codes), count))
                taken.codes += b"?" * count
            else:
                self._take_odd(taken, data, stop, name)
            taken.stop = stop
        taken.error = error
        return taken

    def _take_odd(self, taken: Taken, data: bytes, stop: int, name: bytes) -> None:
        """Take a run that may hold a message over the limit."""
        largest = len(pack(name, b"")) + self.limits.max_message
        start = position = taken.stop
        index = len(taken.codes)
        while position < stop:
            end = end_of(data, position)
            if end - position > largest:
                if position > start:
                    taken.runs.append((name, data[start:position], index, len(taken.codes) - index))
                taken.codes += b"s"
                start, index = end, len(taken.codes)
            else:
                taken.codes += b"?"
            position = end
        if stop > start:
            taken.runs.append((name, data[start:stop], index, len(taken.codes) - index))

    # Handing out

    def stand(self, name: bytes, generation: bytes, count: int) -> Channel:
        """Note where a channel stands in the engine; holders are told what they have missed."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, generation)
            channel.count = count
            self._retention.keep(channel, None)
        elif (channel.generation, channel.count) != (generation, count):
            self._jump(channel, generation, count)
        return channel

    def lose(self, name: bytes) -> None:
        """Note that nobody knows what was missed: the engine has lost the channel's key."""
        channel = self._channels.get(name)
        if channel is not None:
            # A generation that is nobody's, until the engine says where the channel stands.
            self._jump(channel, self._make_generation(), 0)

    def hand_out(self, name: bytes, envelope: Envelope) -> None:
        """Hand a run that came back from the engine to the holders of its channel."""
        channel = self._channels.get(name)
        if channel is None:
            return
        before = envelope.count - envelope.number
        if envelope.generation != channel.generation or before > channel.count:
            self._jump(channel, envelope.generation, before)
        elif before < channel.count:
            return  # it was handed out, or counted as missed, before
        channel.count = envelope.count
        self._hand_out(channel.subscribers, envelope.records, {channel: before}, envelope.number)

    def channel(self, name: bytes) -> Channel | None:
        """Return a channel that is here, whoever holds it."""
        return self._channels.get(name)

    def _jump(self, channel: Channel, generation: bytes, count: int) -> None:
        """Move a channel's position, and tell its holders of the gap."""
        channel.generation = generation
        channel.count = count
        self.work += len(channel.subscribers)
        for subscriber in channel.subscribers:
            subscriber.note_gap(channel)
