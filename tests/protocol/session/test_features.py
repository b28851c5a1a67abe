"""Extensions that both ends know."""

from __future__ import annotations

import pytest
from protocol.pair import Pair, open_client, receive, welcome

from hyps.protocol import Broker, ClientProtocol, Hello, Kind, ServerProtocol, State, Welcome


@pytest.mark.parametrize(
    ("hubs", "clients", "common"),
    [
        ((), (), set()),
        (("a", "b"), (), set()),
        ((), ("a",), set()),
        (("a", "b"), ("b", "c"), {"b"}),
    ],
)
def test_both_ends_know_those_in_common(
    hubs: tuple[str, ...], clients: tuple[str, ...], common: set[str]
) -> None:
    pair = Pair(opened=False)
    pair.server = ServerProtocol(Broker("boot"), session="s", features=hubs)
    pair.client = ClientProtocol(features=clients)
    assert pair.server.features == pair.client.features == frozenset()
    events = pair.pump()
    assert pair.server.features == pair.client.features == common
    [event] = [event for event in events if isinstance(event, Welcome)]
    assert event.features == hubs
    [hello] = [event for event in pair.server_events if isinstance(event, Hello)]
    assert hello.features == clients


def test_none_is_known_before_the_session_is_open() -> None:
    client = ClientProtocol(features=["a"])
    client.data_to_send()
    assert client.features == frozenset()
    receive(client, welcome(features=["a", "later"]))
    assert client.state is State.OPEN
    assert client.features == {"a"}


def test_kinds_that_are_not_known_are_ignored_only_from_0x80_on() -> None:
    client = open_client()
    receive(client, b"\x00\x00\x00\x02\x80x")
    assert client.state is State.OPEN
    assert max(Kind) < 0x80
