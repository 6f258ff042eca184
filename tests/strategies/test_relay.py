"""Two strategies one after the other: when the second begins, and what it knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoopt
from zoopt import Choice, Random, Real, Space, Study
from zoopt.errors import CapabilityError, ConfigError
from zoopt.feedback import Candidates, Observations
from zoopt.problems import Rastrigin, Rosenbrock
from zoopt.stop import Evaluations
from zoopt.strategies import CBO, CMAES, AutoCBO, RandomSearch, Relay
from zoopt.strategy import Capabilities, Request, State, Strategy, Task

F64 = torch.float64
SPACE = Space({"x": Real(0, 1, shape=(2,))})


def sphere(x: Tensor) -> Tensor:
    return (x - 0.3).square().sum(-1)


@dataclass
class DiaryState(State):
    """What a part was asked and told."""

    asked: int = 0
    told: list[float] = field(default_factory=list)
    strange: int = 0


@dataclass(frozen=True)
class Diary(Strategy[DiaryState]):
    """Random points from one corner of the square; writes down what it is told."""

    corner: float = 0.0  # lower bound of its points, which reach half a unit further
    last: int | None = None  # points after which it has converged; None: never

    capabilities = Capabilities(feedback="values")

    def begin(self, task: Task, random: Random) -> DiaryState:
        return DiaryState()

    def ask(self, task: Task, state: DiaryState, request: Request, random: Random) -> tuple[DiaryState, Candidates]:
        n = request.n or 4
        state.asked += n
        x = self.corner + 0.5 * random.uniform((n, task.dim), dtype=task.dtype)
        return state, Candidates(x, {"mine": np.full(n, int(10 * self.corner))})

    def tell(self, task: Task, state: DiaryState, observations: Observations, random: Random) -> DiaryState:
        mine = observations.column("mine")
        mine = np.full(observations.n, -1) if mine is None else np.asarray(mine)
        state.told += observations.values[:, 0].tolist()
        state.strange += int((mine != int(10 * self.corner)).sum())
        return state

    def done(self, task: Task, state: DiaryState) -> Tensor | None:
        return torch.tensor(self.last is not None and state.asked >= self.last)


def parts_of(x: Tensor) -> list[int]:
    """Which part points of a relay of diaries are from."""
    return (x[:, 0] >= 0.5).int().tolist()


def relay(**options: Any) -> Relay:
    return Relay(Diary(), Diary(0.5), **options)


def test_the_second_begins_after_the_share_of_the_first() -> None:
    asked: list[int] = []

    def objective(x: Tensor) -> Tensor:
        asked.extend(parts_of(x))
        return sphere(x)

    zoopt.minimize(objective, relay(share=0.3), space=SPACE, evaluations=20)
    assert asked == [0] * 6 + [1] * 14


def test_the_second_is_told_the_best_points_of_the_first_and_nothing_else() -> None:
    seen: list[float] = []
    study = Study(SPACE, relay(share=0.5, carry=3), seed=0, stop=Evaluations(16))
    while study.evaluations < 16:
        batch = study.ask(4)
        seen += sphere(batch.x).tolist()
        study.tell(batch, seen[-4:])
    state: Any = study._state
    assert state.turn == 1
    assert state.inner.strange == 3
    assert state.inner.told == sorted(seen[:8])[:3] + seen[8:]


def test_the_second_may_start_anew() -> None:
    study = Study(SPACE, relay(share=0.5, carry=0), seed=0, stop=Evaluations(16))
    while study.evaluations < 16:
        batch = study.ask(4)
        study.tell(batch, sphere(batch.x))
    state: Any = study._state
    assert (state.turn, len(state.inner.told), state.inner.strange) == (1, 8, 0)


def test_points_that_were_met_again_are_carried_once() -> None:
    recipe = relay(carry=2)
    task = Task(SPACE)
    state = recipe.begin(task, Random(0))
    x = torch.tensor([[0.3, 0.3], [0.3, 0.3], [0.3, 0.4], [0.9, 0.9]], dtype=F64)
    state = recipe.tell(task, state, Observations(range(4), x, sphere(x).unsqueeze(-1)), Random(0))
    assert state.best is not None
    assert state.best[:, :2].tolist() == [[0.3, 0.3], [0.3, 0.4]]


def test_without_a_budget_the_first_is_at_work_until_it_has_converged() -> None:
    study = Study(SPACE, Relay(Diary(last=40), Diary(0.5)), seed=0)
    parts = []
    for _ in range(40):
        batch = study.ask(4)
        parts += parts_of(batch.x)
        study.tell(batch, sphere(batch.x))
    first = parts.index(1)
    assert 40 <= first < 120
    assert parts == [0] * first + [1] * (160 - first)


def test_late_results_of_the_first_are_added_points_to_the_second() -> None:
    task, recipe = Task(SPACE), relay(share=0.5, carry=1)
    key = Random(0)
    state = recipe.begin(task, key)
    state, early = recipe.ask(task, state, Request(4, remaining=8), key.at(1))
    state, second = recipe.ask(task, state, Request(4, remaining=4), key.at(2))
    assert parts_of(second.x) == [1] * 4
    told = Observations(range(4), early.x, sphere(early.x).unsqueeze(-1), columns=early.columns)
    state = recipe.tell(task, state, told, key.at(3))
    assert state.inner.told == sphere(early.x).tolist()  # type: ignore[attr-defined]
    assert state.inner.strange == 4  # type: ignore[attr-defined]


def test_any_two_and_any_depth(tmp_path: Path) -> None:
    space = Space({"x": Real(-2, 2, shape=(2,)), "kind": Choice("a", "b")})
    recipe = Relay("random", Relay("de", "cma-es"), share=0.25)
    assert isinstance(recipe.then, Relay)
    assert recipe.then.then == CMAES()

    def objective(x: Any, kind: str) -> float:
        return float(np.square(np.asarray(x) - 0.5).sum()) + (kind == "b")

    study = Study(space, recipe, seed=3)
    study.run(objective, evaluations=600)
    assert study.best is not None
    assert study.best.params["kind"] == "a"
    assert study.best.value < 1e-3
    text = """
        [study]
        strategy = "relay"
        evaluations = 20
        [objective]
        python = "math:hypot"
        [space]
        a = { type = "real", low = 0.0, high = 1.0 }
        [strategy]
        first = "random"
        then = { name = "cma-es", sigma0 = 0.1 }
        share = 0.2
    """
    path = tmp_path / "study.toml"
    path.write_text(text)
    from zoopt.config import load

    assert load(path).recipe == Relay(RandomSearch(), CMAES(sigma0=0.1), share=0.2)


def test_what_one_part_cannot_do_the_relay_cannot() -> None:
    assert Relay("random", "cma-es").capabilities.feedback == "ranking"
    assert Relay("random", "cbo").capabilities.feedback == "values"
    assert not Relay("cbo", "cbo").capabilities.batched
    with pytest.raises(CapabilityError, match="bounds"):
        Study(Space({"x": Real()}), Relay("cma-es", "pso"))
    with pytest.raises(CapabilityError, match="objective"):
        Study(SPACE, Relay("nsga2", "cma-es"), objectives={"a": "minimize", "b": "minimize"})


@pytest.mark.parametrize(("options", "message"), [({"share": 1.0}, "share"), ({"carry": -1}, "carry"), ({"first": 3}, "strategy")])
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Relay(**options)


def test_a_hand_over_survives_a_restart(tmp_path: Path) -> None:
    """Closed and opened again before, at and after the hand-over: the asks of an uninterrupted study."""
    recipe = Relay(CBO(particles=10), CMAES(), share=0.5)

    def go(name: str, cuts: tuple[int, ...]) -> list[list[float]]:
        url = f"sqlite:///{tmp_path}/{name}.db"
        stop = Evaluations(80)
        study = Study(SPACE, recipe, seed=5, journal=url, stop=stop)
        asked = []
        for k in range(80):
            if k in cuts:
                study.close()
                study = Study(SPACE, recipe, seed=5, journal=url, stop=stop)
            trial = study.ask()
            asked.append(trial.x.tolist())
            study.tell(trial, float(sphere(torch.as_tensor(trial.x))))
        study.close()
        return asked

    assert go("whole", ()) == go("cut", (7, 39, 40, 41, 60))


def test_it_pays_where_one_method_gets_near_and_the_other_gets_there() -> None:
    """A search that sees past local minima, then one that follows a valley: better than either with the same budget."""
    problem = Rosenbrock(dim=5)
    both = zoopt.minimize(problem, Relay(CBO(), CMAES(), share=0.3), evaluations=10_000, runs=5).values
    alone = zoopt.minimize(problem, CBO(), evaluations=10_000, runs=5).values
    assert (both < 1e-6).all()
    assert (alone > 1e-3).all()
    many = Rastrigin(dim=5)
    both = zoopt.minimize(many, Relay(CBO(particles=50), CMAES(restarts="none"), share=0.8), evaluations=20_000, runs=10).values
    alone = zoopt.minimize(many, CMAES(restarts="none"), evaluations=20_000, runs=10).values
    assert (both < 1e-6).sum() >= 8
    assert (alone < 1e-6).sum() <= 2


# ---------------------------------------------------------------------- cbo-auto


def test_auto_plans_for_its_budget() -> None:
    task = Task(Space({"x": Real(0, 1, shape=(20,))}))
    assert AutoCBO().plan(task, 5000) == CMAES()
    plan = AutoCBO().plan(task, 200_000)

    def shares(part: Strategy[Any], of: float) -> list[tuple[str, int, float]]:
        """What is done with the budget, in order."""
        if isinstance(part, Relay):
            return shares(part.parts[0], of * part.share) + shares(part.parts[1], of * (1 - part.share))
        return [(getattr(part, "noise", "cma-es"), getattr(part, "particles", 0), round(of, 6))]

    assert shares(plan, 1.0) == [("anisotropic", 43, 0.32), ("anisotropic", 43, 0.32), ("covariance", 1000, 0.25), ("cma-es", 0, 0.11)]


@pytest.mark.parametrize("problem", [Rastrigin(dim=5), Rosenbrock(dim=5)], ids=lambda problem: type(problem).__name__)
def test_auto_solves_what_no_single_part_solves(problem: Any) -> None:
    assert (zoopt.minimize(problem, "cbo-auto", evaluations=40_000, runs=3).values < 1e-6).all()


def test_auto_starts_from_what_is_known() -> None:
    study = Study(SPACE, AutoCBO(evaluations=200), seed=0)
    study.add({"x": [0.31, 0.29]}, float(sphere(torch.tensor([0.31, 0.29], dtype=F64))))
    assert (study.ask(4).x - 0.3).abs().max() < 0.3
