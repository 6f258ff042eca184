"""History by column, data frames, and Pareto fronts against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoopt import Bool, Choice, Fixed, Integer, Real, Space, Study
from zoopt.errors import ConfigError, FeedbackError
from zoopt.history import pareto_rows


def dominated(values: np.ndarray) -> list[bool]:
    return [any((v <= w).all() and (v < w).any() for v in values) for w in values]


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_the_front_is_what_nothing_dominates(m: int) -> None:
    rng = np.random.default_rng(m)
    for n in (0, 1, 2, 40):
        for values in (rng.integers(0, 4, (n, m)).astype(float), rng.random((n, m))):
            assert pareto_rows(values).tolist() == [i for i, out in enumerate(dominated(values)) if not out]


@pytest.mark.parametrize("m", [2, 3, 4, 6])
def test_large_fronts_too(m: int) -> None:
    rng = np.random.default_rng(m)
    sphere = np.abs(rng.normal(size=(700, m)))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    assert pareto_rows(sphere).tolist() == list(range(700))
    for values in (rng.random((700, m)), rng.integers(0, 5, (700, m)).astype(float), sphere.round(1), np.ones((700, m))):
        better = (values <= values[:, None]).all(-1) & (values < values[:, None]).any(-1)
        assert pareto_rows(values).tolist() == np.nonzero(~better.any(1))[0].tolist()


def test_equal_rows_all_stay_and_rounding_of_sums_misleads_nobody() -> None:
    assert pareto_rows(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])).tolist() == [0, 1, 2]
    assert pareto_rows(np.array([[1e16, 1.0], [1e16, 0.0]])).tolist() == [1]
    assert pareto_rows(np.array([[1e16, 0.0], [1e16, 1.0]])).tolist() == [0]


def mixed() -> Space:
    return Space(
        {
            "lr": Real(1e-4, 1.0, log=True),
            "k": Integer(1, 9),
            "flag": Bool(),
            "kernel": Choice("rbf", "poly"),
            "degree": Integer(2, 4, when={"kernel": "poly"}),
            "w": Real(0, 1, shape=(2,)),
            "version": Fixed("v1"),
        }
    )


def test_columns_are_what_the_trials_say() -> None:
    study = Study(mixed(), "random", seed=3)
    for k in range(30):
        trial = study.ask()
        if k % 7 == 3:
            study.fail(trial, "boom")
        elif k % 7 == 5:
            study.drop(trial)
        else:
            study.tell(trial, float(k))
    study.ask()
    history = study.history()
    assert list(history) == ["id", "state", "lr", "k", "flag", "kernel", "degree", "w", "version", "value", "error"]
    assert history["k"].dtype == np.int64
    assert history["lr"].dtype == np.float64
    for i in range(31):
        trial = study.trial(i)
        params = trial.params
        assert history["state"][i] == trial.state.name.lower()
        for name in ("lr", "k", "flag", "kernel", "version"):
            assert history[name][i] == params[name]
        assert history["w"][i].tolist() == params["w"].tolist()
        assert np.isnan(history["degree"][i]) if "degree" not in params else history["degree"][i] == params["degree"]
        assert np.isnan(history["value"][i]) if trial.value is None else history["value"][i] == trial.value
        assert history["error"][i] == trial.error
    assert len(history) == 11


def test_columns_that_some_trials_have() -> None:
    study = Study({"x": Real(0, 1)}, "random", seed=0, objectives={"loss": "minimize", "speed": "maximize"}, constraints=["heat"])
    batch = study.ask(4)
    study.tell(batch[0], {"loss": 1.0})
    study.tell(batch[1], [2.0, 3.0], constraints=[-1.0], noise=[0.1, 0.2], metrics={"epochs": 7, "tag": "a"}, at={"x": 0.5})
    study.tell(batch[2], [4.0, 5.0], constraints=[1.0])
    history = study.history()
    assert history["loss"][:3].tolist() == [1.0, 2.0, 4.0]
    assert history["speed"][1:3].tolist() == [3.0, 5.0]
    assert np.isnan(history["speed"][[0, 3]]).all()
    assert history["heat"][1:3].tolist() == [-1.0, 1.0]
    assert history["noise_speed"][1] == 0.2
    assert history["epochs"][1] == 7
    assert np.isnan(history["epochs"][2])
    assert history["tag"].tolist() == [None, "a", None, None]
    assert history["reached"].tolist() == [None, {"x": 0.5}, None, None]


def test_a_parameter_may_be_called_like_anything_but_what_is_told() -> None:
    study = Study({"x": Real(0, 1), "id": Real(0, 1)}, "random", seed=0)
    study.tell(study.ask(), 2.0, metrics={"id": 1, "x": 3, "value": 4})
    history = study.history()
    assert list(history) == ["id", "state", "x", "id_", "value", "id__", "x_", "value_"]
    assert history["value"].tolist() == [2.0]
    assert history["value_"].tolist() == [4]
    with pytest.raises(ConfigError, match="'value' is the name of a parameter and of an objective"):
        Study({"value": Real(0, 1)}, "random")
    assert list(Study({"value": Real(0, 1)}, "random", objectives={"loss": "minimize"}).history()) == ["id", "state", "value", "loss"]


def test_an_empty_study_has_empty_columns() -> None:
    history = Study(mixed(), "random", seed=0).history()
    assert all(len(column) == 0 for column in history.values())


def test_frames_and_what_is_not_kept() -> None:
    pytest.importorskip("pandas")
    study = Study({"x": Real(0, 1)}, "random", seed=0)
    study.tell(study.ask(3), [1.0, 2.0, 3.0])
    frame = study.history().frame()
    assert frame.shape == (3, 4)
    assert frame.sort_values("value", ascending=False)["id"].tolist() == [2, 1, 0]
    assert frame["state"].tolist() == ["complete"] * 3
    for kept in ("values", "best"):
        study = Study({"x": Real(0, 1)}, "random", seed=0, history=kept)  # type: ignore[arg-type]
        with pytest.raises(FeedbackError, match="needs history='all'"):
            study.history()


@pytest.mark.parametrize("kept", ["values", "best"])
def test_less_history_forgets_what_was_told_beside_the_values_of_finished_trials(kept: Any) -> None:
    study = Study({"x": Real(0, 1)}, "random", seed=0, history=kept, constraints=["heat"])
    for k in range(300):
        trial = study.ask()
        study.report(trial, 1, 0.5)
        if k % 3 == 0:
            study.fail(trial, f"out of memory in {k}")
            continue
        setting = {"x": 0.25} if k % 2 else {}
        study.tell(trial, abs(150.5 - k), constraints=-1.0, noise=0.1, metrics={"epochs": k}, gradients=[1.0], at=setting)
    batch = study.ask(100)
    for trial in batch:
        study.report(trial, 1, 2.0)
    study.tell(batch[:99], np.full(99, 500.0), constraints=np.zeros(99), metrics={"epochs": 1})
    study.add([{"x": 0.5}, {"x": 0.1}], [600.0, 700.0], constraints=[0.0, 0.0], metrics={"epochs": 2})
    ledger = study._ledger
    beside = [ledger.metrics, ledger.settings, ledger.reports, ledger.gradients, ledger.errors, ledger.partial]
    assert sum(map(len, beside)) <= 8  # of the best, the one that is out, and the last that failed
    assert study.reports(batch[99]) == [(1.0, 2.0)]
    best = study.best
    assert best is not None and best.id == 151 and best.value == 0.5
    assert best.metrics == {"epochs": 151} and best.reached == {"x": 0.25} and study.reports(best) == [(1.0, 0.5)]
    assert (study.evaluations, study.failures) == (401, 100)
    with pytest.raises(FeedbackError, match=rf"should_stop.. compares with what finished trials reported.* history='{kept}'"):
        study.should_stop(batch[99])


@pytest.mark.parametrize("kept", ["values", "best"])
def test_plain_results_one_by_one_leave_no_reports_behind_either(kept: Any) -> None:
    study = Study({"x": Real(0, 1)}, "random", seed=0, history=kept)
    for k in range(50):
        trial = study.ask()
        study.report(trial, 1, 0.5)
        study.tell(trial, abs(20.5 - k))
    assert list(study._ledger.reports) == [study.best.id] == [20]  # type: ignore[union-attr]


@pytest.mark.parametrize("kept", ["values", "best"])
def test_less_history_keeps_no_rankings_but_what_the_method_made_of_them(kept: Any) -> None:
    study = Study({"x": Real(0, 1)}, "cma-es", seed=0, history=kept, feedback="ranking")
    assert study.best is None
    for _ in range(20):
        batch = study.ask(20)
        study.rank([batch[int(k)] for k in (batch.encoded[:, 0] - 0.3).abs().argsort()])
    assert study.rankings == {}
    assert study.best is not None and study.best.params["x"] == pytest.approx(0.3, abs=0.01)
