"""CPU seconds a suggestion takes a peer after n results; runs in the peers' environment and prints JSON on its last line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from functions import ackley, hartmann6

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

Ask = Callable[[], Any]
Objective = Callable[[list[float]], float]


def task(d: int) -> tuple[Objective, float, float]:
    """The function of d variables and its box."""
    return (hartmann6, 0.0, 1.0) if d == 6 else (ackley, -5.0, 10.0)


def points(n: int, d: int) -> np.ndarray[Any, Any]:
    """The first n points, the same for all, in the unit cube."""
    return np.random.default_rng(0).random((n, d))


def optuna(n: int, d: int) -> Ask:
    """GPSampler, told that the objective is deterministic."""
    import optuna
    from optuna.distributions import FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective, low, high = task(d)
    space = {f"x{j}": FloatDistribution(low, high) for j in range(d)}
    study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=0, deterministic_objective=True))
    for u in points(n, d):
        x = (low + (high - low) * u).tolist()
        study.add_trial(optuna.create_trial(params={f"x{j}": v for j, v in enumerate(x)}, distributions=space, value=objective(x)))

    def suggest() -> None:
        trial = study.ask(space)
        study.tell(trial, objective([float(v) for v in trial.params.values()]))

    return suggest


def botorch(n: int, d: int) -> Ask:
    """SingleTaskGP, qLogNoisyExpectedImprovement with pruning, 10 restarts of 512 raw samples."""
    import torch
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(0)
    objective, low, high = task(d)
    x = torch.from_numpy(points(n, d))
    y = torch.tensor([[-objective((low + (high - low) * u).tolist())] for u in x], dtype=torch.float64)
    data = [x, y]

    def suggest() -> None:
        model = SingleTaskGP(data[0], data[1])
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = qLogNoisyExpectedImprovement(model, X_baseline=data[0], prune_baseline=True)
        bounds = torch.tensor([[0.0] * d, [1.0] * d], dtype=torch.float64)
        found, _ = optimize_acqf(acquisition, bounds=bounds, q=1, num_restarts=10, raw_samples=512)
        value = -objective((low + (high - low) * found[0]).tolist())
        data[0], data[1] = torch.cat([data[0], found]), torch.cat([data[1], torch.tensor([[value]], dtype=torch.float64)])

    return suggest


def ax(n: int, d: int) -> Ask:
    """Ax's client with its default strategy."""
    from ax import Client, RangeParameterConfig

    objective, low, high = task(d)
    client = Client(random_seed=0)
    client.configure_experiment([RangeParameterConfig(name=f"x{j}", parameter_type="float", bounds=(low, high)) for j in range(d)])
    client.configure_optimization("-y")
    for u in points(n, d):
        x = (low + (high - low) * u).tolist()
        client.complete_trial(client.attach_trial({f"x{j}": v for j, v in enumerate(x)}), {"y": objective(x)})

    def suggest() -> None:
        for index, parameters in client.get_next_trials(1).items():
            client.complete_trial(index, {"y": objective([float(parameters[f"x{j}"]) for j in range(d)])})

    return suggest


MAKE: dict[str, Callable[[int, int], Ask]] = {"optuna-gp": optuna, "botorch": botorch, "ax": ax}


def measure(make: Callable[[int, int], Ask], n: int, d: int, suggestions: int) -> dict[str, float]:
    """Mean CPU seconds of a suggestion with the tell before it, after one that is not counted."""
    suggest = make(n, d)
    suggest()
    began = time.process_time()
    for _ in range(suggestions):
        suggest()
    return {"cpu": (time.process_time() - began) / suggestions}


def main() -> None:
    """One case, ``PEER-dD``, after ``--n`` results."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--case", required=True)
    options.add_argument("--n", type=int, required=True)
    options.add_argument("--folder", type=Path)
    given = options.parse_args()
    peer, _, d = given.case.rpartition("-d")
    sys.stdout.write(json.dumps(measure(MAKE[peer], given.n, int(d), 3 if given.n < 1000 else 2)) + "\n")


if __name__ == "__main__":
    main()
