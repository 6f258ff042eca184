"""The Gaussian process: its fit against BoTorch's, its answers against GPyTorch's, and data that break lesser ones."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.space import Choice, Integer, Real, Space
from zoopt.strategy import Task
from zoopt.surrogates import GP, TrainingData
from zoopt.surrogates.gp import Frame, Posterior

MIXED = Space({"x": Real(-2, 3), "k": Integer(1, 9), "c": Choice("a", "b", "c"), "free": Real(), "size": Choice(1, 2, 4, 8, ordered=True)})
BOX = Space({"x": Real(0, 1, shape=(3,))})


def points(space: Space, n: int, seed: int = 0) -> Tensor:
    u = torch.rand((n, space.dim), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return space.from_unit(u)


def outcome(x: Tensor) -> Tensor:
    return (torch.sin(3 * x[:, :1]).sum(-1) + 0.5 * x[:, -1] * x[:, 0] + 2.0).unsqueeze(-1)


@pytest.mark.parametrize("space", [BOX, MIXED, Space({"c": Choice("a", "b", "c"), "d": Choice(*range(4))})])
@pytest.mark.parametrize("deterministic", [True, False])
def test_gradient_of_the_posterior_density(space: Space, deterministic: bool) -> None:
    x = points(space, 20)
    y = outcome(x)[:, 0] + 0.1 * torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fixed = torch.full_like(y, 1e-2) if deterministic else None
    density = Posterior(Frame.of(space, x), x, (y - y.mean()) / y.std(), fixed, 1e-6)
    theta = density.mode + 0.3 * np.random.default_rng(0).normal(size=density.mode.size)
    if not deterministic:
        theta[-1] = -3.0
    _, gradient = density.negative(theta)
    numeric = [(density.negative(theta + 1e-5 * e)[0] - density.negative(theta - 1e-5 * e)[0]) / 2e-5 for e in np.eye(theta.size)]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("n", "d", "seed"),
    [(25, BOX.dim, 0), (25, BOX.dim, 1), (25, BOX.dim, 2), *((n, d, s) for n in (20, 100) for d in (2, 6) for s in (3, 4, 5))],
)
def test_map_estimate_is_that_of_botorch(n: int, d: int, seed: int) -> None:
    """The same kernel and priors, fitted by BoTorch until nothing moves, end where ours do, or at a lower optimum."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.transforms.outcome import Standardize
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior

    box = Space({f"x{j}": Real(0, 1) for j in range(d)})
    x = points(box, n, seed)
    y = outcome(x) + 0.1 * torch.randn((n, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = MaternKernel(
        nu=2.5,
        ard_num_dims=d,
        lengthscale_prior=LogNormalPrior(math.sqrt(2) + math.log(d) / 2, math.sqrt(3)),
        lengthscale_constraint=GreaterThan(0.025, transform=None, initial_value=0.5),
    )
    peer = SingleTaskGP(
        x,
        y,
        covar_module=ScaleKernel(lengths, outputscale_prior=LogNormalPrior(0.0, 1.5)),
        likelihood=GaussianLikelihood(
            noise_prior=LogNormalPrior(-4.0, 1.0), noise_constraint=GreaterThan(1e-6, transform=None, initial_value=1e-2)
        ),
        outcome_transform=Standardize(m=1),
    )
    with torch.random.fork_rng():
        fit_gpytorch_mll(ExactMarginalLogLikelihood(peer.likelihood, peer), optimizer_kwargs={"options": {"ftol": 1e-13, "gtol": 1e-9}})
    ours = GP().fit(TrainingData(x, y), Task(box))
    memory = GP().memory(ours)
    assert memory is not None
    theta = memory[0, :-1]
    theirs = torch.cat(
        [peer.covar_module.base_kernel.lengthscale.flatten(), peer.covar_module.outputscale.reshape(1), peer.likelihood.noise.flatten()]
    ).log()
    density = Posterior(Frame.of(box, x), x, ((y - y.mean()) / y.std())[:, 0], None, 1e-6)
    above = n * (density.negative(theta.numpy())[0] - density.negative(theirs.detach().numpy())[0])
    assert above < 1e-5
    if above < -1e-3:  # ours is another optimum, which BoTorch's one start does not see
        return
    test = points(box, 100, seed + 100)
    with torch.no_grad():
        a, b = ours.posterior(test), peer.posterior(test)
    sd = b.variance.sqrt()
    assert float(((a.mean - b.mean) / sd).abs().max()) < 1e-3
    assert float((a.variance.sqrt() / sd - 1).abs().max()) < 1e-3


@pytest.mark.parametrize("space", [BOX, MIXED])
@pytest.mark.parametrize("deterministic", [True, False])
def test_quick_posterior_is_that_of_gpytorch(space: Space, deterministic: bool) -> None:
    x = points(space, 30)
    model = GP().fit(TrainingData(x, outcome(x)), Task(space, deterministic=deterministic))
    test = torch.cat([points(space, 11, 5), x[:1]]).reshape(4, 3, -1).requires_grad_(True)
    quick, slow = model.posterior(test), SingleTaskGP.posterior(model, test)
    torch.testing.assert_close(quick.mean, slow.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(quick.covariance_matrix, slow.covariance_matrix, rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(quick.mean.sum() + quick.variance[:, :2].sum(), test)[0]
    theirs = torch.autograd.grad(slow.mean.sum() + slow.variance[:, :2].sum(), test)[0]
    moved = [j for j, column in enumerate(space.columns) if column.kind != "choice"]
    torch.testing.assert_close(ours[:3, :, moved], theirs[:3, :, moved], rtol=1e-3, atol=1e-4)
    assert bool(torch.isfinite(ours).all())


def test_conditioned_on_more_data_it_answers_with_them() -> None:
    x = points(BOX, 10)
    model = GP().fit(TrainingData(x, outcome(x)), Task(BOX, deterministic=True))
    fresh = points(BOX, 1, 7)
    more = model.condition_on_observations(fresh, outcome(fresh) + 0.3, noise=torch.full((1, 1), 1e-8, dtype=torch.float64))
    assert more.posterior(fresh).mean.item() == pytest.approx(float(outcome(fresh) + 0.3), abs=1e-3)


@pytest.mark.parametrize("space", [BOX, MIXED])
@pytest.mark.parametrize("deterministic", [True, False])
def test_rows_added_to_the_factor_say_what_a_new_factorisation_says(space: Space, deterministic: bool) -> None:
    def ten(x: Tensor) -> Tensor:
        return 10.0 * outcome(x)  # GPyTorch knows no noise variance below 1e-6

    x = points(space, 20)
    model = GP().fit(TrainingData(x, ten(x)), Task(space, deterministic=deterministic))
    first, second, test = points(space, 3, 7), points(space, 2, 8), points(space, 9, 9)
    noise = torch.full((3, 1), 0.01, dtype=torch.float64)
    more = model.condition_on_observations(first, ten(first) + 0.3, noise=noise)
    both = more.condition_on_observations(second, ten(second))
    own = float(model.likelihood.noise.mean()) * float(ten(x).std()) ** 2
    variances = torch.cat([torch.full((20, 1), own, dtype=torch.float64), noise, torch.full((2, 1), own, dtype=torch.float64)])
    peer = SingleTaskGP(
        torch.cat([x, first, second]),
        torch.cat([ten(x), ten(first) + 0.3, ten(second)]) - ten(x).mean(),
        variances,
        covar_module=copy.deepcopy(model.covar_module),
        input_transform=getattr(model, "input_transform", None),
        outcome_transform=None,
    )
    scale = ten(x).std()
    peer.covar_module.outputscale = peer.covar_module.outputscale * scale.square()
    peer.mean_module.constant.data = model.mean_module.constant.data * scale
    peer.eval()
    with torch.no_grad():
        theirs, ours = peer.posterior(test), both.posterior(test)
        torch.testing.assert_close(ours.mean, theirs.mean + ten(x).mean(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.covariance_matrix, theirs.covariance_matrix, rtol=1e-3, atol=1e-5)
        noisy = both.posterior(test, observation_noise=True).variance - ours.variance
    torch.testing.assert_close(noisy, torch.full_like(noisy, own))
    assert not torch.equal(model.posterior(test).mean, ours.mean), "the first model is what it was"


def test_deterministic_interpolates_and_noise_is_learned() -> None:
    x = points(BOX, 60)
    exact = GP().fit(TrainingData(x, outcome(x)), Task(BOX, deterministic=True))
    torch.testing.assert_close(exact.posterior(x).mean, outcome(x), atol=1e-3, rtol=0)
    line = Space({"x": Real(0, 1)})
    x = points(line, 60)
    y = torch.sin(6 * x) + 0.3 * torch.randn((60, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = GP().fit(TrainingData(x, y), Task(line))
    assert 0.5 * 0.09 < float(noisy.likelihood.noise) * float(y.var()) < 1.5 * 0.09
    test = points(line, 100, 9)
    assert float((noisy.posterior(test).mean - torch.sin(6 * test)).square().mean().sqrt()) < 0.15


def test_what_is_small_beside_the_range_is_not_taken_for_noise() -> None:
    """A slope of 1 along one variable, and structure of a fiftieth of that along the others, without noise."""
    x = torch.rand((30, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    small = lambda x: 0.03 * (torch.sin(6 * x[:, 0]) + torch.cos(5 * x[:, 1]))  # noqa: E731
    model = GP().fit(TrainingData(x, (x[:, 2] + small(x)).unsqueeze(-1)), Task(BOX))
    test = points(BOX, 200, 9)
    left = model.posterior(test).mean[:, 0] - test[:, 2] - small(test)
    assert float(left.std()) < 0.4 * float(small(test).std())


def test_told_noise_weighs_the_rows() -> None:
    x = torch.tensor([[0.5, 0.5, 0.5]] * 2 + [[0.1, 0.2, 0.3], [0.9, 0.1, 0.6]], dtype=torch.float64)
    y = torch.tensor([[0.0], [1.0], [3.0], [-2.0]], dtype=torch.float64)
    sd = torch.tensor([[0.01], [1.0], [0.01], [torch.nan]], dtype=torch.float64)
    model = GP().fit(TrainingData(x, y, sd), Task(BOX))
    assert abs(model.posterior(x[:1]).mean.item()) < 0.05


def test_choices_have_no_order_and_ordered_ones_do() -> None:
    space = Space({"c": Choice("a", "b", "c", "d"), "x": Real(0, 1)})
    x = points(space, 40)
    y = torch.tensor([1.0, -3.0, 2.0, -1.0], dtype=torch.float64)[x[:, 0].long()].unsqueeze(-1) + x[:, 1:]
    model = GP().fit(TrainingData(x, y), Task(space, deterministic=True))
    test = points(space, 50, 3)
    truth = torch.tensor([1.0, -3.0, 2.0, -1.0], dtype=torch.float64)[test[:, 0].long()].unsqueeze(-1) + test[:, 1:]
    assert float((model.posterior(test).mean - truth).abs().max()) < 0.1
    ordered = Space({"s": Choice(1, 2, 4, 8, 16, 32, ordered=True)})
    x = torch.tensor([[0.0], [1.0], [4.0], [5.0]], dtype=torch.float64)
    between = (
        GP().fit(TrainingData(x, x.clone()), Task(ordered, deterministic=True)).posterior(torch.tensor([[2.0], [3.0]], dtype=torch.float64))
    )
    assert 1.0 < between.mean[0].item() < between.mean[1].item() < 4.0


def test_warm_start_ends_at_the_same_place_and_is_quicker() -> None:
    x = points(BOX, 40)
    data = TrainingData(x, outcome(x))
    recipe = GP()
    cold = recipe.memory(recipe.fit(data, Task(BOX)))
    barely = GP(iterations=2)
    warm = barely.memory(barely.fit(data, Task(BOX), cold))
    torch.testing.assert_close(warm, cold, atol=1e-3, rtol=0)
    assert float((barely.memory(barely.fit(data, Task(BOX))) - cold).abs().max()) > 1e-2  # two iterations alone do not get there


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    "y",
    [
        torch.ones(12),
        torch.full((12,), 1e12),
        torch.logspace(-12, 12, 12, dtype=torch.float64),
        1e-13 * torch.arange(12.0),
        torch.tensor([1e100] + [0.0] * 11, dtype=torch.float64),
    ],
    ids=["constant", "large constant", "24 decades", "tiny", "one enormous"],
)
def test_awkward_outcomes(y: Tensor, deterministic: bool) -> None:
    x = points(BOX, 12)
    model = GP().fit(TrainingData(x, y.double().unsqueeze(-1)), Task(BOX, deterministic=deterministic))
    posterior = model.posterior(points(BOX, 5, 1))
    assert bool(torch.isfinite(posterior.mean).all()) and bool(torch.isfinite(posterior.variance).all())


@pytest.mark.parametrize("deterministic", [True, False])
def test_ten_identical_points(deterministic: bool) -> None:
    x = points(BOX, 1).repeat(10, 1)
    y = torch.linspace(0, 1, 10, dtype=torch.float64).unsqueeze(-1)
    model = GP().fit(TrainingData(x, y), Task(BOX, deterministic=deterministic))
    assert model.posterior(x[:1]).mean.item() == pytest.approx(0.5, abs=1e-3)
    assert bool(torch.isfinite(model.posterior(points(BOX, 5, 1)).variance).all())


def test_several_outcomes_are_several_models() -> None:
    x = points(BOX, 15)
    y = torch.cat([outcome(x), -10 * outcome(x)], -1)
    recipe = GP()
    model = recipe.fit(TrainingData(x, y), Task(BOX, deterministic=True))
    assert model.posterior(x).mean.shape == (15, 2)
    torch.testing.assert_close(model.posterior(x).mean, y, atol=1e-2, rtol=0)
    again = recipe.fit(TrainingData(x, y), Task(BOX, deterministic=True), recipe.memory(model))
    torch.testing.assert_close(again.posterior(x).mean, y, atol=1e-2, rtol=0)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="1e-6 <= noise_floor < 1"):
        GP(noise_floor=0.0)
