"""AUTH: a client replaces its token while the session goes on; and what a hub takes back."""

from __future__ import annotations

from typing import Any

import pytest
from protocol.pair import Pair, drain, error_fields, json_frame, output

from hyps.protocol import (
    FEATURES,
    Acked,
    Broker,
    ClientProtocol,
    Gap,
    GoingAway,
    Kind,
    LocalProtocolError,
    Messages,
    Refusal,
    Rejected,
    RemoteProtocolError,
    ServerProtocol,
    State,
    TokenExpiry,
    TokenOffered,
    Verb,
    Welcome,
)


def _move(source: Any, target: Any) -> list[Any]:
    if data := source.data_to_send():
        target.receive_data(data)
    return drain(target)


class Ends:
    """Both ends of one session, with or without the extension."""

    def __init__(
        self, *, client: Any = FEATURES, hub: Any = FEATURES, expires_in: float | None = 60.0
    ) -> None:
        self.broker = Broker("boot")
        self.server = ServerProtocol(self.broker, session="1", features=hub)
        self.client = ClientProtocol(token="first", features=client)
        self.up()
        self.server.accept(expires_in)
        self.greeting = self.down()

    def up(self) -> list[Any]:
        return _move(self.client, self.server)

    def down(self) -> list[Any]:
        return _move(self.server, self.client)


def test_the_greeting_tells_when_the_token_expires() -> None:
    [welcome] = Ends().greeting
    assert isinstance(welcome, Welcome)
    assert welcome.expires_in == 60.0
    assert welcome.features == ("auth",)
    [welcome] = Ends(expires_in=None).greeting
    assert welcome.expires_in is None


def test_a_token_is_replaced() -> None:
    ends = Ends()
    assert ends.server.tell_expiry(15.0)
    assert ends.down() == [TokenExpiry(15.0, None)]
    ends.client.authenticate("second")
    assert ends.up() == [TokenOffered("second")]
    assert "second" not in repr(TokenOffered("second"))
    ends.server.tell_expiry(60.0, renewed=True)
    assert ends.down() == [TokenExpiry(60.0, True)]
    # And again.
    ends.client.authenticate("third")
    assert ends.up() == [TokenOffered("third")]
    ends.server.tell_expiry(None, renewed=False)
    assert ends.down() == [TokenExpiry(None, False)]


def test_a_warning_that_crosses_a_new_token_is_no_answer() -> None:
    ends = Ends()
    ends.server.tell_expiry(15.0)
    ends.client.authenticate("second")
    assert ends.down() == [TokenExpiry(15.0, None)]
    with pytest.raises(LocalProtocolError, match="before the answer"):
        ends.client.authenticate("third")
    ends.up()
    # The hub warns of nothing that it is about to answer.
    assert ends.server.tell_expiry(10.0)
    assert ends.down() == []
    ends.server.tell_expiry(60.0, renewed=True)
    assert ends.down() == [TokenExpiry(60.0, True)]


@pytest.mark.parametrize(("client", "hub"), [((), FEATURES), (FEATURES, ()), ((), ())])
def test_without_the_extension_there_is_none(client: Any, hub: Any) -> None:
    ends = Ends(client=client, hub=hub)
    with pytest.raises(LocalProtocolError, match="extension"):
        ends.client.authenticate("second")
    assert not ends.server.tell_expiry(15.0)
    assert ends.down() == []
    ends.server.receive_data(json_frame(Kind.AUTH, {"token": "second"}))
    with pytest.raises(RemoteProtocolError, match="AUTH"):
        drain(ends.server)
    assert error_fields(ends.server)["code"] == "protocol"


def test_a_second_token_before_the_answer_is_a_violation() -> None:
    ends = Ends()
    for token in ("a", "b"):
        ends.server.receive_data(json_frame(Kind.AUTH, {"token": token}))
    with pytest.raises(RemoteProtocolError, match="before the answer"):
        drain(ends.server)


def test_an_answer_to_nothing_is_a_violation() -> None:
    ends = Ends()
    ends.client.receive_data(json_frame(Kind.AUTH, {"expires_in": 5, "renewed": True}))
    with pytest.raises(RemoteProtocolError, match="was not sent"):
        drain(ends.client)


