"""The command ``hyps``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ("main",)


def main() -> NoReturn:
    """Run the command that the process's arguments name, and end the process."""
    # The imports below take most of a short command's time: handle signals before them.
    from ._signals import signals

    signals.take()
    from ._main import run

    run()
