"""A Gaussian process over several tasks, or sources of information."""

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Choice, Fidelity, Random, Real, Space, Task
from zoopt.surrogates.base import TrainingData
from zoopt.surrogates.gp import GP, Frame, Posterior, build
from zoopt.surrogates.tasks import Tasks

SOURCES = Fidelity(Choice("old", "rough", "fine"), target="fine", cost={"rough": 1, "fine": 10})
SPACE = Space({"x": Real(0, 1), "source": SOURCES, "c": Choice("a", "b"), "y": Real(0, 1)})


def data(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = SPACE.sample(n, Random(seed))
    source = x[:, 1]
    y = torch.sin(5 * x[:, 0]) * (1 + source) + x[:, 3] * (x[:, 2] + 1) + 3 * (source == 1)
    return x, y + 0.01 * Random(seed).child("noise").normal(n)


def density_of(x: Tensor, y: Tensor, fixed: Tensor | None = None) -> Posterior:
    return Posterior(Frame.of(SPACE, x, 1), x, (y - y.mean()) / y.std(), fixed, 1e-6)


@pytest.mark.parametrize("deterministic", [True, False])
def test_gradient_of_the_posterior_density(deterministic: bool) -> None:
    x, y = data(25)
    density = density_of(x, y, torch.full_like(y, 1e-2) if deterministic else None)
    theta = density.mode + 0.3 * np.random.default_rng(0).normal(size=density.mode.size)
    if not deterministic:
        theta[-1] = -3.0
    _, gradient = density.negative(theta)
    numeric = [(density.negative(theta + 1e-5 * e)[0] - density.negative(theta - 1e-5 * e)[0]) / 2e-5 for e in np.eye(theta.size)]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7)


def test_covariance_of_tasks_is_that_of_scaled_correlated_functions() -> None:
    tasks = Tasks(3, target=1)
    found = tasks.covariance(torch.tensor([0.5, -1.0, 1.5, -2.0, 0.7, -1.2], dtype=torch.float64))
    root = np.array([[1, 0, 0], [1.5, 1, 0], [-2.0, 0.7, 1]])
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    scale = np.exp([0.5, 0.0, -1.0])
    np.testing.assert_allclose(found, root @ root.T * np.outer(scale, scale))
    assert found[1, 1] == pytest.approx(1.0)


def test_it_predicts_what_its_kernel_says() -> None:
    """Against plain linear algebra over a covariance written down here, and against GPyTorch over the same modules."""
    x, y = data(20)
    density = density_of(x, y)
    theta = torch.from_numpy(density.mode + 0.2 * np.random.default_rng(1).normal(size=density.mode.size))
    model = build(Frame.of(SPACE, x, 1), x, y, theta, density, 1e-6)
    at, _ = data(15, 7)
    fast, slow = model.posterior(at), super(type(model), model).posterior(at)
    np.testing.assert_allclose(fast.mean, slow.mean.detach(), atol=1e-6)
    np.testing.assert_allclose(fast.distribution.covariance_matrix, slow.distribution.covariance_matrix.detach(), atol=1e-6)

    def covariance(a: Tensor, b: Tensor) -> Tensor:
        values = theta.exp()
        scaled = lambda z: z[:, [0, 3]] / values[:2]  # noqa: E731
        r = 5**0.5 * torch.cdist(scaled(a), scaled(b))
        matern = (1 + r + r**2 / 3) * torch.exp(-r)
        differs = torch.exp(-(a[:, None, 2] != b[None, :, 2]).double() / values[2])
        one, other = a[:, 1].long(), b[:, 1].long()
        between = Tasks(3, 2).covariance(theta[4:-1])[one][:, other]
        return values[3] * matern * differs * between + theta[-2].exp() * (one[:, None] == other[None, :])

    noisy = covariance(x, x) + theta[-1].exp() * torch.eye(20, dtype=x.dtype)
    ones = torch.ones(20, dtype=x.dtype)
    z = (y - y.mean()) / y.std()
    inverse = torch.linalg.inv(noisy)
    mean = (ones @ inverse @ z) / (ones @ inverse @ ones)
    cross = covariance(at, x)
    np.testing.assert_allclose(fast.mean[:, 0], y.mean() + y.std() * (mean + cross @ inverse @ (z - mean)), atol=1e-6)
    variance = (covariance(at, at) - cross @ inverse @ cross.T).diagonal() * y.var()
    np.testing.assert_allclose(fast.variance[:, 0], variance, atol=1e-6)
    mean_there, sd_there = model.moments(at)
    np.testing.assert_allclose(mean_there, fast.mean[:, 0], atol=1e-9)
    np.testing.assert_allclose(sd_there.square(), variance, atol=1e-6)


@pytest.mark.parametrize("factor", [3.0, -2.0])
def test_fifty_results_of_a_scaled_task_halve_the_error_of_five(factor: float) -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "source": Fidelity(Choice("old", "new"), target="new", cost={"new": 1})})

    def truth(x: Tensor) -> Tensor:
        return torch.sin(6 * x[:, 0]) + torch.cos(4 * x[:, 1] * (1 + x[:, 0]))

    errors = []
    for seed in range(5):
        x = space.sample(55, Random(seed))
        x[:, 2] = (torch.arange(55) >= 50).to(x)
        y = torch.where(x[:, 2] == 1, truth(x), factor * truth(x) + 10.0).unsqueeze(-1)
        at = space.sample(300, Random(seed).child("test"))
        at[:, 2] = 1.0
        task = Task(space, deterministic=True)
        both = GP().fit(TrainingData(x, y), task).posterior(at.unsqueeze(1)).mean.reshape(-1)
        alone = GP().fit(TrainingData(x[50:], y[50:]), task).posterior(at.unsqueeze(1)).mean.reshape(-1)
        errors.append([float((found.detach() - truth(at)).square().mean().sqrt()) for found in (both, alone)])
    both, alone = np.median(errors, axis=0)
    assert both < 0.5 * alone
