"""Many observations: the approximation against the exact process, and hyperparameters that are held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from zoopt import Choice, Random, Real, Space, Study
from zoopt.errors import ConfigError
from zoopt.strategies import BO
from zoopt.strategy import Task
from zoopt.surrogates import GP, TrainingData
from zoopt.surrogates.sparse import SparseGP, inducing_points

F64 = torch.float64
SQUARE = Space({"x": Real(0, 1), "y": Real(0, 1)})


def outcome(x: Tensor) -> Tensor:
    return (torch.sin(5 * x[:, 0]) + (2 * x[:, 1] - 1).square() + 3.0).unsqueeze(-1)


def data(n: int, noise: float = 0.0, d: int = 2) -> TrainingData:
    x = Random(0).child("x").uniform((n, d))
    return TrainingData(x, outcome(x) + noise * Random(1).child("e").normal((n, 1)))


def test_with_every_point_an_inducing_one_it_is_the_exact_process() -> None:
    known = data(60, 0.1)
    exact: Any = GP().fit(known, Task(SQUARE))
    sparse = SparseGP(exact, known.x, known.x, known.y)
    test = Random(2).child("x").uniform((5, 3, 2))
    with torch.no_grad():
        ours, theirs = sparse.posterior(test), exact.posterior(test)
        torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.covariance_matrix, theirs.covariance_matrix, rtol=1e-2, atol=1e-4)
        more, noise = Random(3).child("x").uniform((2, 2)), torch.full((2, 1), 0.01, dtype=F64)
        a, b = (m.condition_on_observations(more, outcome(more), noise=noise).posterior(test) for m in (sparse, exact))
        torch.testing.assert_close(a.mean, b.mean, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(a.covariance_matrix, b.covariance_matrix, rtol=1e-2, atol=1e-4)


def test_inducing_points_leave_the_least_variance() -> None:
    """Greedily, one at a time: against the posterior variances of exact processes without noise."""
    known = data(30)
    kernel: Any = GP().fit(known, Task(SQUARE))
    chosen = inducing_points(kernel, known.x, torch.tensor([7]), 6).tolist()
    assert chosen[0] == 7
    at = kernel._split(known.x)
    covariance = kernel._covariance(at, at)
    for k in range(1, 6):
        before = chosen[:k]
        left = covariance - covariance[:, before] @ torch.linalg.solve(covariance[before][:, before], covariance[before])
        assert chosen[k] == int(left.diagonal().argmax())


@pytest.mark.parametrize("deterministic", [True, False])
def test_beyond_the_largest_it_knows_more_than_the_points_it_keeps(deterministic: bool) -> None:
    """Twelve hundred observations through sixty points: better than the exact process of as many, and calibrated on the safe side."""
    known = data(1200, 0.0 if deterministic else 0.3)
    model: Any = GP(largest=300, inducing=60).fit(known, Task(SQUARE, deterministic=deterministic))
    assert isinstance(model, SparseGP)
    few = GP().fit(TrainingData(known.x[:60], known.y[:60]), Task(SQUARE, deterministic=deterministic))
    test = Random(5).child("x").uniform((300, 1, 2))
    with torch.no_grad():
        ours, theirs = model.posterior(test), few.posterior(test)
    error, other = (found.mean.reshape(-1) - outcome(test.squeeze(1)).squeeze(-1) for found in (ours, theirs))
    assert float(error.square().mean()) < float(other.square().mean())
    assert float((error.square() / ours.variance.reshape(-1)).mean()) < 3


def test_a_study_of_many_results_goes_on() -> None:
    """With choices, pending points and a limit, the recipe made small."""
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "c": Choice("a", "b")})
    study = Study(space, BO(surrogate=GP(largest=60, inducing=20), raw_samples=32, restarts=1), seed=0, constraints=["limit"])

    def value(p: dict[str, Any]) -> float:
        return float((p["x"] - 0.3) ** 2 + (p["y"] - 0.6) ** 2 + (p["c"] == "b"))

    for params in study.space.params(study.space.sample(100, Random(1))):
        study.add(params, value(params), constraints={"limit": 0.2 - params["x"]})
    for _ in range(4):
        for trial in study.ask(2):
            study.tell(trial, value(trial.params), constraints={"limit": 0.2 - trial.params["x"]})
    assert study.info["points"] == 106.0
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.01


def test_hyperparameters_are_held_until_there_are_a_tenth_more_points() -> None:
    task = Task(SQUARE)
    whole = data(260, 0.1)
    recipe = GP()

    def memory(n: int, start: Tensor | None) -> Tensor:
        found = recipe.memory(recipe.fit(TrainingData(whole.x[:n], whole.y[:n]), task, start))
        assert found is not None
        return found

    first = memory(210, None)
    assert torch.equal(memory(230, first), first)
    grown = memory(232, first)
    assert grown[0, -1] == 232
    assert not torch.equal(grown[0, :-1], first[0, :-1])
    few = memory(100, None)
    assert memory(101, few)[0, -1] == 101, "few points are cheap"


def test_wrong_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="inducing >= 10"):
        GP(inducing=1)
