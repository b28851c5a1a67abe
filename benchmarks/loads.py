"""What is published: sizes and bytes are random, but the same in every run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

_SEED: Final = 20


@dataclass(frozen=True, slots=True)
class Load:
    """Messages of about one size.

    Traffic of one size flatters whatever caches by size, or finds the next record by a stride. So
    the sizes vary unless that is asked for.

    :param size: nominal bytes of a message
    :param varied: sizes from half to twice the nominal one, all equally likely
    """

    size: int
    varied: bool = True

    def __str__(self) -> str:
        size = f"{self.size} B" if self.size < 1024 else f"{self.size // 1024} KiB"
        return f"{size} {'varied' if self.varied else 'equal'}"

    def messages(self, count: int) -> list[bytes]:
        """Make messages."""
        chance = random.Random(_SEED)
        least, most = (self.size // 2, self.size * 2) if self.varied else (self.size, self.size)
        return [chance.randbytes(chance.randint(least, most)) for _ in range(count)]


#: What is measured everywhere.
LOADS: Final = (Load(16), Load(16, varied=False), Load(1024), Load(1024, varied=False))
