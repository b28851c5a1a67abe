"""What a wire is: how frames become bytes, and bytes frames. All else is the same on every wire."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..limits import FRAME_WORK

if TYPE_CHECKING:
    from collections.abc import Iterable


class Wire(ABC):
    """One end of one connection, as a translator between frames and bytes.

    The attributes say what a wire can do; those of the native one are the defaults.
    """

    #: Bytes of kind and body that a frame from the peer has at most; more is refused.
    max_frame: int
    #: Bodies that :meth:`encode` took and that may not be sent yet, in bytes.
    held: int = 0
    #: Whether there is something to send that nobody put.
    has_output: bool = False
    #: Whether it may have something to send beside the frames that it is given.
    speaks_itself: bool = False
    #: Whether :meth:`tick` is to be called now, and :meth:`next_frame` after it.
    wants_tick: bool = False
    #: Whether the peer is known to answer a PING.
    answers_ping: bool = True
    #: Whether the peer may send before its greeting is answered.
    is_eager: bool = False
    #: Whether the peer goes on to answer when this end has half-closed.
    may_half_close: bool = True
    #: Units of work in looking at a frame, whatever is in it.
    frame_work: int = FRAME_WORK
    #: Whether each message that the hub drops is counted.
    counts_losses: bool = True
    #: Whether a client looks at the codes with which its records are refused.
    shows_refusals: bool = True
    #: Whether the bounds in WELCOME are the hub's.
    tells_limits: bool = True

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call :meth:`next_frame` until it returns None afterwards."""

    @abstractmethod
    def next_frame(self) -> tuple[int, bytes] | None:
        """Give the next frame's kind and body, None if more data is needed, or ``NO_FRAME``.

        :raises RemoteProtocolError: the peer broke the rules
        """

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that are not part of a frame handed out yet."""

    @property
    def unfinished_frame(self) -> tuple[int, int] | None:
        """What arrives and is not whole yet, a frame or a record; None if there is nothing.

        The first number is another one for each of them, the second is how many bytes of it came.
        """
        return None

    @abstractmethod
    def discard(self) -> None:
        """Forget what is buffered."""

    @abstractmethod
    def encode(self, kind: int, bodies: list[bytes], length: int) -> Iterable[bytes]:
        """Encode one frame.

        :param bodies: parts of its body
        :param length: bytes of all of them
        :return: bytes to send; :meth:`flush` gives what comes later
        """

    def encode_one(self, kind: int, body: bytes) -> bytes:
        """Encode a frame with a body of one part, to be sent as it is."""
        return b"".join(self.encode(kind, [body], len(body)))

    def flush(self) -> Iterable[bytes]:
        """Give what else may be sent now."""
        return ()

    def clear(self) -> None:  # noqa: B027 - there is nothing to clear where nothing is held
        """Forget what is held."""

    def shed(self) -> list[bytes]:
        """Give back messages that were encoded and of which no byte was sent; they are forgotten.

        :return: whole records, in order
        """
        return []

    def tick(self, now: float) -> float:
        """Take the time.

        :return: when to call again, at the latest
        """
        return math.inf
