"""The machine that joins a hub's broker to the engine: no sockets, no clock.

The engine counts every channel and orders its messages; this hub hands out what comes back. One
connection to a node carries scripts, subscriptions and pushes in one order. So the answer of
``where`` tells exactly which pushes it counts: those that came before it.

A channel that somebody at this hub wants is a :class:`Member`:

- JOINING: it was subscribed in the engine, and ``where`` is on its way. Pushes are ignored.
- HERE: the broker has it, and hands out its pushes.
- DEAF: it was HERE, and the connection to its partition's node is lost. It stays with the broker,
  and its holders are told what they have missed when there is a connection again.

A partition is *open* from the answer of ``open``, which gives its epoch, until the connection ends
or a script answers ``stale``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from .._records.position import parse_position
from ..errors import RemoteProtocolError
from .engine import EngineError, Lost
from .envelope import parse_envelope
from .members import Member, MemberState, Partition, Run, batches
from .scripts import ALL, OPEN, PUBLISH, WHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .broker import FleetBroker
    from .engine import Engine, Reply
    from .names import Names
    from .scripts import Script

#: A call of *where*, and one SUBSCRIBE, has at most so many channels.
_MAX_CHANNELS: Final = 500

#: Bytes that may be on their way to the engine. Above it nothing is taken.
MAX_PENDING: Final = 64 * 1024 * 1024

#: Codes of answers: done, not taken, and nobody knows.
DONE: Final = b"k"
NOT_TAKEN: Final = b"u"
UNKNOWN: Final = b"o"


class Fleet:
    """Takes what sessions publish to the engine, and what comes back to the broker.

    :param broker: the hub's
    :param engine: sends commands
    :param names: of keys and channels
    :param hub: this hub's name, which no other one of the fleet has
    :param new_epoch: makes a name that nobody has used, of up to 16 printable characters
    :param on_work: called when there is something for :meth:`flush`
    :param is_sharded: whether the engine is a cluster, whose channels belong to a slot
    """

    def __init__(
        self,
        broker: FleetBroker,
        engine: Engine,
        names: Names,
        *,
        hub: str,
        new_epoch: Callable[[], str],
        on_work: Callable[[], object],
        is_sharded: bool = False,
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._names = names
        self._hub = hub.encode()
        self._new_epoch = new_epoch
        self._on_work = on_work
        self._publish_command = b"SPUBLISH" if is_sharded else b"PUBLISH"
        self._subscribe_command = b"SSUBSCRIBE" if is_sharded else b"SUBSCRIBE"
        self._unsubscribe_command = b"SUNSUBSCRIBE" if is_sharded else b"UNSUBSCRIBE"
        self._partitions = [Partition() for _ in range(names.partitions)]
        self._members: dict[bytes, Member] = {}
        #: Bytes on their way to the engine.
        self.pending: int = 0
        #: Why the fleet cannot be joined, if that is for good: another hub has other limits.
        self.conflict: str | None = None
        #: How many times each thing happened, for operators: see the methods.
        self.malformed: int = 0
        self._times = (
            b"%d" % int(2_000 * broker.limits.keep_time),
            b"%d" % int(4_000 * broker.limits.keep_time),
        )
        broker.on_forgotten = self._on_forgotten

    @property
    def is_ready(self) -> bool:
        """Whether every partition is open."""
        return all(part.epoch is not None for part in self._partitions)

    @property
    def members(self) -> int:
        """How many channels this hub is subscribed to in the engine."""
        return len(self._members)

    # For sessions

    def publish(
        self, name: bytes, records: bytes, count: int, done: Callable[[bytes], object]
    ) -> None:
        """Publish a run.

        :param name: its channel
        :param count: the number of its records
        :param done: called once with the code of the answer, perhaps now: ``k`` when the engine has
            it and, if this hub has its channel, it was handed out; ``u`` if it was not taken; ``o``
            if nobody knows
        """
        part = self._partitions[self._names.partition_of(name)]
        if part.epoch is None or self.pending + len(records) > MAX_PENDING:
            done(NOT_TAKEN)
            return
        self.pending += len(records)
        if not part.runs:
            self._on_work()
        part.runs.append(Run(name, records, count, done))

    def is_here(self, name: bytes) -> bool:
        """Tell whether the broker has a channel, so that a session can hold it."""
        member = self._members.get(name)
        return member is not None and member.state is not MemberState.JOINING

    def join(self, name: bytes, waiter: Callable[[bool], object], *, anew: bool = False) -> None:
        """Let the broker have a channel.

        :param waiter: called once, perhaps now: with True when the broker has it, and with False if
            the engine is away
        :param anew: ask the engine where the channel stands, even if the broker has it
        """
        member = self._members.get(name)
        number = self._names.partition_of(name)
        part = self._partitions[number]
        if member is not None and member.state is not MemberState.JOINING and not anew:
            waiter(True)
        elif part.epoch is None:
            waiter(False)
        elif member is None:
            member = self._members[name] = Member(name, number)
            member.waiters.append(waiter)
            self._note(part.joining, member)
        else:
            member.waiters.append(waiter)
            if member.state is not MemberState.JOINING:
                self._look(member)

    def _look(self, member: Member) -> None:
        """Ask soon where a channel stands that is subscribed in the engine."""
        self._note(self._partitions[member.partition].looking, member)

    def _note(self, members: list[Member], member: Member) -> None:
        if not members:
            self._on_work()
        members.append(member)

    def _on_forgotten(self, name: bytes) -> None:
        member = self._members.pop(name, None)
        if member is None:
            return
        self._settle_acks(member)
        if self._partitions[member.partition].is_up:
            channel = self._names.engine_channel(member.partition, name)
            self._engine.send(
                member.partition, self._unsubscribe_command, channel, on_reply=_ignore
            )

    def flush(self) -> None:
        """Send what was asked for since the last time."""
        for number, part in enumerate(self._partitions):
            if part.joining:
                joining, part.joining = part.joining, []
                self._subscribe(number, joining)
            if part.looking:
                looking, part.looking = part.looking, []
                self._ask_where(number, looking)
            if part.runs:
                runs, part.runs = part.runs, []
                for some in batches(runs):
                    self._call_publish(number, some)

    # The engine's connection

    def on_up(self, partitions: Iterable[int], replid: str) -> None:
        """Note that there is a connection to a node.

        :param partitions: those of the node
        :param replid: its ``master_replid``
        """
        for number in partitions:
            part = self._partitions[number]
            part.is_up = True
            part.replid = replid.encode()
            part.is_loading = False
            part.resent = []
        for number in partitions:
            self._load(number)
            self._open(number)

    def on_down(self, partitions: Iterable[int]) -> None:
        """Note that the connection to a node is lost, after all commands were told."""
        numbers = set(partitions)
        for number in numbers:
            part = self._partitions[number]
            part.is_up = False
            part.epoch = None
            self._give_up(part)
        for member in [each for each in self._members.values() if each.partition in numbers]:
            self._go_deaf(member)

    def _give_up(self, part: Partition) -> None:
        """Refuse what was not sent yet."""
        runs, part.runs = part.runs, []
        part.joining = []
        part.looking = []
        part.resent = []
        part.is_loading = False
        for run in runs:
            self._finish(run, NOT_TAKEN)

    def _go_deaf(self, member: Member) -> None:
        waiters, member.waiters = member.waiters, []
        if member.state is MemberState.JOINING:
            del self._members[member.name]
        else:
            member.state = MemberState.DEAF
        for waiter in waiters:
            waiter(False)

    def _load(self, number: int) -> None:
        for script in ALL:
            self._engine.send(number, b"SCRIPT", b"LOAD", script.text, on_reply=_ignore)

    def _open(self, number: int) -> None:
        part = self._partitions[number]
        limits = self._broker.limits
        self._call(
            number,
            OPEN,
            [self._names.partition_key(number)],
            [
                part.replid,
                self._new_epoch().encode(),
                self._times[1],
                b"%d" % limits.max_message,
                b"%d" % limits.max_channel,
            ],
            partial(self._on_opened, number),
        )

    def _on_opened(self, number: int, reply: Reply) -> None:
        part = self._partitions[number]
        match reply:
            case [b"ok", bytes(epoch)]:
                part.epoch = epoch
                deaf = [each for each in self._members.values() if each.partition == number]
                self._subscribe(number, deaf)
            case [b"differs", bytes(most), bytes(longest)]:
                self.conflict = (
                    f"the fleet has max_message={most.decode()} and max_channel={longest.decode()}"
                )
            case _:
                pass  # the connection is lost, or will be

    def _reopen(self, number: int) -> None:
        """Open a partition anew, because a script did not know its epoch."""
        part = self._partitions[number]
        if part.epoch is None or not part.is_up:
            return
        part.epoch = None
        self._give_up(part)
        for member in [each for each in self._members.values() if each.partition == number]:
            self._go_deaf(member)
        self._open(number)

    # Commands

    def _call(
        self,
        number: int,
        script: Script,
        keys: list[bytes],
        arguments: list[bytes],
        on_reply: Callable[[Reply], object],
    ) -> None:
        """Call a script; load all scripts if the engine has forgotten them."""
        part = self._partitions[number]

        def send() -> None:
            self._engine.send(
                number,
                b"EVALSHA",
                script.digest,
                b"%d" % len(keys),
                *keys,
                *arguments,
                on_reply=take,
            )

        def take(reply: Reply) -> None:
            if isinstance(reply, EngineError) and reply.code == "NOSCRIPT" and part.is_up:
                # What was sent after it fares the same, and goes again in the same order.
                part.resent.append(send)
                if not part.is_loading:
                    part.is_loading = True
                    self._load(number)
                    self._engine.send(number, b"PING", on_reply=partial(self._resend, part))
            else:
                on_reply(reply)

        if part.is_loading:
            part.resent.append(send)
        else:
            send()

    def _resend(self, part: Partition, reply: Reply) -> None:
        part.is_loading = False
        resent, part.resent = part.resent, []
        for send in resent:
            send()

    def _subscribe(self, number: int, members: list[Member]) -> None:
        """Subscribe channels in the engine, and ask where they stand."""
        for start in range(0, len(members), _MAX_CHANNELS):
            some = members[start : start + _MAX_CHANNELS]
            channels = [self._names.engine_channel(number, each.name) for each in some]
            self._engine.send(number, self._subscribe_command, *channels, on_reply=_ignore)
            self._ask_where(number, some)

    def _ask_where(self, number: int, members: list[Member]) -> None:
        part = self._partitions[number]
        if part.epoch is None:
            return
        for start in range(0, len(members), _MAX_CHANNELS):
            some = members[start : start + _MAX_CHANNELS]
            self._call(
                number,
                WHERE,
                [
                    self._names.partition_key(number),
                    *[self._names.channel_key(number, each.name) for each in some],
                ],
                [part.epoch, *self._times],
                partial(self._on_where, number, some),
            )

    def _on_where(self, number: int, members: list[Member], reply: Reply) -> None:
        if reply == b"stale":
            self._reopen(number)
            return
        if not isinstance(reply, list) or len(reply) != len(members):
            # If the connection is lost, on_down() follows.
            for member in members:
                self._fail_to_join(member)
            return
        for member, answer in zip(members, reply, strict=True):
            if self._members.get(member.name) is not member:
                continue  # nobody wants it any more
            try:
                generation, count = parse_position(answer if isinstance(answer, bytes) else b"")
            except RemoteProtocolError:
                self._fail_to_join(member)
                continue
            self._broker.stand(member.name, generation, count)
            member.state = MemberState.HERE
            waiters, member.waiters = member.waiters, []
            for waiter in waiters:
                waiter(True)
            self._settle_acks(member)

    def _fail_to_join(self, member: Member) -> None:
        if self._members.get(member.name) is member:
            self._go_deaf(member)

    def _call_publish(self, number: int, runs: list[Run]) -> None:
        part = self._partitions[number]
        if part.epoch is None:
            for run in runs:
                self._finish(run, NOT_TAKEN)
            return
        names = self._names
        arguments = [part.epoch, self._hub, self._publish_command]
        for run in runs:
            channel = names.engine_channel(number, run.name)
            arguments += (channel, b"%d" % run.count, run.records)
        self._call(
            number,
            PUBLISH,
            [names.partition_key(number), *[names.channel_key(number, run.name) for run in runs]],
            arguments,
            partial(self._on_published, number, runs),
        )

    def _on_published(self, number: int, runs: list[Run], reply: Reply) -> None:
        if isinstance(reply, list) and len(reply) == len(runs):
            for run, answer in zip(runs, reply, strict=True):
                self._on_run(run, answer)
            return
        is_unknown = isinstance(reply, Lost) and reply.was_sent
        for run in runs:
            self._finish(run, UNKNOWN if is_unknown else NOT_TAKEN)
        if reply == b"stale":
            self._reopen(number)

    def _on_run(self, run: Run, answer: Reply) -> None:
        member = self._members.get(run.name)
        if answer == b"":
            if member is not None and member.state is MemberState.HERE:
                # The engine has lost the key. Tell it before the answer: who unsubscribes then must
                # know that something is missing.
                self._lose(member)
            self._finish(run, DONE)
            return
        try:
            generation, count = parse_position(answer if isinstance(answer, bytes) else b"")
        except RemoteProtocolError:
            self._finish(run, NOT_TAKEN)
            return
        if member is None or member.state is MemberState.JOINING:
            self._finish(run, DONE)
        else:
            # Who unsubscribes when the answer is here must not lose the message.
            member.acks.append((generation, count, partial(self._finish, run, DONE)))
            self._settle_acks(member)

    def _settle_acks(self, member: Member) -> None:
        """Answer what this hub has handed out by now, or never will."""
        if member.state is MemberState.DEAF and member.name in self._members:
            return  # it is told with the gap
        channel = self._broker.channel(member.name)
        acks = member.acks
        while acks:
            generation, count, done = acks[0]
            if channel is not None and channel.generation == generation and channel.count < count:
                break
            acks.popleft()
            done()

    def _finish(self, run: Run, code: bytes) -> None:
        self.pending -= len(run.records)
        run.done(code)

    # Pushes

    def on_push(self, engine_channel: bytes, data: bytes) -> None:
        """Take a message of an engine's channel."""
        found = self._names.name_in(engine_channel)
        member = None if found is None else self._members.get(found[1])
        if member is None or member.state is not MemberState.HERE:
            return
        if not data:
            self._lose(member)
            return
        try:
            envelope = parse_envelope(member.name, data)
        except RemoteProtocolError:
            self.malformed += 1
            self._look(member)
            return
        self._broker.hand_out(member.name, envelope)
        if member.acks:
            self._settle_acks(member)

    def _lose(self, member: Member) -> None:
        """Tell a gap of unknown size, and ask where the channel stands now."""
        self._broker.lose(member.name)
        self._look(member)

    # Time

    def refresh(self) -> None:
        """Ask where all channels stand: call it every half keep time.

        It renews the keys, tells gaps behind which nothing was published, and finds a connection
        that lives and delivers nothing.
        """
        for number, part in enumerate(self._partitions):
            if part.epoch is not None:
                here = [each for each in self._members.values() if each.partition == number]
                self._ask_where(number, here)


def _ignore(reply: Reply) -> None:
    pass
