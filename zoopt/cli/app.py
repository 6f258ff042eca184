"""The commands and their options; each command lives in a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from zoopt.cli.check import check
from zoopt.cli.listing import problems, strategies
from zoopt.cli.run import run
from zoopt.cli.show import show

app = typer.Typer(
    help="Optimize what can be evaluated but not differentiated.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine, 1 a run that failed, 2 bad input, 130 interrupted (a run goes on when it is started again).",
)


def _version(wanted: bool) -> None:
    if wanted:
        from zoopt import __version__

        typer.echo(f"zoopt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


app.command()(run)
app.command()(show)
app.command()(check)
app.command()(strategies)
app.command()(problems)
