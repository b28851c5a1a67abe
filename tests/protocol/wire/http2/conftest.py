import pytest
from protocol.wire.http2.peer import Others, Peer


@pytest.fixture
def victim() -> Peer:
    """One who will do wrong."""
    peer = Peer()
    peer.subscribe("c")
    peer.read_all()
    return peer


@pytest.fixture
def others(victim: Peer) -> Others:
    """Clients of the same hub."""
    return Others(victim.broker)
