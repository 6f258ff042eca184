"""A Gaussian process of values and derivatives."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Choice, Command, Environment, Real, Space, Study, Task
from zoopt.errors import FeedbackError
from zoopt.strategies import BO
from zoopt.strategies.bo.acquisitions import Guided
from zoopt.surrogates.base import TrainingData
from zoopt.surrogates.gp import GP
from zoopt.surrogates.gradients import GradientGP, Hyperparameters, Points, of_observed, with_observed

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def matern(a: Tensor, b: Tensor, lengths: Tensor) -> Tensor:
    r = (((a - b) / lengths).square().sum() + 1e-18).sqrt() * 5**0.5
    return (1 + r + r**2 / 3) * torch.exp(-r)


def test_covariances_are_derivatives_of_the_kernel() -> None:
    x, at = drawn(4, 3), drawn(2, 3, seed=1)
    theta = torch.tensor([-0.5, 0.2, 0.4, 0.7], dtype=F64)
    hyper = Hyperparameters(theta, 3, 0, 1e-6)
    points = Points(x, x[:, :0], torch.ones((4, 3), dtype=torch.bool))
    whole, cross = of_observed(points, hyper), with_observed(at, at[:, :0], points, hyper)
    kernel = lambda a, b: theta[3].exp() * matern(a, b, theta[:3].exp())  # noqa: E731
    for i in range(4):
        for j in range(4):
            assert float(whole[i, j]) == pytest.approx(float(kernel(x[i], x[j])), abs=1e-8)
            if i == j:
                continue
            by_second = torch.func.jacrev(kernel, argnums=1)(x[i], x[j])
            np.testing.assert_allclose(whole[i, 4 + 3 * j : 7 + 3 * j], by_second, atol=1e-7)
            by_both = torch.func.jacrev(torch.func.jacrev(kernel, argnums=0), argnums=1)(x[i], x[j])
            np.testing.assert_allclose(whole[4 + 3 * i : 7 + 3 * i, 4 + 3 * j : 7 + 3 * j], by_both, atol=1e-6)
        own = whole[4 + 3 * i : 7 + 3 * i, 4 + 3 * i : 7 + 3 * i]
        np.testing.assert_allclose(own, torch.diag(5 / 3 * theta[3].exp() / theta[:3].exp() ** 2), atol=1e-9)
        for k in range(2):
            np.testing.assert_allclose(cross[k, 4 + 3 * i : 7 + 3 * i], torch.func.jacrev(kernel, argnums=1)(at[k], x[i]), atol=1e-7)
    assert float(torch.linalg.eigvalsh(whole).min()) > 0


def sine(x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    y = torch.sin(4 * leaf[:, 0]) * (1 + leaf[:, 1])
    (slope,) = torch.autograd.grad(y.sum(), leaf)
    return y.detach().unsqueeze(-1), slope.unsqueeze(1)


SQUARE = Space({"x": Real(0, 1), "y": Real(0, 1)})


@pytest.mark.parametrize("deterministic", [True, False])
def test_derivatives_make_the_predictions_better(deterministic: bool) -> None:
    x, at = drawn(7, 2), drawn(200, 2, seed=3)
    (y, slopes), (truth, _) = sine(x), sine(at)
    task = Task(SQUARE, deterministic=deterministic)
    with_slopes = GP().fit(TrainingData(x, y, None, slopes), task)
    assert isinstance(with_slopes, GradientGP)
    error, plain = (
        float((model.posterior(at.unsqueeze(1)).mean.reshape(-1) - truth[:, 0]).square().mean().sqrt())
        for model in (with_slopes, GP().fit(TrainingData(x, y), task))
    )
    assert error < 0.35 * plain
    there = with_slopes.posterior(x.unsqueeze(1))
    if deterministic:
        np.testing.assert_allclose(there.mean.reshape(-1), y[:, 0], atol=1e-2)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(with_slopes.posterior(leaf.unsqueeze(1)).mean.sum(), leaf)
    np.testing.assert_allclose(slope, slopes[:, 0], atol=0.15)


def test_some_derivatives_may_be_missing() -> None:
    x, at = drawn(8, 2), drawn(100, 2, seed=3)
    y, slopes = sine(x)
    some = slopes.clone()
    some[::2, 0, 0] = torch.nan
    some[3] = torch.nan
    truth, _ = sine(at)
    task = Task(SQUARE, deterministic=True)
    errors = [
        float((GP().fit(TrainingData(x, y, None, s), task).posterior(at.unsqueeze(1)).mean.reshape(-1) - truth[:, 0]).square().mean())
        for s in (slopes, some, None)
    ]
    assert errors[0] < errors[2]
    assert errors[1] < errors[2]


def test_more_values_are_taken_in() -> None:
    x, more, at = drawn(6, 2), drawn(3, 2, seed=2), drawn(20, 2, seed=3)
    y, slopes = sine(x)
    model = GP().fit(TrainingData(x, y, None, slopes), Task(SQUARE, deterministic=True))
    added, _ = sine(more)
    grown = model.condition_on_observations(more, added)
    np.testing.assert_allclose(grown.posterior(more.unsqueeze(1)).mean.reshape(-1), added[:, 0], atol=1e-3)
    assert bool((grown.posterior(at.unsqueeze(1)).variance <= model.posterior(at.unsqueeze(1)).variance + 1e-9).all())


def test_a_command_may_leave_some_out(tmp_path) -> None:
    (tmp_path / "work.py").write_text("import json; print(json.dumps({'value': 1.0, 'gradients': [2.0, None]}))")
    study = Study(SQUARE, "random", seed=0)
    study.run(Command([sys.executable, "work.py", "{x}", "{y}"], cwd=tmp_path), evaluations=2)
    assert study.evaluations == 2
    assert study.failures == 0
    np.testing.assert_array_equal(study._ledger.gradients[0], [[2.0, np.nan]])


def rosenbrock(x: float, y: float) -> tuple[float, list[float]]:
    value = (1 - x) ** 2 + 100 * (y - x * x) ** 2
    return value, [-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]


def test_gradients_save_a_third_of_the_evaluations_on_rosenbrock() -> None:
    """In problem units, on axes of different kinds; evaluations until a value of .1."""

    def spent(with_gradients: bool, seed: int) -> int:
        study = Study({"x": Real(-2, 2), "y": Real(-1, 3)}, "bo", seed=seed, deterministic=True)
        while study.evaluations < 60:
            trial = study.ask()
            value, slope = rosenbrock(**trial.params)
            study.tell(trial, value, gradients=[slope] if with_gradients else None)
            if value < 0.1:
                break
        return study.evaluations

    pairs = np.array([[spent(told, seed) for told in (True, False)] for seed in range(2)])
    assert 1.5 * np.median(pairs[:, 0]) <= np.median(pairs[:, 1])


def test_with_choices_logarithms_and_noise(tmp_path) -> None:
    space = Space({"rate": Real(1e-3, 1e1, log=True), "kind": Choice("a", "b"), "z": Real(start=0.0, scale=2.0)})
    study = Study(space, "bo", seed=0, journal=tmp_path / "s.db")
    for i in range(14):
        trial = study.ask()
        p = trial.params
        u = np.log10(p["rate"]) + (p["kind"] == "b")
        value = u**2 + 0.1 * p["z"] ** 2 + 0.01 * np.sin(100 * p["z"])
        slope = [2 * u / (p["rate"] * np.log(10)), np.nan, 0.2 * p["z"]]
        study.tell(trial, value, gradients=[slope] if i % 2 else None)
    assert study.best.value < 0.2
    study.close()
    again = Study(space, "bo", journal=tmp_path / "s.db")
    assert again.ask() is not None
    with pytest.raises(FeedbackError, match="or NaN for the variables"):
        again.tell(again.ask(), 1.0, gradients=[[np.inf, 0, 0]])


@pytest.mark.parametrize("several", [True, False])
def test_several_objectives_and_constraints_take_them(several: bool) -> None:
    objectives = {"a": "minimize", "b": "maximize"} if several else None
    study = Study(SQUARE, BO(initial=3, raw_samples=32), objectives=objectives, seed=1, constraints=[] if several else ["c"])
    for _ in range(3):
        for trial in study.ask(2):
            p = trial.params
            value, slope = (p["x"] - 0.3) ** 2 + p["y"], [2 * (p["x"] - 0.3), 1.0]
            if several:
                study.tell(trial, [value, p["x"]], gradients=[slope, [1.0, 0.0]])
            else:
                study.tell(trial, value, gradients=slope, constraints=[0.2 - p["x"]])
    assert study.evaluations == 6


BELIEVED = Guided(near={"x": 0.3}, acquisition="predictive-entropy")


@pytest.mark.parametrize(
    "recipe", [{"acquisition": "predictive-entropy"}, {"acquisition": BELIEVED}, {"surrogate": "heteroscedastic-gp"}, {"surrogate": "saas"}]
)
def test_recipes_that_know_no_derivatives_go_on_without(recipe: dict[str, Any]) -> None:
    study = Study(SQUARE, BO(initial=4, raw_samples=32, **recipe), seed=1)
    for _ in range(7):
        trial = study.ask()
        study.tell(trial, trial.params["x"] ** 2, gradients=[[2 * trial.params["x"], 0.0]])
    assert study.info["model"] != "none yet"


def test_over_an_environment_values_alone_count() -> None:
    study = Study({"x": Real(0, 1), "e": Environment(Real(0, 1))}, BO(scenarios=8, initial=3), seed=1)
    for _ in range(5):
        trial = study.ask()
        p = trial.params
        study.tell(trial, (p["x"] - 0.3) ** 2 + p["e"] * p["x"], gradients=[[2 * (p["x"] - 0.3) + p["e"], p["x"]]])
    assert study.recommended is not None
