"""From an address to a byte stream: TCP, TLS, Unix sockets, memory."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from .._errors import ConnectionRefused, InvalidURL
from .addresses import MemoryAddress, TCPAddress, UnixAddress
from .sockets import Transport, duplicated, reason_of
from .tls import wrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteStream, SocketStream

    from ..protocol import Limits
    from ..protocol._wire.base import Wire
    from .addresses import Address

    #: Connects to a hub in this process by its name.
    DialMemory = Callable[[str], AbstractAsyncContextManager[ByteStream]]


def make_wire(address: Address, limits: Limits) -> Wire | None:
    """Make what a client speaks there; None is the native wire.

    :raises InvalidURL: if what it needs is not installed
    """
    if not isinstance(address, TCPAddress) or not address.is_http:
        return None
    try:
        from ..protocol._wire.http2 import ClientWire
    except ImportError:
        raise InvalidURL(f"{address}: HTTP/2 needs: pip install 'hyps[http2]'") from None
    # Where an address is within this machine is nothing for others (RFC 6874).
    public = replace(address, host=address.host.partition("%")[0])
    return ClientWire(public.authority, scheme=address.scheme, limits=limits)


@asynccontextmanager
async def dial(
    address: Address,
    dial_memory: DialMemory,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> AsyncIterator[Transport]:
    """Connect. How long that may take is for the caller to say.

    :param dial_memory: for hubs in memory
    :param ssl_context: for TLS; None trusts whom the system trusts
    :param server_hostname: for TLS; the name that the certificate is for, if it is not the host's
    :raises ConnectionRefused: if there is nobody
    """
    # The pump closes the stream: it knows when a goodbye has had its time.
    if isinstance(address, MemoryAddress):
        async with dial_memory(address.name) as memory_stream, _closing_failures(memory_stream):
            yield Transport(memory_stream)
        return
    async with dial_socket(address, ssl_context, server_hostname) as transport:
        yield transport


@asynccontextmanager
async def dial_socket(
    address: TCPAddress | UnixAddress,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    *,
    peer: str = "hub",
) -> AsyncIterator[Transport]:
    """Connect as :func:`dial` does; the caller closes the stream.

    :param peer: what should be there, for the text of errors
    """
    with duplicated(await _connect(address, peer)) as transport:
        if isinstance(address, TCPAddress) and address.tls:
            name = server_hostname or address.host
            transport = await _begin_tls(address, transport, ssl_context, name, peer)
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


async def _connect(address: TCPAddress | UnixAddress, peer: str) -> SocketStream:
    try:
        if isinstance(address, UnixAddress):
            return await anyio.connect_unix(address.path)
        return await anyio.connect_tcp(address.host, address.port)
    except UnicodeError as error:
        raise ConnectionRefused(f"no {peer} at {address}: that is no name of a host") from error
    except OSError as error:
        raise ConnectionRefused(f"no {peer} at {address}: {reason_of(error)}") from error


async def _begin_tls(
    address: TCPAddress,
    transport: Transport,
    ssl_context: ssl.SSLContext | None,
    name: str,
    peer: str,
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
        why = reason_of(error)
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            why += "; perhaps there is no TLS there"
        raise ConnectionRefused(f"no {peer} at {address}: {why}") from error
    except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise ConnectionRefused(f"no {peer} at {address}: the TLS handshake failed") from error
    return Transport(stream, beneath=transport.socket)
