from __future__ import annotations

import doctest
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protocol import strategies as own

from hyps.protocol import (
    Batch,
    InvalidChannel,
    MalformedRecord,
    Message,
    Messages,
    RecordDecoder,
    Run,
)
from hyps.protocol import encode as encode_record
from hyps.protocol import records as decode_records
from hyps.protocol._records.encoding import encode_all, pack_names, unpack_names
from hyps.protocol._records.layout import BATCH_SIZE, MANY_RECORDS, MERGED_SIZE
from hyps.protocol._records.scanning import cut, scan

VECTOR = b"\x00\x00\x00\x0ffoo_ch\nfoo_msg\n"

MALFORMED = {
    "nothing in it": b"\x00\x00\x00\x00",
    "length of 2": b"\x00\x00\x00\x02\n\n",
    "no newline": b"\x00\x00\x00\x06foobar",
    "one newline": b"\x00\x00\x00\x04foo\n",
    "last byte": b"\x00\x00\x00\x08foo\nbar!",
    "empty channel": b"\x00\x00\x00\x05\nbar\n",
    "not UTF-8": b"\x00\x00\x00\x06\xff\nbar\n",
    "a surrogate": b"\x00\x00\x00\x08\xed\xa0\x80\nbar\n",
}
#: Malformed where nothing follows, and incomplete where more may follow.
CUT_OFF = {
    "in the length": b"\x00\x00\x00",
    "behind the length": b"\x00\x00\x00\x08",
    "in the message": b"\x00\x00\x00\x08foo\nbar",
}


def decode(
    decoder: RecordDecoder, into: list[tuple[str, bytes]] | None = None
) -> list[tuple[str, bytes]]:
    """What the runs that are ready hold; with ``into``, those before an error can be seen."""
    found: list[tuple[str, bytes]] = [] if into is None else into
    while (run := decoder.next_run()) is not None:
        assert len(run.messages) == run.count > 0
        assert run.records == b"".join([encode_record(run.channel, m.data) for m in run.messages])
        found += [(message.channel, message.data) for message in run.messages]
    return found


def decode_chunks(chunks: list[bytes], max_record: int) -> tuple[list[tuple[str, bytes]], bool]:
    """Everything before the error, and whether there was one."""
    decoder = RecordDecoder(max_record)
    found: list[tuple[str, bytes]] = []
    for chunk in chunks:
        decoder.receive_data(chunk)
        try:
            decode(decoder, found)
        except MalformedRecord:
            decoder.receive_data(VECTOR)
            with pytest.raises(MalformedRecord):
                decoder.next_run()
            return found, True
    return found, False


def test_known_vector() -> None:
    assert encode_record("foo_ch", b"foo_msg") == VECTOR
    assert list(decode_records(VECTOR)) == [("foo_ch", b"foo_msg")]


def test_examples_in_the_documentation() -> None:
    # The package's attribute of this name is the function.
    failures, count = doctest.testmod(import_module("hyps.protocol._records.decoding"))
    assert count > 0
    assert failures == 0


@pytest.mark.parametrize(
    "data", [b"caf\xc3\xa9", bytearray(b"caf\xc3\xa9"), memoryview(b"caf\xc3\xa9"), "café"]
)
def test_text_and_every_kind_of_bytes_is_a_message(data: bytes | str) -> None:
    assert encode_record("c", data) == encode_record("c", b"caf\xc3\xa9")


@pytest.mark.parametrize("channel", ["", "a\nb", "\n", "\ud800"])
def test_name_that_no_channel_can_have(channel: str) -> None:
    with pytest.raises(InvalidChannel):
        encode_record(channel, b"")


@pytest.mark.parametrize(("channel", "data"), [(b"bytes", b""), ("c", None), ("c", 7)])
def test_wrong_type(channel: Any, data: Any) -> None:
    with pytest.raises(TypeError):
        encode_record(channel, data)


@given(own.messages)
def test_round_trip(messages: list[tuple[str, bytes]]) -> None:
    data = b"".join([encode_record(channel, message) for channel, message in messages])
    assert list(decode_records(data)) == messages


@given(own.messages, st.data())
def test_any_split_gives_the_same_records(
    messages: list[tuple[str, bytes]], draw: st.DataObject
) -> None:
    data = b"".join([encode_record(channel, message) for channel, message in messages])
    largest = max([len(encode_record(*message)) for message in messages], default=1)
    for chunks in (own.bytewise(data), draw.draw(own.splits(data))):
        assert decode_chunks(chunks, largest) == (messages, False)


