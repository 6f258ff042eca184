"""Trust regions: the rule of the box followed by hand, functions drawn as the posterior has them, and constraints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Batched, Choice, Integer, Random, Real, Space, Study
from zoopt.errors import ConfigError, Exhausted
from zoopt.feedback import Evaluation, Observations
from zoopt.strategies.bo.trust_region import TuRBO, TuRBOState
from zoopt.strategy import Request, Task
from zoopt.surrogates import GP, TrainingData

F64 = torch.float64
BOX = Space({"x": Real(0, 1, shape=(3,))})


def ackley(x: Tensor) -> Tensor:
    return 20 + np.e - 20 * torch.exp(-0.2 * x.square().mean(-1).sqrt()) - torch.exp(torch.cos(2 * np.pi * x).mean(-1))


def told(recipe: TuRBO, batches: list[list[float]], d: int = 3, order: list[int] | None = None) -> tuple[Task, TuRBOState]:
    """A state after a design of five points of value 10 and some batches, told in some order, a point at a time."""
    task = Task(Space({"x": Real(0, 1, shape=(d,))}))
    state = recipe.begin(task, Random(0))
    values = [10.0] * 5 + [v for batch in batches for v in batch]
    numbers = [-1] * 5 + [k for k, batch in enumerate(batches) for _ in batch]
    x = Random(1).child("x").uniform((len(values), d))
    for i in order or range(len(values)):
        columns = {"region": np.array([0]), "batch": np.array([numbers[i]])}
        row = Observations([i], x[i : i + 1], torch.tensor([[values[i]]], dtype=F64), columns=columns)
        state = recipe.tell(task, state, row, Random(2))
    state.designed = 5
    return task, state


def length(recipe: TuRBO, batches: list[list[float]], **more: Any) -> float:
    task, state = told(recipe, batches, **more)
    box = recipe._box(task, state, 0)
    assert box is not None
    return box.length


def test_the_box_doubles_after_successes_and_halves_after_failures() -> None:
    recipe = TuRBO(initial=5)
    assert length(recipe, []) == 0.8
    assert length(recipe, [[9.0], [8.0]]) == 0.8
    assert length(recipe, [[9.0], [8.0], [7.0]]) == 1.6
    assert length(recipe, [[9.0], [8.0], [7.0], [6.0], [5.0], [4.0]]) == 1.6, "the largest"
    assert length(recipe, [[11.0]] * 3) == 0.8
    assert length(recipe, [[11.0]] * 4) == 0.4, "max(4, d) points in a row without an improvement"
    assert length(recipe, [[11.0, 12.0]] * 2) == 0.4, "in batches of two"
    assert length(recipe, [[11.0]] * 3 + [[9.0]] + [[11.0]] * 3) == 0.8, "a success begins the count anew"
    assert length(recipe, [[9.999]] * 4) == 0.4, "less than a thousandth is no improvement"
    assert length(recipe, [[11.0]] * 9, d=10) == 0.8
    assert length(recipe, [[11.0]] * 10, d=10) == 0.4


def test_order_and_pieces_of_tells_do_not_matter() -> None:
    recipe = TuRBO(initial=5, candidates=50)
    batches = [[9.0, 12.0], [8.0, 8.5], [11.0, 7.0], [6.5, 6.0]]
    order = np.random.default_rng(0).permutation(13).tolist()
    asked = [recipe.ask(*told(recipe, batches, order=o), Request(2), Random(3, 4))[1].x for o in (None, order)]
    assert torch.equal(*asked)


def test_where_the_box_has_become_tiny_a_new_region_begins() -> None:
    recipe = TuRBO(initial=5, shortest=0.3)
    task, state = told(recipe, [[11.0]] * 8)
    state, out = recipe.ask(task, state, Request(3), Random(0, 1))
    assert state.current == 1
    assert out.columns["region"].tolist() == [1, 1, 1]
    assert out.columns["batch"].tolist() == [-1, -1, -1]
    assert recipe.recommend(task, state) is not None


def test_functions_drawn_are_those_of_the_posterior() -> None:
    x = Random(0).child("x").uniform((12, 3))
    y = torch.sin(4 * x[:, :1]) + x[:, 1:2] * x[:, 2:]
    for deterministic in (True, False):
        noisy = y if deterministic else y + 0.2 * Random(5).child("noise").normal((12, 1))
        model: Any = GP().fit(TrainingData(x, noisy), Task(BOX, deterministic=deterministic))
        at = torch.cat([Random(1).child("x").uniform((6, 3)), x[:1]])
        drawn = torch.cat([model.draw(at, 500, Random(seed)) for seed in range(20)])
        posterior = model.posterior(at)
        sd = posterior.variance.sqrt().squeeze(-1)
        assert float(((drawn.mean(0) - posterior.mean.squeeze(-1)) / sd.clamp_min(1e-2)).abs().max()) < 0.1
        assert float((drawn.std(0)[:6] / sd[:6] - 1).abs().max()) < 0.15


def test_many_variables_in_few_evaluations() -> None:
    """Ackley's function of 20 variables, each from -5 to 10: random search is near 11 after as many evaluations."""
    study = Study(Space({"x": Real(-5, 10, shape=(20,))}), "turbo", seed=0, deterministic=True)
    study.run(Batched(ackley), evaluations=200, parallel=5)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 6
    assert study.info["acquisition"] == "Thompson sampling in a trust region"


