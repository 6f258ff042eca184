"""Bayesian optimization over fidelities and a random environment: its lookahead held to fantasies, and what a user sees of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Choice, Environment, Fidelity, Integer, Random, Real, Space, Study
from zoopt.config import load
from zoopt.errors import ConfigError
from zoopt.strategies.bo.acquisitions import KnowledgeGradient, log_expected_gain
from zoopt.strategies.bo.goal import Goal, Measure, knowledge
from zoopt.strategies.bo.models import Data, Fitted
from zoopt.strategies.bo.recipe import BO
from zoopt.strategies.bo.search import Search
from zoopt.strategy import Task
from zoopt.surrogates import GP, TrainingData

F64 = torch.float64
SIZED = Space({"x": Real(0, 1), "size": Fidelity(Real(1, 10), cost={1: 1, 10: 10}), "y": Real(0, 1)})
WINDY = Space({"x": Real(0, 1), "wind": Environment(Real(-2, 2), mean=0, sd=1)})
SOURCES = Space(
    {"x": Real(0, 1), "y": Real(0, 1), "source": Fidelity(Choice("old", "rough", "fine"), target="fine", cost={"rough": 1, "fine": 8})}
)


def branin(x: float, y: float) -> float:
    u, v = 15 * x - 5, 15 * y
    return float((v - 5.1 / (4 * np.pi**2) * u**2 + 5 / np.pi * u - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(u) + 10)


def told(space: Space, n: int, goal: Goal, deterministic: bool = True) -> Fitted:
    x = space.sample(n, Random(0).child("told"))
    y = torch.sin(4 * x[:, :1]) + 0.4 * x[:, 1:2] * torch.cos(3 * x.sum(-1, keepdim=True))
    task = Task(space, deterministic=deterministic)
    search = Search(space, {}, x, deterministic, Random(1))
    data = Data(TrainingData(x, y), torch.empty((n, 0), dtype=F64), torch.empty((0, space.dim), dtype=F64))
    return Fitted(GP(), task, data, {}, search, Random(2), goal)


def test_measures_are_those_of_sorted_values() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 20)))
    down = np.sort(values.numpy(), axis=-1)[:, ::-1]
    np.testing.assert_allclose(Measure()(values), values.mean(-1))
    np.testing.assert_allclose(Measure("worst")(values), down[:, 0])
    np.testing.assert_allclose(Measure("value-at-risk", 0.9)(values), down[:, 2])
    np.testing.assert_allclose(Measure("conditional-value-at-risk", 0.9)(values), down[:, :2].mean(-1))
    np.testing.assert_allclose(Measure("conditional-value-at-risk", 0.875)(values), (down[:, :2].sum(-1) + 0.5 * down[:, 2]) / 2.5)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    ("space", "measure"),
    [(SIZED, Measure()), (WINDY, Measure()), (WINDY, Measure("conditional-value-at-risk", 0.75)), (WINDY, Measure("worst"))],
)
def test_the_lookahead_is_that_of_fantasies(space: Space, measure: Measure, deterministic: bool) -> None:
    """Over many outcomes of an evaluation: the model that is told each, and the least judgement by its posterior mean."""
    goal = Goal(space, {}, 8, measure)
    fitted = told(space, 7, goal, deterministic)
    model, noise = fitted.objective, fitted.noise_variance
    places = space.sample(6, Random(5))
    x = space.sample(4, Random(6))
    ours = (knowledge(model, noise, goal, places, log_expected_gain, Random(4))(x.unsqueeze(-2)) + goal.log_cost(x)).exp()
    nodes = np.linspace(-6, 6, 241 if measure.linear else 41)
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    for i in range(len(x)):
        everywhere = goal.judged(goal.plain(torch.cat([x[i : i + 1], places]) if measure.linear else places))
        k = everywhere.shape[1]

        def least(of: Any) -> float:
            posterior = of.posterior(everywhere.reshape(-1, space.dim))  # noqa: B023
            if measure.linear:
                return float(posterior.mean.reshape(-1, k).mean(-1).min())  # noqa: B023
            covariance = posterior.distribution.covariance_matrix
            root = torch.linalg.cholesky(covariance + 1e-8 * torch.eye(len(covariance), dtype=F64))
            worlds = posterior.mean[:, 0] + Random(9).normal((2000, len(root))) @ root.mT
            return float(measure(worlds.reshape(2000, -1, k)).mean(0).min())  # noqa: B023

        posterior = model.posterior(x[i : i + 1])
        sd = float((posterior.variance + noise).sqrt())
        later = [
            least(
                model.condition_on_observations(
                    x[i : i + 1], posterior.mean + z * sd, noise=torch.full((1, 1), max(noise, 1e-9), dtype=F64)
                )
            )
            for z in nodes
        ]
        gain = least(model) - float(np.array(later) @ weights)
        # A risk is looked at in 16 worlds under 8 outcomes, here in 2,000 under 41.
        assert float(ours[i]) == pytest.approx(gain, rel=0.02 if measure.linear else 0.35, abs=2e-4 if measure.linear else 0.01)


def test_the_cost_is_that_of_the_space() -> None:
    space = Space({"x": Real(0, 1), "n": Fidelity(Integer(1, 100, log=True)), "s": SOURCES.variables["source"]})
    goal = Goal(space, {}, 8, Measure())
    x = space.sample(200, Random(0))
    ratio = goal.log_cost(x) - torch.from_numpy(np.log(space.cost(x.numpy())))
    finite = torch.isfinite(torch.from_numpy(space.cost(x.numpy())))
    assert bool(torch.isinf(goal.log_cost(x)[~finite]).all())
    np.testing.assert_allclose(ratio[finite], ratio[finite][0], atol=0.05)  # up to a constant


def sized(params: dict[str, Any]) -> float:
    """Branin's function, which a small size sees a little wrong."""
    return branin(params["x"], params["y"]) + (10 - params["size"]) * (0.5 + np.sin(6 * params["x"]))


