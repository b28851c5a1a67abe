"""For the tests of programs that use Hyps: a hub in memory, with faults on demand.

With pytest there is the fixture ``hyps_hub``, a :class:`MemoryHub` of each test's own.
"""

from ._faults import MemoryConnection as MemoryConnection
from ._hub import MemoryHub as MemoryHub

__all__ = ("MemoryConnection", "MemoryHub")
