"""``hyps top``."""

from __future__ import annotations

import io
import os
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import anyio
import click
from anyio import to_thread

from ._common import backend_option, is_installed, run_client, token_option
from ._output import stdout
from ._terminal import Terminal
from ._top_source import SORTS, NoAnswer, Refused, Snapshot, Source

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Sessions that are asked for where there is no screen to fill.
_LIMIT: Final = 1000

#: The width of a line that goes to no terminal.
_WIDE: Final = 200

#: Seconds after which a terminal of another size is noticed.
_LOOK_AT_SIZE: Final = 0.25


@click.command()
@click.option(
    "--http",
    "url",
    envvar="HYPS_HTTP_URL",
    show_envvar=True,
    default="http://127.0.0.1:8788",
    show_default=True,
    help="Where the hub's HTTP port is: a URL, or host:port or :port, as for hyps serve.",
)
@token_option()
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="rate",
    show_default=True,
    help="The order of the sessions; rate is that of bytes in both directions.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one table, and end.")
@backend_option
def top(
    url: str, token: str | None, sort: str, interval: float, once: bool, backend: str | None
) -> None:
    """Show what a hub and its sessions do, as it changes.

    Keys: q quits; r, u, m, c, a and n sort by rate, queued, missed, channels, age and name. If
    standard output is no terminal this prints one table.

    On the hub's own machine this needs no token. From elsewhere it needs the hub's one token or,
    where clients have names, that of an administrator. It needs the extra "ops".
    """
    if not is_installed("rich"):
        raise click.ClickException("rich is not installed: pip install hyps[ops]")
    source = Source(url, token)
    is_live = not once and os.isatty(1)
    live = partial(_live, source, sort, interval)
    run_client(live if is_live else partial(_print, source, sort), backend)


async def _print(source: Source, sort: str) -> None:
    view: Any = import_module("hyps.cli._top_view")
    try:
        snapshot = await to_thread.run_sync(source.fetch, sort, _LIMIT, abandon_on_cancel=True)
    except NoAnswer as error:
        raise click.ClickException(f"no hub at {source.url}: {error}") from None
    width = Terminal().size[0] if os.isatty(1) else _wide()
    lines = _render(view.view(snapshot, "", width), width, is_plain=True)
    await stdout.print("\n".join([line.rstrip() for line in lines]))


def _wide() -> int:
    columns = os.environ.get("COLUMNS", "")
    return max(int(columns), 1) if columns.isdecimal() else _WIDE


def _render(what: RenderableType, width: int, *, is_plain: bool = False) -> list[str]:
    """Make lines of what is to be shown."""
    console: Console = import_module("rich.console").Console(
        file=io.StringIO(),
        width=width,
        force_terminal=not is_plain,
        color_system=None if is_plain else "auto",
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(what, no_wrap=True, crop=True, end="")
    return capture.get().splitlines()


async def _live(source: Source, sort: str, interval: float) -> None:
    await _Live(source, sort, interval).run()


class _Live:
    """The live view, until a key or a signal ends it.

    :param source: gives the numbers
    :param sort: the first order
    :param interval: seconds between two looks
    """

    def __init__(self, source: Source, sort: str, interval: float) -> None:
        self._source = source
        self._sort = sort
        self._interval = interval
        self._terminal = Terminal()
        self._view: Any = import_module("hyps.cli._top_view")
        # The last answer, the order that it is in, and why it is not one of now.
        self._snapshot: Snapshot | None = None
        self._order = sort
        self._trouble = ""
        # Set when there is something to draw, and when there is something to ask.
        self._changed = anyio.Event()
        self._asked = anyio.Event()

    async def run(self) -> None:
        with self._terminal:
            await self._terminal.enter_screen()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._look)
                tasks.start_soon(self._draw)
                if self._terminal.has_keys:
                    await self._take_keys()
                    tasks.cancel_scope.cancel()

    async def _look(self) -> None:
        """Ask the hub again and again, at once if the order changes."""
        while True:
            self._asked = anyio.Event()
            order = self._sort
            try:
                self._snapshot = await to_thread.run_sync(
                    self._source.fetch, order, self._terminal.size[1], abandon_on_cancel=True
                )
                self._order = order
                self._trouble = ""
            except NoAnswer as error:
                self._trouble = f"no hub at {self._source.url}: {error}; trying on"
            except click.ClickException as error:
                # Something else may answer while a hub is being replaced.
                if self._snapshot is None or isinstance(error, Refused):
                    raise
                self._trouble = f"{error.message}; trying on"
            self._changed.set()
            with anyio.move_on_after(self._interval):
                await self._asked.wait()

    async def _take_keys(self) -> None:
        """Take keys until one of them quits."""
        while keys := await self._terminal.keys():
            for key in keys:
                if key == "q":
                    return
                sort = self._view.KEYS.get(key)
                if sort is not None:
                    self._sort = sort
                    self._asked.set()
                    self._changed.set()

    async def _draw(self) -> None:
        drawn = (0, 0)
        while True:
            size = self._terminal.size
            if size != drawn or self._changed.is_set():
                self._changed = anyio.Event()
                drawn = size
                await self._terminal.draw(self._picture(*size))
            with anyio.move_on_after(_LOOK_AT_SIZE):
                await self._changed.wait()

    def _picture(self, width: int, height: int) -> list[str]:
        view = self._view
        lines: list[str] = []
        if self._snapshot is not None:
            rows = height - view.OTHER_LINES - 1 - bool(self._trouble)
            lines += _render(view.view(self._snapshot, self._order, width, rows), width)
        if self._trouble:
            lines[:0] = _render(view.trouble(self._trouble, width), width)
        # The last line has the keys, whatever the height.
        lines = lines[: height - 1]
        lines += [""] * (height - 1 - len(lines))
        return [*lines, *_render(view.footer(self._sort, width), width)]
