"""Messages above the client's own limit, of which a hub of Hyps for Nim knows nothing."""

from __future__ import annotations

import pytest
from protocol.wire.http2_client.script import Script, messages_of, opened
from support.nim import MESSAGES, SUBSCRIBE

from hyps.protocol import Acked, Gap, InvalidChannel, Limits, MessageTooLarge, encode
from hyps.protocol._records.decoding import WholeRecords

LIMITS = Limits(max_message=10, max_channel=20)

#: A record that is just taken, and one that is just left out.
LARGEST = LIMITS.max_frame - len(encode("c", b""))
TOO_LARGE = LARGEST + 1


def show(script: Script) -> list[object]:
    """Read what the hub has sent: messages as their sizes, and gaps."""
    found: list[object] = []
    for event in script.pump():
        found += [event] if isinstance(event, Gap) else [len(d) for _, d in messages_of([event])]
    return found


@pytest.mark.parametrize("piece", [1_000, 2**40])
@pytest.mark.parametrize("max_data", [5, 10_000, 16_384])
def test_too_large_a_message_is_a_gap(piece: int, max_data: int) -> None:
    script = opened(limits=LIMITS, piece=piece, max_data=max_data)
    script.subscribe("c", "d")
    sizes = [1, LARGEST, 2, TOO_LARGE, 3]
    script.hub.send(MESSAGES, b"".join([encode("c", bytes(size)) for size in sizes]))
    assert show(script) == [1, LARGEST, 2, Gap("c", 1, "client"), 3]
    script.hub.send(MESSAGES, encode("d", bytes(TOO_LARGE)) * 2 + encode("c", b""))
    assert show(script) == [Gap("d", 1, "client")] * 2 + [0]


def test_too_large_a_message_is_not_buffered() -> None:
    script = opened(limits=LIMITS)
    script.subscribe("c")
    records = WholeRecords(LIMITS.max_frame, LIMITS.max_channel)
    sizes = []
    data = encode("c", bytes(50 * 1024 * 1024))
    for start in range(0, len(data), 16_384):
        assert records.take(data[start : start + 16_384]) == (b"", 0)
        sizes.append(len(records._rest))
    assert max(sizes) <= 16_384
    assert records.rest == 0
    assert records.take(encode("c", b"1")) == (encode("c", b"1"), 1)


@pytest.mark.parametrize("name", ["other", "a name that is longer than the client takes"])
def test_too_large_a_message_of_a_channel_that_is_not_wanted(name: str) -> None:
    script = opened(limits=LIMITS)
    script.subscribe("c")
    script.hub.send(MESSAGES, encode(name, bytes(TOO_LARGE)) + encode("c", b"1"))
    assert show(script) == [1]


def test_gap_waits_for_the_answer_to_its_channel() -> None:
    """As messages do that come before it."""
    script = opened(limits=LIMITS, held=("/publish", SUBSCRIBE))
    client = script.client
    client.publish("c", b"")
    client.subscribe(["c"])
    script.pump()
    script.hub.answer(SUBSCRIBE, b"k")
    script.hub.send(MESSAGES, encode("c", b"1") + encode("c", bytes(TOO_LARGE)))
    script.hub.send(MESSAGES, encode("c", b"22"))
    assert show(script) == []
    script.hub.answer("/publish", b"k")
    events = script.pump()
    assert isinstance(events[0], Acked)
    assert Gap("c", 1, "client") in events
    assert messages_of(events) == [("c", b"1"), ("c", b"22")]
    assert isinstance(events[-1], type(events[-3]))


def test_what_the_client_does_not_publish_is_its_own_limit() -> None:
    script = opened(limits=LIMITS)
    with pytest.raises(MessageTooLarge, match=r"own Limits\.max_message is 10"):
        script.client.publish("c", bytes(11))
    with pytest.raises(MessageTooLarge, match=r"own Limits\.max_message is 10"):
        script.client.publish_many([("c", bytes(11))])
    with pytest.raises(InvalidChannel, match=r"own Limits\.max_channel is 20"):
        script.client.publish("c" * 21, b"")
    with pytest.raises(InvalidChannel, match=r"own Limits\.max_channel is 20"):
        script.client.subscribe(["c" * 21])
