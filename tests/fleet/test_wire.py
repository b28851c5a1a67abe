"""A connection to the engine without I/O: what is sent, and what comes of what is received."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from fleet.resp import Push, spell
from hypothesis import given
from hypothesis import strategies as st

from hyps._fleet.wire import IDLE, OVERDUE, SILENCE, TICK, EngineLost, EngineProtocol, encode
from hyps.protocol._fleet.engine import EngineError, Lost

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = (b"EVALSHA", b"0")
MESSAGE = Push([b"message", b"channel", b"data"])


class Conversation:
    """A protocol object, and everything that it called, in order."""

    def __init__(self, **options: int) -> None:
        self.told: list[Any] = []
        self.outputs = 0
        self._numbers = count()
        self.protocol = EngineProtocol(self.told.append, self._on_output, **options)

    def _on_output(self) -> None:
        self.outputs += 1

    def send(self, *command: bytes) -> None:
        number = next(self._numbers)
        self.protocol.send(command, lambda reply: self.told.append((number, reply)))

    def flush(self) -> bytes:
        data = self.protocol.data_to_send(1_000_000)
        self.protocol.note_sent(len(data))
        return data

    def ask(self, commands: int = 1) -> None:
        """Send commands that are due a reply."""
        for _ in range(commands):
            self.send(*COMMAND)
        self.flush()


def test_without_the_parser_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['hiredis'] = None; import hyps._fleet.connection"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.endswith("Error: a fleet needs hiredis: pip install 'hyps[fleet]'")


# Commands


def test_a_command_is_an_array_of_strings() -> None:
    assert (
        encode([b"SET", b"", b"a\r\n\xff"]) == b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\n\xff\r\n"
    )


def test_commands_leave_in_their_order_and_in_pieces() -> None:
    there = Conversation()
    there.send(b"A")
    there.send(b"B")
    assert there.outputs == 1
    whole = encode([b"A"]) + encode([b"B"])
    assert there.protocol.backlog == len(whole)
    sent = b""
    while data := there.protocol.data_to_send(3):
        assert len(data) <= 3
        there.protocol.note_sent(len(data))
        sent += data
    assert sent == whole
    assert there.protocol.backlog == 0
    there.send(b"C")
    assert there.outputs == 2


def test_a_command_without_room_is_not_sent() -> None:
    room = len(encode([b"PUBLISH", b"x" * 10]))
    there = Conversation(max_backlog=2 * room)
    for _ in range(3):
        there.send(b"PUBLISH", b"x" * 10)
    assert there.told == [(2, Lost(was_sent=False))]
    there.flush()
    there.send(b"PUBLISH", b"x" * 10)
    there.protocol.receive_data(spell(1) * 2)
    assert there.told[1:] == [(0, 1), (1, 1)]


# Replies and pushes

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=50)
    | st.builds(EngineError, st.just("ERR"), st.text("abc d\u00e9", max_size=9).map(str.strip))
)
replies = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
messages = st.tuples(
    st.sampled_from([b"message", b"smessage"]), st.binary(max_size=9), st.binary(max_size=99)
)
pushes = (messages | st.lists(replies, min_size=1, max_size=4)).map(Push)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut bytes at places, which are taken modulo their number."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def feed(there: Conversation, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        there.protocol.receive_data(piece)


@given(st.lists(replies | pushes, max_size=12), st.lists(st.integers(0, 10**6), max_size=12))
def test_replies_and_pushes_are_told_in_the_order_of_the_bytes(
    sent: list[Any], places: list[int]
) -> None:
    data = b"".join(map(spell, sent))
    expected: list[Any] = []
    for each in sent:
        answered = sum(isinstance(one, tuple) for one in expected)
        expected.append(list(each) if isinstance(each, Push) else (answered, each))
    for pieces in ([data], [bytes([byte]) for byte in data], cut(data, places)):
        there = Conversation()
        there.ask(len(sent))
        feed(there, pieces)
        assert there.told == expected
        assert [type(one[1]) for one in there.told if isinstance(one, tuple)] == [
            type(each) for each in sent if not isinstance(each, Push)
        ]


@given(
    st.lists(replies | pushes, max_size=6),
    st.integers(0, 10**6),
    st.integers(0, 10),
    st.integers(0, 400),
)
def test_each_command_has_one_reply_wherever_the_connection_ends(
    sent: list[Any], end: int, unsent: int, left: int
) -> None:
    there = Conversation()
    there.ask(len(sent))
    for _ in range(unsent):
        there.send(*COMMAND)
    there.protocol.note_sent(left := min(left, there.protocol.backlog))
    data = b"".join(map(spell, sent))
    there.protocol.receive_data(data[: end % (len(data) + 1)])
    there.protocol.close("the end")
    there.protocol.close("another end")
    answers = [one for one in there.told if isinstance(one, tuple)]
    assert [number for number, _ in answers] == list(range(len(sent) + unsent))
    partly = math.ceil(left / len(encode(COMMAND)))
    for number, reply in answers:
        if number >= len(sent):
            assert reply == Lost(was_sent=number < len(sent) + partly)
        elif isinstance(reply, Lost):
            assert reply.was_sent
    assert there.protocol.backlog == 0
    with pytest.raises(EngineLost, match="the end"):
        there.protocol.receive_data(b"")
    there.send(*COMMAND)
    assert there.told[-1] == (len(answers), Lost(was_sent=False))


def test_an_error_has_a_code_and_a_text() -> None:
    there = Conversation()
    there.ask(3)
    there.protocol.receive_data(b"-NOSCRIPT No matching script.\r\n-OOM\r\n*1\r\n-MOVED 1 a:1\r\n")
    assert there.told == [
        (0, EngineError("NOSCRIPT", "No matching script.")),
        (1, EngineError("OOM", "")),
        (2, [EngineError("MOVED", "1 a:1")]),
    ]
    assert str(there.told[0][1]) == "NOSCRIPT No matching script."


def test_callbacks_may_send_and_end_the_connection() -> None:
    there = Conversation()
    protocol = there.protocol

    def on_first(reply: object) -> None:
        there.told.append(reply)
        there.send(b"MORE")

    def on_second(reply: object) -> None:
        protocol.close("enough")

    protocol.send(COMMAND, on_first)
    protocol.send(COMMAND, on_second)
    there.flush()
    protocol.receive_data(spell(1) + spell(2) + spell(MESSAGE))
    assert there.told == [1, (0, Lost(was_sent=False))]
    assert protocol.lost == "enough"


# Subscribing: its successes are pushes, its errors are replies

PONG = spell(b"hyps")
SUBSCRIBED = Push([b"ssubscribe", b"a", 1])


@pytest.mark.parametrize("verb", [b"SUBSCRIBE", b"UNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"])
def test_a_subscription_is_answered_behind_its_pushes(verb: bytes) -> None:
    there = Conversation()
    there.send(verb, b"a", b"b")
    there.send(*COMMAND)
    assert there.flush() == encode([verb, b"a", b"b"]) + encode([b"PING", b"hyps"]) + encode(
        COMMAND
    )
    pushes = [Push([verb.lower(), name, 1]) for name in (b"a", b"b")]
    there.protocol.receive_data(spell(pushes[0]) + spell(pushes[1]) + PONG + spell(7))
    assert there.told == [*pushes, (0, None), (1, 7)]


def test_a_subscription_that_is_refused() -> None:
    there = Conversation()
    there.send(b"SSUBSCRIBE", b"a")
    there.ask()
    there.protocol.receive_data(b"-MOVED 1 b:1\r\n")
    assert there.told == []
    there.protocol.receive_data(PONG + spell(7))
    assert there.told == [(0, EngineError("MOVED", "1 b:1")), (1, 7)]


def test_an_unsubscription_that_the_engine_forced_is_no_answer() -> None:
    there = Conversation()
    there.send(b"SUNSUBSCRIBE", b"a")
    there.ask()
    forced = Push([b"sunsubscribe", b"a", 0])
    there.protocol.receive_data(spell(forced) + b"-MOVED 1 b:1\r\n" + PONG + spell(7))
    assert there.told == [forced, (0, EngineError("MOVED", "1 b:1")), (1, 7)]


@pytest.mark.parametrize("reply", [b"-ERR a\r\n-ERR b\r\n", spell(1), spell(b"other")])
def test_a_subscription_is_answered_by_its_ping_alone(reply: bytes) -> None:
    there = Conversation()
    there.send(b"SUBSCRIBE", b"a")
    there.flush()
    with pytest.raises(EngineLost, match="another reply than PING's"):
        there.protocol.receive_data(reply)
    assert there.told == [(0, Lost(was_sent=True))]


# What the engine must not send

FAULTS = {
    b"HTTP/1.1 400 Bad Request\r\n": "not Redis's protocol",
    b"\r\n": "not Redis's protocol",
    b"$x\r\n": "not Redis's protocol",
    b"$-2\r\n": "not Redis's protocol",
    b"$?\r\n": "not Redis's protocol",
    b"*99999999999\r\n": "not Redis's protocol",
    b"*1\r\n>1\r\n:1\r\n": "not Redis's protocol",
    b"|1\r\n+a\r\n:1\r\n:5\r\n": "not Redis's protocol",
    b":one\r\n": "not Redis's protocol",
    b"#x\r\n": "not Redis's protocol",
    b"%1\r\n*0\r\n:1\r\n": "not Redis's protocol",
    b">0\r\n": "an empty push",
    b"$1001\r\n": "more than 1000 bytes",
    b"=1001\r\n": "more than 1000 bytes",
    b"*400\r\n": "more than 1000 bytes",
    b"%200\r\n": "more than 1000 bytes",
    b">1000000000\r\n": "more than 1000 bytes",
    b"*2\r\n$500\r\n" + b"x" * 500 + b"\r\n$500\r\n": "more than 1000 bytes",
    b"*2\r\n" * 300: "more than 1000 bytes",
    b"+" + b"x" * 1000 + b"\r\n": "more than 1000 bytes",
    b"+" + b"x" * 16_385: "a line of more than 16384 bytes",
    b"+" + b"x" * 16_385 + b"\r\n": "a line of more than 16384 bytes",
    spell(Push([b"message", b"a", b"x" * 1000])): "more than 1000 bytes",
}


@pytest.mark.parametrize(("data", "fault"), FAULTS.items(), ids=lambda value: repr(value)[:30])
def test_a_fault_ends_the_connection_behind_what_is_valid(data: bytes, fault: str) -> None:
    valid = spell(7) + spell(MESSAGE)
    for pieces in ([valid + data], [bytes([byte]) for byte in valid + data]):
        there = Conversation(max_reply=1000)
        there.ask(2)
        with pytest.raises(EngineLost, match=f"^it sent .*{fault}"):
            feed(there, pieces)
        assert there.told == [(0, 7), MESSAGE, (1, Lost(was_sent=True))]
        assert there.protocol.lost is not None


@pytest.mark.parametrize("payload", [0, 975 - len(">3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n"), 10])
def test_what_is_as_large_as_allowed_arrives(payload: int) -> None:
    there = Conversation(max_reply=1000)
    there.ask(2)
    fits = [spell(b"x" * 992), spell([None] * 331), spell(Push([*MESSAGE[:2], b"x" * payload]))]
    for data in fits:
        assert len(data) <= 1000
        feed(there, [data, *[bytes([byte]) for byte in fits[2]]])
    assert len(there.told) == 2 + 4


def test_a_reply_to_nothing_ends_the_connection() -> None:
    there = Conversation()
    there.send(*COMMAND)
    with pytest.raises(EngineLost, match="it sent a reply to nothing"):
        there.protocol.receive_data(spell(1))
    assert there.told == [(0, Lost(was_sent=False))]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_junk_does_no_more_than_end_the_connection(junk: bytes, places: list[int]) -> None:
    there = Conversation(max_reply=1000)
    there.ask(3)
    try:
        feed(there, cut(junk, places))
    except EngineLost:
        assert there.protocol.lost is not None
    there.protocol.close("the end")
    assert [one[0] for one in there.told if isinstance(one, tuple)] == [0, 1, 2]


#: Of these almost everything can be put together, and most of it is wrong.
PARTS = [
    *(b"*0\r\n", b"*2\r\n", b">2\r\n", b"%1\r\n", b"$3\r\n", b"abc", b"\r\n", b":1\r\n", b"$"),
    *(b"$-1\r\n", b"-ERR a\r\n", b">3\r\n$7\r\nmessage\r\n"),
]


@given(st.lists(st.sampled_from(PARTS), max_size=20), st.lists(st.integers(0, 200), max_size=5))
def test_where_the_bytes_are_cut_makes_no_difference(parts: list[bytes], places: list[int]) -> None:
    outcomes = []
    data = b"".join(parts)
    for pieces in ([data], cut(data, places)):
        there = Conversation(max_reply=100)
        there.ask(20)
        try:
            feed(there, pieces)
        except EngineLost as error:
            there.told.append(str(error))
        outcomes.append(there.told)
    assert outcomes[0] == outcomes[1]


# Time


def ticks_until_lost(there: Conversation, now: float = 0.0) -> float:
    """Tick as asked for, and return the time at which the connection was lost."""
    for _ in range(1000):
        try:
            now = there.protocol.tick(now)
        except EngineLost:
            return now
    raise AssertionError("it is never lost")


def test_an_engine_that_owes_a_reply_and_is_silent_is_lost() -> None:
    there = Conversation()
    now = there.protocol.tick(5.0)
    there.send(*COMMAND)
    assert ticks_until_lost(there, now) == now + SILENCE
    assert there.told == [(0, Lost(was_sent=False))]
    assert there.protocol.lost == "it did not answer for 2 seconds"
    with pytest.raises(EngineLost):
        there.protocol.tick(now)


def test_silence_begins_with_the_last_byte() -> None:
    there = Conversation()
    there.ask()
    now = there.protocol.tick(0.0)
    for _ in range(5):
        now = there.protocol.tick(now)
    there.protocol.receive_data(b":")
    assert SILENCE < ticks_until_lost(there, now) - now <= SILENCE + TICK


def test_an_engine_that_owes_nothing_is_asked_something() -> None:
    there = Conversation()
    now = there.protocol.tick(0.0)
    for _ in range(3):
        asked_at = now
        while not there.protocol.backlog:
            now = there.protocol.tick(now)
        assert now - asked_at <= IDLE + 2 * TICK
        assert there.flush() == encode([b"PING"])
        there.protocol.receive_data(b"+PONG\r\n")
    assert there.told == []
    there.ask()
    assert ticks_until_lost(there, now) - now <= SILENCE + TICK


def test_an_engine_that_answers_is_asked_nothing() -> None:
    there = Conversation()
    now = there.protocol.tick(0.0)
    for _ in range(20):
        there.ask()
        there.protocol.receive_data(spell(1))
        now = there.protocol.tick(now)
    assert there.protocol.backlog == 0


def test_ticks_that_come_early_count_for_nothing() -> None:
    there = Conversation()
    there.ask()
    deadline = there.protocol.tick(0.0)
    for _ in range(100):
        assert there.protocol.tick(0.01) == deadline


def test_a_hub_that_stood_still_itself_blames_nobody() -> None:
    there = Conversation()
    there.ask()
    there.protocol.tick(0.0)
    there.protocol.tick(3600.0)
    there.protocol.receive_data(spell(1))
    there.protocol.tick(7200.0)
    assert there.told == [(0, 1)]


def test_pushes_alone_are_no_replies() -> None:
    there = Conversation()
    there.ask()
    now = there.protocol.tick(0.0)
    while now < OVERDUE:
        there.protocol.receive_data(spell(MESSAGE))
        now = there.protocol.tick(now)
    there.protocol.receive_data(spell(MESSAGE))
    with pytest.raises(EngineLost, match="it did not answer for 10 seconds"):
        there.protocol.tick(now)
