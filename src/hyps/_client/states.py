"""The life of a client's connection, as two state machines.

A client has one :class:`.Reconnector`, and that makes one :class:`.Attempt` after the other.
An attempt is one host that it dials and, if that succeeds, the one connection that comes of it.

The client's machine answers the question "what can a caller expect?"

- STARTING: there never was a connection. If no host accepts the client, that is final.
- OPEN: operations can begin.
- RECONNECTING: there was a connection, and there will be another one. Callers wait, or are told.
- FINISHING: nothing will ever begin again. The goodbye may still be under way.
- ENDED: the background task has ended by itself.
- INTERRUPTED: something else ended the background task: the event loop stopped.
- ABANDONED: the event loop is gone, and the background task with it, wherever it was. Nothing that
  belongs to the loop may be touched any more.

The attempt's machine answers the question "what has this connection promised?"

- OPENING: the host is dialled, or WELCOME and the restored subscriptions are awaited.
- OPEN: operations can begin on it.
- STOPPED: no operation begins on it. Answers to earlier ones may still come.
- FAILED: everybody who waited for it has been told.

Each change happens in one go, without waiting, and only then does I/O follow. So no task ever sees
a half-done change. There is one race that looks otherwise: an attempt can stop while it is still
OPENING, because the user closes the client or the hub refuses it, and the answer that would have
opened it comes afterwards. The table has no way from STOPPED to OPEN, and the code that opens an
attempt asks first.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class ClientState(enum.Enum):
    """See the module's description."""

    STARTING = "starting"
    OPEN = "open"
    RECONNECTING = "reconnecting"
    FINISHING = "finishing"
    ENDED = "ended"
    INTERRUPTED = "interrupted"
    ABANDONED = "abandoned"


class ClientStep(enum.Enum):
    """What changes a client's state."""

    #: An attempt has opened.
    OPEN = enum.auto()
    #: The attempt that was open has stopped.
    LOSE = enum.auto()
    #: The user closes the client, or the first connection was refused.
    FINISH = enum.auto()
    #: The background task ends.
    END = enum.auto()
    #: The event loop is found gone.
    ABANDON = enum.auto()


_ALIVE: Final = (ClientState.STARTING, ClientState.OPEN, ClientState.RECONNECTING)

CLIENT_TRANSITIONS: Final[Mapping[tuple[ClientState, ClientStep], ClientState]] = {
    (ClientState.STARTING, ClientStep.OPEN): ClientState.OPEN,
    (ClientState.RECONNECTING, ClientStep.OPEN): ClientState.OPEN,
    (ClientState.OPEN, ClientStep.LOSE): ClientState.RECONNECTING,
    **{(state, ClientStep.FINISH): ClientState.FINISHING for state in _ALIVE},
    # Nobody has finished it: something else ended the task.
    **{(state, ClientStep.END): ClientState.INTERRUPTED for state in _ALIVE},
    # What is left is to tell everybody.
    (ClientState.INTERRUPTED, ClientStep.LOSE): ClientState.INTERRUPTED,
    (ClientState.INTERRUPTED, ClientStep.FINISH): ClientState.INTERRUPTED,
    (ClientState.FINISHING, ClientStep.END): ClientState.ENDED,
    **{(state, ClientStep.ABANDON): ClientState.ABANDONED for state in ClientState},
    # The garbage collector may close the task of an event loop that is gone.
    (ClientState.ABANDONED, ClientStep.END): ClientState.ABANDONED,
}


class AttemptState(enum.Enum):
    """See the module's description."""

    OPENING = "opening"
    OPEN = "open"
    STOPPED = "stopped"
    FAILED = "failed"


class AttemptStep(enum.Enum):
    """What changes an attempt's state."""

    OPEN = enum.auto()
    STOP = enum.auto()
    FAIL = enum.auto()


ATTEMPT_TRANSITIONS: Final[Mapping[tuple[AttemptState, AttemptStep], AttemptState]] = {
    (AttemptState.OPENING, AttemptStep.OPEN): AttemptState.OPEN,
    (AttemptState.OPENING, AttemptStep.STOP): AttemptState.STOPPED,
    (AttemptState.OPEN, AttemptStep.STOP): AttemptState.STOPPED,
    (AttemptState.STOPPED, AttemptStep.FAIL): AttemptState.FAILED,
}
