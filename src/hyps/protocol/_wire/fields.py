"""The strict JSON objects of HELLO, WELCOME, AUTH, GOAWAY and ERROR."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from ..errors import RemoteProtocolError
from ..limits import MAX_NESTING, MAX_OPENING_FRAME

_MISSING: Final = object()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _check_nesting(value: object, levels: int) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        if not levels:
            raise RecursionError
        for item in value:
            _check_nesting(item, levels - 1)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


class Fields:
    """A decoded object whose fields are checked as they are read; unknown keys are ignored.

    :raises RemoteProtocolError: if the body is not a strict JSON object
    """

    def __init__(self, frame: str, body: bytes) -> None:
        self._frame = frame
        if len(body) > MAX_OPENING_FRAME:
            raise RemoteProtocolError(f"{frame}: over {MAX_OPENING_FRAME} bytes", "too_large")
        reason = None
        try:
            found = _decoder.decode(body.decode())
            _check_nesting(found, MAX_NESTING)
            # JSON can express a lone surrogate as an escape, but that is no text.
            json.dumps(found, ensure_ascii=False).encode()
        except RecursionError:
            reason = "nested too deeply"
        except ValueError:
            reason = "bad JSON"
        if reason is not None:
            # Raise this outside of the handlers: the original errors quote the body, and with it a
            # token.
            raise RemoteProtocolError(f"{frame}: {reason}")
        if not isinstance(found, dict):
            raise RemoteProtocolError(f"{frame}: not a JSON object")
        self._fields: dict[str, Any] = found

    def _get(self, key: str, kind: type, default: object) -> Any:
        value = self._fields.get(key, default)
        if value is _MISSING:
            raise RemoteProtocolError(f"{self._frame}: {key} is missing")
        if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
            raise RemoteProtocolError(f"{self._frame}: {key} has the wrong type")
        return value

    def text(self, key: str) -> str:
        """Return a text that must be there."""
        value: str = self._get(key, str, _MISSING)
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a text, or None if it is missing."""
        value: str | None = self._get(key, str, None)
        return value

    def integer(self, key: str, least: int, most: int) -> int:
        """Return an integer that must be there, within bounds."""
        value: int = self._get(key, int, _MISSING)
        self._check_range(key, value, least, most)
        return value

    def seconds(self, key: str, most: float) -> float:
        """Return a duration, or 0 if it is missing."""
        value: float = self._get(key, int | float, 0)  # type: ignore[arg-type]
        self._check_range(key, value, 0, most)
        return value

    def _check_range(self, key: str, value: float, least: float, most: float) -> None:
        if not least <= value <= most:
            raise RemoteProtocolError(f"{self._frame}: {key} is not between {least} and {most}")

    def optional_seconds(self, key: str, most: float) -> float | None:
        """Return a duration, or None if it is missing."""
        return self.seconds(key, most) if key in self._fields else None

    def optional_flag(self, key: str) -> bool | None:
        """Return true or false, or None if it is missing."""
        value = self._fields.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise RemoteProtocolError(f"{self._frame}: {key} has the wrong type")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty if it is missing."""
        value = self._get(key, list, [])
        if not all(isinstance(item, str) for item in value):
            raise RemoteProtocolError(f"{self._frame}: {key} is not a list of texts")
        return tuple(value)


def dump(**fields: object) -> bytes:
    """Encode an object, without the fields that are None."""
    return json.dumps(
        {key: value for key, value in fields.items() if value is not None},
        separators=(",", ":"),
    ).encode()
