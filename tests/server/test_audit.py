"""The audit log: a line for each session that opened, was refused or ended."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme
from support.helpers import (
    PATIENCE,
    Http2Server,
    audited,
    let_others_run,
    logged,
    wait_until,
    warned,
)
from support.peers import connect_raw, publish_frame, raw_client, reset_when_closed

import hyps
from hyps import Credentials, Grants
from hyps._logs import Log
from hyps._server.audit import Audit
from hyps.protocol import Limits, ServerProtocol
from hyps.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

TOKEN = "correct-horse"


def by_token(credentials: Credentials) -> Grants | None:
    everything = Grants(name="web", subscribe=("*",), publish=("*",))
    return everything if credentials.token == TOKEN else None


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hyps")


async def ended(caplog: pytest.LogCaptureFixture, count: int = 1) -> dict[str, Any]:
    """Wait until so many sessions have ended, and give the fields of the last one."""
    await wait_until(lambda: len(audited(caplog, "session ended")) >= count)
    return audited(caplog, "session ended")[-1]


@pytest.mark.parametrize("kind", [hyps.Server, Http2Server])
async def test_a_session(kind: type[hyps.Server], caplog: pytest.LogCaptureFixture) -> None:
    async with kind(port=0, authenticate=by_token) as server:
        async with (
            hyps.connect(server.urls[0], token=TOKEN, name="worker-3") as client,
            client.subscribe("a", "b") as subscription,
        ):
            await client.publish_many([("a", b"1"), ("b", b"2"), ("c", b"3")])
            assert [await subscription.receive() for _ in range(2)]
        end = await ended(caplog)
    [start] = audited(caplog, "session opened")
    assert start["address"].startswith("127.0.0.1:")
    assert {**start, "address": None} == {
        "session": "1",
        "identity": "web",
        "address": None,
        "client": "worker-3",
        "wire": "hyps" if kind is hyps.Server else "http2",
        "tls": False,
    }
    # The end has them all again: nobody has to search for the start.
    assert {name: end[name] for name in start} == start
    assert end["published"] == 3
    assert end["missed"] == 0
    assert 0 < end["seconds"] < PATIENCE
    assert end["bytes_received"] > 0
    assert end["bytes_sent"] > 0
    assert end["reason"] == "the client left"
    assert "code" not in end
    # Who holds channels when it ends is told so. Over native Hyps they were left before.
    assert end["channels"] == (0 if kind is hyps.Server else 2)
    assert not warned(caplog, "hyps.audit")
    assert {record.levelname for record in caplog.records if record.name == "hyps.audit"} == {
        "INFO"
    }


async def test_the_message_has_the_fields_for_any_formatter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MemoryHub() as hub:
        async with hyps.connect(hub.url, name='a "b"=c'):
            pass
        await ended(caplog)
    [text] = [text for text in logged(caplog, "hyps.audit", 0) if "opened" in text]
    assert text == (
        'session opened session=1 address=local client="a \\"b\\"=c" wire=hyps tls=false'
    )


async def test_channels_that_it_held_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with hyps.Server(port=0) as server:
        async with raw_client(server.urls[0]) as raw:
            await raw.subscribe("a", "b", "c")
        assert (await ended(caplog))["channels"] == 3


async def test_the_hub_shuts_down(caplog: pytest.LogCaptureFixture) -> None:
    async with hyps.Server(port=0, limits=Limits(close_timeout=0.05)) as server:
        raw = await connect_raw(server.urls[0])
        await raw.open()
    async with raw:
        assert (await ended(caplog))["reason"] == "the hub shut down"


async def test_a_client_that_breaks_the_rules(caplog: pytest.LogCaptureFixture) -> None:
    async with hyps.Server(port=0) as server:
        async with raw_client(server.urls[0]) as raw:
            await raw.send(b"\xff\xff\xff\xff")
            await raw.rest()
        end = await ended(caplog)
    assert end["code"] == "too_large"
    assert end["reason"]
    # One line at the level of warnings, in all logs together.
    assert len(warned(caplog, "hyps.audit")) == 1
    assert not warned(caplog, "hyps.server")


async def test_a_client_that_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with MemoryHub(limits=Limits(close_timeout=0.05)) as hub:
        hub.freeze_clock()
        client = hyps.connect(hub.url)
        await client.connect()
        hub.stall()
        while not audited(caplog, "session ended"):
            hub.advance_clock(Limits().heartbeat / 2)
            await let_others_run()
        hub.cut()
        await client.shutdown()
    assert (await ended(caplog))["code"] == "timeout"


class Buggy(ServerProtocol):
    def receive_data(self, data: bytes) -> None:
        if b"a bug" in data:
            raise ZeroDivisionError
        super().receive_data(data)


class BuggyServer(hyps.Server):
    _protocol_type = Buggy


async def test_a_bug_in_the_hub(caplog: pytest.LogCaptureFixture) -> None:
    async with BuggyServer(port=0) as server, raw_client(server.urls[0]) as raw:
        await raw.send(publish_frame("a", b"a bug"))
        end = await ended(caplog)
    assert (end["code"], end["reason"]) == ("internal", "internal error")
    [text] = warned(caplog, "hyps.server")
    assert text.startswith("internal error session=1 address=127.0.0.1:")


@pytest.mark.parametrize(
    ("options", "token", "code", "reason"),
    [
        ({"token": TOKEN}, None, "auth", "a token is required"),
        ({"token": TOKEN}, "guess", "auth", "the token is wrong"),
        ({"authenticate": by_token}, "guess", "auth", "the token is not known here"),
        ({"limits": Limits(max_sessions=1)}, None, "limit", "there are as many sessions as may be"),
    ],
)
async def test_a_refusal(
    options: dict[str, Any],
    token: str | None,
    code: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        hyps.Server(port=0, **options) as server,
        hyps.connect(server.urls[0], token=TOKEN),
    ):
        with pytest.raises(hyps.HypsError):
            await hyps.connect(server.urls[0], token=token, name="stranger").connect()
    [refused] = audited(caplog, "session refused")
    assert (refused["session"], refused["code"], refused["reason"]) == ("2", code, reason)
    assert refused["client"] == "stranger"
    assert refused["wire"] == "hyps"
    # It opened none, so none of its has ended.
    assert [end["session"] for end in audited(caplog, "session ended")] == ["1"]
    assert len(warned(caplog, "hyps.audit")) == 1
    assert not warned(caplog, "hyps.server")
    assert TOKEN not in caplog.text
    assert "guess" not in caplog.text


async def test_who_does_not_come_over_a_session(caplog: pytest.LogCaptureFixture) -> None:
    def credentials(token: str) -> Credentials:
        return Credentials(token=token, certificate=None, address="192.0.2.1", client="curl")

    server = hyps.Server(authenticate=by_token)
    await server.admit(credentials(TOKEN))
    with pytest.raises(hyps.AuthenticationFailed, match="not known"):
        await server.admit(credentials("guess"))
    [refused] = audited(caplog, "session refused")
    assert refused == {
        "address": "192.0.2.1",
        "client": "curl",
        "code": "auth",
        "reason": "the token is not known here",
    }


async def test_no_line_of_a_session_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """All clients of a hub may come back at once, and a stranger may be refused without end."""
    count = Limits().max_sessions
    audit = Audit(Log("hyps.server"))
    for number in range(count):
        audit.opened({"session": number})
        audit.refused({"session": number}, "auth", "the token is wrong")
    for number in range(count):
        audit.ended({"session": number}, "timeout" if number % 2 else None, "a test")
    audit.tell_omitted()
    assert len(audited(caplog, "session opened")) == count
    assert len(audited(caplog, "session ended")) == count
    refused = len(audited(caplog, "session refused"))
    assert 0 < refused < 10
    assert warned(caplog, "hyps.audit")[-1] == (
        f"left out {count - refused} more lines like: session refused code=auth"
    )


# Probes


async def test_http_1_requests_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with hyps.Server(port=0) as server:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "GET"):
            async with await connect_raw(server.urls[0]) as raw:
                await raw.send(f"{method} /healthz HTTP/1.1\r\nhost: hub\r\n\r\n".encode())
                assert (await raw.rest()).startswith(b"HTTP/1.1 505 ")
        await wait_until(lambda: not server.broker.sessions)
    [text] = logged(caplog, "hyps.server", logging.INFO)
    assert text.startswith("an HTTP/1 request at the Hyps port; hyps serve --http serves those ")
    assert not logged(caplog, "hyps.audit", 0)


async def leave(stream: anyio.abc.SocketStream) -> None:
    await stream.aclose()


async def reset(stream: anyio.abc.SocketStream) -> None:
    reset_when_closed(stream.extra(anyio.abc.SocketAttribute.raw_socket))
    await stream.aclose()


@pytest.mark.parametrize("end", [leave, reset])
@pytest.mark.parametrize("tls", [False, True])
async def test_probes_of_the_port_are_no_warnings(
    tls: bool, end: Callable[[anyio.abc.SocketStream], Any], caplog: pytest.LogCaptureFixture
) -> None:
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with hyps.Server(port=0, ssl_context=context) as server:
        port = int(server.urls[0].rpartition(":")[2])
        for _ in range(10):
            await end(await anyio.connect_tcp("127.0.0.1", port))
        await wait_until(
            lambda: sum("disconnected" in text for text in logged(caplog, "hyps.server", 0)) == 10
        )
    assert not logged(caplog, "hyps.server", logging.INFO)
    assert not logged(caplog, "hyps.audit", 0)


async def test_plain_http_at_a_port_with_tls(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with hyps.Server(port=0, ssl_context=context) as server:
        for _ in range(3):
            async with await connect_raw(server.urls[0].replace("hypss:", "hyps:")) as raw:
                await raw.send(b"GET / HTTP/1.1\r\nhost: hub\r\n\r\n")
                await raw.rest()
    assert len(logged(caplog, "hyps.server", logging.INFO)) == 1
    assert not logged(caplog, "hyps.audit", 0)
