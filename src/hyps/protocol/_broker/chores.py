"""Chores: work whose length a peer decides, done in slices between everything else."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Chores:
    """A queue of chores.

    A chore is an iterator. Each step does a part and yields how much work that was, in the units of
    ``PASS_WORK``; some hundred units are a good step.

    :param on_chore: called when the queue was empty and gets a chore
    """

    def __init__(self, on_chore: Callable[[], object]) -> None:
        self._on_chore = on_chore
        self._chores: deque[Iterator[int]] = deque()

    def __bool__(self) -> bool:
        """Whether a chore is left."""
        return bool(self._chores)

    def add(self, chore: Iterator[int], *, is_urgent: bool = False) -> None:
        """Add a chore, behind the others unless it is urgent."""
        was_idle = not self._chores
        if is_urgent:
            self._chores.appendleft(chore)
        else:
            self._chores.append(chore)
        if was_idle:
            self._on_chore()

    def work(self, most: int) -> None:
        """Do chores.

        :param most: units of work after which to stop
        """
        done = 0
        while self._chores and done < most:
            chore = self._chores[0]
            try:
                done += next(chore)
            except BaseException as error:
                # A chore that failed is not retried. Search for it: its last step may have put an
                # urgent chore before it.
                self._chores.remove(chore)
                if not isinstance(error, StopIteration):
                    raise
