"""What is denied takes its time too, and others get their turn."""

from __future__ import annotations

from protocol.pair import open_server

from hyps.protocol import NEED_DATA, Kind, Taken, Verb, encode, encode_frame
from hyps.protocol.limits import PASS_WORK


class Nothing:
    """An access to nothing."""

    def may(self, verb: Verb, channel: str) -> bool:
        return False


def test_denied_subscribes_are_taken_in_small_steps() -> None:
    server = open_server()
    server.access = Nothing()
    names = [f"other{number}" for number in range(5_000)]
    body = b"".join(encode(name, b"") for name in names)
    server.receive_data(encode_frame(Kind.SUBSCRIBE, body))
    taken = []
    while (event := server.next_event()) is not NEED_DATA:
        assert isinstance(event, Taken)
        taken.append((event.records, event.work))
    assert sum(records for records, _ in taken) == 5_000
    # Each of them costs more than taking a message.
    assert all(records <= PASS_WORK // 8 for records, _ in taken)
    assert all(work >= 8 * records for records, work in taken)
