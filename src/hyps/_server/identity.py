"""Who a client is, and what it may do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from ..protocol import Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a client presents when it opens a session.

    :param token: its token, if it has sent one. It is left out where this object is printed.
    :param certificate: its certificate, as :meth:`ssl.SSLSocket.getpeercert` describes it; None
        without TLS, and if the client has none
    :param address: its address, without the port; empty for a Unix socket or memory
    :param client: what it calls itself
    """

    token: str | None
    certificate: Mapping[str, Any] | None
    address: str
    client: str

    def __repr__(self) -> str:
        return (
            f"Credentials(token={'***' if self.token else self.token}, "
            f"address={self.address!r}, client={self.client!r})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What a client may do. Nothing is granted that is not named.

    A pattern is the name of a channel, or a beginning of names and ``*``: ``"user.*"``; ``"*"`` is
    every channel. There are no other wildcards.

    :param name: who it is, for the log
    :param subscribe: patterns of channels to subscribe
    :param publish: patterns of channels to publish in
    :param admin: whether it may look at sessions and channels, see ``hyps.ops``
    :param expires_at: when all of this ends, in seconds since 1970 (``time.time()``); None if it
        does not. The client is warned before, and its session ends then.
    """

    name: str = ""
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    admin: bool = False
    expires_at: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {self.name!r}")
        if self.expires_at is not None and not math.isfinite(self.expires_at):
            raise ValueError(f"expires_at must be a time, not {self.expires_at!r}")
        for what in ("subscribe", "publish"):
            patterns = getattr(self, what)
            if isinstance(patterns, str):
                raise TypeError(f"{what} must be patterns, such as [{patterns!r}]")
            try:
                patterns = tuple(patterns)
            except TypeError:
                raise TypeError(f"{what} must be patterns, not {patterns!r}") from None
            for pattern in patterns:
                if not isinstance(pattern, str):
                    raise TypeError(f"{what}: a pattern must be a str, not {pattern!r}")
                if not pattern or "*" in pattern[:-1] or "\n" in pattern:
                    raise ValueError(
                        f"{what}: {pattern!r} is no pattern: a name, or its beginning and *"
                    )
            object.__setattr__(self, what, patterns)


#: Decides who a client is. It returns what the client may do, or None to refuse it.
Authenticate: TypeAlias = Callable[[Credentials], "Grants | Awaitable[Grants | None] | None"]


class _Patterns:
    """The channels that some patterns name."""

    __slots__ = ("_names", "_starts")

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        self._names = frozenset(each for each in patterns if not each.endswith("*"))
        self._starts = tuple(each[:-1] for each in patterns if each.endswith("*"))

    def __contains__(self, channel: str) -> bool:
        return channel in self._names or channel.startswith(self._starts)

    def cover(self, patterns: Iterable[str]) -> bool:
        """Tell whether these name every channel that the others name."""
        return all(
            each[:-1].startswith(self._starts) if each.endswith("*") else each in self
            for each in patterns
        )


class GrantedAccess:
    """The access that grants allow, for the session's protocol object."""

    __slots__ = ("_patterns",)

    def __init__(self, grants: Grants) -> None:
        self._patterns: Final = {
            Verb.SUBSCRIBE: _Patterns(grants.subscribe),
            Verb.PUBLISH: _Patterns(grants.publish),
        }

    def may(self, verb: Verb, channel: str) -> bool:
        return channel in self._patterns[verb]


def may_hold_all(new: Grants, old: Grants) -> bool:
    """Tell whether new grants let a client keep whatever channels the old ones let it have."""
    return _Patterns(new.subscribe).cover(old.subscribe)


def name_in(certificate: Mapping[str, Any] | None) -> str | None:
    """Return the name that a certificate is for: its common name, or else its first DNS name.

    :param certificate: see :class:`Credentials`
    """
    if not certificate:
        return None
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    return names[0] if names else None


#: Threads in which functions run that are not async. They have a bound of their own: functions that
#: block take no thread from the application, and its own work none from them.
_threads: Final[RunVar[CapacityLimiter]] = RunVar("hyps_authenticating")
_MAX_THREADS: Final = 40


async def ask(
    authenticate: Authenticate,
    credentials: Credentials,
    timeout: float,  # noqa: ASYNC109 - the message of the error is the caller's
) -> Grants | None:
    """Ask who a client is. Other tasks go on meanwhile, whatever it does.

    :param authenticate: runs in a thread if it is not async
    :param timeout: seconds
    :raises TimeoutError: if it takes longer
    :raises TypeError: if the answer is neither grants nor None
    """
    return await _call(authenticate, timeout, credentials)


async def review(
    authenticate: Authenticate,
    credentials: Credentials,
    grants: Grants,
    timeout: float,  # noqa: ASYNC109 - as above
) -> Grants | None:
    """Ask what a client that was let in may do now, see :func:`ask`.

    An object may have a method ``review(credentials, grants)`` for that. A function is asked again.

    :param credentials: what it presented
    :param grants: what it was allowed, perhaps by other rules
    """
    method = getattr(authenticate, "review", None)
    if method is None:
        return await _call(authenticate, timeout, credentials)
    return await _call(method, timeout, credentials, grants)


async def _call(function: Callable[..., Any], seconds: float, *arguments: object) -> Grants | None:
    with anyio.fail_after(seconds):
        if _is_async(function):
            found = function(*arguments)
        else:
            try:
                limiter = _threads.get()
            except LookupError:
                limiter = CapacityLimiter(_MAX_THREADS)
                _threads.set(limiter)
            found = await to_thread.run_sync(
                function, *arguments, abandon_on_cancel=True, limiter=limiter
            )
        if inspect.isawaitable(found):
            found = await found
    if found is not None and not isinstance(found, Grants):
        raise TypeError(f"authenticate must return hyps.Grants or None, not {found!r}")
    return found


def _is_async(function: object) -> bool:
    function = getattr(function, "func", function)  # a functools.partial
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )
