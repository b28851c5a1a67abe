"""The gate: whom the hub lets in, over whatever wire they come, and what they may do."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._errors import AuthenticationFailed
from ..protocol import ClientProtocol
from .identity import Grants, ask, review
from .strangers import Penalties

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from typing import Any

    from .._logs import Log
    from .identity import Authenticate, Credentials

_ALL: Final = ("*",)

#: What everybody may do at a hub that asks for nothing, and what the one token of a hub allows. Two
#: objects: a session that was let in without a token is not one that had it.
EVERYBODY: Final = Grants(subscribe=_ALL, publish=_ALL)
BEARER: Final = Grants(subscribe=_ALL, publish=_ALL, admin=True)


class Refused(Exception):
    """A client is not let in. The text says why, without a word about others."""


class CannotAuthenticate(Exception):
    """Nobody can tell now who the client is. It may try again."""


@dataclass(frozen=True, slots=True)
class _Rules:
    token: bytes | None
    authenticate: Authenticate | None


def _make_rules(token: str | None, authenticate: Authenticate | None) -> _Rules:
    if token == "":
        raise ValueError("an empty token would let everybody in")
    if token is not None and authenticate is not None:
        raise ValueError("token and authenticate are two ways to let clients in: give one")
    # For its errors: a token that no client could send is a mistake.
    ClientProtocol(token=token)
    return _Rules(None if token is None else token.encode(), authenticate)


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
        #: Seconds that ``authenticate`` may take.
        self.timeout: float = timeout
        self._log = log
        self._penalties = Penalties(timeout)
        self._rules = _make_rules(token, authenticate)

    def set_rules(self, token: str | None, authenticate: Authenticate | None) -> None:
        """Decide by other rules from now on.

        :raises ValueError: see :class:`Gate`
        """
        self._rules = _make_rules(token, authenticate)

    @property
    def rules(self) -> object:
        """By what it decides: another object after each change."""
        return self._rules

    @property
    def asks(self) -> bool:
        """Whether it asks anybody for anything."""
        return self._rules != _Rules(None, None)

    @property
    def is_immediate(self) -> bool:
        """Whether :meth:`admit_now` decides."""
        return self._rules.authenticate is None

    def admit_now(self, credentials: Credentials) -> Grants:
        """Decide by the hub's one token.

        :raises Refused: if the client is not let in
        """
        token = self._rules.token
        if token is None:
            return EVERYBODY
        if hmac.compare_digest((credentials.token or "").encode(), token):
            return BEARER
        raise Refused("a token is required" if credentials.token is None else "the token is wrong")

    async def admit(self, credentials: Credentials, who: Mapping[str, Any]) -> Grants:
        """Decide who a client is. Other tasks go on meanwhile.

        :param who: fields of the log that say who the client is
        :return: what it may do
        :raises Refused: if the client is not let in
        :raises CannotAuthenticate: if that cannot be decided now; the log has the reason
        """
        while True:
            rules = self._rules
            if rules.authenticate is None:
                return self.admit_now(credentials)
            answer = ask(rules.authenticate, credentials, self.timeout)
            grants = await self._ask(answer, credentials, who)
            # By the rules of now: they may have changed meanwhile.
            if rules is self._rules:
                return grants

    async def review(
        self, credentials: Credentials, grants: Grants, who: Mapping[str, Any]
    ) -> Grants:
        """Decide what a client that was let in may do by the rules of now.

        :param credentials: what it presented
        :param grants: what it was allowed
        :param who: see :meth:`admit`
        :return: what it may do
        :raises Refused: if it is no client any more
        :raises CannotAuthenticate: if that cannot be decided now; the log has the reason
        """
        while True:
            rules = self._rules
            if rules.authenticate is None:
                # A new token is a rotation: who had the old one stays.
                if rules.token is None or grants is BEARER:
                    return EVERYBODY if rules.token is None else BEARER
                raise Refused("it is not known here any more")
            answer = review(rules.authenticate, credentials, grants, self.timeout)
            grants_now = await self._ask(answer, credentials, who)
            if rules is self._rules:
                return grants_now

    async def _ask(
        self, answer: Awaitable[Grants | None], credentials: Credentials, who: Mapping[str, Any]
    ) -> Grants:
        try:
            grants = await answer
        except AuthenticationFailed as error:
            raise Refused(str(error)) from None
        except TimeoutError:
            self._log.warning("authenticating took too long", **who)
        except Exception:
            self._log.exception("authenticating failed", **who)
        else:
            if grants is None:
                raise Refused(_why_unknown(credentials))
            if grants.expires_at is not None and grants.expires_at <= time.time():
                raise Refused("the token has expired")
            return grants
        raise CannotAuthenticate("the hub cannot authenticate clients now")

    def penalize(self, host: str, now: float) -> float:
        """Return the seconds to wait before telling a client that it is refused."""
        return self._penalties.impose(host, now)


def _why_unknown(credentials: Credentials) -> str:
    if credentials.token is not None:
        return "the token is not known here"
    if credentials.certificate is not None:
        return "the name in the certificate is not known here"
    return "a token is required"
