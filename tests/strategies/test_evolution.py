from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pymoo.algorithms.moo.nsga2 import NSGA2 as BareNSGA2
from pymoo.algorithms.soo.nonconvex.de import DE as BareDE
from pymoo.algorithms.soo.nonconvex.pso import PSO as BarePSO
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.indicators.hv import HV
from torch import Tensor

from zoopt.errors import CapabilityError, ConfigError, NotReady
from zoopt.loop import minimize
from zoopt.random import Random
from zoopt.space import Choice, Integer, Real, Space
from zoopt.strategies.de import DE
from zoopt.strategies.evolution import Evolution
from zoopt.strategies.nsga2 import NSGA2
from zoopt.strategies.pso import PSO
from zoopt.strategy import Task

pytestmark = pytest.mark.usefixtures("global_randomness_untouched")

BOX = Space({"x": Real(-5.0, 10.0, shape=(4,))})
MIXED = Space({"x": Real(-5.0, 5.0), "k": Integer(0, 20), "c": Choice("a", "b", "c")})
SMALL = {"de": DE(popsize=12), "pso": PSO(popsize=12), "nsga2": NSGA2(popsize=12)}


def rosenbrock(z: Tensor) -> Tensor:
    return (100 * (z[..., 1:] - z[..., :-1] ** 2) ** 2 + (1 - z[..., :-1]) ** 2).sum(-1)


def sphere(z: Tensor) -> Tensor:
    return ((z - 1.0) ** 2).sum(-1)


def two_objectives(z: Tensor) -> Tensor:  # Schaffer's: the front lies between the two minima
    return torch.stack([((z - 1.0) ** 2).mean(-1), ((z - 3.0) ** 2).mean(-1)], -1)


def first_column_above_two(z: Tensor) -> Tensor:
    return 2.0 - z[:, :1]


CASES = [
    (DE(popsize=12), BOX, {}),
    (DE(popsize=12, variant="DE/rand/2/exp", jitter=True), MIXED, {"constraints": ("edge",)}),
    (PSO(popsize=12), BOX, {}),
    (PSO(popsize=12, adaptive=False), MIXED, {"constraints": ("edge",)}),
    (NSGA2(popsize=12), MIXED, {}),
    (NSGA2(popsize=12), BOX, {"objectives": ("f", "g")}),
    (NSGA2(popsize=12), BOX, {"objectives": ("f", "g"), "constraints": ("edge",)}),
]


@pytest.mark.parametrize(("recipe", "space", "task"), CASES)
def test_reopened_before_every_call_it_goes_on_as_if_it_had_not_been(
    driver: Any, recipe: Evolution, space: Space, task: dict[str, Any]
) -> None:
    objective = two_objectives if "objectives" in task else sphere
    constraints = first_column_above_two if "constraints" in task else None
    runs = []
    for reopen in (False, True):
        study = driver(recipe, space, seed=3, reopen=reopen, **task)
        for generation in range(12):
            study.step(objective, constraints=constraints)
            if generation % 4 == 0:  # a generation in pieces, told in another order, with failures
                pieces = []
                try:
                    while True:
                        pieces.append(study.ask(5))
                except NotReady:
                    pass
                for x, columns, ids in reversed(pieces):
                    z = study.task.space.decode(x)
                    ok = torch.from_numpy(ids % 5 != 0)
                    values = objective(z)
                    values = torch.where(ok if values.dim() == 1 else ok.unsqueeze(-1), values, torch.inf)
                    study.tell(ids, x, columns, values, None if constraints is None else constraints(z), ok=ok)
        runs.append(study)
    assert len(runs[0].asked) == len(runs[1].asked)
    assert all(torch.equal(a, b) for a, b in zip(runs[0].asked, runs[1].asked, strict=True))


