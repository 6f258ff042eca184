"""What commands share: where they write, how they fail, how values are shown."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from zoopt.errors import LeaseLost, ObjectiveError, StrategyError, ZooptError

if TYPE_CHECKING:
    from rich.console import Console, Group

    from zoopt.study import Study
    from zoopt.trials import Trial

P = ParamSpec("P")
R = TypeVar("R")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
# Escape sequences as a whole (control sequences, strings such as a window's title, short ones), then what is left of control characters.
_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_WIDE = 1000  # columns where nobody looks: a table in a file or a pipe is not cut


def out() -> Console:
    """Standard output: results."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def err() -> Console:
    """Standard error: progress and everything that is said about the run."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDE)


def say(text: str, style: str = "", console: Console | None = None) -> None:
    """A line on standard error, or on another console."""
    (console or err()).print(printable(text), style=style, markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """A text without what a terminal takes for a command: an objective's message may hold anything."""
    return _CONTROLS.sub("", text)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and exit."""
    say(message, "red")
    raise typer.Exit(code)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors are one message and an exit code, never a traceback (unless ``--debug``)."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            fail("interrupted.", INTERRUPTED)
        except BrokenPipeError:  # whoever read our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except ZooptError as error:
            if kwargs.get("debug"):
                raise
            fail(str(error), FAILED if isinstance(error, ObjectiveError | StrategyError | LeaseLost) else BAD_INPUT)
        except Exception as error:
            if kwargs.get("debug") or type(error).__module__.partition(".")[0] in ("typer", "click"):
                raise
            fail(f"unexpected {type(error).__name__}: {error}\nRun again with --debug to see where; please report it.", FAILED)

    return run


def json_line(record: Mapping[str, Any]) -> None:
    """One JSON object on a line of standard output, at once."""
    line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
    line = re.sub("[\x7f-\x9f]", lambda control: f"\\u{ord(control[0]):04x}", line)  # which JSON leaves as they are
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """A value as strict JSON: arrays as lists, what is not finite as null, anything else as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def number(value: Any) -> str:
    """A value for people."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return f"[{', '.join(map(number, value))}]"
    return str(value)


def clock(seconds: float) -> str:
    """A duration for people: 0:07, 12:30, 3:05:00."""
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", right: Sequence[int] = ()) -> Group:
    """A plain table under its title; columns in ``right`` are aligned there."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, show_header=any(headers), show_edge=False, pad_edge=False)
    for k, header in enumerate(headers):
        made.add_column(header, justify="right" if k in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(number(cell)) if cell is not None else "") for cell in row))
    return Group(*([Text(title, style="bold")] if title else []), made, Text())


def trial_table(study: Study, trials: Sequence[Trial], title: str) -> Group:
    """Trials with their values and parameters, a row each."""
    objectives, constraints = list(study.task.objectives), list(study.task.constraints)
    names = [name for name in study.space.names if any(name in t.params for t in trials)]
    arrows = [f"{name} {'↓' if way == 'minimize' else '↑'}" for name, way in study.directions.items()]
    rows = []
    for t in trials:
        values, violations, params = t.values, t.constraints, t.params
        rows.append([t.id if t.id >= 0 else None, *map(values.get, objectives), *map(violations.get, constraints), *map(params.get, names)])
    return table(["trial", *arrows, *constraints, *names], rows, title, right=range(1 + len(objectives) + len(constraints)))


def trial_record(trial: Trial) -> dict[str, Any]:
    """A trial as JSON."""
    record: dict[str, Any] = {"id": trial.id, "state": trial.state.name.lower(), "params": trial.params, "values": trial.values}
    if trial.constraints:
        record["constraints"] = trial.constraints
    if trial.metrics:
        record["metrics"] = trial.metrics
    if trial.error:
        record["error"] = trial.error
    return record


def best_trials(study: Study) -> list[Trial]:
    """The best trial of a single objective, the Pareto front of several."""
    if len(study.task.objectives) > 1:
        return study.front
    best = study.best
    return [] if best is None else [best]


def best_table(study: Study, trials: Sequence[Trial], most: int = 50) -> Group:
    """The best trial, a line for each number; or the Pareto front, a line for each trial."""
    if len(study.task.objectives) > 1:
        first, way = next(iter(study.directions.items()))
        trials = sorted(trials, key=lambda t: t.values[first], reverse=way == "maximize")
        more = f", the first {most}" if len(trials) > most else ""
        return trial_table(study, trials[:most], f"Pareto front: {len(trials)} of {study.evaluations} trials{more}")
    best = trials[0]
    params = {name: value for name, value in best.params.items() if name not in study.space.environment}
    lines = [*best.values.items(), *best.constraints.items(), *best.metrics.items(), *params.items()]
    if best.id < 0:
        return table(["", ""], lines, f"recommended after {study.evaluations} evaluations")
    infeasible = ", which breaks a constraint" if any(c > 0 for c in best.constraints.values()) else ""
    return table(["", ""], lines, f"best trial: {best.id} of {study.evaluations}{infeasible}")
