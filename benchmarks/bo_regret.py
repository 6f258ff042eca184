"""Simple regret of ``bo`` after 60 evaluations, beside BoTorch, Ax, Optuna and SMAC, on functions fixed beforehand.

Every run is kept in ``benchmarks/results/bo_regret.jsonl`` with the versions it was made with, and made once: what is there is read.
``--again zoopt`` makes the runs of a method anew.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, PEERS, machine, parser, write

sys.path.append(str(HERE / "peers"))  # where the peers' own script finds its functions

RESULTS = HERE / "results" / "bo_regret.jsonl"
PEER = HERE / "peers" / "bo_regret.py"
METHODS = ("zoopt", "optuna-gp", "optuna-tpe", "smac", "botorch", "ax")
Row = dict[str, Any]


def zoopt(function: Any, tell: Any, evaluations: int, seed: int) -> list[float] | None:
    """Bayesian optimization as it is without any setting but what is true of the function: whether it has noise."""
    from zoopt import Integer, Real, Space, Study

    variables = {
        f"x{j}": Integer(int(low), int(high)) if whole else Real(low, high)
        for j, ((low, high), whole) in enumerate(zip(function.bounds, function.integers, strict=True))
    }
    limits = [] if function.constraint is None else ["c"]
    study = Study(Space(variables), "bo", seed=seed, deterministic=not function.noise, constraints=limits)
    for _ in range(evaluations):
        trial = study.ask()
        value, limit = tell([float(v) for v in trial.params.values()])
        study.tell(trial, value, **({} if limit is None else {"constraints": {"c": limit}}))
    recommended = study.recommended
    return [float(v) for v in recommended.params.values()] if function.noise and recommended is not None else None


def known() -> dict[tuple[str, str, int], Row]:
    """What was measured so far, the latest of each."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {(row["method"], row["function"], row["seed"]): row for row in rows}


def run(method: str, name: str, seed: int) -> Row:
    """One run in a fresh process with one thread."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    script, python = (Path(__file__), sys.executable) if method == "zoopt" else (PEER, str(PEERS))
    out = subprocess.run([python, str(script), "--case", f"{method}:{name}:{seed}"], env=env, capture_output=True, text=True)
    if out.returncode != 0:
        raise SystemExit(f"{method} on {name}, seed {seed}, failed:\n{out.stderr[-3000:]}")
    figures = json.loads(out.stdout.strip().splitlines()[-1])
    return {"method": method, "function": name, "seed": seed, **figures}


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, after Holm."""
    order = np.argsort(values)
    adjusted = np.maximum.accumulate([min(1.0, (len(values) - i) * values[k]) for i, k in enumerate(order)])
    found = np.empty(len(values))
    found[order] = adjusted
    return found.tolist()


def report(rows: dict[tuple[str, str, int], Row], names: Sequence[str], seeds: int) -> None:
    """Medians with their range, mean ranks, and where ``bo`` is worse than the best peer (Wilcoxon, one-sided, Holm)."""
    from scipy.stats import rankdata, wilcoxon

    methods = [m for m in METHODS if all((m, name, seed) in rows for name in names for seed in range(seeds))]
    write(f"simple regret after 60 evaluations, {seeds} seeds: median (least to most)")
    ranks: dict[str, list[float]] = {m: [] for m in methods}
    worse, against = [], []
    for name in names:
        table = {m: np.array([rows[m, name, seed]["regret"] for seed in range(seeds)]) for m in methods}
        for seed in range(seeds):
            for m, rank in zip(methods, rankdata([table[m][seed] for m in methods]), strict=True):
                ranks[m].append(float(rank))
        peers = [m for m in methods if m != "zoopt"]
        if "zoopt" in methods and peers:
            best = min(peers, key=lambda m: float(np.median(table[m])))
            difference = np.nan_to_num(table["zoopt"], posinf=1e9) - np.nan_to_num(table[best], posinf=1e9)
            worse.append(float(wilcoxon(difference, alternative="greater").pvalue) if np.any(difference) else 1.0)
            against.append(best)
        for m in methods:
            values = table[m]
            write(f"{name:16} {m:11} {np.median(values):9.3g} ({values.min():.3g} to {values.max():.3g})")
    write()
    for m in sorted(methods, key=lambda m: statistics.fmean(ranks[m])):
        seconds = statistics.median(rows[m, name, seed]["cpu"] for name, seed in product(names, range(seeds)))
        write(f"{m:11} mean rank {statistics.fmean(ranks[m]):.2f}, median {seconds:.1f} CPU s a run, {rows[m, names[0], 0]['versions']}")
    write()
    for name, best, p in zip(names if against else [], against, holm(worse), strict=True):
        write(f"{name:16} worse than {best}? p = {p:.3f}")


def main() -> None:
    """Make what is missing, then report."""
    options = parser(str(__doc__))
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--methods", nargs="*", default=list(METHODS))
    options.add_argument("--functions", nargs="*")
    options.add_argument("--again", nargs="*", default=[], help="methods whose runs are made anew")
    given = options.parse_args()
    from peers.bo_regret import measure
    from peers.functions import NAMES

    if given.case:
        _, name, seed = given.case.split(":")
        figures = measure(zoopt, name, int(seed), 60)
        versions = {package: version(package) for package in ("zoopt-toolkit", "botorch", "torch")}
        sys.stdout.write(json.dumps({**figures, "versions": versions}) + "\n")
        return
    names = given.functions or NAMES
    seeds = 1 if given.quick else given.seeds
    rows = known()
    again = {key for key in rows if key[0] in given.again}
    RESULTS.parent.mkdir(exist_ok=True)
    for seed, name, method in product(range(seeds), names, given.methods):
        key = (method, name, seed)
        if key in rows and key not in again:
            continue
        rows[key] = run(*key)
        with RESULTS.open("a") as file:
            file.write(json.dumps(rows[key]) + "\n")
        write(f"{name} {method} seed {seed}: {rows[key]['regret']:.3g}, {rows[key]['cpu']:.1f} CPU s")
    write(machine())
    report(rows, names, seeds)


if __name__ == "__main__":
    main()
