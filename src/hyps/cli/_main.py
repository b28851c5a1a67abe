"""The group of commands."""

from __future__ import annotations

import click

from .. import __version__
from ._bench import bench
from ._common import open_standard_files
from ._demo import demo
from ._pub import pub
from ._serve import serve
from ._sub import sub


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Pub/sub in which many subscriptions share one connection.

    "hyps serve" runs a hub; "hyps sub" and "hyps pub" talk to it, and "hyps bench" measures it;
    "hyps demo" shows all of it at once.
    """
    open_standard_files()


for command in (serve, sub, pub, bench, demo):
    main.add_command(command)
