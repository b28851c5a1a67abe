"""What a client has to send: single messages are encoded together when they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._output import OutputQueue
from .frames import Kind
from .limits import CHUNK_OVERHEAD
from .records import BATCH_SIZE, MANY_RECORDS, encode_all, pack_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import Wire


class Requests(OutputQueue):
    """Requests in the order in which they are sent.

    :param wire: see :class:`OutputQueue`
    :param on_output: see :class:`OutputQueue`
    """

    __slots__ = ("_contents", "_prefixes", "_size", "batch_size", "most")

    def __init__(self, wire: Wire, on_output: Callable[[], object]) -> None:
        super().__init__(wire, on_output)
        # Of the messages that were published last, one by one, and not encoded yet.
        self._prefixes: list[bytes] = []
        self._contents: list[bytes] = []
        # Bytes of their records.
        self._size = 0
        #: Bytes and records that are encoded together, at most.
        self.batch_size: int = BATCH_SIZE
        self.most: int = MANY_RECORDS

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self._contents)

    def publish(self, prefix: bytes, data: bytes) -> None:
        r"""Append a message.

        :param prefix: the channel, encoded, and ``\n``
        :param data: the message
        """
        # Per message.
        contents = self._contents
        size = len(prefix) + len(data) + 5
        if contents and (self._size + size > self.batch_size or len(contents) >= self.most):
            self._encode()
            contents = self._contents
        self._prefixes.append(prefix)
        contents.append(data)
        self._size += size
        self.queued += size + CHUNK_OVERHEAD
        if self._idle:
            self._idle = False
            self._on_output()

    def _encode(self) -> None:
        prefixes, contents = self._prefixes, self._contents
        self._forget()
        if len(contents) > 1:
            records = encode_all(prefixes, contents)
        else:
            [prefix], [data] = prefixes, contents
            records = b"".join((pack_length(len(prefix) + len(data) + 1), prefix, data, b"\n"))
        super().put(Kind.PUBLISH, records, len(contents))

    def _forget(self) -> None:
        self.queued -= self._size + CHUNK_OVERHEAD * len(self._contents)
        self._prefixes = []
        self._contents = []
        self._size = 0

    def put(self, kind: int, body: bytes, items: int = 0) -> None:
        if self._contents:
            self._encode()
        super().put(kind, body, items)

    def take(self, max_bytes: int) -> bytes:
        if self._contents:
            self._encode()
        return super().take(max_bytes)

    def clear(self) -> None:
        self._forget()
        super().clear()
