"""Surrogates for data that the plain Gaussian process does not fit, each beside it on data of that kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from zoopt import Random, Real, Space, Study
from zoopt.errors import ConfigError
from zoopt.strategies import BO
from zoopt.strategy import Task
from zoopt.surrogates import GP, SAAS, HeteroscedasticGP, RobustGP, Surrogate, TrainingData

F64 = torch.float64
LINE = Space({"x": Real(0, 1)})


def rmse(recipe: Surrogate, data: TrainingData, task: Task, test: Tensor, truth: Tensor) -> float:
    with torch.no_grad():
        return float((recipe.fit(data, task).posterior(test).mean - truth).square().mean().sqrt())


def test_saas_finds_the_columns_that_matter() -> None:
    """Two of twenty: their lengthscales stay short, the others grow out of the box; and its predictions gain from it."""
    space = Space({"x": Real(0, 1, shape=(20,))})

    def truth(x: Tensor) -> Tensor:
        return torch.sin(5 * x[:, :1]) + 2 * (x[:, 1:2] - 0.4).square()

    short, long, ours, plain = [], [], [], []
    for seed in range(5):
        x = Random(seed).child("x").uniform((30, 20))
        data, task = TrainingData(x, truth(x)), Task(space)
        lengths = SAAS().lengthscales(SAAS().fit(data, task))
        short.append(lengths[:2].max())
        long.append(lengths[2:].median())
        test = Random(seed).child("test").uniform((200, 20))
        ours.append(rmse(SAAS(), data, task, test, truth(test)))
        plain.append(rmse(GP(), data, task, test, truth(test)))
    assert float(torch.stack(short).median()) < 50
    assert float(torch.stack(long).median()) > 1000
    assert sorted(ours)[2] < 0.7 * sorted(plain)[2]


def test_the_gradient_of_the_sparse_prior() -> None:
    from zoopt.surrogates.gp import Frame, Posterior

    x = Random(0).child("x").uniform((15, 3))
    y = torch.sin(5 * x[:, 0])
    space = Space({"x": Real(0, 1, shape=(3,))})
    density = Posterior(Frame.of(space, x), x, (y - y.mean()) / y.std(), None, 1e-6)
    density.sparsity = 0.1
    theta = torch.tensor([-0.5, 1.0, 2.0, 0.1, -3.0], dtype=F64).numpy()
    _, slope = density.negative(theta)
    for j in range(5):
        step = 1e-5 * torch.eye(5, dtype=F64)[j].numpy()
        by_hand = (density.negative(theta + step)[0] - density.negative(theta - step)[0]) / 2e-5
        assert slope[j] == pytest.approx(by_hand, rel=1e-5, abs=1e-8)
    # Against the density itself: half-Cauchy of the squared inverse lengthscale in units of the scale.
    plain = Posterior(Frame.of(space, x), x, (y - y.mean()) / y.std(), None, 1e-6)
    lognormal = sum(-theta[j] - 0.5 * ((theta[j] - plain.centre[j]) / plain.width[j]) ** 2 for j in range(3))
    cauchy = stats.halfcauchy.logpdf(torch.exp(-2 * torch.from_numpy(theta[:3])).numpy() / 0.1) - stats.halfcauchy.logpdf(0.0)
    assert -density.negative(theta)[0] * 15 == pytest.approx(-plain.negative(theta)[0] * 15 - lognormal + cauchy.sum())


def test_left_out_is_what_a_fit_without_the_point_says() -> None:
    from zoopt.surrogates.gp import Frame, Posterior

    x = Random(0).child("x").uniform((12, 1))
    y = torch.sin(6 * x[:, 0])
    density = Posterior(Frame.of(LINE, x), x, y, None, 1e-6)
    theta = density.maximise(None, 100)
    found = density.left_out(theta)
    assert found is not None
    mean, _ = density.settled(theta)
    _, kernel, _ = density._covariance(theta.numpy())
    noisy = kernel + torch.diag(density.noise(theta.numpy()))
    for i in range(12):
        rest = [j for j in range(12) if j != i]
        weights = torch.linalg.solve(noisy[rest][:, rest], noisy[rest, i])
        assert float(found[0][i]) == pytest.approx(float(y[i] - mean - weights @ (y[rest] - mean)), rel=1e-6, abs=1e-8)
        assert float(found[1][i]) == pytest.approx(float(noisy[i, i] - weights @ noisy[rest, i]), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_corrupted_outcome_is_found_and_no_other(seed: int) -> None:
    x = Random(seed).child("x").uniform((20, 1))
    truth = torch.sin(6 * x)
    y = truth + 0.05 * Random(seed).child("noise").normal((20, 1))
    wrong = int(Random(seed).child("which").integers(20, 1))
    y[wrong] += 4.0
    task = Task(LINE)
    model: Any = RobustGP().fit(TrainingData(x, y), task)
    noise = model.likelihood.noise
    assert torch.nonzero(noise > 10 * noise.median()).flatten().tolist() == [wrong]
    test = torch.linspace(0.05, 0.95, 50, dtype=F64).unsqueeze(-1)
    ours, plain = (rmse(recipe, TrainingData(x, y), task, test, torch.sin(6 * test)) for recipe in (RobustGP(), GP()))
    assert ours < min(0.12, 0.6 * plain)
    y[wrong] = truth[wrong]
    clean: Any = RobustGP().fit(TrainingData(x, y), task)
    assert clean.likelihood.noise.numel() == 1, "without an outlier it is the plain process"


def test_noise_that_varies_is_seen() -> None:
    """A noise of variance 1 on one half and .01 on the other: outcomes are predicted with a better score than by one noise for all."""
    gains = []
    for seed in range(5):
        x = Random(seed).child("x").uniform((80, 1))
        sd = torch.where(x > 0.5, 1.0, 0.1)
        y = torch.sin(6 * x) + sd * Random(seed).child("noise").normal((80, 1))
        test = Random(seed).child("test").uniform((400, 1))
        outcomes = torch.sin(6 * test) + torch.where(test > 0.5, 1.0, 0.1) * Random(seed).child("test noise").normal((400, 1))
        scores = []
        for recipe in (HeteroscedasticGP(), GP()):
            with torch.no_grad():
                posterior: Any = recipe.fit(TrainingData(x, y), Task(LINE)).posterior(test.unsqueeze(1), observation_noise=True)
            mean, spread = posterior.mean.reshape(-1), posterior.variance.reshape(-1).sqrt()
            scores.append(float(torch.from_numpy(stats.norm.logpdf(outcomes[:, 0].numpy(), mean.numpy(), spread.numpy())).mean()))
        gains.append(scores[0] - scores[1])
    assert min(gains) > 0
    assert sorted(gains)[2] > 0.3


@pytest.mark.parametrize("name", ["saas", "robust-gp", "heteroscedastic-gp"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_each_drives_a_study_by_name(name: str, deterministic: bool) -> None:
    study = Study(
        Space({"x": Real(-1, 2), "y": Real(0, 1)}), BO(surrogate=name, raw_samples=64, restarts=2), seed=0, deterministic=deterministic
    )
    for _ in range(20):
        trial = study.ask()
        study.tell(trial, (trial.params["x"] - 0.3) ** 2 + (trial.params["y"] - 0.7) ** 2)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.05


def test_wrong_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="scales above 0"):
        SAAS(scales=(0.0,))
    with pytest.raises(ConfigError, match="most < 1"):
        RobustGP(most=1.0)
    with pytest.raises(ConfigError, match="rounds >= 1"):
        HeteroscedasticGP(rounds=0)
