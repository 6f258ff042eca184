from __future__ import annotations

from typing import Any

import cma
import numpy as np
import pytest
import torch
from torch import Tensor

import zoopt
from zoopt.errors import ConfigError, NotReady
from zoopt.feedback import Evaluation, Ranking
from zoopt.loop import minimize
from zoopt.random import Random
from zoopt.space import Choice, Integer, Real, Space
from zoopt.strategies.cma_es import CMAES

pytestmark = pytest.mark.usefixtures("global_randomness_untouched")


def ellipsoid(z: Tensor) -> Tensor:
    weights = 10.0 ** (6 * torch.arange(z.shape[-1], dtype=z.dtype) / max(z.shape[-1] - 1, 1))
    return (weights * (z - 1.234) ** 2).sum(-1)


def rosenbrock(z: Tensor) -> Tensor:
    return (100 * (z[..., 1:] - z[..., :-1] ** 2) ** 2 + (1 - z[..., :-1]) ** 2).sum(-1)


def rastrigin(z: Tensor) -> Tensor:
    return (10 + (z - 0.7) ** 2 - 10 * torch.cos(2 * torch.pi * (z - 0.7))).sum(-1)


MIXED = {"x": Real(-5.0, 5.0), "k": Integer(0, 20), "c": Choice("a", "b", "c"), "u": Real()}
SPACES = {
    "one column": Space({"x": Real(-5.0, 5.0)}),
    "one unbounded column": Space({"x": Real()}),
    "bounded": Space({"x": Real(-5.0, 10.0, shape=(7,))}),
    "unbounded": Space({"x": Real(shape=(3,))}),
    "mixed": Space(MIXED),
    "constrained": Space({"x": Real(-5.0, 5.0), "y": Real(-5.0, 5.0)}, ["x + y <= 3"]),
    "many columns": Space({"x": Real(-5.0, 5.0, shape=(320,))}),  # from 300 on the package adapts the step size by two points
}


@pytest.mark.parametrize("name", SPACES)
def test_reopened_before_every_call_it_goes_on_as_if_it_had_not_been(driver: Any, name: str) -> None:
    runs = []
    for reopen in (False, True):
        study = driver(CMAES(), SPACES[name], seed=3, reopen=reopen)
        for generation in range(12):
            study.step(ellipsoid)
            if generation % 4 == 0:  # a generation in pieces, told in another order, with a failure
                pieces = []
                try:
                    while True:
                        pieces.append(study.ask(2))
                except NotReady:
                    pass
                for x, columns, ids in reversed(pieces):
                    failed = ids % 5 == 0
                    values = torch.where(torch.from_numpy(failed), torch.inf, ellipsoid(study.task.space.decode(x)))
                    study.tell(ids, x, columns, values, ok=~failed if failed.any() else None)
        runs.append(study)
    assert len(runs[0].asked) == len(runs[1].asked)
    assert all(torch.equal(a, b) for a, b in zip(runs[0].asked, runs[1].asked, strict=True))
    assert torch.equal(*(study.recipe.recommend(study.task, study.state) for study in runs))


def test_goes_on_from_bytes_after_hundreds_of_generations_and_a_restart(driver: Any) -> None:
    space = Space({"x": Real(-5.0, 10.0, shape=(3,))})
    straight, reopened = (driver(CMAES(restarts="ipop"), space, seed=1) for _ in range(2))
    for generation in range(320):
        straight.step(ellipsoid)
        reopened.reopen = generation % 40 < 2
        reopened.step(ellipsoid)
    assert straight.state.inner.run >= 1
    assert all(torch.equal(a, b) for a, b in zip(straight.asked, reopened.asked, strict=True))


def bare(space: Space, objective: Any, evaluations: int, target: float = -np.inf) -> tuple[float, int]:
    """An ask-tell loop on the package alone: same normal numbers, same encoding, same objective code."""

    class Normals:
        generation = drawn = 0

        def __call__(self, *shape: int) -> Any:
            random = Random(0, self.generation, ("propose",))
            self.drawn += 1
            return (random.child(self.drawn - 1) if self.drawn > 1 else random).normal(shape).numpy()

    randn = Normals()
    bounded = np.isfinite(space.lower)
    bounds = [np.where(bounded, edge, None).tolist() for edge in (space.lower, space.upper)] if bounded.any() else [None, None]
    es = cma.CMAEvolutionStrategy(space.start, 0.3, {"bounds": bounds, "seed": np.nan, "randn": randn, "verbose": -9})
    affine = space.affine(torch.float64, torch.device("cpu"))
    used, best = 0, np.inf
    while used < evaluations and best > target:
        points = es.ask()
        encoded = torch.from_numpy(np.array(points))[: evaluations - used]
        z = space.decode(encoded) if affine is None else torch.addcmul(affine[0], encoded, affine[1])
        values = objective(z).tolist()
        used += len(values)
        best = min(best, *values)
        if len(values) == len(points):
            es.tell(points, values)
        randn.generation += 1
        randn.drawn = 0
    return best, used


