r"""What the engine carries from hub to hub: ``generation:count number hub\n`` and a run's records.

The count is the channel's after the run. An empty envelope is a mark: somebody published in the
channel, and the engine has lost its key.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._records.position import parse_position
from .._records.scanning import find_runs
from ..errors import RemoteProtocolError

#: Bytes of the first line, at most: a position, a number and the name of a hub.
_MAX_HEAD = 160


@dataclass(frozen=True, slots=True)
class Envelope:
    """A run on its way.

    :param generation: the channel's
    :param count: the channel's, after the run
    :param number: of its records
    :param hub: name of the hub that took it
    :param records: the run
    """

    generation: bytes
    count: int
    number: int
    hub: bytes
    records: bytes


def parse_envelope(name: bytes, data: bytes) -> Envelope:
    """Check and decode an envelope: anybody who reaches the engine can publish something else.

    :param name: the channel that it came in
    :raises RemoteProtocolError: if it is malformed
    """
    head, newline, records = data[:_MAX_HEAD].partition(b"\n")
    fields = head.split(b" ")
    if not newline or len(fields) != 3:
        raise RemoteProtocolError("an envelope without a head")
    position, number, hub = fields
    generation, count = parse_position(position)
    if not number.isdigit() or len(number) > 9 or not 0 < int(number) <= count:
        raise RemoteProtocolError("an envelope with a number that is none")
    records = data[len(head) + 1 :]
    names, stops, counts, error = find_runs(records, 0)
    if error is not None:
        raise error
    if names != [name] or counts != [int(number)] or stops != [len(records)]:
        raise RemoteProtocolError("an envelope with other records than it says")
    return Envelope(generation, count, int(number), hub, records)
