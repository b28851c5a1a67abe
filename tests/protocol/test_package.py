"""The package as it is imported, and values that need no connection."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

import hyps.protocol
from hyps.protocol import (
    NEED_DATA,
    Acked,
    Broker,
    ErrorCode,
    HypsError,
    InvalidChannel,
    Limits,
    MalformedRecord,
    MessageTooLarge,
    NeedData,
    PermissionDenied,
    ProtocolError,
    Refusal,
    RemoteProtocolError,
    Unavailable,
)
from hyps.protocol.limits import MAX_FRAME_CEILING


def test_core_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, hyps.protocol; names = {name.partition('.')[0] for name in sys.modules};"
        "print(*sorted(names & {'anyio', 'click', 'h2', 'trio', 'uvloop', 'asyncio'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "\n"


def test_all_names_exactly_what_is_there() -> None:
    # Submodules become attributes when they are imported; `records` is also a function.
    public = {
        name
        for name, value in vars(hyps.protocol).items()
        if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert set(hyps.protocol.__all__) == public
    assert len(hyps.protocol.__all__) == len(public)


def test_need_data_is_a_member_that_type_checkers_know() -> None:
    assert NEED_DATA is NeedData.NEED_DATA


def test_events_are_frozen() -> None:
    event = Acked(range(1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.operations = range(2)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (b"d", PermissionDenied),
        (b"s", MessageTooLarge),
        (b"n", InvalidChannel),
        (b"u", Unavailable),
        (b"?", HypsError),
        (b"\xff", HypsError),
    ],
)
def test_refusal_says_the_same_as_an_exception(code: bytes, error: type[HypsError]) -> None:
    assert type(Refusal(0, code).error()) is error


def test_violation_has_the_code_that_the_peer_is_told() -> None:
    assert RemoteProtocolError("x").code == ErrorCode.PROTOCOL
    assert RemoteProtocolError("x", ErrorCode.LIMIT).code == "limit"
    assert issubclass(MalformedRecord, RemoteProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert issubclass(ProtocolError, HypsError)


def test_final_codes() -> None:
    assert {"auth", "version"} == ErrorCode.FINAL


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
class TestLimits:
    @pytest.mark.parametrize("value", [0, -1])
    def test_must_be_positive(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match=field):
            Limits(**{field: value})

    @pytest.mark.parametrize("value", [True, "1", None])
    def test_must_be_a_number(self, field: str, value: Any) -> None:
        with pytest.raises(TypeError, match=field):
            Limits(**{field: value})

    def test_each_bound_may_be_one(self, field: str) -> None:
        changes: Any = {field: 1}
        assert getattr(Limits(**changes), field) == 1


def test_limit_in_whole_units_is_an_int() -> None:
    with pytest.raises(TypeError, match="max_message"):
        Limits(max_message=1.0)  # type: ignore[arg-type]


def test_limit_in_seconds_must_not_be_nan() -> None:
    assert Limits(hello_timeout=0.5).hello_timeout == 0.5
    with pytest.raises(ValueError, match="hello_timeout"):
        Limits(hello_timeout=float("nan"))


def test_heartbeat_has_a_ceiling() -> None:
    assert Limits(heartbeat=3600).heartbeat == 3600
    with pytest.raises(ValueError, match="heartbeat"):
        Limits(heartbeat=3601)


def test_frame_has_a_ceiling() -> None:
    room = MAX_FRAME_CEILING - Limits(max_message=1).max_frame
    assert Limits(max_message=1 + room).max_frame == MAX_FRAME_CEILING
    with pytest.raises(ValueError, match="max_message"):
        Limits(max_message=2 + room)


def test_frame_holds_more_than_the_largest_record() -> None:
    limits = Limits(max_message=10, max_channel=20)
    assert limits.max_frame > 1 + 4 + 20 + 1 + 10 + 1


@pytest.mark.parametrize("boot_id", ["!", "~", "0123456789abcdef"])
def test_boot_id(boot_id: str) -> None:
    assert Broker(boot_id).channels == 0


@pytest.mark.parametrize("boot_id", ["", "0123456789abcdef0", "a:b", "a b", "é", "\x7f", "a\n"])
def test_what_is_no_boot_id(boot_id: str) -> None:
    with pytest.raises(ValueError, match="boot id"):
        Broker(boot_id)
