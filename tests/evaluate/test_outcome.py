"""What an objective may return, and what becomes of what it may not."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from zoopt.evaluate import Outcome
from zoopt.evaluate.outcome import call_objective, tail
from zoopt.feedback import Evaluation


@pytest.mark.parametrize(
    "result",
    [
        0.5,
        np.float32(0.5),
        np.array(0.5),
        np.array([[0.5]]),
        torch.tensor(0.5, requires_grad=True),
        torch.tensor([0.5], dtype=torch.bfloat16),
        Decimal("0.5"),
        [0.5],
        (0.5,),
        {"loss": 0.5},
        {"value": 0.5},
        {"loss": np.array([0.5]), "epochs": 3},
        Evaluation(torch.tensor([0.5])),
        Outcome(values=0.5),
        Outcome(values=np.array([0.5])),
        Outcome(values={"loss": torch.tensor(0.5)}, metrics=None),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_every_form_of_one_value_is_read_the_same(result: Any) -> None:
    outcome = Outcome.of(result).resolve(["loss"])
    assert outcome.error is None
    assert outcome.values == [0.5]
    assert type(outcome.values[0]) is float


@pytest.mark.parametrize("result", [(1, 2.5), [1, 2.5], np.array([1, 2.5]), torch.tensor([1.0, 2.5]), {"cost": 2.5, "loss": 1}])
def test_several_objectives_come_in_the_order_of_the_study(result: Any) -> None:
    assert Outcome.of(result).resolve(["loss", "cost"]).values == [1.0, 2.5]


def test_a_dict_brings_constraints_noise_and_metrics() -> None:
    result = {"loss": 1, "cost": 2, "constraints": {"b": -1.0, "a": 3}, "noise": {"cost": 0.2, "loss": 0.1}, "metrics": {"epochs": 7}}
    outcome = Outcome.of(result).resolve(["loss", "cost"], ["a", "b"])
    assert (outcome.values, outcome.constraints, outcome.noise, outcome.metrics) == ([1, 2], [3, -1], [0.1, 0.2], {"epochs": 7.0})


def test_what_else_a_dict_holds_is_a_constraint_or_a_metric() -> None:
    outcome = Outcome.of({"loss": 1.0, "heat": -2.0, "auc": float("nan"), "note": "fine", "steps": 10}).resolve(["loss"], ["heat"])
    assert outcome.error is None
    assert outcome.constraints == [-2.0]
    assert outcome.metrics["steps"] == 10.0
    assert np.isnan(outcome.metrics["auc"])  # no reason to lose the value
    assert "note" not in outcome.metrics


def test_an_evaluation_of_one_point_brings_everything() -> None:
    given = Evaluation(
        0.5, constraints=np.array([-1.0]), noise=0.1, gradients=torch.tensor([1.0, 2.0]), metrics={"n": 1}, reached=[3.0, 4.0]
    )
    outcome = Outcome.of(given).resolve(["loss"], ["heat"])
    assert (outcome.values, outcome.constraints, outcome.noise, outcome.metrics) == ([0.5], [-1.0], [0.1], {"n": 1.0})
    assert (outcome.gradients, outcome.reached) == ([1.0, 2.0], [3.0, 4.0])
    some = Outcome.of(Evaluation(0.5, gradients=[1.0, None])).resolve(["loss"], [])
    assert some.error is None
    assert some.gradients == [1.0, None]  # a derivative that is not known


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (None, "returned None"),
        ("0.5", "'0.5'"),
        (float("nan"), "NaN"),
        (np.array([1.0, np.nan]), "NaN"),
        (float("inf"), "inf"),
        (1 + 2j, "(1+2j)"),
        (object, "<class 'object'>"),
        ([1, "x"], "'x'"),
        (np.ones((2, 2)), "number"),
        ({}, "no objective"),
        ({"constraints": [1.0]}, "no objective"),
        ({"value": "high"}, "'high'"),
        (10**400, "401 digits"),
        ({"value": 1, "metrics": 3}, "metrics"),
        (Evaluation(None), "None"),
        (torch.tensor(1 + 2j), "(1+2j)"),
        (Evaluation(1.0, gradients=[None, float("nan")]), "gradients that are not all finite"),
        (Evaluation(1.0, gradients=[1.0, float("nan")]), "gradients that are not all finite"),
        (Evaluation(1.0, gradients=np.array([[1.0, -np.inf]])), "gradients that are not all finite"),
        (Evaluation(1.0, gradients=torch.tensor([1 + 2j])), "(1+2j)"),
    ],
)
def test_what_is_no_result_is_a_failure_that_shows_it(result: Any, reason: str) -> None:
    outcome = Outcome.of(result)
    assert not outcome.ok
    assert outcome.error is not None and reason in outcome.error
    assert "\n" not in outcome.error
    assert outcome.resolve(["loss"]) is outcome


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ((1.0, 2.0), "2 values, but the study has 1 objective: loss"),
        ({"time": 1.0, "acc": 2.0}, "gave time, acc, but no value for loss"),
        ({"loss": float("nan"), "n": 3}, "NaN for loss"),
        ({"loss": "low", "n": 3}, "'low' for loss"),
        ({"loss": 1.0, "constraints": [0.0]}, "names none"),
        ({"loss": 1.0, "noise": -1.0}, "noise"),
        ({"loss": 1.0, "noise": {"cost": 1.0}}, "noise"),
    ],
)
def test_what_does_not_fit_the_study_is_a_failure_that_says_so(result: Any, reason: str) -> None:
    error = Outcome.of(result).resolve(["loss"]).error
    assert error is not None and reason in error


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [(None, "gave no constraints"), ([1.0], "2 are expected"), ({"a": 1.0}, "a, b"), ([1.0, float("nan")], "NaN for constraint b")],
)
def test_missing_constraints_are_never_taken_as_kept(constraints: Any, reason: str) -> None:
    error = Outcome.of({"loss": 1.0, "constraints": constraints}).resolve(["loss"], ["a", "b"]).error
    assert error is not None and reason in error


def test_an_outcome_of_the_users_own_is_read_like_any_other_result() -> None:
    given = Outcome(
        values=3,
        constraints=np.array([-1]),
        noise={"loss": 1},
        metrics={"n": np.int64(7), "name": "x"},
        gradients=np.ones(2),
        reached=(1, 2),
    )
    for outcome in (Outcome.of(given).resolve(["loss"], ["heat"]), given.resolve(["loss"], ["heat"])):
        assert (outcome.values, outcome.constraints, outcome.noise, outcome.metrics) == ([3.0], [-1.0], [1.0], {"n": 7.0})
        assert (outcome.gradients, outcome.reached) == ([1.0, 1.0], [1.0, 2.0])
        assert outcome.error is None
    kept = Outcome.of(Outcome(values=1, stderr="warning\n", seconds=2.5), seconds=9.0)
    assert (kept.stderr, kept.seconds) == ("warning\n", 2.5)
    assert call_objective(lambda: Outcome(values=1), {}).seconds > 0
    failed = Outcome.of(Outcome(error=ValueError("no licence\nsee the manual"), stderr=None))  # type: ignore[arg-type]
    assert (failed.error, failed.stderr) == ("no licence", "")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(), "returned None"),
        (Outcome(values="high"), "'high'"),
        (Outcome(values=[1, float("nan")]), "NaN"),
        (Outcome(values=1, noise="much"), "'much'"),
        (Outcome(values=1, metrics=[1]), "metrics"),  # type: ignore[arg-type]
        (Outcome(values=1, gradients=[1.0, "steep"]), "'steep'"),
        (Outcome(values=1, reached=["far"]), "'far'"),
    ],
)
def test_an_outcome_of_the_users_own_that_is_no_result_is_a_failure(outcome: Outcome, reason: str) -> None:
    for read in (Outcome.of(outcome), outcome.resolve(["loss"])):
        assert read.error is not None and reason in read.error


def test_an_exception_is_one_line_and_its_traceback_begins_in_the_users_code() -> None:
    def objective(x: float) -> float:
        raise ValueError(f"bad x\nmore about {x}")

    outcome = call_objective(objective, {"x": 3.0})
    assert outcome.error == "ValueError: bad x"
    assert "more about 3.0" in outcome.stderr
    assert "in objective" in outcome.stderr and "call_objective" not in outcome.stderr


def test_an_exception_that_cannot_be_shown_and_sys_exit_are_failures_too() -> None:
    class Shy(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def shy() -> None:
        raise Shy

    assert call_objective(shy, {}).error == "Shy"
    assert call_objective(lambda: sys.exit(2), {}).error == "SystemExit: 2"


def test_only_the_end_of_the_standard_error_is_kept() -> None:
    kept = tail("é" * 5000 + "end")
    assert kept.endswith("ééend")
    assert 4090 <= len(kept.encode()) <= 4096


def test_reading_outcomes_loads_neither_numpy_nor_torch() -> None:
    code = "import sys; from zoopt.evaluate import Outcome; import zoopt.evaluate._worker; assert Outcome.of(1).ok; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "botorch"} & set(loaded)
