"""From an address to a byte stream or a listener: TCP, TLS, Unix sockets, memory."""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

import anyio

from ._errors import CannotListen, ConnectionRefused, InvalidURL
from ._memory import dial_memory
from ._sockets import Transport, duplicated
from ._tls import wrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from anyio.abc import ByteStream, SocketListener, SocketStream

    from .protocol import Limits
    from .protocol.wire import Wire

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
        return self.scheme in ("hypss", "https")

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
    """A Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"hyps+unix://{quote(self.path)}"


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
        raise _bad_url(url, f"no scheme, perhaps hyps://{_redacted(url)} is meant?")
    raise _bad_url(url, "the scheme is none of hyps, hypss, hyps+unix, memory, http, https")


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
    raise _bad_url(url, "its host is none, or its port is no number from 0 to 65535")


def _bad_url(url: str, why: str) -> InvalidURL:
    return InvalidURL(f"bad URL {_redacted(url)!r}: {why}")


def _redacted(url: str) -> str:
    """Leave out of a URL that is wrong what may be a secret.

    That is who it is for, up to the last @; what follows a ? or #; and what stands for a port
    and is none, as passwords do where the host was forgotten.
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
    return TCPAddress(_decode_zone(parts.hostname), port, scheme)


def _decode_zone(host: str) -> str:
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


def make_wire(address: Address, limits: Limits) -> Wire | None:
    """Make what a client speaks there; None is the native wire.

    :raises InvalidURL: if what it needs is not installed
    """
    if not isinstance(address, TCPAddress) or not address.is_http:
        return None
    try:
        from .protocol.http2 import ClientWire
    except ImportError:
        raise InvalidURL(f"{address}: HTTP/2 needs: pip install 'hyps[http2]'") from None
    # Where an address is within this machine is nothing for others (RFC 6874).
    public = replace(address, host=address.host.partition("%")[0])
    return ClientWire(public.authority, scheme=address.scheme, limits=limits)


@asynccontextmanager
async def dial(
    address: Address,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> AsyncIterator[Transport]:
    """Connect. How long that may take is for the caller to say.

    :param ssl_context: for TLS; None trusts whom the system trusts
    :param server_hostname: for TLS; the name that the certificate is for, if it is not the host's
    :raises ConnectionRefused: if there is nobody
    """
    # The pump closes the stream: it knows when a goodbye has had its time.
    if isinstance(address, MemoryAddress):
        async with dial_memory(address.name) as memory_stream, _closing_failures(memory_stream):
            yield Transport(memory_stream)
        return
    with duplicated(await _connect(address)) as transport:
        if isinstance(address, TCPAddress) and address.tls:
            name = server_hostname or address.host
            transport = await _begin_tls(address, transport, ssl_context, name)
        async with _closing_failures(transport.stream):
            yield transport


@asynccontextmanager
async def _closing_failures(stream: ByteStream) -> AsyncIterator[None]:
    """Close a stream if there may be no pump that does."""
    try:
        yield
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


async def _connect(address: TCPAddress | UnixAddress) -> SocketStream:
    try:
        if isinstance(address, UnixAddress):
            return await anyio.connect_unix(address.path)
        return await anyio.connect_tcp(address.host, address.port)
    except UnicodeError as error:
        raise ConnectionRefused(f"no hub at {address}: that is no name of a host") from error
    except OSError as error:
        raise ConnectionRefused(f"no hub at {address}: {_reason(error)}") from error


async def _begin_tls(
    address: TCPAddress, transport: Transport, ssl_context: ssl.SSLContext | None, name: str
) -> Transport:
    if ssl_context is None:
        ssl_context = ssl.create_default_context()
        if address.is_http:
            ssl_context.set_alpn_protocols(["h2"])
    try:
        try:
            stream = await wrap(transport.stream, ssl_context, server_hostname=name)
        except BaseException:
            await anyio.aclose_forcefully(transport.stream)
            raise
    except OSError as error:
        raise ConnectionRefused(f"no hub at {address}: {_reason(error)}") from error
    except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise ConnectionRefused(f"no hub at {address}: the TLS handshake failed") from error
    return Transport(stream, beneath=transport.socket)


async def listen(
    address: TCPAddress | UnixAddress, mode: int | None = None
) -> Sequence[SocketListener]:
    """Listen.

    :param mode: permissions of a Unix socket; None leaves it to the umask
    :raises CannotListen: if the address is in use or is not this machine's
    """
    try:
        if isinstance(address, UnixAddress):
            await _remove_stale_socket(address.path)
            # It gets its mode before it listens: nobody can have connected.
            return [await anyio.create_unix_listener(address.path, mode=mode)]
        multi = await anyio.create_tcp_listener(local_host=address.host, local_port=address.port)
        # Typed as listeners of anything by AnyIO.
        return cast("Sequence[SocketListener]", multi.listeners)
    except UnicodeError as error:
        raise CannotListen(f"cannot listen at {address}: that is no name of a host") from error
    except OSError as error:
        raise CannotListen(f"cannot listen at {address}: {_reason(error)}") from error


async def _remove_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens at; AnyIO would remove any."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise CannotListen(f"cannot listen at {path}: the file exists and is no socket")
        stream = await anyio.connect_unix(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    await stream.aclose()
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _reason(error: OSError) -> str:
    # AnyIO tries all addresses of a name, and hides what happened at each in the cause.
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError):
        error = cause
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', None) or error.reason or error}"
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return (text or str(error)).lower()
