"""A table of clients and their tokens, as a configuration file has it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .identity import Credentials, Grants


def digest_of(token: str) -> bytes:
    """Digest a token, so that neither the table nor the time of a look-up tells it."""
    return hashlib.sha256(token.encode()).digest()


class ClientTable:
    """Tells by its token who a client is; for ``Server(authenticate=)``.

    :param clients: for each client what it may do, and the digests of its tokens: SHA-256
    """

    def __init__(self, clients: Iterable[tuple[Grants, Iterable[bytes]]]) -> None:
        self._grants = {digest: grants for grants, digests in clients for digest in digests}

    async def __call__(self, credentials: Credentials) -> Grants | None:
        if credentials.token is None:
            return None
        return self._grants.get(digest_of(credentials.token))
