"""What an engine sends, spelled."""

from __future__ import annotations

from typing import Any

from hyps._fleet.wire import EngineError


class Push(list[Any]):
    """A push."""


def spell(value: object) -> bytes:
    """Spell a reply or a push in RESP3."""
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case float():
            return b",%s\r\n" % repr(value).encode()
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case EngineError():
            return b"-%s\r\n" % str(value).encode()
        case list():
            kind = b">" if isinstance(value, Push) else b"*"
            return b"%s%d\r\n%s" % (kind, len(value), b"".join(map(spell, value)))
        case dict():
            return b"%%%d\r\n%s" % (
                len(value),
                b"".join(spell(key) + spell(each) for key, each in value.items()),
            )
    raise AssertionError(value)