@pytest.mark.usefixtures("global_randomness_untouched")
def test_cheap_evaluations_come_first_and_the_target_is_found() -> None:
    study = Study(SIZED, "bo", seed=0, deterministic=True)
    sizes = []
    while study.cost < 110:
        trial = study.ask()
        sizes.append(trial.params["size"])
        study.tell(trial, sized(trial.params))
    assert len(sizes) > 20
    assert np.median(sizes) < 5
    assert study.recommended.params["size"] == 10
    assert branin(study.recommended.params["x"], study.recommended.params["y"]) < 0.8
    assert "knowledge gradient" in study.info["acquisition"]


def test_a_source_without_a_cost_is_learned_from_and_never_asked(tmp_path: Path) -> None:
    study = Study(SOURCES, "bo", seed=0, deterministic=True, journal=tmp_path / "s.db")
    for x in SOURCES.sample(25, Random(0)):
        params = {**SOURCES.params(x.unsqueeze(0))[0], "source": "old"}
        study.add(params, 2 * branin(params["x"], params["y"]) + 30)
    asked = []
    for _ in range(12):
        trial = study.ask()
        asked.append(trial.params["source"])
        study.tell(trial, branin(trial.params["x"], trial.params["y"]) + 40 * (trial.params["source"] == "rough"))
    assert set(asked) <= {"rough", "fine"}
    assert "fine" in asked
    assert branin(study.recommended.params["x"], study.recommended.params["y"]) < 3
    study.close()
    again = Study(SOURCES, "bo", deterministic=True, journal=tmp_path / "s.db")  # the same proposal as without the interruption
    straight = Study(SOURCES, "bo", seed=0, deterministic=True)
    for trial in again.trials(range(37)):
        if trial.params["source"] == "old":
            straight.add(trial.params, trial.value)
        else:
            straight.tell(straight.ask(), trial.value)
    assert again.ask().params == straight.ask().params


