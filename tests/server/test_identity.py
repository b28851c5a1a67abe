"""Who a client is, and what it may do: a function of the application decides."""

from __future__ import annotations

import ssl
import threading
from typing import Any

import anyio
import pytest
import trustme
from support.helpers import audited, begin, wait_until
from support.peers import connect_raw

import hyps
from hyps import Credentials, Grants
from hyps.protocol import Limits

pytestmark = pytest.mark.anyio

SERVER_LOG = "hyps.server"

CLIENTS = {
    "reader": Grants(name="reader", subscribe=("news", "user.*")),
    "writer": Grants(name="writer", publish=("news", "user.*")),
    "all": Grants(name="all", subscribe=("*",), publish=("*",)),
    "nothing": Grants(name="nothing"),
}


def by_token(credentials: Credentials) -> Grants | None:
    return CLIENTS.get(credentials.token or "")


def url_of(server: hyps.Server, scheme: str) -> str:
    return server.urls[0].replace("hyps:", f"{scheme}:")


async def test_each_channel_is_granted_by_itself(scheme: str) -> None:
    async with hyps.Server(port=0, authenticate=by_token) as server:
        url = url_of(server, scheme)
        async with (
            hyps.connect(url, token="reader") as reader,
            hyps.connect(url, token="writer") as writer,
            reader.subscribe("news", "user.ann") as subscription,
        ):
            await writer.publish("news", b"1")
            for channel in ("other", "user", "newss"):
                with pytest.raises(hyps.PermissionDenied):
                    await writer.publish(channel, b"")
                with pytest.raises(hyps.PermissionDenied):
                    await reader.subscribe(channel).__aenter__()
            with pytest.raises(hyps.PermissionDenied):
                await reader.publish("news", b"")
            with pytest.raises(hyps.PermissionDenied):
                await writer.subscribe("news").__aenter__()
            # What is denied stops nothing else.
            await writer.publish_many([("user.ann", b"2"), ("news", b"3")])
            received = [(await subscription.receive()).data for _ in range(3)]
            assert received == [b"1", b"2", b"3"]
        assert server.broker.published == 3


async def test_no_grants_no_access(scheme: str) -> None:
    async with (
        hyps.Server(port=0, authenticate=by_token) as server,
        hyps.connect(url_of(server, scheme), token="nothing") as client,
    ):
        with pytest.raises(hyps.PermissionDenied):
            await client.publish("news", b"")
        with pytest.raises(hyps.PermissionDenied):
            await client.subscribe("news").__aenter__()
    assert server.broker.published == 0


