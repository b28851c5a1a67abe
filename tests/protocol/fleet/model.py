"""A model of the engine, and hubs on it whose connections advance step by step."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from protocol.pair import drain

from hyps.protocol import (
    Acked,
    ClientProtocol,
    Gap,
    Hello,
    Limits,
    Messages,
    Rejected,
    records,
)
from hyps.protocol._fleet.broker import FleetBroker
from hyps.protocol._fleet.engine import EngineError, Lost, OnReply, Reply
from hyps.protocol._fleet.fleet import Fleet
from hyps.protocol._fleet.names import Names
from hyps.protocol._fleet.scripts import ALL, OPEN, PUBLISH, WHERE
from hyps.protocol._fleet.session import FleetProtocol

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = Names()


class ModelEngine:
    """One node: keys with hashes, scripts, channels."""

    def __init__(self) -> None:
        self.replid = "replid-0"
        #: Whether a reply comes before what its command publishes to the same hub. Redis and Valkey
        #: differ in that.
        self.replies_first = False
        self.keys: dict[bytes, dict[bytes, bytes]] = {}
        self.scripts: set[bytes] = set()
        self.connections: list[ModelConnection] = []
        #: All messages that were counted, by channel, in the engine's order; and how many of them
        #: there were at each position.
        self.log: dict[str, list[bytes]] = {}
        self.index: dict[tuple[str, bytes], int] = {}

    def execute(self, command: tuple[bytes, ...], connection: ModelConnection) -> Reply:
        match command:
            case (b"SCRIPT", b"LOAD", text):
                self.scripts |= {each.digest for each in ALL if each.text == text}
                return b"loaded"
            case (b"PING",):
                return b"PONG"
            case (b"SUBSCRIBE", *channels):
                connection.channels |= set(channels)
                return None
            case (b"UNSUBSCRIBE", *channels):
                connection.channels -= set(channels)
                return None
            case (b"EVALSHA", digest, count, *rest):
                if digest not in self.scripts:
                    return EngineError("NOSCRIPT", "NOSCRIPT no matching script")
                keys, arguments = rest[: int(count)], rest[int(count) :]
                script = {OPEN.digest: self._open, WHERE.digest: self._where}
                if digest == PUBLISH.digest:
                    return self._publish(keys, arguments)
                return script[digest](keys, arguments)
        raise AssertionError(command)

    def _open(self, keys: list[bytes], arguments: list[bytes]) -> Reply:
        replid, epoch, _, most, longest = arguments
        found = self.keys.setdefault(keys[0], {})
        if found.get(b"r") != replid or b"e" not in found:
            found.update({b"r": replid, b"e": epoch, b"k": b"0", b"m": most, b"c": longest})
        return [b"ok", found[b"e"]]

    def _fresh(self, part: dict[bytes, bytes]) -> bytes:
        part[b"k"] = b"%d" % (int(part[b"k"]) + 1)
        return part[b"e"] + b"." + part[b"k"]

    def _where(self, keys: list[bytes], arguments: list[bytes]) -> Reply:
        part = self.keys.get(keys[0], {})
        if part.get(b"e") != arguments[0]:
            return b"stale"
        answers: list[Reply] = []
        fresh = b""
        for key in keys[1:]:
            found = self.keys.setdefault(key, {})
            if not found.get(b"g", b"").startswith(arguments[0] + b"."):
                fresh = fresh or self._fresh(part)
                found.update({b"g": fresh, b"n": b"0"})
                self._note(key.rpartition(b":c:")[2], found)
            answers.append(found[b"g"] + b":" + found[b"n"])
        return answers

    def _publish(self, keys: list[bytes], arguments: list[bytes]) -> Reply:
        part = self.keys.get(keys[0], {})
        epoch, hub, _, *rest = arguments
        if part.get(b"e") != epoch:
            return b"stale"
        answers: list[Reply] = []
        for index, key in enumerate(keys[1:]):
            channel, number, run = rest[3 * index : 3 * index + 3]
            found = self.keys.get(key)
            if not found:
                self._push(channel, b"")
                answers.append(b"")
                continue
            if not found[b"g"].startswith(epoch + b"."):
                found.update({b"g": self._fresh(part), b"n": b"0"})
                self._note(key.rpartition(b":c:")[2], found)
            found[b"n"] = b"%d" % (int(found[b"n"]) + int(number))
            position = found[b"g"] + b":" + found[b"n"]
            name = channel.rpartition(b":m:")[2]
            self.log.setdefault(name.decode(), []).extend(data for _, data in records(run))
            self._note(name, found)
            self._push(channel, b"%b %b %b\n%b" % (position, number, hub, run))
            answers.append(position)
        return answers

    def _note(self, name: bytes, found: dict[bytes, bytes]) -> None:
        channel = name.decode()
        position = found[b"g"] + b":" + found[b"n"]
        self.index[channel, position] = len(self.log.setdefault(channel, []))

    def delete(self, channel: str) -> None:
        """Lose a channel's key, as an engine that evicts does."""
        self.keys.pop(NAMES.channel_key(0, channel.encode()), None)

    def fail_over(self, replid: str, forgotten: int) -> None:
        """Go on under another replid, with counts that are behind."""
        self.replid = replid
        for key, found in self.keys.items():
            if b":c:" in key:
                found[b"n"] = b"%d" % max(0, int(found[b"n"]) - forgotten)

    def position(self, channel: str) -> bytes | None:
        found = self.keys.get(NAMES.channel_key(0, channel.encode()))
        return found[b"g"] + b":" + found[b"n"] if found else None

    def _push(self, channel: bytes, data: bytes) -> None:
        for connection in self.connections:
            if channel in connection.channels:
                connection.incoming.append((None, channel, data))


