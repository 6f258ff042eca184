"""The scale on which bo sees values: fine near the best where that fits better."""

import math

import numpy as np
import pytest
import torch

from zoopt import Random, Real, Space, Study, Task
from zoopt.strategies.bo.models import fit_part
from zoopt.strategies.bo.recipe import BO
from zoopt.strategies.bo.stretch import LEVELS, Stretch
from zoopt.surrogates import GP, TrainingData

CUBE = Space({f"x{i}": Real(-5, 5) for i in range(4)})


def ellipsoid(x: torch.Tensor) -> torch.Tensor:
    """Condition 1e6, as bbob's second function."""
    z = x - torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=x.dtype)
    return (z.square() * 10.0 ** (6 * torch.arange(4, dtype=x.dtype) / 3)).sum(-1)


@pytest.mark.parametrize("level", LEVELS)
def test_it_goes_there_and_back_and_keeps_densities(level: float) -> None:
    y = torch.from_numpy(np.random.default_rng(0).lognormal(sigma=2, size=30))
    scale = Stretch.of(y, level)
    np.testing.assert_allclose(scale.back(scale(y)), y, rtol=1e-9)
    assert torch.equal(torch.argsort(scale(y)), torch.argsort(y))
    leaf = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(scale(leaf).sum(), leaf)
    np.testing.assert_allclose(scale.log_slope(y), slope.log(), atol=1e-12)
    part = TrainingData(y.unsqueeze(-1), y.unsqueeze(-1), 0.1 * y.unsqueeze(-1))
    assert scale.log_jacobian(part) == pytest.approx(float(slope.log().sum()))
    assert scale.even == math.isinf(level)


def test_outcomes_all_alike_have_no_other_scale() -> None:
    assert Stretch.of(torch.ones(9, dtype=torch.float64), 0.1).even


def test_the_scale_that_fits_is_taken() -> None:
    x = CUBE.sample(40, Random(0))
    task = Task(CUBE, deterministic=True)
    waves = torch.sin(3 * x[:, :2]).sum(-1, keepdim=True)
    steep = fit_part(GP(), TrainingData(x, (8 * waves).exp()), task, {}, "y", True)
    assert not steep.stretch.even
    assert fit_part(GP(), TrainingData(x, (8 * waves).exp()), task, {}, "y").stretch.even  # not asked for
    assert fit_part(GP(), TrainingData(x, waves), task, {}, "y", True).stretch.even
    assert not fit_part(GP(), TrainingData(x, waves), task, steep.memory, "y", True).stretch.even  # remembered
    assert fit_part(GP(), TrainingData(x, torch.ones(40, 1, dtype=torch.float64)), task, steep.memory, "y", True).stretch.even


def test_an_ill_conditioned_bowl_is_solved() -> None:
    def best(recipe: BO) -> float:
        study = Study(CUBE, recipe, seed=0, deterministic=True)
        for _ in range(50):
            trial = study.ask()
            study.tell(trial, float(ellipsoid(torch.tensor([list(trial.params.values())], dtype=torch.float64))))
        assert study.best is not None
        assert study.best.value is not None
        return float(study.best.value)

    assert best(BO()) < 0.5 * best(BO(stretch=False))


def test_predictions_are_in_units_of_their_own() -> None:
    """Whatever scale proposals were made on."""
    study = Study({"x": Real(0, 1)}, "bo", seed=0, deterministic=True)
    for _ in range(20):
        trial = study.ask()
        study.tell(trial, math.exp(8 * (trial.params["x"] - 0.3) ** 2) - 1)
    x = torch.linspace(0.12, 0.48, 30, dtype=torch.float64).unsqueeze(-1)
    predicted = study.strategy.predict(study.task, study._engine.state, x)
    assert predicted is not None
    truth = (8 * (x[:, 0] - 0.3) ** 2).exp() - 1
    np.testing.assert_allclose(predicted[0][:, 0], truth, atol=0.15)
