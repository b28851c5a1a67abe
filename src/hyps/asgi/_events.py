"""Server-sent events, as the WHATWG's HTML standard has them, and what becomes one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..protocol import Gap, Message

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event.

    :param data: the text, of any number of lines
    :param event: name of the event; the browser calls one without a name ``message``
    :param id: what the browser sends as ``Last-Event-ID`` when it connects again
    :raises ValueError: if the name or the id has a newline, or the id a NUL
    """

    data: str = ""
    event: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("event", self.event), ("id", self.id)):
            if value is not None and ("\n" in value or "\r" in value or "\0" in value):
                raise ValueError(f"the {name} of an event has a newline or a NUL: {value!r}")

    def __bytes__(self) -> bytes:
        """The event as it stands in the stream."""
        lines = []
        if self.event is not None:
            lines.append(f"event: {self.event}")
        if self.id is not None:
            lines.append(f"id: {self.id}")
        # Each of these ends a line in the stream.
        text = self.data.replace("\r\n", "\n").replace("\r", "\n")
        lines += [f"data: {line}" for line in text.split("\n")]
        return ("\n".join(lines) + "\n\n").encode(errors="replace")


#: What may become an event: text or bytes are its data; None is left out.
One: TypeAlias = "str | bytes | Event | None"

#: What may become events: one, or any number.
Encoded: TypeAlias = "One | Iterable[One]"

#: Makes events of a message or a gap.
Encode: TypeAlias = Callable[[Message | Gap], Encoded]


def describe_gap(gap: Gap) -> dict[str, str | int | None]:
    """A gap for JSON: ``missed`` is None if nobody knows the number."""
    return {"channel": gap.channel, "missed": gap.missed, "reason": gap.reason}


def encode(item: Message | Gap) -> Event:
    """Make an event of a message or a gap.

    :return: an event without a name, whose data is the message as UTF-8 text; or the event ``gap``,
        whose data is JSON with ``channel``, ``missed`` (None if nobody knows) and ``reason``
    """
    if isinstance(item, Gap):
        return Event(json.dumps(describe_gap(item)), "gap")
    return Event(item.data.decode(errors="replace"))


def make_events(encoded: Encoded) -> Iterator[Event]:
    """Make events of what an ``encode`` returned.

    :raises TypeError: if it is no such thing
    """
    if isinstance(encoded, Event):
        yield encoded
    elif isinstance(encoded, str):
        yield Event(encoded)
    elif isinstance(encoded, bytes | bytearray | memoryview):
        yield Event(bytes(encoded).decode(errors="replace"))
    elif isinstance(encoded, Iterable) and not isinstance(encoded, Mapping):
        for each in encoded:
            yield from make_events(each)
    elif encoded is not None:
        kind = type(encoded).__name__
        raise TypeError(f"expected a str, bytes, an hyps.asgi.Event or None, not {kind}")


def retry_line(milliseconds: int) -> bytes:
    """Tell the browser how long to wait before it connects again."""
    return b"retry: %d\n\n" % milliseconds


#: A comment, which keeps the connection open and tells nothing.
PING = b": ping\n\n"
