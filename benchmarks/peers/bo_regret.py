"""One run of a peer on one function; runs in the peers' environment and prints its figures as JSON on its last line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from functions import Function, Point, make

Tell = Callable[[Point], tuple[float, float | None]]
"""Evaluates a point: what is told, and the constraint where there is one."""

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def optuna(function: Function, tell: Tell, evaluations: int, seed: int, sampler: str) -> Point | None:
    """Optuna's GP or TPE sampler with its own defaults; told that the objective is deterministic where it is."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    limits: dict[str, Any] = {}
    if function.constraint is not None:
        limits["constraints_func"] = lambda trial: (trial.user_attrs["c"],)
    if sampler == "gp":
        made: Any = optuna.samplers.GPSampler(seed=seed, deterministic_objective=not function.noise, **limits)
    else:
        made = optuna.samplers.TPESampler(seed=seed, **limits)
    study = optuna.create_study(sampler=made)
    for _ in range(evaluations):
        trial = study.ask()
        x: Point = []
        for j, ((low, high), whole) in enumerate(zip(function.bounds, function.integers, strict=True)):
            x.append(float(trial.suggest_int(f"x{j}", int(low), int(high)) if whole else trial.suggest_float(f"x{j}", low, high)))
        value, limit = tell(x)
        if limit is not None:
            trial.set_user_attr("c", limit)
        study.tell(trial, value)
    if not function.noise:
        return None
    return [float(study.best_trial.params[f"x{j}"]) for j in range(function.dim)]


def botorch(function: Function, tell: Tell, evaluations: int, seed: int) -> Point | None:
    """The loop of BoTorch's tutorials: 10 Sobol points, SingleTaskGP, qLogNoisyExpectedImprovement, 10 restarts of 512 raw samples."""
    import torch
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.objective import GenericMCObjective
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.transforms import Normalize, Standardize
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood, SumMarginalLogLikelihood

    torch.manual_seed(seed)
    d = function.dim
    low, high = np.array(function.bounds).T
    bounds = torch.tensor(np.array([low, high]), dtype=torch.float64)

    def whole(x: np.ndarray[Any, Any]) -> Point:
        return [float(round(v) if i else v) for v, i in zip(x.clip(low, high), function.integers, strict=True)]

    start = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(10, dtype=torch.float64).numpy()
    points = [whole(low + (high - low) * u) for u in start]
    told = [tell(x) for x in points]
    while True:
        x = torch.tensor(points, dtype=torch.float64)
        y = torch.tensor([[value, *([] if limit is None else [limit])] for value, limit in told], dtype=torch.float64)
        models = [
            SingleTaskGP(x, y[:, k : k + 1], input_transform=Normalize(d, bounds=bounds), outcome_transform=Standardize(1))
            for k in range(y.shape[1])
        ]
        model: Any = models[0] if len(models) == 1 else ModelListGP(*models)
        mll: Any = (
            ExactMarginalLogLikelihood(model.likelihood, model) if len(models) == 1 else SumMarginalLogLikelihood(model.likelihood, model)
        )
        fit_gpytorch_mll(mll)
        if len(points) >= evaluations:
            break
        acquisition = qLogNoisyExpectedImprovement(
            model,
            X_baseline=x,
            objective=GenericMCObjective(lambda samples, X=None: -samples[..., 0]),
            constraints=None if len(models) == 1 else [lambda samples: samples[..., 1]],
            prune_baseline=True,
        )
        found, _ = optimize_acqf(acquisition, bounds=bounds, q=1, num_restarts=10, raw_samples=512)
        points.append(whole(found[0].numpy()))
        told.append(tell(points[-1]))
    if not function.noise:
        return None
    with torch.no_grad():
        return points[int(model.posterior(x).mean[:, 0].argmin())]


