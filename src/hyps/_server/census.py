"""The census: what operators see of a hub, its connections and its sessions.

Whatever is counted here happens once for a connection, or is read from its protocol object when
somebody asks: nothing is done for each message.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._net.backend import loop_name
from ..protocol import State

if TYPE_CHECKING:
    from .._net.sockets import Transport
    from ..protocol import ServerProtocol

#: Reasons of refusals that are told from the start, so that the first one is seen as a change. The
#: others are codes of errors, see :class:`~hyps.protocol.ErrorCode`.
REASONS: Final = ("token", "limit", "error", "tls", "crowd")


#: Characters of a name that operators see. Clients choose theirs, and there are many rows.
_MAX_NAME: Final = 200


class Entry:
    """A connection that runs a session, or may open one.

    :param number: the session's
    :param address: the client's address and port, as the log has it
    :param tls: whether it came over TLS
    """

    __slots__ = (
        "_census",
        "address",
        "client",
        "identity",
        "number",
        "opened_at",
        "protocol",
        "tls",
        "transport",
    )

    def __init__(
        self,
        census: Census,
        number: str,
        address: str,
        transport: Transport,
        protocol: ServerProtocol,
        *,
        tls: bool,
    ) -> None:
        self._census = census
        self.number: str = number
        self.address: str = address
        self.transport: Transport = transport
        self.protocol: ServerProtocol = protocol
        self.tls: bool = tls
        #: What the client calls itself.
        self.client: str = ""
        #: The name in its grants.
        self.identity: str = ""
        #: On the clock of :func:`time.monotonic`; None until the session opens.
        self.opened_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the session is open, or was asked to leave and has not left yet."""
        return self.protocol.state in (State.OPEN, State.DRAINING)

    @property
    def wire(self) -> str:
        """What the client speaks: ``"hyps"`` or ``"http2"``."""
        return self.protocol.wire_name

    def open(self, client: str, identity: str) -> None:
        """Note that the session has opened."""
        self.client = client[:_MAX_NAME]
        self.identity = identity[:_MAX_NAME]
        self.opened_at = time.monotonic()
        self._census.opened += 1

    def refuse(self, reason: str) -> None:
        """Note that the client was refused before it had a session."""
        if self.opened_at is None:
            self._census.refused[reason] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """Connections by their state, and what went through all that there ever were.

    :param opening: have no session yet
    :param open: have one
    :param draining: were asked to leave, or say goodbye
    :param bytes_received: from clients, as the sessions saw them: without TLS
    :param bytes_sent: likewise
    """

    opening: int
    open: int
    draining: int
    bytes_received: int
    bytes_sent: int


class Census:
    """What happened to all connections of a hub, and those that there are."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        #: The event loop: "asyncio", "uvloop" or "trio"; empty until the hub runs.
        self.loop: str = ""
        #: Connections that were accepted.
        self.accepted: int = 0
        #: Sessions that were opened.
        self.opened: int = 0
        #: Connections and requests that were refused, by reason.
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        #: Connections in a TLS handshake, which have no protocol object yet.
        self.handshaking: int = 0
        self._entries: dict[str, Entry] = {}
        #: Bytes of connections that have ended: received and sent.
        self.ended: tuple[int, int] = (0, 0)

    @property
    def uptime(self) -> float:
        """Seconds since the hub was started."""
        return time.monotonic() - self._began

    def start(self) -> None:
        """Note that the hub starts, in this event loop."""
        self._began = time.monotonic()
        self.loop = loop_name()

    def enter(
        self,
        number: str,
        address: str,
        transport: Transport,
        protocol: ServerProtocol,
        *,
        tls: bool,
    ) -> Entry:
        """Note a connection."""
        entry = Entry(self, number, address, transport, protocol, tls=tls)
        self._entries[number] = entry
        return entry

    def leave(self, entry: Entry) -> None:
        """Note that a connection has ended."""
        del self._entries[entry.number]
        received, sent = self.ended
        protocol = entry.protocol
        self.ended = (received + protocol.bytes_received, sent + protocol.bytes_sent)

    def entries(self) -> list[Entry]:
        """All connections with a protocol object, the oldest first. Any thread may ask."""
        return list(self._entries.values())

    def connections(self) -> Connections:
        """Count connections and bytes. Any thread may ask."""
        received, sent = self.ended
        entries = self.entries()
        is_open = is_opening = 0
        # In one go, so that the sums are of one moment.
        for entry in entries:
            protocol = entry.protocol
            state = protocol.state
            if state is State.OPEN:
                is_open += 1
            elif state is State.OPENING or state is State.GREETED:
                is_opening += 1
            received += protocol.bytes_received
            sent += protocol.bytes_sent
        return Connections(
            opening=self.handshaking + is_opening,
            open=is_open,
            draining=len(entries) - is_open - is_opening,
            bytes_received=received,
            bytes_sent=sent,
        )
