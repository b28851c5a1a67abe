"""Whom ``hyps serve`` lets in, and by which certificates: what the options and the file say."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .. import Grants
from .._net.tls import find_fault
from .._server.clients import ClientTable
from ..protocol import ClientProtocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .. import Limits, Server
    from .._server.identity import Authenticate

_log: Final = logging.getLogger("hyps.server")

#: What clients with a certificate may do if no table says more.
_CERTIFIED: Final = Grants(subscribe=("*",), publish=("*",))


@dataclass(frozen=True, slots=True)
class Rules:
    """What a hub can change while it runs.

    :param token: see :class:`hyps.Server`
    :param authenticate: see :class:`hyps.Server`
    :param ssl_context: see :class:`hyps.Server`
    :param limits: see :class:`hyps.Server`
    """

    token: str | None
    authenticate: Authenticate | None
    ssl_context: ssl.SSLContext | None
    limits: Limits

    async def apply(self, server: Server) -> None:
        """Apply them to a hub that runs.

        :raises ValueError: if the hub cannot; then nothing has changed
        """
        is_certified = (
            self.ssl_context is not None and self.ssl_context.verify_mode == ssl.CERT_REQUIRED
        )
        asks = self.token is not None or self.authenticate is not None or is_certified
        if server.asks_for != "nothing" and not asks:
            # A file that is being written can be cut off after any table.
            raise ValueError(
                "the hub would let everybody in, which takes a restart: is the file complete?"
            )
        before = server.broker.limits
        server.set_limits(self.limits)
        try:
            server.set_ssl_context(self.ssl_context)
        except ValueError:
            server.set_limits(before)
            raise
        await server.set_authentication(token=self.token, authenticate=self.authenticate)


def make_rules(options: Mapping[str, Any], *, is_strict: bool) -> Rules:
    """Make the rules that the options of ``hyps serve`` say.

    :param options: by their names
    :param is_strict: whether a certificate that has expired is an error and no warning
    :raises click.ClickException: if they do not fit together
    """
    config, token, client_ca = options["config"], options["token"], options["client_ca"]
    clients = config.clients if config is not None else []
    jwt = config.jwt if config is not None else None
    try:
        ssl_context = _make_ssl_context(
            options["cert"], options["key"], client_ca, is_strict=is_strict
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        # For its errors: the hub must not find out when it has applied the rest.
        ClientProtocol(token=token)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    authenticate = None
    if clients or jwt is not None or (client_ca is not None and token is None):
        if token is not None:
            raise click.UsageError("there is a token beside the clients of the configuration file")
        everybody = _CERTIFIED if client_ca is not None and not clients else None
        authenticate = ClientTable(clients, jwt, everybody)
    return Rules(token, authenticate, ssl_context, options["limits"])


def _refuse_to_ask() -> str:
    raise ValueError("the private key is encrypted: decrypt it first, with openssl pkey")


def _why_no_certificate(cert: str, key: str | None, error: Exception) -> str:
    """Say which file is wrong: OpenSSL does not."""
    if not isinstance(error, ssl.SSLError):
        return f"{'--key' if key and isinstance(error, ValueError) else '--cert'}: {error}"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "--key: it is not the private key of the certificate"
    if not _has(cert, b"BEGIN CERTIFICATE"):
        return f"--cert: {cert} has no certificate in PEM form"
    if key is None and not _has(cert, b"PRIVATE KEY"):
        return f"--cert: {cert} has no private key, so --key must name its file"
    if key is not None and not _has(key, b"PRIVATE KEY"):
        return f"--key: {key} has no private key in PEM form"
    return f"--cert: {error}"


def _has(file: str, text: bytes) -> bool:
    return text in Path(file).read_bytes()


def _make_ssl_context(
    cert: str | None, key: str | None, client_ca: str | None, *, is_strict: bool
) -> ssl.SSLContext | None:
    if cert is None:
        for name, value in (("--key", key), ("--client-ca", client_ca)):
            if value is not None:
                raise ValueError(f"{name} needs --cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, _refuse_to_ask)
    except (OSError, ValueError) as error:
        raise ValueError(_why_no_certificate(cert, key, error)) from None
    fault = find_fault(context)
    if fault and is_strict:
        raise ValueError(f"--cert: {fault}")
    if fault:
        # A hub that starts with it can be mended by a reload; one that does not start cannot.
        _log.warning("no client will accept the certificate of --cert: %s", fault)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError:
            raise ValueError(f"--client-ca: {client_ca} has no certificate in PEM form") from None
        except OSError as error:
            raise ValueError(f"--client-ca: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    # Clients over HTTP/2 negotiate the protocol in the TLS handshake.
    context.set_alpn_protocols(["h2"])
    return context
