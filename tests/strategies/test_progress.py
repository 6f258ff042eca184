"""What is left to gain, against a world that can be counted out, and the stop that rests on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Random, Real, Space, Study
from zoopt.errors import ConfigError
from zoopt.problems import Branin
from zoopt.strategies import BO
from zoopt.strategies.bo.models import Data, Fitted
from zoopt.strategies.bo.progress import left_to_gain
from zoopt.strategies.bo.search import Search
from zoopt.strategy import Task
from zoopt.surrogates import GP, TrainingData

F64 = torch.float64
LINE = Space({"x": Real(0, 1)})


def known(x: Tensor, constraint: Tensor | None = None) -> Fitted:
    limits = torch.empty((len(x), 0), dtype=F64) if constraint is None else constraint
    task = Task(LINE, constraints=() if constraint is None else ("c",), deterministic=True)
    data = Data(TrainingData(x, 10 * torch.sin(7 * x)), limits, torch.empty((0, 1), dtype=F64))
    return Fitted(GP(), task, data, {}, Search(LINE, {}, x, True, Random(1)), Random(2))


@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_the_chance_is_that_of_many_functions_on_a_fine_grid(margin: float) -> None:
    fitted = known(torch.tensor([[0.0], [0.25], [0.5], [1.0]], dtype=F64))
    chance, gain = left_to_gain(fitted, margin, Random(3))
    grid = torch.linspace(0, 1, 400, dtype=F64).unsqueeze(-1)
    with torch.no_grad():
        posterior = fitted.objective.posterior(grid)
        covariance = posterior.distribution.covariance_matrix.numpy()
        drawn = np.random.default_rng(0).multivariate_normal(posterior.mean.squeeze(-1).numpy(), covariance, 20_000)
    best, unit = float(fitted.values.min()), float(fitted.units[0])
    brute = (best - drawn.min(1)).clip(0) * unit
    assert chance == pytest.approx((brute > margin).mean(), abs=0.08)
    assert gain == pytest.approx(brute.mean(), rel=0.2)


def test_it_falls_as_the_function_becomes_known() -> None:
    chances = [left_to_gain(known(torch.linspace(0, 1, n, dtype=F64).unsqueeze(-1)), None, Random(0))[0] for n in (3, 6, 25)]
    assert chances[0] > 0.3
    assert chances[2] < 0.02


def test_only_feasible_points_are_better() -> None:
    """The least value lies where the limit is broken: what remains is little with the limit, and much without."""
    x = torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4]], dtype=F64)
    free, _ = left_to_gain(known(x), None, Random(0))
    limited, _ = left_to_gain(known(x, 8 * x - 2.0), None, Random(0))
    assert free > 0.5 > 0.1 > limited
    chance, gain = left_to_gain(known(x, 0.5 - x), None, Random(0))
    assert chance > 0.5
    assert gain == np.inf, "nothing told is feasible, and something is likely to be"


def test_a_study_ends_when_little_is_left_to_gain() -> None:
    branin = Branin()
    study = Study(branin.space, BO(finish=0.05, raw_samples=64, restarts=2), seed=0, deterministic=True)
    study.run(branin, evaluations=80)
    assert study.status.reason == "converged"
    assert study.evaluations < 60
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value - 0.397887 < 0.01 * 300
    assert study.info["chance_of_better"] < 0.1  # type: ignore[operator]
    assert study.info["expected_gain"] >= 0  # type: ignore[operator]


def test_wrong_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="finish between 0 and 1"):
        BO(finish=2.0)
    with pytest.raises(ConfigError, match="noticeable >= 0"):
        BO(noticeable=-1.0)
    with pytest.raises(ConfigError, match="one objective"):
        Study(LINE, BO(finish=0.1), objectives={"a": "minimize", "b": "minimize"})
