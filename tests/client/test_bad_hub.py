"""Hubs that refuse, misbehave or vanish, as their clients see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import begin, let_others_run, reason_of_loss, take_data, wait_until
from support.peers import (
    GOAWAY,
    Peer,
    connected_to_script,
    frame,
    raw_client,
    scripted_hub,
    welcome_frame,
)

import hyps
from hyps.protocol import Kind, Limits, encode, encode_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio


def error_frame(code: str, text: str = "a test's reason") -> bytes:
    return frame(Kind.ERROR, code=code, message=text)


async def fail_to_connect(answer: Callable[[Peer], Awaitable[None]]) -> hyps.ConnectionRefused:
    """Connect to a hub that answers the HELLO so; give the error."""
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url)
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.expect(Kind.HELLO)
        await answer(session)
        with pytest.raises(hyps.ConnectionRefused) as caught:
            await opening.get()
        assert not client.connected
        # It may be tried again, and each try is one of its own.
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.welcome()
        await opening.get()
        await hub.close()
        await client.shutdown()
    return caught.value


BAD_ANSWERS = {
    "junk": b"\x00\x01\x02 junk",
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "a line for those who do not speak Hyps": b"HYPS/1: something else\r\n",
    "a length of 0": bytes(4),
    "a length over the opening's": (16_385).to_bytes(4, "big"),
    "PING before WELCOME": encode_frame(Kind.PING, bytes(8)),
    "MESSAGES before WELCOME": encode_frame(Kind.MESSAGES, encode("a", b"")),
    "an unknown kind": b"\0\0\0\x01\x7f",
    "a WELCOME that is no JSON": encode_frame(Kind.WELCOME, b"junk"),
    "a WELCOME with too little in it": frame(Kind.WELCOME, server="a", session="1"),
    "a WELCOME without a heartbeat": welcome_frame(heartbeat=0),
    "a WELCOME whose frames hold no record": welcome_frame(max_frame=10),
    "an ERROR that is none": frame(Kind.ERROR, code=1),
    "a GOAWAY that is none": frame(Kind.GOAWAY),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_it_does_not_speak_hyps(answer: bytes) -> None:
    async def send(session: Peer) -> None:
        await session.send(answer)

    error = await fail_to_connect(send)
    assert "does not speak Hyps" in str(error)
    assert not isinstance(error, hyps.AuthenticationFailed)


@pytest.mark.parametrize("code", ["version", "limit", "internal", "timeout", "unheard of"])
async def test_it_refuses_the_session(code: str) -> None:
    async def refuse(session: Peer) -> None:
        await session.send(error_frame(code))

    error = await fail_to_connect(refuse)
    assert code in str(error)
    assert "a test's reason" in str(error)
    assert not isinstance(error, hyps.AuthenticationFailed)


async def test_it_refuses_the_token() -> None:
    async def refuse(session: Peer) -> None:
        await session.send(error_frame("auth"))

    error = await fail_to_connect(refuse)
    assert isinstance(error, hyps.AuthenticationFailed)
    assert "a test's reason" in str(error)


async def test_it_is_leaving_already() -> None:
    async def leave(session: Peer) -> None:
        await session.send(GOAWAY)

    assert "a test" in str(await fail_to_connect(leave))


async def test_it_closes_at_once() -> None:
    async def close(session: Peer) -> None:
        await session.stream.aclose()

    assert "closed" in str(await fail_to_connect(close))


async def test_it_resets_at_once() -> None:
    async def reset(session: Peer) -> None:
        await session.reset()

    await fail_to_connect(reset)


async def test_it_never_answers() -> None:
    limits = Limits(hello_timeout=0.5, close_timeout=0.02)
    async with scripted_hub() as hub, anyio.create_task_group() as tasks:
        client = hyps.connect(hub.url, limits=limits)
        opening = begin(tasks, client.connect)
        session = await hub.accept()
        await session.expect(Kind.HELLO)
        with pytest.raises(hyps.ConnectionRefused):
            await opening.get()
        # It is told that the client gave it up.
        assert (await session.expect_fields(Kind.ERROR))["code"] == "timeout"
        await client.shutdown()


VIOLATIONS = {
    "junk": b"\xff\xff\xff\xff junk",
    "a length of 0": bytes(4),
    "an unknown kind": b"\0\0\0\x01\x7f",
    "a second WELCOME": welcome_frame(),
    "PUBLISH": encode_frame(Kind.PUBLISH, encode("foo_ch", b"")),
    "MESSAGES of nothing": encode_frame(Kind.MESSAGES, b""),
    "MESSAGES of junk": encode_frame(Kind.MESSAGES, b"junk junk"),
    "GAP of nothing": encode_frame(Kind.GAP, b""),
    "GAP without a position": encode_frame(Kind.GAP, encode("foo_ch", b"junk")),
    "a GAP whose channel is not UTF-8": encode_frame(Kind.GAP, b"\0\0\0\x06\xff\ng:1\n"),
    "a PUBLISH_ACK for nothing": encode_frame(Kind.PUBLISH_ACK, b"k"),
    "a PUBLISH_ACK of nothing": encode_frame(Kind.PUBLISH_ACK, b""),
    "a SUBSCRIBE_ACK for nothing": encode_frame(Kind.SUBSCRIBE_ACK, encode("a", b"kg:1")),
    "an UNSUBSCRIBE_ACK for nothing": encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"),
    "PING of 7 bytes": encode_frame(Kind.PING, bytes(7)),
    "PONG for no PING": encode_frame(Kind.PONG, bytes(8)),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
async def test_it_breaks_the_rules(violation: bytes) -> None:
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe("foo_ch"), "foo_ch")
        await session.deliver("foo_ch", b"valid")
        await session.send(violation)
        # It is told, and then it is left.
        await session.expect(Kind.ERROR)
        await session.expect_end()
        assert not client.connected
        # What was valid is there.
        assert await take_data(subscription, 1) == [b"valid"]
        assert "hyps://127.0.0.1" in await reason_of_loss(client)
        with pytest.raises(hyps.ConnectionLost):
            await client.publish("foo_ch", b"")


async def test_valid_messages_before_a_malformed_one_are_delivered() -> None:
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe("foo_ch"), "foo_ch")
        body = encode("foo_ch", b"1") + encode("foo_ch", b"2") + b"\0\0\0\x02\n\n"
        await session.send(encode_frame(Kind.MESSAGES, body))
        assert await take_data(subscription, 2) == [b"1", b"2"]
        await reason_of_loss(client)


WRONG_ANSWERS = {
    "of another kind": encode_frame(Kind.UNSUBSCRIBE_ACK, b"k"),
    "more than there were": encode_frame(Kind.PUBLISH_ACK, b"kk"),
    "for another channel": encode_frame(Kind.SUBSCRIBE_ACK, encode("foo_ch", b"kg:1")),
}


@pytest.mark.parametrize("answer", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
async def test_it_answers_what_was_not_asked(answer: bytes) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        publishing = begin(tasks, client.publish, "foo_ch", b"")
        await session.expect(Kind.PUBLISH)
        await session.send(answer)
        with pytest.raises(hyps.ConnectionLost):
            await publishing.get()


@pytest.mark.parametrize("answer", [b"", b"k", b"kjunk", b"kg:01", b"kg:-1"])
async def test_it_grants_a_channel_without_a_position(answer: bytes) -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        entering = begin(tasks, client.subscribe("foo_ch").__aenter__)
        await session.grant("foo_ch", answer=answer)
        with pytest.raises(hyps.ConnectionLost):
            await entering.get()


async def test_it_refuses_the_open_session() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("foo_ch"), "foo_ch")
        publishing = begin(tasks, client.publish, "foo_ch", b"")
        await session.expect(Kind.PUBLISH)
        await session.deliver("foo_ch", b"1")
        await session.send(error_frame("limit"))
        assert await take_data(subscription, 1) == [b"1"]
        with pytest.raises(hyps.ConnectionLost, match="a test's reason"):
            await publishing.get()
        assert "a test's reason" in await reason_of_loss(client)


async def test_it_ends_within_a_frame() -> None:
    async with connected_to_script() as (client, session):
        subscription = await session.enter(client.subscribe("foo_ch"), "foo_ch")
        whole = encode_frame(Kind.MESSAGES, encode("foo_ch", b"1"))
        await session.send(whole + whole[:-1])
        await session.stream.aclose()
        await reason_of_loss(client)
        assert await take_data(subscription, 1) == [b"1"]
        assert subscription.missed == 0


async def test_it_leaves() -> None:
    async with connected_to_script() as (client, session), anyio.create_task_group() as tasks:
        subscription = await session.enter(client.subscribe("foo_ch"), "foo_ch")
        publishing = [begin(tasks, client.publish, "foo_ch", b"") for _ in range(2)]
        sent = 0
        while sent < 2:
            sent += len(await session.expect_messages(Kind.PUBLISH))
        await session.send(GOAWAY)
        await wait_until(lambda: not client.connected)
        # Nothing new is begun.
        with pytest.raises(hyps.ConnectionLost, match="leaving: a test"):
            await client.publish("foo_ch", b"")
        # What was begun is answered, and messages come until the end.
        await session.deliver("foo_ch", b"last")
        await session.send(encode_frame(Kind.PUBLISH_ACK, b"ku"))
        results = []
        for outcome in publishing:
            try:
                await outcome.get()
                results.append("done")
            except hyps.Unavailable:
                results.append("unavailable")
        assert sorted(results) == ["done", "unavailable"]
        assert await take_data(subscription, 1) == [b"last"]
        # The client closes first.
        await session.expect_end()
        await session.stream.aclose()
        await reason_of_loss(client)
        assert not client.connected


async def test_it_leaves_while_those_who_publish_wait_for_room() -> None:
    limits = Limits(max_backlog=1)
    async with (
        connected_to_script(limits=limits) as (client, session),
        anyio.create_task_group() as tasks,
    ):
        outcomes = [begin(tasks, client.publish, "a", bytes(500_000)) for _ in range(40)]
        await let_others_run()
        await session.send(GOAWAY)
        await wait_until(lambda: not client.connected)
        await session.reset()
        for outcome in outcomes:
            with pytest.raises(hyps.ConnectionLost):
                await outcome.get()


async def test_it_is_asked_for_a_sign_of_life() -> None:
    # The hub's heartbeat counts from the opening, whatever the time for opening may be.
    limits = Limits(hello_timeout=3600)
    async with connected_to_script(limits=limits, heartbeat=1) as (client, session):
        ping = await session.expect(Kind.PING)
        await session.send(encode_frame(Kind.PONG, ping))
        await session.send(encode_frame(Kind.PING, b"12345678"))
        assert await session.expect(Kind.PONG) == b"12345678"
        assert client.connected


async def test_it_gives_no_sign_of_life() -> None:
    limits = Limits(hello_timeout=0.5, close_timeout=0.1)
    async with connected_to_script(limits=limits, heartbeat=1) as (client, session):
        await reason_of_loss(client)
        await session.expect(Kind.PING)
        assert (await session.expect_fields(Kind.ERROR))["code"] == "timeout"


async def test_a_client_gives_no_sign_of_life() -> None:
    limits = Limits(heartbeat=1, hello_timeout=3600)
    async with hyps.Server(port=0, limits=limits) as server:
        async with raw_client(server.urls[0]) as raw:
            await raw.expect(Kind.PING)
            assert (await raw.expect_fields(Kind.ERROR))["code"] == "timeout"
            await raw.expect_end()
        await wait_until(lambda: not server.broker.sessions)


async def test_a_hub_that_warns_all_the_time_gets_no_token_for_each_warning() -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return f"token-{asked}"

    async with scripted_hub() as hub:
        client = hyps.connect(hub.url, token=token)
        async with anyio.create_task_group() as tasks:
            connecting = begin(tasks, client.connect)
            peer = await hub.accept()
            await peer.welcome(features=["auth"])
            await connecting.get()
            warning = frame(Kind.AUTH, expires_in=0.001)
            await peer.send(*[warning] * 1_000)
            await peer.expect(Kind.AUTH)
            await peer.send(frame(Kind.AUTH, expires_in=5, renewed=True), *[warning] * 1_000)
            # The client is there, and has other things to do.
            await peer.send(encode_frame(Kind.PING, b"12345678"))
            await peer.expect(Kind.PONG)
            assert asked <= 3
            await client.shutdown()
