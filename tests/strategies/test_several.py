"""Bayesian optimization of several objectives: held to hypervolumes counted by hand, and to what a user sees of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Batched, Random, Real, Space, Study
from zoopt.config import ConfigFaults, load
from zoopt.errors import ConfigError
from zoopt.feedback import Evaluation
from zoopt.problems import BraninCurrin
from zoopt.strategies.bo.acquisitions import Acquisition, Guided
from zoopt.strategies.bo.automatic import Automatic
from zoopt.strategies.bo.models import Data, Fitted, merit_of
from zoopt.strategies.bo.recipe import BO
from zoopt.strategies.bo.search import Search
from zoopt.strategies.bo.several import HypervolumeImprovement, Scalarised
from zoopt.strategy import Task
from zoopt.surrogates import GP, TrainingData

F64 = torch.float64
SQUARE = Space({"x": Real(0, 1), "y": Real(0, 1)})
QUICK = BO(acquisition=Automatic(samples=16), raw_samples=64, restarts=2)
Array = np.ndarray[Any, Any]


def two(x: Tensor) -> Tensor:
    """Two bowls that pull apart: the trade-offs lie between (.2, .3) and (.8, .6)."""
    return torch.stack([(x - torch.tensor([0.2, 0.3])).square().sum(-1), (x - torch.tensor([0.8, 0.6])).square().sum(-1)], -1)


def fitted(n: int = 8, deterministic: bool = True, constraint: Tensor | None = None) -> Fitted:
    x = Random(0).child("draw").uniform((n, 2))
    limits = torch.empty((n, 0), dtype=F64) if constraint is None else constraint.unsqueeze(-1)
    task = Task(SQUARE, ("a", "b"), () if constraint is None else ("c",), deterministic=deterministic)
    search = Search(SQUARE, {}, x, deterministic, Random(1))
    return Fitted(GP(), task, Data(TrainingData(x, two(x)), limits, torch.empty((0, 2), dtype=F64)), {}, search, Random(2))


def hypervolume(values: Array, reference: Array) -> float:
    """Of two objectives to be minimised, by a sweep over the first."""
    inside = values[(values < reference).all(-1)]
    total, lowest = 0.0, reference[1]
    for a, b in inside[np.argsort(inside[:, 0])]:
        if b < lowest:
            total += (reference[0] - a) * (lowest - b)
            lowest = b
    return float(total)


def test_dominating_rows_are_counted() -> None:
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (40, 3)).astype(float))
    by_hand = [sum(bool((other <= row).all() and (other < row).any()) for other in values) for row in values]
    assert merit_of(values).tolist() == by_hand
    assert torch.equal(merit_of(values[:, :1]), values[:, 0])


def test_the_hypervolume_improvement_is_that_of_drawn_fronts() -> None:
    """At points of little and of much promise: the mean of what joint samples add, the boxes swept by hand."""
    known = fitted()
    ideal, reference = known.corners
    x = torch.tensor([[0.5, 0.5], [0.35, 0.4], [0.6, 0.45], [0.1, 0.9]], dtype=F64)
    ours = HypervolumeImprovement(samples=1024).function(known, None)(x.unsqueeze(-2)).detach().exp() * (reference - ideal).prod()
    generator = torch.Generator().manual_seed(0)
    for point, value in zip(x, ours, strict=True):
        both = torch.cat([known.settings, point.unsqueeze(0)])
        columns = []
        for model in known.objectives:
            posterior = model.posterior(both)
            root = torch.linalg.cholesky(posterior.distribution.covariance_matrix)
            columns.append(posterior.mean.squeeze(-1) + torch.randn((4096, 9), generator=generator, dtype=F64) @ root.mT)
        worlds, corner = torch.stack(columns, -1).detach().numpy(), reference.numpy()
        gains = [hypervolume(world, corner) - hypervolume(world[:-1], corner) for world in worlds]
        error = np.std(gains) / 64
        assert float(value) == pytest.approx(np.mean(gains), abs=5 * error + 1e-4)


def test_random_weights_improve_the_worst_of_the_weighed_objectives() -> None:
    """Without noise it is the mean improvement over the best told point, for the weights that the recipe drew."""
    known = fitted()
    recipe = Scalarised(samples=1024)
    function = recipe.function(known, None)
    ideal, reference = known.corners
    spacings = -known.random.child("weights", 0).uniform(2).log()
    shares = (spacings / spacings.sum()).numpy()

    def loss(values: Array) -> Array:
        weighed = shares * (values - ideal.numpy()) / (reference - ideal).numpy()
        total: Array = weighed.max(-1) + 0.05 * weighed.sum(-1)
        return total

    best = loss(known.values.numpy()).min()
    x = torch.tensor([[0.5, 0.5], [0.35, 0.4], [0.6, 0.45]], dtype=F64)
    generator = np.random.default_rng(0)
    for point, value in zip(x, function(x.unsqueeze(-2)).detach().exp(), strict=True):
        posteriors = [model.posterior(point.reshape(1, 2)) for model in known.objectives]
        drawn = np.stack([generator.normal(float(p.mean), float(p.variance.sqrt()), 100_000) for p in posteriors], -1)
        gain = (best - loss(drawn)).clip(0)
        assert float(value) == pytest.approx(gain.mean(), rel=0.05, abs=1e-3)
    assert not torch.equal(function(x.unsqueeze(-2)), recipe.function(known, x[:1])(x.unsqueeze(-2))), "a batch draws weights anew"


def test_a_reference_counts_as_the_user_does() -> None:
    """A maximised objective's reference has its sign turned like its values; beyond it nothing is to be gained."""
    known = fitted()
    x = Random(5).child("x").uniform((64, 2))
    plain = HypervolumeImprovement(reference={"a": 0.2})
    value = plain.function(known, None)(x.unsqueeze(-2)).detach()
    beyond = two(x)[:, 0] > 0.3
    assert float(value[beyond].max()) < float(value[~beyond].max()) - 1
    turned = fitted()
    turned.task = Task(SQUARE, ("a", "b"), deterministic=True, maximised=frozenset({"a"}))
    assert torch.equal(HypervolumeImprovement(reference={"a": -0.2}).function(turned, None)(x.unsqueeze(-2)).detach(), value)
    study = Study(SQUARE, "bo", objectives={"a": "minimize", "b": "maximize"})
    assert study.task.maximised == {"b"}


