"""Each bulk path for records does what the plain function of ``layout.py`` does, one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from protocol import strategies as own

from hyps.protocol import MalformedRecord
from hyps.protocol._records.decoding import WholeRecords
from hyps.protocol._records.encoding import encode_all, encode_channels, pack_chunks, pack_names
from hyps.protocol._records.layout import (
    BATCH_SIZE,
    contents,
    encode,
    encode_channel,
    end_of,
    pack,
    sizes,
    unpack,
)
from hyps.protocol._records.runs import Batch, split
from hyps.protocol._records.scanning import count_alike, cut, find_runs

#: Records as they are, and with bytes that were changed.
data = own.records | own.records.flatmap(own.mutations) | st.binary(max_size=40)


def one_by_one(data: bytes, position: int = 0) -> tuple[list[tuple[bytes, bytes, int]], str]:
    """Name, message and end of each record, and what is wrong behind the last one."""
    found: list[tuple[bytes, bytes, int]] = []
    while position < len(data):
        try:
            found.append(unpack(data, position))
        except MalformedRecord as error:
            return found, str(error)
        position = found[-1][2]
    return found, ""


@given(data=data)
def test_runs_are_found_as_records_are_unpacked(data: bytes) -> None:
    records, error = one_by_one(data)
    runs = find_runs(data)
    start = 0
    scanned: list[tuple[bytes, bytes, int]] = []
    for name, stop, count in zip(runs.names, runs.stops, runs.counts, strict=True):
        messages = contents(data, start, count, name)
        for message in messages:
            start = end_of(data, start)
            scanned.append((name, message, start))
        assert start == stop
    assert scanned == records
    assert ("" if runs.error is None else str(runs.error)) == error


@given(data=data)
def test_records_are_cut_as_they_are_unpacked(data: bytes) -> None:
    found = cut(data)
    if found is not None:
        prefix, messages = found
        records, error = one_by_one(data)
        assert not error
        assert [(name + b"\n", message) for name, message, _ in records] == [
            (prefix, message) for message in messages
        ]


@given(messages=own.messages)
def test_records_are_encoded_as_one_by_one(messages: list[tuple[str, bytes]]) -> None:
    plain = b"".join([encode(channel, message) for channel, message in messages])
    if messages:
        prefixes = [encode_channel(channel) + b"\n" for channel, _ in messages]
        assert encode_all(prefixes, [message for _, message in messages]) == plain
    assert list(sizes(plain)) == [len(encode(*each)) for each in messages]


@given(channels=st.lists(own.channels), content=st.binary(max_size=5), size=st.integers(1, 60))
def test_names_are_packed_as_one_by_one(channels: list[str], content: bytes, size: int) -> None:
    names = [encode_channel(channel) for channel in channels]
    assert encode_channels(channels) == names
    plain = [pack(name, content) for name in names]
    assert pack_names(names, content) == b"".join(plain)
    chunks = list(pack_chunks(names, content, size, 3))
    assert b"".join([chunk for chunk, _ in chunks]) == b"".join(plain)
    assert all(count <= 3 and (count == 1 or len(chunk) <= size) for chunk, count in chunks)


@given(
    names=st.lists(st.sampled_from([b"a", b"bb", b"ccc"])),
    others=st.lists(st.sampled_from([b"a", b"bb", b"ccc"])),
    content=st.sampled_from([b"", b"k", b"k\n", b"\n\n"]),
    other=st.sampled_from([b"", b"k"]),
)
def test_records_alike_are_counted_as_one_by_one(
    names: list[bytes], others: list[bytes], content: bytes, other: bytes
) -> None:
    data = pack_names(names, content) + pack_names(others, other)
    wanted = [*names, b"last"]
    records, _ = one_by_one(data)
    plain = 0
    for (name, message, _), expected in zip(records, wanted, strict=False):
        if (name, message) != (expected, content):
            break
        plain += 1
    # It may leave the work to the plain way.
    assert count_alike(wanted, content, data, 0) in (plain, 0)


@given(messages=st.lists(st.binary(max_size=6), min_size=1))
def test_small_messages_are_split_as_one_by_one(messages: list[bytes]) -> None:
    data = b"".join([pack(b"channel", message) for message in messages])
    found = split(data, b"channel\n")
    assert found == messages or len(found) > len(messages)


@given(messages=own.messages.filter(bool))
def test_a_batch_has_the_messages_that_are_unpacked(messages: list[tuple[str, bytes]]) -> None:
    data = b"".join([encode(channel, message) for channel, message in messages])
    runs = find_runs(data)
    parts = [
        (name.decode(), stop, count)
        for name, stop, count in zip(runs.names, runs.stops, runs.counts, strict=True)
    ]
    assert [(each.channel, each.data) for each in Batch(data, parts).messages] == messages


@given(messages=own.messages, draw=st.data())
def test_whole_records_are_those_that_have_ended(
    messages: list[tuple[str, bytes]], draw: st.DataObject
) -> None:
    data = b"".join([encode(channel, message) for channel, message in messages])
    data += draw.draw(st.sampled_from([b"", b"\0", b"\0\0\0\x09foo"]))
    whole = WholeRecords()
    found = [whole.take(chunk) for chunk in draw.draw(own.splits(data))]
    records, _ = one_by_one(data)
    assert b"".join([each for each, _ in found]) == data[: records[-1][2] if records else 0]
    assert sum([count for _, count in found]) == len(records)
    assert whole.rest == len(data) - (records[-1][2] if records else 0)


def test_a_run_is_bounded_by_bytes() -> None:
    data = pack(b"c", bytes(50_000)) * 10
    runs = find_runs(data)
    assert len(runs.stops) > 1
    assert runs.stops[0] <= BATCH_SIZE + 50_007
