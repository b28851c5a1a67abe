"""Rules that change while the hub runs: who stays, who goes, and what nobody gets any more."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from support.helpers import audited, take_data, wait_until
from support.peers import connect_raw, frame, publish_frame, subscribe_frame

import hyps
from hyps import Credentials, Grants
from hyps.protocol import PREFACE, Kind, Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

pytestmark = pytest.mark.anyio

ALL = ("*",)


class Table:
    """Clients by their tokens; those that are in already keep their name."""

    def __init__(self, clients: Mapping[str, Grants]) -> None:
        self._clients = clients

    def __call__(self, credentials: Credentials) -> Grants | None:
        return self._clients.get(credentials.token or "")

    def review(self, credentials: Credentials, grants: Grants) -> Grants | None:
        return next((each for each in self._clients.values() if each.name == grants.name), None)


def url_of(server: hyps.Server, scheme: str) -> str:
    return server.urls[0].replace("hyps:", f"{scheme}:")


async def next_loss(events: AsyncIterator[hyps.ConnectionEvent]) -> str:
    while not isinstance(event := await anext(events), hyps.Disconnected):
        pass
    return event.reason


async def test_a_rotated_token_ends_no_session(scheme: str) -> None:
    web = Grants(name="web", subscribe=ALL, publish=ALL)
    async with (
        hyps.Server(port=0, authenticate=Table({"old": web})) as server,
        hyps.connect(url_of(server, scheme), token="old") as client,
        client.subscribe("news") as subscription,
    ):
        await server.set_authentication(authenticate=Table({"new": web}))
        await client.publish("news", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(url_of(server, scheme), token="old").connect()
        async with hyps.connect(url_of(server, scheme), token="new"):
            pass


async def test_a_rotated_token_of_the_hub_ends_no_session(scheme: str) -> None:
    async with (
        hyps.Server(port=0, token="old") as server,
        hyps.connect(url_of(server, scheme), token="old") as client,
    ):
        await server.set_authentication(token="new")
        await client.publish("news", b"")
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(url_of(server, scheme), token="old").connect()


async def test_who_was_let_in_without_a_token_is_not_when_there_is_one(scheme: str) -> None:
    async with (
        hyps.Server(port=0) as server,
        hyps.connect(url_of(server, scheme), token="a guess") as client,
    ):
        events = client.events()
        await server.set_authentication(token="secret")
        assert "auth" in await next_loss(events) or scheme == "http"
        await wait_until(lambda: not server.broker.sessions)


async def test_an_identity_that_is_removed_ends_and_gets_nothing_more(scheme: str) -> None:
    web = Grants(name="web", subscribe=ALL, publish=ALL)
    other = Grants(name="other", subscribe=ALL, publish=ALL)
    async with (
        hyps.Server(port=0, authenticate=Table({"web": web, "other": other})) as server,
        hyps.connect(url_of(server, scheme), token="web") as removed,
        hyps.connect(url_of(server, scheme), token="other") as stays,
        removed.subscribe("news", gaps=True) as subscription,
    ):
        events = removed.events()
        await server.set_authentication(authenticate=Table({"other": other}))
        await stays.publish("news", b"secret")
        reason = await next_loss(events)
        assert scheme == "http" or "not known here" in reason
        assert await wait_for_none(subscription)
        assert len(server.broker.sessions) == 1


async def wait_for_none(subscription: hyps.Subscription[hyps.Message | hyps.Gap]) -> bool:
    with anyio.move_on_after(0):
        await subscription.receive()
        return False
    return True


async def test_shrunk_grants_stop_delivery_at_once(scheme: str) -> None:
    before = {
        "web": Grants(name="web", subscribe=ALL, publish=ALL),
        "writer": Grants(name="writer", publish=ALL),
    }
    after = {**before, "web": Grants(name="web", subscribe=("news", "user.*"), publish=("news",))}
    async with (
        hyps.Server(port=0, authenticate=Table(before)) as server,
        hyps.connect(url_of(server, scheme), token="web") as web,
        hyps.connect(url_of(server, scheme), token="writer") as writer,
        web.subscribe("news", "user.7", gaps=True) as allowed,
        web.subscribe("orders") as denied,
    ):
        await server.set_authentication(authenticate=Table(after))
        await writer.publish("orders", b"secret")
        await writer.publish("news", b"missed or not")
        with pytest.raises(hyps.PermissionDenied):
            await denied.receive()
        with pytest.raises(hyps.PermissionDenied):
            await web.publish("user.7", b"")
        await writer.publish("news", b"last")
        received: list[bytes] = []
        while b"last" not in received:
            item = await allowed.receive()
            if isinstance(item, hyps.Message):
                received.append(item.data)
        # Nothing was lost without being counted.
        if scheme == "hyps":
            assert len(received) + allowed.missed == 2


async def test_more_grants_change_nothing_for_the_session(scheme: str) -> None:
    before = {"web": Grants(name="web", subscribe=("news",))}
    after = {"web": Grants(name="web", subscribe=("n*", "orders"), publish=ALL)}
    async with (
        hyps.Server(port=0, authenticate=Table(before)) as server,
        hyps.connect(url_of(server, scheme), token="web") as web,
        web.subscribe("news") as subscription,
    ):
        events = web.events()
        assert isinstance(await anext(events), hyps.Connected)
        with pytest.raises(hyps.PermissionDenied):
            await web.publish("news", b"")
        await server.set_authentication(authenticate=Table(after))
        await web.publish("news", b"1")
        assert await take_data(subscription, 1) == [b"1"]
        async with web.subscribe("orders"):
            pass
        assert web.connected


async def test_less_to_publish_is_denied_from_then_on(scheme: str) -> None:
    before = {"web": Grants(name="web", subscribe=ALL, publish=ALL)}
    after = {"web": Grants(name="web", subscribe=ALL, publish=("news",))}
    async with (
        hyps.Server(port=0, authenticate=Table(before)) as server,
        hyps.connect(url_of(server, scheme), token="web") as web,
    ):
        await web.publish("orders", b"")
        await server.set_authentication(authenticate=Table(after))
        with pytest.raises(hyps.PermissionDenied):
            await web.publish("orders", b"")
        await web.publish("news", b"")
        assert len(server.broker.sessions) == 1


async def test_a_function_without_a_memory_is_asked_again(scheme: str) -> None:
    web = Grants(name="web", subscribe=ALL, publish=ALL)
    tokens = {"a"}

    async def authenticate(credentials: Credentials) -> Grants | None:
        return web if credentials.token in tokens else None

    async with (
        hyps.Server(port=0, authenticate=authenticate) as server,
        hyps.connect(url_of(server, scheme), token="a") as client,
    ):
        events = client.events()
        await server.set_authentication(authenticate=authenticate)
        await client.publish("news", b"")
        tokens.clear()
        await server.set_authentication(authenticate=authenticate)
        await next_loss(events)


async def test_when_nobody_can_tell_everybody_stays(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(credentials: Credentials) -> Grants | None:
        raise OSError("the identity provider is away")

    async with (
        hyps.Server(port=0) as server,
        hyps.connect(server.urls[0]) as client,
    ):
        await server.set_authentication(authenticate=fail)
        await client.publish("news", b"")
    assert any("authenticating failed" in record.getMessage() for record in caplog.records)


async def test_rules_that_change_while_a_client_is_asked_about() -> None:
    asked, may_answer = anyio.Event(), anyio.Event()

    async def slow(credentials: Credentials) -> Grants | None:
        asked.set()
        await may_answer.wait()
        return Grants(name="web", subscribe=ALL, publish=ALL)

    async with (
        hyps.Server(port=0, authenticate=slow) as server,
        await connect_raw(server.urls[0]) as peer,
    ):
        await peer.send(PREFACE, frame(Kind.HELLO, client="x", token="old"))
        await asked.wait()
        await server.set_authentication(authenticate=Table({}))
        may_answer.set()
        error = await peer.expect_fields(Kind.ERROR)
        assert error["code"] == "auth"


async def test_what_is_queued_for_a_reader_that_does_not_read_never_leaves() -> None:
    before = {
        "web": Grants(name="web", subscribe=ALL),
        "writer": Grants(name="writer", publish=ALL),
    }
    after = {**before, "web": Grants(name="web")}
    async with (
        hyps.Server(port=0, authenticate=Table(before)) as server,
        await connect_raw(server.urls[0]) as peer,
        hyps.connect(server.urls[0], token="writer") as writer,
    ):
        await peer.send(PREFACE, frame(Kind.HELLO, client="x", token="web"))
        await peer.expect(Kind.WELCOME)
        await peer.send(subscribe_frame("news"))
        await peer.expect(Kind.SUBSCRIBE_ACK)
        size = 200_000
        for number in range(60):
            await writer.publish("news", b"%d" % number + bytes(size))
        await server.set_authentication(authenticate=Table(after))
        await writer.publish("news", b"late")
        read = 0
        while (found := await peer.next_frame())[0] is not Kind.GOAWAY:
            assert found[0] is Kind.MESSAGES
            assert b"late" not in found[1][:20]
            read += 1
        # What had left the hub arrives, and the rest does not.
        assert read < 60
        # And what it publishes or subscribes now is not taken.
        await peer.send(publish_frame("news", b"x"), subscribe_frame("other"))
        assert await peer.expect(Kind.PUBLISH_ACK) == b"u"
        assert await peer.expect_messages(Kind.SUBSCRIBE_ACK) == [("other", b"u")]


# Certificates and bounds


def context_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_another_certificate_is_for_new_connections() -> None:
    old, new = trustme.CA(), trustme.CA()
    trust_old, trust_new = ssl.create_default_context(), ssl.create_default_context()
    old.configure_trust(trust_old)
    new.configure_trust(trust_new)
    async with (
        hyps.Server(port=0, ssl_context=context_of(old)) as server,
        hyps.connect(server.urls[0], ssl_context=trust_old) as client,
    ):
        server.set_ssl_context(context_of(new))
        await client.publish("news", b"")
        async with hyps.connect(server.urls[0], ssl_context=trust_new):
            await client.publish("news", b"")
        with pytest.raises(hyps.ConnectionRefused):
            await hyps.connect(server.urls[0], ssl_context=trust_old).connect()
        with pytest.raises(ValueError, match="TLS"):
            server.set_ssl_context(None)


async def test_other_bounds(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(max_sessions=1)
    async with (
        hyps.Server(port=0, limits=limits) as server,
        hyps.connect(server.urls[0]) as client,
    ):
        with pytest.raises(hyps.ConnectionRefused, match="as many sessions"):
            await hyps.connect(server.urls[0]).connect()
        server.set_limits(Limits(max_sessions=2, max_channels=1))
        async with hyps.connect(server.urls[0]) as second:
            with pytest.raises(hyps.PermissionDenied, match="holds"):
                async with second.subscribe("a", "b"):
                    pass
        # The bounds of a session are those that it was told.
        async with client.subscribe("a", "b"):
            pass
        for wrong in (Limits(max_message=5), Limits(max_channel=5)):
            with pytest.raises(ValueError, match="cannot change"):
                server.set_limits(wrong)
        await client.publish("news", b"six...")
    assert [each["code"] for each in audited(caplog, "session refused")] == ["limit"]
