"""A client's operations without an answer. Answers arrive in the order of the operations."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from ..errors import RemoteProtocolError
from ..events import Acked, Lost, Refusal, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._wire.frames import Kind

_DONE: Final = ord("k")


class Operation:
    """An operation that has no answer yet, or none for some of its records.

    Or a series of operations with one record each: publishing message by message then needs no
    object for each message.

    :param number: its id, or the first one of several
    :param answer: the kind of the answer
    :param records: how many it has
    :param channels: those of the records, if refusals are to tell them
    :param is_series: each record is an operation by itself
    """

    __slots__ = ("answer", "channels", "is_series", "number", "records", "refusals", "unanswered")

    def __init__(
        self,
        number: int,
        answer: Kind,
        records: int,
        channels: list[str] | None = None,
        *,
        is_series: bool = False,
    ) -> None:
        self.number = number
        self.answer = answer
        self.records = records
        self.unanswered = records
        self.channels = channels
        self.is_series = is_series
        self.refusals: list[Refusal] = []

    @property
    def next(self) -> int:
        """The id of the first operation without an answer."""
        return self.number + self.records - self.unanswered if self.is_series else self.number

    def refuse(self, codes: bytes, held: int | None) -> None:
        """Note which of the next records were refused.

        :param held: see :class:`Refusal`
        """
        start = self.records - self.unanswered
        for index, code in enumerate(codes, start):
            if code != _DONE:
                channel = None if self.channels is None else self.channels[index]
                self.refusals.append(
                    Refusal(index, bytes([code]), channel, held if channel is not None else None)
                )


class Operations:
    """The operations that wait for answers."""

    __slots__ = ("_last_id", "_queue", "_series")

    def __init__(self) -> None:
        self._queue: deque[Operation] = deque()
        self._last_id = 0
        # The last operation in the queue, while it is a series that can grow.
        self._series: Operation | None = None

    def __len__(self) -> int:
        return sum([each.unanswered if each.is_series else 1 for each in self._queue])

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def first(self) -> Operation | None:
        """The operation that is answered next."""
        return self._queue[0] if self._queue else None

    def begin(self, answer: Kind, records: int, channels: list[str] | None = None) -> int:
        """Add an operation.

        :return: its id
        """
        self._series = None
        self._last_id += 1
        self._queue.append(Operation(self._last_id, answer, records, channels))
        return self._last_id

    def begin_single(self, answer: Kind) -> int:
        """Add an operation with one record. All of these have the same kind of answer.

        :return: its id
        """
        self._last_id = number = self._last_id + 1
        series = self._series
        # A series whose records all have answers has left the queue.
        if series is not None and series.unanswered:
            series.records += 1
            series.unanswered += 1
        else:
            self._series = series = Operation(number, answer, 1, is_series=True)
            self._queue.append(series)
        return number

    def answer(
        self,
        kind: Kind,
        codes: bytes,
        tell: Callable[[Acked | Rejected], None],
        held: int | None = None,
    ) -> None:
        """Distribute codes among the operations, for no more records than there are.

        :param tell: takes the events of what was answered
        :param held: see :class:`Refusal`
        :raises RemoteProtocolError: if another kind of answer was due
        """
        all_done = codes.count(_DONE) == len(codes)
        queue = self._queue
        acked = queue[0].next  # the first operation that no event tells of yet
        position = 0
        while position < len(codes):
            # Per operation, or series of them.
            operation = queue[0]
            if operation.answer is not kind:
                _tell_acked(acked, operation.next, tell)
                raise RemoteProtocolError(f"{kind.name}: {operation.answer.name} was due")
            count = min(operation.unanswered, len(codes) - position)
            if not all_done:
                operation.refuse(codes[position : position + count], held)
            operation.unanswered -= count
            position += count
            if operation.refusals and operation.is_series:
                for refusal in operation.refusals:
                    number = operation.number + refusal.index
                    _tell_acked(acked, number, tell)
                    tell(Rejected(number, (Refusal(0, refusal.code),)))
                    acked = number + 1
                operation.refusals.clear()
            if operation.unanswered == 0:
                queue.popleft()
                if operation.refusals:
                    _tell_acked(acked, operation.number, tell)
                    tell(Rejected(operation.number, tuple(operation.refusals)))
                    acked = operation.number + 1
        _tell_acked(acked, queue[0].next if queue else self._last_id + 1, tell)

    def lose(self) -> Lost | None:
        """Give up all operations without an answer."""
        if not self._queue:
            return None
        lost = Lost(range(self._queue[0].next, self._last_id + 1))
        self._queue.clear()
        self._series = None
        return lost


def _tell_acked(start: int, stop: int, tell: Callable[[Acked], None]) -> None:
    if start < stop:
        tell(Acked(range(start, stop)))
