"""What each state allows, and how sessions end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from protocol.pair import (
    Pair,
    connect,
    drain,
    error_fields,
    expect_violation,
    hello,
    json_frame,
    open_client,
    open_server,
    output,
    receive,
    welcome,
)

from hyps.protocol import (
    NEED_DATA,
    PREFACE,
    Acked,
    Broker,
    ClientProtocol,
    Closed,
    GoingAway,
    Hello,
    Kind,
    LocalProtocolError,
    Lost,
    Messages,
    PeerError,
    Refusal,
    Rejected,
    RemoteProtocolError,
    Run,
    ServerProtocol,
    State,
    Taken,
    Welcome,
    encode,
    encode_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.pair import End

PING = encode_frame(Kind.PING, bytes(8))
PUBLISH = encode_frame(Kind.PUBLISH, encode("c", b"x"))
SUBSCRIBE = encode_frame(Kind.SUBSCRIBE, encode("c", b""))
ERROR = json_frame(Kind.ERROR, {"code": "limit", "message": "m"})
GOAWAY = json_frame(Kind.GOAWAY, {"reason": "bye"})


def fresh_server() -> ServerProtocol:
    server = ServerProtocol(Broker("boot"), session="s")
    assert receive(server, PREFACE) == []
    return server


def greeted_server() -> ServerProtocol:
    server = fresh_server()
    receive(server, hello())
    assert server.state is State.GREETED
    return server


def draining_server() -> ServerProtocol:
    server = open_server()
    server.go_away("bye")
    assert server.state is State.DRAINING
    return server


def closed_server() -> ServerProtocol:
    server = open_server()
    server.close()
    return server


def fresh_client() -> ClientProtocol:
    client = ClientProtocol()
    assert client.state is State.OPENING
    client.data_to_send()
    return client


def draining_client() -> ClientProtocol:
    client = open_client()
    client.close()
    assert client.state is State.DRAINING
    return client


def closed_client() -> ClientProtocol:
    client = open_client()
    client.fail("x")
    assert client.state is State.CLOSED
    return client


def ids(values: list[Callable[[], End]]) -> list[str]:
    return [value.__name__ for value in values]


OPENING: list[Callable[[], End]] = [fresh_server, greeted_server, fresh_client]
RUNNING: list[Callable[[], End]] = [open_server, draining_server, open_client, draining_client]

# States


@pytest.mark.parametrize("make", OPENING, ids=ids(OPENING))
@pytest.mark.parametrize(
    "frame",
    [
        *[PING, PUBLISH, SUBSCRIBE, encode_frame(Kind.PONG, bytes(8))],
        *[encode_frame(kind, b"") for kind in (Kind.AUTH, Kind.GAP, 0, 0x10, 0x7F, 0x80, 0xFF)],
    ],
)
def test_before_the_session_is_open_nothing_else_may_come(
    make: Callable[[], End], frame: bytes
) -> None:
    assert expect_violation(make(), frame) == []


@pytest.mark.parametrize("make", RUNNING, ids=ids(RUNNING))
@pytest.mark.parametrize("kind", [0x00, Kind.HELLO, Kind.WELCOME, Kind.AUTH, 0x10, 0x7F])
def test_kinds_that_never_may_come_to_an_open_session(make: Callable[[], End], kind: int) -> None:
    assert expect_violation(make(), encode_frame(kind, b"{}")) == []


@pytest.mark.parametrize("make", RUNNING, ids=ids(RUNNING))
@pytest.mark.parametrize("kind", [0x80, 0xFF])
def test_unknown_kinds_from_0x80_are_ignored(make: Callable[[], End], kind: int) -> None:
    end = make()
    end.data_to_send()
    assert receive(end, encode_frame(kind, b"anything") + PING) == []
    assert output(end) == [(Kind.PONG, bytes(8))]


@pytest.mark.parametrize(
    "kind",
    [Kind.PUBLISH_ACK, Kind.SUBSCRIBE_ACK, Kind.UNSUBSCRIBE_ACK, Kind.MESSAGES, Kind.GAP, 0x0D],
)
def test_hub_takes_nothing_that_only_hubs_send(kind: int) -> None:
    assert expect_violation(open_server(), encode_frame(kind, encode("c", b"x"))) == []


@pytest.mark.parametrize("kind", [Kind.PUBLISH, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE])
def test_client_takes_nothing_that_only_clients_send(kind: Kind) -> None:
    assert expect_violation(open_client(), encode_frame(kind, encode("c", b""))) == []


def test_client_sends_preface_and_hello_and_nothing_more_until_welcome() -> None:
    client = ClientProtocol()
    data = client.data_to_send()
    assert data.startswith(PREFACE)
    server = ServerProtocol(Broker("boot"), session="s")
    assert receive(server, data) == [Hello("hyps", None, ())]
    assert client.data_to_send() == b""
    assert not client.eof_is_due
    assert server.data_to_send() == b""
    assert not server.eof_is_due


@pytest.mark.parametrize("make", [fresh_client, draining_client, closed_client])
@pytest.mark.parametrize(
    "operate",
    [
        lambda client: client.publish("c", b""),
        lambda client: client.publish_many([("c", b"")]),
        lambda client: client.publish_many([]),
        lambda client: client.subscribe(["c"]),
        lambda client: client.unsubscribe(["c"]),
    ],
    ids=["publish", "publish_many", "publish none", "subscribe", "unsubscribe"],
)
def test_operations_need_an_open_session(
    make: Callable[[], ClientProtocol], operate: Callable[[ClientProtocol], object]
) -> None:
    client = make()
    client.data_to_send()
    with pytest.raises(LocalProtocolError):
        operate(client)
    assert client.unanswered == 0
    assert client.data_to_send() == b""


@pytest.mark.parametrize("make", [fresh_server, open_server, draining_server, closed_server])
@pytest.mark.parametrize(
    "answer", [lambda server: server.accept(), lambda server: server.refuse("no")]
)
def test_only_hello_can_be_answered(
    make: Callable[[], ServerProtocol], answer: Callable[[ServerProtocol], object]
) -> None:
    server = make()
    state = server.state
    with pytest.raises(LocalProtocolError):
        answer(server)
    assert server.state is state


@pytest.mark.parametrize(("given", "code"), [((), "auth"), (("limit",), "limit")])
def test_refused_client_is_told_why(given: tuple[str, ...], code: str) -> None:
    pair = Pair(opened=False)
    pair.send_up()
    receive(pair.server, bytes(pair.up))
    pair.server.refuse("go away", *given)
    assert receive(pair.client, pair.server.data_to_send()) == [PeerError(code, "go away")]
    assert pair.client.state is pair.server.state is State.CLOSED
    assert pair.server.eof_is_due
    assert pair.client.eof_is_due
    assert not pair.broker.sessions


def test_hub_that_leaves_may_say_so_instead_of_welcome() -> None:
    server = greeted_server()
    server.go_away("restart", 1)
    assert server.state is State.CLOSED
    client = fresh_client()
    assert receive(client, server.data_to_send()) == [GoingAway("restart", 1)]
    assert client.state is State.CLOSED
    assert client.eof_is_due


# Leaving


def test_client_that_closes_collects_its_answers() -> None:
    pair = Pair()
    pair.client.subscribe(["c"])
    pair.client.publish("c", b"1")
    pair.client.close()
    pair.client.close()
    assert pair.client.state is State.DRAINING
    assert not pair.client.eof_is_due
    pair.send_up()
    assert pair.client.eof_is_due
    pair.arrive_up()
    assert receive(pair.server, b"") == [Closed(True)]
    assert pair.server.state is State.CLOSED
    pair.send_down()
    assert pair.server.eof_is_due
    pair.arrive_down()
    assert receive(pair.client, b"") == [Closed(True)]
    assert pair.client_events == [
        Acked(range(1, 2)),
        Messages((Run("c", encode("c", b"1"), 1),)),
        Acked(range(2, 3)),
    ]
    assert pair.broker.channels == len(pair.broker.sessions) == 0


def test_output_that_waits_for_answers_is_no_end() -> None:
    client = open_client(max_in_flight=1)
    client.publish("c", b"1")
    client.publish("c", b"2")
    client.close()
    client.data_to_send()
    assert client.data_to_send() == b""
    assert not client.eof_is_due
    receive(client, encode_frame(Kind.PUBLISH_ACK, b"k"))
    assert output(client) == [(Kind.PUBLISH, encode("c", b"2"))]
    assert client.eof_is_due


def test_client_that_closes_before_welcome_is_closed() -> None:
    client = fresh_client()
    client.close()
    assert client.state is State.CLOSED
    assert client.eof_is_due
    assert receive(client, welcome()) == []


def test_going_away() -> None:
    pair = Pair()
    client, server = pair.client, pair.server
    client.subscribe(["a"])
    client.publish("a", b"1")
    client.publish("a", b"2")
    pair.send_up(1)  # SUBSCRIBE is on its way
    pair.arrive_up()
    server.go_away("restart", 3)
    server.go_away("again")
    client.subscribe(["b"])
    client.unsubscribe(["a"])
    assert pair.pump() == [
        Acked(range(1, 2)),
        GoingAway("restart", 3),
        Rejected(2, (Refusal(0, b"u"),)),
        Rejected(3, (Refusal(0, b"u"),)),
        Rejected(4, (Refusal(0, b"u", "b"),)),
        Acked(range(5, 6)),
    ]
    assert client.state is server.state is State.DRAINING
    assert client.eof_is_due
    assert not server.eof_is_due
    assert pair.broker.published == 0
    server.close()
    server.go_away("too late")
    assert server.data_to_send() == b""
    assert server.eof_is_due


def test_what_others_publish_reaches_a_session_that_is_going_away() -> None:
    pair = connect(Broker("boot"), "c")
    other = connect(pair.broker)
    pair.server.go_away("bye")
    other.client.publish("c", b"1")
    other.pump()
    assert pair.pump() == [GoingAway("bye", 0), Messages((Run("c", encode("c", b"1"), 1),))]


def ends_of_a_session() -> tuple[ClientProtocol, ServerProtocol, Pair]:
    pair = Pair()
    pair.client.subscribe(["a", "b"])
    pair.pump()
    pair.client.publish("a", b"1")
    pair.client.publish("b", b"2")
    return pair.client, pair.server, pair


def test_client_that_fails() -> None:
    client, server, pair = ends_of_a_session()
    client.fail("oh", "internal")
    client.fail("again")
    assert drain(client) == [Lost(range(2, 4))]
    assert client.state is State.CLOSED
    data = client.data_to_send()
    assert client.eof_is_due
    assert receive(server, data) == [PeerError("internal", "oh")]
    assert server.state is State.CLOSED
    assert pair.broker.channels == len(pair.broker.sessions) == 0


def test_hub_that_fails() -> None:
    client, server, pair = ends_of_a_session()
    server.fail("oh")
    server.fail("again")
    server.close()
    data = server.data_to_send()
    assert server.eof_is_due
    assert receive(client, data) == [Lost(range(2, 4)), PeerError("internal", "oh")]
    assert client.state is State.CLOSED
    assert client.data_to_send() == b""
    assert pair.broker.channels == len(pair.broker.sessions) == 0


def test_what_was_queued_for_the_client_precedes_the_goodbye() -> None:
    client, server, pair = ends_of_a_session()
    pair.send_up()
    pair.arrive_up()
    server.fail("oh")
    events = receive(client, server.data_to_send())
    assert [type(event) for event in events] == [Messages, Acked, PeerError]


@pytest.mark.parametrize("make", [*OPENING, *RUNNING], ids=ids([*OPENING, *RUNNING]))
@pytest.mark.parametrize(
    ("data", "clean"), [(b"", True), (b"\x00", False), (b"\x00\x00\x00\x09\x0b", False)]
)
def test_end_between_frames_and_within_one(
    make: Callable[[], End], data: bytes, clean: bool
) -> None:
    end = make()
    if data:
        assert receive(end, data) == []
    assert receive(end, b"") == [Closed(clean)]
    assert end.state is State.CLOSED
    assert receive(end, b"") == []
    assert receive(end, PING) == []


def test_end_within_the_preface() -> None:
    server = ServerProtocol(Broker("boot"), session="s")
    assert receive(server, PREFACE[:-1]) == []
    assert receive(server, b"") == [Closed(False)]


def test_frames_before_the_end_are_taken() -> None:
    server = open_server()
    server.receive_data(PUBLISH)
    server.receive_data(b"")
    assert drain(server) == [Taken(1), Closed(True)]
    assert output(server) == [(Kind.PUBLISH_ACK, b"k")]


def test_end_loses_what_was_not_answered() -> None:
    client, _, pair = ends_of_a_session()
    pair.lose()
    assert pair.client_events == [Lost(range(2, 4)), Closed(True)]
    assert client.unanswered == client.in_flight == 0
    assert pair.broker.channels == len(pair.broker.sessions) == 0


def test_what_comes_after_an_error_is_discarded() -> None:
    server = open_server()
    assert receive(server, ERROR + PUBLISH + b"junk") == [PeerError("limit", "m")]
    assert receive(server, PUBLISH) == []
    assert server.data_to_send() == b""
    assert server.eof_is_due


def test_error_may_come_instead_of_hello_or_welcome() -> None:
    for end in (fresh_server(), fresh_client()):
        assert receive(end, ERROR) == [PeerError("limit", "m")]
        assert end.state is State.CLOSED


def test_valid_events_come_before_a_violation_and_their_answers_before_the_error() -> None:
    server = open_server()
    assert expect_violation_with_output(server, SUBSCRIBE + PUBLISH + b"\x00\x00\x00\x00") == [
        Kind.SUBSCRIBE_ACK,
        Kind.MESSAGES,
        Kind.PUBLISH_ACK,
        Kind.ERROR,
    ]


def expect_violation_with_output(server: ServerProtocol, data: bytes) -> list[int]:
    server.receive_data(data)
    assert [server.next_event(), server.next_event()] == [Taken(1), Taken(1)]
    with pytest.raises(RemoteProtocolError):
        server.next_event()
    return [kind for kind, _ in output(server)]


def test_violation_frees_everything_at_the_hub() -> None:
    pair = connect(Broker("boot"), "a", "b")
    other = connect(pair.broker, "b")
    expect_violation(pair.server, encode_frame(Kind.AUTH, b""))
    assert pair.broker.sessions == {other.server}
    assert pair.broker.channels == 1
    assert pair.server.channels == 0
    other.client.publish("b", b"1")
    other.pump()
    assert pair.broker.delivered == 1
    assert pair.server.data_to_send() == b""


def test_error_of_the_client_says_what_the_state_does_not_allow() -> None:
    client = open_client()
    client.receive_data(encode_frame(Kind.HELLO, b""))
    with pytest.raises(RemoteProtocolError, match="HELLO from the hub"):
        client.next_event()
    assert "HELLO" in error_fields(client)["message"]


def test_unknown_kind_is_named_by_its_number() -> None:
    server = open_server()
    server.receive_data(encode_frame(0x7F, b""))
    with pytest.raises(RemoteProtocolError, match="0x7f"):
        server.next_event()


def test_client_is_finished_when_it_closed_and_has_its_answers() -> None:
    pair = Pair()
    assert not pair.client.is_finished
    pair.client.publish("c", b"1")
    pair.client.close()
    assert not pair.client.is_finished
    pair.send_up()
    assert not pair.client.is_finished
    pair.pump()
    assert pair.client.is_finished


def test_hub_is_finished_when_it_and_its_client_have_sent_all() -> None:
    server = open_server()
    server.receive_data(PUBLISH)
    server.receive_data(b"")
    assert not server.is_finished
    drain(server)
    assert not server.is_finished
    output(server)
    assert server.is_finished
    left = open_server()
    left.close()
    assert left.eof_is_due
    assert not left.is_finished


# Output


def test_output_is_announced_once_until_it_was_taken() -> None:
    calls: list[str] = []
    broker = Broker("boot")
    server = ServerProtocol(broker, session="s", on_output=lambda: calls.append("server"))
    client = ClientProtocol(on_output=lambda: calls.append("client"))
    assert calls == ["client"]
    receive(server, client.data_to_send())
    assert calls == ["client"]
    server.accept()
    assert calls == ["client", "server"]
    assert client.data_to_send() == b""
    [event] = receive(client, server.data_to_send())
    assert isinstance(event, Welcome)
    calls.clear()
    client.publish("c", b"1")
    client.publish("c", b"2")
    assert calls == ["client"]
    client.data_to_send()
    client.publish("c", b"3")
    assert calls == ["client"]  # the caller asks again when it has sent
    client.data_to_send()
    assert client.data_to_send() == b""
    client.publish("c", b"4")
    assert calls == ["client", "client"]
    assert client.next_event() is NEED_DATA


def test_output_stops_at_the_size_asked_for() -> None:
    client = open_client()
    for _ in range(3):
        client.publish_many([("c", bytes(1000))] * 60)
    assert client.data_to_send(0) == b""
    sizes = [len(data) for data in iter(lambda: client.data_to_send(1), b"")]
    assert len(sizes) == 3
    client.publish("c", b"")
    assert client.data_to_send(0) == b""
    assert client.data_to_send(1)
    assert max(sizes) <= 65_536 + 5


def test_backlog_counts_what_waits_and_what_is_being_sent() -> None:
    client = open_client()
    assert client.backlog == 0
    client.publish("c", b"1")
    size = len(encode("c", b"1")) + 64
    assert client.backlog == size
    assert client.data_to_send()
    assert client.backlog == size
    assert client.data_to_send() == b""
    assert client.backlog == 0
