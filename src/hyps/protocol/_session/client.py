"""The client's state machine: operations and messages of one connection, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .._callbacks import nothing
from .._records.encoding import encode_channels, pack_chunks, pairs
from .._records.layout import contents, decode_channel, pack
from .._records.position import MAX_COUNT, is_position, parse_position
from .._records.runs import Run, join
from .._records.scanning import cut, find_runs, scan
from .._wire.frames import Kind
from .._wire.handshake import (
    decode_expiry,
    decode_goaway,
    decode_welcome,
    encode_hello,
    encode_token,
)
from .._wire.native import NativeWire
from ..errors import LocalProtocolError, RemoteProtocolError
from ..events import (
    Acked,
    Gap,
    GoingAway,
    Hello,
    Lost,
    Messages,
    Rejected,
    TokenExpiry,
    Welcome,
)
from ..limits import (
    MAX_OPENING_FRAME,
    Limits,
)
from .cursors import answer_for
from .endpoint import Endpoint
from .holdings import Holdings
from .operations import Operations
from .requests import Requests
from .states import CLIENT_RECEIVES, State, Step, make_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .._records.layout import Data
    from .._records.runs import Batch, Message
    from .._wire.base import Wire
    from .endpoint import Handler


def _is_text(text: str) -> bool:
    # The original error quotes the text, which may be a token, so no other may have it as a
    # context.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_token(token: str, body: bytes) -> None:
    if len(body) >= MAX_OPENING_FRAME:
        raise ValueError("the token is too long")
    if not _is_text(token):
        raise ValueError("the token has no UTF-8 form")


_ClientOnly = Welcome | Acked | Rejected | Lost | Messages | Gap | GoingAway | TokenExpiry


class ClientProtocol(Endpoint[_ClientOnly]):
    """A client's end of one connection, without I/O.

    Pass what the hub sends to :meth:`receive_data`, call :meth:`next_event` until it gives
    ``NEED_DATA``, and send what :meth:`data_to_send` gives. Once :class:`Welcome` came, the
    operations may be called. Each returns an id, and each id is reported in exactly one
    :class:`Acked`, :class:`Rejected` or :class:`Lost`, in the order of the ids.

    :param client: name and version of the program
    :param token: the token to present, if the hub requires one
    :param limits: ``hello_timeout`` and ``max_backlog`` are the client's own; the hub tells the
        rest
    :param on_output: called when there is something to send after there was nothing. It must
        not call this object.
    :param wire: what it speaks; None is the native wire
    :param features: names of the extensions that it knows, see :attr:`features`
    :raises ValueError: if the token is too long to be sent, or has no UTF-8 form
    """

    _PEER = "hub"

    def __init__(
        self,
        *,
        client: str = "hyps",
        token: str | None = None,
        limits: Limits | None = None,
        on_output: Callable[[], object] = nothing,
        wire: Wire | None = None,
        features: Iterable[str] = (),
    ) -> None:
        wire = wire or NativeWire(MAX_OPENING_FRAME, preface=False)
        self._requests = Requests(wire, on_output)
        super().__init__(limits or Limits(), wire, self._requests, features)
        self._welcome: Welcome | None = None
        self._operations = Operations()
        self._holdings = Holdings(self._events.append)
        # Those that it holds, for the hot path: the same object.
        self._channels = self._holdings.channels
        # Whether the token that was offered last has no answer yet.
        self._awaits_auth = False
        if token is not None and not isinstance(token, str):
            raise TypeError(f"a token must be a str, not {type(token).__name__}")
        hello = encode_hello(Hello(client, token, self._features))
        _check_token(token or "", hello)
        self._output.put_urgent(Kind.HELLO, hello)

    # Operations

    def publish(self, channel: str, data: Data) -> int:
        """Publish one message.

        :param channel: name of the channel
        :param data: the message
        :return: the operation's id
        :raises InvalidChannel: if the name cannot be a channel's
        :raises MessageTooLarge: if the hub would not take it
        :raises LocalProtocolError: if the state does not allow it
        """
        # Per message.
        if self._state is not State.OPEN:
            raise self._forbid("publish()")
        self._requests.publish(channel, data)
        return self._operations.begin_single(Kind.PUBLISH_ACK)

    def publish_many(
        self, messages: Iterable[tuple[str, Data] | Message], *, one_frame: bool = False
    ) -> int | None:
        """Publish messages. If one of them is wrong, none of this call's is.

        :param messages: channel and message of each, or each as a :class:`~hyps.Message`
        :param one_frame: take no more messages than make one frame. Give an iterator, and the next
            call goes on from there.
        :return: the operation's id, whose refusals' indexes are those of the messages; None if
            there were no messages
        :raises InvalidChannel: if a name cannot be a channel's
        :raises MessageTooLarge: if the hub would not take one of them
        :raises TypeError: if they are something else
        :raises LocalProtocolError: if the state does not allow it
        """
        self._check_open("publish_many()")
        iterator = pairs(messages)
        chunks: list[tuple[bytes, int]] = []
        while frame := self._requests.encode_frame(iterator):
            chunks += frame
            if one_frame:
                break
        return self._put(Kind.PUBLISH, Kind.PUBLISH_ACK, chunks)

    def subscribe(
        self, channels: Iterable[str], positions: Mapping[str, bytes] | None = None
    ) -> int | None:
        """Subscribe channels. Those that are subscribed stay so.

        :param channels: their names
        :param positions: where channels stood when an earlier connection was lost, as
            :meth:`position` gave it. What was missed since comes as a :class:`~hyps.Gap`.
        :return: the operation's id, whose refusals' indexes are those of the channels; None if
            there were no channels
        :raises InvalidChannel: if a name cannot be a channel's
        :raises ValueError: if a position is none
        :raises LocalProtocolError: if the state does not allow it
        """
        welcome = self._check_open("subscribe()")
        channels = list(channels)
        names = self._encode_channels(welcome, channels)
        before = positions or {}
        if not all(map(is_position, before.values())):
            raise ValueError("positions are what position() gave")
        most = self._requests.chunk_records
        chunks: Iterable[tuple[bytes, int]]
        if before:
            pairs = zip(names, channels, strict=True)
            records = [pack(name, before.get(channel, b"")) for name, channel in pairs]
            chunks = self._output.cut(records, most)
        else:
            chunks = pack_chunks(names, b"", self._output.frame_size, most)
        operation = self._put(Kind.SUBSCRIBE, Kind.SUBSCRIBE_ACK, chunks, channels)
        if operation is None:
            return None
        self._holdings.join(operation, channels, names, before)
        return operation

    def unsubscribe(self, channels: Iterable[str]) -> int | None:
        """Unsubscribe channels. From now on the client hands out nothing of them.

        :param channels: their names
        :return: the operation's id; None if there were no channels
        :raises InvalidChannel: if a name cannot be a channel's
        :raises LocalProtocolError: if the state does not allow it
        """
        welcome = self._check_open("unsubscribe()")
        channels = list(channels)
        names = self._encode_channels(welcome, channels)
        most = self._requests.chunk_records
        chunks = pack_chunks(names, b"", self._output.frame_size, most)
        operation = self._put(Kind.UNSUBSCRIBE, Kind.UNSUBSCRIBE_ACK, chunks)
        self._holdings.leave(channels, names)
        return operation

    def position(self, channel: str) -> bytes | None:
        """Return a channel's position, after everything that the client has handed out.

        :return: None if the channel is not subscribed
        """
        found = self._channels.get(channel.encode())
        return None if found is None else found.position

    def authenticate(self, token: str) -> None:
        """Offer the hub another token for this session. :class:`TokenExpiry` has the answer.

        :param token: the token
        :raises ValueError: if it is too long to be sent, or has no UTF-8 form
        :raises LocalProtocolError: if the state does not allow it, the hub does not know the
            extension (:attr:`refreshes_tokens`), or the token before has no answer yet
        """
        self._check_open("authenticate()")
        if not self.refreshes_tokens:
            raise LocalProtocolError("authenticate(): the hub does not know the extension auth")
        if self._awaits_auth:
            raise LocalProtocolError("authenticate() before the answer to the last one")
        body = encode_token(token)
        _check_token(token, body)
        self._awaits_auth = True
        self._output.put_urgent(Kind.AUTH, body)

    @property
    def counts_losses(self) -> bool:
        """Whether the hub can tell of each message that it drops; over HTTP/2 it cannot."""
        return self._wire.counts_losses

    @property
    def in_flight(self) -> int:
        """How many records are on their way and have no answer yet."""
        return (
            0 if self._welcome is None else int(self._welcome.max_in_flight - self._output.credit)
        )

    @property
    def unanswered(self) -> int:
        """How many operations have no answer yet."""
        return len(self._operations)

    def close(self) -> None:
        """Begin nothing new, and finish what was begun. Harmless when closed.

        Send what is queued, half-close when :attr:`eof_is_due`, and go on receiving, all in bounded
        time: the answers come before the hub closes.
        """
        if self._state is State.OPEN:
            self._step(Step.LEAVE)
            self._output.wake()
        elif self._state is not State.DRAINING:
            self._close()

    @property
    def eof_is_due(self) -> bool:
        is_over = self._state is State.CLOSED or (
            self._state is State.DRAINING and (self._wire.may_half_close or not self._operations)
        )
        return is_over and not self._output

    @property
    def is_finished(self) -> bool:
        return self.eof_is_due and not self._operations

    def _check_open(self, what: str) -> Welcome:
        if self._state is not State.OPEN or self._welcome is None:
            raise self._forbid(what)
        return self._welcome

    def _encode_channels(self, welcome: Welcome, channels: list[str]) -> list[bytes]:
        # Bypass the cache: there are many names, and each occurs once.
        names = encode_channels(channels)
        longest = max(names, key=len, default=b"")
        if len(longest) > welcome.max_channel:
            raise self._requests.too_long(longest)
        return names

    def _put(
        self,
        kind: Kind,
        answer: Kind,
        chunks: Iterable[tuple[bytes, int]],
        channels: list[str] | None = None,
    ) -> int | None:
        records = 0
        for body, count in chunks:
            self._output.put(kind, body, count)
            records += count
        return self._operations.begin(answer, records, channels) if records else None

    # Frames

    def _on_welcome(self, body: bytes) -> None:
        welcome = decode_welcome(body)
        self._step(Step.WELCOME)
        self._welcome = welcome
        self._agree_on_features(welcome.features)
        self._requests.open(welcome)
        self._heartbeat.interval = welcome.heartbeat
        self._wire.max_frame = welcome.max_frame
        self._events.append(welcome)

    def _on_codes(self, kind: Kind, codes: bytes, held: int | None = None) -> None:
        """Distribute codes among the operations that wait for them, in order.

        :param held: see :class:`Refusal`
        """
        if not codes:
            raise RemoteProtocolError(f"{kind.name}: no codes")
        if len(codes) > self.in_flight:
            raise RemoteProtocolError(f"{kind.name}: answers what was not sent")
        self._output.credit += len(codes)
        self._operations.answer(kind, codes, self._events.append, held)
        if self._output or self._state is not State.OPEN:
            # There is credit again, or nothing is left to wait for.
            self._output.wake()

    def _on_publish_ack(self, body: bytes) -> None:
        self._on_codes(Kind.PUBLISH_ACK, body)

    def _on_unsubscribe_ack(self, body: bytes) -> None:
        self._on_codes(Kind.UNSUBSCRIBE_ACK, body)

    def _on_subscribe_ack(self, body: bytes) -> None:
        if not body:
            raise RemoteProtocolError("a frame without records")
        position = 0
        while position < len(body):
            position = self._take_answers(body, position)

    def _take_answers(self, body: bytes, position: int) -> int:
        """Take answers to the first operation, as many as there are.

        :param position: where the first starts
        :return: the offset behind the last
        """
        operation = self._operations.first
        if operation is None or operation.channels is None:
            raise RemoteProtocolError("SUBSCRIBE_ACK: nothing to answer")
        holdings = self._holdings
        taken, stop = holdings.take_alike(operation, self.in_flight, body, position)
        if taken:
            self._on_codes(Kind.SUBSCRIBE_ACK, b"k" * taken)
            return stop
        done = operation.records - operation.unanswered
        codes: list[bytes] = []
        answer = b""
        try:
            for index in range(done, min(operation.records, done + self.in_flight)):
                channel = operation.channels[index]
                name = channel.encode()
                # Most are new, and stand where the one before stands. Then the next answer is
                # known, and comparing is faster than decoding.
                expected = pack(name, answer)
                if answer and body.startswith(expected, position):
                    position += len(expected)
                else:
                    answer, position = answer_for(name, body, position)
                holdings.take_answer(
                    operation.number, channel, name, answer, counts_losses=self.counts_losses
                )
                codes.append(answer[:1])
                if position == len(body):
                    return position
            if len(codes) < operation.unanswered:
                raise RemoteProtocolError("SUBSCRIBE_ACK: answers what was not sent")
        finally:
            holdings.shrink()
            if codes:
                count = len(self._channels)
                is_full = self._welcome is not None and count >= self._welcome.max_channels
                self._on_codes(Kind.SUBSCRIBE_ACK, b"".join(codes), count if is_full else None)
        return position

    def _on_messages(self, body: bytes) -> None:
        if not body:
            raise RemoteProtocolError("MESSAGES: no records")
        contents: list[bytes] | None = None
        if (whole := cut(body)) is None:
            names, stops, counts, error = find_runs(body)
        else:
            prefix, contents = whole
            names, stops, counts, error = [prefix[:-1]], [len(body)], [len(contents)], None
        batches: list[Run | Batch] = []
        # Neighbouring runs that the client wants, and where they start.
        parts: list[tuple[str, int, int]] = []
        start = 0
        try:
            # This loop runs once per run: once per message if no two neighbours share a channel.
            found = map(self._channels.get, names)
            for channel, name, stop, count in zip(found, names, stops, counts, strict=True):
                if channel is not None:
                    if channel.count > MAX_COUNT - count:
                        # A shared cursor has a count that fails this check too, see SharedCursor.
                        channel = channel.own(name, self._channels)
                        if channel.count > MAX_COUNT - count:
                            raise RemoteProtocolError("MESSAGES: more than can be counted")
                    channel.count += count
                    parts.append((channel.name, stop, count))
                else:
                    decode_channel(name)
                    if parts:
                        batches.append(join(body, start, parts))
                        parts = []
                    start = stop
            if error is not None:
                raise error
        finally:
            if parts:
                batches.append(join(body, start, parts, contents))
            if batches:
                self._events.append(Messages(batches))

    def _on_gap(self, body: bytes) -> None:
        for name, position in _each_record(body):
            channel = self._channels.get(name)
            if not self.counts_losses:
                # The wire itself has left out a message that is too large for this client.
                if channel is not None:
                    channel = channel.own(name, self._channels)
                    self._holdings.compare(channel, channel.generation, channel.count + 1, "client")
                continue
            generation, count = parse_position(position)
            if channel is not None:
                self._holdings.compare(channel.own(name, self._channels), generation, count, "hub")

    def _on_goaway(self, body: bytes) -> None:
        self._events.append(decode_goaway(body))
        self.close()

    def _on_auth(self, body: bytes) -> None:
        self._check_auth()
        expiry = decode_expiry(body)
        if expiry.renewed is not None:
            if not self._awaits_auth:
                raise RemoteProtocolError("AUTH: answers what was not sent")
            self._awaits_auth = False
        self._events.append(expiry)

    def _close(self) -> None:
        super()._close()
        self._output.clear()
        lost = self._operations.lose()
        if lost is not None and self._welcome is not None:
            self._output.credit = self._welcome.max_in_flight
            self._events.append(lost)

    _TABLE: ClassVar[Mapping[State, Mapping[int, Handler]]] = make_table(
        CLIENT_RECEIVES,
        {
            Kind.WELCOME: _on_welcome,
            Kind.PUBLISH_ACK: _on_publish_ack,
            Kind.SUBSCRIBE_ACK: _on_subscribe_ack,
            Kind.UNSUBSCRIBE_ACK: _on_unsubscribe_ack,
            Kind.MESSAGES: _on_messages,
            Kind.GAP: _on_gap,
            Kind.PING: Endpoint._on_ping,
            Kind.PONG: Endpoint._on_pong,
            Kind.AUTH: _on_auth,
            Kind.GOAWAY: _on_goaway,
            Kind.ERROR: Endpoint._on_error,
        },
    )


def _each_record(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not body:
        raise RemoteProtocolError("a frame without records")
    position = 0
    for name, stop, count in scan(body):
        decode_channel(name)
        for content in contents(body, position, count, name):
            yield name, content
        position = stop