def ax(function: Function, tell: Tell, evaluations: int, seed: int) -> Point | None:
    """Ax's client with its default strategy."""
    from ax import Client, RangeParameterConfig

    client = Client(random_seed=seed)
    client.configure_experiment(
        [
            RangeParameterConfig(
                name=f"x{j}", parameter_type="int" if whole else "float", bounds=(int(low), int(high)) if whole else (low, high)
            )
            for j, ((low, high), whole) in enumerate(zip(function.bounds, function.integers, strict=True))
        ]
    )
    client.configure_optimization("-y", outcome_constraints=None if function.constraint is None else ["c <= 0"])
    for _ in range(evaluations):
        for index, parameters in client.get_next_trials(1).items():
            value, limit = tell([float(parameters[f"x{j}"]) for j in range(function.dim)])
            client.complete_trial(index, {"y": value, **({} if limit is None else {"c": limit})})
    if not function.noise:
        return None
    parameters, *_ = client.get_best_parameterization()
    return [float(parameters[f"x{j}"]) for j in range(function.dim)]


def smac(function: Function, tell: Tell, evaluations: int, seed: int) -> Point | None:
    """SMAC's facade for tuning, a random forest; without constraints there, an infeasible point costs what the worst one did.

    Its facade with a Gaussian process takes several minutes a run.
    """
    from ConfigSpace import ConfigurationSpace, Float, Integer
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    space = ConfigurationSpace(seed=seed)
    space.add(
        [
            Integer(f"x{j}", (int(low), int(high))) if whole else Float(f"x{j}", (low, high))
            for j, ((low, high), whole) in enumerate(zip(function.bounds, function.integers, strict=True))
        ]
    )
    with TemporaryDirectory() as folder:
        scenario = Scenario(space, deterministic=True, n_trials=evaluations, seed=seed, output_directory=Path(folder))
        facade = HyperparameterOptimizationFacade(scenario, lambda config, seed=0: 0.0, logging_level=False, overwrite=True)
        worst, best = -np.inf, (np.inf, [0.0])
        for _ in range(evaluations):
            info = facade.ask()
            x = [float(info.config[f"x{j}"]) for j in range(function.dim)]
            value, limit = tell(x)
            worst = max(worst, value)
            if limit is not None and limit > 0:
                value = worst
            best = min(best, (value, x))
            facade.tell(info, TrialValue(cost=value))
    return best[1] if function.noise else None


METHODS: dict[str, tuple[Callable[[Function, Tell, int, int], Point | None], tuple[str, ...]]] = {
    "optuna-gp": (lambda *given: optuna(*given, "gp"), ("optuna", "torch")),
    "optuna-tpe": (lambda *given: optuna(*given, "tpe"), ("optuna",)),
    "botorch": (botorch, ("botorch", "gpytorch", "torch")),
    "ax": (ax, ("ax-platform", "botorch", "torch")),
    "smac": (smac, ("smac", "scikit-learn")),
}


def measure(run: Callable[[Function, Tell, int, int], Point | None], name: str, seed: int, evaluations: int) -> dict[str, Any]:
    """Regret of the best point evaluated, under noise of the point that the method recommends, and CPU seconds without imports."""
    function = make(name, seed)
    told = function.teller(seed)
    points: list[Point] = []

    def tell(x: Point) -> tuple[float, float | None]:
        points.append(x)
        return told(x), None if function.constraint is None else function.constraint(x)

    began = time.process_time()
    recommended = run(function, tell, evaluations, seed)
    cpu = time.process_time() - began
    regret = function.regret(recommended) if recommended is not None else min(function.regret(x) for x in points[:evaluations])
    return {"regret": regret, "cpu": cpu}


def main() -> None:
    """One case, ``METHOD:FUNCTION:SEED``."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--case", required=True)
    options.add_argument("--evaluations", type=int, default=60)
    given = options.parse_args()
    method, name, seed = given.case.split(":")
    run, packages = METHODS[method]
    figures = measure(run, name, int(seed), given.evaluations)
    sys.stdout.write(json.dumps({**figures, "versions": {package: version(package) for package in packages}}) + "\n")


if __name__ == "__main__":
    main()
