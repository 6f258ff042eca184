"""``zoopt strategies`` and ``zoopt problems``: names and first lines from the source; one of them in full when named."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from zoopt import registry
from zoopt.cli.output import Debug, guarded, number, out, table

Name = Annotated[str | None, typer.Argument(help="Show this one in full.", show_default=False)]


@guarded
def strategies(name: Name = None, debug: Debug = False) -> None:
    """List the strategies, or the fields of one.

    The fields go into [strategy] of a study.toml.
    """
    if name is None:
        _list("strategies")
        return
    from zoopt.strategy import field_docs

    cls = registry.load(name, "strategies")
    console = out()
    console.print(inspect.getdoc(cls) or "", markup=False, soft_wrap=True)
    console.print()
    console.print(_abilities(cls.capabilities), markup=False, soft_wrap=True)
    docs = field_docs(cls)
    if docs:
        console.print(
            table(["field", "type", "default", "meaning"], [(d.name, d.type, d.default, d.doc) for d in docs], "fields of [strategy]")
        )
    else:
        console.print("It has no fields.")


@guarded
def problems(name: Name = None, debug: Debug = False) -> None:
    """List the test problems, or describe one."""
    if name is None:
        _list("problems")
        return
    from zoopt.strategy import field_docs

    cls = registry.load(name, "problems")
    console = out()
    console.print(inspect.getdoc(cls) or "", markup=False, soft_wrap=True)
    docs = field_docs(cls) if hasattr(cls, "__dataclass_fields__") else []
    if docs:
        console.print(table(["argument", "type", "default", "meaning"], [(d.name, d.type, d.default, d.doc) for d in docs]))
    problem = cls()
    space = [(name, _words(config)) for name, config in problem.space.to_config().items()]
    console.print(table(["variable", ""], space, "space (with the defaults)"))
    console.print(f"objectives: {', '.join(problem.objectives)}", markup=False)
    if problem.constraints:
        console.print(f"constraints: {', '.join(problem.constraints)} (<= 0 is feasible)", markup=False)
    optimum = problem.optimum
    if optimum is not None and optimum.value is not None:
        console.print(f"optimum: {number(optimum.value)} ({optimum.source})", markup=False, soft_wrap=True)
    elif optimum is not None and optimum.hypervolume is not None:
        console.print(f"hypervolume of the front: {number(optimum.hypervolume)} ({optimum.source})", markup=False, soft_wrap=True)


def _list(kind: registry.Kind) -> None:
    singular = {"strategies": "strategy", "problems": "problem", "surrogates": "surrogate"}[kind]
    out().print(table([singular, ""], [(name, registry.summary(name, kind)) for name in registry.names(kind)]))


def _words(config: dict[str, Any]) -> str:
    return ", ".join(f"{key} {number(value)}" if key != "type" else str(value) for key, value in config.items())


def _abilities(can: Any) -> str:
    objectives = "any number of objectives" if can.objectives is None else f"{can.objectives} objective{'s' if can.objectives > 1 else ''}"
    learns = {"none": "nothing", "ranking": "rankings or values", "values": "values"}[can.feedback]
    others = [
        f"{'takes' if able else 'does not take'} {what}"
        for able, what in ((can.constraints, "outcome constraints"), (can.choices, "choices"), (can.unbounded, "unbounded variables"))
    ]
    needs = f"; needs a problem with {', '.join(can.requires)}()" if can.requires else ""
    return f"Learns from {learns}; {objectives}; {'; '.join(others)}{needs}."
