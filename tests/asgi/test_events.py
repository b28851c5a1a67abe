"""Server-sent events: what stands in the stream."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyps.asgi import Event


def parse(stream: bytes) -> list[dict[str, str]]:
    """Read a stream as the HTML standard says (9.2.6, interpreting an event stream)."""
    text = stream.decode().replace("\r\n", "\n").replace("\r", "\n")
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line:
            if "data" in fields:
                fields["data"] = fields["data"].removesuffix("\n")
                found.append(fields)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                value = fields.get("data", "") + value + "\n"
            fields[name] = value
    return found


names = st.one_of(st.none(), st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8")))


@given(data=st.text(st.characters(codec="utf-8")), event=names, id=names)
def test_what_is_written_is_what_a_browser_reads(
    data: str,
    event: str | None,
    id: str | None,  # noqa: A002
) -> None:
    expected = {"data": data.replace("\r\n", "\n").replace("\r", "\n")}
    if event is not None:
        expected["event"] = event
    if id is not None:
        expected["id"] = id
    assert parse(bytes(Event(data, event, id))) == [expected]


@pytest.mark.parametrize("field", ["event", "id"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\0"])
def test_names_and_ids_are_one_line(field: str, value: str) -> None:
    fields: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=field):
        Event("", **fields)
