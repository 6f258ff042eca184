"""Reopening a journal: 100,000 trials told one by one, and a Bayesian optimization study of 60 with one pending.

Settings: SQLite, d = 10, one value; written at durability "process", opened at the default. A fresh process a repetition, imports
(the strategy's included) excluded. The bare read fetches the same columns of the same rows through SQLAlchemy Core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from common import Case, Figures, begin, collect, spread, write

SCRIPT = Path(__file__)


def space() -> object:
    """Ten reals."""
    from zoopt import Real, Space

    return Space({f"x{i}": Real(-5.0, 5.0) for i in range(10)})


def fill(strategy: str, n: int, folder: Path) -> Path:
    """The journal of n trials, made once and kept for the repetitions."""
    import zoopt

    path = folder / f"{strategy}-{n}.db"
    if not path.exists():
        with zoopt.Study(space(), strategy, journal=str(path), seed=0, durability="process") as study:  # type: ignore[arg-type]
            for _ in range(n):
                trial = study.ask()
                study.tell(trial, sum(v * v for v in trial.params.values()))
            study.ask()
    return path


def warm(strategy: str, place: Path) -> None:
    """Imports that a first use makes."""
    import zoopt

    with (
        tempfile.TemporaryDirectory(dir=place) as folder,
        zoopt.Study(space(), strategy, journal=f"{folder}/w.db", seed=0) as study,  # type: ignore[arg-type]
    ):
        for _ in range(25):
            study.tell(study.ask(), 1.0)
        study.ask()


def reopened(n: int, folder: Path, strategy: str) -> Figures:
    """Seconds to reopen, against a bare read of the same rows."""
    import sqlalchemy as sa
    import torch

    import zoopt

    torch.set_num_threads(1)
    path = fill(strategy, n, folder)
    warm(strategy, folder)
    engine = sa.create_engine(f"sqlite:///{path}")
    names = [column["name"] for column in sa.inspect(engine).get_columns("events")]
    events = sa.table("events", *(sa.column(name) for name in names))

    def read() -> float:
        began = time.perf_counter()
        with engine.connect() as connection:
            rows = connection.execute(sa.select(events).order_by(events.c.seq)).fetchall()
        assert len(rows) >= 2 * n
        return time.perf_counter() - began

    first = read()
    began = time.perf_counter()
    study = zoopt.Study(space(), strategy, journal=str(path), seed=0)  # type: ignore[arg-type]
    took = time.perf_counter() - began
    assert study.evaluations == n and len(study.pending) == 1
    study.close()
    bare = min(first, read())
    return {"reopen": took, "bare": bare, "ratio": took / bare}


def bayesian(n: int, folder: Path) -> Figures:
    """Seconds to reopen a study of 60 trials with one pending, against one proposal."""
    import torch

    import zoopt

    torch.set_num_threads(1)
    path = fill("bo", n, folder)
    warm("bo", folder)
    began = time.perf_counter()
    study = zoopt.Study(space(), "bo", journal=str(path), seed=0)  # type: ignore[arg-type]
    took = time.perf_counter() - began
    assert len(study.pending) == 1
    study.close()
    copy = folder / "copy.db"
    copy.write_bytes(path.read_bytes())
    with zoopt.Study(space(), "bo", journal=str(copy), seed=0) as other:  # type: ignore[arg-type]
        began = time.perf_counter()
        other.ask()
        proposal = time.perf_counter() - began
    return {"reopen": took, "bare": proposal, "ratio": took / proposal}


CASES: dict[str, Case] = {
    "random": lambda n, folder: reopened(n, folder, "random"),
    "cma-es": lambda n, folder: reopened(n, folder, "cma-es"),
    "bo": bayesian,
}


def main() -> None:
    """Run the cases and print the table."""
    given = begin(__doc__ or "", CASES)
    n = 5_000 if given.quick else 100_000
    cases = [
        (SCRIPT, "random", n, sys.executable),
        (SCRIPT, "cma-es", n, sys.executable),
        (SCRIPT, "bo", 20 if given.quick else 60, sys.executable),
    ]
    found = collect(cases, given)
    goals = {"random": ("< 2 s", "<= 3 bare reads"), "cma-es": ("< 2 s", "<= 3 bare reads"), "bo": ("none", "< 1 proposal")}
    write(f"\n{'seconds':<28}    trials        min     median        max")
    for _, name, trials, _ in cases:
        for figure in ("reopen", "bare", "ratio"):
            goal = goals[name][0] if figure == "reopen" else goals[name][1] if figure == "ratio" else ""
            label = "one proposal" if name == "bo" and figure == "bare" else "bare read" if figure == "bare" else figure
            write(f"{name + ', ' + label:<28} {trials:>9} {spread([f[figure] for f in found[name]])}   {goal}")


if __name__ == "__main__":
    main()