def test_the_front_between_two_bowls_is_found() -> None:
    """The trade-offs lie on a segment, and the objectives sum to its half squared there."""
    study = Study(SQUARE, QUICK, objectives={"a": "minimize", "b": "minimize"}, seed=0, deterministic=True)
    study.run(Batched(two), evaluations=25)
    sums = [np.sqrt(t.values["a"]) + np.sqrt(t.values["b"]) for t in study.front]
    length = np.hypot(0.6, 0.3)
    assert len([s for s in sums if s < 1.02 * length]) >= 8
    assert study.recommended is None
    assert study.info["acquisition"] == "noisy log expected hypervolume improvement"


@pytest.mark.slow
@pytest.mark.slow
def test_forty_evaluations_are_worth_two_thousand_of_an_evolutionary_search() -> None:
    problem = BraninCurrin()
    assert problem.optimum.reference is not None
    reference = np.array(problem.optimum.reference)

    def reached(strategy: Any, evaluations: int, seed: int) -> float:
        study = Study(problem.space, strategy, objectives=dict.fromkeys(problem.objectives, "minimize"), seed=seed)
        study.run(problem, evaluations=evaluations)
        return hypervolume(np.array([list(t.values.values()) for t in study.front]), reference)

    peers = [reached("nsga2", 2000, seed) for seed in range(3)]
    assert np.median([reached("bo", 40, seed) for seed in range(3)]) >= 0.9 * np.median(peers)
    told = BO(acquisition=HypervolumeImprovement(reference=dict(zip(problem.objectives, problem.optimum.reference, strict=True))))
    assert min(reached(told, 40, seed) for seed in range(3)) >= 0.93 * np.median(peers)


def test_what_awaits_its_results_promises_little() -> None:
    known = fitted()
    x = Random(7).child("x").uniform((256, 2))
    for recipe in (HypervolumeImprovement(samples=32), Scalarised(samples=32)):
        function = recipe.function(known, None)
        best = x[function(x.unsqueeze(-2)).argmax()].unsqueeze(0)
        after = HypervolumeImprovement(samples=32).function(known, best)
        assert float(after(best.unsqueeze(-2))) < float(HypervolumeImprovement(samples=32).function(known, None)(best.unsqueeze(-2))) - 1


