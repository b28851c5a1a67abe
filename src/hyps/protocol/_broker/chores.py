"""Work that a peer can make as long as it likes, done in slices between everything else."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Chores:
    """Chores in the order in which they are done.

    A chore is an iterator: each step does some of it, and gives the work that this was, in the
    units of ``PASS_WORK``. A step should not be worth much more than a hundred.

    :param on_chore: called when there is something to do after there was nothing
    """

    def __init__(self, on_chore: Callable[[], object]) -> None:
        self._on_chore = on_chore
        self._chores: deque[Iterator[int]] = deque()

    def __bool__(self) -> bool:
        """Whether there is something to do."""
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

        :param most: work after which to stop
        """
        done = 0
        while self._chores and done < most:
            chore = self._chores[0]
            try:
                done += next(chore)
            except BaseException as error:
                # One that fails is not tried again. Its last step may have added an urgent one.
                self._chores.remove(chore)
                if not isinstance(error, StopIteration):
                    raise
