"""What is done for a message is bounded, so that it does not creep back.

The numbers are function calls for a message, as ``python -m benchmarks.count`` prints them, with
about a fifth of a call's room: one call more for each message is too many. When a number gets
smaller, make its bound so too; when it must grow, say in the commit what that buys.
"""

from __future__ import annotations

import pytest

from benchmarks.count import CASES, STEPS, measure

#: Calls for a message, with one channel and with a thousand, where each message is a run.
BOUNDS = {
    # Encoding, message by message; with a new channel each time that is looked up too.
    "publish": (3.3, 7.2),
    "publish singly": (10.2, 12.2),
    # At the hub, per set of subscribers but for the scan and the look-up of a run.
    "route": (1.3, 7.3),
    # What the session may do costs nothing per message, once it was asked.
    "route granted": (1.3, 7.3),
    # To the subscriber's protocol, per run but for the scan.
    "deliver": (0.3, 6.2),
    "take ACKs": (0.3, 0.3),
    # In the subscription, from getting messages to the user's hands.
    "read": (1.2, 2.2),
    "read many": (0.2, 1.2),
}


@pytest.mark.parametrize("index", range(len(CASES)), ids=map(str, CASES))
def test_work_per_message(index: int) -> None:
    found = measure(CASES[index])
    assert list(found) == list(STEPS) == list(BOUNDS)
    beside = {name: (calls, BOUNDS[name][index]) for name, calls in found.items()}
    too_much = {name: both for name, both in beside.items() if both[0] > both[1]}
    assert not too_much, "calls for a message, and the bound"
    # Or as much could creep back as was saved.
    too_loose = {name: both for name, both in beside.items() if both[0] < both[1] - 1}
    assert not too_loose, "calls for a message, and a bound that is too far above"
