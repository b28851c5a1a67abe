"""The bounds of what the engine sends.

The parser allocates an array as soon as it has read the header, and a peer can announce a billion
elements in eleven bytes. So this looks at each header before the parser does.
"""

from __future__ import annotations

import re
from typing import Final

#: The bound of a line, in bytes. Errors of scripts are the longest ones that an engine sends.
_MAX_LINE: Final = 16_384

#: An element has at least as many bytes: its kind and the end of its line.
_LEAST: Final = 3

#: How a message of a channel begins, up to its payload's length, which is nearly everything that
#: arrives. It is matched at once, because each step in Python costs as much as the whole parsing.
_MESSAGE: Final = re.compile(rb">3\r\n\$(?:7\r\nmessage|8\r\nsmessage)\r\n\$([0-9]{1,4})\r\n")
_LENGTH: Final = re.compile(rb"\r\n\$([0-9]{1,9})\r\n")

#: What may be wrong.
NOT_REDIS: Final = "something that is not Redis's protocol"
_TOO_LONG: Final = f"a line of more than {_MAX_LINE} bytes"

_STRINGS: Final = b"$="
_LINES: Final = b"+-:_#,("
_ARRAYS: Final = {b"*"[0]: 1, b"~"[0]: 1, b">"[0]: 1, b"%"[0]: 2}
_PUSH: Final = b">"[0]


class Framer:
    """Finds out how large a reply or a push is going to be, from its headers.

    :param max_reply: bytes that one may have
    """

    __slots__ = ("_head", "_max_reply", "_missing", "_size", "_skip", "fault")

    def __init__(self, max_reply: int) -> None:
        self._max_reply = max_reply
        # The beginning of a line that has not ended.
        self._head = b""
        # Bytes of a string that are still to come, with the end of its line.
        self._skip = 0
        # Of the reply that is arriving: elements to come, and bytes so far.
        self._missing = 0
        self._size = 0
        #: What is wrong, once something is.
        self.fault: str | None = None

    def check(self, data: bytes) -> int:
        """Look at the next bytes. Do not call this after a fault.

        :return: how many of them the parser may have; fewer than there are if there is a fault
        """
        if self._skip >= len(data):
            self._skip -= len(data)
            return len(data)
        position, self._skip = self._skip, 0
        before = len(self._head)
        if before:
            data = self._head + data
        position = self._scan(data, position)
        if len(data) - position > _MAX_LINE and self.fault is None:
            self.fault = _TOO_LONG
        if self.fault is not None:
            return max(0, position - before)
        self._head = data[position:]
        self._skip = max(0, position - len(data))
        return len(data) - before

    def _scan(self, data: bytes, position: int) -> int:
        """Go from header to header.

        :return: where the first one begins that is incomplete or wrong
        """
        end_of_data = len(data)
        while position < end_of_data:
            if not self._missing:
                position = self._skip_messages(data, position)
                if position >= end_of_data:
                    break
                self._missing = 1
                self._size = 0
                is_first = True
            else:
                is_first = False
            end = data.find(b"\r\n", position)
            if end < 0:
                # The header is seen again when it is complete.
                if is_first:
                    self._missing = 0
                break
            after = self._read(data, position, end, is_first=is_first)
            if self.fault is not None:
                break
            position = after
        return position

    def _skip_messages(self, data: bytes, position: int) -> int:
        """Skip messages of channels, the last of which may be incomplete behind its headers."""
        end_of_data = len(data)
        match, match_length = _MESSAGE.match, _LENGTH.match
        while position < end_of_data and (first := match(data, position)):
            second = match_length(data, first.end() + int(first[1]))
            if second is None:
                break
            end = second.end() + int(second[1]) + 2
            if end - position > self._max_reply:
                break
            position = end
        return position

    def _read(self, data: bytes, position: int, end: int, *, is_first: bool) -> int:
        """Read one header.

        :return: where the next one begins
        """
        kind = data[position]
        after = end + 2
        missing = self._missing - 1
        if kind in _LINES:
            if end - position > _MAX_LINE:
                self.fault = _TOO_LONG
        elif kind in _STRINGS or kind in _ARRAYS:
            number = data[position + 1 : end]
            if number == b"-1" and kind in b"$*":
                pass  # None, as RESP2 spells it.
            elif not number.isdigit() or len(number) > 10 or (kind == _PUSH and not is_first):
                self.fault = NOT_REDIS
            elif kind in _STRINGS:
                after += int(number) + 2
            else:
                missing += _ARRAYS[kind] * int(number)
        else:
            self.fault = NOT_REDIS
        size = self._size + after - position
        if self.fault is None and size + _LEAST * missing > self._max_reply:
            self.fault = f"a reply of more than {self._max_reply} bytes"
        self._missing = missing
        self._size = size
        return after
