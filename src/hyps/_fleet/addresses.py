"""URLs of engines, and the addresses of their nodes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from .._errors import InvalidURL
from .._net.addresses import TCPAddress, UnixAddress, decode_zone, redacted

#: Where engines and Sentinels listen if nobody says otherwise.
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26_379

#: The engine's default user, which a password without a user is for.
_DEFAULT_USER: Final = "default"

#: One node of an engine, or one Sentinel.
Node: TypeAlias = TCPAddress | UnixAddress


class Kind(Enum):
    """How the nodes of an engine are found."""

    SINGLE = ""
    SENTINEL = "+sentinel"
    CLUSTER = "+cluster"


_SCHEMES: Final = {
    f"{scheme}{kind.value}": (scheme, kind) for scheme in ("redis", "rediss") for kind in Kind
}


@dataclass(frozen=True, slots=True)
class EngineURL:
    """What a URL says of an engine. Its text has no password.

    :param kind: how its nodes are found
    :param hosts: the node; or all Sentinels, or some nodes of a Cluster, which know the others
    :param user: who logs in; None if nobody does
    :param password: the password; it is in no text
    :param password_file: where the password is, instead; it is read at each login
    :param db: the number of the database
    :param name: what the Sentinels call it
    """

    kind: Kind
    hosts: tuple[Node, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    db: int = 0
    name: str = ""

    @property
    def tls(self) -> bool:
        """Whether everything is encrypted."""
        return self.hosts[0].scheme == "rediss"

    def read_credentials(self) -> tuple[str, str] | None:
        """Return user and password, which change while a hub runs if they are in a file.

        :raises OSError: if the file cannot be read
        """
        if self.password_file is not None:
            return self.user or _DEFAULT_USER, self.password_file.read_text("utf-8").strip("\r\n")
        if self.password is not None:
            return self.user or _DEFAULT_USER, self.password
        return None

    def __str__(self) -> str:
        user = "" if self.user is None else f"{quote(self.user, safe='')}@"
        first = self.hosts[0]
        if isinstance(first, UnixAddress):
            return f"{first.scheme}://{user}{quote(first.path)}" + (
                f"?db={self.db}" * (self.db > 0)
            )
        hosts = ",".join(host.authority for host in self.hosts if isinstance(host, TCPAddress))
        path = [quote(self.name, safe="")] if self.name else []
        path += [str(self.db)] if self.db else []
        return "/".join([f"{first.scheme}{self.kind.value}://{user}{hosts}", *path])


def parse_engine(url: str) -> EngineURL:
    """Read the URL of an engine.

    - ``redis://[user[:password]@]host[:port][/db]``, and ``rediss://`` for TLS
    - ``redis+unix://[user[:password]@]/path[?db=0]``
    - ``redis+sentinel://[user[:password]@]host[:port],host[:port]/name[/db]``: of Sentinels
    - ``redis+cluster://[user[:password]@]host[:port],host[:port]``: of some nodes

    ``?password_file=PATH`` says where the password is. ``rediss+sentinel`` and ``rediss+cluster``
    are with TLS. A letter with a meaning in URLs is spelled as ``%40``.

    :raises InvalidURL: if it is no such URL; the text has no secrets
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    if url != "".join(url.split()):
        raise _bad_url(url, "it has blanks in it")
    full_scheme, separator, rest = url.partition("://")
    full_scheme = full_scheme.lower()
    if not separator or not (full_scheme in _SCHEMES or full_scheme == "redis+unix"):
        raise _bad_url(
            url, "the scheme is none of redis, rediss, redis+sentinel, redis+cluster, redis+unix"
        )
    if "#" in rest:
        raise _bad_url(url, "it has a #, which is spelled %23 in a password")
    rest, _, query = rest.partition("?")
    options = _parse_query(url, query)
    authority, slash, path = rest.partition("/")
    if "@" in path:
        raise _bad_url(url, "a / in a password is spelled %2F, and an @ in a path %40")
    login, _, hosts = authority.rpartition("@")
    secrets = _parse_login(url, login, options)
    if full_scheme == "redis+unix":
        if hosts or not path:
            raise _bad_url(url, "expected redis+unix:///path")
        db = _parse_db(url, options.pop("db", "0"))
        _expect_no_more(url, options)
        node = UnixAddress(unquote(slash + path), full_scheme)
        return EngineURL(Kind.SINGLE, (node,), *secrets, db)
    _expect_no_more(url, options)
    scheme, kind = _SCHEMES[full_scheme]
    port = _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT
    nodes = tuple([_parse_host(url, scheme, host, port) for host in hosts.split(",")])
    if kind is Kind.SINGLE and len(nodes) > 1:
        raise _bad_url(url, f"several hosts are {scheme}+sentinel:// or {scheme}+cluster://")
    parts = path.rstrip("/").split("/") if path else []
    name = ""
    if kind is Kind.SENTINEL:
        if not parts or not parts[0]:
            raise _bad_url(url, f"expected {full_scheme}://host:port/name")
        name = unquote(parts.pop(0))
    db = _parse_db(url, "/".join(parts) or "0")
    if kind is Kind.CLUSTER and db:
        raise _bad_url(url, "a Cluster has one database, number 0")
    return EngineURL(kind, nodes, *secrets, db, name)


def _bad_url(url: str, why: str) -> InvalidURL:
    return InvalidURL(f"bad URL {redacted(url)!r}: {why}")


def _parse_query(url: str, query: str) -> dict[str, str]:
    pairs: list[tuple[str, str]] | None = None
    # What it raises quotes the query, which may be a part of a password.
    with suppress(ValueError):
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    if pairs is None or len(dict(pairs)) < len(pairs):
        raise _bad_url(url, "behind ? expected name=value, each once")
    return dict(pairs)


def _parse_login(
    url: str, login: str, options: dict[str, str]
) -> tuple[str | None, str | None, Path | None]:
    """Read user, password and the password's file, which is taken out of the options."""
    user, colon, password = login.partition(":")
    password_file = options.pop("password_file", None)
    if password_file == "":
        raise _bad_url(url, "password_file is empty")
    if colon and password_file:
        raise _bad_url(url, "it has a password and a password_file")
    if login and not (colon or password_file):
        raise _bad_url(url, "expected user:password@, or :password@")
    return (
        unquote(user) or None,
        unquote(password) if colon else None,
        Path(password_file) if password_file else None,
    )


def _expect_no_more(url: str, options: dict[str, str]) -> None:
    if options:
        # Their names may be a part of a password.
        raise _bad_url(url, "behind ? expected password_file=, or db= for redis+unix")


def _parse_db(url: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise _bad_url(url, "the database is no number")
    return int(text)


def _parse_host(url: str, scheme: str, host: str, port: int) -> TCPAddress:
    # What it raises quotes a part of the URL, see above.
    with suppress(ValueError):
        parts = urlsplit(f"{scheme}://{host}")
        if parts.hostname and parts.port != 0:
            return TCPAddress(decode_zone(parts.hostname), parts.port or port, scheme)
    raise _bad_url(url, "a host is not valid, or its port is not a number from 1 to 65535")