def bare(algorithm: Any, space: Space, objective: Any, evaluations: int) -> float:
    """An ask-tell loop on pymoo alone: same generators, same encoding, same objective code."""
    problem = Problem(n_var=space.dim, n_obj=1, xl=space.lower, xu=space.upper)
    algorithm.setup(problem, termination=NoTermination())
    affine = space.affine(torch.float64, torch.device("cpu"))
    used, generation, best = 0, 0, np.inf
    while used < evaluations:
        algorithm.random_state = Random(0, generation, ("propose",)).numpy()
        offspring = algorithm.ask()
        encoded = torch.from_numpy(offspring.get("X"))[: evaluations - used]
        values = objective(torch.addcmul(affine[0], encoded, affine[1])).numpy()
        used += len(values)
        best = min(best, float(values.min()))
        if len(values) == len(offspring):
            offspring.set("F", values[:, None])
            algorithm.random_state = Random(0, generation, ("update",)).numpy()
            algorithm.tell(infills=offspring)
        generation += 1
    return best


@pytest.mark.parametrize(("recipe", "algorithm"), [(DE(), BareDE()), (PSO(), BarePSO()), (NSGA2(), BareNSGA2())])
def test_minimize_is_pymoo_to_the_bit(recipe: Evolution, algorithm: Any) -> None:
    assert minimize(rosenbrock, recipe, evaluations=2_050, space=BOX).value == bare(algorithm, BOX, rosenbrock, 2_050)


@pytest.mark.parametrize(("recipe", "close"), [(DE(popsize=20), 1e-6), (PSO(), 1e-3), (NSGA2(popsize=20), 1e-1)])
def test_comes_close_to_the_optimum(recipe: Evolution, close: float) -> None:
    assert minimize(sphere, recipe, evaluations=2_500, space=BOX).value < close


def test_nsga2_spreads_over_the_front(driver: Any) -> None:
    space = Space({"x": Real(-5.0, 10.0, shape=(3,))})
    study = driver(NSGA2(popsize=40), space, objectives=("f", "g"))
    values = torch.cat([study.step(two_objectives) for _ in range(40)])
    # f = t^2, g = (2 - t)^2 for t in [0, 2]; dominated area up to (4, 4): 16 minus the area below the front, 8/3
    assert HV(ref_point=np.array([4.0, 4.0]))(values.numpy()) > 0.97 * (16 - 8 / 3)


@pytest.mark.parametrize("name", SMALL)
def test_learns_constraints(driver: Any, name: str) -> None:
    study = driver(SMALL[name], BOX, constraints=("edge",))
    best = torch.inf
    for _ in range(80):
        x, columns, ids = study.ask()
        z = BOX.decode(x)
        values, edge = sphere(z), first_column_above_two(z)
        best = min(best, float(torch.where(edge[:, 0] <= 0, values, torch.inf).min()))
        study.tell(ids, x, columns, values, edge)
    assert 1.0 <= best < 1.5  # the feasible optimum is at x_0 = 2


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("task", [{}, {"constraints": ("edge",)}])
def test_failures_are_worse_than_anything_and_do_not_stop_it(driver: Any, name: str, task: dict[str, Any]) -> None:
    study = driver(SMALL[name], BOX, **task)
    study.step(
        lambda z: torch.full((len(z),), torch.nan), constraints=first_column_above_two if task else None
    )  # the first one fails whole

    def objective(z: Tensor) -> Tensor:  # the optimum is at the edge of what fails
        return torch.where(z[:, 0] < 2.0, torch.nan, sphere(z))

    values = [study.step(objective, constraints=first_column_above_two if task else None) for _ in range(80)]
    assert 1.0 <= min(float(v.nan_to_num(torch.inf).min()) for v in values) < 1.5
    assert all(torch.isfinite(x).all() for x in study.asked)


@pytest.mark.parametrize("name", SMALL)
def test_points_are_valid_and_the_best_integer_and_choice_are_found(driver: Any, name: str) -> None:
    study = driver(SMALL[name], MIXED, seed=1)
    best = min(float(study.step(lambda z: (z[:, 0] - 1.5) ** 2 + (z[:, 1] - 7) ** 2 + (z[:, 2] != 1)).min()) for _ in range(80))
    assert best < 0.3
    assert all(torch.equal(x, MIXED.snap(x)) for x in study.asked)


