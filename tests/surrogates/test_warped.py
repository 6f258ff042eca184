"""A Gaussian process over bent columns, and one of several tasks under a context."""

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP

from zoopt import Choice, Context, Random, Real, Space, Study, Task
from zoopt.errors import ConfigError
from zoopt.strategies import BO
from zoopt.surrogates import GP, MultiTaskGP, TrainingData, WarpedGP
from zoopt.surrogates.gp import Frame, Posterior, bent, build

BOX = Space({"x": Real(0, 1), "kind": Choice("a", "b", "c", ordered=True), "y": Real(0, 1)})


@pytest.mark.parametrize("deterministic", [True, False])
def test_gradient_of_the_posterior_density(deterministic: bool) -> None:
    x = BOX.sample(20, Random(0))
    y = torch.sin(9 * x[:, 0] ** 3) + x[:, 1] * x[:, 2]
    density = Posterior(
        Frame.of(BOX, x, None, True), x, (y - y.mean()) / y.std(), torch.full_like(y, 1e-2) if deterministic else None, 1e-6
    )
    assert density.mode.size == 3 + 1 + 6 + (not deterministic)
    theta = density.mode + 0.3 * np.random.default_rng(0).normal(size=density.mode.size)
    if not deterministic:
        theta[-1] = -3.0
    _, gradient = density.negative(theta)
    numeric = [(density.negative(theta + 1e-5 * e)[0] - density.negative(theta - 1e-5 * e)[0]) / 2e-5 for e in np.eye(theta.size)]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7)


def test_it_answers_as_botorch_does_with_its_own_warp() -> None:
    x = BOX.sample(15, Random(1))
    y = torch.sin(9 * x[:, 0] ** 3) + x[:, 1] * x[:, 2]
    frame = Frame.of(BOX, x, None, True)
    density = Posterior(frame, x, (y - y.mean()) / y.std(), None, 1e-6)
    theta = torch.from_numpy(density.mode + 0.4 * np.random.default_rng(1).normal(size=density.mode.size))
    model = build(frame, x, y, theta, density, 1e-6)
    at = BOX.sample(12, Random(2))
    ours, theirs = model.posterior(at), SingleTaskGP.posterior(model, at)
    torch.testing.assert_close(ours.mean, theirs.mean.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.covariance_matrix, theirs.covariance_matrix.detach(), rtol=1e-4, atol=1e-5)


def test_no_warp_changes_nothing() -> None:
    z = torch.rand((9, 3), dtype=torch.float64)
    np.testing.assert_allclose(bent(z, torch.tensor([0, 2]), torch.ones(4, dtype=torch.float64)), z, atol=1e-6)


def test_what_should_have_been_searched_by_its_logarithm_is_predicted_better() -> None:
    space = Space({"rate": Real(0, 1), "z": Real(0, 1)})

    def truth(x: torch.Tensor) -> torch.Tensor:
        return (x[:, 0].clamp_min(1e-4).log10() + 2.5) ** 2 + torch.sin(3 * x[:, 1])

    at = space.sample(400, Random(9))
    at[:, 0] = at[:, 0] ** 4  # where it matters
    errors = []
    for seed in range(4):
        x = space.sample(40, Random(seed))
        x[::2, 0] = x[::2, 0] ** 4
        data, task = TrainingData(x, truth(x).unsqueeze(-1)), Task(space, deterministic=True)
        errors.append(
            [
                float((g.fit(data, task).posterior(at.unsqueeze(1)).mean.reshape(-1) - truth(at)).square().mean().sqrt())
                for g in (WarpedGP(), GP())
            ]
        )
    bending, plain = np.median(errors, axis=0)
    assert bending < 0.6 * plain


def test_it_drives_a_study_and_goes_on_warm() -> None:
    study = Study({"rate": Real(0, 1), "z": Real(0, 1)}, BO(surrogate="warped-gp", initial=6), seed=0, deterministic=True)
    for _ in range(22):
        trial = study.ask()
        study.tell(trial, (np.log10(max(trial.params["rate"], 1e-5)) + 3) ** 2 + (trial.params["z"] - 0.4) ** 2)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.05


def test_what_one_task_teaches_helps_in_another() -> None:
    """Customers who want much the same, one of them the opposite; the newest has three results."""
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "who": Context(Choice("ann", "bob", "eve"))})

    def wish(x: torch.Tensor) -> torch.Tensor:
        plain = torch.sin(6 * x[:, 0]) + torch.cos(5 * x[:, 1])
        return torch.where(x[:, 2] == 1, 10 - 2 * plain, plain + x[:, 2])

    errors = []
    for seed in range(4):
        x = space.sample(44, Random(seed))
        x[:, 2] = (torch.arange(44) % 2).to(x)
        x[-4:, 2] = 2.0
        at = space.sample(300, Random(50))
        at[:, 2] = 2.0
        data, task = TrainingData(x, wish(x).unsqueeze(-1)), Task(space, deterministic=True)
        errors.append(
            [
                float((g.fit(data, task).posterior(at.unsqueeze(1)).mean.reshape(-1) - wish(at)).square().mean().sqrt())
                for g in (MultiTaskGP(), GP())
            ]
        )
    joint, plain = np.median(errors, axis=0)
    assert joint < 0.6 * plain
    study = Study(space, BO(surrogate="multi-task-gp", initial=3), seed=0)
    for who in ("ann", "bob", "eve") * 3:
        trial = study.ask(context={"who": who})
        study.tell(trial, trial.params["x"] * (1 if who == "ann" else -1))
    assert study.ask(context={"who": "eve"}).params["x"] > 0.5
    with pytest.raises(ConfigError, match="name it by tasks"):
        Study({"x": Real(0, 1)}, BO(surrogate="multi-task-gp"))
    with pytest.raises(ConfigError, match="no single unordered choice"):
        Study(space, BO(surrogate=MultiTaskGP(tasks="x")))