@given(own.messages, st.data())
def test_any_split_of_mutated_records_gives_the_same_records_and_the_same_verdict(
    messages: list[tuple[str, bytes]], draw: st.DataObject
) -> None:
    data = b"".join([encode_record(channel, message) for channel, message in messages])
    data = draw.draw(own.mutations(data))
    max_record = draw.draw(st.integers(7, 30))
    whole = decode_chunks([data], max_record)
    for chunks in (own.bytewise(data), draw.draw(own.splits(data))):
        assert decode_chunks(chunks, max_record) == whole


@given(st.lists(own.channels))
def test_names_are_unpacked_as_they_were_packed(channels: list[str]) -> None:
    names = [channel.encode() for channel in channels]
    data = pack_names(names)
    assert data == b"".join([encode_record(channel, b"") for channel in channels])
    assert unpack_names(data) == names


def test_names_whose_length_looks_like_the_end_of_a_record_are_left_to_the_scan() -> None:
    name = b"c" * (0x0A0A - 2)
    assert unpack_names(pack_names([name])) is None


@given(st.lists(st.tuples(own.channels, st.sampled_from([b"", b"", b"\n", b"1"]))), st.data())
def test_what_is_unpacked_are_names_alone(
    messages: list[tuple[str, bytes]], draw: st.DataObject
) -> None:
    data = b"".join([encode_record(*message) for message in messages])
    data = draw.draw(st.just(data) | own.mutations(data))
    names = unpack_names(data)
    if names is not None:
        found = [(name, count) for name, _, count in scan(data)]
        assert sum([count for _, count in found]) == len(names)
        assert [name for name, count in found for _ in range(count)] == names
        assert pack_names(names) == data


@given(st.binary())
@example(b"\xff" * 10)
def test_junk_is_malformed_or_nothing_else(data: bytes) -> None:
    decode_chunks([data], 1000)
    try:
        found = list(decode_records(data))
    except MalformedRecord:
        return
    assert b"".join([encode_record(*message) for message in found]) == data


@pytest.mark.parametrize("before", [b"", VECTOR, VECTOR * 3, encode_record("foo", b"")])
@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
def test_malformed_record_is_told_after_the_valid_ones_before_it(before: bytes, bad: bytes) -> None:
    valid = list(decode_records(before))
    assert decode_chunks([before + bad + VECTOR], 1000) == (valid, True)
    found = decode_records(before + bad + VECTOR)
    assert [next(found) for _ in valid] == valid
    with pytest.raises(MalformedRecord):
        next(found)


@pytest.mark.parametrize("before", [b"", VECTOR, encode_record("foo", b"")])
@pytest.mark.parametrize("cut", CUT_OFF.values(), ids=CUT_OFF)
def test_record_that_is_cut_off(before: bytes, cut: bytes) -> None:
    found = decode_records(before + cut)
    assert [next(found) for _ in decode_records(before)] == list(decode_records(before))
    with pytest.raises(MalformedRecord):
        next(found)

    decoder = RecordDecoder(1000)
    decoder.receive_data(before + cut)
    assert decode(decoder) == list(decode_records(before))
    assert decoder.buffered == len(cut)


def test_nothing_is_buffered_between_records() -> None:
    decoder = RecordDecoder(1000)
    decoder.receive_data(VECTOR)
    assert decoder.buffered == 0


def test_neighbours_of_one_channel_are_one_run() -> None:
    decoder = RecordDecoder(1000)
    first = encode_record("a", b"1") + encode_record("a", b"two\n") + encode_record("a", b"")
    decoder.receive_data(first + encode_record("ab", b"3") + encode_record("a", b"4"))
    assert [decoder.next_run() for _ in range(4)] == [
        Run("a", first, 3),
        Run("ab", encode_record("ab", b"3"), 1),
        Run("a", encode_record("a", b"4"), 1),
        None,
    ]


