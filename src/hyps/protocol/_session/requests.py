"""The queue of a client's requests. It checks messages at once, and encodes them frame by frame."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from .._records.encoding import encode_all
from .._records.layout import (
    BATCH_SIZE,
    MANY_RECORDS,
    MERGED_SIZE,
    RECORD_OVERHEAD,
    encode_channel,
    encode_data,
    pack_length,
)
from .._wire.frames import Kind
from ..errors import InvalidChannel, MessageTooLarge
from ..limits import CHUNK_OVERHEAD
from .output import OutputQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._records.layout import Data
    from .._wire.base import Wire
    from ..events import Welcome

#: A chunk has at most this many records, because credit is spent chunk by chunk.
_CHUNK_RECORDS: Final = 4_096

#: Bytes of the smallest record.
_MIN_RECORD: Final = RECORD_OVERHEAD + 1


class Requests(OutputQueue):
    """Requests, in the order in which they will be sent.

    :param wire: see :class:`OutputQueue`
    :param on_output: see :class:`OutputQueue`
    """

    __slots__ = (
        "_batch_size",
        "_contents",
        "_most",
        "_prefixes",
        "_size",
        "_welcome",
        "chunk_records",
    )

    _welcome: Welcome

    def __init__(self, wire: Wire, on_output: Callable[[], object]) -> None:
        super().__init__(wire, on_output)
        # The channels and contents of messages that were published one by one and are not encoded
        # yet.
        self._prefixes: list[bytes] = []
        self._contents: list[bytes] = []
        # The size of their records in bytes.
        self._size = 0

    def open(self, welcome: Welcome) -> None:
        """Set the hub's bounds. Nothing is published before."""
        self._welcome = welcome
        self.credit = welcome.max_in_flight
        self.frame_size = min(MERGED_SIZE, welcome.max_frame - 1)
        #: The most records in a chunk.
        self.chunk_records: int = min(_CHUNK_RECORDS, welcome.max_in_flight)
        # Half of the largest frame, so that the last message rarely exceeds it.
        self._batch_size = min(BATCH_SIZE, welcome.max_frame // 2)
        self._most = min(MANY_RECORDS, welcome.max_in_flight)

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self._contents)

    def publish(self, channel: str, data: Data) -> None:
        """Append a message.

        :raises InvalidChannel: if the name cannot be a channel's
        :raises MessageTooLarge: if the hub would not take it
        """
        # This runs once per message.
        welcome = self._welcome
        try:
            prefix = _encode_prefix(channel)
        except TypeError:
            # The cache cannot look for a list, for example.
            raise TypeError(f"a channel must be a str, not {type(channel).__name__}") from None
        if len(prefix) > welcome.max_channel + 1:
            raise self.too_long(prefix[:-1])
        if type(data) is not bytes:
            data = encode_data(data)
        if len(data) > welcome.max_message:
            raise self._too_large(data)
        contents = self._contents
        size = len(prefix) + len(data) + 5
        if contents and (self._size + size > self._batch_size or len(contents) >= self._most):
            self._encode()
            contents = self._contents
        self._prefixes.append(prefix)
        contents.append(data)
        self._size += size
        self.queued += size + CHUNK_OVERHEAD
        if self._idle:
            self._idle = False
            self._on_output()

    def encode_frame(self, messages: Iterator[tuple[str, Data]]) -> list[tuple[bytes, int]]:
        """Encode as many messages as make a frame. A large last one gets a frame of its own.

        :return: for each frame its records, and their number; the caller puts them
        :raises InvalidChannel: see :meth:`publish`
        :raises MessageTooLarge: see :meth:`publish`
        """
        welcome = self._welcome
        batch_size = self._batch_size
        most = self.chunk_records
        max_message = welcome.max_message
        max_prefix = welcome.max_channel + 1
        prefixes: list[bytes] = []
        contents: list[bytes] = []
        size = overhead = 0
        # The size at which to check whether the frame is full. No record is smaller than the
        # minimum, so nothing needs to be counted before.
        look = min(batch_size, most * _MIN_RECORD)
        # A value that no channel equals.
        last: object = prefixes
        prefix = b""
        # This loop runs once per message. Calls in it would cost more than what they do.
        for channel, message in messages:
            if channel != last:
                prefix = _encode_prefix(channel)
                if len(prefix) > max_prefix:
                    raise self.too_long(prefix[:-1])
                overhead = len(prefix) + RECORD_OVERHEAD - 1
                last = channel
            data = message if type(message) is bytes else encode_data(message)
            length = len(data)
            if length > max_message:
                raise self._too_large(data)
            prefixes.append(prefix)
            contents.append(data)
            size += length + overhead
            if size >= look:
                # This happens a few times per frame.
                count = len(contents)
                enough = batch_size if count < MANY_RECORDS else MERGED_SIZE
                look = min(batch_size, enough, size + (most - count) * _MIN_RECORD)
                if size >= look:
                    break
        if not contents:
            return []
        rest: list[tuple[bytes, int]] = []
        if size >= welcome.max_frame and len(contents) > 1:
            rest = [(encode_all([prefixes.pop()], [contents.pop()]), 1)]
        return [(encode_all(prefixes, contents), len(contents)), *rest]

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

    def too_long(self, name: bytes) -> InvalidChannel:
        """Make the error for a name that is too long."""
        most = self._say_most("max_channel", self._welcome.max_channel)
        return InvalidChannel(f"a channel of {len(name)} bytes; {most}")

    def _too_large(self, data: bytes) -> MessageTooLarge:
        most = self._say_most("max_message", self._welcome.max_message)
        return MessageTooLarge(f"a message of {len(data)} bytes; {most}")

    def _say_most(self, name: str, most: int) -> str:
        if self.wire.tells_limits:
            return f"the hub takes {most}"
        return f"this client's own Limits.{name} is {most}, and the hub tells nothing over HTTP/2"


@lru_cache(8_192)
def _encode_prefix(channel: str) -> bytes:
    # Publishers use the same names again and again.
    return encode_channel(channel) + b"\n"
