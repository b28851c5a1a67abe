"""A session of a hub in a fleet: its answers wait for the engine, and leave in order.

Each request is a :class:`_Due` in one queue. SUBSCRIBE and UNSUBSCRIBE take effect when they come
to its front, so that everything before them has its answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from .._callbacks import nothing
from .._records.layout import contents, decode_channel, pack
from .._records.position import is_position, parse_position
from .._records.scanning import find_runs
from .._session.server import ServerProtocol
from .._wire.frames import Kind
from ..errors import ErrorCode, RemoteProtocolError
from ..events import Taken as TakenEvent
from ..limits import MIB, PASS_WORK
from .fleet import NOT_TAKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .broker import FleetBroker
    from .fleet import Fleet

#: Bytes of a session that may be on their way to the engine before the hub reads no more of it.
_MAX_PENDING: Final = 4 * MIB


class _Due(ABC):
    """A request whose answer has not left."""

    __slots__ = ()

    #: How many records it has.
    records: int

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it can be answered, once it is at the front."""

    @abstractmethod
    def settle(self) -> bool:
        """Answer it.

        :return: False if it turns out that it has to wait again
        """


class _DuePublish(_Due):
    """Codes of published records, of which some are still unknown."""

    __slots__ = ("_put", "_waiting", "codes", "records")

    def __init__(self, codes: bytearray, put: Callable[[Kind, bytes, int], object]) -> None:
        self.codes = codes
        self.records = len(codes)
        self._put = put
        self._waiting = 0

    def expect(self) -> None:
        """Wait for one more run."""
        self._waiting += 1

    def take(self, index: int, count: int, code: bytes) -> None:
        """Take the code of a run."""
        self._waiting -= 1
        self.codes[index : index + count] = code * count

    @property
    def is_ready(self) -> bool:
        return not self._waiting

    def settle(self) -> bool:
        self._put(Kind.PUBLISH_ACK, bytes(self.codes), self.records)
        return True


class _DueSubscribe(_Due):
    """Names to subscribe, of which the broker may not have all channels yet."""

    __slots__ = ("_awaited", "_session", "failed", "records", "requests")

    def __init__(self, session: FleetProtocol, requests: list[tuple[bytes, list[bytes]]]) -> None:
        self._session = session
        #: Names, and the contents of the records with each.
        self.requests = requests
        self.records = sum(len(messages) for _, messages in requests)
        self.failed: set[bytes] = set()
        self._awaited = 0

    def await_channels(self) -> None:
        """Ask for the channels that the session may have and the broker has not."""
        for name, messages in self.requests:
            if name in self.failed:
                continue
            anew = any(self._session.is_ahead(name, each) for each in messages)
            if anew or not self._session.fleet.is_here(name):
                self._awaited += 1
                self._session.fleet.join(name, partial(self._on_joined, name), anew=anew)

    def _on_joined(self, name: bytes, is_here: bool) -> None:
        self._awaited -= 1
        if not is_here:
            self.failed.add(name)
        self._session.settle_soon()

    @property
    def is_ready(self) -> bool:
        return not self._awaited

    def settle(self) -> bool:
        missing = [
            name
            for name, _ in self.requests
            if name not in self.failed and not self._session.fleet.is_here(name)
        ]
        if missing:
            # The hub has left some of them again while this one waited.
            self.await_channels()
            if self._awaited:
                return False
        self._session.subscribe_now(self.requests, self.failed)
        return True


class _DueUnsubscribe(_Due):
    """Names to unsubscribe."""

    __slots__ = ("_session", "records", "requests")

    def __init__(self, session: FleetProtocol, requests: list[tuple[bytes, list[bytes]]]) -> None:
        self._session = session
        self.requests = requests
        self.records = sum(len(messages) for _, messages in requests)

    @property
    def is_ready(self) -> bool:
        return True

    def settle(self) -> bool:
        self._session.unsubscribe_now(self.requests)
        return True


