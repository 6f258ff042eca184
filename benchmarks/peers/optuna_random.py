"""Optuna's random sampler on a trivial ten-dimensional objective, told one by one; runs in the peers' environment."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution

DISTRIBUTIONS = {f"x{i}": FloatDistribution(-5.0, 5.0) for i in range(10)}


def run(n: int, storage: str | None) -> dict[str, float]:
    """CPU and wall seconds a trial, in microseconds."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), storage=storage)

    def trials(count: int) -> None:
        for _ in range(count):
            trial = study.ask(DISTRIBUTIONS)
            study.tell(trial, sum(v * v for v in trial.params.values()))

    trials(5)
    cpu, wall = time.process_time(), time.perf_counter()
    trials(n)
    return {"cpu": (time.process_time() - cpu) / n * 1e6, "wall": (time.perf_counter() - wall) / n * 1e6}


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--case")
    options.add_argument("--n", type=int)
    options.add_argument("--folder", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        figures = run(given.n, f"sqlite:///{Path(folder) / 'peer.db'}" if "sqlite" in given.case else None)
    sys.stdout.write(json.dumps(figures) + "\n")
