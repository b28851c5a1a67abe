"""A table of clients, as a configuration file has it: by token, by certificate, by JWT."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from .identity import name_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .identity import Credentials, Grants
    from .jwt import JWTVerifier


def digest_of(token: str) -> bytes:
    """Digest a token, so that neither the table nor the time of a look-up tells it."""
    return hashlib.sha256(token.encode()).digest()


class ClientTable:
    """Tells who a client is; for ``Server(authenticate=)``.

    A token decides, if the client has sent one; else its certificate, by the name in it.

    :param clients: for each client what it may do, and the digests of its tokens: SHA-256
    :param jwt: verifies tokens that are no client's and look like a JWT
    :param everybody: what all others with a certificate may do, but for their name; None refuses
        them
    """

    def __init__(
        self,
        clients: Iterable[tuple[Grants, Iterable[bytes]]],
        jwt: JWTVerifier | None = None,
        everybody: Grants | None = None,
    ) -> None:
        clients = list(clients)
        self._by_digest = {digest: grants for grants, digests in clients for digest in digests}
        self._by_name = {grants.name: grants for grants, _ in clients}
        self._jwt = jwt
        self._everybody = everybody

    async def __call__(self, credentials: Credentials) -> Grants | None:
        token = credentials.token
        if token is None:
            return self._of_certificate(credentials)
        known = self._by_digest.get(digest_of(token))
        if known is None and self._jwt is not None:
            return self._jwt.verify(token)
        return known

    async def review(self, credentials: Credentials, grants: Grants) -> Grants | None:
        """Tell what a client that was let in may do now. Its token may have been replaced."""
        if credentials.token is None:
            return self._of_certificate(credentials)
        if grants.expires_at is not None:
            return None if self._jwt is None else self._jwt.verify(credentials.token)
        return self._by_name.get(grants.name) or self._by_digest.get(digest_of(credentials.token))

    def _of_certificate(self, credentials: Credentials) -> Grants | None:
        name = name_in(credentials.certificate)
        if name is None:
            return None
        if name in self._by_name or self._everybody is None:
            return self._by_name.get(name)
        return replace(self._everybody, name=name)