def test_old_results_alone_leave_the_target_to_ask() -> None:
    """With nothing cheaper to ask it is plain improvement at the target, begun from what is known."""
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "source": Fidelity(Choice("old", "new"), target="new", cost={"new": 1})})
    study = Study(space, BO(initial=2), seed=0, deterministic=True)
    for x in space.sample(30, Random(0)):
        params = {**space.params(x.unsqueeze(0))[0], "source": "old"}
        study.add(params, 0.1 * branin(params["x"], params["y"]) - 7)
    for _ in range(6):
        trial = study.ask()
        assert trial.params["source"] == "new"
        study.tell(trial, branin(trial.params["x"], trial.params["y"]))
    assert study.info["acquisition"] == "log expected improvement"
    assert study.best.value < 2


def test_the_asker_may_hold_a_fidelity() -> None:
    study = Study(SIZED, "bo", seed=0, deterministic=True)
    for size in (2, 2, 2, 2, 2, 10, 3):
        trial = study.ask(context={"size": size})
        assert trial.params["size"] == pytest.approx(size)
        study.tell(trial, sized(trial.params))


def test_batches_and_constraints_with_fidelities() -> None:
    study = Study(SIZED, BO(initial=4), seed=0, constraints=["c"])
    for _ in range(4):
        batch = study.ask(3)
        for trial in batch:
            params = trial.params
            study.tell(trial, sized(params), constraints={"c": 0.6 - params["x"]})
        assert len({tuple(t.params.values()) for t in batch}) == 3
    assert study.recommended.params["x"] > 0.55


@pytest.mark.parametrize("risk", ["expectation", "worst"])
def test_what_is_right_over_the_environment_is_found(risk: str) -> None:
    """A narrow valley is deep in calm air only; a wide one bears the wind."""

    def drag(x: float, wind: float) -> float:
        return float(-1.2 * np.exp(-(((x - 0.2 - 0.15 * wind) / 0.08) ** 2)) - np.exp(-(((x - 0.7) / 0.2) ** 2)) + 0.1 * wind * x)

    grid = np.linspace(0, 1, 201)
    winds = np.clip(np.random.default_rng(0).normal(size=2000), -2, 2) if risk == "expectation" else np.linspace(-2, 2, 41)
    table = np.array([[drag(x, w) for w in winds] for x in grid])
    truth = table.mean(1) if risk == "expectation" else table.max(1)
    study = Study(WINDY, BO(risk=risk, scenarios=16), seed=0, deterministic=True)
    for _ in range(24):
        trial = study.ask()
        study.tell(trial, drag(**trial.params))
    found = study.recommended.params["x"]
    assert study.best.params == study.recommended.params
    assert np.interp(found, grid, truth) < truth.min() + 0.05


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Study(WINDY, BO(acquisition="improvement")), "looks over no random environment"),
        (lambda: Study(WINDY, "bo", objectives={"a": "minimize", "b": "minimize"}), "one objective"),
        (lambda: Study(WINDY, "bo", constraints=["c"]), "constraints over a random environment"),
        (lambda: BO(risk="luck"), "risk must be one of"),
        (lambda: BO(risk_level=1.0), "risk_level"),
        (lambda: BO(scenarios=1), "scenarios"),
    ],
)
def test_what_it_cannot_do_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_all_of_it_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        """
[study]
strategy = "bo"
evaluations = 5
[strategy]
risk = "conditional-value-at-risk"
risk_level = 0.8
scenarios = 8
[objective]
command = "echo {x} {wind} {size}"
[space]
x = { type = "real", low = 0, high = 1 }
size = { type = "fidelity", variable = { type = "integer", low = 1, high = 10 } }
wind = { type = "environment", variable = { type = "choice", choices = ["calm", "storm"] }, weights = { calm = 9, storm = 1 } }
"""
    )
    made = load(tmp_path / "study.toml")
    made.check()
    assert made.recipe == BO(risk="conditional-value-at-risk", risk_level=0.8, scenarios=8)


