from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from protocol.pair import (
    Pair,
    drain,
    error_fields,
    expect_violation,
    open_client,
    open_server,
    output,
    receive,
    welcome,
)

from hyps.protocol import (
    Broker,
    ClientProtocol,
    ErrorCode,
    Kind,
    Limits,
    LocalProtocolError,
    Lost,
    Pong,
    RemoteProtocolError,
    ServerProtocol,
    State,
    encode,
    encode_frame,
)
from hyps.protocol.limits import MIN_PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.pair import End

LIMITS = Limits(hello_timeout=3, heartbeat=10)


def client_of_that_heartbeat() -> ClientProtocol:
    return open_client(heartbeat=LIMITS.heartbeat)


either_end = pytest.mark.parametrize(
    "open_end", [lambda: open_server(LIMITS), client_of_that_heartbeat], ids=["server", "client"]
)


def large_frame(end: End) -> bytes:
    """A frame that the other end may send."""
    kind = Kind.MESSAGES if isinstance(end, ClientProtocol) else Kind.PUBLISH
    return encode_frame(kind, encode("c", bytes(60_000)))


def pings(end: End) -> list[bytes]:
    return [body for kind, body in output(end) if kind == Kind.PING]


def expect_timeout(end: End) -> None:
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            end.next_event()
        assert caught.value.code == ErrorCode.TIMEOUT
    assert error_fields(end)["code"] == "timeout"
    assert end.state is State.CLOSED
    assert end.tick(1e9) == math.inf


@pytest.mark.parametrize(
    "make",
    [
        lambda: ServerProtocol(Broker("boot", LIMITS), session="s"),
        lambda: ClientProtocol(limits=LIMITS),
    ],
    ids=["server", "client"],
)
def test_session_must_be_opened_in_time(make: Callable[[], End]) -> None:
    end = make()
    end.data_to_send()
    end.data_to_send()
    assert end.tick(100) == 103
    assert end.tick(102.9) == 103
    # A late tick may be this process' own fault: a read is tried before the end.
    assert end.tick(103) == 103
    assert drain(end) == []
    assert end.tick(103) == math.inf
    expect_timeout(end)


def test_hello_that_is_not_answered_does_not_prolong_the_opening() -> None:
    pair = Pair(limits=LIMITS, opened=False)
    assert pair.server.tick(0) == 3
    pair.send_up()
    assert receive(pair.server, bytes(pair.up))
    assert pair.server.state is State.GREETED
    assert pair.server.tick(2) == 3
    assert pair.server.tick(3) == 3
    assert pair.server.tick(3) == math.inf
    expect_timeout(pair.server)


def test_opening_at_the_last_moment_is_in_time() -> None:
    client = ClientProtocol(limits=LIMITS)
    assert client.tick(0) == 3
    assert client.tick(3) == 3
    receive(client, welcome(heartbeat=10))
    assert client.tick(3) == 13


@either_end
def test_silence_is_asked_about_and_then_given_up(open_end: Callable[[], End]) -> None:
    end = open_end()
    assert end.tick(100) == 110
    assert end.tick(109) == 110
    assert pings(end) == []
    assert end.tick(110) == 120
    [ping] = pings(end)
    assert len(ping) == 8
    # One PING is outstanding.
    assert end.tick(115) == 120
    assert pings(end) == []
    assert end.tick(120) == 120
    assert drain(end) == []
    assert end.tick(120) == math.inf
    expect_timeout(end)


