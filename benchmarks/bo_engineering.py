"""The constrained problems of up to 7 variables: ``bo`` beside expected improvement under constraints as BoTorch has it.

Both begin with the same 20 uniform points and make 50 evaluations more. Runs are kept in ``benchmarks/results/bo_engineering.jsonl`` and
made once; ``--again zoopt`` makes the runs of a method anew. The peer: a SingleTaskGP for each outcome, LogConstrainedExpectedImprovement
over the best feasible value, the probability of feasibility while there is none, 10 restarts of 512 raw samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, machine, parser, write

from zoopt import Random, Study, registry

RESULTS = HERE / "results" / "bo_engineering.jsonl"
PROBLEMS = (
    "constrained-ackley",
    "gkxwc1",
    "gkxwc2",
    "jlh1",
    "jlh2",
    "three-truss",
    "compression-spring",
    "reinforced-concrete-beam",
    "pressure-vessel",
    "welded-beam",
    "speed-reducer",
)
METHODS = ("zoopt", "botorch")
FIRST, MORE = 20, 50


def told(problem: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``(n,)`` and violations ``(n, c)`` at points in problem units ``(n, d)``."""
    return problem.values(x), problem.violations(x)


def zoopt(problem: Any, x: torch.Tensor, seed: int) -> torch.Tensor:
    """All points evaluated, ``(70, d)``."""
    study = Study(problem.space, "bo", seed=seed, deterministic=True, constraints=list(problem.constraints))
    y, c = told(problem, x)
    for params, value, limits in zip(problem.space.params(problem.space.encode(x)), y, c, strict=True):
        study.add(params, float(value), constraints=[limits.tolist()])
    for _ in range(MORE):
        trial = study.ask()
        y, c = told(problem, trial.x.unsqueeze(0))
        study.tell(trial, float(y[0]), constraints=[c[0].tolist()])
        x = torch.cat([x, trial.x.unsqueeze(0)])
    return x


def botorch(problem: Any, x: torch.Tensor, seed: int) -> torch.Tensor:
    """All points evaluated, ``(70, d)``."""
    from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogProbabilityOfFeasibility
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.transforms import Normalize, Standardize
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import SumMarginalLogLikelihood

    torch.manual_seed(seed)
    d = x.shape[1]
    bounds = torch.tensor(np.array([problem.space.low, problem.space.high]))
    for _ in range(MORE):
        y, c = told(problem, x)
        outcomes = torch.cat([-y.unsqueeze(-1), c], -1)
        model = ModelListGP(
            *(
                SingleTaskGP(x, column.unsqueeze(-1), input_transform=Normalize(d, bounds=bounds), outcome_transform=Standardize(1))
                for column in outcomes.T
            )
        )
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        limits: Any = {k + 1: (None, 0.0) for k in range(c.shape[1])}
        feasible = (c <= 0).all(-1)
        if bool(feasible.any()):
            acquisition: Any = LogConstrainedExpectedImprovement(model, float(-y[feasible].min()), 0, limits)
        else:
            acquisition = LogProbabilityOfFeasibility(model, limits)
        found, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=10, raw_samples=512)
        x = torch.cat([x, found.detach()])
    return x


def run(method: str, name: str, seed: int) -> dict[str, Any]:
    """One run."""
    torch.set_num_threads(1)
    problem = registry.load(name, "problems")()
    first = problem.space.decode(problem.space.sample(FIRST, Random(seed).child("engineering")))
    began = time.process_time()
    x = {"zoopt": zoopt, "botorch": botorch}[method](problem, first, seed)
    seconds = time.process_time() - began
    y, c = told(problem, x)
    feasible = (c <= 0).all(-1)
    best = float(y[feasible].min()) if bool(feasible.any()) else None
    gap = None if best is None else (best - problem.optimum.value) / (1.0 + abs(problem.optimum.value))
    return {"method": method, "problem": name, "seed": seed, "gap": gap, "cpu": seconds, "versions": version("botorch")}


def known() -> dict[tuple[str, str, int], dict[str, Any]]:
    """What was measured so far, the latest of each."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {(row["method"], row["problem"], row["seed"]): row for row in rows}


def main() -> None:
    """Make what is missing, then report."""
    options = parser(str(__doc__))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--methods", nargs="*", default=list(METHODS))
    options.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    options.add_argument("--again", nargs="*", default=[], help="methods whose runs are made anew")
    given = options.parse_args()
    if given.case:
        method, name, seed = given.case.split(":")
        write(json.dumps(run(method, name, int(seed))))
        return
    rows = known()
    again = {key for key in rows if key[0] in given.again}
    RESULTS.parent.mkdir(exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for seed, name, method in product(range(1 if given.quick else given.seeds), given.problems, given.methods):
        key = (method, name, seed)
        if key in rows and key not in again:
            continue
        command = [sys.executable, str(Path(__file__)), "--case", ":".join(map(str, key))]
        out = subprocess.run(command, env=env, capture_output=True, text=True)
        if out.returncode != 0:
            raise SystemExit(f"{key} failed:\n{out.stderr[-3000:]}")
        rows[key] = json.loads(out.stdout.strip().splitlines()[-1])
        with RESULTS.open("a") as file:
            file.write(json.dumps(rows[key]) + "\n")
        write(f"{name} {method} seed {seed}: {rows[key]['gap']}, {rows[key]['cpu']:.0f} CPU s")
    write(machine())
    write("gap to the optimum over 1 + its size: feasible runs, median (least to most), CPU s a run")
    for name, method in product(given.problems, given.methods):
        found = [row for (m, p, s), row in rows.items() if (m, p) == (method, name) and s < given.seeds]
        if not found:
            continue
        gaps = np.array([np.inf if row["gap"] is None else row["gap"] for row in found])
        seconds = float(np.median([row["cpu"] for row in found]))
        write(
            f"{name:26} {method:8} feasible {int(np.isfinite(gaps).sum())} of {len(gaps)}, "
            f"{np.median(gaps):.3g} ({gaps.min():.3g} to {gaps.max():.3g}), {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
