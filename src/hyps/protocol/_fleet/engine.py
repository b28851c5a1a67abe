"""What the fleet knows of its engine: commands go out, and replies and pushes come in one order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class EngineError:
    """An error that the engine replied.

    :param code: its first word, such as NOSCRIPT
    :param text: everything behind it
    """

    code: str
    text: str

    @staticmethod
    def parse(line: str) -> EngineError:
        """Take an error apart."""
        code, _, text = line.partition(" ")
        return EngineError(code, text)

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Lost:
    """Stands for the reply to a command that gets none: the connection has ended.

    :param was_sent: whether the engine may have got it; False only if no byte of it left
    """

    was_sent: bool


#: Lists and dicts hold what a reply may be, but no :class:`Lost`.
Reply: TypeAlias = int | bytes | float | list[Any] | dict[Any, Any] | EngineError | Lost | None

OnReply: TypeAlias = Callable[[Reply], None]


class Engine(Protocol):
    """The engine, wherever the node of a partition is."""

    def send(self, partition: int, *command: bytes, on_reply: OnReply) -> None:
        """Send a command to the partition's node, in order with all others to that node.

        :param on_reply: called exactly once. For SUBSCRIBE and the like with None, when the last of
            its channels is subscribed.
        """
        ...
