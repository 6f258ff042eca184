"""CPU seconds a suggestion of ``bo`` takes after n results, beside BoTorch, Ax and Optuna's Gaussian process: one thread each, interleaved.

Hartmann's function (6 variables) and Ackley's (20) at the same uniform points. After one suggestion that is not counted, the mean of ten
(four at n = 1000; of peers three and two), each with the tell of the one before: of ten, two search the hyperparameters anew.
"""

from __future__ import annotations

import json
import statistics
import sys
from itertools import product
from pathlib import Path
from typing import Any

from common import HERE, PEERS, machine, parser, run_case, spread, write

sys.path.append(str(HERE / "peers"))  # where the peers' own script finds its functions

PEER = HERE / "peers" / "bo_speed.py"
SIZES = ((20, 6), (100, 6), (20, 20), (100, 20), (400, 6), (1000, 20))
GOALS = {"optuna-gp": {20: ">= 3", 100: ">= 3", 400: ">= 1.5", 1000: ">= 1"}, "botorch": {20: ">= 10", 100: ">= 10", 400: ">= 4"}}
GOALS["ax"] = GOALS["botorch"]


def zoopt(n: int, d: int, deterministic: bool) -> Any:
    """Bayesian optimization with its defaults, a result added at a time."""
    from peers.bo_speed import points, task

    from zoopt import Real, Space, Study
    from zoopt.strategies import BO

    objective, low, high = task(d)
    study = Study(
        Space({f"x{j}": Real(low, high) for j in range(d)}), BO(initial=5), seed=0, deterministic=deterministic
    )  # all from the model
    for u in points(n, d):
        x = (low + (high - low) * u).tolist()
        study.add({f"x{j}": v for j, v in enumerate(x)}, objective(x))

    def suggest() -> None:
        trial = study.ask()
        study.tell(trial, objective([float(v) for v in trial.params.values()]))

    return suggest


def main() -> None:
    """Run the cases and print the table."""
    options = parser(str(__doc__))
    given = options.parse_args()
    if given.case:
        from peers.bo_speed import measure

        name, _, d = given.case.rpartition("-d")
        made = measure(lambda n, d: zoopt(n, d, name == "zoopt"), given.n, int(d), 10 if given.n < 1000 else 4)
        write(json.dumps(made))
        return
    if not PEERS.exists():
        sys.exit("the peers' environment is missing: make bench-peers")
    write(str(__doc__))
    write(machine())
    repeats = 1 if given.quick else given.repeats
    sizes = SIZES[:2] if given.quick else SIZES
    methods = ("zoopt", "zoopt-noisy", "optuna-gp", "botorch", "ax")
    found: dict[tuple[str, int, int], list[float]] = {}
    for _, (n, d), method in product(range(repeats), sizes, methods):
        if n > 400 and method in ("botorch", "ax"):
            continue  # minutes a suggestion, and no goal
        script, python = (Path(__file__), sys.executable) if method.startswith("zoopt") else (PEER, PEERS)
        found.setdefault((method, n, d), []).append(run_case(script, f"{method}-d{d}", n, python, Path())["cpu"])
    write(f"\n{'CPU seconds a suggestion':<34}        min     median        max     ratio to zoopt, median (min to max), goal")
    for (method, n, d), seconds in found.items():
        line = f"{method:<12} n = {n:<5} d = {d:<9} {spread(seconds)}"
        if not method.startswith("zoopt"):
            ratios = [a / b for a, b in zip(seconds, found["zoopt", n, d], strict=True)]
            goal = GOALS[method].get(n, "none")
            line += f"     {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), {goal}"
        write(line)


if __name__ == "__main__":
    main()
