"""Operations and messages over HTTP/2, with a hub as Hyps for Nim has it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from protocol.pair import Pair, connect
from protocol.wire.http2_client.script import answered, messages_of, opened
from support.nim import MAX_DATA, MESSAGES, PUBLISH, SUBSCRIBE

from hyps.protocol import (
    Acked,
    Broker,
    ClientProtocol,
    Limits,
    Messages,
    Refusal,
    Rejected,
    encode,
)
from hyps.protocol._wire.http2 import ClientWire

if TYPE_CHECKING:
    from protocol.pair import Event

MANY = 10_000


def test_publish_subscribe_receive() -> None:
    script = opened()
    assert script.subscribe("foo_ch", "b") == [Acked(range(1, 2))]
    script.client.publish("foo_ch", b"1")
    script.client.publish_many([("b", b"2"), ("c", b"")])
    assert answered(script.pump()) == [2, 3]
    assert script.hub.channels == ["foo_ch", "b"]
    assert script.hub.published == [("foo_ch", b"1"), ("b", b"2"), ("c", b"")]
    script.hub.deliver("b", b"1", b"", b"\n\n")
    assert messages_of(script.pump()) == [("b", b"1"), ("b", b""), ("b", b"\n\n")]


@pytest.mark.parametrize("size", [MAX_DATA - 8, 16_384, 40_000, 65_535, 200_000, 1024 * 1024])
def test_large_messages(size: int) -> None:
    script = opened()
    script.subscribe("c")
    message = random.Random(size).randbytes(size)
    script.client.publish_many([("c", message), ("c", b"small"), ("c", message)])
    assert answered(script.pump()) == [2]
    assert script.hub.published == [("c", message), ("c", b"small"), ("c", message)]
    script.hub.deliver("c", message, b"small")
    found = messages_of(script.pump())
    # It drops what comes while much waits, and tells nobody.
    assert found[0] == ("c", message)
    assert len(found) + script.hub.dropped == 2


def test_empty_data_for_each_part_of_many_large_messages() -> None:
    # It has no whole record to answer, and says so. There are thousands of those.
    script = opened()
    for _ in range(40):
        script.client.publish("c", bytes(500_000))
        script.pump()
    assert len(script.hub.published) == 40
    assert script.client.unanswered == 0


def test_many_channels() -> None:
    script = opened()
    channels = [f"channel {number}" for number in range(MANY)]
    assert answered(script.subscribe(*channels)) == [1]
    assert script.hub.channels == channels
    for channel in channels:
        script.hub.deliver(channel, channel.encode())
        if script.hub.is_blocked:
            script.pump()
    found = messages_of(script.pump())
    assert script.client.position(channels[-1]) is not None
    assert found[-1] == (channels[-1], channels[-1].encode())


def test_more_answers_than_a_window_holds() -> None:
    # A hub that is not granted window stops to read, and then nothing goes on.
    script = opened()
    count = 200_000
    script.client.publish_many([("c", b"")] * count)
    answers = answered(script.pump())
    assert answers == [1]
    assert len(script.hub.published) == count
    assert not script.hub.is_blocked


def test_window_is_granted_for_more_messages_than_it_holds() -> None:
    script = opened()
    script.subscribe("c")
    expected = []
    found = []
    for number in range(300):
        data = str(number).encode() * 5_000
        expected.append(("c", data))
        script.hub.deliver("c", data)
        found += messages_of(script.pump())
    assert found == expected
    assert sum([len(data) for _, data in found]) > 3 * 1024 * 1024


@pytest.mark.parametrize("max_data", [1, 3, 7, 100])
@pytest.mark.parametrize("piece", [1, 5, 1_000])
def test_records_that_are_cut_anywhere(max_data: int, piece: int) -> None:
    script = opened(max_data=max_data, piece=piece)
    script.subscribe("c", "channel")
    sent = [("c", b""), ("channel", b"\n"), ("c", bytes(50)), ("channel", b"x" * 300), ("c", b"1")]
    for channel, data in sent:
        script.hub.deliver(channel, data)
    assert messages_of(script.pump()) == sent


def test_data_that_is_padded_and_data_that_is_empty() -> None:
    script = opened()
    script.subscribe("c")
    stream = script.hub.streams[MESSAGES].number
    record = encode("c", b"1")
    script.hub.send_frame(0, 0x08, stream, b"\5" + record + bytes(5))
    script.hub.send_frame(0, 0, stream, b"")
    script.hub.send_frame(0, 0, stream, record)
    assert messages_of(script.pump()) == [("c", b"1")] * 2


def test_what_need_not_be_known_is_ignored() -> None:
    script = opened()
    script.hub.send_frame(0x77, 0xFF, 1, b"anything")
    script.hub.send_frame(0x0A, 0, 0, b"\0\0")
    script.hub.send_frame(4, 0, 0, b"\x99\x99\0\0\0\1")
    script.client.publish("c", b"")
    assert answered(script.pump()) == [1]


# Answers on two streams


@pytest.mark.parametrize("seed", range(10))
def test_answers_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    script = opened(held=(PUBLISH, SUBSCRIBE))
    client, hub = script.client, script.hub
    begun: list[int | None] = []
    found: list[int] = []
    for number in range(60):
        match chance.randrange(3):
            case 0:
                begun.append(client.publish_many([("c", b"")] * chance.randrange(1, 4)))
            case 1:
                begun.append(client.subscribe([f"{number}.{n}" for n in range(3)]))
            case _:
                begun.append(client.unsubscribe([f"{number - 1}.0"]))
        if chance.random() < 0.3:
            found += answered(script.pump())
    found += answered(script.pump())
    while owing := [path for path in (PUBLISH, SUBSCRIBE) if hub.streams[path].owed]:
        path = chance.choice(owing)
        most = min(hub.streams[path].owed, 5)
        hub.answer(path, b"k" * chance.randint(1, most))
        found += answered(script.pump())
    assert found == begun
    assert client.unanswered == client.in_flight == 0


def test_refusals_in_any_order() -> None:
    script = opened(held=(PUBLISH, SUBSCRIBE))
    client, hub = script.client, script.hub
    client.publish_many([("a", b""), ("b", b"")])
    client.subscribe(["a", "b", "c"])
    client.publish("c", b"")
    script.pump()
    hub.answer(SUBSCRIBE, b"kd?")
    assert script.pump() == []
    hub.answer(PUBLISH, b"sku")
    assert script.pump() == [
        Rejected(1, (Refusal(0, b"s", None),)),
        Rejected(2, (Refusal(1, b"d", "b"), Refusal(2, b"?", "c"))),
        Rejected(3, (Refusal(0, b"u", None),)),
    ]


@pytest.mark.parametrize("seed", range(10))
def test_no_message_that_follows_its_channels_answer_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    script = opened(held=(PUBLISH, SUBSCRIBE), max_data=chance.choice((5, 100, MAX_DATA)))
    client, hub = script.client, script.hub
    granted: list[str] = []
    sent: list[tuple[str, bytes]] = []
    events: list[Event] = []
    for number in range(200):
        match chance.randrange(5):
            case 0:
                client.publish("c", b"")
            case 1:
                client.subscribe([f"{number}"])
            case 2 if count := hub.streams[SUBSCRIBE].owed:
                hub.answer(SUBSCRIBE, b"k" * count)
                granted = hub.channels[:]
            case 3 if count := hub.streams[PUBLISH].owed:
                hub.answer(PUBLISH, b"k" * chance.randint(1, count))
            case _ if granted:
                sent.append((chance.choice(granted), b"%d" % number))
                hub.deliver(*sent[-1])
        if chance.random() < 0.5:
            events += script.pump()
    hub.answer(PUBLISH, b"k" * hub.streams[PUBLISH].owed)
    events += script.pump()
    assert messages_of(events) == sent
    assert len(sent) > 20


def test_messages_that_follow_the_answer_to_a_subscribe_wait_with_it() -> None:
    script = opened(held=(PUBLISH, SUBSCRIBE))
    script.client.publish("c", b"")
    script.client.subscribe(["c"])
    script.pump()
    script.hub.answer(SUBSCRIBE, b"k")
    script.hub.deliver("c", b"1", b"2")
    assert script.pump() == []
    script.hub.deliver("c", b"3")
    script.hub.answer(PUBLISH, b"k")
    events = script.pump()
    assert events[0] == Acked(range(1, 2))
    assert events[1] == Acked(range(2, 3))
    assert messages_of(events) == [("c", b"1"), ("c", b"2"), ("c", b"3")]


def test_more_messages_wait_than_a_window_holds() -> None:
    # They must not use up what the answer needs that they wait for.
    script = opened(held=(PUBLISH,))
    script.client.publish("c", b"")
    script.client.subscribe(["c"])
    script.pump()
    count = 0
    while not script.hub.is_blocked:
        script.hub.deliver("c", bytes(16_000))
        script.pump()
        count += 1
    assert count * 16_000 > 1_000_000
    script.hub.answer(PUBLISH, b"k")
    assert len(messages_of(script.pump())) == count
    assert not script.hub.is_blocked


def test_messages_before_the_answer_to_a_subscribe_are_nobodys() -> None:
    script = opened(held=(SUBSCRIBE,))
    script.client.subscribe(["c"])
    script.pump()
    script.hub.deliver("c", b"early")
    script.hub.answer(SUBSCRIBE, b"k")
    script.hub.deliver("c", b"1")
    assert messages_of(script.pump())[-1:] == [("c", b"1")]


# Unsubscribing


def test_unsubscribing_is_answered_here() -> None:
    script = opened()
    script.subscribe("a", "b")
    script.client.unsubscribe(["a"])
    assert script.pump() == [Acked(range(2, 3))]
    # The hub knows nothing of it.
    script.hub.deliver("a", b"1")
    script.hub.deliver("b", b"2")
    assert messages_of(script.pump()) == [("b", b"2")]


def test_unsubscribing_is_answered_in_its_turn() -> None:
    script = opened(held=(PUBLISH,))
    script.subscribe("a")
    script.client.publish("a", b"")
    script.client.unsubscribe(["a"])
    script.client.unsubscribe(["b"])
    assert script.pump() == []
    script.hub.answer(PUBLISH, b"k")
    assert answered(script.pump()) == [2, 3, 4]


def test_subscribing_again() -> None:
    script = opened(held=(SUBSCRIBE,))
    script.client.subscribe(["a"])
    script.pump()
    script.hub.answer(SUBSCRIBE, b"k")
    script.client.unsubscribe(["a"])
    script.client.subscribe(["a"])
    assert answered(script.pump()) == [1, 2]
    script.hub.deliver("a", b"of nobody")
    script.hub.answer(SUBSCRIBE, b"k")
    script.hub.deliver("a", b"1")
    assert messages_of(script.pump())[-1:] == [("a", b"1")]
    # What it holds it may subscribe once more.
    script.client.subscribe(["a"])
    script.pump()
    script.hub.answer(SUBSCRIBE, b"k")
    assert script.pump() == [Acked(range(4, 5))]
    assert script.hub.channels == ["a"] * 3


def test_what_is_in_flight_is_bounded() -> None:
    script = opened(held=(PUBLISH,), limits=Limits(max_in_flight=10))
    for number in range(25):
        script.client.publish("c", b"%d" % number)
    script.pump()
    assert len(script.hub.published) == script.client.in_flight == 10
    script.hub.answer(PUBLISH, b"k" * 10)
    script.pump()
    assert len(script.hub.published) == 20
    assert [data for _, data in script.hub.published] == [b"%d" % number for number in range(20)]


def test_the_backlog_counts_what_the_windows_hold_back() -> None:
    script = opened()
    client = script.client
    for _ in range(4):
        client.publish("c", bytes(100_000))
    sent = 0
    while data := client.data_to_send():
        sent += len(data)
    # The hub's window for the connection.
    assert 65_535 <= sent <= 66_000
    assert client.backlog >= 4 * 100_000 - sent
    assert not client.eof_is_due


def test_a_session_that_has_lost_messages_hears_the_next_ones() -> None:
    """A gap has no bytes on this wire, so nothing of it is ever on its way."""
    broker = Broker("boot", Limits(max_buffer=100))
    pair = Pair(broker, opened=False)
    pair.client = ClientProtocol(wire=ClientWire("hub"))

    def exchange() -> list[Event]:
        found = []
        for _ in range(5):
            found += pair.pump()
            pair.server.tick(0)
            pair.client.tick(0)
        return found

    exchange()
    pair.client.subscribe(["c" * 50])
    exchange()
    publisher = connect(broker)
    for message in (bytes(100), b"missed"):
        publisher.client.publish("c" * 50, message)
        publisher.pump()
    assert pair.server.missed == 1
    # It is read until there is nothing more, and not asked again.
    read = b"".join(iter(pair.server.data_to_send, b""))
    assert pair.server.backlog == 0
    publisher.client.publish("c" * 50, b"heard")
    publisher.pump()
    assert pair.server.missed == 1
    pair.client.receive_data(read)
    [first, second] = [event for event in exchange() if isinstance(event, Messages)]
    assert [run.messages[0].data for run in (*first.runs, *second.runs)] == [bytes(100), b"heard"]
