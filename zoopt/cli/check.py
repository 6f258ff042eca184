"""``zoopt check``: everything that can be known about a study.toml without evaluating anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoopt.cli.output import Debug, guarded, out

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Replace a value, e.g. strategy.sigma0=0.5. Repeatable.")
]


def overrides(given: list[str] | None, **others: object) -> dict[str, object]:
    """Values by dotted name from ``--set`` and other options; those that were not given are left out."""
    from zoopt.config import parse_value

    made: dict[str, object] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r}: FIELD=VALUE was expected, such as strategy.sigma0=0.5.", param_hint="--set")
        made[name.strip()] = parse_value(value.strip())
    return made | {f"study.{name}": value for name, value in others.items() if value is not None}


@guarded
def check(
    file: Annotated[Path, typer.Argument(help="The study.toml.", show_default=False)],
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Validate a study.toml without running it.

    Also looks whether its program or function can be found.
    """
    from zoopt.config import load

    config = load(file, overrides(set_))
    config.check()
    aims = ", ".join(f"{way} {name}" for name, way in config.objectives.items())
    count = len(config.space.names)
    out().print(
        f"{file} is fine: {config.study.strategy} is to {aims} over {count} variable{'s' if count != 1 else ''} "
        f"({', '.join(config.space.names)}); the record is {config.journal}.",
        markup=False,
        soft_wrap=True,
    )
