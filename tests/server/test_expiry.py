"""Grants that end: the client is warned, replaces its token, or comes back with another one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import pytest
from support.helpers import take_data, wait_until, warned
from support.peers import connect_raw, frame, subscribe_frame

import hyps
from hyps import Credentials, Grants
from hyps.protocol import PREFACE, Kind, Limits

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

#: Seconds that a token lasts here. A quarter of it is left when the hub warns.
LIFE = 0.6


class Issuer:
    """Issues tokens that last for a while, and knows them again."""

    def __init__(self) -> None:
        self.issued: list[str] = []
        self.asked: list[str | None] = []
        self._ends: dict[str, float] = {}
        #: Names of the next tokens, by the number of those issued before.
        self.name: Callable[[int], str] = lambda number: "web"
        self.patterns: Callable[[int], tuple[str, ...]] = lambda number: ("*",)
        self._grants: dict[str, Grants] = {}

    def issue(self, life: float = LIFE) -> str:
        number = len(self.issued)
        token = f"token-{number}"
        self.issued.append(token)
        patterns = self.patterns(number)
        self._grants[token] = Grants(
            name=self.name(number),
            subscribe=patterns,
            publish=patterns,
            expires_at=time.time() + life,
        )
        return token

    async def issue_soon(self) -> str:
        return self.issue()

    def authenticate(self, credentials: Credentials) -> Grants | None:
        self.asked.append(credentials.token)
        return self._grants.get(credentials.token or "")


def url_of(server: hyps.Server, scheme: str) -> str:
    return server.urls[0].replace("hyps:", f"{scheme}:")


@pytest.mark.native_wire
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_client_replaces_its_token_in_the_session(scheme: str, is_async: bool) -> None:
    issuer = Issuer()
    token = issuer.issue_soon if is_async else issuer.issue
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        hyps.connect(url_of(server, scheme), token=token) as client,
        client.subscribe("news", gaps=True) as subscription,
    ):
        # Three tokens on: the first one has long expired.
        await wait_until(lambda: len(issuer.asked) > 3)
        await client.publish("news", b"still here")
        message = await subscription.receive()
        assert isinstance(message, hyps.Message)
        assert subscription.missed == 0
        assert len(server.broker.sessions) == 1


async def test_over_http2_it_comes_back_with_another_one() -> None:
    issuer = Issuer()
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        hyps.connect(server.urls[0].replace("hyps:", "http:"), token=issuer.issue) as client,
        client.subscribe("news") as subscription,
    ):
        await wait_until(lambda: len(issuer.asked) > 2)
        await client.publish("news", b"still here")
        assert await take_data(subscription, 1) == [b"still here"]


@pytest.mark.native_wire
async def test_a_client_without_the_extension_is_asked_to_leave(scheme: str) -> None:
    issuer = Issuer()
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        await connect_raw(server.urls[0]) as peer,
    ):
        await peer.send(PREFACE, frame(Kind.HELLO, client="old", token=issuer.issue()))
        welcome = await peer.expect_fields(Kind.WELCOME)
        assert 0 < welcome["expires_in"] <= LIFE
        goaway = await peer.expect_fields(Kind.GOAWAY)
        assert goaway["reason"] == "the token expires"
        # It does not leave.
        error = await peer.expect_fields(Kind.ERROR)
        assert error["code"] == "auth"
        await peer.expect_end()


async def test_a_token_that_is_not_replaced_ends_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    issuer = Issuer()
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        hyps.connect(server.urls[0], token=issuer.issue()) as client,
    ):
        events = client.events()
        assert isinstance(await anext(events), hyps.Connected)
        lost = await anext(events)
        assert isinstance(lost, hyps.Disconnected)
        assert "the token has expired" in lost.reason
    # The client was told before.
    assert any("expires in" in line for line in warned(caplog, "hyps.client"))


async def test_an_expired_token_is_refused_at_once(scheme: str) -> None:
    issuer = Issuer()
    token = issuer.issue(-1.0)
    async with hyps.Server(port=0, authenticate=issuer.authenticate) as server:
        with pytest.raises(hyps.AuthenticationFailed) as caught:
            await hyps.connect(url_of(server, scheme), token=token).connect()
    # Over HTTP/2 a client of Hyps for Nim is told the status alone.
    assert scheme == "http" or "the token has expired" in str(caught.value)


@pytest.mark.native_wire
async def test_a_token_of_another_client_ends_the_session(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer()
    issuer.name = lambda number: "web" if number != 1 else "billing"
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        hyps.connect(url_of(server, scheme), token=issuer.issue) as client,
    ):
        events = client.events()
        while not isinstance(event := await anext(events), hyps.Disconnected):
            pass
        assert "another client's" in event.reason
        # With the third token it is the first client again.
        while not isinstance(await anext(events), hyps.Reconnected):
            pass
        await client.publish("news", b"")


@pytest.mark.native_wire
async def test_a_token_that_grants_less_takes_the_channels(scheme: str) -> None:
    issuer = Issuer()
    issuer.patterns = lambda number: ("*",) if number == 0 else ("news",)
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        hyps.connect(url_of(server, scheme), token=issuer.issue) as client,
        client.subscribe("news") as allowed,
        client.subscribe("secret") as denied,
    ):
        with pytest.raises(hyps.PermissionDenied):
            await denied.receive()
        await client.publish("news", b"1")
        assert await take_data(allowed, 1) == [b"1"]
        with pytest.raises(hyps.PermissionDenied):
            await client.publish("secret", b"")


@pytest.mark.native_wire
async def test_when_nobody_can_tell_the_old_token_counts_until_it_ends(scheme: str) -> None:
    issuer = Issuer()
    is_away = True

    async def authenticate(credentials: Credentials) -> Grants | None:
        if credentials.token != "token-0" and is_away:
            raise OSError("the identity provider is away")
        return issuer.authenticate(credentials)

    async with (
        hyps.Server(port=0, authenticate=authenticate) as server,
        hyps.connect(url_of(server, scheme), token=lambda: issuer.issue(2.0)) as client,
    ):
        await wait_until(lambda: len(issuer.issued) > 1)
        is_away = False
        await wait_until(lambda: len(issuer.asked) > 1)
        await client.publish("news", b"")
        assert len(server.broker.sessions) == 1


@pytest.mark.native_wire
async def test_a_refusal_that_is_due_survives_other_rules(scheme: str) -> None:
    issuer = Issuer()
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        await connect_raw(server.urls[0]) as peer,
    ):
        hello = frame(Kind.HELLO, client="x", token=issuer.issue(60.0), features=["auth"])
        await peer.send(PREFACE, hello)
        await peer.expect(Kind.WELCOME)
        await peer.send(frame(Kind.AUTH, token="wrong"))
        await wait_until(lambda: "wrong" in issuer.asked)
        await server.set_authentication(authenticate=issuer.authenticate)
        error = await peer.expect_fields(Kind.ERROR)
        assert error["code"] == "auth"


@pytest.mark.native_wire
async def test_what_is_queued_does_not_outlive_the_token(scheme: str) -> None:
    issuer = Issuer()
    async with (
        hyps.Server(port=0, authenticate=issuer.authenticate) as server,
        await connect_raw(server.urls[0]) as peer,
        hyps.connect(server.urls[0], token=issuer.issue(60.0)) as writer,
    ):
        hello = frame(Kind.HELLO, client="x", token=issuer.issue(), features=["auth"])
        await peer.send(PREFACE, hello)
        await peer.expect(Kind.WELCOME)
        await peer.send(subscribe_frame("news"))
        await peer.expect(Kind.SUBSCRIBE_ACK)
        for _ in range(60):
            await writer.publish("news", bytes(200_000))
        await wait_until(lambda: len(server.broker.sessions) == 1)
        read = 0
        while (found := await peer.next_frame())[0] is not Kind.ERROR:
            read += found[0] is Kind.MESSAGES
        assert read < 60


@pytest.mark.parametrize("kind", ["raises", "none", "number", "late"])
async def test_a_function_for_the_token_that_fails(kind: str) -> None:
    async def token() -> str:
        if kind == "raises":
            raise KeyError("no vault")
        if kind == "late":
            await anyio.sleep_forever()
        found: str = None if kind == "none" else 5  # type: ignore[assignment]
        return found

    async with hyps.Server(port=0, authenticate=Issuer().authenticate) as server:
        client = hyps.connect(server.urls[0], token=token, limits=Limits(hello_timeout=0.2))
        with pytest.raises(hyps.ConnectionRefused, match="the function for the token") as caught:
            await client.connect()
        assert not isinstance(caught.value, hyps.AuthenticationFailed)


async def test_a_function_is_asked_at_each_connecting(scheme: str) -> None:
    issuer = Issuer()
    async with hyps.Server(port=0, authenticate=issuer.authenticate) as server:
        client = hyps.connect(url_of(server, scheme), token=lambda: issuer.issue(60.0))
        for count in (1, 2):
            async with client:
                assert len(issuer.issued) == count


async def test_who_is_warned_is_served_meanwhile() -> None:
    issuer = Issuer()
    may_answer = anyio.Event()

    async def authenticate(credentials: Credentials) -> Grants | None:
        if credentials.token != "token-0":
            await may_answer.wait()
        return issuer.authenticate(credentials)

    async with (
        hyps.Server(port=0, authenticate=authenticate) as server,
        hyps.connect(server.urls[0], token=lambda: issuer.issue(3.0)) as client,
        client.subscribe("news") as subscription,
    ):
        await wait_until(lambda: len(issuer.issued) > 1)
        await client.publish("news", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        may_answer.set()
        await wait_until(lambda: len(issuer.asked) > 1)