HALF_BOUNDED = Space({"x": Real(0.0, 3.0, shape=(4,)), "y": Real()})


@pytest.mark.parametrize("space", [SPACES["bounded"], SPACES["unbounded"], HALF_BOUNDED, SPACES["many columns"]])
def test_minimize_is_the_package_to_the_bit(space: Space) -> None:
    ours = minimize(rosenbrock, CMAES(), evaluations=1_500, space=space).value
    state = np.random.get_state()  # noqa: NPY002 - the package itself draws from it to check two points
    assert ours == bare(space, rosenbrock, 1_500)[0]
    np.random.set_state(state)  # noqa: NPY002


def test_many_columns_are_searched_well() -> None:
    result = minimize(lambda z: ((z - 1.1) ** 2).sum(-1), CMAES(), evaluations=10_000, space=SPACES["many columns"])
    assert result.value < 0.05


def test_takes_as_many_evaluations_as_the_package_alone() -> None:
    space = Space({"x": Real(-5.0, 5.0, shape=(10,))})
    result = minimize(ellipsoid, CMAES(), evaluations=10_000, space=space, target=1e-8)
    assert result.reason == "target"
    assert int(result.evaluations[0]) == bare(space, ellipsoid, 10_000, 1e-8)[1] < 6_000


@pytest.mark.parametrize("variable", [Real(-5.0, 5.0), Real(0.0, 2.0), Real()])
def test_searches_a_single_column(variable: Real) -> None:
    result = minimize(lambda z: (z[:, 0] - 1.234) ** 2, CMAES(), evaluations=400, space=Space({"x": variable}))
    assert result.value < 1e-10


def test_optimum_on_the_boundary() -> None:
    space = Space({"x": Real(0.0, 1.0, shape=(4,))})
    result = minimize(lambda z: z.sum(-1), CMAES(), evaluations=1_500, space=space)
    assert result.value < 1e-6


def test_finds_the_best_integers_and_choices(driver: Any) -> None:
    space = Space(MIXED)
    study = driver(CMAES(), space, seed=2)

    def objective(z: Tensor) -> Tensor:
        return (z[:, 0] - 1.5) ** 2 + (z[:, 1] - 7) ** 2 + (z[:, 2] != 1) + z[:, 3] ** 2

    best = min(float(study.step(objective).min()) for _ in range(150))
    assert best < 1e-3
    assert all(torch.equal(x, space.snap(x)) for x in study.asked)


def test_failures_rank_last_and_do_not_stop_it(driver: Any) -> None:
    study = driver(CMAES(), Space({"x": Real(-5.0, 5.0, shape=(3,))}), seed=0)

    def objective(z: Tensor) -> Tensor:  # more than half of the space fails, the optimum is at its edge
        return torch.where(z[:, 0] < 1.0, torch.nan, (z**2).sum(-1))

    best = min(float(study.step(objective).nan_to_num(torch.inf).min()) for _ in range(120))
    assert best == pytest.approx(1.0, abs=1e-3)


def test_a_generation_that_failed_whole_teaches_nothing(driver: Any) -> None:
    study = driver(CMAES(), SPACES["bounded"], seed=0)
    before = study.recipe.recommend(study.task, study.state).clone()
    for _ in range(3):
        study.step(lambda z: torch.full((len(z),), torch.nan))
    assert torch.equal(study.recipe.recommend(study.task, study.state), before)
    assert not torch.equal(study.asked[0], study.asked[1])
    study.step(rosenbrock)
    assert not torch.equal(study.recipe.recommend(study.task, study.state), before)


def test_many_columns_survive_failed_generations_and_evaluations_in_one_place(driver: Any) -> None:
    study = driver(CMAES(), SPACES["many columns"], reopen=True)
    for _ in range(3):
        study.step(lambda z: torch.full((len(z),), torch.nan))
        study.step(rosenbrock)
    study.step(lambda z: torch.full((len(z),), torch.nan))
    mean = study.recipe.recommend(study.task, study.state)
    for _ in range(2):
        x, columns, ids = study.ask()
        study.tell(ids, mean.expand(len(x), -1), columns, torch.ones(len(x)))
    study.step(rosenbrock)
    assert all(torch.isfinite(x).all() for x in study.asked)
    assert len({tuple(x[2].tolist()) for x in study.asked}) == len(study.asked)


BOX5 = Space({"x": Real(-5.0, 5.0, shape=(5,))})


def sphere(z: Tensor) -> Tensor:
    return ((z - 1.0) ** 2).sum(-1)