@pytest.mark.parametrize("recipe", [HypervolumeImprovement(samples=16), Scalarised(samples=16)], ids=str)
def test_constraints_failures_batches_and_noise(recipe: Acquisition) -> None:
    """The part near one bowl breaks a constraint, the part near the other fails: the front found is the feasible one."""

    def limited(x: Tensor) -> Evaluation:
        values = torch.where(x[:, 1:] > 0.55, torch.nan, two(x) + 1e-3 * x[:, :1])
        return Evaluation(values, (0.35 - x[:, :1]))

    study = Study(
        SQUARE, BO(acquisition=recipe, raw_samples=64, restarts=2), objectives={"a": "minimize", "b": "minimize"}, constraints=["c"], seed=0
    )
    study.run(Batched(limited), evaluations=30, parallel=3)
    found = np.array([[t.params["x"], t.params["y"]] for t in study.front])
    assert ((found[:, 0] >= 0.35) & (found[:, 1] <= 0.55)).all()
    assert len(found) >= 5
    assert sum(trial.state == "failed" for trial in study.trials(range(12, 30))) <= 6


def test_while_nothing_is_feasible_feasibility_counts() -> None:
    known = fitted(constraint=torch.linspace(0.1, 1.0, 8, dtype=F64))
    assert Automatic().title(known) == "log probability of feasibility"
    assert Automatic().title(fitted()) == "noisy log expected hypervolume improvement"


def test_five_objectives_take_random_weights() -> None:
    space = Space({"x": Real(0, 1, shape=(4,))})
    names = ["a", "b", "c", "d", "e"]
    centres = Random(3).child("centres").uniform((5, 4))

    def many(x: Tensor) -> Tensor:
        return (x.unsqueeze(-2) - centres).square().sum(-1)

    study = Study(space, QUICK, objectives=dict.fromkeys(names, "minimize"), seed=0, deterministic=True)
    study.run(Batched(many), evaluations=16)
    assert study.info["acquisition"] == "noisy log expected improvement of random weights"
    mean, sd = study.predict([{"x": [0.4, 0.4, 0.4, 0.4]}])
    assert mean.shape == sd.shape == (1, 5)
    assert np.abs(mean - many(torch.full((1, 4), 0.4, dtype=F64)).numpy()).max() < 0.2


def test_a_resumed_study_proposes_the_same(tmp_path: Path) -> None:
    def study(journal: str) -> Study:
        return Study(SQUARE, QUICK, objectives={"a": "minimize", "b": "maximize"}, journal=f"sqlite:///{tmp_path}/{journal}.db", seed=4)

    def values(x: Tensor) -> Tensor:
        return two(x) * torch.tensor([1.0, -1.0])

    with study("whole") as whole:
        whole.run(Batched(values), evaluations=10)
        expected = whole.ask(2).encoded
    with study("cut") as first:
        first.run(Batched(values), evaluations=10)
    with study("cut") as second:
        assert torch.equal(second.ask(2).encoded, expected)


@pytest.mark.parametrize(
    ("recipe", "objectives", "message"),
    [
        (lambda: BO(acquisition="improvement"), ("a", "b"), "one objective, and this study has 2; take .*hypervolume-improvement"),
        (lambda: BO(acquisition="hypervolume-improvement"), ("a",), "several objectives, and this study has 1"),
        (lambda: BO(acquisition=Guided(near={"x": 0.1})), ("a", "b"), "one objective, and this study has 2"),
        (lambda: BO(acquisition=HypervolumeImprovement(reference={"c": 1.0})), ("a", "b"), "names 'c', but the objectives are a, b"),
        (lambda: HypervolumeImprovement(reference=[1.0]), ("a", "b"), "by objective"),  # type: ignore[arg-type]
        (lambda: Scalarised(augmentation=1.0), ("a", "b"), "less than 1"),
    ],
)
def test_what_does_not_fit_is_refused(recipe: Any, objectives: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe().check(Task(SQUARE, objectives))
    BO(acquisition=Guided(near={"x": 0.1}, acquisition="hypervolume-improvement")).check(Task(SQUARE, ("a", "b")))


def test_in_a_study_file(tmp_path: Path) -> None:
    text = """
[study]
strategy = "bo"
evaluations = 20
objectives = { loss = "minimize", speed = "maximize" }
[objective]
command = "echo '{\\"loss\\": 1, \\"speed\\": 2}'"
[space]
x = { type = "real", low = 0, high = 1 }
[strategy]
acquisition = { name = "NAME", reference = { speed = 3.0 } }
"""
    path = tmp_path / "study.toml"
    path.write_text(text.replace("NAME", "hypervolume-improvement"))
    recipe = load(path).recipe
    assert isinstance(recipe, BO)
    assert recipe.acquisition == HypervolumeImprovement(reference={"speed": 3.0})
    path.write_text(text.replace('{ name = "NAME", reference = { speed = 3.0 } }', '"improvement"'))
    with pytest.raises(ConfigFaults, match=r":10:1: strategy: .*one objective, and this study has 2"):
        load(path).check()
