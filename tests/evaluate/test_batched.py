"""Whole batches in this process."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from zoopt.errors import ConfigError
from zoopt.evaluate import Batched
from zoopt.feedback import Evaluation

X = torch.arange(6, dtype=torch.float64).reshape(3, 2)  # rows sum to 1, 5, 9
SUMS = [[1.0], [5.0], [9.0]]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(-1),
        lambda x: x.sum(-1, keepdim=True).requires_grad_(),
        lambda x: x.sum(-1).float(),
        lambda x: x.numpy().sum(-1),
        lambda x: x.sum(-1).tolist(),
        lambda x: {"value": x.sum(-1)},
        lambda x: {"loss": x.sum(-1), "steps": x[:, 0]},
        lambda x: Evaluation(x.sum(-1)),
        lambda x: np.sum(x.astype(float), axis=1),  # numpy code, which a tensor does not suit
    ],
)
def test_every_form_of_a_batch_of_values_is_read_the_same(function: Any) -> None:
    outcome = Batched(function).evaluate(X, ["loss"])
    assert outcome.errors == {}
    assert outcome.values.tolist() == SUMS
    assert outcome.values.dtype == np.float64


def test_numpy_code_gets_arrays_and_a_faulty_function_is_called_no_second_time_for_its_own_faults() -> None:
    seen: list[type] = []

    def function(x: Any) -> Any:
        seen.append(type(x))
        return x.astype(float).sum(1)

    objective = Batched(function)
    objective.evaluate(X)
    objective.evaluate(X)
    assert seen == [torch.Tensor, np.ndarray, np.ndarray]  # found out once

    calls = []

    def broken(x: Any) -> Any:
        calls.append(1)
        raise ValueError("no")

    Batched(broken).evaluate(X)
    assert len(calls) == 1
    assert Batched(lambda x: type(x) is np.ndarray and x.sum(1), numpy=True).evaluate(X).values.tolist() == SUMS


def test_names_give_the_order_and_the_rest_are_constraints_and_metrics() -> None:
    def function(x: Any) -> Any:
        return {"cost": x[:, 1], "loss": x[:, 0], "heat": -x[:, 0], "steps": x.sum(-1), "noise": {"loss": x[:, 0] + 1, "cost": x[:, 1] + 1}}

    outcome = Batched(function).evaluate(X, ["loss", "cost"], ["heat"])
    assert outcome.values.tolist() == X.tolist()
    assert outcome.constraints is not None and outcome.constraints.tolist() == [[0.0], [-2.0], [-4.0]]
    assert outcome.metrics["steps"].tolist() == [1.0, 5.0, 9.0]


def test_metrics_are_kept_where_they_are_numbers_and_are_no_reason_to_lose_a_value() -> None:
    metrics = {"steps": X[:, 0], "epochs": 7, "column": X[:, :1], "text": "fine", "texts": ["a", "b", "c"], "rows": X, "nothing": None}
    for function in (
        lambda x: {"loss": x.sum(-1), "metrics": metrics},
        lambda x: {"loss": x.sum(-1), **metrics},
        lambda x: Evaluation(x.sum(-1), metrics=metrics),
    ):
        outcome = Batched(function).evaluate(X, ["loss"])
        assert outcome.errors == {}
        assert outcome.values.tolist() == SUMS
        kept = {name: column.tolist() for name, column in outcome.metrics.items()}
        assert kept == {"steps": [0.0, 2.0, 4.0], "epochs": [7.0, 7.0, 7.0], "column": [0.0, 2.0, 4.0]}
    trial = SimpleNamespace(id=0, params={}, x=X[1])
    single = Batched(lambda x: {"loss": x.sum(-1), "text": "fine", "steps": x[:, 0]}).submit(trial).result().resolve(["loss"])
    assert (single.values, single.metrics) == ([5.0], {"steps": 2.0})


def test_noise_by_name_follows_the_order_of_the_objectives() -> None:
    outcome = Batched(lambda x: {"b": x[:, 1], "a": x[:, 0], "noise": {"a": x[:, 0], "b": x[:, 1]}}).evaluate(X, ["a", "b"])
    assert outcome.noise is not None and outcome.noise.tolist() == X.tolist()


def test_several_objectives_as_an_array_or_as_columns() -> None:
    for function in (lambda x: x * 2, lambda x: (x[:, 0] * 2, x[:, 1] * 2), lambda x: Evaluation(x * 2)):
        assert Batched(function).evaluate(X, ["a", "b"]).values.tolist() == (X * 2).tolist()


def test_an_evaluation_brings_everything() -> None:
    given = Evaluation(X.sum(-1), -X, torch.ones(3), torch.ones(3, 2), {"n": torch.arange(3)}, X + 1)
    outcome = Batched(lambda x: given).evaluate(X, ["loss"], ["a", "b"])
    assert outcome.constraints is not None and outcome.constraints.tolist() == (-X).tolist()
    assert outcome.noise is not None and outcome.noise.shape == (3, 1)
    assert outcome.gradients is not None and outcome.gradients.shape == (3, 1, 2)
    assert outcome.reached is not None and outcome.reached.tolist() == (X + 1).tolist()
    row = outcome.row(2)
    assert (row.values, row.constraints, row.metrics, row.reached) == ([9.0], [-4.0, -5.0], {"n": 2.0}, [5.0, 6.0])


def test_rows_that_are_not_finite_fail_alone() -> None:
    values = torch.tensor([1.0, torch.nan, -torch.inf])
    outcome = Batched(lambda x: Evaluation(values, constraints=torch.zeros(3, 1))).evaluate(X, constraints=["heat"])
    assert outcome.ok.tolist() == [True, False, False]
    assert outcome.errors == {1: "the objective returned NaN", 2: "the objective returned -inf"}
    outcome = Batched(lambda x: Evaluation(x.sum(-1), constraints=values)).evaluate(X, constraints=["heat"])
    assert outcome.errors == {1: "the objective returned NaN for constraint heat", 2: "the objective returned -inf for constraint heat"}
    assert list(Batched(lambda x: Evaluation(x.sum(-1), noise=-values)).evaluate(X).errors) == [0, 1, 2]
    outcome = Batched(lambda x: Evaluation(x.sum(-1), gradients=torch.stack([values, torch.ones(3)], -1))).evaluate(X)
    assert outcome.errors == dict.fromkeys((1, 2), "the objective gave gradients that are not all finite")


def test_a_function_that_raises_or_exits_fails_its_batch_with_the_traceback() -> None:
    def explode(x: Any) -> Any:
        raise RuntimeError("boom\ndetails")

    outcome = Batched(explode).evaluate(X)
    assert outcome.errors == dict.fromkeys(range(3), "RuntimeError: boom")
    assert "in explode" in outcome.stderr
    assert outcome.values.shape == (3, 1)
    assert Batched(lambda x: sys.exit(3)).evaluate(X).errors[0] == "SystemExit: 3"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: None, "None"),
        (lambda x: x[:2].sum(-1), r"shape \(2,\); \(3,\) or \(3, 1\)"),
        (lambda x: x.sum(), r"shape \(\)"),
        (lambda x: x, r"shape \(3, 2\)"),
        (lambda x: ["a", "b", "c"], "list"),
        (lambda x: {"a": x[:, 0], "b": x[:, 1]}, "no values for loss"),
        (lambda x: {"loss": x}, "shape"),
        (lambda x: Evaluation(x.sum(-1), constraints=x), "names none"),
        (lambda x: Evaluation(x.sum(-1), gradients=x[:1]), "gradients"),
        (lambda x: x.sum(-1) + 1j, "complex numbers for values"),
        (lambda x: x.numpy().sum(-1) + 1j, "complex numbers for values"),
        (lambda x: [1.0, 1j, 2.0], "complex numbers for values"),
        (lambda x: {"loss": x.sum(-1), "metrics": [1, 2, 3]}, "the metrics"),
    ],
)
def test_what_does_not_fit_is_a_failure_that_says_what_came(function: Any, reason: str) -> None:
    outcome = Batched(function).evaluate(X, ["loss"])
    assert len(outcome.errors) == 3
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(outcome.errors[0])


def test_missing_constraints_are_never_taken_as_kept() -> None:
    assert "heat" in Batched(lambda x: x.sum(-1)).evaluate(X, constraints=["heat"]).errors[0]
    assert "1 constraint" in Batched(lambda x: Evaluation(x.sum(-1), constraints=x[:, :1])).evaluate(X, constraints=["a", "b"]).errors[0]


def test_the_points_belong_to_the_study() -> None:
    x = X.clone()

    def greedy(points: Any) -> Any:
        points *= 0
        return points.sum(-1)

    for numpy in (True, False, None):
        Batched(greedy, numpy=numpy).evaluate(x)
        assert torch.equal(x, X)


def test_ctrl_c_is_not_swallowed() -> None:
    def interrupted(x: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Batched(interrupted).evaluate(X)


def test_a_single_trial_keeps_the_names() -> None:
    trial = SimpleNamespace(id=0, params={}, x=X[1])
    objective = Batched(lambda x: {"loss": x.sum(-1), "cost": x[:, 0], "constraints": {"heat": -x[:, 1]}})
    outcome = objective.submit(trial).result().resolve(["cost", "loss"], ["heat"])
    assert (outcome.values, outcome.constraints) == ([2.0, 5.0], [-3.0])
    assert Batched(lambda x: 1 / 0).submit(trial).result().error == "ZeroDivisionError: division by zero"
    with pytest.raises(ConfigError, match="is not an objective"):
        Batched(3)  # type: ignore[arg-type]


class FakeStudy:
    """Keeps what is told; one real variable a column, encoded as it is."""

    task = SimpleNamespace(objectives=("loss",), constraints=())
    space = SimpleNamespace(
        encode_numpy=lambda x: x, params=lambda x: [{"a": a, "b": b} for a, b in x.tolist()], allowed=lambda x: np.ones(len(x), dtype=bool)
    )

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.failed: list[Any] = []

    def tell(self, trials: Any, values: Any, **rest: Any) -> None:
        ids = getattr(trials, "ids", trials)
        self.told.append((ids.tolist(), values.tolist(), {k: v for k, v in rest.items() if v is not None}))

    def fail(self, ids: Any, reason: str) -> None:
        self.failed.append((ids, reason))


class FakeBatch:
    ids = np.array([7, 8, 9])
    x = X

    def __len__(self) -> int:
        return 3


def test_a_study_is_told_what_came_back_and_the_failures_with_their_reasons() -> None:
    def function(x: Any) -> Any:
        values = x.sum(-1)
        values[1] = torch.nan
        return Evaluation(values, metrics={"n": x[:, 0]}, reached=x + 1)

    study: Any = FakeStudy()
    batch: Any = FakeBatch()
    Batched(function).tell(study, batch)
    ((ids, values, rest),) = study.told
    assert (ids, values) == ([7, 9], [[1.0], [9.0]])
    assert rest["metrics"]["n"].tolist() == [0.0, 4.0]
    assert rest["at"] == [{"a": 1.0, "b": 2.0}, {"a": 5.0, "b": 6.0}]
    assert study.failed == [([8], "the objective returned NaN")]

    study = FakeStudy()
    Batched(lambda x: x.sum(-1)).tell(study, batch)
    assert study.told == [([7, 8, 9], SUMS, {})]
    Batched(lambda x: 1 / 0).tell(study, batch)
    ((ids, reason),) = study.failed
    assert ids == [7, 8, 9]
    assert reason.startswith("ZeroDivisionError: division by zero\nTraceback")