def add(study: Any, z: Any, values: Any, constraints: Any = None) -> Tensor:
    """Results of points in problem units that were never asked; gives these points, encoded."""
    x = torch.from_numpy(BOX.encode_params([{"x": row} for row in np.asarray(z)]))
    study.tell(np.arange(1_000_000, 1_000_000 + len(x)), x, {}, values, constraints)
    return x


def beside(n: int) -> Any:
    """Points near the optimum of the sphere."""
    return 1.0 + 0.1 * np.random.default_rng(0).standard_normal((n, 4))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n", [1, 5, 11, 12, 40])
def test_added_points_belong_to_the_first_population(driver: Any, name: str, n: int) -> None:
    runs = []
    for reopen in (False, True):
        study = driver(SMALL[name], BOX, seed=1, reopen=reopen)
        for row in beside(n):
            add(study, row[None], sphere(torch.from_numpy(row[None])))
        first = study.step(sphere)
        assert len(first) == (12 - n if n < 12 else 12)  # what is known needs no evaluation
        best = min(float(study.step(sphere).min()) for _ in range(6))
        assert best < 0.1
        runs.append(torch.cat(study.asked))
    assert torch.equal(*runs)
    cold = driver(SMALL[name], BOX, seed=1)
    assert min(float(cold.step(sphere).min()) for _ in range(7)) > 0.1


@pytest.mark.parametrize("name", SMALL)
def test_of_many_added_points_the_best_feasible_ones_count_and_equal_ones_once(driver: Any, name: str) -> None:
    study = driver(SMALL[name], BOX, constraints=("edge",))
    z = np.concatenate([beside(20), 2.5 + 0.1 * np.random.default_rng(1).standard_normal((14, 4))])
    z = np.concatenate([z, z])
    points = torch.from_numpy(z)
    x = add(study, z, sphere(points), first_column_above_two(points))
    study.ask()
    study.state.inner.freeze()
    population = torch.from_numpy(study.state.inner.groups["pop"]["X"])
    feasible = x[20:34]
    best = feasible[sphere(BOX.decode(feasible)).argsort()[:12]]
    assert {tuple(row) for row in population.tolist()} == {tuple(row) for row in best.tolist()}


def test_of_many_added_points_nsga2_takes_the_front_and_then_the_next(driver: Any) -> None:
    study = driver(NSGA2(popsize=12), BOX, objectives=("f", "g"))
    t = np.linspace(1.0, 3.0, 8)
    front = np.repeat(t[:, None], 4, 1)  # between the two minima
    second = front + np.array([0.0, 0.0, 0.5, -0.5])
    third = front + np.array([0.0, 0.0, 3.0, -3.0])
    z = np.concatenate([third, second, front])
    x = add(study, z, two_objectives(torch.from_numpy(z)))
    study.ask()
    study.state.inner.freeze()
    population = {tuple(row) for row in study.state.inner.groups["pop"]["X"].tolist()}
    assert population >= {tuple(row) for row in x[16:].tolist()}  # the whole front
    assert len(population & {tuple(row) for row in x[8:16].tolist()}) == 4  # and as many of the second as fit
    assert {tuple(x[8].tolist()), tuple(x[15].tolist())} <= population  # its ends among them


def test_a_population_of_one_point_goes_on(driver: Any) -> None:
    space = Space({"x": Real(0.0, 1.0)})
    study = driver(NSGA2(popsize=6), space)
    for _ in range(8):  # every point is reported to have been evaluated at the same place, so that children are duplicates
        x, columns, ids = study.ask()
        here = torch.full_like(x, 0.25)
        study.tell(ids, here, columns, torch.ones(len(x)))
    assert len(study.asked) == 8


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(CapabilityError, match="bounds"):
        DE().check(Task(Space({"x": Real()})))
    with pytest.raises(CapabilityError, match="objective"):
        PSO().check(Task(BOX, objectives=("f", "g")))
    with pytest.raises(CapabilityError, match="ranking"):
        DE().check(Task(BOX, feedback="ranking"))
    for cls, bad in ((DE, {"popsize": 3}), (DE, {"variant": "best"}), (DE, {"CR": 1.5}), (PSO, {"w": -1.0}), (NSGA2, {"crossover": 2.0})):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            cls(**bad)