class ModelConnection:
    """A hub's connection to the engine: both ways in order, and as slow as the test wants."""

    def __init__(self, engine: ModelEngine) -> None:
        self.engine = engine
        self.channels: set[bytes] = set()
        self.outgoing: deque[tuple[tuple[bytes, ...], OnReply]] = deque()
        self.incoming: deque[tuple[OnReply | None, Any, bytes]] = deque()
        self.is_up = False

    def send(self, partition: int, *command: bytes, on_reply: OnReply) -> None:
        self.outgoing.append((command, on_reply))

    def step_up(self) -> bool:
        """Let the engine carry out one command."""
        if not self.outgoing:
            return False
        command, on_reply = self.outgoing.popleft()
        place = len(self.incoming)
        reply = self.engine.execute(command, self)
        if not self.engine.replies_first:
            place = len(self.incoming)
        self.incoming.insert(place, (on_reply, reply, b""))
        return True


class ModelHub:
    """A hub: broker, fleet and its end of sessions."""

    def __init__(self, engine: ModelEngine, number: int, limits: Limits | None = None) -> None:
        self.engine = engine
        self.connection = ModelConnection(engine)
        self.broker = FleetBroker(f"hub{number}", limits)
        self._epochs = 0
        self._number = number
        self.needs_flush = False
        self.fleet = Fleet(
            self.broker,
            self.connection,
            NAMES,
            hub=f"hub{number}",
            new_epoch=self._new_epoch,
            on_work=self._on_work,
        )
        self.now = 0.0

    def _new_epoch(self) -> str:
        self._epochs += 1
        return f"e{self._number}-{self._epochs}"

    def _on_work(self) -> None:
        self.needs_flush = True

    def flush(self) -> bool:
        if not self.needs_flush:
            return False
        self.needs_flush = False
        self.fleet.flush()
        return True

    def step_down(self) -> bool:
        """Let the hub look at one thing that the engine has sent."""
        if not self.connection.incoming:
            return False
        on_reply, what, data = self.connection.incoming.popleft()
        if on_reply is None:
            self.fleet.on_push(what, data)
        else:
            on_reply(what)
        return True

    def connect(self) -> None:
        if not self.connection.is_up:
            self.connection.is_up = True
            self.engine.connections.append(self.connection)
            self.fleet.on_up([0], self.engine.replid)

    def cut(self, sent: int) -> None:
        """Lose the connection: of what was not carried out, so many commands were sent."""
        if not self.connection.is_up:
            return
        connection = self.connection
        connection.is_up = False
        self.engine.connections.remove(connection)
        connection.channels = set()
        incoming, connection.incoming = connection.incoming, deque()
        outgoing, connection.outgoing = connection.outgoing, deque()
        for on_reply, _, _ in incoming:
            if on_reply is not None:
                on_reply(Lost(True))
        for index, (_, on_reply) in enumerate(outgoing):
            on_reply(Lost(index < sent))
        # What is sent to a connection that has ended goes nowhere.
        for _, on_reply in connection.outgoing:
            on_reply(Lost(False))
        connection.outgoing.clear()
        self.fleet.on_down([0])

    def tick(self, seconds: float) -> None:
        self.now += seconds
        while self.broker.tick(self.now) <= self.now:
            pass


