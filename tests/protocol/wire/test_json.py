"""The JSON of HELLO, WELCOME, GOAWAY and ERROR is strict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.pair import (
    HELLO_FIELDS,
    WELCOME_FIELDS,
    expect_violation,
    hello,
    json_frame,
    open_client,
    open_server,
    receive,
    replay,
    welcome,
)

from hyps.protocol import (
    PREFACE,
    Broker,
    ClientProtocol,
    ErrorCode,
    GoingAway,
    Hello,
    Kind,
    PeerError,
    ServerProtocol,
    Welcome,
    encode_frame,
)
from hyps.protocol.limits import MAX_FRAME_CEILING, MAX_OPENING_FRAME

if TYPE_CHECKING:
    from protocol.pair import End


def greeted() -> ServerProtocol:
    server = ServerProtocol(Broker("boot"), session="s")
    assert receive(server, PREFACE) == []
    return server


def asking() -> ClientProtocol:
    client = ClientProtocol()
    client.data_to_send()
    return client


GOAWAY_FIELDS: dict[str, object] = {"reason": "bye", "reconnect_after": 1.5}
ERROR_FIELDS: dict[str, object] = {"code": "limit", "message": "too many"}

#: Who takes each kind of frame, and what is right in it.
FRAMES: dict[Kind, tuple[Any, dict[str, object]]] = {
    Kind.HELLO: (greeted, HELLO_FIELDS),
    Kind.WELCOME: (asking, WELCOME_FIELDS),
    Kind.GOAWAY: (open_client, GOAWAY_FIELDS),
    Kind.ERROR: (open_server, ERROR_FIELDS),
}
each_frame = pytest.mark.parametrize("kind", FRAMES, ids=lambda kind: kind.name)


def taker(kind: Kind) -> End:
    end = FRAMES[kind][0]()
    assert isinstance(end, ClientProtocol | ServerProtocol)
    return end


def with_extra(kind: Kind, extra: bytes) -> bytes:
    """A right object and one more field."""
    return json.dumps(FRAMES[kind][1]).encode()[:-1] + b"," + extra + b"}"


STRICT = {
    "no JSON": b"{",
    "nothing": b"",
    "text behind it": b"{} x",
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "a number": b"1",
    "not UTF-8": b'{"x":"\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"x":1}'.encode("utf-16"),
    "single quotes": b"{'x':1}",
}
EXTRA = {
    "duplicate key": b'"x":1,"x":1',
    "duplicate key in an object": b'"x":{"y":1,"y":1}',
    "NaN": b'"x":NaN',
    "Infinity": b'"x":Infinity',
    "-Infinity": b'"x":[-Infinity]',
    "1e999": b'"x":1e999',
    "-1e999": b'"x":-1e999',
    "lone surrogate": b'"x":"\\ud800"',
    "lone surrogate in a key": b'"\\udc00":1',
    "lone surrogate in a list": b'"x":["\\ud800"]',
    "control character": b'"x":"\n"',
    "digits without end": b'"x":' + b"9" * 5000,
    "nested lists": b'"x":' + b"[" * 8000 + b"]" * 8000,
    "nested lists without end": b'"x":' + b"[" * 16_000,
    "nested objects": b'"x":' + b'{"x":' * 2000 + b"1" + b"}" * 2000,
}


@each_frame
@pytest.mark.parametrize("body", STRICT.values(), ids=STRICT)
def test_what_is_no_object_is_a_violation(kind: Kind, body: bytes) -> None:
    assert expect_violation(taker(kind), encode_frame(kind, body)) == []


@each_frame
@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
def test_lax_json_is_a_violation_anywhere_in_the_object(kind: Kind, extra: bytes) -> None:
    frame = encode_frame(kind, with_extra(kind, extra))
    assert expect_violation(taker(kind), frame) == []


@each_frame
@pytest.mark.parametrize(
    "extra", [b'"x":1', b'"":null', b'"x":{"y":[1e99,true]}', b'"x":"\xc3\xa9"']
)
def test_unknown_keys_are_ignored(kind: Kind, extra: bytes) -> None:
    [event] = receive(taker(kind), encode_frame(kind, with_extra(kind, extra)))
    [same] = receive(taker(kind), json_frame(kind, FRAMES[kind][1]))
    assert event == same


@each_frame
@given(st.data())
def test_any_body_is_an_event_or_a_violation(kind: Kind, draw: st.DataObject) -> None:
    keys = st.sampled_from([*FRAMES[kind][1], "x"])
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists
    )
    changes = draw.draw(st.dictionaries(keys, values))
    found, violation = replay(taker(kind), [json_frame(kind, FRAMES[kind][1] | changes)])
    assert bool(found) is (violation is None)


WRONG_VALUES: list[tuple[Kind, str, object]] = [
    (Kind.HELLO, "client", None),
    (Kind.HELLO, "client", 1),
    (Kind.HELLO, "features", [[[]]]),
    (Kind.HELLO, "token", 1),
    (Kind.HELLO, "token", False),
    (Kind.HELLO, "features", None),
    (Kind.HELLO, "features", {}),
    (Kind.HELLO, "features", "gzip"),
    (Kind.HELLO, "features", [1]),
    (Kind.WELCOME, "server", 1),
    (Kind.WELCOME, "session", None),
    (Kind.WELCOME, "features", [None]),
    (Kind.WELCOME, "heartbeat", 0),
    (Kind.WELCOME, "heartbeat", 3601),
    (Kind.WELCOME, "heartbeat", 20.0),
    (Kind.WELCOME, "heartbeat", True),
    (Kind.WELCOME, "heartbeat", "20"),
    (Kind.WELCOME, "max_message", 0),
    (Kind.WELCOME, "max_message", True),
    (Kind.WELCOME, "max_message", MAX_FRAME_CEILING + 1),
    (Kind.WELCOME, "max_channel", 0),
    (Kind.WELCOME, "max_frame", 1000 + 100 + 6),
    (Kind.WELCOME, "max_frame", MAX_FRAME_CEILING + 1),
    (Kind.WELCOME, "max_frame", 2**64),
    (Kind.WELCOME, "max_channels", 0),
    (Kind.WELCOME, "max_channels", -1),
    (Kind.WELCOME, "max_channels", 2**63),
    (Kind.WELCOME, "max_in_flight", 0),
    (Kind.WELCOME, "max_in_flight", 2**63),
    (Kind.GOAWAY, "reason", None),
    (Kind.GOAWAY, "reason", ["bye"]),
    (Kind.GOAWAY, "reconnect_after", -0.1),
    (Kind.GOAWAY, "reconnect_after", 86_401),
    (Kind.GOAWAY, "reconnect_after", "1"),
    (Kind.GOAWAY, "reconnect_after", False),
    (Kind.ERROR, "code", None),
    (Kind.ERROR, "code", 1),
    (Kind.ERROR, "message", {}),
]


@pytest.mark.parametrize(("kind", "key", "value"), WRONG_VALUES)
def test_wrong_type_or_out_of_range(kind: Kind, key: str, value: object) -> None:
    fields = FRAMES[kind][1] | {key: value}
    assert expect_violation(taker(kind), json_frame(kind, fields)) == []


OPTIONAL = {"features", "reconnect_after"}


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, (_, fields) in FRAMES.items() for key in fields]
)
def test_missing_field(kind: Kind, key: str) -> None:
    fields = {name: value for name, value in FRAMES[kind][1].items() if name != key}
    frame = json_frame(kind, fields)
    if key in OPTIONAL:
        assert len(receive(taker(kind), frame)) == 1
    else:
        assert expect_violation(taker(kind), frame) == []


def test_fields_are_told_as_they_were_sent() -> None:
    assert receive(greeted(), hello(token="t", features=["a", "b"])) == [
        Hello("test", "t", ("a", "b"))
    ]
    assert receive(asking(), welcome(features=["c"], max_frame=1107)) == [
        Welcome("test", "s", ("c",), 20, 1000, 100, 1107, 1000, 1000)
    ]
    assert receive(open_client(), json_frame(Kind.GOAWAY, GOAWAY_FIELDS)) == [GoingAway("bye", 1.5)]
    assert receive(open_server(), json_frame(Kind.ERROR, ERROR_FIELDS)) == [
        PeerError("limit", "too many")
    ]


def padded(kind: Kind, size: int) -> bytes:
    """A frame with a right object in a body of so many bytes."""
    body = json.dumps(FRAMES[kind][1]).encode()
    return encode_frame(kind, body + b" " * (size - len(body)))


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.WELCOME], ids=lambda kind: kind.name)
def test_opening_frame_has_a_bound(kind: Kind) -> None:
    assert len(receive(taker(kind), padded(kind, MAX_OPENING_FRAME - 1))) == 1
    head = padded(kind, MAX_OPENING_FRAME)[:4]
    assert expect_violation(taker(kind), head, ErrorCode.TOO_LARGE) == []


@pytest.mark.parametrize("kind", [Kind.GOAWAY, Kind.ERROR], ids=lambda kind: kind.name)
def test_any_object_has_a_bound(kind: Kind) -> None:
    assert len(receive(taker(kind), padded(kind, MAX_OPENING_FRAME))) == 1
    frame = padded(kind, MAX_OPENING_FRAME + 1)
    assert expect_violation(taker(kind), frame, ErrorCode.TOO_LARGE) == []
