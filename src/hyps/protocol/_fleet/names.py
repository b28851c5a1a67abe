"""How a fleet names what it keeps in the engine: partitions, keys and the engine's channels.

Everything of one partition has one hash tag, so that it is in one slot of a cluster. Publishing
crosses the numbers of databases, so the engine's channels have the number in their name.
"""

from __future__ import annotations

from zlib import crc32

#: Partitions of a fleet whose engine is a cluster. Where the engine is one node there is one.
CLUSTER_PARTITIONS = 128


class Names:
    """The names of one fleet.

    :param prefix: of every name, so that several fleets can share an engine
    :param database: the number of the engine's database
    :param partitions: how many there are
    :raises ValueError: if the prefix has braces, which would change the hash tag, or is empty
    """

    def __init__(self, prefix: str = "hyps", database: int = 0, partitions: int = 1) -> None:
        if not prefix or not prefix.isprintable() or any(each in prefix for each in "{} "):
            raise ValueError(f"a prefix has no braces and no blanks, and is not empty: {prefix!r}")
        start = prefix.encode()
        self.partitions = partitions
        self._parts = [b"%b:{%d}" % (start, number) for number in range(partitions)]
        self._tails = [b":%d:m:" % database] * partitions

    def partition_of(self, name: bytes) -> int:
        """Return the partition of a channel."""
        return crc32(name) % self.partitions

    def partition_key(self, partition: int) -> bytes:
        """Return the key of what the whole partition shares."""
        return self._parts[partition]

    def channel_key(self, partition: int, name: bytes) -> bytes:
        """Return the key of a channel's position."""
        return self._parts[partition] + b":c:" + name

    def engine_channel(self, partition: int, name: bytes) -> bytes:
        """Return the engine's channel that carries this channel."""
        return self._parts[partition] + self._tails[partition] + name

    def name_in(self, engine_channel: bytes) -> tuple[int, bytes] | None:
        """Return partition and channel of an engine's channel; None if it is none of this fleet."""
        head, brace, _ = engine_channel.partition(b"}")
        number = head.rpartition(b"{")[2]
        if not (brace and number.isdigit() and int(number) < self.partitions):
            return None
        partition = int(number)
        start = self._parts[partition] + self._tails[partition]
        name = engine_channel[len(start) :]
        if not engine_channel.startswith(start) or self.partition_of(name) != partition:
            return None
        return partition, name