@either_end
def test_answered_ping_is_life_and_the_next_one_differs(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    end.tick(10)
    [first] = pings(end)
    told = [Pong(10)] if isinstance(end, ClientProtocol) else []
    assert receive(end, encode_frame(Kind.PONG, first)) == told
    assert end.tick(11) == 21
    assert end.tick(21) == 31
    [second] = pings(end)
    assert second != first


@either_end
def test_received_bytes_are_life_even_in_the_middle_of_a_frame(
    open_end: Callable[[], End],
) -> None:
    end = open_end()
    end.tick(0)
    frame = large_frame(end)
    for index in range(12):
        assert receive(end, frame[MIN_PROGRESS * index :][:MIN_PROGRESS]) == []
        assert end.tick(9 * index) == 9 * index + 10
    assert pings(end) == []


@either_end
def test_frame_that_does_not_go_on_is_given_up(open_end: Callable[[], End]) -> None:
    """It takes memory for as long as it is not whole."""
    end = open_end()
    frame = large_frame(end)
    end.tick(0)
    end.receive_data(frame[:20_000])
    drain(end)
    assert end.tick(5) == 15
    for second in range(6, 15):
        receive(end, frame[:1])
        assert end.tick(second) == 15
    # A read is tried before the end, and one byte more does not help.
    assert end.tick(15) == 15
    receive(end, frame[:1])
    assert end.tick(15) == math.inf
    with pytest.raises(RemoteProtocolError, match="does not go on"):
        end.next_event()
    expect_timeout(end)


@either_end
def test_frame_that_goes_on_in_the_last_moment_is_not_given_up(
    open_end: Callable[[], End],
) -> None:
    end = open_end()
    frame = large_frame(end)
    receive(end, frame[:10])
    end.tick(0)
    assert end.tick(10) == 10
    receive(end, frame[10 : 10 + MIN_PROGRESS])
    assert end.tick(10) == 20
    receive(end, frame[10 + MIN_PROGRESS : 9 + 2 * MIN_PROGRESS])
    assert end.tick(20) == 20
    receive(end, frame[9 + 2 * MIN_PROGRESS : 10 + 2 * MIN_PROGRESS])
    assert end.tick(20) == 30
    assert len(receive(end, frame[10 + 2 * MIN_PROGRESS :])) == 1 - isinstance(end, ClientProtocol)
    assert end.tick(30) == 40


@either_end
def test_each_frame_has_a_time_of_its_own(open_end: Callable[[], End]) -> None:
    """Whoever sends all the time is in the middle of a frame at each tick."""
    end = open_end()
    frame = encode_frame(0x80, bytes(100))
    end.receive_data(frame[:50])
    for now in range(0, 100, 9):
        receive(end, frame[50:] + frame[:50])
        assert end.tick(now) == now + 10
    receive(end, frame[50:])
    assert end.tick(1000) == 1010


@either_end
def test_what_comes_after_a_late_tick_saves_the_connection(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    end.tick(10)
    [ping] = pings(end)
    assert end.tick(1000) == 1000
    receive(end, encode_frame(Kind.PONG, ping))
    assert end.tick(1000) == 1010
    # And the next late tick is a first one again.
    assert end.tick(1010) == 1020
    assert end.tick(1020) == 1020
    assert end.state is State.OPEN


@either_end
def test_late_first_tick_asks_and_gives_time_to_answer(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    assert end.tick(1000) == 1010
    assert len(pings(end)) == 1
    assert end.tick(1010) == 1010
    assert end.state is State.OPEN
    assert end.tick(1010) == math.inf


@either_end
def test_a_ping_that_leaves_is_no_sign_of_life(open_end: Callable[[], End]) -> None:
    end = open_end()
    assert end.tick(100, 0) == 110
    assert end.tick(110, 0) == 120
    # It has been sent, and at once.
    assert len(pings(end)) == 1
    assert end.tick(120, 0) == 120
    assert end.tick(120, 0) == math.inf
    expect_timeout(end)


@either_end
def test_slow_output_that_gets_through_is_life(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    assert end.tick(10) == 20
    assert end.data_to_send()  # handed to the transport, which takes its time
    assert end.tick(15) == 20
    assert end.data_to_send() == b""  # it has been sent
    assert end.tick(20) == 30


@either_end
def test_output_that_does_not_get_through_is_no_life(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    end.tick(10)
    assert end.data_to_send()
    assert end.tick(15) == 20
    assert end.tick(20) == 20
    assert end.tick(20) == math.inf
    expect_timeout(end)


@either_end
def test_a_large_send_that_moves_on_is_life(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    end.tick(10)
    assert end.data_to_send()
    assert end.tick(15, unsent=100) == 20
    assert end.tick(20, unsent=90) == 30
    # Now it is stuck.
    assert end.tick(30, unsent=90) == 40
    assert end.tick(40, unsent=90) == 40
    assert end.tick(40, unsent=90) == math.inf
    expect_timeout(end)


def test_what_the_transport_took_at_once_and_sends_slowly_is_life() -> None:
    client = client_of_that_heartbeat()
    client.publish("c", bytes(1_000))
    assert client.data_to_send()
    assert client.data_to_send() == b""
    assert client.tick(0, unsent=1_000) == 10
    assert client.tick(10, unsent=900) == 20
    assert client.data_to_send()
    assert client.data_to_send() == b""
    assert client.tick(20, unsent=813) == 30
    # Now it is stuck.
    assert client.tick(30, unsent=813) == 40
    assert client.tick(40, unsent=813) == 40
    assert client.tick(40, unsent=813) == math.inf
    assert isinstance(client.next_event(), Lost)
    expect_timeout(client)


def test_progress_is_no_life_when_the_ping_has_left() -> None:
    """Something on the way may take all that is sent, and be connected to nobody."""
    client = client_of_that_heartbeat()
    client.tick(0)
    client.publish("c", b"")
    assert client.data_to_send()
    assert client.tick(10, unsent=20) == 20
    # The PING waits for that.
    assert client.tick(15, unsent=10) == 25
    assert client.data_to_send()
    assert client.tick(24, unsent=13) == 34
    client.publish("c", b"")
    assert client.data_to_send()
    # It begins to leave.
    assert client.tick(33, unsent=12) == 43
    # And all else moves on and on.
    assert client.tick(42, unsent=9) == 43
    assert client.tick(43, unsent=8) == 53
    assert client.data_to_send() == b""
    assert client.tick(53, unsent=7) == 53
    assert client.tick(53, unsent=6) == math.inf
    assert isinstance(client.next_event(), Lost)
    expect_timeout(client)


def test_what_is_queued_for_a_silent_client_is_freed() -> None:
    broker = Broker("boot", LIMITS)
    server = open_server(broker=broker)
    receive(server, encode_frame(Kind.SUBSCRIBE, encode("c", b"")))
    publisher = open_server(broker=broker)
    receive(publisher, encode_frame(Kind.PUBLISH, encode("c", bytes(50_000))))
    assert server.backlog > 50_000
    for now in (0, 10, 20, 20):
        server.tick(now)
    expect_timeout(server)
    assert server.backlog < 1_000
    assert broker.channels == 0


def test_output_that_is_over_at_once_is_no_life() -> None:
    """A cut cable swallows many sends before it blocks one."""
    client = client_of_that_heartbeat()
    client.tick(0)
    for now in range(1, 20):
        client.publish("c", b"")
        assert client.data_to_send()
        assert client.data_to_send() == b""
        client.tick(now)
    assert client.tick(20) == 20
    assert client.tick(20) == math.inf
    assert client.next_event() == Lost(range(1, 20))
    expect_timeout(client)


def test_client_uses_the_heartbeat_of_the_hub() -> None:
    client = ClientProtocol(limits=Limits(heartbeat=1))
    receive(client, welcome(heartbeat=3600))
    assert client.tick(0) == 3600


def test_heartbeat_goes_on_while_draining() -> None:
    server = open_server(LIMITS)
    server.go_away("bye")
    server.tick(0)
    assert server.tick(10) == 20
    assert len(pings(server)) == 1


def test_closed_end_wants_no_tick() -> None:
    server = open_server(LIMITS)
    server.close()
    assert server.tick(0) == math.inf
    assert server.data_to_send() == b""


@either_end
def test_ping_is_answered_with_its_bytes_before_anything_queued(
    open_end: Callable[[], End],
) -> None:
    end = open_end()
    if isinstance(end, ClientProtocol):
        end.publish("c", b"")
    else:
        end.receive_data(encode_frame(Kind.PUBLISH, encode("c", b"")))
    receive(end, encode_frame(Kind.PING, b"12345678"))
    first, second = output(end)
    assert first == (Kind.PONG, b"12345678")
    assert second[0] in (Kind.PUBLISH, Kind.PUBLISH_ACK)


@either_end
@pytest.mark.parametrize("body", [b"", b"1234567", b"123456789"])
@pytest.mark.parametrize("kind", [Kind.PING, Kind.PONG])
def test_body_of_another_size_is_a_violation(
    open_end: Callable[[], End], body: bytes, kind: Kind
) -> None:
    expect_violation(open_end(), encode_frame(kind, body))


@either_end
def test_pong_that_answers_nothing_is_a_violation(open_end: Callable[[], End]) -> None:
    expect_violation(open_end(), encode_frame(Kind.PONG, bytes(8)))


@either_end
def test_pong_with_other_bytes_is_a_violation(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    end.tick(10)
    [ping] = pings(end)
    expect_violation(end, encode_frame(Kind.PONG, ping[::-1]))


@either_end
def test_second_pong_to_one_ping_is_a_violation(open_end: Callable[[], End]) -> None:
    end = open_end()
    end.tick(0)
    end.tick(10)
    [ping] = pings(end)
    expect_violation(end, encode_frame(Kind.PONG, ping) * 2)


def test_ping_on_demand_is_the_one_that_is_out() -> None:
    client = client_of_that_heartbeat()
    client.tick(0)
    assert client.ping(4)
    [ping] = pings(client)
    assert not client.ping(5)
    assert pings(client) == []
    # The heartbeat needs no other one: the hub is as silent as if this were its own.
    assert client.tick(10) == 20
    assert pings(client) == []
    assert receive(client, encode_frame(Kind.PONG, ping)) == [Pong(4)]
    client.ping(12)
    [second] = pings(client)
    assert second != ping
    assert receive(client, encode_frame(Kind.PONG, second)) == [Pong(12)]


def test_silence_after_a_ping_on_demand_is_silence() -> None:
    client = client_of_that_heartbeat()
    client.tick(0)
    client.ping(4)
    assert len(pings(client)) == 1
    assert client.tick(10) == 20
    assert client.tick(20) == 20
    assert client.tick(20) == math.inf
    expect_timeout(client)


def test_ping_overtakes_what_is_queued() -> None:
    client = client_of_that_heartbeat()
    client.publish("c", b"")
    client.ping(0)
    assert [kind for kind, _ in output(client)] == [Kind.PING, Kind.PUBLISH]


def test_ping_needs_an_open_session() -> None:
    with pytest.raises(LocalProtocolError, match="ping"):
        ClientProtocol().ping(0)
    client = client_of_that_heartbeat()
    client.close()
    with pytest.raises(LocalProtocolError, match="ping"):
        client.ping(0)