@pytest.mark.parametrize(
    "fields", [{}, {"token": 5}, {"token": None}, {"token": "a" * 20_000}], ids=str
)
def test_what_is_no_token(fields: dict[str, Any]) -> None:
    ends = Ends()
    ends.server.receive_data(json_frame(Kind.AUTH, fields))
    with pytest.raises(RemoteProtocolError, match="AUTH"):
        drain(ends.server)


@pytest.mark.parametrize(
    "fields", [{"expires_in": -1}, {"expires_in": "5"}, {"renewed": 1}, {"expires_in": 1e300}]
)
def test_what_is_no_expiry(fields: dict[str, Any]) -> None:
    ends = Ends()
    ends.client.receive_data(json_frame(Kind.AUTH, fields))
    with pytest.raises(RemoteProtocolError, match="AUTH"):
        drain(ends.client)


def test_tokens_that_cannot_be_sent() -> None:
    ends = Ends()
    with pytest.raises(ValueError, match="too long"):
        ends.client.authenticate("a" * 20_000)
    with pytest.raises(ValueError, match="UTF-8"):
        ends.client.authenticate("\ud800")
    ends.client.authenticate("fine")
    assert ends.up() == [TokenOffered("fine")]


def test_auth_before_the_session_is_open_is_a_violation() -> None:
    server = ServerProtocol(Broker("boot"), session="1", features=FEATURES)
    client = ClientProtocol(features=FEATURES)
    with pytest.raises(LocalProtocolError, match="opening"):
        client.authenticate("early")
    server.receive_data(client.data_to_send() + json_frame(Kind.AUTH, {"token": "a"}))
    with pytest.raises(RemoteProtocolError, match="greeted"):
        drain(server)


# What a hub takes back


class Only:
    """An access to subscribe one channel."""

    def __init__(self, channel: str) -> None:
        self._channel = channel

    def may(self, verb: Verb, channel: str) -> bool:
        return channel == self._channel


def test_revoking_stops_delivery_at_once_and_every_message_is_counted() -> None:
    broker = Broker("boot")
    ends, publisher = Pair(broker=broker), Pair(broker=broker)
    ends.client.subscribe(["a", "b"])
    ends.pump()
    publisher.client.publish("a", b"queued")
    publisher.pump()
    ends.server.access = Only("b")
    ends.server.revoke()
    ends.server.go_away("the grants have changed")
    publisher.client.publish("a", b"late")
    publisher.client.publish("b", b"late")
    publisher.pump()
    position = ends.client.position("b")
    assert position is not None
    events = ends.pump()
    assert not any(isinstance(event, Messages) for event in events)
    assert any(isinstance(event, GoingAway) for event in events)
    assert broker.stats().queued == 0
    # It comes back, and finds out what it has missed of what it may still have.
    again = Pair(broker=broker)
    again.server.access = Only("b")
    again.client.subscribe(["b"], {"b": position})
    assert Gap("b", 1, "reconnect") in again.pump()


def test_answers_survive_revoking() -> None:
    pair = Pair()
    pair.client.subscribe(["a"])
    pair.pump()
    operation = pair.client.publish("a", b"1")
    pair.send_up()
    pair.arrive_up()
    pair.server.revoke()
    pair.server.go_away("")
    events = pair.pump()
    assert Acked(range(operation, operation + 1)) in events
    assert not any(isinstance(event, Messages) for event in events)


def test_revoking_twice_and_closing_is_harmless() -> None:
    broker = Broker("boot")
    pair, other = Pair(broker=broker), Pair(broker=broker)
    names = [f"c{number}" for number in range(500)]
    for each in (pair, other):
        each.client.subscribe(names)
        each.pump()
    pair.server.revoke()
    pair.server.revoke()
    pair.server.close()
    while broker.tick(0.0) <= 0.0:
        pass
    assert pair.server.state is State.CLOSED
    other.client.publish(names[-1], b"still here")
    assert any(isinstance(event, Messages) for event in other.pump())
    other.client.close()
    other.pump()


def test_a_revoked_session_cannot_subscribe_again() -> None:
    pair = Pair()
    pair.client.subscribe(["a"])
    pair.pump()
    pair.server.revoke()
    operation = pair.client.subscribe(["b"])
    assert operation is not None
    assert Rejected(operation, (Refusal(0, b"u", "b"),)) in pair.pump()
    assert output(pair.server) == []