def test_under_constraints() -> None:
    """Ten variables, a ball and a half space around the optimum, 100 evaluations: feasible, and well below where it begins."""

    def limited(x: Tensor) -> Evaluation:
        return Evaluation(ackley(x), torch.stack([x.sum(-1), x.norm(dim=-1) - 5.0], -1))

    space = Space({"x": Real(-5, 10, shape=(10,))})
    found = []
    for seed in range(3):
        study = Study(space, "turbo", constraints=["sum", "ball"], seed=seed, deterministic=True)
        study.run(Batched(limited), evaluations=100, parallel=2)
        assert study.best is not None
        found.append(study.best.value if max(study.best.constraints.values()) <= 0 else np.inf)
    assert np.median(found) < 6


def test_integers_choices_conditions_and_failures() -> None:
    space = Space(
        {
            "x": Real(-1, 2),
            "k": Integer(0, 5),
            "c": Choice("a", "b"),
            "depth": Integer(1, 9, when={"c": "a"}),
        }
    )

    def objective(x: float, k: int, c: str, depth: int | None = None) -> float:
        if x > 1.5:
            return float("nan")
        return (x - 0.3) ** 2 + 0.2 * abs(k - 2) + (c == "b") + (0.1 * abs(depth - 4) if depth is not None else 0.0)

    study = Study(space, TuRBO(initial=6), seed=1, deterministic=True)
    for _ in range(15):
        for trial in study.ask(3):
            value = objective(**trial.params)
            study.fail(trial, "diverged") if value != value else study.tell(trial, value)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.2
    asked = [tuple(sorted((k, str(v)) for k, v in study.trial(i).params.items())) for i in range(45)]
    assert len(set(asked)) == 45


def test_a_finite_space_is_asked_once_each() -> None:
    study = Study(Space({"k": Integer(0, 6), "c": Choice("a", "b")}), "turbo", seed=0, deterministic=True)
    seen = set()
    for _ in range(14):
        trial = study.ask()
        seen.add(tuple(trial.params.values()))
        study.tell(trial, float(trial.params["k"]))
    assert len(seen) == 14
    with pytest.raises(Exhausted):
        study.ask()


def test_wrong_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="shortest <= length"):
        TuRBO(length=2.0)
    with pytest.raises(ConfigError, match="successes >= 1"):
        TuRBO(successes=0)
