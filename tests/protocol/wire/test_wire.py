"""The exact bytes of a session: the wire must not change unnoticed."""

from __future__ import annotations

from protocol.pair import Pair, drain

from hyps.protocol import (
    NEED_DATA,
    PREFACE,
    Acked,
    Broker,
    ClientProtocol,
    Hello,
    Kind,
    Limits,
    Messages,
    Run,
    ServerProtocol,
    Welcome,
)


def test_kinds() -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        "HELLO": 0x01,
        "WELCOME": 0x02,
        "PUBLISH": 0x03,
        "PUBLISH_ACK": 0x04,
        "SUBSCRIBE": 0x05,
        "SUBSCRIBE_ACK": 0x06,
        "UNSUBSCRIBE": 0x07,
        "UNSUBSCRIBE_ACK": 0x08,
        "MESSAGES": 0x09,
        "GAP": 0x0A,
        "PING": 0x0B,
        "PONG": 0x0C,
        "GOAWAY": 0x0D,
        "ERROR": 0x0E,
        "AUTH": 0x0F,
    }
    assert PREFACE == b"HYPS/1\r\n"


def test_opening() -> None:
    client = ClientProtocol(client="me/1", token="t")
    sent = client.data_to_send()
    body = b'{"client":"me/1","token":"t","features":[]}'
    assert sent == b"HYPS/1\r\n\x00\x00\x00\x2c\x01" + body
    limits = Limits(max_message=10, max_channel=20, max_channels=30, max_in_flight=40, heartbeat=50)
    server = ServerProtocol(Broker("boot", limits), session="s1", server="hub/2")
    server.receive_data(sent)
    assert drain(server) == [Hello("me/1", "t", ())]
    server.accept()
    body = (
        b'{"server":"hub/2","session":"s1","features":[],"heartbeat":50,"max_message":10,'
        b'"max_channel":20,"max_frame":65572,"max_channels":30,"max_in_flight":40}'
    )
    sent = server.data_to_send()
    assert sent == b"\x00\x00\x00\x98\x02" + body
    client.receive_data(sent)
    assert drain(client) == [Welcome("hub/2", "s1", (), 50, 10, 20, 65572, 30, 40)]


def test_operations_and_what_they_bring() -> None:
    pair = Pair()
    client, server = pair.client, pair.server
    client.subscribe(["foo_ch", "b"])
    client.publish("foo_ch", b"foo_msg")
    client.publish_many([("b", b"1"), ("nobody", b"")])
    client.unsubscribe(["b"])
    up = client.data_to_send()
    assert up == (
        b"\x00\x00\x00\x14\x05" b"\x00\x00\x00\x08foo_ch\n\n" b"\x00\x00\x00\x03b\n\n"
        b"\x00\x00\x00\x28\x03" b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n" b"\x00\x00\x00\x04b\n1\n"
        b"\x00\x00\x00\x08nobody\n\n"
        b"\x00\x00\x00\x08\x07" b"\x00\x00\x00\x03b\n\n"
    )  # fmt: skip
    server.receive_data(up)
    drain(server)
    down = server.data_to_send()
    assert down == (
        b"\x00\x00\x00\x26\x06"
        b"\x00\x00\x00\x11foo_ch\nkboot.0:0\n" b"\x00\x00\x00\x0cb\nkboot.0:0\n"
        b"\x00\x00\x00\x1c\x09" b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n" b"\x00\x00\x00\x04b\n1\n"
        b"\x00\x00\x00\x04\x04kkk"
        b"\x00\x00\x00\x02\x08k"
    )  # fmt: skip
    client.receive_data(down)
    assert client.next_event() == Acked(range(1, 2))
    # What came for the channel after its UNSUBSCRIBE was queued is nobody's.
    assert client.next_event() == Messages(
        (Run("foo_ch", b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n", 1),)
    )
    assert client.next_event() == Acked(range(2, 4))
    assert client.next_event() == Acked(range(4, 5))
    assert client.next_event() is NEED_DATA


def test_goodbyes_and_gaps() -> None:
    pair = Pair(limits=Limits(max_buffer=100))
    pair.client.subscribe(["c"])
    pair.pump()
    for _ in range(3):
        pair.client.publish("c", b"12345")
        pair.send_up()
        pair.arrive_up()
    pair.server.go_away("bye", 2.5)
    pair.server.fail("oh", "limit")
    assert b"".join(iter(pair.server.data_to_send, b"")) == (
        b"\x00\x00\x00\x0d\x09" b"\x00\x00\x00\x08c\n12345\n"
        b"\x00\x00\x00\x04\x04kkk"
        b"\x00\x00\x00\x27\x0d" b'{"reason":"bye","reconnect_after":2.5}'
        b"\x00\x00\x00\x10\x0a" b"\x00\x00\x00\x0bc\nboot.0:3\n"
        b"\x00\x00\x00\x20\x0e" b'{"code":"limit","message":"oh"}'
    )  # fmt: skip


def test_heartbeat() -> None:
    pair = Pair()
    pair.client.tick(0)
    pair.client.tick(20)
    up = pair.client.data_to_send()
    assert up == b"\x00\x00\x00\x09\x0b\x00\x00\x00\x00\x00\x00\x00\x01"
    pair.server.receive_data(up)
    drain(pair.server)
    assert pair.server.data_to_send() == up.replace(b"\x0b", b"\x0c")
