"""What tests draw at random."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from hyps.protocol import encode as encode_record

channels = st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1, max_size=6)
#: Channel and message; few channels, so that neighbours are often of one.
messages = st.lists(st.tuples(st.sampled_from("ab") | channels, st.binary(max_size=12)))
#: The same as bytes.
records = messages.map(lambda drawn: b"".join([encode_record(*message) for message in drawn]))


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes, cut anywhere."""
    cuts = draw(st.sets(st.integers(1, len(data) - 1), max_size=20)) if len(data) > 1 else ()
    chunks = [data[start:stop] for start, stop in pairwise([0, *sorted(cuts), len(data)])]
    return [chunk for chunk in chunks if chunk]


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """The same bytes, but for a few that were changed, removed, added or repeated."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(changed)))
        stop = position + draw(st.integers(0, 5))
        new = draw(st.binary(max_size=5) | st.just(bytes(changed[position:])))
        changed[position:stop] = new
    return bytes(changed)
