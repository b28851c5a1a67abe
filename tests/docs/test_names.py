"""The public names."""

from __future__ import annotations

import anyio
import pytest

import hyps

NAMES = {
    "AuthenticationFailed",
    "CannotListen",
    "Client",
    "ClientStats",
    "Connected",
    "ConnectionEvent",
    "ConnectionLost",
    "ConnectionRefused",
    "Credentials",
    "Disconnected",
    "Gap",
    "Grants",
    "HypsError",
    "InvalidChannel",
    "InvalidURL",
    "Limits",
    "Message",
    "MessageTooLarge",
    "PermissionDenied",
    "ProtocolError",
    "Reconnected",
    "Server",
    "Subscription",
    "SubscriptionClosed",
    "SubscriptionOverflow",
    "Unavailable",
    "WouldBlock",
    "__version__",
    "connect",
    "serve",
}

ERRORS = sorted(
    NAMES
    - {
        "Client",
        "ClientStats",
        "Connected",
        "ConnectionEvent",
        "Credentials",
        "Disconnected",
        "Gap",
        "Grants",
        "Limits",
        "Message",
        "Reconnected",
        "Server",
        "Subscription",
        "__version__",
        "connect",
        "serve",
    }
)


def test_the_list_is_exact() -> None:
    assert len(hyps.__all__) == len(set(hyps.__all__))
    assert set(hyps.__all__) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_is_there(name: str) -> None:
    found = getattr(hyps, name)
    assert found is getattr(hyps, name)
    assert name in dir(hyps)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        hyps.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ERRORS)
def test_errors_have_one_root(name: str) -> None:
    assert issubclass(getattr(hyps, name), hyps.HypsError)


def test_an_error_is_also_what_others_know_it_as() -> None:
    assert issubclass(hyps.WouldBlock, anyio.WouldBlock)
    assert issubclass(hyps.AuthenticationFailed, hyps.ConnectionRefused)
    for error in (hyps.InvalidChannel, hyps.InvalidURL, hyps.MessageTooLarge):
        assert issubclass(error, ValueError)
