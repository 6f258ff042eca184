"""A look inside the model of bo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoopt import Bool, Choice, Context, Integer, Real, Space, Study, Task
from zoopt.diagnosis import LeftOut
from zoopt.strategies import BO
from zoopt.surrogates import GP, TrainingData


def told(n: int = 16, **options: object) -> Study:
    space = Space(
        {"x": Real(-2, 3), "k": Integer(1, 9), "kind": Choice("a", "b"), "idle": Real(0, 1), "v": Real(0, 1, shape=2), "on": Bool()}
    )
    study = Study(space, BO(initial=8, raw_samples=32), seed=0, **options)  # type: ignore[arg-type]
    for _ in range(n):
        trial = study.ask()
        p = trial.params
        study.tell(trial, 100 * ((p["x"] - 1) ** 2 + 0.1 * (p["k"] - 4) ** 2 + (p["kind"] == "b") + p["v"][0]))
    return study


def test_slices_are_predictions_in_the_users_units() -> None:
    study = told(deterministic=True)
    found = study.diagnosis
    assert found is not None
    assert [part.name for part in found.slices] == ["x", "k", "kind", "idle", "v[0]", "v[1]", "on"]
    by_name = {part.name: part for part in found.slices}
    assert by_name["kind"].values == ["a", "b"]
    assert by_name["k"].values == list(range(1, 10))
    best = study.best
    assert best is not None
    x = by_name["x"]
    assert x.at == best.params["x"]
    at = study.predict([{**best.params, "x": value} for value in x.values])
    assert at is not None
    np.testing.assert_allclose(x.mean, at[0][:, 0], rtol=1e-3, atol=1.0)
    assert abs(x.values[int(x.mean.argmin())] - 1) < 0.6
    assert x.acquisition is not None
    assert np.isfinite(x.acquisition).all()


def test_importance_is_high_where_the_objective_moves() -> None:
    found = told(24, deterministic=True).diagnosis
    assert found is not None
    assert found.importance["x"] > 3 * found.importance["idle"]
    assert found.importance["kind"] > found.importance["on"]
    assert abs(sum(found.importance.values()) - 1) < 1e-9
    assert len(found.timings) == 16
    assert found.timings[-1].points == 23
    assert found.timings[-1].fit > 0
    assert found.facts["model"] == "GP"


def test_left_out_predictions_are_those_of_a_model_without_the_point() -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    study = Study(space, BO(initial=12), seed=0, direction="maximize")
    for _ in range(12):
        trial = study.ask()
        study.tell(trial, 50 * np.sin(4 * trial.params["x"]) + trial.params["y"])
    found = study.diagnosis
    assert found is not None
    assert found.left_out is not None
    left = found.left_out
    by_id = np.sort([trial.value for trial in study.trials(range(12))])
    np.testing.assert_allclose(np.sort(left.told), by_id)
    x, y = study.history()["x"], study.history()["y"]
    at = torch.tensor(np.stack([x, y], 1))
    values = torch.tensor([trial.value for trial in study.trials(range(12))]).double().unsqueeze(-1)
    whole = GP().fit(TrainingData(at, values), Task(space))
    memory = GP().memory(whole)
    assert memory is not None
    for i in (0, 5, 11):
        others = torch.arange(12) != i
        posterior = GP().fit(TrainingData(at[others], values[others]), Task(space), memory).posterior(at[i : i + 1])
        row = int(np.argmin(np.abs(left.told - float(values[i]))))
        assert abs(left.mean[row] - float(posterior.mean)) < 0.35 * left.sd[row] + 0.5


def test_coverage_counts_what_lies_inside() -> None:
    errors = np.random.default_rng(0).normal(size=20_000)
    right = LeftOut(errors, np.zeros_like(errors), np.ones_like(errors))
    assert abs(right.coverage(0.9) - 0.9) < 0.01
    assert LeftOut(2 * errors, np.zeros_like(errors), np.ones_like(errors)).coverage(0.9) < 0.7


def test_the_figure_is_one_file(tmp_path: Path) -> None:
    found = told().diagnosis
    assert found is not None
    path = found.save(tmp_path / "model.html")
    text = path.read_text()
    assert "kind" in text
    assert "https://cdn" not in text.split("</head>")[0]
    assert path.stat().st_size < 8_000_000
    chart = found.figure()
    assert {"expected", "fit", "search"} <= {trace.name for trace in chart.data}


def test_numerics_that_fail_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    study = told(10)

    def broken(*args: object) -> None:
        raise torch.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(GP, "fit", broken)
    assert study.diagnosis is None


def test_there_may_be_nothing_to_show() -> None:
    assert Study({"x": Real(0, 1)}, "bo").diagnosis is None
    assert Study({"x": Real(0, 1)}, "random").diagnosis is None
    weather = Study({"x": Real(0, 1), "t": Context(Real(0, 1))}, BO(initial=2), seed=0)
    for t in (0.1, 0.5, 0.9):
        trial = weather.ask(context={"t": t})
        weather.tell(trial, trial.params["x"])
    assert weather.diagnosis is not None