def test_the_acquisition_is_finite_everywhere_and_has_gradients() -> None:
    goal = Goal(SOURCES, {}, 8, Measure())
    fitted = told(SOURCES, 9, goal)
    x: Tensor = SOURCES.sample(50, Random(3))
    x[:, 2] = x[:, 2].clamp_min(1.0)  # old results are never asked
    leaf = x.clone().requires_grad_()
    value = KnowledgeGradient().function(fitted, None)(leaf.unsqueeze(-2))
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(slope).all())
    for j in (0, 1):
        step = torch.zeros_like(x)
        step[:, j] = 1e-6
        function = KnowledgeGradient().function(fitted, None)
        numeric = (function((x + step).unsqueeze(-2)) - function((x - step).unsqueeze(-2))).detach() / 2e-6
        close = torch.isclose(slope[:, j], numeric, rtol=1e-3, atol=1e-3)
        assert close.float().mean() > 0.9  # but for where a line enters or leaves the envelope


def test_failures_in_some_environments_are_learned_from(recwarn: pytest.WarningsRecorder) -> None:
    study = Study({"x": Real(0, 1), "e": Environment(Real(0, 1))}, BO(scenarios=8), seed=1)
    for i in range(9):
        trial = study.ask()
        study.tell(trial, float("nan") if i % 4 == 1 else (trial.params["x"] - 0.3) ** 2 + trial.params["e"] * trial.params["x"])
    assert study.info["model"] == "GP"
    assert not [warning for warning in recwarn if "Sobol" in str(warning.message)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("target", [0.7, 0.3])
def test_a_target_inside_the_range_is_met_exactly(target: float, dtype: torch.dtype) -> None:
    study = Study({"x": Real(0, 1), "f": Fidelity(Real(0.1, 1), target=target)}, "bo", seed=3, dtype=dtype)
    for _ in range(8):
        trial = study.ask()
        study.tell(trial, (trial.params["x"] - 0.3) ** 2 + 0.1 * trial.params["f"])
    assert study.best is not None
    assert study.best.params["f"] == pytest.approx(target, abs=1e-5)


def test_all_points_of_a_finite_space_are_asked_while_nothing_is_feasible() -> None:
    study = Study({"x": Integer(0, 3), "f": Fidelity(Integer(1, 3))}, "bo", seed=1, deterministic=True, constraints=["c"])
    for _ in range(12):
        trial = study.ask()
        study.tell(trial, trial.params["x"], constraints=[1.0])
    assert study.evaluations == 12


def test_what_is_not_allowed_at_the_target_is_no_answer() -> None:
    space = Space({"x": Real(0, 1), "f": Fidelity(Real(0.1, 1))}, constraints=["x + f <= 1.5"])
    study = Study(space, "bo", seed=1, deterministic=True)
    for _ in range(16):
        trial = study.ask()
        study.tell(trial, (trial.params["x"] - 1) ** 2 + 0.05 * trial.params["f"])
    late = [trial.params["x"] for trial in study.trials(range(8, 16))]
    assert np.median(late) < 0.7
    assert study.recommended is not None
    assert 0.4 < study.recommended.params["x"] <= 0.5
    with pytest.raises(ConfigError, match="random in use"):
        Study(Space({"x": Real(0, 1), "e": Environment(Real(0, 1))}, constraints=["x + e <= 1.2"]), "bo")


def test_the_look_inside_is_at_the_target() -> None:
    study = Study({"x": Real(0, 1), "f": Fidelity(Real(0.1, 1))}, BO(acquisition="improvement", initial=3), seed=0)
    for i in range(6):
        study.add({"x": i / 6, "f": 0.1}, i / 6 - 10)
    for _ in range(3):
        trial = study.ask()
        study.tell(trial, (trial.params["x"] - 0.3) ** 2)
    assert study.diagnosis is not None
    assert {part.name: part.at for part in study.diagnosis.slices}["f"] == 1.0
