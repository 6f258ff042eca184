"""minimize(): any callable, on numpy or torch; runs, targets, budgets, constraints, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Choice, Context, Integer, Real, Space, Study, minimize
from zoopt.errors import CapabilityError, ConfigError, Exhausted, NotReady, ObjectiveError, StrategyError
from zoopt.feedback import Candidates, Evaluation, Observations
from zoopt.loop import select
from zoopt.problems import Gramacy, Rastrigin, Sphere
from zoopt.random import Random
from zoopt.strategy import Capabilities, Request, State, Strategy, Task

SPACE = Space({"x": Real(-5, 5, shape=(3,))})


@dataclass
class CloudState(State):
    """Particles ``(*runs, n, d)``, how often each run was told, and the same once more in a tuple and a dict."""

    x: Tensor
    told: Tensor
    nested: tuple[Tensor, list[Tensor]]
    named: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Cloud(Strategy[CloudState]):
    """Particles drift to the best of their run, with noise; a run is done when it was told ``patience`` + its number times."""

    particles: int = 8
    patience: int = 10**9

    capabilities: ClassVar[Capabilities] = Capabilities(batched=True)

    def begin(self, task: Task, random: Random) -> CloudState:
        x = random.uniform((self.particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device)
        told = torch.arange(task.runs[0], device=task.device) if task.runs else torch.tensor(0)
        return CloudState(x, -told, (x.clone(), [x[..., 0, :].clone()]), {"x": x.clone()})

    def ask(self, task: Task, state: CloudState, request: Request, random: Random) -> tuple[CloudState, Candidates]:
        n = self.particles if request.n is None else min(request.n, self.particles)
        return state, Candidates(state.x[..., :n, :], {"particle": np.arange(n)})

    def tell(self, task: Task, state: CloudState, observations: Observations, random: Random) -> CloudState:
        values = observations.values[..., 0]
        best = observations.x.gather(-2, values.argmin(-1)[..., None, None].expand(*values.shape[:-1], 1, task.dim))
        z = random.normal((self.particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device)
        away = best - state.x
        state.x = (state.x + 0.3 * away + 0.3 * away.abs() * z).clamp(0.0, 1.0)
        for copy in (state.nested[0], state.named["x"]):
            assert copy.shape == state.x.shape
        state.told = state.told + 1
        return state

    def done(self, task: Task, state: CloudState) -> Tensor:
        return state.told >= self.patience


def sphere(x: Tensor) -> Tensor:
    return ((x - 1) ** 2).sum(-1)


# ---------------------------------------------------------------------- what may be minimised


def test_a_problem_brings_its_space() -> None:
    problem = Sphere(dim=4)
    result = minimize(problem, "cma-es", evaluations=1500, device="cpu")
    assert result.value < 1e-8
    assert problem.optimum is not None
    assert result.x.tolist() == pytest.approx(list(problem.optimum.x[0]), abs=1e-3)
    assert float(problem(result.x.unsqueeze(0))[0]) == result.value  # type: ignore[index]
    assert result.evaluations.tolist() == [1500]
    assert list(result.params) == list(problem.space.variables)


@pytest.mark.parametrize(
    "objective",
    [
        sphere,
        lambda x: np.sum((np.asarray(x) - 1) ** 2, axis=-1),
        lambda x: ((x - 1) ** 2).sum(-1).tolist(),
        lambda x: ((x - 1) ** 2).sum(-1, keepdims=True),
        lambda x: Evaluation(((x - 1) ** 2).sum(-1)),
        lambda x: np.linalg.norm(np.subtract(x, 1, dtype=float), axis=-1) ** 2,
        lambda x: x.astype(np.float64).__sub__(1).__pow__(2).sum(-1),  # numpy only
        lambda x: x.clone().sub(1).pow(2).sum(-1),  # torch only
        lambda x: x.sub_(1).square_().sum(-1) if isinstance(x, Tensor) else None,  # changes what it is given
    ],
)
def test_any_callable_on_numpy_or_torch_gives_the_same(objective: Any) -> None:
    plain = minimize(sphere, Cloud(), space=SPACE, evaluations=80, device="cpu")
    result = minimize(objective, Cloud(), space=SPACE, evaluations=80, device="cpu")
    assert result.value == pytest.approx(plain.value, rel=1e-12)
    assert torch.allclose(result.xs, plain.xs, rtol=1e-9)


@pytest.mark.parametrize(("array", "kind"), [("torch", Tensor), ("numpy", np.ndarray), ("auto", Tensor)])
def test_the_kind_of_array_can_be_chosen(array: Any, kind: type) -> None:
    seen: set[type] = set()

    def objective(x: Any) -> Any:
        seen.add(type(x))
        return ((x - 1) ** 2).sum(-1)

    minimize(objective, Cloud(), space=SPACE, evaluations=24, array=array, device="cpu")
    assert seen == {kind}


def test_an_objective_gets_problem_units_two_dimensions_and_the_dtype() -> None:
    space = Space({"lr": Real(1e-4, 1.0, log=True), "k": Integer(1, 4), "c": Choice("a", "b")})
    shapes: set[Any] = set()

    def objective(x: Tensor) -> Tensor:
        shapes.add((x.dim(), x.shape[-1], x.dtype))
        assert ((x[:, 0] >= 1e-4) & (x[:, 0] <= 1)).all()
        assert set(x[:, 1].tolist()) <= {1, 2, 3, 4} and set(x[:, 2].tolist()) <= {0, 1}
        return x[:, 0] + x[:, 1] + x[:, 2]

    result = minimize(objective, Cloud(), space=space, evaluations=160, runs=3, dtype=torch.float32, device="cpu")
    assert shapes == {(2, 3, torch.float32)}
    assert result.params["k"] == int(result.x[1])
    assert result.params["c"] in ("a", "b")


def test_a_problem_sees_all_runs_at_once() -> None:
    class Watched(Rastrigin):
        def values(self, x: Tensor) -> Tensor:
            shapes.append(tuple(x.shape))
            return super().values(x)

    shapes: list[tuple[int, ...]] = []
    minimize(Watched(dim=2), Cloud(), evaluations=16, runs=5, device="cpu")
    assert shapes == [(5, 8, 2)] * 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("strategy", ["cma-es", "de", "pso", "nsga2", "cbo", "random"])
def test_values_may_carry_a_gradient(strategy: str) -> None:
    weights = torch.nn.Linear(3, 1).double()

    def network(x: Tensor) -> Tensor:
        values: Tensor = weights(x)
        return values.square().squeeze(-1)

    def constrained(x: Tensor) -> Evaluation:
        return Evaluation(network(x), network(x).unsqueeze(-1) - 1.0)

    plain = minimize(lambda x: network(x).detach(), strategy, space=SPACE, evaluations=300, device="cpu")
    result = minimize(network, strategy, space=SPACE, evaluations=300, device="cpu")
    assert result.value == plain.value
    listed = minimize(lambda x: list(network(x)), strategy, space=SPACE, evaluations=300, device="cpu")
    assert listed.value == pytest.approx(plain.value)
    for found in (result, minimize(constrained, strategy, space=SPACE, evaluations=300, constraints=["c"], device="cpu")):
        assert not any(t.requires_grad for t in (found.x, found.xs, found.values, found.violations))


def test_an_objective_may_train_inside() -> None:
    def fitted(x: Tensor) -> Tensor:
        weights = torch.zeros(len(x), requires_grad=True)
        for _ in range(20):
            (slope,) = torch.autograd.grad((weights - x[:, 0]).square().sum(), weights)
            weights = (weights - 0.5 * slope).detach().requires_grad_()
        return weights.square()

    assert minimize(fitted, "cma-es", space=SPACE, evaluations=200, device="cpu").value < 1e-6


# ---------------------------------------------------------------------- what comes beside the values


def watched(recipe: type[Strategy[Any]]) -> tuple[Strategy[Any], list[Observations]]:
    """A strategy that keeps what it is told."""
    told: list[Observations] = []

    class Watching(recipe):  # type: ignore[misc, valid-type]
        def tell(self, task: Task, state: Any, observations: Observations, random: Random) -> Any:
            told.append(observations)
            return super().tell(task, state, observations, random)

    return Watching(), told


def with_everything(z: Tensor) -> Evaluation:
    """The sum of squares with its gradients and a noise; what was reached is a little less than what was asked."""
    return Evaluation(z.square().sum(-1), noise=z.abs().sum(-1), gradients=2 * z, reached=0.99 * z)


LOGARITHMIC = Space({"x": Real(-1, 3), "lr": Real(1e-4, 1.0, log=True)})


@pytest.mark.parametrize("runs", [1, 3])
def test_noise_gradients_and_reached_settings_are_passed_on(runs: int) -> None:
    recipe, told = watched(Cloud)
    minimize(with_everything, recipe, space=LOGARITHMIC, evaluations=8, runs=runs, device="cpu")
    asked = LOGARITHMIC.decode(told[0].x) / 0.99
    leaf = told[0].x.clone().requires_grad_(True)
    (slopes,) = torch.autograd.grad(LOGARITHMIC.decode(leaf).square().sum() / 0.99, leaf)
    assert told[0].noise is not None and told[0].gradients is not None
    assert torch.allclose(told[0].noise, asked.abs().sum(-1, keepdim=True), rtol=1e-10)
    assert told[0].gradients.shape == (runs, 8, 1, 2)
    assert torch.allclose(told[0].gradients[..., 0, :], slopes, rtol=1e-10)


def test_a_study_is_told_the_same_beside_the_values() -> None:
    from zoopt.evaluate import Batched
    from zoopt.strategies import RandomSearch

    recipe, told = watched(RandomSearch)
    minimize(with_everything, recipe, space=LOGARITHMIC, evaluations=5, seed=4, device="cpu")
    recipe, again = watched(RandomSearch)
    Study(LOGARITHMIC, recipe, seed=4).run(Batched(with_everything), evaluations=5, parallel=5)
    for name in ("x", "values", "noise", "gradients"):
        assert torch.allclose(getattr(told[0], name), getattr(again[0], name), rtol=1e-12), name


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(
    "beside",
    [
        lambda right: {"noise": torch.where(right, 0.1, -1.0)},
        lambda right: {"gradients": torch.where(right, torch.ones(3), torch.nan)},
        lambda right: {"reached": torch.where(right, torch.ones(3), torch.inf)},
    ],
)
def test_a_row_with_numbers_that_cannot_be_counts_as_failed(beside: Any, runs: int) -> None:
    def objective(z: Tensor) -> Evaluation:
        return Evaluation(sphere(z), **beside(z[:, :1] > 0))

    recipe, told = watched(Cloud)
    result = minimize(objective, recipe, space=SPACE, evaluations=80, runs=runs, device="cpu")
    assert (result.xs[:, 0] > 0).all()
    assert (told[0].ok.sum(-1) > 0).all() and (~told[0].ok).any()
    assert torch.isfinite(told[0].x).all()


@pytest.mark.parametrize(
    ("beside", "match"),
    [
        ({"noise": torch.ones(3)}, r"noise as \(8,\) or \(8, 1\); got \(3,\)"),
        ({"gradients": torch.ones(8)}, r"gradients as \(8, 3\) or \(8, 1, 3\); got \(8,\)"),
        ({"gradients": torch.ones(8, 3, 3)}, r"gradients as .*; got \(8, 3, 3\)"),
        ({"reached": torch.ones(3)}, r"reached settings as \(8, 3\); got \(3,\)"),
        ({"noise": "little"}, "must give numbers"),
    ],
)
def test_what_comes_beside_the_values_must_fit(beside: dict[str, Any], match: str) -> None:
    with pytest.raises(ObjectiveError, match=match):
        minimize(lambda z: Evaluation(sphere(z), **beside), Cloud(), space=SPACE, evaluations=16, device="cpu")


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize("strategy", [Cloud(), "cma-es", "de", "random", "sobol"], ids=lambda s: s if isinstance(s, str) else "cloud")
def test_a_run_is_the_same_beside_any_number_of_others(strategy: Any) -> None:
    three = minimize(sphere, strategy, space=SPACE, evaluations=120, runs=3, seed=7, device="cpu")
    assert three.values.shape == (3,) and three.xs.shape == (3, 3)
    assert three.value == three.values.min()
    assert torch.equal(three.x, three.xs[three.values.argmin()])
    for runs in (1, 2):
        fewer = minimize(sphere, strategy, space=SPACE, evaluations=120, runs=runs, seed=7, device="cpu")
        assert torch.equal(fewer.values, three.values[:runs])
        assert torch.equal(fewer.xs, three.xs[:runs])
    assert len(set(three.values.tolist())) == 3
    assert sphere(three.xs).tolist() == pytest.approx(three.values.tolist())


def test_runs_that_are_done_leave_and_the_others_go_on_as_if_nothing_had_been() -> None:
    every = minimize(sphere, Cloud(), space=SPACE, evaluations=8 * 400, runs=6, seed=1, device="cpu")
    some = minimize(sphere, Cloud(patience=30), space=SPACE, evaluations=8 * 400, runs=6, seed=1, device="cpu")
    assert some.reason == "converged"
    spent = some.evaluations.tolist()
    assert spent == sorted(spent) and 8 * 30 <= spent[0] < spent[-1] < 8 * 60
    assert (some.values >= every.values).all()
    for m, n in enumerate(spent):
        alone = minimize(sphere, Cloud(), space=SPACE, evaluations=n, runs=6, seed=1, device="cpu")
        assert some.values[m] == alone.values[m]
        assert torch.equal(some.xs[m], alone.xs[m])


def test_runs_may_end_for_different_reasons() -> None:
    result = minimize(sphere, Cloud(patience=20), space=SPACE, evaluations=8 * 40, runs=40, seed=1, device="cpu")
    assert result.reason == "converged+evaluations"


def test_select_takes_runs_of_every_tensor_however_deep() -> None:
    x = torch.arange(24.0).view(4, 3, 2)
    state = CloudState(x, torch.arange(4), (x + 1, [x + 2]), {"x": x + 3})
    some = select(state, torch.tensor([3, 1]))
    assert torch.equal(some.x, x[[3, 1]]) and some.told.tolist() == [3, 1]
    assert torch.equal(some.nested[0], x[[3, 1]] + 1) and torch.equal(some.nested[1][0], x[[3, 1]] + 2)
    assert torch.equal(some.named["x"], x[[3, 1]] + 3)


# ---------------------------------------------------------------------- budgets and targets


@pytest.mark.parametrize(
    "strategy", [Cloud(), "cma-es", "de", "nsga2", "pso", "random", "sobol"], ids=lambda s: s if isinstance(s, str) else "cloud"
)
@pytest.mark.parametrize("evaluations", [1, 3, 50])
def test_the_budget_is_kept_whatever_the_generation(strategy: Any, evaluations: int) -> None:
    seen: list[Tensor] = []

    def objective(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return sphere(x)

    result = minimize(objective, strategy, space=SPACE, evaluations=evaluations, seed=3, device="cpu")
    points = torch.cat(seen)
    assert len(points) == evaluations
    assert result.evaluations.tolist() == [evaluations]
    assert result.reason == "evaluations"
    assert result.value == sphere(points).min()
    assert torch.equal(result.x, points[sphere(points).argmin()])


def test_a_target_ends_a_run() -> None:
    result = minimize(sphere, "cma-es", space=SPACE, evaluations=100_000, target=1e-3, device="cpu")
    assert result.reason == "target"
    assert result.value <= 1e-3 and int(result.evaluations[0]) < 2000
    many = minimize(sphere, Cloud(), space=SPACE, evaluations=8_000, target=9.0, runs=4, device="cpu")
    assert many.reason == "target"
    assert (many.values <= 9.0).all() and int(many.evaluations.max()) < 8_000


def test_a_study_finds_the_same() -> None:
    result = minimize(sphere, "cma-es", space=SPACE, evaluations=70, seed=5, device="cpu")
    study = Study(SPACE, "cma-es", seed=5)
    for _ in range(10):
        batch = study.ask(100)
        assert len(batch) == 7
        study.tell(batch, sphere(batch.x))
    assert study.best is not None
    assert study.best.value == pytest.approx(result.value, rel=1e-12)


# ---------------------------------------------------------------------- failures and constraints


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("runs", [1, 3])
def test_values_that_are_not_finite_never_win(bad: float, runs: int) -> None:
    def objective(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, bad, sphere(x))

    result = minimize(objective, Cloud(), space=SPACE, evaluations=400, runs=runs, device="cpu")
    assert (result.xs[:, 0] <= 0).all()
    assert torch.isfinite(result.values).all()
    single = minimize(objective, "cma-es", space=SPACE, evaluations=400, device="cpu")
    assert single.x[0] <= 0


def test_one_run_may_fail_whole_but_not_all() -> None:
    calls: list[int] = []

    class Half(Sphere):
        def values(self, x: Tensor) -> Tensor:
            calls.append(1)
            values = super().values(x).clone()
            values[0] = torch.nan
            return values

    result = minimize(Half(dim=2), Cloud(), evaluations=16, runs=2, device="cpu")
    assert result.values[0] == torch.inf and torch.isnan(result.xs[0]).all()
    assert result.value == result.values[1] < torch.inf
    with pytest.raises(ObjectiveError, match="no finite value in 48 evaluations"):
        minimize(lambda x: x[:, 0] * torch.nan, Cloud(), space=SPACE, evaluations=16, runs=3, device="cpu")
    with pytest.raises(ObjectiveError, match="no finite value in 16 evaluations"):
        minimize(lambda x: x[:, 0] * torch.nan, "random", space=SPACE, evaluations=16, device="cpu")


@pytest.mark.parametrize("strategy", ["cma-es", "de", "pso", "sobol"])
def test_one_run_of_a_strategy_that_does_them_one_by_one_may_fail_whole_but_not_all(strategy: str) -> None:
    def objective(x: Tensor) -> Tensor:
        calls.append(len(x))
        return sphere(x) if failing < sum(calls) <= 240 else sphere(x) * torch.nan

    calls: list[int] = []
    failing = 120
    result = minimize(objective, strategy, space=SPACE, evaluations=120, runs=2, device="cpu")
    assert result.values[0] == torch.inf and torch.isnan(result.xs[0]).all()
    assert result.value == result.values[1] < torch.inf
    assert result.evaluations.tolist() == [120, 120]
    calls, failing = [], 240
    with pytest.raises(ObjectiveError, match="no finite value in 240 evaluations"):
        minimize(objective, strategy, space=SPACE, evaluations=120, runs=2, device="cpu")


@pytest.mark.parametrize("runs", [1, 4])
def test_feasible_points_win_over_better_values(runs: int) -> None:
    def objective(x: Tensor) -> Evaluation:
        return Evaluation(sphere(x), torch.stack([x[:, 0] - 0.5, -x[:, 1] - 4], -1))

    result = minimize(objective, Cloud(), space=SPACE, evaluations=1600, runs=runs, constraints=["a", "b"], device="cpu")
    assert result.violations.tolist() == [0.0] * runs
    assert (result.xs[:, 0] <= 0.5).all()
    problem = Gramacy()
    best = minimize(problem, "cma-es", evaluations=2000, device="cpu")
    assert problem.optimum is not None and problem.optimum.value is not None
    assert best.violations.tolist() == [0.0]
    assert best.value == pytest.approx(problem.optimum.value, abs=5e-3)


def test_where_nothing_is_feasible_the_smallest_violation_wins_in_and_between_runs() -> None:
    def objective(x: Tensor) -> Evaluation:
        return Evaluation(-(x.abs().sum(-1)), x[:, :1].abs() + 1)

    result = minimize(objective, "random", space=SPACE, evaluations=200, runs=3, constraints=["c"], target=0.0, device="cpu")
    assert result.violations.tolist() == pytest.approx((result.xs[:, 0].abs() + 1).tolist())
    winner = int(result.violations.argmin())
    assert torch.equal(result.x, result.xs[winner]) and result.value == result.values[winner]
    assert result.reason == "evaluations"  # an infeasible value reaches no target


@pytest.mark.parametrize("runs", [1, 3])
def test_an_infeasible_value_reaches_no_target(runs: int) -> None:
    def objective(x: Tensor) -> Evaluation:
        return Evaluation(sphere(x), torch.ones_like(x[:, :1]))

    result = minimize(objective, Cloud(), space=SPACE, evaluations=8 * 64, runs=runs, constraints=["c"], target=2.0, device="cpu")
    assert (result.values <= 2.0).all() and (result.violations == 1.0).all()
    assert result.reason == "evaluations"
    assert result.evaluations.tolist() == [8 * 64] * runs


def test_known_constraints_and_finite_spaces() -> None:
    space = Space({"a": Real(0, 1), "b": Real(0, 1)}, constraints=["a + b <= 1"])
    seen: list[Tensor] = []

    def objective(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return -x.sum(-1)

    result = minimize(objective, "cma-es", space=space, evaluations=120, device="cpu")
    assert (torch.cat(seen).sum(-1) <= 1 + 1e-9).all()
    assert result.value == pytest.approx(-1, abs=0.02)


# ---------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("objective", "match"),
    [
        (lambda x: x, r"expected shape \(8,\) for points of shape \(8, 3\), got \(8, 3\)"),
        (lambda x: x.sum(), r"got \(\)"),
        (lambda x: x.sum(0), r"got \(3,\)"),
        (lambda x: "high", "must give numbers"),
        (lambda x: None, "one value a point|must give numbers"),
        (lambda x: Evaluation(sphere(x), x[:, :1]), r"pass constraints=\['name', ...\]"),
    ],
)
def test_what_is_not_one_value_a_point_is_refused(objective: Any, match: str) -> None:
    with pytest.raises(ObjectiveError, match=match):
        minimize(objective, Cloud(), space=SPACE, evaluations=16, device="cpu")


def test_constraints_must_be_there_and_fit() -> None:
    for objective in (sphere, lambda x: Evaluation(sphere(x), x[:, :2])):
        with pytest.raises(ObjectiveError, match=r"constraints heat as \(8, 1\)"):
            minimize(objective, Cloud(), space=SPACE, evaluations=16, constraints=["heat"], device="cpu")


def test_an_error_of_the_objective_is_the_users_to_see() -> None:
    def objective(x: Tensor) -> Tensor:
        raise KeyError("column 7")

    with pytest.raises(KeyError, match="column 7"):
        minimize(objective, Cloud(), space=SPACE, evaluations=16, device="cpu")

    def count(x: Any) -> Any:
        calls.append(type(x))
        raise errors[len(calls) - 1] if len(calls) <= len(errors) else KeyError("unexpected")

    calls: list[type] = []
    errors: list[Exception] = [ValueError("the simulator is out of licences")]
    with pytest.raises(ValueError, match="out of licences"):
        minimize(count, Cloud(), space=SPACE, evaluations=16, device="cpu")
    assert calls == [Tensor]  # a tensor is not what was wrong: an expensive objective is not called again


@pytest.mark.parametrize(
    "of_a_tensor",
    [
        AttributeError("'Tensor' object has no attribute 'astype'"),
        TypeError("sum() received an invalid combination of arguments"),
        RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."),
        ValueError("step must be greater than zero"),
        NotImplementedError("cannot determine Numba type of <class 'torch.Tensor'>"),
    ],
)
def test_numpy_is_tried_where_a_tensor_was_what_was_wrong_and_both_errors_are_seen(of_a_tensor: Exception) -> None:
    def objective(x: Any) -> Any:
        if isinstance(x, Tensor):
            x.zero_()  # what a failed call did to its points is not seen by the next
            raise of_a_tensor
        if broken:
            raise KeyError("column 7")
        return ((x - 1) ** 2).sum(-1)

    broken = False
    result = minimize(objective, Cloud(), space=SPACE, evaluations=80, device="cpu")
    assert result.value == minimize(sphere, Cloud(), space=SPACE, evaluations=80, device="cpu").value
    broken = True
    with pytest.raises(type(of_a_tensor)) as caught:
        minimize(objective, Cloud(), space=SPACE, evaluations=80, device="cpu")
    assert isinstance(caught.value.__cause__, KeyError)
    assert "array='torch' or 'numpy'" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"space": None}, ConfigError, "needs a space"),
        ({"evaluations": 0}, ConfigError, "at least 1"),
        ({"runs": 0}, ConfigError, "at least 1"),
        ({"array": "jax"}, ConfigError, "'auto', 'torch' or 'numpy'"),
        ({"space": Space({"x": Real(0, 1), "t": Context(Real(0, 1))})}, ConfigError, "t is context"),
        ({"strategy": "nsga"}, KeyError, "nsga2"),
        ({"evaluations": 100.5}, ConfigError, "evaluations must be a whole number of at least 1; got 100.5"),
        ({"evaluations": "100"}, ConfigError, "evaluations must be a whole number of at least 1; got '100'"),
        ({"evaluations": True}, ConfigError, "evaluations must be a whole number"),
        ({"evaluations": float("inf")}, ConfigError, "evaluations must be a whole number"),
        ({"runs": 2.5}, ConfigError, "runs must be a whole number of at least 1; got 2.5"),
        ({"target": "1"}, ConfigError, "target must be a number; got '1'"),
        ({"target": float("nan")}, ConfigError, "target must be a number; got nan"),
        ({"device": "gpu"}, ConfigError, "device must be .*'cuda'.*; got 'gpu'"),
        ({"dtype": "float32"}, ConfigError, "dtype must be torch.float64 or torch.float32; got 'float32'"),
        ({"dtype": torch.bfloat16}, ConfigError, "dtype must be torch.float64 or torch.float32; got torch.bfloat16"),
        ({"constraints": "heat"}, ConfigError, r"constraints must be a list of names, e.g. \['heat'\]; got 'heat'"),
        ({"seed": 1.5}, ConfigError, "seed must be an integer"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        minimize(sphere, options.pop("strategy", Cloud()), **{"space": SPACE, "evaluations": 16, **options})


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a problem or a callable on an \(n, d\) array was expected; got 5"):
        minimize(5, Cloud(), space=SPACE, evaluations=16)  # type: ignore[arg-type]


def test_whole_numbers_of_any_type_and_a_dict_as_space() -> None:
    plain = minimize(sphere, Cloud(), space=SPACE, evaluations=80, runs=2, device="cpu")
    options: dict[str, Any] = {"evaluations": 8e1, "runs": np.int64(2), "target": np.float32(-1)}
    result = minimize(sphere, Cloud(), space={"x": Real(-5, 5, shape=(3,))}, device="cpu", **options)
    assert torch.equal(result.xs, plain.xs)
    assert result.evaluations.tolist() == [80, 80]


def test_several_objectives_belong_to_a_study() -> None:
    from zoopt.problems import ZDT1

    with pytest.raises(ConfigError, match="use a Study"):
        minimize(ZDT1(), "nsga2", evaluations=10)
    with pytest.raises(CapabilityError, match="strategies that can"):
        minimize(sphere, "de", space=Space({"x": Real()}), evaluations=10)


@dataclass(frozen=True)
class Odd(Cloud):
    """Gives what it is told to give."""

    what: ClassVar[Any] = None

    def ask(self, task: Task, state: CloudState, request: Request, random: Random) -> tuple[CloudState, Candidates]:
        return state, type(self).what(task, state)  # type: ignore[misc]


def test_strategies_out_of_contract_are_stopped() -> None:
    def raises(error: Exception) -> Any:
        def ask(*_: Any) -> Any:
            raise error

        return ask

    empty: Any = lambda task, state: Candidates(state.x[..., :0, :])  # noqa: E731
    runless: Any = lambda task, state: Candidates(state.x[0])  # noqa: E731
    for what, match in [(empty, "n >= 1"), (runless, "must give x of shape"), (raises(NotReady("why")), "waits for results")]:
        Odd.what = what
        with pytest.raises(StrategyError, match=match):
            minimize(sphere, Odd(), space=SPACE, evaluations=16, runs=2, device="cpu")
    asked: list[int] = []

    def twice(task: Task, state: CloudState) -> Candidates:
        asked.append(1)
        if len(asked) > 2:
            raise Exhausted("nothing is left")
        return Candidates(state.x)

    Odd.what = twice
    result = minimize(sphere, Odd(), space=SPACE, evaluations=800, runs=2, device="cpu")
    assert (result.reason, result.evaluations.tolist()) == ("exhausted", [16, 16])


def test_printed() -> None:
    assert repr(minimize(sphere, "random", space=SPACE, evaluations=3, runs=2, device="cpu")).endswith("runs=2, reason='evaluations')")


@pytest.mark.cuda
def test_on_an_accelerator() -> None:
    here = minimize(sphere, Cloud(), space=SPACE, evaluations=4000, runs=4, device="auto")
    assert here.x.device.type == "cuda"
    assert here.values.shape == (4,)
    assert here.params["x"].shape == (3,)
    mixed = Space({"a": Real(-5, 5), "k": Integer(1, 5)}, constraints=["a + k <= 6"])
    result = minimize(sphere, "cma-es", space=mixed, evaluations=500, device="cuda")
    assert result.value == pytest.approx(0, abs=1e-3)
