"""Whom ``hyps serve`` lets in, and by which certificates: what the options and the file say."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from click.core import ParameterSource

from .. import Grants, InvalidURL
from .._net.addresses import parse_host_and_port
from .._net.tls import find_fault, wants_certificate
from .._server.clients import ClientTable
from ..protocol import ClientProtocol
from ._certificates import WrongFile, load_chain
from ._faults import Faults

if TYPE_CHECKING:
    import click

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
        asks = self.token is not None or self.authenticate is not None
        if not asks and not wants_certificate(self.ssl_context) and server.asks_for != "nothing":
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


def make_rules(context: click.Context, *, is_strict: bool, has_sockets: bool = False) -> Rules:
    """Make the rules that the options of ``hyps serve`` say, and check the other options.

    :param context: of the command
    :param is_strict: whether a certificate that has expired is an error and no warning
    :param has_sockets: whether systemd passes the sockets to listen at
    :raises ConfigFaults: if the configuration file is wrong
    :raises click.UsageError: if other options are
    """
    options = context.params
    faults = Faults(context)
    config, token, client_ca = options["config"], options["token"], options["client_ca"]
    _check_addresses(context, faults, has_sockets)
    ssl_context = None
    if faults.are_sound("cert", "key", "client_ca"):
        try:
            ssl_context = _make_ssl_context(
                options["cert"], options["key"], client_ca, faults, is_strict=is_strict
            )
        except WrongFile as error:
            faults.add(error.option, str(error))
    clients = config.clients if config is not None else []
    jwt = config.jwt if config is not None else None
    try:
        # For its errors: the hub must not find out when it has applied the rest.
        ClientProtocol(token=token)
    except ValueError as error:
        faults.add("token", str(error))
    authenticate = None
    if clients or jwt is not None or (client_ca is not None and token is None):
        if token is not None and faults.are_sound("token"):
            source = context.get_parameter_source("token")
            where = "HYPS_TOKEN" if source is ParameterSource.ENVIRONMENT else "--token"
            faults.add(
                "token", f"{where} is set beside the clients of {config.path}: use one of them"
            )
        everybody = _CERTIFIED if client_ca is not None and not clients else None
        authenticate = ClientTable(clients, jwt, everybody)
    faults.throw()
    return Rules(token, authenticate, ssl_context, options["limits"])


def _check_addresses(context: click.Context, faults: Faults, has_sockets: bool) -> None:
    options = context.params
    if has_sockets:
        for name in ("host", "port", "uds"):
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                faults.add(name, "systemd passes the sockets to listen at, and this is for another")
    if options["uds_mode"] is not None and options["uds"] is None and faults.are_sound("uds"):
        faults.add("uds_mode", f"it needs {faults.call('uds', 'uds_mode')}")
    for name in ("uds", "host"):
        if options[name] == "":
            faults.add(name, "it is empty")
    if options["uds"] is not None and options["cert"] is not None:
        faults.add("uds", "there is no TLS over Unix sockets")
    if options["http"] is not None:
        try:
            parse_host_and_port(options["http"])
        except InvalidURL as error:
            faults.add("http", str(error))


def _make_ssl_context(
    cert: str | None, key: str | None, client_ca: str | None, faults: Faults, *, is_strict: bool
) -> ssl.SSLContext | None:
    if cert is None:
        for name, value in (("key", key), ("client_ca", client_ca)):
            if value is not None:
                faults.add(name, f"it needs {faults.call('cert', name)}")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_chain(context, cert, key, call_key=faults.call("key", "cert"))
    fault = find_fault(context)
    if fault and is_strict:
        faults.add("cert", fault)
    elif fault:
        # A hub that starts with it can be mended by a reload; one that does not start cannot.
        _log.warning("no client will accept the certificate of --cert: %s", fault)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError:
            raise WrongFile("client_ca", f"{client_ca} has no certificate in PEM form") from None
        except OSError as error:
            raise WrongFile("client_ca", str(error)) from None
        context.verify_mode = ssl.CERT_REQUIRED
    # Clients over HTTP/2 negotiate the protocol in the TLS handshake.
    context.set_alpn_protocols(["h2"])
    return context
