"""Addresses of hubs, and the URLs that spell them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .._errors import InvalidURL

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Where a hub listens if nobody says otherwise.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8787

#: Shown for what may be a secret.
_HIDDEN: Final = "***"
_SCHEME: Final = re.compile("[a-z][a-z0-9+.-]*", re.IGNORECASE)

_TCP_SCHEMES: Final = ("hyps", "hypss", "http", "https")


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A port of a host, which may be a name, and what is spoken there."""

    host: str
    port: int
    scheme: str = "hyps"

    @property
    def tls(self) -> bool:
        return self.scheme in ("hypss", "https", "rediss")

    @property
    def is_http(self) -> bool:
        return self.scheme in ("http", "https")

    @property
    def authority(self) -> str:
        host = f"[{_encode_zone(self.host)}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket, and what is spoken there."""

    path: str
    scheme: str = "hyps+unix"

    def __str__(self) -> str:
        return f"{self.scheme}://{quote(self.path)}"


@dataclass(frozen=True, slots=True)
class MemoryAddress:
    """A hub within this event loop."""

    name: str

    def __str__(self) -> str:
        return f"memory://{self.name}"


Address = TCPAddress | UnixAddress | MemoryAddress


def parse_url(url: str) -> tuple[Address, ...]:
    """Read a URL. Those of TCP may name several hosts, separated by commas.

    :return: the address of each host, in order; at least one
    :raises InvalidURL: if Hyps cannot connect to it
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    if url != "".join(url.split()):
        raise _bad_url(url, "it has blanks in it")
    scheme, _, rest = url.partition("://")
    if scheme.lower() in _TCP_SCHEMES:
        return tuple([_parse_tcp(url, scheme.lower(), host) for host in rest.split(",")])
    parts = _split(url, url)
    match parts.scheme:
        case "hyps+unix":
            if parts.netloc or not parts.path.startswith("/"):
                raise _bad_url(url, "expected hyps+unix:///path")
            return (UnixAddress(unquote(parts.path)),)
        case "memory":
            return (MemoryAddress(_memory_name(url, parts)),)
    if not url:
        raise InvalidURL("the URL is empty")
    if not url.partition("://")[1]:
        scheme = "hyps+unix" if url.startswith("/") else "hyps"
        raise _bad_url(url, f"no scheme, perhaps {scheme}://{redacted(url)} is meant?")
    raise _bad_url(url, "the scheme is none of hyps, hypss, hyps+unix, memory, http, https")


def parse_host_and_port(text: str) -> TCPAddress:
    """Read where to listen for HTTP: ``host:port``, or ``:port`` for this machine alone.

    :raises InvalidURL: if it is something else
    """
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and int(port[:6]) <= 65_535):
        raise InvalidURL(f"bad address {text!r}: expected host:port or :port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or "/" in host:
        raise InvalidURL(f"bad address {text!r}: an IPv6 address stands in brackets, and no path")
    return TCPAddress(host or DEFAULT_HOST, int(port[:6]), "http")


def _split(url: str, part: str) -> SplitResult:
    parts: SplitResult | None = None
    # What it raises quotes a part of the URL, which may be a secret: it is not kept as a context.
    with suppress(ValueError):
        parts = urlsplit(part)
        parts.port  # noqa: B018 - for what it raises
        if not (parts.query or parts.fragment or parts.username is not None):
            return parts
    if parts is not None and "@" in part:
        raise _bad_url(url, "it has a user or a password; the token is an argument of its own")
    if parts is not None and (parts.query or parts.fragment):
        raise _bad_url(url, "it may have a host, a port or a path, and no more")
    raise _bad_url(url, "its host is not valid, or its port is not a number from 0 to 65535")


def _bad_url(url: str, why: str) -> InvalidURL:
    return InvalidURL(f"bad URL {redacted(url)!r}: {why}")


def redacted(url: str) -> str:
    """Leave out of a URL that is wrong what may be a secret.

    That is user and password, up to the last @; the query and the fragment; and a port that is not
    a number, because a password stands there if the host was forgotten.
    """
    scheme, separator, rest = url.rpartition("://")
    if not _SCHEME.fullmatch(scheme):
        scheme, rest = "", url.removeprefix(separator)
    rest, *more = re.split("[?#]", rest, maxsplit=1)
    if "@" in url:
        # Which of these the rest belongs to cannot be told.
        rest = _HIDDEN if more else f"{_HIDDEN}@{rest.rpartition('@')[2]}"
    elif more:
        rest += f"?{_HIDDEN}"
    rest = re.sub(r":(?![0-9]{0,5}(?:[,/?@]|$))[^,/\]]*(?=[,/]|$)", f":{_HIDDEN}", rest)
    return f"{scheme}://{rest}" if scheme else rest


def _parse_tcp(url: str, scheme: str, host: str) -> TCPAddress:
    parts = _split(url, f"{scheme}://{host}")
    if not parts.hostname or parts.path.strip("/"):
        raise _bad_url(url, f"expected {scheme}://host:port")
    port = DEFAULT_PORT if parts.port is None else parts.port
    return TCPAddress(decode_zone(parts.hostname), port, scheme)


def decode_zone(host: str) -> str:
    """Read the zone of an IPv6 address, whose % is spelled %25 in a URL (RFC 6874)."""
    address, _, zone = host.partition("%")
    if ":" in address and zone.startswith("25") and len(zone) > 2:
        return f"{address}%{unquote(zone[2:])}"
    return host


def _encode_zone(host: str) -> str:
    address, percent, zone = host.partition("%")
    return f"{address}%25{quote(zone, safe='')}" if percent else host


def name_of(addresses: Iterable[Address]) -> str:
    """Spell addresses as one URL, as :func:`parse_url` takes it."""
    first, *others = map(str, addresses)
    return ",".join([first, *(other.partition("://")[2] for other in others)])


def _memory_name(url: str, parts: SplitResult) -> str:
    if not parts.netloc or parts.path.strip("/"):
        raise _bad_url(url, "expected memory://name")
    return parts.netloc
