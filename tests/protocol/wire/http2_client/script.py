"""A client wired to the scripted hub without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocol.pair import EVERYTHING, drain
from support.nim import MESSAGES, PUBLISH, SUBSCRIBE, NimHub

from hyps.protocol import Acked, ClientProtocol, Limits, Messages, Rejected, State
from hyps.protocol._wire.http2 import ClientWire

if TYPE_CHECKING:
    from protocol.pair import Event

PATHS = (SUBSCRIBE, PUBLISH, MESSAGES)


class Script:
    """A client, the hub, and the bytes between them.

    :param piece: bytes that arrive at the client at once, at most
    :param options: of the hub
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        token: str | None = None,
        piece: int = EVERYTHING,
        **options: Any,
    ) -> None:
        self.hub = NimHub(**options)
        wire = ClientWire("127.0.0.1:8787", limits=limits)
        self.client = ClientProtocol(client="a test", token=token, limits=limits, wire=wire)
        self.now = 0.0
        self._piece = piece

    def arrive(self, data: bytes) -> list[Event]:
        """Give the client bytes, in pieces, and the time when it wants it, as the I/O layer does.

        :return: its events
        """
        found: list[Event] = []
        for start in range(0, len(data), self._piece):
            self.client.receive_data(data[start : start + self._piece])
            drain(self.client, found)
        return found

    def pump(self) -> list[Event]:
        """Move bytes until none are left.

        :return: the client's events
        """
        found: list[Event] = []
        while True:
            up = self.client.data_to_send()
            if self.client.wants_tick:
                self.client.tick(self.now)
                drain(self.client, found)
            self.hub.receive_data(up)
            down = self.hub.data_to_send()
            if not up and not down:
                return found
            found += self.arrive(down)

    def subscribe(self, *channels: str) -> list[Event]:
        self.client.subscribe(channels)
        return self.pump()


def opened(**options: Any) -> Script:
    """A session that is open, whose first events nobody needs."""
    script = Script(**options)
    script.pump()
    assert script.client.state is State.OPEN
    return script


def messages_of(events: list[Event]) -> list[tuple[str, bytes]]:
    """All messages, in order."""
    return [
        (message.channel, message.data)
        for event in events
        if isinstance(event, Messages)
        for run in event.runs
        for message in run.messages
    ]


def answered(events: list[Event]) -> list[int]:
    """The ids of the operations that were answered, in order."""
    found: list[int] = []
    for event in events:
        if isinstance(event, Acked):
            found += event.operations
        elif isinstance(event, Rejected):
            found.append(event.operation)
    return found