class FleetProtocol(ServerProtocol):
    """One session of a hub in a fleet, see :class:`.ServerProtocol`.

    :param fleet: takes what is published, and gets channels
    :param on_resume: called when :attr:`may_read` is true again, or the session can end
    """

    _broker: FleetBroker

    def __init__(
        self,
        broker: FleetBroker,
        fleet: Fleet,
        *,
        session: str,
        server: str = "hyps",
        on_output: Callable[[], object] = nothing,
        on_resume: Callable[[], object] = nothing,
        features: Iterable[str] = (),
    ) -> None:
        super().__init__(
            broker, session=session, server=server, on_output=on_output, features=features
        )
        self.fleet = fleet
        self._on_resume = on_resume
        self._due: deque[_Due] = deque()
        # Bytes and records that wait for the engine.
        self._pending = 0
        self._unanswered = 0
        self._is_settling = False
        # Whether the embedder was told to stop reading.
        self._is_paused = False

    @property
    def may_read(self) -> bool:
        """Whether to read more from the client: too much may be on its way to the engine."""
        self._is_paused = self._pending > _MAX_PENDING
        return not self._is_paused

    @property
    def _is_busy(self) -> bool:
        return bool(self._due)

    # Taking

    def _are_granted(self, names: list[bytes]) -> bool:
        # Channels are here when the engine has said so: there is no quick way.
        return False

    def _take_records(
        self,
        take: Callable[[bytes, int, list[bytes]], int],
        answer: Kind,
        body: bytes,
        position: int,
    ) -> None:
        work, self._frame_work = self._frame_work, 0
        before = self._unanswered
        error: RemoteProtocolError | None = None
        try:
            if answer is Kind.PUBLISH_ACK:
                stop, error = self._take_messages(body, position)
            else:
                stop, error = self._take_names(answer, body, position)
        finally:
            taken = self._unanswered - before
            self._work = None
            if taken:
                self._events.append(TakenEvent(taken, work + taken))
            self.settle_due()
        if error is not None:
            raise error
        self._work = None if stop == len(body) else (take, answer, body, stop)
        self._broker.do_chores()
        self._check_owed()

    def _check_owed(self) -> None:
        super()._check_owed()
        if self._unanswered > self.limits.max_in_flight + PASS_WORK:
            raise RemoteProtocolError(
                "too many records are on their way: see max_in_flight", ErrorCode.LIMIT
            )

    def _append(self, due: _Due) -> None:
        self._due.append(due)
        self._unanswered += due.records

    def _take_messages(self, body: bytes, position: int) -> tuple[int, RemoteProtocolError | None]:
        taken = self._broker.take(body, position)
        due = _DuePublish(taken.codes, self._outbox.put)
        self._append(due)
        # Until the last run is on its way: some may have their code at once.
        due.expect()
        is_late = self.state is not self.state.OPEN
        for name, records, index, count in taken.runs:
            may = self._may_publish(name)
            if is_late or not may:
                due.expect()
                due.take(index, count, NOT_TAKEN if is_late else b"d")
                continue
            due.expect()
            self._pending += len(records)
            done = partial(self._on_published, due, index, count, len(records))
            self.fleet.publish(name, records, count, done)
        due.take(0, 0, b"")
        self.published += len(taken.codes)
        return taken.stop, taken.error

    def _may_publish(self, name: bytes) -> bool:
        publishable = self._publishable
        return publishable is None or publishable.may(name)

    def _on_published(
        self, due: _DuePublish, index: int, count: int, size: int, code: bytes
    ) -> None:
        self._pending -= size
        due.take(index, count, code)
        if due.is_ready:
            self.settle_soon()
        if self._is_paused and self._pending <= _MAX_PENDING // 2:
            self._is_paused = False
            self._on_resume()

    def _take_names(
        self, answer: Kind, body: bytes, position: int
    ) -> tuple[int, RemoteProtocolError | None]:
        names, stops, counts, error = find_runs(body, position, most=PASS_WORK)
        requests: list[tuple[bytes, list[bytes]]] = []
        invalid: RemoteProtocolError | None = error
        for name, stop, count in zip(names, stops, counts, strict=True):
            try:
                self._check_name(name)
            except RemoteProtocolError as caught:
                invalid = caught
                break
            requests.append((name, contents(body, position, count, name)))
            position = stop
        if requests:
            if answer is Kind.SUBSCRIBE_ACK:
                due = _DueSubscribe(self, requests)
                # What the session may not have is no reason to ask the engine.
                due.failed = {
                    name for name, _ in requests if self._decide_on_names([name], 0) != b"k"
                }
                self._append(due)
                due.await_channels()
            else:
                self._append(_DueUnsubscribe(self, requests))
        return position, invalid

    def _check_name(self, name: bytes) -> None:
        decode_channel(name)
        if len(name) > self._max_name:
            text = "a name that is too long for an answer"
            raise RemoteProtocolError(text, ErrorCode.TOO_LARGE)

    # Answering

    def settle_soon(self) -> None:
        """Answer what can be answered, unless that is happening."""
        if not self._is_settling:
            self.settle_due()

    def settle_due(self) -> None:
        """Answer the requests at the front that are ready."""
        self._is_settling = True
        due = self._due
        try:
            while due and due[0].is_ready and due[0].settle():
                self._unanswered -= due.popleft().records
        finally:
            self._is_settling = False
        if not due and self._at_eof:
            self._on_resume()

    def is_ahead(self, name: bytes, content: bytes) -> bool:
        """Tell whether a client stands where this hub is not yet, in a channel that is here."""
        channel = self._broker.channel(name)
        if channel is None or not content or not is_position(content):
            return False
        generation, count = parse_position(content)
        return generation != channel.generation or count > channel.count

    def subscribe_now(self, requests: list[tuple[bytes, list[bytes]]], failed: set[bytes]) -> None:
        """Subscribe channels that the broker has, and answer."""
        for name, messages in requests:
            channel = self._broker.find(self._outbox, name)
            if channel is not None:
                self._outbox.tell_gap(channel)
            verdict = self._decide_on_names([name], 0 if channel is not None else 1)
            if verdict == b"k" and channel is None and name in failed:
                verdict = NOT_TAKEN
            for content in messages:
                code = verdict
                if code == b"k" and content and not is_position(content):
                    code = b"d"
                if code == b"k":
                    if channel is None:
                        channel = self._broker.subscribe(self._outbox, name)
                        self._hold([channel])
                    self._answers.append(pack(name, code + channel.position))
                else:
                    self._answers.append(pack(name, code))
        self._put_answers(self._outbox.cut(self._answers))
        self._answers = []

    def unsubscribe_now(self, requests: list[tuple[bytes, list[bytes]]]) -> None:
        """Unsubscribe channels, and answer."""
        codes: list[bytes] = []
        for name, messages in requests:
            if not all(messages):
                channel = self._broker.find(self._outbox, name)
                if channel is not None:
                    self._leave(channel)
            codes += [b"d" if message else b"k" for message in messages]
        answers = b"".join(codes)
        self._outbox.put(Kind.UNSUBSCRIBE_ACK, answers, len(answers))

    def _close(self) -> None:
        super()._close()
        self._due.clear()
