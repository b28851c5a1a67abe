"""The command ``hyps``."""

from ._main import main as main

__all__ = ("main",)
