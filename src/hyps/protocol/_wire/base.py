"""What a wire is: how frames become bytes, and bytes frames. All else is the same on every wire."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..limits import FRAME_WORK

if TYPE_CHECKING:
    from collections.abc import Iterable


class Wire(ABC):
    """Translates between frames and bytes, for one end of one connection.

    The attributes say what a wire can do; those of the native one are the defaults.
    """

    #: What it is called, for operators.
    name: str = "hyps"
    #: The largest frame from the peer, in bytes of kind and body; a larger one is refused.
    max_frame: int
    #: Bytes of bodies that :meth:`encode` took and that the wire holds back for now.
    held: int = 0
    #: Whether the wire itself has something to send.
    has_output: bool = False
    #: Whether the wire may ever have something to send by itself.
    speaks_itself: bool = False
    #: Whether to call :meth:`tick` now, and :meth:`next_frame` after it.
    wants_tick: bool = False
    #: Whether the peer is known to answer a PING.
    answers_ping: bool = True
    #: Whether the peer may send operations before its greeting is answered.
    is_eager: bool = False
    #: Whether the peer still answers after this end has half-closed.
    may_half_close: bool = True
    #: Units of work in decoding a frame, whatever is in it.
    frame_work: int = FRAME_WORK
    #: Whether the hub can tell of each message that it drops.
    counts_losses: bool = True
    #: Whether clients look at the codes of refused records.
    shows_refusals: bool = True
    #: Whether the limits in WELCOME are the hub's.
    tells_limits: bool = True

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call :meth:`next_frame` until it returns None afterwards."""

    @abstractmethod
    def next_frame(self) -> tuple[int, bytes] | None:
        """Return the next frame's kind and body, None if more data is needed, or ``NO_FRAME``.

        :raises RemoteProtocolError: the peer broke the rules
        """

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that are not part of a returned frame."""

    @property
    def unfinished_frame(self) -> tuple[int, int] | None:
        """The frame or record that has arrived in part; None if there is none.

        :return: a number, different for each of them, and how many of its bytes have arrived
        """
        return None

    @abstractmethod
    def discard(self) -> None:
        """Forget what is buffered."""

    @abstractmethod
    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        """Encode one frame.

        :param kind: kind of the frame
        :param bodies: parts of its body
        :param length: bytes of all of them
        :return: bytes to send; :meth:`flush` gives what comes later
        """

    def encode_one(self, kind: int, body: bytes) -> bytes:
        """Encode a frame whose body has one part."""
        return b"".join(self.encode(kind, [body], len(body)))

    def flush(self) -> Iterable[bytes]:
        """Return what else may be sent now."""
        return ()

    def clear(self) -> None:  # noqa: B027 - there is nothing to clear where nothing is held
        """Drop what the wire holds back."""

    def shed(self) -> list[bytes]:
        """Drop the messages that the wire holds back and of which it has sent no byte.

        :return: their records, whole and in order
        """
        return []

    def tick(self, now: float) -> float:
        """Act on the time.

        :return: when to call again, at the latest
        """
        return math.inf
