"""TLS over a byte stream, in which receiving never sends.

TLS has messages of its own: a peer that changes its keys may ask this end to change its own
(KeyUpdate). AnyIO's TLS stream answers while it receives, when another task may be sending. And a
receiver that waits until its peer reads can wait for ever, if the peer does the same. So here the
sender sends such answers, and ``on_pending`` tells it that there is one.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: More than one TLS record, which has at most 16 KiB and some overhead (RFC 8446, 5.2).
_READ_SIZE: Final = 65_536

#: The bound of TLS's own messages to a peer that does not read, in bytes. A KeyUpdate has about 30.
_MAX_PENDING: Final = 65_536


class NotBegun(anyio.EndOfStream):
    """The client has left before the first byte of a handshake, as probes of ports do."""


class TLSStream(ByteStream):
    """A byte stream over another one. One task may send, and one receive.

    It has no half-close and no closing handshake: the protocol's own goodbye is more precise.
    """

    def __init__(
        self,
        stream: ByteStream,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self._stream = stream
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._has_received = False
        #: Called when TLS itself has something to send.
        self.on_pending: Callable[[], None] = lambda: None

    @property
    def has_pending(self) -> bool:
        """Whether TLS itself has something to send; calling :meth:`send` with ``b""`` sends it."""
        return bool(self._outgoing.pending)

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLEOFError:
                raise anyio.EndOfStream from None
            except ssl.SSLError:
                # Send the alert that tells the peer why.
                with suppress(anyio.BrokenResourceError, OSError):
                    await self._flush()
                raise
            else:
                await self._flush()
                return

    async def receive(self, max_bytes: int = _READ_SIZE) -> bytes:
        while True:
            try:
                data = self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                if self._outgoing.pending:
                    self._on_pending()
                await self._fill()
            except ssl.SSLEOFError:
                break
            except ssl.SSLError as error:
                if "UNEXPECTED_EOF_WHILE_READING" in str(error):
                    break
                raise
            else:
                if data:
                    return data
                break
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        rest = memoryview(item)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLWantReadError:
            raise anyio.BrokenResourceError("the peer wants another handshake") from None
        await self._flush()

    async def send_eof(self) -> None:
        raise NotImplementedError("TLS has no half-close here")

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        # Without a certificate of the peer the description is empty, or None.
        certificate = {TLSAttribute.peer_certificate: lambda: self._tls.getpeercert() or None}
        return {**self._stream.extra_attributes, **certificate}

    def _on_pending(self) -> None:
        if self._outgoing.pending > _MAX_PENDING:
            raise anyio.BrokenResourceError("the peer changes keys all the time and does not read")
        self.on_pending()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._stream.send(self._outgoing.read())

    async def _fill(self) -> None:
        try:
            self._incoming.write(await self._stream.receive(_READ_SIZE))
            self._has_received = True
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            if self._tls.server_side and not self._has_received:
                raise NotBegun from error
            if isinstance(error, anyio.BrokenResourceError):
                raise
            self._incoming.write_eof()


async def wrap(
    stream: ByteStream,
    context: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
) -> TLSStream:
    """Begin TLS. If that fails, the caller closes the stream.

    :param stream: the stream below
    :param server_side: whether this end is the server
    :param server_hostname: the name that the other end's certificate must be for
    :raises ssl.SSLError: if the handshake fails
    :raises NotBegun: if the client has not begun it
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = None if server_hostname is None else _ascii(server_hostname)

    def begin() -> ssl.SSLObject:
        return context.wrap_bio(incoming, outgoing, server_side, name)

    # Subclasses of SSLContext may ask the operating system for trusted certificates, which blocks.
    tls = begin() if type(context) is ssl.SSLContext else await to_thread.run_sync(begin)
    wrapped = TLSStream(stream, tls, incoming, outgoing)
    await wrapped.handshake()
    return wrapped


def check_hostname(name: str) -> None:
    """Check that this can be the name of a host.

    :raises ValueError: if it cannot
    """
    if not name or name.startswith(".") or name != "".join(name.split()) or "\0" in name:
        raise ValueError(f"server_hostname is no name of a host: {name!r}")
    _ascii(name)


def _ascii(name: str) -> str:
    """Spell a name as certificates do, and as AnyIO resolves it."""
    if name.isascii():
        # An IPv6 zone is local to this machine and stands in no certificate.
        return name.partition("%")[0]
    # AnyIO depends on idna too. The standard library's codec is older and differs for some letters.
    import idna

    return idna.encode(name, uts46=True).decode()


def wants_certificate(context: ssl.SSLContext | None) -> bool:
    """Tell whether a server with this context lets in only clients with a certificate."""
    return context is not None and context.verify_mode == ssl.CERT_REQUIRED


def find_fault(context: ssl.SSLContext) -> str | None:
    """Find out why no client would accept a server's certificate because of its dates.

    :param context: the server's
    :return: in words; None if it is valid now
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    certificate = _shake_hands(client, context).getpeercert(binary_form=True)
    if certificate is None:
        return None
    # The server's own certificate is all that this client trusts, so only dates are left.
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=certificate)
    try:
        _shake_hands(client, context)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _BY_DATE:
            return error.verify_message
    return None


#: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL.
_BY_DATE: Final = (9, 10)


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """Let two contexts shake hands in memory, and return the client's end."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(down, up)
    there = server.wrap_bio(up, down, server_side=True)
    while True:
        try:
            here.do_handshake()
        except ssl.SSLWantReadError:
            with suppress(ssl.SSLWantReadError):
                there.do_handshake()
        else:
            return here
