"""The gate: whom the hub lets in, over whatever wire they come, and what they may do."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from ..protocol import ClientProtocol
from .identity import Grants, ask
from .strangers import Penalties

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .._logs import Log
    from .identity import Authenticate, Credentials

_ALL: Final = ("*",)

#: What everybody may do at a hub that asks for nothing, and what the one token of a hub allows. Two
#: objects: a session that was let in without a token is not one that had it.
EVERYBODY: Final = Grants(subscribe=_ALL, publish=_ALL)
BEARER: Final = Grants(subscribe=_ALL, publish=_ALL, admin=True)


class CannotAuthenticate(Exception):
    """Nobody can tell now who the client is. It may try again."""


class Gate:
    """Decides who a client is, and what it may do.

    :param token: the token that clients must present; None lets everybody in
    :param authenticate: decides instead who the client is
    :param timeout: seconds that ``authenticate`` may take, and the longest penalty
    :param log: the hub's
    :raises ValueError: if the token is empty or cannot be sent, or there is a function beside it
    """

    def __init__(
        self,
        token: str | None,
        authenticate: Authenticate | None,
        timeout: float,
        log: Log,
    ) -> None:
        self._timeout = timeout
        self._log = log
        self._penalties = Penalties(timeout)
        self._token: bytes | None
        self._authenticate: Authenticate | None
        self.set_rules(token, authenticate)

    def set_rules(self, token: str | None, authenticate: Authenticate | None) -> None:
        """Decide by other rules from now on."""
        if token == "":
            raise ValueError("an empty token would let everybody in")
        if token is not None and authenticate is not None:
            raise ValueError("token and authenticate are two ways to let clients in: give one")
        # For its errors: a token that no client could send is a mistake.
        ClientProtocol(token=token)
        self._token = None if token is None else token.encode()
        self._authenticate = authenticate

    @property
    def asks(self) -> bool:
        """Whether it asks anybody for anything."""
        return self._token is not None or self._authenticate is not None

    @property
    def is_immediate(self) -> bool:
        """Whether :meth:`admit_now` decides."""
        return self._authenticate is None

    def admit_now(self, credentials: Credentials) -> Grants | None:
        """Decide by the hub's one token, see :meth:`admit`."""
        if self._token is None:
            return EVERYBODY
        is_right = hmac.compare_digest((credentials.token or "").encode(), self._token)
        return BEARER if is_right else None

    async def admit(self, credentials: Credentials, who: Mapping[str, Any]) -> Grants | None:
        """Decide who a client is. Other tasks go on meanwhile.

        :param who: fields of the log that say who the client is
        :return: what it may do; None if it is refused
        :raises CannotAuthenticate: if that cannot be decided now; the log has the reason
        """
        if self._authenticate is None:
            return self.admit_now(credentials)
        try:
            return await ask(self._authenticate, credentials, self._timeout)
        except TimeoutError:
            self._log.warning("authenticating took too long", **who)
        except Exception:
            self._log.exception("authenticating failed", **who)
        raise CannotAuthenticate("the hub cannot authenticate clients now")

    def why_refused(self, credentials: Credentials) -> str:
        """Say why a client was refused, without a word about others."""
        if self._authenticate is not None:
            return "it is not known here"
        return "a token is required" if credentials.token is None else "the token is wrong"

    def penalize(self, host: str, now: float) -> float:
        """Return the seconds to wait before telling a client that it is refused."""
        return self._penalties.impose(host, now)