class Account:
    """What a user knows of one channel since it subscribed."""

    def __init__(self, start: bytes) -> None:
        self.start = start
        #: Where the user stood when it left its last hub.
        self.left_at = start
        self.received: list[bytes] = []
        self.missed = 0
        self.is_unknown = False


class User:
    """A client of some hub; it takes its positions along when it moves."""

    def __init__(self, hub: ModelHub) -> None:
        self.accounts: dict[str, Account] = {}
        #: Operations that subscribe, and the channel of each.
        self._joining: dict[int, str] = {}
        #: Operations that publish in a channel that the user itself has, and what.
        self._publishing: dict[int, tuple[str, Account, tuple[bytes, ...]]] = {}
        self.codes: list[bytes] = []
        self.hub = hub
        self.server = FleetProtocol(hub.broker, hub.fleet, session="s")
        self.client = ClientProtocol()
        self.pump()

    def move(self, hub: ModelHub) -> None:
        """Lose the session, and open one at another hub."""
        self.server.close()
        for name, account in self.accounts.items():
            account.left_at = self.client.position(name) or account.left_at
        self.hub = hub
        self.server = FleetProtocol(hub.broker, hub.fleet, session="s")
        self.client = ClientProtocol()
        self._joining = {}
        self._publishing = {}
        self.pump()
        for name, account in self.accounts.items():
            operation = self.client.subscribe([name], {name: account.left_at})
            assert operation is not None
            self._joining[operation] = name

    def subscribe(self, channel: str) -> None:
        if channel not in self.accounts and channel not in self._joining.values():
            operation = self.client.subscribe([channel])
            assert operation is not None
            self._joining[operation] = channel

    def unsubscribe(self, channel: str) -> None:
        if channel in self.accounts and channel not in self._joining.values():
            self.client.unsubscribe([channel])
            del self.accounts[channel]

    def publish(self, channel: str, *messages: bytes) -> None:
        operation = self.client.publish_many([(channel, data) for data in messages])
        if operation is not None and channel in self.accounts:
            self._publishing[operation] = (channel, self.accounts[channel], messages)

    def pump(self) -> bool:
        """Move what is on its way between client and hub."""
        moved = False
        while True:
            up, down = self.client.data_to_send(), self.server.data_to_send()
            if not up and not down:
                return moved
            moved = True
            if up:
                self.server.receive_data(up)
                for event in drain(self.server):
                    if isinstance(event, Hello):
                        self.server.accept()
            if down:
                self.client.receive_data(down)
                for event in drain(self.client):
                    self._take(event)

    def _take(self, event: Any) -> None:
        match event:
            case Messages():
                for run in event.runs:
                    account = self.accounts.get(run.channel)
                    if account is not None:
                        account.received += [message.data for message in run.messages]
            case Gap(channel, missed):
                account = self.accounts.get(channel)
                if account is not None and missed is None:
                    account.is_unknown = True
                elif account is not None:
                    account.missed += missed or 0
            case Acked(operations):
                for operation in operations:
                    if operation in self._publishing:
                        # Whoever unsubscribes now must have it, or know that it misses it.
                        channel, account, messages = self._publishing.pop(operation)
                        has_all = set(messages) <= set(account.received)
                        is_left = self.accounts.get(channel) is not account
                        assert has_all or account.missed or account.is_unknown or is_left
                    if operation in self._joining:
                        joined = self._joining.pop(operation)
                        position = self.client.position(joined)
                        if position is not None:
                            self.accounts.setdefault(joined, Account(position))
            case Rejected(operation, refusals):
                self.codes += [refusal.code for refusal in refusals]
                if operation in self._joining:
                    self.accounts.pop(self._joining.pop(operation), None)


def settle(hubs: Iterable[ModelHub], users: Iterable[User]) -> None:
    """Let everything happen that can."""
    hubs, users = list(hubs), list(users)
    while True:
        moved = [user.pump() for user in users]
        moved += [hub.flush() for hub in hubs]
        for hub in hubs:
            moved += [hub.connection.is_up and hub.connection.step_up(), hub.step_down()]
        if not any(moved):
            return


__all__ = ["NAMES", "ModelEngine", "ModelHub", "User", "settle"]
