"""How operations are answered, and what is wrong with an operation or an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.pair import (
    Pair,
    connect,
    drain,
    expect_violation,
    open_client,
    open_server,
    output,
    receive,
)

from hyps.protocol import (
    Acked,
    Broker,
    ClientProtocol,
    Gap,
    InvalidChannel,
    Kind,
    Lost,
    Messages,
    MessageTooLarge,
    Refusal,
    Rejected,
    RemoteProtocolError,
    Run,
    Taken,
    encode,
    encode_frame,
    records,
)
from hyps.protocol._records.layout import BATCH_SIZE, MANY_RECORDS, MERGED_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable


MALFORMED = {
    "no newline": b"\x00\x00\x00\x04abcd",
    "length of 2": b"\x00\x00\x00\x02\n\n",
    "last byte": b"\x00\x00\x00\x04a\nbc",
    "empty channel": b"\x00\x00\x00\x03\nx\n",
    "not UTF-8": b"\x00\x00\x00\x04\xff\nx\n",
    "not UTF-8, no message": b"\x00\x00\x00\x03\xff\n\n",
    "cut off": b"\x00\x00\x00\x05a\nx\n",
    "cut off in the length": b"\x00\x00",
}


# Operations


def test_each_kind_of_operation_is_answered_in_order() -> None:
    pair = Pair()
    client = pair.client
    assert client.subscribe(["a", "b"]) == 1
    assert client.publish("a", "text") == 2
    assert client.publish_many([("a", b"1"), ("b", bytearray(b"2")), ("b", b"3")]) == 3
    assert client.unsubscribe(["b"]) == 4
    assert client.unanswered == 4
    assert pair.pump() == [
        Acked(range(1, 2)),
        Messages((Run("a", encode("a", "text") + encode("a", b"1"), 2),)),
        Acked(range(2, 4)),
        Acked(range(4, 5)),
    ]
    assert client.unanswered == client.in_flight == 0
    assert pair.server_events == [Taken(2), Taken(4), Taken(1)]
    assert (pair.broker.published, pair.broker.delivered, pair.broker.missed) == (4, 4, 0)


@pytest.mark.parametrize("split", range(7))
def test_messages_published_singly_are_operations_of_their_own(split: int) -> None:
    client = open_client()
    assert [client.publish("c", b"") for _ in range(3)] == [1, 2, 3]
    assert client.publish_many([("c", b"")] * 2) == 4
    assert [client.publish("c", b"") for _ in range(2)] == [5, 6]
    assert client.unanswered == 6
    client.data_to_send()
    codes = b"kdknkds"
    acked: list[int] = []
    rejected: list[Rejected] = []
    for part in filter(None, (codes[:split], codes[split:])):
        for event in receive(client, encode_frame(Kind.PUBLISH_ACK, part)):
            if isinstance(event, Acked):
                acked += event.operations
            else:
                assert isinstance(event, Rejected)
                rejected.append(event)
    assert acked == [1, 3]
    assert rejected == [
        Rejected(2, (Refusal(0, b"d"),)),
        Rejected(4, (Refusal(0, b"n"),)),
        Rejected(5, (Refusal(0, b"d"),)),
        Rejected(6, (Refusal(0, b"s"),)),
    ]
    assert client.unanswered == client.in_flight == 0
    # Another series.
    assert client.publish("c", b"") == 7
    client.data_to_send()
    assert receive(client, encode_frame(Kind.PUBLISH_ACK, b"k")) == [Acked(range(7, 8))]


@pytest.mark.parametrize("answered", range(4))
def test_what_was_published_singly_and_not_answered_is_lost(answered: int) -> None:
    client = open_client()
    for _ in range(3):
        client.publish("c", b"")
    client.data_to_send()
    if answered:
        answer = encode_frame(Kind.PUBLISH_ACK, b"k" * answered)
        assert receive(client, answer) == [Acked(range(1, 1 + answered))]
    assert client.publish("c", b"") == 4
    assert client.unanswered == 4 - answered
    client.fail("enough")
    assert drain(client) == [Lost(range(1 + answered, 5))]
    assert client.unanswered == client.in_flight == 0


def test_operations_without_channels_are_none() -> None:
    pair = Pair()
    assert pair.client.subscribe([]) is None
    assert pair.client.unsubscribe([]) is None
    assert pair.client.publish_many([]) is None
    assert pair.client.data_to_send() == b""


@pytest.mark.parametrize("size", [0, 10, 100, 1_000, 60_000])
def test_publish_many_takes_an_iterator_in_parts(size: int) -> None:
    pair = Pair()
    count = min(60_000, 1_000_000 // (size + 10))
    wanted = [("c", bytes([index % 256]) * size) for index in range(count)]
    messages = iter(wanted)
    operations = 0
    while pair.client.publish_many(messages, one_frame=True) is not None:
        operations += 1
        left = messages.__length_hint__()  # type: ignore[attr-defined]
        assert left == 0 or left < len(wanted) - operations
    assert operations > 1
    bodies = [body for _, body in output(pair.client)]
    assert len(bodies) <= operations
    assert [*records(b"".join(bodies))] == wanted
    largest = len(encode("c", bytes(size)))
    assert max(map(len, bodies)) < BATCH_SIZE + largest
    if size >= 1_000:
        assert max(map(len, bodies[:-1])) >= BATCH_SIZE
    # Of small messages a frame has many, and not many more.
    assert max([len([*records(body)]) for body in bodies]) <= MANY_RECORDS + MERGED_SIZE // largest


BAD_OPERATIONS: dict[str, tuple[Callable[[ClientProtocol], object], type[Exception]]] = {
    "empty name": (lambda client: client.publish("", b""), InvalidChannel),
    "no name": (lambda client: client.publish_many([(None, b"")]), TypeError),  # type: ignore[list-item]
    "newline": (lambda client: client.subscribe(["a", "b\nc"]), InvalidChannel),
    "surrogate": (lambda client: client.unsubscribe(["\ud800"]), InvalidChannel),
    "long name": (lambda client: client.subscribe(["a", "é" * 50 + "x"]), InvalidChannel),
    "long message": (lambda client: client.publish("c", bytes(1001)), MessageTooLarge),
    "one of many": (
        lambda client: client.publish_many([("c", b"x"), ("c", bytes(1001))]),
        MessageTooLarge,
    ),
    "one name of many": (
        lambda client: client.publish_many([("c", bytes(1000))] * 80 + [("", b"")]),
        InvalidChannel,
    ),
}


@pytest.mark.parametrize(("operate", "error"), BAD_OPERATIONS.values(), ids=BAD_OPERATIONS)
def test_wrong_operation_is_not_begun(
    operate: Callable[[ClientProtocol], object], error: type[Exception]
) -> None:
    client = open_client()
    with pytest.raises(error):
        operate(client)
    assert client.unanswered == 0
    assert client.data_to_send() == b""
    assert client.publish("é" * 50, bytes(1000)) == 1
    assert client.subscribe(["c"]) == 2


def test_wrong_type_of_message() -> None:
    wrong: Any = 7
    with pytest.raises(TypeError):
        open_client().publish("c", wrong)


def test_subscribing_again_is_harmless_and_answered() -> None:
    pair = Pair()
    pair.client.subscribe(["c", "c"])
    pair.client.publish("c", b"1")
    pair.client.subscribe(["c"])
    pair.client.publish("c", b"2")
    runs = [event.runs[0].records for event in pair.pump() if isinstance(event, Messages)]
    assert runs == [encode("c", b"1"), encode("c", b"2")]
    assert pair.server.channels == 1
    assert pair.client.position("c") == b"boot.0:2"


def test_unsubscribing_what_is_not_subscribed_is_acked() -> None:
    pair = Pair()
    pair.client.unsubscribe(["c", "c"])
    assert pair.pump() == [Acked(range(1, 2))]


def test_publishing_where_nobody_listens_stores_nothing() -> None:
    pair = Pair()
    pair.client.publish("c", b"1")
    assert pair.pump() == [Acked(range(1, 2))]
    assert pair.broker.channels == 0
    assert (pair.broker.published, pair.broker.delivered) == (1, 0)


def test_nothing_is_handed_out_between_unsubscribe_and_the_answer_to_the_next_subscribe() -> None:
    pair = connect(Broker("boot"), "c")
    other = connect(pair.broker)

    def publish(data: bytes) -> None:
        other.client.publish("c", data)
        other.pump()

    pair.client.unsubscribe(["c"])
    assert pair.client.position("c") is None
    publish(b"1")  # on its way when the hub takes UNSUBSCRIBE
    pair.client.subscribe(["c"])
    publish(b"2")
    pair.send_up()
    pair.arrive_up()
    publish(b"3")
    assert pair.pump() == [
        Acked(range(2, 3)),
        Acked(range(3, 4)),
        Messages((Run("c", encode("c", b"3"), 1),)),
    ]


def test_answer_to_a_subscribe_before_the_unsubscribe_hands_out_nothing() -> None:
    pair = Pair()
    pair.client.subscribe(["c"])
    pair.client.publish("c", b"1")
    pair.client.unsubscribe(["c"])
    pair.client.subscribe(["d"])
    assert pair.pump() == [Acked(range(n, n + 1)) for n in range(1, 5)]
    assert pair.client.position("c") is None
    assert pair.client.position("d") == b"boot.0:0"


def test_every_subscriber_gets_the_publishers_own_bytes() -> None:
    broker = Broker("boot")
    subscribers = [connect(broker, "c"), connect(broker, "d"), connect(broker, "d", "c")]
    publisher = connect(broker)
    publisher.client.publish("c", b"1\n")
    publisher.pump()
    run = [Messages((Run("c", encode("c", b"1\n"), 1),))]
    assert [pair.pump() for pair in subscribers] == [run, [], run]
    assert (broker.published, broker.delivered) == (1, 2)


# Answers that are wrong


def client_with_operations() -> ClientProtocol:
    """Two messages are published, then two channels are subscribed and one is unsubscribed."""
    client = open_client()
    client.publish_many([("c", b"1"), ("c", b"2")])
    client.subscribe(["a", "b"])
    client.unsubscribe(["c"])
    client.data_to_send()
    return client


PUBLISHED = encode_frame(Kind.PUBLISH_ACK, b"kk")
SUBSCRIBED = encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kx:0") + encode("b", b"kx:0"))

#: Frames, and how many of the three operations they answer before they go wrong.
WRONG_ANSWERS: dict[str, tuple[bytes, int]] = {
    "no codes": (encode_frame(Kind.PUBLISH_ACK, b""), 0),
    "too many codes": (encode_frame(Kind.PUBLISH_ACK, b"k" * 6), 0),
    "another kind": (encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"), 0),
    "another kind, for channels": (SUBSCRIBED, 0),
    "codes for operations of another kind": (encode_frame(Kind.PUBLISH_ACK, b"kkk"), 1),
    "refusals for operations of another kind": (encode_frame(Kind.PUBLISH_ACK, b"kdk"), 1),
    "codes for channels": (PUBLISHED + encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"), 1),
    "no channels": (PUBLISHED + encode_frame(Kind.SUBSCRIBE_ACK, b""), 1),
    "another channel": (PUBLISHED + encode_frame(Kind.SUBSCRIBE_ACK, encode("b", b"kx:0")), 1),
    "no answer for the channel": (
        PUBLISHED + encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"")),
        1,
    ),
    "no position": (PUBLISHED + encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"k")), 1),
    "cut off": (PUBLISHED + encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kx:0")[:-1]), 1),
    "a channel too many": (
        PUBLISHED + SUBSCRIBED + encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kx:0")),
        2,
    ),
    "a code too many": (PUBLISHED + SUBSCRIBED + encode_frame(Kind.UNSUBSCRIBE_ACK, b"kk"), 2),
}


def answered(events: list[Any]) -> list[int]:
    """Ids of operations, in the order in which events tell of them."""
    found: list[int] = []
    for event in events:
        if isinstance(event, Acked | Lost):
            found += event.operations
        elif isinstance(event, Rejected):
            found.append(event.operation)
    return found


@pytest.mark.parametrize(("data", "count"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_wrong_answer_is_a_violation_and_every_operation_is_told_once(
    data: bytes, count: int
) -> None:
    client = client_with_operations()
    events = expect_violation(client, data)
    assert answered(events) == [1, 2, 3]
    assert events[-1] == Lost(range(1 + count, 4))
    assert client.unanswered == client.in_flight == 0


@pytest.mark.parametrize(
    "frame",
    [encode_frame(Kind.PUBLISH_ACK, b"k"), encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"), SUBSCRIBED],
    ids=["publish", "unsubscribe", "subscribe"],
)
def test_answer_without_an_operation_is_a_violation(frame: bytes) -> None:
    assert expect_violation(open_client(), frame) == []


def test_answer_to_what_was_not_sent_yet_is_a_violation_and_no_more() -> None:
    client = open_client()
    client.subscribe(["a"], {"a": b"x:0"})
    events = expect_violation(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kx:7")))
    assert events == [Lost(range(1, 2))]


@pytest.mark.parametrize(
    "position",
    [
        *[
            b"",
            b"x",
            b"x:",
            b":1",
            b"x:01",
            b"x:-1",
            b"x: 1",
            b"x y:1",
            b"x:y:1",
            b"x:1\n",
            b"x\n:1",
        ],
        *[b"x" * 33 + b":1", b"\xe9:1", b"\x7f:1", b"x:9223372036854775808", b"x:" + b"9" * 20],
    ],
)
def test_malformed_position_is_a_violation(position: bytes) -> None:
    client = open_client()
    client.subscribe(["a"])
    client.data_to_send()
    events = expect_violation(
        client, encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"k" + position))
    )
    assert events == [Lost(range(1, 2))]
    expect_violation(open_client(), encode_frame(Kind.GAP, encode("a", position)))


@pytest.mark.parametrize("position", [b"!:0", b"~" * 32 + b":9223372036854775807"])
def test_every_position_is_understood(position: bytes) -> None:
    client = open_client()
    client.subscribe(["a"])
    client.data_to_send()
    assert receive(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"k" + position)))
    assert client.position("a") == position


@pytest.mark.parametrize("code", [b"d", b"s", b"n", b"u", b"?", b"\x00", b"\xff"])
def test_any_other_code_is_a_refusal_of_its_record(code: bytes) -> None:
    client = client_with_operations()
    assert receive(client, encode_frame(Kind.PUBLISH_ACK, b"k" + code)) == [
        Rejected(1, (Refusal(1, code),))
    ]
    granted, refused = encode("a", b"kx:0"), encode("b", code)
    assert receive(client, encode_frame(Kind.SUBSCRIBE_ACK, granted + refused)) == [
        Rejected(2, (Refusal(1, code, "b"),))
    ]
    assert client.position("b") is None
    assert receive(client, encode_frame(Kind.UNSUBSCRIBE_ACK, code)) == [
        Rejected(3, (Refusal(0, code),))
    ]


def test_answers_may_be_split_and_merged() -> None:
    client = open_client()
    for _ in range(3):
        client.publish_many([("c", b"1"), ("c", b"2")])
    client.data_to_send()
    assert receive(client, encode_frame(Kind.PUBLISH_ACK, b"k")) == []
    assert receive(client, encode_frame(Kind.PUBLISH_ACK, b"dk")) == [
        Rejected(1, (Refusal(1, b"d"),))
    ]
    assert receive(client, encode_frame(Kind.PUBLISH_ACK, b"kkk")) == [Acked(range(2, 4))]


def test_acked_and_rejected_come_in_the_order_of_the_operations() -> None:
    client = open_client()
    for _ in range(6):
        client.publish("c", b"")
    client.data_to_send()
    assert receive(client, encode_frame(Kind.PUBLISH_ACK, b"kkdkdk")) == [
        Acked(range(1, 3)),
        Rejected(3, (Refusal(0, b"d"),)),
        Acked(range(4, 5)),
        Rejected(5, (Refusal(0, b"d"),)),
        Acked(range(6, 7)),
    ]


def test_refused_channel_can_be_subscribed_later() -> None:
    client = open_client()
    client.subscribe(["a"])
    client.subscribe(["a"])
    client.data_to_send()
    assert receive(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"d"))) == [
        Rejected(1, (Refusal(0, b"d", "a"),))
    ]
    messages = encode_frame(Kind.MESSAGES, encode("a", b"1"))
    assert receive(client, messages) == []
    granted = encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kx:1"))
    run = Run("a", encode("a", b"1"), 1)
    assert receive(client, granted + messages) == [Acked(range(2, 3)), Messages((run,))]


# Malformed records


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Kind.PUBLISH, (Kind.PUBLISH_ACK, b"kk")),
        (
            Kind.SUBSCRIBE,
            (Kind.SUBSCRIBE_ACK, encode("a", b"kboot.0:0") + encode("b", b"kboot.0:0")),
        ),
        (Kind.UNSUBSCRIBE, (Kind.UNSUBSCRIBE_ACK, b"kk")),
    ],
)
def test_records_before_a_malformed_one_are_taken_and_answered(
    bad: bytes, kind: Kind, answer: tuple[int, bytes]
) -> None:
    server = open_server()
    valid = encode("a", b"") + encode("b", b"")
    server.receive_data(encode_frame(kind, valid + bad + valid))
    assert server.next_event() == Taken(2)
    with pytest.raises(RemoteProtocolError):
        server.next_event()
    first, (kind_of_last, _) = output(server)
    assert first == answer
    assert kind_of_last == Kind.ERROR


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
def test_messages_before_a_malformed_one_are_handed_out(bad: bytes) -> None:
    client = open_client()
    client.subscribe(["a"])
    client.data_to_send()
    receive(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kx:0")))
    record = encode("a", b"1")
    events = expect_violation(client, encode_frame(Kind.MESSAGES, record + bad + record))
    assert events == [Messages((Run("a", record, 1),))]


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
def test_gaps_before_a_malformed_one_are_handed_out(bad: bytes) -> None:
    client = open_client()
    client.subscribe(["a"])
    client.data_to_send()
    receive(client, encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kx:0")))
    events = expect_violation(client, encode_frame(Kind.GAP, encode("a", b"x:3") + bad))
    assert events == [Gap("a", 3, "hub")]


@pytest.mark.parametrize("kind", [Kind.PUBLISH, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE])
def test_hub_takes_no_frame_without_records(kind: Kind) -> None:
    assert expect_violation(open_server(), encode_frame(kind, b"")) == []


@pytest.mark.parametrize("kind", [Kind.MESSAGES, Kind.GAP])
def test_client_takes_no_frame_without_records(kind: Kind) -> None:
    assert expect_violation(open_client(), encode_frame(kind, b"")) == []


def test_name_that_was_not_checked_is_never_echoed() -> None:
    server = open_server()
    server.receive_data(encode_frame(Kind.SUBSCRIBE, encode("a", b"")[:4] + b"\xff\n\n"))
    with pytest.raises(RemoteProtocolError):
        server.next_event()
    assert b"\xff" not in server.data_to_send()


@pytest.mark.parametrize("content", [b"x", b"x:-1", b"1", b"x:01"])
def test_reserved_contents_of_a_subscribe_are_refused(content: bytes) -> None:
    server = open_server()
    receive(server, encode_frame(Kind.SUBSCRIBE, encode("a", content) + encode("b", b"x:1")))
    answers = encode("a", b"d") + encode("b", b"kboot.0:0")
    assert output(server) == [(Kind.SUBSCRIBE_ACK, answers)]
    assert server.channels == 1


def test_reserved_contents_of_an_unsubscribe_are_refused() -> None:
    server = open_server()
    receive(server, encode_frame(Kind.SUBSCRIBE, encode("a", b"") + encode("b", b"")))
    receive(
        server,
        encode_frame(Kind.UNSUBSCRIBE, encode("a", b"x") + encode("b", b"x") + encode("b", b"")),
    )
    assert output(server)[-1] == (Kind.UNSUBSCRIBE_ACK, b"ddk")
    assert server.channels == 1


@pytest.mark.parametrize("names", [("a", "b", "c"), ("c", "a", "b"), ("a", "a", "c"), ("b",)])
def test_new_channels_are_answered_as_others_are(names: tuple[str, ...]) -> None:
    """Most of those that are subscribed are new to the session, and so they are taken at once."""
    pair = connect(Broker("boot"), "b")
    other = connect(pair.broker, "c")
    other.client.publish("c", b"")
    other.pump()
    pair.client.subscribe(names)
    assert pair.pump() == [Acked(range(2, 3))]
    assert pair.server.channels == len({"b", *names})
    for name in names:
        assert pair.client.position(name) == (b"boot.0:1" if name == "c" else b"boot.0:0")


#: So many that their answers are looked at together.
MANY = [f"c{number}" for number in range(200)]


def granted(*channels: str, position: bytes = b"x:0") -> bytes:
    return b"".join([encode(channel, b"k" + position) for channel in channels])


def client_of(*operations: list[str]) -> ClientProtocol:
    client = open_client()
    for channels in operations:
        client.subscribe(channels)
    client.data_to_send()
    return client


def held(client: ClientProtocol) -> list[str]:
    return [name for name in MANY if client.position(name) == b"x:0"]


@pytest.mark.parametrize("cut", [1, 20, 100, 199])
def test_many_answers_may_come_in_parts(cut: int) -> None:
    client = client_of(MANY)
    assert receive(client, encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY[:cut]))) == []
    assert held(client) == MANY[:cut]
    assert client.in_flight == len(MANY) - cut
    last = encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY[cut:]))
    assert receive(client, last) == [Acked(range(1, 2))]
    assert held(client) == MANY
    assert client.in_flight == 0


@pytest.mark.parametrize("cut", [1, 20, 100, 199])
def test_many_answers_to_several_operations_may_come_together(cut: int) -> None:
    client = client_of(MANY[:cut], MANY[cut:])
    both = encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY))
    assert answered(receive(client, both)) == [1, 2]
    assert held(client) == MANY


@pytest.mark.parametrize("index", [0, 1, 100, 199])
@pytest.mark.parametrize("answer", [b"d", b"kx:1", b"ky:0"])
def test_one_of_many_answers_may_differ(index: int, answer: bytes) -> None:
    client = client_of(MANY)
    name = MANY[index]
    others = MANY[:index], MANY[index + 1 :]
    answers = granted(*others[0]) + encode(name, answer) + granted(*others[1])
    refused = Rejected(1, (Refusal(index, b"d", name),))
    expected = [refused if answer == b"d" else Acked(range(1, 2))]
    assert receive(client, encode_frame(Kind.SUBSCRIBE_ACK, answers)) == expected
    assert held(client) == [*others[0], *others[1]]
    assert client.position(name) == (answer[1:] or None)


def test_many_answers_about_channels_that_were_named_twice() -> None:
    client = client_of(MANY + MANY)
    answers = encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY, *MANY))
    assert receive(client, answers) == [Acked(range(1, 2))]
    assert held(client) == MANY


def test_many_answers_about_channels_of_which_some_were_left() -> None:
    client = client_of(MANY)
    client.unsubscribe(MANY[:50])
    client.subscribe(MANY[:10])
    client.data_to_send()
    receive(client, encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY)))
    assert held(client) == MANY[50:]
    receive(client, encode_frame(Kind.UNSUBSCRIBE_ACK, b"k" * 50))
    receive(client, encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY[:10])))
    assert held(client) == [*MANY[:10], *MANY[50:]]


def test_many_answers_about_channels_that_are_asked_for_again() -> None:
    client = client_of(MANY, MANY)
    answers = encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY))
    assert receive(client, answers) == [Acked(range(1, 2))]
    assert held(client) == MANY
    assert receive(client, answers) == [Acked(range(2, 3))]
    assert held(client) == MANY


def test_more_answers_than_channels_are_a_violation() -> None:
    client = client_of(MANY)
    events = expect_violation(client, encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY, "one more")))
    assert events == [Acked(range(1, 2))]


@pytest.mark.parametrize("position", [b":0", b"x y:0", b"x" * 33 + b":0", b"\xe9:0"])
def test_malformed_position_in_many_answers_is_a_violation(position: bytes) -> None:
    client = client_of(MANY)
    answers = encode_frame(Kind.SUBSCRIBE_ACK, granted(*MANY, position=position))
    assert expect_violation(client, answers) == [Lost(range(1, 2))]


@pytest.mark.parametrize("bad", ["", "a\nb", "\ud800"])
def test_one_bad_name_among_many_is_found(bad: str) -> None:
    client = open_client()
    with pytest.raises(InvalidChannel):
        client.subscribe([*MANY, bad, *MANY])
    assert client.unanswered == 0


def test_names_of_any_lengths() -> None:
    names = ["é" * length for length in range(1, 40)]
    pair = connect(Broker("boot"), *names, "plain", "plainer")
    assert pair.server.channels == len(names) + 2
    assert {pair.client.position(name) for name in names} == {b"boot.0:0"}


def test_channels_may_come_and_go_without_end() -> None:
    pair = connect(Broker("boot"), "kept")
    for _ in range(100):
        pair.client.subscribe(["a", "b"])
        pair.client.unsubscribe(["a"])
        pair.pump()
        assert pair.server.channels == pair.broker.channels == 2
        pair.client.unsubscribe(["b"])
    pair.client.subscribe(["a"])
    pair.pump()
    assert pair.server.channels == pair.broker.channels == 2
    pair.server.close()
    assert pair.server.channels == pair.broker.channels == 0


_begun = st.tuples(st.just("publish"), st.sampled_from("ab"), st.integers(0, 40)) | st.sampled_from(
    [("publish_many", "ba", 2), ("subscribe", "c", 0), ("unsubscribe", "c", 0), ("send", "", 0)]
)


@given(st.lists(_begun, max_size=40), st.sampled_from([1, 2, 3, 1000]))
def test_what_is_published_one_by_one_keeps_its_place(
    operations: list[tuple[str, str, int]], most: int
) -> None:
    """It is encoded when it leaves, together with its neighbours."""
    client = open_client(max_in_flight=most)
    wanted: list[tuple[Kind, str, bytes]] = []
    found: list[tuple[Kind, str, bytes]] = []

    def send() -> None:
        while sent := output(client):
            for kind, body in sent:
                entries = [(Kind(kind), *record) for record in records(body)]
                assert len(entries) <= most
                found.extend(entries)
                for _, channel, _ in entries:
                    granted = encode(channel, b"kg:0")
                    answer = granted if kind == Kind.SUBSCRIBE else b"k"
                    receive(client, encode_frame(kind + 1, answer))

    for name, channels, size in operations:
        data = bytes(size)
        pairs = [(channel, data) for channel in channels]
        match name:
            case "publish":
                client.publish(channels, data)
                wanted.append((Kind.PUBLISH, channels, data))
            case "publish_many":
                client.publish_many(pairs)
                wanted += [(Kind.PUBLISH, *pair) for pair in pairs]
            case "send":
                send()
            case _:
                getattr(client, name)([channels])
                wanted.append((Kind[name.upper()], channels, b""))
    send()
    assert found == wanted
    assert client.unanswered == client.in_flight == client.backlog == 0
