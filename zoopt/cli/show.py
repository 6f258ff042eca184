"""``zoopt show``: what a journal holds, also while its study runs."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoopt.cli.output import (
    Debug,
    best_table,
    best_trials,
    guarded,
    json_line,
    number,
    out,
    say,
    table,
    trial_record,
    trial_table,
)
from zoopt.errors import JournalError

if TYPE_CHECKING:
    from zoopt.journal import Journal
    from zoopt.study import Study


@guarded
def show(
    source: Annotated[str, typer.Argument(help="A study.toml, a journal file such as study.db, or its URL.", show_default=False)],
    study: Annotated[str | None, typer.Option("--study", help="Name of the study, where a journal holds several.")] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=0, help="How many of the best trials.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    debug: Debug = False,
) -> None:
    """Show where a study stands, also while it runs."""
    from zoopt.journal import Journal

    address, name = source, study
    if Path(source).suffix in (".toml", ".json") and "://" not in source:
        from zoopt.config import locate

        address, recorded = locate(source)
        name = study or recorded
        if "://" not in address and not Path(address).exists():
            raise JournalError(f"{address}: nothing is recorded yet; begin with: {shlex.join(['zoopt', 'run', source])}")
    with Journal(address, read_only=True) as journal:
        names = journal.names()
        if name is None and len(names) != 1:
            _list(journal, names, address, json)
            return
        _show(journal, name if name is not None else names[0], address, top, json)


def _list(journal: Journal, names: list[str], address: str, json: bool) -> None:
    """The studies of a journal that holds several, or none."""
    configs = {name: journal.config(name) or {} for name in names}
    rows = [(name, configs[name]["strategy"]["name"], ", ".join(configs[name]["objectives"])) for name in names]
    if json:
        json_line({"journal": address, "studies": [dict(zip(("name", "strategy", "objectives"), row, strict=True)) for row in rows]})
        return
    if not names:
        say(f"{address} holds no study yet.")
        return
    out().print(table(["study", "strategy", "objectives"], rows, f"{address} holds {len(names)} studies; choose one with --study NAME"))


def _show(journal: Journal, name: str, address: str, top: int, json: bool) -> None:
    from zoopt.restore import read

    study = read(journal, name)
    config = journal.config(name) or {}
    driver = journal.study(name).driver
    ranked = _ranked(study, top)
    status = study.status
    counts = {key: getattr(status, key) for key in ("evaluations", "complete", "failed", "dropped", "lost", "pending")}
    several = len(study.task.objectives) > 1
    if json:
        json_line(
            {
                "study": name,
                "journal": address,
                "strategy": config["strategy"],
                "objectives": study.directions,
                "constraints": list(study.task.constraints),
                "seed": config["seed"],
                **counts,
                "driver": None if driver is None else {"host": driver.host, "pid": driver.pid, "since": driver.since},
                "front" if several else "top": [trial_record(trial) for trial in ranked],
            }
        )
        return
    console = out()
    fields = ", ".join(f"{key} {_setting(value)}" for key, value in config["strategy"].items() if key != "name")
    parts = [f"{count} {word}" for word, count in counts.items() if count and word != "evaluations"]
    lines: list[tuple[str, Any]] = [
        ("strategy", config["strategy"]["name"] + (f" ({fields})" if fields else "")),
        ("objectives", ", ".join(f"{way} {objective}" for objective, way in study.directions.items())),
        ("evaluations", f"{study.evaluations} ({', '.join(parts)})" if parts else "0"),
    ]
    if study.space.fidelities:
        lines.append(("cost", number(study.cost)))
    if driver is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(driver.since))
        lines.append(("running", f"process {driver.pid} on {driver.host} since {since}"))
    console.print(table(["", ""], lines, f"study {name} in {address}"))
    if not ranked:
        at = f" at the target of {' and '.join(study.space.fidelities)}" if study.space.fidelities else ""
        console.print(f"No trial{at} is complete yet.")
    elif several:
        console.print(best_table(study, best_trials(study), top))
    else:
        title = f"best {len(ranked)} of {status.complete} complete trials"
        if study.space.fidelities:
            title += f", at the target of {' and '.join(study.space.fidelities)}"
        if study.space.environment:
            title += f", each in one {' and '.join(study.space.environment)}"
        console.print(trial_table(study, ranked, title))
    _last_failure(study)


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value.get("type", value)))
    return "default" if value is None else number(value)


def _ranked(study: Study, top: int) -> list[Any]:
    """The best complete trials: feasible ones first, then by value; of several objectives, the front."""
    import numpy as np

    if len(study.task.objectives) > 1:
        return study.front[:top]
    history = study.history()
    complete = np.nonzero(history["state"] == "complete")[0]
    if study.space.fidelities and len(complete):
        trials = [study.trial(int(i)) for i in complete]
        x = study.space.encode_params([trial.reached for trial in trials])
        complete = complete[study.space.at_target(x)]
    values = _column(history, next(iter(study.directions)), study) * study.signs[0]
    broken = np.zeros(len(values))
    for constraint in study.task.constraints:
        broken += np.maximum(_column(history, constraint, study), 0.0)
    order = complete[np.lexsort((values[complete], broken[complete]))]
    return [study.trial(int(i)) for i in order[:top]]


def _column(history: Any, name: str, study: Study) -> Any:
    """A told column: a parameter of the same name comes first, and the column is then called otherwise."""
    while name in study.space.variables:
        name += "_"
    return history[name]


def _last_failure(study: Study) -> None:
    failed = study.last_failure
    if failed is not None:
        error = failed.error or "no reason was given"
        say(f"The last failure, trial {failed.id}: {error.strip()}", "yellow", out())
