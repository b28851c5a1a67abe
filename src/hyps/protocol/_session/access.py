"""What a session may do with a channel: one question, which the session asks before it acts."""

from __future__ import annotations

import enum
from typing import Protocol


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
