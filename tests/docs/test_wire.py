"""``docs/wire.md`` says what happens, and is enough to write a client from."""

from __future__ import annotations

import re
import runpy
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.pair import drain
from support.processes import PYTHON, Running, running, serving

from hyps.protocol import (
    NEED_DATA,
    PREFACE,
    Acked,
    Broker,
    ClientProtocol,
    ErrorCode,
    Gap,
    GoingAway,
    Hello,
    Kind,
    Limits,
    Messages,
    Refusal,
    Rejected,
    ServerProtocol,
    Welcome,
    encode,
)
from hyps.protocol._wire.frames import FIRST_IGNORABLE, VERSION

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
CLIENT = ROOT / "examples" / "blocking_client.py"

#: As the page says of its example.
LIMITS = Limits(max_message=16, max_channel=16, max_in_flight=100, max_channels=10)


def read_session() -> list[list[tuple[str, bytes]]]:
    """The bytes of the example: for each block, who sends what."""
    session = PAGE.split("## A whole session")[1]
    blocks = []
    for block in re.findall(r"^```text\n(.*?)^```$", session, re.MULTILINE | re.DOTALL):
        parts: list[tuple[str, bytes]] = []
        for line in block.splitlines():
            data = bytes.fromhex(line[3:50])
            if line[0] == " ":
                who, before = parts.pop()
                parts.append((who, before + data))
            else:
                parts.append((line[0], data))
        blocks.append(parts)
    return blocks


def test_the_session_is_what_a_hub_sends() -> None:
    server = ServerProtocol(Broker("boot", LIMITS), session="1", server="hyps-py")
    blocks = read_session()
    assert len(blocks) > 5
    for number, block in enumerate(blocks):
        if number == len(blocks) - 1:
            server.go_away("the hub is shutting down", 0.5)
        sent = b"".join([data for who, data in block if who == "C"])
        expected = b"".join([data for who, data in block if who == "H"])
        server.receive_data(sent)
        while (event := server.next_event()) is not NEED_DATA:
            if isinstance(event, Hello):
                server.accept()
        assert b"".join(iter(server.data_to_send, b"")) == expected
    server.receive_data(b"")
    drain(server)
    assert server.eof_is_due


def test_the_session_is_what_a_client_understands() -> None:
    client = ClientProtocol()
    events = []
    for block in read_session():
        for who, data in block:
            if who == "H":
                client.receive_data(data)
                events += drain(client)
            elif data.startswith(PREFACE):
                client.data_to_send()
            elif data[4] == Kind.PUBLISH:
                client.publish_many(
                    [("news", b"x")] * data.count(b"news\n")  # what is in them plays no role
                )
            elif data[4] == Kind.SUBSCRIBE:
                client.subscribe(["news"], {"news": b"boot.0:1"} if b"boot" in data else {})
            elif data[4] == Kind.UNSUBSCRIBE:
                client.unsubscribe(["news"])
            client.data_to_send()
            if data[4:5] == bytes([Kind.PING]):
                # It was sent by nobody here, so its answer would be a violation.
                break
    kinds = [type(event) for event in events]
    assert kinds == [Welcome, Acked, Messages, Rejected, Acked, Acked, Acked, GoingAway, Rejected]
    assert not any(isinstance(event, Gap) for event in events)


def test_the_record_of_the_page() -> None:
    [example] = re.findall(r"^```text\n(00 00 00 0f .*)\n```$", PAGE, re.MULTILINE)
    assert bytes.fromhex(example) == encode("foo_ch", b"foo_msg")


def table(*columns: str) -> list[list[str]]:
    """The rows of the table with these first columns."""
    rows = PAGE.split("| " + " | ".join(columns) + " |")[1].split("\n")[2:]
    found: list[list[str]] = []
    for row in rows:
        if not row.startswith("|"):
            return found
        found.append([cell.strip() for cell in row.strip("|").split("|")])
    raise AssertionError("a table without an end")


def test_kinds() -> None:
    rows = table("kind", "name", "sent by", "body")
    assert {name: int(kind.strip("`"), 16) for kind, name, _, _ in rows} == {
        kind.name: kind.value for kind in Kind
    }
    assert f"kinds from `0x{FIRST_IGNORABLE:02x}` on" in PAGE
    assert f"version {VERSION}." in PAGE


def test_codes() -> None:
    rows = table("code", "meaning")
    codes = {code.strip("`").encode() for code, _ in rows}
    assert codes == {b"k", b"d", b"s", b"n", b"u"}
    for code in codes - {b"k"}:
        assert "unknown" not in str(Refusal(0, code).error())


def test_error_codes() -> None:
    rows = table("ERROR code", "meaning")
    known = {value for name, value in vars(ErrorCode).items() if isinstance(value, str)} - {
        ErrorCode.__module__,
        ErrorCode.__doc__,
        ErrorCode.__qualname__,
    }
    assert {code.strip("`") for code, _ in rows} == known
    assert {code.strip("`") for code, meaning in rows if "; final" in meaning} == ErrorCode.FINAL


def example(url: str, *arguments: str) -> AbstractContextManager[Running]:
    port = url.rpartition(":")[2]
    program = ("env", f"HYPS_PORT={port}", *PYTHON, str(CLIENT))
    return running(*arguments, program=program)


def test_the_example_subscribes_and_publishes() -> None:
    with serving() as (url, _), example(url, "sub", "news", "weather") as subscriber:
        process = subscriber.process
        assert subscriber.read_line(process.stderr) == "subscribed news weather\n"
        for channel, message in (("other", ""), ("weather", "it rains"), ("news", "nöthing")):
            with example(url, "pub", channel, message) as publisher:
                assert publisher.end() == (0, "", "")
        assert subscriber.read_line(process.stdout) == "weather it rains\n"
        assert subscriber.read_line(process.stdout) == "news nöthing\n"


def test_the_example_says_why_it_ends() -> None:
    with serving() as (url, hub), example(url, "sub", "news") as subscriber:
        assert subscriber.read_line(subscriber.process.stderr) == "subscribed news\n"
        hub.end(signal.SIGTERM)
        code, _, error = subscriber.end()
        assert code == 1
        assert error == "blocking_client: the hub is leaving: the hub is shutting down\n"


def test_the_example_says_what_was_refused() -> None:
    with serving() as (url, _), example(url, "pub", "c" * 300, "") as publisher:
        code, _, error = publisher.end()
        assert code == 1
        assert "bad channel name" in error


def test_the_example_counts_what_it_missed() -> None:
    """A hub that is played by the test tells of gaps of every kind."""
    module = runpy.run_path(str(CLIENT))
    client = module["Client"].__new__(module["Client"])
    client.__dict__.update(_positions={}, _unread=[], missed=0, missed_unknown=False)
    client._compare("c", "a1.0:40", is_new=True)
    client._take_messages(encode("c", b"1") + encode("c", b"2") + encode("c", b"3"))
    client._compare("c", "a1.0:43")
    assert (client.missed, client.missed_unknown) == (0, False)
    client._compare("c", "a1.0:50")
    assert (client.missed, client.missed_unknown) == (7, False)
    client._compare("other", "a1.0:50")
    client._compare("c", "b2.3:5")
    assert (client.missed, client.missed_unknown) == (7, True)
