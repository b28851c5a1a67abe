"""Files of certificates and keys: both ends load them, and OpenSSL does not say which is wrong."""

from __future__ import annotations

import ssl
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._net.addresses import TCPAddress, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable


class WrongFile(ValueError):
    """A file of certificates or of their key is wrong; it says why.

    :param option: the option that names the file
    """

    def __init__(self, option: str, why: str) -> None:
        super().__init__(why)
        self.option = option


def load_chain(
    context: ssl.SSLContext, cert: str, key: str | None, *, call_key: str = "--key"
) -> None:
    """Load the certificate that this end shows.

    :param cert: the file of the chain, with the private key unless ``key`` has it
    :param call_key: how to call the option of the key
    :raises WrongFile: if a file is not what it must be
    """
    try:
        context.load_cert_chain(cert, key, _refuse_to_ask)
    except (OSError, ValueError) as error:
        raise _find_wrong(cert, key, error, call_key) from None


def _refuse_to_ask() -> str:
    raise ValueError("the private key is encrypted: decrypt it first, with openssl pkey")


def _find_wrong(cert: str, key: str | None, error: Exception, call_key: str) -> WrongFile:
    if not isinstance(error, ssl.SSLError):
        return WrongFile("key" if key and isinstance(error, ValueError) else "cert", str(error))
    if error.reason == "KEY_VALUES_MISMATCH":
        return WrongFile("key" if key else "cert", "it is not the private key of the certificate")
    if not _has(cert, b"BEGIN CERTIFICATE"):
        return WrongFile("cert", f"{cert} has no certificate in PEM form")
    if key is None and not _has(cert, b"PRIVATE KEY"):
        return WrongFile("cert", f"{cert} has no private key, so {call_key} must name its file")
    if key is not None and not _has(key, b"PRIVATE KEY"):
        return WrongFile("key", f"{key} has no private key in PEM form")
    return WrongFile("cert", str(error))


def _has(file: str, text: bytes) -> bool:
    return text in Path(file).read_bytes()


def tls_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that connects the options ``--ca``, ``--cert`` and ``--key``.

    Its function gets ``ssl_context``, which is None without them. They have no variables:
    ``HYPS_CERT`` and ``HYPS_KEY`` are the hub's, and its certificate is not for clients.
    """

    @wraps(function)
    def command(*, ca: str | None, cert: str | None, key: str | None, **options: Any) -> Any:
        context = _make_client_context(options["url"], ca, cert, key)
        return function(ssl_context=context, **options)

    file = click.Path(exists=True, dir_okay=False)
    for option in (
        click.option(
            "--key", type=file, metavar="FILE", help="Private key of --cert, unless it is there."
        ),
        click.option(
            "--cert",
            type=file,
            metavar="FILE",
            help="Certificate to show to a hub that asks clients for one (--client-ca).",
        ),
        click.option(
            "--ca",
            type=file,
            metavar="FILE",
            help="Trust hubs whose certificate one of these has issued, instead of those that the"
            " system trusts.",
        ),
    ):
        command = option(command)
    return command


def _make_client_context(
    url: str, ca: str | None, cert: str | None, key: str | None
) -> ssl.SSLContext | None:
    given = [name for name, value in (("ca", ca), ("cert", cert), ("key", key)) if value]
    if not given:
        return None
    addresses = [each for each in parse_url(url) if isinstance(each, TCPAddress)]
    if not any(each.tls for each in addresses):
        raise click.UsageError(f"--{given[0]}: the URL is without TLS; hypss:// or https:// has it")
    if key is not None and cert is None:
        raise click.UsageError("--key: it needs --cert")
    try:
        # With a file of its own it does not load the certificates that the system trusts.
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise click.UsageError(f"--ca: {ca} has no certificate in PEM form") from None
    except OSError as error:
        raise click.UsageError(f"--ca: {error}") from None
    try:
        if cert is not None:
            load_chain(context, cert, key)
    except WrongFile as error:
        raise click.UsageError(f"--{error.option}: {error}") from None
    if any(each.is_http for each in addresses):
        context.set_alpn_protocols(["h2"])
    return context
