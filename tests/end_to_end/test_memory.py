"""The measurements of memory run, and find what they should."""

from __future__ import annotations

import sys

import anyio
import pytest

from benchmarks import memory
from hyps import Limits


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells other processes' memory")
def test_the_measurements_find_something() -> None:
    scale = memory.Scale(sessions=100, channels=20_000, queue=2**20)
    [session, tls, http2] = anyio.run(memory.measure_sessions, scale)
    assert 1_000 < session.bytes < tls.bytes < 200_000
    assert session.bytes < http2.bytes < 200_000
    [channel, second] = anyio.run(memory.measure_channels, scale)
    assert 0 < second.bytes < channel.bytes
    # As the limits say of themselves.
    said = " ".join((Limits.__doc__ or "").split())
    assert "costs the hub about 200 bytes" in said
    assert channel.bytes < 300
    [kept] = anyio.run(memory.measure_kept, scale)
    assert "Each costs about 400 bytes" in said
    assert kept.bytes < 500
