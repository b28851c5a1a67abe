"""The group of commands, and the end of the process."""

from __future__ import annotations

import io
import os
import sys
import traceback
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Final

import click

from .. import __version__
from .._text import printable
from ._bench import bench
from ._demo import demo
from ._info import info
from ._output import open_standard_files, stderr, stdout
from ._ping import ping
from ._pub import pub
from ._serve import serve
from ._sub import sub
from ._top import top

if TYPE_CHECKING:
    from typing import NoReturn


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """Pub/sub in which many subscriptions share one connection.

    "hyps serve" runs a hub; "hyps sub" and "hyps pub" talk to it, "hyps ping", "hyps info" and
    "hyps top" tell how it is, and "hyps bench" measures it; "hyps demo" shows all of it at once.
    """


for command in (serve, sub, pub, ping, info, top, bench, demo):
    commands.add_command(command)


def run() -> NoReturn:
    """Run a command, and end the process."""
    open_standard_files()
    sys.stderr = stderr
    try:
        code = _execute()
    except BaseException:
        traceback.print_exc()
        code = 1
    stderr.drain()
    # Everything that can be written is. The interpreter's shutdown would wait for threads that are
    # blocked in a write or in a resolver, and would raise KeyboardInterrupt or worse on a signal.
    os._exit(code)


def _execute() -> int:
    code = 0
    failure: click.ClickException | None = None
    # Collects what Click prints, such as --help, part of it as bytes.
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    try:
        with redirect_stdout(printed):
            code = commands.main(prog_name="hyps", standalone_mode=False) or 0
    except click.ClickException as error:
        failure = error
    except SystemExit as error:
        # Click's completion for shells.
        code = error.code if isinstance(error.code, int) else 1
    if text := printed.buffer.getvalue().decode():
        # Keep the order that a terminal shows.
        stderr.drain()
        try:
            stdout.finish(text)
        except click.exceptions.Exit as ended:
            return ended.exit_code
        except click.ClickException as error:
            failure = failure or error
    if failure is not None:
        code = failure.exit_code
        shown = _Shown()
        failure.show(shown)
        message = failure.format_message()
        one_line = printable(message).replace("\n", "\\n")
        is_help = isinstance(failure, _HELP)
        stderr.write(shown.getvalue() if is_help else shown.getvalue().replace(message, one_line))
    return code


#: What Click raises for a command without arguments, from Click 8.2 on: its message is the help.
_HELP: Final = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Shown(io.StringIO):
    """Claims to be a terminal: for anything else Click removes escape sequences silently."""

    def isatty(self) -> bool:
        return True