def add(study: Any, z: Any, objective: Any = sphere) -> None:
    """Results of points in problem units that were never asked."""
    z = torch.as_tensor(z, dtype=torch.float64)
    x = torch.from_numpy(study.task.space.encode_params([{"x": row} for row in z.numpy()]))
    study.tell(np.arange(1_000_000, 1_000_000 + len(x)), x, {}, objective(z))


def beside(n: int, radius: float, seed: int = 0) -> Any:
    """Points around the optimum of the sphere."""
    return 1.0 + radius * np.random.default_rng(seed).standard_normal((n, 5))


@pytest.mark.parametrize("n", [1, 2, 10])
def test_points_added_beside_the_optimum_save_it_the_way_there(driver: Any, n: int) -> None:
    for seed in range(3):
        warm, cold = (driver(CMAES(), BOX5, seed=seed) for _ in range(2))
        add(warm, beside(n, 0.1, seed))
        best = [min(float(study.step(sphere).min()) for _ in range(8)) for study in (warm, cold)]
        assert best[0] < 0.5 and best[0] < 0.1 * best[1]


def test_a_misleading_added_point_costs_it_little(driver: Any) -> None:
    study = driver(CMAES(), BOX5)
    add(study, [[-4.9, 4.9, -4.9, 4.9, -4.9]])
    assert min(float(study.step(sphere).min()) for _ in range(70)) < 1e-3


def test_added_points_on_the_boundary_are_a_start(driver: Any) -> None:
    study = driver(CMAES(), BOX5)
    add(study, [[-5.0, 5.0, -5.0, 5.0, 1.0]])
    assert min(float(study.step(sphere).min()) for _ in range(70)) < 1e-3


def test_added_points_with_the_wrong_integers_and_choice_do_not_hold_it_there(driver: Any) -> None:
    for seed in range(3):
        study = driver(CMAES(), Space(MIXED), seed=seed)
        x = torch.from_numpy(Space(MIXED).encode_params([{"x": 1.4 + 0.02 * k, "k": 9, "c": "a", "u": 0.0} for k in range(9)]))
        study.tell(np.arange(9), x, {}, torch.ones(9))
        for _ in range(3):
            study.step(lambda z: z.mean(-1))
        z = torch.cat([Space(MIXED).decode(x) for x in study.asked])
        assert len(set(z[:, 1].tolist())) > 1 and len(set(z[:, 2].tolist())) > 1


def test_it_recommends_the_best_added_point_before_it_asks_and_begins_there() -> None:
    study = zoopt.Study(BOX5, CMAES(), seed=0)
    study.add([{"x": row} for row in beside(6, 0.1)], sphere(torch.as_tensor(beside(6, 0.1))).numpy())
    assert study.best is not None and study.recommended is not None
    assert study.recommended.id == study.best.id
    study.ask()
    assert torch.allclose(study.recommended.x, study.best.x, atol=1e-9)


def test_started_from_added_points_it_goes_on_from_bytes(driver: Any) -> None:
    runs = []
    for reopen in (False, True):
        study = driver(CMAES(), BOX5, seed=1, reopen=reopen)
        for row in beside(4, 0.3):
            add(study, row[None])
        for _ in range(10):
            study.step(sphere)
        runs.append(torch.cat(study.asked))
    assert torch.equal(*runs)


def test_a_promise_of_no_noise_saves_evaluations_on_integers() -> None:
    space = Space({name: Integer(0, 8) for name in "abcd"})

    def evaluations(seed: int, deterministic: bool) -> int:
        study = zoopt.Study(space, CMAES(), seed=seed, deterministic=deterministic)
        while study.best is None or study.best.value != 0.0:
            trial = study.ask()
            study.tell(trial, float(sum((v - o) ** 2 for v, o in zip(trial.params.values(), (1, 6, 4, 7), strict=True))))
        return study.evaluations

    noisy, certain = ([evaluations(seed, deterministic) for seed in range(8)] for deterministic in (False, True))
    assert sum(certain) < 0.8 * sum(noisy)


def test_orders_teach_it_what_values_do(driver: Any) -> None:
    told = driver(CMAES(), SPACES["bounded"])
    for _ in range(30):
        told.step(rosenbrock)
    for feedback in ("ranking", "values"):
        ranked = driver(CMAES(), SPACES["bounded"], feedback=feedback)
        for _ in range(30):
            x, columns, ids = ranked.ask()
            order = torch.argsort(rosenbrock(ranked.task.space.decode(x)))
            ranking = Ranking(tuple((int(ids[i]),) for i in order))
            ranked.tell(ids, x, columns, rankings=[ranking])
        assert all(torch.equal(a, b) for a, b in zip(told.asked, ranked.asked, strict=True))
        assert ranked.state.inner.level == ()  # scores of an order are no values


