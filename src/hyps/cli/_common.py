"""What the commands share: options, running on an event loop, failing in one line."""

from __future__ import annotations

import asyncio
import importlib.util
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import click

from .. import HypsError, InvalidChannel
from .._net.addresses import MemoryAddress, parse_url
from .._text import one_line
from ..protocol import ClientProtocol
from ..protocol._records.layout import encode_channel
from ._signals import signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")


def _check_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        if isinstance(parse_url(value)[0], MemoryAddress):
            raise click.ClickException(
                f"{value}: a hub in memory is of one process, and not of this"
            )
    except HypsError as error:
        raise click.ClickException(one_line(str(error))) from None
    return value


url_option = click.option(
    "--url",
    callback=_check_url,
    envvar="HYPS_URL",
    show_envvar=True,
    default="hyps://127.0.0.1:8787",
    show_default=True,
    help="Where the hub is: hyps://host:port, hypss://host:port (TLS), hyps+unix:///path, or http(s)://host:port.",
)


def _check_token(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    try:
        ClientProtocol(token=value)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    return value


token_option = partial(
    click.option,
    "--token",
    callback=_check_token,
    envvar="HYPS_TOKEN",
    show_envvar=True,
    help="What clients must know to be let in; better given by the environment.",
)
BACKENDS: Final = ("asyncio", "uvloop", "trio")
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="The event loop. [default: uvloop if it is installed, else asyncio]",
)


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _make_loop_type(use_uvloop: bool) -> type[asyncio.AbstractEventLoop]:
    base: Any = import_module("uvloop").Loop if use_uvloop else asyncio.SelectorEventLoop

    class Loop(base):  # type: ignore[misc]
        """An event loop that is never closed, because the process ends after it.

        Closing a loop of asyncio or uvloop waits for names that are being resolved, and uvloop
        waits in a call that no signal can interrupt.
        """

        async def shutdown_default_executor(
            self,
            timeout: float | None = None,  # noqa: ASYNC109
        ) -> None:
            pass

        def close(self) -> None:
            _loops.append(self)

    return Loop


#: Loops that have ended. The garbage collector would close them.
_loops: Final[list[asyncio.AbstractEventLoop]] = []


def run(function: Callable[[], Awaitable[_T]], backend: str | None = None) -> _T:
    """Run a command's coroutine function; a failure becomes one line on standard error.

    :param function: called without arguments
    :param backend: the value of ``--backend``
    :return: what the function returns
    :raises click.ClickException: if it fails
    """
    if backend in ("uvloop", "trio") and not is_installed(backend):
        raise click.ClickException(f"{backend} is not installed: pip install hyps[{backend}]")
    use_uvloop = backend == "uvloop" or (backend is None and is_installed("uvloop"))
    try:
        with signals.asking():
            if backend == "trio":
                return anyio.run(function, backend="trio")
            return anyio.run(
                function, backend_options={"loop_factory": _make_loop_type(use_uvloop)}
            )
    except Exception as caught:
        error = _first(caught)
        if isinstance(error, HypsError | OSError):
            error = click.ClickException(one_line(str(error)))
        if isinstance(error, click.ClickException | click.exceptions.Exit):
            raise error from None
        raise


def _first(error: Exception) -> Exception:
    """Unwrap the exception group that a task group makes of a task's error."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def run_until_signal(function: Callable[[], Awaitable[Any]]) -> int | None:
    """Run a function until it returns or a signal asks the process to end.

    :return: the number of the signal, if there was one
    """
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(signals.watch, scope.cancel)
            await function()
        tasks.cancel_scope.cancel()
    return signals.received


def run_client(function: Callable[[], Awaitable[Any]], backend: str | None) -> None:
    """Run a command that a signal may end early, with the exit code that shells expect.

    :raises click.exceptions.Exit: if a signal ended it
    """
    number = run(partial(run_until_signal, function), backend)
    if number is not None:
        raise click.exceptions.Exit(128 + number)


def check_channel(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Refuse a name that cannot be a channel's before connecting."""
    try:
        for name in (value,) if isinstance(value, str) else value:
            encode_channel(name)
    except InvalidChannel as error:
        raise click.ClickException(str(error)) from None
    return value
