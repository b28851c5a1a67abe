"""Partitions, keys and channels of a fleet, and what the engine carries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.strategies import channels as channel_names

from hyps.protocol import RemoteProtocolError, encode
from hyps.protocol._fleet.envelope import Envelope, parse_envelope
from hyps.protocol._fleet.names import CLUSTER_PARTITIONS, Names


def test_everything_of_a_partition_has_one_hash_tag() -> None:
    names = Names("fleet", 3, CLUSTER_PARTITIONS)
    partition = names.partition_of(b"news")
    tag = b"{%d}" % partition
    assert names.partition_key(partition) == b"fleet:" + tag
    assert names.channel_key(partition, b"news") == b"fleet:" + tag + b":c:news"
    assert names.engine_channel(partition, b"news") == b"fleet:" + tag + b":3:m:news"


def test_a_single_node_has_one_partition() -> None:
    names = Names()
    assert {names.partition_of(b"%d" % number) for number in range(1_000)} == {0}


@pytest.mark.parametrize("prefix", ["", "a{b", "a}b", "a b", "a\nb"])
def test_a_prefix_that_cannot_be(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Names(prefix)


@given(channel_names, st.sampled_from([1, CLUSTER_PARTITIONS]))
def test_a_channel_s_name_is_found_again(channel: str, partitions: int) -> None:
    names = Names("hyps", 0, partitions)
    name = channel.encode()
    partition = names.partition_of(name)
    assert names.name_in(names.engine_channel(partition, name)) == (partition, name)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"hyps",
        b"hyps:{0}",
        b"hyps:{1}:0:m:news",
        b"hyps:{0}:1:m:news",
        b"other:{0}:0:m:news",
        b"hyps:{x}:0:m:news",
    ],
)
def test_channels_of_others(other: bytes) -> None:
    assert Names().name_in(other) is None


def test_an_envelope() -> None:
    records = encode("news", b"1") + encode("news", b"2")
    data = b"e1.4:7 2 hub1\n" + records
    assert parse_envelope(b"news", data) == Envelope(b"e1.4", 7, 2, b"hub1", records)


RUN = encode("news", b"1")


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\n" + RUN,
        b"e1.4:7 1\n" + RUN,
        b"e1.4:7 1 hub more\n" + RUN,
        b"e1.4 1 hub\n" + RUN,
        b"e1.4:x 1 hub\n" + RUN,
        b"e1.4:7 0 hub\n" + RUN,
        b"e1.4:7 -1 hub\n" + RUN,
        b"e1.4:7 8 hub\n" + RUN,
        b"e1.4:7 2 hub\n" + RUN,
        b"e1.4:7 1 hub\n" + RUN + RUN,
        b"e1.4:7 1 hub\n",
        b"e1.4:7 1 hub\n" + RUN[:-1],
        b"e1.4:7 1 hub\n" + encode("other", b"1"),
        b"e1.4:7 2 hub\n" + RUN + encode("other", b"1"),
        b"e" * 1_000 + b":7 1 hub\n" + RUN,
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_envelope(b"news", data)


@given(st.binary(max_size=100))
def test_whatever_somebody_publishes_there(data: bytes) -> None:
    try:
        found = parse_envelope(b"news", data)
    except RemoteProtocolError:
        return
    assert found.number <= found.count