def test_learns_constraints() -> None:
    def problem(z: Tensor) -> Evaluation:
        return Evaluation((z**2).sum(-1), (1.0 - z[:, :1]))

    problem.constraints = ("edge",)  # type: ignore[attr-defined]
    result = minimize(problem, CMAES(), evaluations=2_000, space=Space({"x": Real(-5.0, 5.0, shape=(3,))}))
    assert result.value == pytest.approx(1.0, abs=1e-3)
    assert float(result.x[0]) >= 1.0


def test_known_constraints_hold_and_the_optimum_at_their_edge_is_found(driver: Any) -> None:
    study = driver(CMAES(), SPACES["constrained"], seed=0)
    best = min(float(study.step(lambda z: ((z - 4.0) ** 2).sum(-1)).min()) for _ in range(100))
    assert best == pytest.approx(2 * 2.5**2, rel=1e-2)
    assert all(study.task.space.allowed(x.numpy()).all() for x in study.asked)


def test_points_that_were_evaluated_elsewhere_are_learned_from_where_they_were(driver: Any) -> None:
    study = driver(CMAES(), SPACES["bounded"], seed=0)
    target = torch.full((7,), 0.9, dtype=torch.float64)
    for _ in range(60):
        x, columns, ids = study.ask()
        there = 0.5 * (x + target)  # the machine only goes half of the way
        study.tell(ids, there, columns, ((there - target) ** 2).sum(-1))
    mean = study.recipe.recommend(study.task, study.state)
    assert float((mean - target).abs().max()) < 0.02


def test_single_precision_is_no_other_search(driver: Any) -> None:
    study = driver(CMAES(), SPACES["bounded"], dtype=torch.float32)
    best = min(float(study.step(lambda z: ((z - 1.0) ** 2).sum(-1)).min()) for _ in range(120))
    assert study.asked[0].dtype == torch.float32
    assert best < 1e-6


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
def test_restarts_find_the_best_of_many_basins(restarts: Any) -> None:
    space = Space({"x": Real(-5.12, 5.12, shape=(3,))})
    assert minimize(rastrigin, CMAES(restarts="none"), evaluations=3_000, space=space, seed=0).value > 0.5
    assert minimize(rastrigin, CMAES(restarts=restarts), evaluations=3_000, space=space, seed=0, target=1e-8).reason == "target"


def test_bipop_shares_its_evaluations_between_large_and_small_runs(driver: Any) -> None:
    study = driver(CMAES(restarts="bipop"), Space({"x": Real(-1.0, 1.0, shape=(2,))}))
    sizes: dict[str, set[int]] = {"first": set(), "large": set(), "small": set()}
    for _ in range(400):  # a flat objective: every run ends soon
        study.step(lambda z: torch.ones(len(z)))
        sizes[study.state.inner.kind].add(study.state.inner.popsize)
    assert len(sizes["large"]) >= 2 and len(sizes["small"]) >= 1
    assert max(sizes["small"]) < max(sizes["large"])
    large, small = study.state.inner.spent
    assert 0.3 < small / large < 1.5


def test_without_restarts_it_says_that_it_has_converged() -> None:
    result = minimize(ellipsoid, CMAES(restarts="none"), evaluations=100_000, space=SPACES["bounded"])
    assert result.reason == "converged"
    assert result.value < 1e-15
    flat = minimize(lambda z: 0 * z[:, 0] + 3.0, CMAES(restarts="none"), evaluations=100_000, space=SPACES["bounded"])
    assert flat.reason == "converged"


def test_recommends_its_mean_and_after_a_restart_that_of_the_best_run(driver: Any) -> None:
    study = driver(CMAES(restarts="ipop"), Space({"x": Real(-5.0, 5.0, shape=(2,))}), seed=0)
    while study.state.inner.run == 0:
        study.step(lambda z: ((z - 2.0) ** 2).sum(-1))
    for _ in range(2):
        mean = study.task.space.decode(study.recipe.recommend(study.task, study.state))
        assert torch.allclose(mean, torch.full((2,), 2.0, dtype=torch.float64), atol=1e-8)
        study.step(lambda z: ((z - 2.0) ** 2).sum(-1))


def test_a_larger_initial_step_spreads_the_first_points(driver: Any) -> None:
    spread = [float(driver(CMAES(sigma0=s, popsize=50), SPACES["unbounded"]).ask()[0].std()) for s in (0.1, 1.0)]
    assert spread[0] == pytest.approx(0.1, rel=0.3)
    assert spread[1] == pytest.approx(1.0, rel=0.3)


@pytest.mark.parametrize("bad", [{"sigma0": 0.0}, {"sigma0": float("nan")}, {"popsize": 3}, {"restarts": "always"}])
def test_refuses_hyperparameters_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        CMAES(**bad)
