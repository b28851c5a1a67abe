"""Both ends of connections, wired together without I/O, and short ways to look at them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hyps.protocol import (
    PREFACE,
    Broker,
    ClientEvent,
    ClientProtocol,
    FrameDecoder,
    Hello,
    Kind,
    Limits,
    NeedData,
    RemoteProtocolError,
    ServerEvent,
    ServerProtocol,
    State,
    encode_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Event = ClientEvent | ServerEvent
End = ClientProtocol | ServerProtocol

#: More than any test queues: everything at once.
EVERYTHING = 2**40

HELLO_FIELDS: dict[str, object] = {"client": "test", "features": []}
WELCOME_FIELDS: dict[str, object] = {
    "server": "test",
    "session": "s",
    "features": [],
    "heartbeat": 20,
    "max_message": 1000,
    "max_channel": 100,
    "max_frame": 70_000,
    "max_channels": 1000,
    "max_in_flight": 1000,
}


def json_frame(kind: int, fields: dict[str, object]) -> bytes:
    return encode_frame(kind, json.dumps(fields).encode())


def hello(**changes: object) -> bytes:
    """A HELLO frame; the preface is not in it."""
    return json_frame(Kind.HELLO, HELLO_FIELDS | changes)


def welcome(**changes: object) -> bytes:
    return json_frame(Kind.WELCOME, WELCOME_FIELDS | changes)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Kinds and bodies of whole frames."""
    decoder = FrameDecoder(2**32)
    decoder.receive_data(data)
    found = []
    while (frame := decoder.next_frame()) is not None:
        found.append(frame)
    assert decoder.buffered == 0
    return found


def output(end: End) -> list[tuple[int, bytes]]:
    """The frames that are queued, and those that follow once they have been sent."""
    return frames(b"".join(iter(end.data_to_send, b"")))


def error_fields(end: End) -> dict[str, Any]:
    """The object of the ERROR that is queued last."""
    kind, body = output(end)[-1]
    assert kind == Kind.ERROR
    fields = json.loads(body)
    assert isinstance(fields, dict)
    return fields


def drain(end: End, into: list[Event] | None = None) -> list[Event]:
    """All events up to ``NEED_DATA``; with ``into``, those before an error can be seen."""
    found: list[Event] = [] if into is None else into
    while not isinstance(event := end.next_event(), NeedData):
        found.append(event)
    return found


def receive(end: End, data: bytes) -> list[Event]:
    end.receive_data(data)
    return drain(end)


def expect_violation(end: End, data: bytes, code: str = "protocol") -> list[Event]:
    """The peer sends what breaks the rules, and is told so.

    :return: the events of what was valid before it
    """
    end.receive_data(data)
    found: list[Event] = []
    with pytest.raises(RemoteProtocolError) as first:
        drain(end, found)
    assert first.value.code == code
    # The first violation is the last, whatever comes.
    end.receive_data(welcome())
    with pytest.raises(RemoteProtocolError) as second:
        end.next_event()
    assert second.value is first.value
    assert end.state is State.CLOSED
    assert error_fields(end)["code"] == code
    assert end.data_to_send() == b""
    assert end.eof_is_due
    return found


def open_server(limits: Limits | None = None, broker: Broker | None = None) -> ServerProtocol:
    """A session whose client is the test: it said HELLO and has read WELCOME."""
    server = ServerProtocol(Broker("boot", limits) if broker is None else broker, session="s")
    [event] = receive(server, PREFACE + hello())
    assert isinstance(event, Hello)
    server.accept()
    [(kind, _)] = output(server)
    assert kind == Kind.WELCOME
    assert server.data_to_send() == b""
    return server


def open_client(**changes: object) -> ClientProtocol:
    """A client whose hub is the test: it has sent WELCOME and read everything."""
    client = ClientProtocol()
    assert client.data_to_send().startswith(PREFACE)
    assert client.data_to_send() == b""
    receive(client, welcome(**changes))
    assert client.state is State.OPEN
    return client


class Pair:
    """A client, its session at a hub, and the bytes that are on their way between them."""

    def __init__(
        self,
        broker: Broker | None = None,
        *,
        limits: Limits | None = None,
        opened: bool = True,
    ) -> None:
        self.broker = Broker("boot", limits) if broker is None else broker
        self.server = ServerProtocol(self.broker, session="s")
        self.client = ClientProtocol()
        self.up = bytearray()
        self.down = bytearray()
        self.server_events: list[Event] = []
        self.client_events: list[Event] = []
        if opened:
            self.pump()
            self.server_events.clear()
            self.client_events.clear()

    def send_up(self, max_bytes: int = EVERYTHING) -> int:
        return self._send(self.client, self.up, max_bytes)

    def send_down(self, max_bytes: int = EVERYTHING) -> int:
        return self._send(self.server, self.down, max_bytes)

    def arrive_up(self, size: int = EVERYTHING) -> int:
        return self._arrive(self.server, self.up, size, self.server_events)

    def arrive_down(self, size: int = EVERYTHING) -> int:
        return self._arrive(self.client, self.down, size, self.client_events)

    def _send(self, end: End, wire: bytearray, max_bytes: int) -> int:
        data = end.data_to_send(max_bytes)
        wire += data
        return len(data)

    def _arrive(self, end: End, wire: bytearray, size: int, events: list[Event]) -> int:
        data = bytes(wire[:size])
        del wire[:size]
        if not data:
            return 0
        end.receive_data(data)
        start = len(events)
        try:
            drain(end, events)
        finally:
            if isinstance(end, ServerProtocol) and any(
                isinstance(event, Hello) for event in events[start:]
            ):
                end.accept()
        return len(data)

    def pump(self) -> list[Event]:
        """Move bytes until none are left.

        :return: the client's events since the last time
        """
        moves = (self.send_up, self.arrive_up, self.send_down, self.arrive_down)
        while sum([move() for move in moves]):
            pass
        found = self.client_events[:]
        self.client_events.clear()
        return found

    def lose(self) -> None:
        """Cut the connection: what is on its way is gone, and both ends see its end."""
        self.up.clear()
        self.down.clear()
        for end, events in (
            (self.server, self.server_events),
            (self.client, self.client_events),
        ):
            end.receive_data(b"")
            drain(end, events)
        # What a dead connection can no longer take is still asked for once.
        self.server.data_to_send(EVERYTHING)
        self.client.data_to_send(EVERYTHING)


def connect(broker: Broker, *channels: str) -> Pair:
    """One more client of a hub, with channels."""
    pair = Pair(broker)
    pair.client.subscribe(channels)
    pair.pump()
    return pair


def replay(
    end: End, chunks: Iterable[bytes], on_open: Callable[[Any], object] = lambda end: None
) -> tuple[list[Event], tuple[str, str] | None]:
    """Give bytes to an end and its end after them.

    :param on_open: called when the session is open
    :return: all events, and code and text of the violation if there was one
    """
    found: list[Event] = []
    was_open = False
    try:
        for chunk in (*filter(None, chunks), b""):
            end.receive_data(chunk)
            while not isinstance(event := end.next_event(), NeedData):
                found.append(event)
                if isinstance(event, Hello) and isinstance(end, ServerProtocol):
                    end.accept()
                if not was_open and end.state is State.OPEN:
                    was_open = True
                    on_open(end)
    except RemoteProtocolError as error:
        return found, (error.code, str(error))
    return found, None