@pytest.mark.parametrize(("size", "bound"), [(5, MERGED_SIZE), (1_000, BATCH_SIZE)])
def test_run_has_a_bound(size: int, bound: int) -> None:
    """It is larger for large messages, of which fewer are as many bytes."""
    decoder = RecordDecoder(2_000)
    record = encode_record("a", bytes(size))
    most = -(-bound // len(record))
    decoder.receive_data(record * (most + 1))
    assert [run.count for run in (decoder.next_run(), decoder.next_run()) if run] == [most, 1]


def test_run_of_large_messages_and_small_ones_has_a_bound() -> None:
    decoder = RecordDecoder(100_000)
    decoder.receive_data(encode_record("a", bytes(80_000)) + encode_record("a", b"") * 100_000)
    run = decoder.next_run()
    assert run is not None
    assert run.count < MANY_RECORDS + MERGED_SIZE / len(encode_record("a", b""))


@pytest.mark.parametrize("before", [b"", encode_record("c", b""), encode_record("d", b"")])
class TestLargestRecord:
    largest = encode_record("c", b"12345")

    def test_the_largest_record_is_taken(self, before: bytes) -> None:
        decoder = RecordDecoder(len(self.largest))
        decoder.receive_data(before + self.largest)
        assert decode(decoder) == [*decode_records(before), ("c", b"12345")]

    def test_larger_one_is_refused_behind_the_valid_ones(self, before: bytes) -> None:
        chunks = [before + encode_record("c", b"123456")]
        assert decode_chunks(chunks, len(self.largest)) == (list(decode_records(before)), True)

    @pytest.mark.parametrize("length", [len(largest) + 1 - 4, 2**32 - 1])
    def test_larger_one_is_refused_at_its_length(self, before: bytes, length: int) -> None:
        chunks = [before + length.to_bytes(4, "big")]
        assert decode_chunks(chunks, len(self.largest)) == (list(decode_records(before)), True)


@given(st.lists(st.binary(max_size=5), min_size=2), st.data())
def test_split_of_a_run(messages: list[bytes], draw: st.DataObject) -> None:
    decoder = RecordDecoder(100)
    decoder.receive_data(b"".join([encode_record("c", message) for message in messages]))
    run = decoder.next_run()
    assert run is not None
    count = draw.draw(st.integers(1, len(messages) - 1))
    parts = run.split(count)
    assert [part.count for part in parts] == [count, len(messages) - count]
    assert [part.channel for part in parts] == ["c", "c"]
    assert [message.data for part in parts for message in part.messages] == messages
    assert b"".join([part.records for part in parts]) == run.records


#: Messages with what looks like the next record in them, and others of the same sizes.
LOOKALIKES = (
    b"",
    b"c\n",
    b"12345678901",
    encode_record("c", b""),
    encode_record("c", b"x\n"),
    b"\n\x00\x00\x00\x04c\n",
    b"\x00\x00\x00\x04c",
    b"cc\n",
    b"\n",
)
lookalikes = st.lists(
    st.sampled_from(LOOKALIKES) | st.binary(max_size=12), min_size=16, max_size=40
)


@given(st.lists(st.tuples(st.sampled_from(["c", "cc", "ccc", "é"]), lookalikes), max_size=3))
def test_records_that_are_encoded_at_once(runs: list[tuple[str, list[bytes]]]) -> None:
    messages = [(channel, data) for channel, contents in runs for data in contents]
    if messages:
        encoded = encode_all(
            [f"{channel}\n".encode() for channel, _ in messages], [data for _, data in messages]
        )
        assert encoded == b"".join([encode_record(*message) for message in messages])
        assert list(decode_records(encoded)) == messages


def test_many_small_records_of_a_channel_are_cut_at_once() -> None:
    contents = [b"x" * (number % 30) for number in range(100)]
    data = b"".join([encode_record("c", content) for content in contents])
    assert cut(data) == (b"c\n", contents)


#: Records of one size.
equals = st.lists(st.binary(min_size=3, max_size=3), min_size=16, max_size=40)


@given(lookalikes | equals, st.data())
def test_cut_gives_what_the_records_hold_or_nothing(
    contents: list[bytes], draw: st.DataObject
) -> None:
    data = b"".join([encode_record("c", content) for content in contents])
    is_plain = not any(b"c\n" in content + b"\n" for content in contents)
    if is_plain and 16 * len(encode_record("c", contents[0])) <= len(data):
        assert cut(data) == (b"c\n", contents)
    changed = draw.draw(own.mutations(data) | st.integers(0, len(data)).map(lambda n: data[:n]))
    found = cut(changed)
    if found is not None:
        prefix, contents = found
        assert list(decode_records(changed)) == [(prefix[:-1].decode(), each) for each in contents]


@pytest.mark.parametrize("lie", [-1, 1, 5, -5, 256])
@pytest.mark.parametrize("index", [0, 1, 15, 18, 19])
def test_cut_sees_a_length_that_lies(index: int, lie: int) -> None:
    record = encode_record("c", b"1234567")
    data = bytearray(record * 20)
    data[index * len(record) : index * len(record) + 4] = (len(record) - 4 + lie).to_bytes(4, "big")
    assert cut(bytes(data)) is None


def test_cut_sees_two_lengths_that_make_up_for_each_other() -> None:
    one, other = encode_record("c", b"123"), encode_record("c", b"12345")
    data = (one[:4] + other[4:] + other[:4] + one[4:]) * 10
    assert cut(data) is None


def test_cut_wants_a_newline_behind_the_channel() -> None:
    assert cut(b"\0\0\0\3ab\n" * 20) is None


def test_cut_wants_the_last_record_whole() -> None:
    record = encode_record("c", b"1234567")
    data = record * 40
    for stop in range(len(data)):
        assert (cut(data[:stop]) is not None) == (
            stop >= 16 * len(record) and not stop % len(record)
        )


@pytest.mark.parametrize("channel", ["c", "cc", "é"])
@given(contents=lookalikes)
def test_messages_of_a_run_with_lookalikes(channel: str, contents: list[bytes]) -> None:
    data = b"".join([encode_record(channel, content) for content in contents])
    run = Run(channel, data, len(contents))
    assert [message.data for message in run.messages] == contents


def test_messages_of_a_run_are_made_once() -> None:
    run = Run("foo_ch", VECTOR, 1)
    assert run.messages == [Message("foo_ch", b"foo_msg")]
    assert run.messages is run.messages


_runs = st.lists(st.tuples(st.sampled_from(["a", "ab", "é"]), st.integers(1, 3)), min_size=1)


@given(_runs, st.binary(max_size=30))
def test_batch_is_its_runs(shape: list[tuple[str, int]], noise: bytes) -> None:
    wanted: list[Message] = []
    runs: list[Run] = []
    parts: list[tuple[str, int, int]] = []
    stop = 0
    for channel, count in shape:
        messages = [Message(channel, noise[: len(wanted) + index]) for index in range(count)]
        records = b"".join([encode_record(channel, message.data) for message in messages])
        stop += len(records)
        wanted += messages
        runs.append(Run(channel, records, count))
        parts.append((channel, stop, count))
    batch = Batch(b"".join([run.records for run in runs]), parts)
    assert batch.count == len(wanted)
    assert batch.messages == wanted
    assert batch.messages is batch.messages
    assert batch.runs == tuple(runs)
    assert batch.runs is batch.runs
    assert batch.channels == tuple([run.channel for run in runs])
    assert eval(repr(batch)).runs == batch.runs
    assert Messages([batch]) == Messages(runs)
    assert Messages([batch]).runs == tuple(runs)


@pytest.mark.parametrize(
    "values",
    [
        (Message("a", b"1"), Message("a", b"2"), Message("b", b"1"), ("a", b"1")),
        (
            Run("a", encode_record("a", b"1"), 1),
            Run("a", encode_record("a", b"2"), 1),
            Run("b", encode_record("b", b"1"), 1),
            encode_record("a", b"1"),
        ),
    ],
    ids=["Message", "Run"],
)
def test_equal_are_those_with_equal_contents(values: tuple[object, ...]) -> None:
    for first, second in pairwise(values):
        assert first != second
        assert second != first
    assert eval(repr(values[0])) == values[0]


def test_message_matches_and_unpacks() -> None:
    channel: object
    data: object
    channel, data = Message("a", b"1")
    assert (channel, data) == ("a", b"1")
    match Message("a", b"1"):
        case Message(channel, data):
            assert (channel, data) == ("a", b"1")


@pytest.mark.parametrize("value", [Run("foo_ch", VECTOR, 1), Message("foo_ch", b"foo_msg")])
def test_what_readers_share_is_not_hashable(value: object) -> None:
    with pytest.raises(TypeError):
        hash(value)