@pytest.mark.parametrize("token", ["unknown", None])
async def test_who_is_not_known_is_refused(
    scheme: str, token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with hyps.Server(port=0, authenticate=by_token) as server:
        with pytest.raises(hyps.AuthenticationFailed):
            await hyps.connect(url_of(server, scheme), token=token).connect()
    [refused] = audited(caplog, "session refused")
    assert refused["code"] == "auth"
    why = "a token is required" if token is None else "the token is not known here"
    assert refused["reason"] == why


async def test_an_async_function_is_awaited_and_others_go_on(scheme: str) -> None:
    asked, may_answer = anyio.Event(), anyio.Event()

    async def authenticate(credentials: Credentials) -> Grants | None:
        if credentials.token == "slow":
            asked.set()
            await may_answer.wait()
        return CLIENTS["all"]

    async with (
        hyps.Server(port=0, authenticate=authenticate) as server,
        anyio.create_task_group() as tasks,
    ):
        url = url_of(server, scheme)
        slow = hyps.connect(url, token="slow")
        connecting = begin(tasks, slow.connect)
        await asked.wait()
        async with hyps.connect(url) as client:
            await client.publish("a", b"")
        assert not slow.connected
        may_answer.set()
        await connecting.get()
        await slow.publish("a", b"")
        await slow.shutdown()


async def test_a_function_that_blocks_holds_nobody(scheme: str) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def authenticate(credentials: Credentials) -> Grants | None:
        if credentials.token == "slow":
            asked.set()
            may_answer.wait(30)
        return CLIENTS["all"]

    async with (
        hyps.Server(port=0, authenticate=authenticate) as server,
        anyio.create_task_group() as tasks,
    ):
        url = url_of(server, scheme)
        slow = hyps.connect(url, token="slow")
        connecting = begin(tasks, slow.connect)
        await anyio.to_thread.run_sync(asked.wait)
        async with hyps.connect(url) as client:
            await client.publish("a", b"")
        may_answer.set()
        await connecting.get()
        await slow.shutdown()


async def fail(credentials: Credentials) -> Grants | None:
    raise KeyError("a bug")


async def take_too_long(credentials: Credentials) -> Grants | None:
    await anyio.sleep_forever()
    return None


async def give_something_else(credentials: Credentials) -> Any:
    return "everything"


@pytest.mark.parametrize("function", [fail, take_too_long, give_something_else])
async def test_a_function_that_fails_costs_this_client_alone(
    function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(hello_timeout=0.2)

    async def authenticate(credentials: Credentials) -> Grants | None:
        if credentials.token == "bad":
            found: Grants | None = await function(credentials)
            return found
        return CLIENTS["all"]

    async with (
        hyps.Server(port=0, authenticate=authenticate, limits=limits) as server,
        hyps.connect(server.urls[0]) as client,
    ):
        with pytest.raises(hyps.ConnectionRefused, match="cannot authenticate") as caught:
            await hyps.connect(server.urls[0], token="bad").connect()
        # It may be tried again: the token may be right.
        assert not isinstance(caught.value, hyps.AuthenticationFailed)
        await client.publish("a", b"")
    [record] = [each for each in caplog.records if each.name == SERVER_LOG]
    assert "authenticating" in record.getMessage()
    [refused] = audited(caplog, "session refused")
    assert refused["code"] == "internal"


async def test_what_it_is_given(scheme: str) -> None:
    seen: list[Credentials] = []

    def authenticate(credentials: Credentials) -> Grants:
        seen.append(credentials)
        return CLIENTS["all"]

    async with hyps.Server(port=0, authenticate=authenticate) as server:
        url = url_of(server, scheme)
        async with hyps.connect(url, token="secret", name="worker-3"):
            pass
    assert seen == [
        Credentials(token="secret", certificate=None, address="127.0.0.1", client="worker-3")
    ]
    assert "secret" not in repr(seen)


async def test_a_certificate() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    seen: list[Credentials] = []

    def authenticate(credentials: Credentials) -> Grants | None:
        seen.append(credentials)
        return CLIENTS["all"]

    async with hyps.Server(port=0, ssl_context=context, authenticate=authenticate) as server:
        for has_one in (False, True):
            trust = ssl.create_default_context()
            authority.configure_trust(trust)
            if has_one:
                issued = authority.issue_cert("billing.example", common_name="billing")
                issued.configure_cert(trust)
            async with hyps.connect(server.urls[0], ssl_context=trust) as client:
                await client.publish("a", b"")
    assert seen[0].certificate is None
    assert seen[1].certificate is not None
    assert (("commonName", "billing"),) in seen[1].certificate["subject"]


async def test_a_client_that_leaves_while_it_is_asked_about() -> None:
    asked, may_answer = anyio.Event(), anyio.Event()

    async def authenticate(credentials: Credentials) -> Grants | None:
        asked.set()
        await may_answer.wait()
        return CLIENTS["all"]

    async with hyps.Server(port=0, authenticate=authenticate) as server:
        client = hyps.connect(server.urls[0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await asked.wait()
            tasks.cancel_scope.cancel()
        may_answer.set()
        async with await connect_raw(server.urls[0]):
            pass
        await wait_until(lambda: not server.broker.sessions)


@pytest.mark.parametrize("pattern", ["", "a*b", "**", "a\nb"])
def test_a_pattern_that_is_none(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no pattern"):
        Grants(publish=(pattern,))


@pytest.mark.parametrize("expires_at", [float("nan"), float("inf")])
def test_a_time_that_is_none(expires_at: float) -> None:
    with pytest.raises(ValueError, match="expires_at"):
        Grants(expires_at=expires_at)


def test_patterns_are_a_sequence() -> None:
    with pytest.raises(TypeError, match="must be patterns"):
        Grants(publish="news")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a str"):
        Grants(publish=(5,))  # type: ignore[arg-type]
    assert Grants(publish=["a", "b*"]).publish == ("a", "b*")  # type: ignore[arg-type]


async def test_a_token_and_a_function_are_two_ways() -> None:
    with pytest.raises(ValueError, match="two ways"):
        hyps.Server(token="secret", authenticate=by_token)
