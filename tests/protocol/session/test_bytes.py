"""Bytes may be cut anywhere, and may be anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol import strategies as own
from protocol.pair import EVERYTHING, Event, Pair, hello, replay, welcome

from hyps.protocol import (
    PREFACE,
    Broker,
    ClientProtocol,
    Hello,
    Kind,
    ServerProtocol,
    Welcome,
    encode_frame,
)

Script = list[Callable[[ClientProtocol], object]]
Outcome = tuple[list[Event], tuple[str, str] | None, bytes]

few = st.lists(st.sampled_from("ab") | own.channels, min_size=1, max_size=4)
scripts: st.SearchStrategy[Script] = st.lists(
    st.builds(lambda names: lambda client: client.subscribe(names), few)
    | st.builds(lambda names: lambda client: client.unsubscribe(names), few)
    | st.builds(lambda messages: lambda client: client.publish_many(messages), own.messages),
    max_size=8,
)
#: Frames that no session of ours would send, most of them wrong.
frames = st.builds(
    encode_frame,
    st.sampled_from(list(Kind)) | st.integers(0, 255),
    st.binary(max_size=20) | own.records | st.just(b'{"code":"c","message":"m","reason":"r"}'),
)


def run(script: Script, client: ClientProtocol) -> None:
    for operate in script:
        operate(client)
    client.data_to_send(EVERYTHING)


def record(script: Script) -> tuple[bytes, bytes]:
    """What both ends of a session say, from its first byte on."""
    pair = Pair(opened=False)
    up, down = bytearray(), bytearray()
    assert pair.send_up()
    up += pair.up
    pair.arrive_up()
    assert pair.send_down()
    down += pair.down
    pair.arrive_down()
    for operate in script:
        operate(pair.client)
    while pair.send_up():
        up += pair.up
        pair.arrive_up()
        pair.send_down()
        down += pair.down
        pair.arrive_down()
    return bytes(up), bytes(down)


def at_server(chunks: list[bytes]) -> Outcome:
    server = ServerProtocol(Broker("boot"), session="s")
    events, violation = replay(server, chunks)
    return events, violation, server.data_to_send(EVERYTHING)


def at_client(chunks: list[bytes], script: Script) -> Outcome:
    client = ClientProtocol()
    client.data_to_send()
    events, violation = replay(client, chunks, lambda end: run(script, end))
    return events, violation, client.data_to_send(EVERYTHING)


def expect_same_however_it_is_cut(
    give: Callable[[list[bytes]], Outcome], data: bytes, draw: st.DataObject
) -> Outcome:
    whole = give([data])
    assert give(own.bytewise(data)) == whole
    assert give(draw.draw(own.splits(data))) == whole
    return whole


@given(scripts, st.data())
def test_any_split_at_the_server_gives_the_same(script: Script, draw: st.DataObject) -> None:
    up, down = record(script)
    events, violation, output = expect_same_however_it_is_cut(at_server, up, draw)
    assert violation is None
    assert output == down
    assert isinstance(events[0], Hello)


@given(scripts, st.data())
def test_any_split_at_the_client_gives_the_same(script: Script, draw: st.DataObject) -> None:
    _, down = record(script)
    give = partial(at_client, script=script)
    events, violation, _ = expect_same_however_it_is_cut(give, down, draw)
    assert violation is None
    assert isinstance(events[0], Welcome)


@settings(max_examples=4 * settings().max_examples)
@given(scripts, st.lists(frames, max_size=2), st.booleans(), st.data())
def test_mutated_bytes_give_the_same_however_they_are_cut(
    script: Script, extra: list[bytes], upwards: bool, draw: st.DataObject
) -> None:
    up, down = record(script)
    data = up if upwards else down
    data = draw.draw(st.just(data) | own.mutations(data)) + b"".join(extra)
    give = at_server if upwards else partial(at_client, script=script)
    expect_same_however_it_is_cut(give, data, draw)


@pytest.mark.parametrize("before", [b"", PREFACE, PREFACE + hello()])
@given(junk=st.binary() | st.lists(frames).map(b"".join))
def test_junk_at_the_server_is_nothing_worse_than_a_violation(before: bytes, junk: bytes) -> None:
    events, violation, output = at_server([before, junk])
    assert events or violation
    assert output or violation is None


@pytest.mark.parametrize("before", [b"", welcome()])
@given(junk=st.binary() | st.lists(frames).map(b"".join))
def test_junk_at_the_client_is_nothing_worse_than_a_violation(before: bytes, junk: bytes) -> None:
    events, violation, output = at_client(
        [before, junk], [lambda client: client.subscribe("ab"), lambda c: c.publish("a", b"")]
    )
    assert events or violation
    assert output or violation is None
