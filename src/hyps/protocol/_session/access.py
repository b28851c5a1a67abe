"""What a session may do with a channel: one question, which the session asks before it acts."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol

from .._records.layout import decode_channel
from ..errors import RemoteProtocolError

if TYPE_CHECKING:
    from .._records.scanning import Runs

#: A session remembers at most about this many channels that it may publish in.
_MAX_REMEMBERED: Final = 8_192


class Verb(enum.Enum):
    """What a session asks to do with a channel. It may always leave one."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


class Access(Protocol):
    """Decides what one session may do, see :attr:`ServerProtocol.access`."""

    def may(self, verb: Verb, channel: str) -> bool:
        """Answer for one channel, at once and without raising.

        The session asks for each channel of a SUBSCRIBE, and for each run of neighbouring messages
        of one channel that it publishes. So keep it cheap.

        :param verb: what the session asks to do
        :param channel: name of the channel
        :return: whether it may; if not, the hub answers with the code ``d``
        """
        ...


class Publishable:
    """The channels that a session may publish in, as far as its access was asked.

    :param access: the session's
    """

    __slots__ = ("_access", "_names")

    def __init__(self, access: Access) -> None:
        self._access = access
        self._names: set[bytes] = set()

    def has(self, names: list[bytes]) -> bool:
        """Tell whether it is known that the session may publish in all of these."""
        return self._names.issuperset(names)

    def may(self, name: bytes) -> bool:
        """Tell whether the session may publish in a channel, and remember it if so.

        :raises RemoteProtocolError: if the name is not UTF-8
        """
        if name in self._names:
            return True
        if len(self._names) > _MAX_REMEMBERED:
            self._names.clear()
        may = self._access.may(Verb.PUBLISH, decode_channel(name))
        if may:
            self._names.add(name)
        return may

    def judge(self, runs: Runs) -> tuple[list[tuple[bool, int, int]], RemoteProtocolError | None]:
        """Ask about runs.

        :return: stretches of neighbours with one verdict: the verdict, the offset behind the
            stretch, and how many records it has; the error behind the last one, if any
        """
        names, stops, counts, error = runs
        known = self._names
        if len(known) > _MAX_REMEMBERED:
            known.clear()
        stretches: list[tuple[bool, int, int]] = []
        for name, stop, count in zip(names, stops, counts, strict=True):
            try:
                may = name in known or self._access.may(Verb.PUBLISH, decode_channel(name))
            except RemoteProtocolError as invalid:
                # What precedes it is valid.
                return stretches, invalid
            if may:
                known.add(name)
            if stretches and stretches[-1][0] is may:
                count += stretches.pop()[2]
            stretches.append((may, stop, count))
        return stretches, error
