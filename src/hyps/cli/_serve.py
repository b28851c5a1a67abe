"""``hyps serve``."""

from __future__ import annotations

import logging
import os
from contextlib import AsyncExitStack
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import click

from .. import InvalidURL, Limits, Server, __version__
from ._common import backend_option, run, run_until_signal, token_option
from ._config import read_config
from ._logging import LOG_FORMATS, json_line, log_to_stderr
from ._output import stdout
from ._reload import Reloader
from ._rules import make_rules
from ._systemd import systemd, take_sockets

if TYPE_CHECKING:
    import socket

    from ..ops import HTTPServer


def _parse_limits(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> Limits:
    kinds = {field.name: type(getattr(Limits(), field.name)) for field in fields(Limits)}
    # What the command line says goes before the file.
    found: dict[str, Any] = dict(context.meta.get("hyps.limits", {}))
    for value in values:
        name, separator, number = value.partition("=")
        if not separator:
            raise click.BadParameter(f"expected NAME=NUMBER, not {value!r}")
        if name not in kinds:
            raise click.BadParameter(f"{name!r} is none of {', '.join(kinds)}")
        try:
            found[name] = kinds[name](number)
        except ValueError:
            raise click.BadParameter(f"{name} must be a number, not {number!r}") from None
    try:
        return Limits(**found)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _parse_mode(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    if value is None:
        return None
    try:
        mode = int(value, 8)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no octal number like 660") from None
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{value!r} is not between 0 and 777")
    return mode


class _PortOption(click.Option):
    """A port, for an option whose environment variable another system may have set."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        # Kubernetes sets HYPS_PORT=tcp://10.0.0.1:8787 if a service has the name "hyps".
        return None if value is not None and "://" in value else value


def _check_token(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    # Click treats an empty variable as unset, which would mean "no token": surely a mistake.
    if value == "" or (value is None and os.environ.get("HYPS_TOKEN") == ""):
        where = "HYPS_TOKEN is" if value is None else "the token is"
        raise click.ClickException(
            f"{where} empty, and without a token the hub would let everybody in"
        )
    return value


def _raise_file_limit() -> None:
    """Let the hub open as many connections as the system allows.

    Each takes a file descriptor. The usual soft limit of 1,024 is for programs that use select().
    """
    try:
        import resource
    except ImportError:
        return  # this system has no such limits
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # some systems report "unlimited" and refuse it


class _Command(click.Command):
    """Remembers its arguments, to read them again."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        given = list(args)
        context = super().make_context(info_name, args, parent, **extra)
        context.meta["hyps.arguments"] = given
        return context


def _make_http_server(
    server: Server, address: str | None, sockets: list[socket.socket]
) -> HTTPServer | None:
    if address is None and not sockets:
        return None
    if address is not None and sockets:
        raise click.UsageError("systemd passes a socket of the name http, and --http is another")
    try:
        # Most hubs do without, and need not have what it imports.
        from ..ops import HTTPServer
    except ModuleNotFoundError as error:
        raise click.ClickException(f"--http: {error}") from None
    try:
        return HTTPServer(server, address, sockets=sockets or None)
    except (InvalidURL, ValueError) as error:
        raise click.UsageError(f"--http: {error}") from None


@click.command(cls=_Command)
@click.option(
    "--config",
    metavar="FILE",
    callback=read_config,
    is_eager=True,
    envvar="HYPS_CONFIG",
    show_envvar=True,
    help="Read options, limits and clients from a TOML file. Options and variables go before it.",
)
@click.option("--check-config", is_flag=True, help="Check the file of --config, and end.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    envvar="HYPS_HOST",
    show_envvar=True,
    help="Interface to listen on.",
)
@click.option(
    "--port",
    cls=_PortOption,
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    envvar="HYPS_PORT",
    show_envvar=True,
    help="Port to listen on; 0 for any free one.",
)
@click.option(
    "--http",
    metavar="ADDRESS",
    envvar="HYPS_HTTP",
    show_envvar=True,
    help="Serve health, metrics, tables and publishing over HTTP at host:port, or at :port for "
    "this machine alone.",
)
@click.option(
    "--uds",
    metavar="PATH",
    envvar="HYPS_UDS",
    show_envvar=True,
    help="Unix socket to listen on, instead of host and port.",
)
@click.option(
    "--uds-mode",
    metavar="MODE",
    callback=_parse_mode,
    envvar="HYPS_UDS_MODE",
    show_envvar=True,
    help="Permissions of the Unix socket, in octal, such as 660. [default: what the umask leaves]",
)
@token_option(callback=_check_token)
@click.option(
    "--cert",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    envvar="HYPS_CERT",
    show_envvar=True,
    help="Certificate chain for TLS, with the private key unless --key has it.",
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    envvar="HYPS_KEY",
    show_envvar=True,
    help="Private key of --cert.",
)
@click.option(
    "--client-ca",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    envvar="HYPS_CLIENT_CA",
    show_envvar=True,
    help="Let in only clients with a certificate that one of these has issued.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_parse_limits,
    envvar="HYPS_LIMIT",
    show_envvar=True,
    help="Set a bound of the hub, for example max_message=65536. May be given several times; the "
    "variable has blanks between them.",
)
@backend_option
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="text",
    show_default=True,
    envvar="HYPS_LOG_FORMAT",
    show_envvar=True,
    help="Log lines for people, or JSON objects.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log details, of connections for example.")
@click.pass_context
def serve(context: click.Context, /, **options: Any) -> None:
    """Run a hub until SIGINT or SIGTERM, then close cleanly. SIGHUP reads the file again."""
    log_format = options["log_format"]
    log_to_stderr(
        logging.DEBUG if options["verbose"] else logging.INFO,
        "%(asctime)s %(levelname)s %(message)s",
        log_format,
    )
    systemd.take()
    passed = take_sockets()
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    uds_mode = options["uds_mode"]
    rules = make_rules(context, is_strict=options["check_config"], has_sockets=bool(passed.hub))
    try:
        server = Server(
            options["host"],
            options["port"],
            uds=options["uds"],
            uds_mode=uds_mode,
            sockets=passed.hub or None,
            token=rules.token,
            authenticate=rules.authenticate,
            ssl_context=rules.ssl_context,
            limits=rules.limits,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    http_server = _make_http_server(server, options["http"], passed.http)
    if options["check_config"]:
        if options["config"] is None:
            raise click.UsageError("--check-config needs --config")
        click.echo("the configuration is sound")
        return
    if uds_mode is not None:
        # The socket file then has this mode from its creation on. The hub creates no other file.
        os.umask(0o777 & ~uds_mode)
    _raise_file_limit()
    reloader = Reloader(context, context.meta["hyps.arguments"])
    run(partial(_run, server, http_server, reloader, log_format), options["backend"])
    if log_format == "json":
        logging.getLogger("hyps.serve").info("closed")
    else:
        click.echo("hyps: closed", err=True)


async def _run(
    server: Server, http_server: HTTPServer | None, reloader: Reloader, log_format: str
) -> None:
    async with anyio.create_task_group() as tasks:
        # It goes on while the hub waits for its clients to leave.
        tasks.start_soon(systemd.watch)
        await run_until_signal(partial(_serve, server, http_server, reloader, log_format))
        tasks.cancel_scope.cancel()


async def _serve(
    server: Server, http_server: HTTPServer | None, reloader: Reloader, log_format: str
) -> None:
    async with AsyncExitStack() as stack:
        if http_server is not None:
            # First, so that it outlives the hub: it tells that the hub shuts down.
            await stack.enter_async_context(http_server)
        await stack.enter_async_context(server)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        where = ", ".join(server.urls)
        if log_format == "json":
            text = json_line("listening", version=__version__, urls=server.urls)
        else:
            text = f"hyps {__version__} listening at {where}"
        # First, because whoever reads standard output may be slow.
        systemd.ready(f"listening at {where}")
        tasks.start_soon(reloader.run, server)
        try:
            await stdout.print(text)
            await anyio.sleep_forever()
        finally:
            systemd.stopping()
