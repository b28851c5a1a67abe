"""One connection to the engine, without I/O: commands out; replies and pushes in, in one order."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..protocol._fleet.engine import EngineError, Lost, OnReply, Reply
from .framing import NOT_REDIS, Framer

try:
    import hiredis
except ImportError as _error:
    raise ImportError(
        "a fleet needs hiredis: pip install 'hyps[fleet]'", name=_error.name
    ) from None

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The bound of a reply or a push, in bytes. A push has one run: a hub passes on 256 KiB at a time,
#: or one record, which may have some MiB.
MAX_REPLY: Final = 64 * 1_048_576

#: The bound of what waits to be sent, in bytes. The hub bounds what its sessions have in flight;
#: this is for everything, subscribing 100,000 channels anew among it.
MAX_BACKLOG: Final = 128 * 1_048_576

#: An engine that owes a reply and sends nothing for as many seconds is lost. So is one that sends
#: pushes and no reply for the longer time: a hub that lags has pushes in front of its replies.
SILENCE: Final = 2.0
OVERDUE: Final = 10.0

#: Send a PING after as many seconds in which no reply was due. Otherwise a hub that only subscribes
#: would not notice that its engine is gone.
IDLE: Final = 1.0

#: Seconds between looks at the time. They count silence: if the hub itself stood still, that was
#: one look, and what the engine sent meanwhile is read before the next one.
TICK: Final = 0.25

#: Successes of these commands are pushes, one for each channel, while errors are replies. A PING
#: behind such a command tells that its errors would have been there: whoever waits for the pushes
#: takes an unsubscription that the engine forces for the answer to its own.
_SUBSCRIBING: Final = frozenset(
    [b"SUBSCRIBE", b"UNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE"]
)
_FENCE: Final = b"hyps"

#: What the parser returns if it needs more: False, its default, is a reply too.
_INCOMPLETE: Final = object()


class EngineLost(Exception):
    """The connection has ended; the text says why."""


Push: TypeAlias = list[Any]
OnPush: TypeAlias = "Callable[[Push], None]"


def encode(command: Sequence[bytes]) -> bytes:
    """Spell a command."""
    encoded: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return encoded


def _ignore(_: Reply) -> None:
    pass


class EngineProtocol:
    """A pipelined connection that speaks RESP3. The engine has agreed to it with ``HELLO 3``.

    Each command that was queued gets one reply, in their order, through its ``on_reply``. Pushes
    go to ``on_push``, in between, as they stand in what was received. Callbacks may queue commands
    and may end the connection, and must not raise.

    :param on_push: takes pushes
    :param on_output: called when there is something to send, and nothing was before
    :param max_reply: bytes of a reply or a push
    :param max_backlog: bytes that may wait to be sent
    """

    __slots__ = (
        "_deadline",
        "_framer",
        "_has_heard",
        "_has_reply",
        "_idle",
        "_max_backlog",
        "_output",
        "_overdue",
        "_queue",
        "_queued",
        "_reader",
        "_refusal",
        "_sent",
        "_silent",
        "lost",
        "on_output",
        "on_push",
    )

    def __init__(
        self,
        on_push: OnPush,
        on_output: Callable[[], None],
        *,
        max_reply: int = MAX_REPLY,
        max_backlog: int = MAX_BACKLOG,
    ) -> None:
        self.on_push = on_push
        self.on_output = on_output
        #: Why the connection has ended, once it has.
        self.lost: str | None = None
        self._framer = Framer(max_reply)
        self._max_backlog = max_backlog
        self._reader = hiredis.Reader(
            # Any callable will do, and a value that nobody raises needs no traceback.
            replyError=EngineError.parse,  # type: ignore[arg-type]
            notEnoughData=_INCOMPLETE,
        )
        # Commands without a reply: who takes it, how many bytes were queued before the command,
        # and whether it is a subscription's.
        self._queue: deque[tuple[OnReply, int, bool]] = deque()
        # The first one's error, while its PING has no reply.
        self._refusal: EngineError | None = None
        self._output = bytearray()
        # Bytes, over all time.
        self._queued = 0
        self._sent = 0
        self._deadline = -math.inf
        # Since the last tick.
        self._has_heard = False
        self._has_reply = False
        # Ticks at which a reply was due and nothing had come, or no reply; and at which none was.
        self._silent = 0
        self._overdue = 0
        self._idle = 0

    # Commands

    def send(self, command: Sequence[bytes], on_reply: OnReply) -> None:
        """Queue a command.

        The reply of commands that subscribe and unsubscribe is None, or an error if the engine
        refused; it comes after their pushes. Without room, or after the connection has ended,
        ``on_reply`` is told at once that the command was not sent.
        """
        is_subscribing = command[0] in _SUBSCRIBING
        data = encode(command)
        if is_subscribing:
            data += encode([b"PING", _FENCE])
        if self.lost is not None or len(self._output) + len(data) > self._max_backlog:
            on_reply(Lost(was_sent=False))
            return
        was_empty = not self._output
        self._queue.append((on_reply, self._queued, is_subscribing))
        self._queued += len(data)
        self._output += data
        if was_empty:
            self.on_output()

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._output)

    def data_to_send(self, most: int) -> bytes:
        """Return what is to be sent next; call :meth:`note_sent` for what was."""
        return bytes(self._output if len(self._output) <= most else self._output[:most])

    def note_sent(self, count: int) -> None:
        """Take it that as many bytes have left, or may leave before the connection ends."""
        del self._output[:count]
        self._sent += count

    # What the engine sends

    def receive_data(self, data: bytes) -> None:
        """Take bytes of the engine, and call what they are for.

        :raises EngineLost: if the engine breaks a rule or a bound, or the connection had ended
        """
        if self.lost is not None:
            raise EngineLost(self.lost)
        self._has_heard = True
        good = self._framer.check(data)
        # What came before a fault is valid.
        self._reader.feed(data if good == len(data) else data[:good])
        try:
            self._hand_out()
        except (hiredis.ProtocolError, TypeError):
            # The parser raises TypeError for a map whose keys are lists.
            self._fail(NOT_REDIS)
        if self._framer.fault is not None:
            self._fail(self._framer.fault)

    def _hand_out(self) -> None:
        gets = self._reader.gets
        while self.lost is None and (reply := gets()) is not _INCOMPLETE:
            if type(reply) is hiredis.PushNotification:
                if not reply:
                    self._fail("an empty push")
                self.on_push(reply)
            else:
                self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        if not self._queue or self._queue[0][1] >= self._sent:
            self._fail("a reply to nothing")
        on_reply, _, is_subscribing = self._queue[0]
        if is_subscribing:
            if type(reply) is EngineError and self._refusal is None:
                self._refusal = reply
                return
            if reply != _FENCE:
                self._fail("another reply than PING's")
            reply, self._refusal = self._refusal, None
        self._queue.popleft()
        self._has_reply = True
        on_reply(reply)

    # Time

    def tick(self, now: float) -> float:
        """Judge the time. Call this when a connection has opened, and then when it says so.

        :return: when to call this next
        :raises EngineLost: if a reply is due and the engine is silent, or the connection had ended
        """
        if self.lost is not None:
            raise EngineLost(self.lost)
        if now < self._deadline:
            return self._deadline
        is_due = bool(self._queue)
        self._silent = self._silent + 1 if is_due and not self._has_heard else 0
        self._overdue = self._overdue + 1 if is_due and not self._has_reply else 0
        self._idle = 0 if is_due or self._has_reply else self._idle + 1
        self._has_heard = self._has_reply = False
        # One more, because a reply may have become due right before the first one.
        if self._silent * TICK > SILENCE:
            self._end(f"it did not answer for {SILENCE:g} seconds")
        if self._overdue * TICK > OVERDUE:
            self._end(f"it did not answer for {OVERDUE:g} seconds")
        if self._idle * TICK >= IDLE:
            self.send([b"PING"], _ignore)
        self._deadline = now + TICK
        return self._deadline

    # The end

    def close(self, reason: str) -> None:
        """End the connection: all commands without a reply are lost. Further calls do nothing."""
        if self.lost is not None:
            return
        self.lost = reason
        queue, self._queue = self._queue, deque()
        self._output = bytearray()
        for on_reply, start, _ in queue:
            on_reply(Lost(was_sent=start < self._sent))

    def _fail(self, what: str) -> None:
        self._end(f"it sent {what}")

    def _end(self, reason: str) -> None:
        self.close(reason)
        raise EngineLost(reason)
