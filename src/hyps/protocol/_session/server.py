"""The hub's state machine: one session, without I/O."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Final

from .._callbacks import nothing
from .._records.encoding import pack_chunks, unpack_names
from .._records.layout import MERGED_SIZE, contents, decode_channel, pack
from .._records.position import is_position
from .._records.scanning import find_runs
from .._wire.detection import UnknownWire
from .._wire.frames import Kind
from .._wire.handshake import (
    decode_hello,
    decode_token,
    encode_expiry,
    encode_goaway,
    encode_welcome,
)
from .._wire.registry import WIRES
from ..errors import ErrorCode, RemoteProtocolError
from ..events import GoingAway, Hello, Taken, TokenExpiry, TokenOffered, Welcome
from ..limits import MAX_OPENING_FRAME, PASS_WORK, SUBSCRIBE_WORK
from .access import Publishable, Verb
from .endpoint import Endpoint
from .outbox import Outbox
from .states import HUB_RECEIVES, State, Step, make_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._broker.broker import Broker
    from .._broker.channel import Channel
    from .._wire.base import Wire
    from .access import Access
    from .endpoint import Handler

    #: Takes records, given the bytes that hold them, the offset of the first one, and a list for
    #: their codes. Returns the offset behind the last one that it took.
    TakeRecords = Callable[[bytes, int, list[bytes]], int]
    #: Takes a run, given the bytes that hold it, its start, its end, its channel and the number of
    #: its records. Returns a code for each record, unless it queues the answers itself.
    TakeRun = Callable[[bytes, int, int, bytes, int], bytes]


#: An answer to SUBSCRIBE has at most this many bytes besides the name, with the frame's kind.
_MAX_ANSWER: Final = 64


_where: Final = attrgetter("generation", "count")


class ServerProtocol(Endpoint[Hello | Taken | TokenOffered]):
    """One session of a hub, without I/O.

    Pass what the client sends to :meth:`receive_data`, call :meth:`next_event` until it gives
    ``NEED_DATA``, answer :class:`Hello`, and send what :meth:`data_to_send` gives. What other
    sessions publish adds to the output at any time: ``on_output`` tells.

    :param broker: the broker of all sessions of this hub
    :param session: a name for this session, shown to the client, for logs
    :param server: name and version of the hub
    :param on_output: called when there is something to send after there was nothing. It must
        not call this object.
    :param features: names of the extensions that it knows, see :attr:`features`
    """

    _PEER = "client"
    _outbox_type: ClassVar[type[Outbox]] = Outbox

    def __init__(
        self,
        broker: Broker,
        *,
        session: str,
        server: str = "hyps",
        on_output: Callable[[], object] = nothing,
        features: Iterable[str] = (),
    ) -> None:
        wire = UnknownWire(MAX_OPENING_FRAME, WIRES, self._speak)
        self._outbox = self._outbox_type(broker.limits.max_buffer, wire, on_output)
        super().__init__(broker.limits, wire, self._outbox, features)
        self.session = session
        self._server = server
        self._broker = broker
        # The channels that the session holds. A list until it leaves the first one: a dict takes a
        # quarter of what the hub spends on a channel.
        self._channels: list[Channel] | dict[Channel, None] = []
        #: Records that the client published and that were answered, whatever the answer.
        self.published: int = 0
        # Answers to SUBSCRIBE in this pass, each a record.
        self._answers: list[bytes] = []
        # The codes of refusals that the client may not look at, each once.
        self._refusals = b""
        # Work in frames that no event has reported yet.
        self._frame_work = 0
        # The bound of unread answers, in bytes: answers echo names that the client chose.
        self._max_owed = self.limits.max_in_flight * (self.limits.max_channel + _MAX_ANSWER)
        # The longest name that an answer can hold.
        self._max_name = self.limits.max_frame - _MAX_ANSWER
        # The frame whose records are being taken: the function that takes them, the kind of the
        # answers, the body, and how far it is.
        self._work: tuple[TakeRecords, Kind, bytes, int] | None = None
        self._access: Access | None = None
        #: How many channels the session held when it left the broker; None before.
        self.channels_at_end: int | None = None
        self._publishable: Publishable | None = None

    @property
    def access(self) -> Access | None:
        """What the session may do with which channel; None allows everything.

        Set it before :meth:`accept`, or later: it decides on what the hub takes from then on.
        Channels that the session holds already stay; :meth:`revoke` takes them.
        """
        return self._access

    @access.setter
    def access(self, access: Access | None) -> None:
        self._access = access
        self._publishable = None if access is None else Publishable(access)

    def _speak(self, wire: Wire) -> None:
        self._wire = self._outbox.wire = wire

    @property
    def missed(self) -> int:
        """How many messages were dropped for this session, because a bound left no room."""
        return self._outbox.missed

    @property
    def channels(self) -> int:
        """How many channels the session holds."""
        return len(self._channels)

    @property
    def refusals(self) -> bytes:
        """The codes of refused records, each once, if the client may not look at them.

        Clients of Hyps for Nim, over HTTP/2, only count their answers.
        """
        return self._refusals

    def accept(self, expires_in: float | None = None) -> None:
        """Open the session, in answer to :class:`Hello`; or refuse it if there are too many.

        :param expires_in: seconds until the client's token expires, to tell the client
        :raises LocalProtocolError: if there is no HELLO to answer
        """
        if self._state is not State.GREETED:
            raise self._forbid("accept()")
        limits = self.limits
        if len(self._broker.sessions) >= limits.max_sessions:
            self.fail("the hub has as many sessions as it takes", ErrorCode.LIMIT)
            return
        self._step(Step.ACCEPT)
        self._broker.open_session(self, self._outbox)
        self._wire.max_frame = limits.max_frame
        welcome = Welcome(
            server=self._server,
            session=self.session,
            features=self._features,
            heartbeat=limits.heartbeat,
            max_message=limits.max_message,
            max_channel=limits.max_channel,
            max_frame=limits.max_frame,
            max_channels=limits.max_channels,
            max_in_flight=limits.max_in_flight,
            expires_in=expires_in,
        )
        self._outbox.put(Kind.WELCOME, encode_welcome(welcome))

    def refuse(self, message: str, code: str = ErrorCode.AUTH) -> None:
        """Turn the client away, in answer to :class:`Hello`.

        :param message: what the client is told
        :param code: see :class:`ErrorCode`
        :raises LocalProtocolError: if there is no HELLO to answer
        """
        if self._state is not State.GREETED:
            raise self._forbid("refuse()")
        self.fail(message, code)

    def tell_expiry(self, expires_in: float | None, *, renewed: bool | None = None) -> bool:
        """Tell the client when its token expires: a warning, or the answer to a new token.

        :param expires_in: seconds; None if it does not expire
        :param renewed: in answer to :class:`TokenOffered`, whether the hub took that token
        :return: whether the client is told. If not, it cannot replace its token in this session.
        """
        if not self.refreshes_tokens or self._state is State.CLOSED:
            return False
        if renewed is not None or not self._auth_is_out:
            self._auth_is_out = False
            body = encode_expiry(TokenExpiry(expires_in, renewed))
            self._outbox.put_urgent(Kind.AUTH, body)
        return True

    def revoke(self) -> None:
        """Take all channels from the session, with what is queued of them.

        The rest is the caller's: :meth:`go_away`, so that the client comes back for what it may
        still have and learns of each message that it missed; or :meth:`fail`.
        """
        if self.channels_at_end is None:
            self._outbox.revoke()
            self._leave_broker()

    def go_away(self, reason: str, reconnect_after: float = 0.0) -> None:
        """Ask the client to leave. What it publishes from now on is answered with ``u``.

        Call :meth:`close` when it has left or had its time. Harmless when it was asked or left.

        :param reason: in words
        :param reconnect_after: seconds
        """
        if self._state not in (State.DRAINING, State.CLOSED):
            self._outbox.put(Kind.GOAWAY, encode_goaway(GoingAway(reason, reconnect_after)))
            if self._state is State.OPEN:
                self._step(Step.LEAVE)
            else:
                self._close()

    def close(self) -> None:
        """Leave the broker. What is queued will still be sent. Harmless if closed."""
        if self._state is not State.CLOSED:
            self._close()

    def _close(self) -> None:
        super()._close()
        self._work = None
        self._frame_work = 0
        self._leave_broker()

    def _leave_broker(self) -> None:
        if self.channels_at_end is None:
            channels, self._channels = self._channels, []
            self.channels_at_end = len(channels)
            self._broker.close_session(self, self._outbox, channels)

    def _advance(self) -> bool:
        if self._work is not None:
            self._take_records(*self._work)
        elif self._frame_work >= PASS_WORK:
            self._events.append(Taken(0, self._frame_work))
            self._frame_work = 0
        elif super()._advance():
            self._frame_work += self._wire.frame_work
        else:
            return False
        return True

    def _on_hello(self, body: bytes) -> None:
        hello = decode_hello(body)
        self._agree_on_features(hello.features)
        self._step(Step.HELLO)
        self._events.append(hello)

    def _on_auth(self, body: bytes) -> None:
        self._check_auth()
        if self._auth_is_out:
            raise RemoteProtocolError("AUTH: sent again before the answer")
        self._events.append(decode_token(body))
        self._auth_is_out = True

    # PUBLISH, SUBSCRIBE and UNSUBSCRIBE differ only in what happens to a record. Each record gets
    # an answer of its own.

    def _on_publish(self, body: bytes) -> None:
        self._begin(self._publish, body, Kind.PUBLISH_ACK)

    def _publish(self, data: bytes, position: int, codes: list[bytes]) -> int:
        # Decide anew in each step: the state and the access may change within a long frame.
        if self._state is State.DRAINING:
            return self._take_runs(_publish_late, data, position, codes)
        publishable = self._publishable
        if publishable is None:
            return self._broker.publish(data, position, codes)
        runs = find_runs(data, position, most=PASS_WORK)
        if publishable.has(runs[0]):
            # The usual case: all of these channels were asked about before.
            return self._broker.publish(data, position, codes, runs)
        return self._publish_stretches(*publishable.judge(runs), data, position, codes)

    def _publish_stretches(
        self,
        stretches: list[tuple[bool, int, int]],
        error: RemoteProtocolError | None,
        data: bytes,
        position: int,
        codes: list[bytes],
    ) -> int:
        """Publish what the session may publish, see :meth:`.Publishable.judge`."""
        most = self._broker.work + PASS_WORK
        for may, stop, count in stretches:
            if not may:
                codes.append(b"d" * count)
            else:
                stretch, done = data[position:stop], 0
                while done < len(stretch):
                    if self._broker.work >= most:
                        return position + done
                    done = self._broker.publish(stretch, done, codes)
            position = stop
        if error is not None:
            raise error
        return position

    def _on_subscribe(self, body: bytes) -> None:
        if len(body) <= MERGED_SIZE:
            names = unpack_names(body)
            work = self._broker.work
            if names and self._are_granted(names):
                self._grant(names, work)
                return
        take = partial(self._take_runs, self._subscribe, weight=SUBSCRIBE_WORK)
        self._begin(take, body, Kind.SUBSCRIBE_ACK)

    def _on_unsubscribe(self, body: bytes) -> None:
        self._begin(partial(self._take_runs, self._unsubscribe), body, Kind.UNSUBSCRIBE_ACK)

    def _begin(self, take: TakeRecords, body: bytes, answer: Kind) -> None:
        if not body:
            raise RemoteProtocolError("a frame without records")
        self._work = (take, answer, body, 0)

    def _take_records(self, take: TakeRecords, answer: Kind, body: bytes, position: int) -> None:
        """Take about as many records as a pass allows."""
        codes: list[bytes] = []
        work, self._frame_work = self._frame_work, 0
        work_before = self._broker.work
        try:
            position = take(body, position, codes)
        finally:
            # Answer valid records before an invalid one ends the session.
            answers = b"".join(codes)
            if not self._wire.shows_refusals:
                self._note_refusals(answers)
            taken = len(answers) + len(self._answers)
            if answers:
                self._outbox.put(answer, answers, len(answers))
            if self._answers:
                self._put_answers(self._outbox.cut(self._answers))
                self._answers = []
            if answer is Kind.PUBLISH_ACK:
                self.published += taken
            if taken:
                work += taken + self._broker.work - work_before
                self._events.append(Taken(taken, work))
        self._work = None if position == len(body) else (take, answer, body, position)
        self._broker.do_chores()
        self._check_owed()

    def _note_refusals(self, codes: bytes) -> None:
        if self._answers:
            codes += bytes([_code_of(answer) for answer in self._answers])
        for code in sorted(set(codes.replace(b"k", b"")) - set(self._refusals)):
            self._refusals += bytes([code])

    def _take_runs(
        self, take: TakeRun, body: bytes, position: int, codes: list[bytes], weight: int = 1
    ) -> int:
        """Take records run by run. Each of them is ``weight`` units of work."""
        taken = 0
        most = self._broker.work + PASS_WORK
        names, stops, counts, error = find_runs(body, position, most=PASS_WORK // weight)
        for name, stop, count in zip(names, stops, counts, strict=True):
            self._broker.work += (weight - 1) * count
            codes.append(take(body, position, stop, name, count))
            taken += count
            position = stop
            if taken + self._broker.work >= most:
                break
        else:
            if error is not None:
                raise error
        return position

    def _check_owed(self) -> None:
        owed = self._outbox
        if owed.items > self.limits.max_in_flight or owed.items_size > self._max_owed:
            raise RemoteProtocolError(
                "too many answers are unread: see max_in_flight", ErrorCode.LIMIT
            )

    def _subscribe(self, data: bytes, position: int, stop: int, name: bytes, count: int) -> bytes:
        decode_channel(name)
        if len(name) > self._max_name:
            text = "a name that is too long for an answer"
            raise RemoteProtocolError(text, ErrorCode.TOO_LARGE)
        channel = self._broker.find(self._outbox, name)
        if channel is not None:
            self._outbox.tell_gap(channel)
        verdict = self._decide_on_names([name], 0 if channel is not None else 1)
        for content in contents(data, position, count, name):
            code = verdict
            # The client itself compares its last position with the one in the answer. The hub only
            # checks it: later versions of the wire may give other contents a meaning.
            if code == b"k" and content and not is_position(content):
                code = b"d"
            if code == b"k":
                if channel is None:
                    channel = self._broker.subscribe(self._outbox, name)
                    self._hold([channel])
                self._answers.append(pack(name, code + channel.position))
            else:
                self._answers.append(pack(name, code))
        return b""

    def _decide_on_names(self, names: list[bytes], new: int) -> bytes:
        """Decide whether the session may hold channels: this is the one place that does.

        :param names: UTF-8
        :param new: how many of them it does not hold
        :return: ``k`` if it may hold all of them, else the code for the first reason
        """
        if max(map(len, names)) > self.limits.max_channel:
            return b"n"
        if self._state is State.DRAINING or self.channels_at_end is not None:
            return b"u"
        access = self._access
        if access is not None and not all(
            access.may(Verb.SUBSCRIBE, name.decode()) for name in names
        ):
            return b"d"
        if new and len(self._channels) + new > self.limits.max_channels:
            return b"d"
        return b"k"

    def _hold(self, channels: list[Channel]) -> None:
        if isinstance(self._channels, list):
            self._channels += channels
        else:
            self._channels.update(dict.fromkeys(channels))

    def _leave(self, channel: Channel) -> None:
        self._outbox.tell_gap(channel)
        self._broker.unsubscribe(self._outbox, channel)
        if isinstance(self._channels, list):
            self._channels = dict.fromkeys(self._channels)
        del self._channels[channel]

    def _are_granted(self, names: list[bytes]) -> bool:
        """Whether the session may hold all of these channels, and holds none of them.

        Then :meth:`_grant` can answer all of them at once. If not, or if finding out takes long,
        :meth:`_subscribe` takes them one by one.

        :param names: of a SUBSCRIBE without positions
        """
        try:
            b"\n".join(names).decode()
        except UnicodeDecodeError:
            return False
        return (
            len(set(names)) == len(names)
            and self._decide_on_names(names, len(names)) == b"k"
            and not self._broker.may_hold(self._outbox, names)
        )

    def _grant(self, names: list[bytes], work: int) -> None:
        """Subscribe many channels.

        :param names: what :meth:`_are_granted` accepted
        :param work: the broker's, before it was asked
        """
        channels = self._broker.subscribe_all(self._outbox, names)
        self._hold(channels)
        if len(set(map(_where, channels))) == 1:
            # The usual case: none of them has had a message, so they share a position.
            answer = b"k" + channels[0].position
            self._put_answers(pack_chunks(names, answer, self._outbox.frame_size))
        else:
            answers = [pack(channel.name, b"k" + channel.position) for channel in channels]
            self._put_answers(self._outbox.cut(answers))
        work = len(names) + self._frame_work + self._broker.work - work
        self._events.append(Taken(len(names), work))
        self._frame_work = 0
        self._check_owed()

    def _put_answers(self, chunks: Iterable[tuple[bytes, int]]) -> None:
        # Answers are longer than the records that they answer, and have to fit into frames too.
        for body, count in chunks:
            self._outbox.put(Kind.SUBSCRIBE_ACK, body, count)

    def _unsubscribe(self, data: bytes, position: int, stop: int, name: bytes, count: int) -> bytes:
        decode_channel(name)
        messages = contents(data, position, count, name)
        if not all(messages):
            channel = self._broker.find(self._outbox, name)
            if channel is not None:
                self._leave(channel)
        return b"".join([b"d" if message else b"k" for message in messages])

    _TABLE: ClassVar[Mapping[State, Mapping[int, Handler]]] = make_table(
        HUB_RECEIVES,
        {
            Kind.HELLO: _on_hello,
            Kind.PUBLISH: _on_publish,
            Kind.SUBSCRIBE: _on_subscribe,
            Kind.UNSUBSCRIBE: _on_unsubscribe,
            Kind.PING: Endpoint._on_ping,
            Kind.PONG: Endpoint._on_pong,
            Kind.AUTH: _on_auth,
            Kind.ERROR: Endpoint._on_error,
        },
    )


def _code_of(answer: bytes) -> int:
    """Return the code in an answer to SUBSCRIBE, which stands behind the name."""
    return answer[answer.index(b"\n", 4) + 1]


def _publish_late(data: bytes, position: int, stop: int, name: bytes, count: int) -> bytes:
    return b"u" * count
