"""The states of a connection, what moves it from one to the next, and what may arrive in each.

A connection has two ends, and each end has a state of its own. The two need not agree: what one end
has sent is still on its way to the other. Three rules make that harmless:

1. A state is what an end has *looked at* and *said*, not what has arrived. An end looks at frames
   when its embedder asks for events, so events tell of states in the order in which they happened.
2. The end that receives decides what is legal, by its own state alone. A frame that the table below
   does not allow is a violation by the peer, whatever it is.
3. Ending has two steps. DRAINING promises to begin nothing new and to finish what was begun. CLOSED
   promises to send what is queued and to look at nothing any more. An end that is CLOSED discards
   what arrives, because the peer may not know yet.

The usual life of the hub's end is OPENING, HELLO arrives, GREETED, the embedder accepts, OPEN,
GOAWAY, DRAINING, the client closes, CLOSED. The client's end has no GREETED: it sends HELLO as its
first frame, and WELCOME takes it from OPENING to OPEN. Any state can end in CLOSED at once.

Everything that changes a state is a :class:`Step`, and :data:`TRANSITIONS` has all of them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, TypeVar

from .._wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

_Handler = TypeVar("_Handler")


class State(enum.Enum):
    """Where a connection is in its life."""

    #: The first frame has not come yet.
    OPENING = "opening"
    #: At the hub: HELLO came and is not answered yet.
    GREETED = "greeted"
    #: Operations may be sent.
    OPEN = "open"
    #: No new operations; what was begun is finished.
    DRAINING = "draining"
    #: What is queued is still sent; what arrives is discarded.
    CLOSED = "closed"


# Each frame looks a state up. Enum's own __hash__ is a function in Python; this one is in C. It may
# be, because members are singletons and equal only to themselves.
State.__hash__ = object.__hash__  # type: ignore[method-assign]


class Step(enum.Enum):
    """What changes a state."""

    #: The hub has looked at HELLO.
    HELLO = enum.auto()
    #: The hub's embedder accepts the client.
    ACCEPT = enum.auto()
    #: The client has looked at WELCOME.
    WELCOME = enum.auto()
    #: One end wants to part: the hub sends GOAWAY, the client receives it or closes.
    LEAVE = enum.auto()
    #: The end of everything: an ERROR, a violation, the end of the stream, or the embedder's wish.
    CLOSE = enum.auto()


TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = {
    (State.OPENING, Step.HELLO): State.GREETED,
    (State.GREETED, Step.ACCEPT): State.OPEN,
    (State.OPENING, Step.WELCOME): State.OPEN,
    (State.OPEN, Step.LEAVE): State.DRAINING,
    **{(state, Step.CLOSE): State.CLOSED for state in State},
}

_HUB_SERVES: Final = frozenset(
    {
        Kind.PUBLISH,
        Kind.SUBSCRIBE,
        Kind.UNSUBSCRIBE,
        Kind.PING,
        Kind.PONG,
        Kind.AUTH,
        Kind.ERROR,
    }
)

#: What a hub may receive. In GREETED a client may give up. In DRAINING it may not have seen GOAWAY.
HUB_RECEIVES: Final[Mapping[State, frozenset[Kind]]] = {
    State.OPENING: frozenset({Kind.HELLO, Kind.ERROR}),
    State.GREETED: frozenset({Kind.ERROR}),
    State.OPEN: _HUB_SERVES,
    State.DRAINING: _HUB_SERVES,
}

_CLIENT_HEARS: Final = frozenset(
    {
        Kind.PUBLISH_ACK,
        Kind.SUBSCRIBE_ACK,
        Kind.UNSUBSCRIBE_ACK,
        Kind.MESSAGES,
        Kind.GAP,
        Kind.PING,
        Kind.PONG,
        Kind.AUTH,
        Kind.GOAWAY,
        Kind.ERROR,
    }
)

#: What a client may receive. While it is DRAINING the hub answers what was begun.
CLIENT_RECEIVES: Final[Mapping[State, frozenset[Kind]]] = {
    State.OPENING: frozenset({Kind.WELCOME, Kind.GOAWAY, Kind.ERROR}),
    State.OPEN: _CLIENT_HEARS,
    State.DRAINING: _CLIENT_HEARS,
}


def make_table(
    receives: Mapping[State, frozenset[Kind]], handlers: Mapping[Kind, _Handler]
) -> Mapping[State, Mapping[int, _Handler]]:
    """Combine what is legal with what handles it, so that a frame takes one look-up.

    A kind that is legal and has no handler, or has a handler and is legal nowhere, is a mistake in
    the tables.
    """
    legal = frozenset().union(*receives.values())
    assert legal == handlers.keys(), legal ^ handlers.keys()
    return {
        state: {kind.value: handlers[kind] for kind in kinds} for state, kinds in receives.items()
    }
