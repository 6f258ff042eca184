"""The Python doors as a newcomer is shown them, in small: what the snippets promise. The snippets themselves run in ``test_docs.py``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoopt
from zoopt import Choice, Integer, Real, Space

space = Space({"C": Real(1e-3, 1e3, log=True), "gamma": Real(1e-6, 1e1, log=True), "kernel": Choice("rbf", "poly")})


def accuracy(C: float, gamma: float, kernel: str) -> float:
    """Stands in for a support vector machine: best at C = 10, gamma = 1e-3 with the first kernel."""
    import math

    return 1 - 0.01 * (math.log10(C) - 1) ** 2 - 0.01 * (math.log10(gamma) + 3) ** 2 - 0.05 * (kernel == "poly")


def test_ask_tell_then_let_zoopt_drive(capsys: pytest.CaptureFixture[str]) -> None:
    strategy = "bo"
    study = zoopt.Study(space, strategy=strategy, direction="maximize", seed=0)
    for _ in range(12):
        trial = study.ask()
        study.tell(trial, accuracy(**trial.params))
    print(study.best)  # Trial(id=31, params={...}, value=0.991)
    assert study.best is not None
    assert capsys.readouterr().out == f"Trial(id={study.best.id}, params={study.best.params!r}, value={study.best.value!r})\n"

    def objective(C: float, gamma: float, kernel: str) -> float:
        import math

        return 1 - 0.01 * (math.log10(C) - 1) ** 2 - 0.01 * (math.log10(gamma) + 3) ** 2 - 0.05 * (kernel == "poly")

    study.run(objective, evaluations=16, parallel=2)  # 16 in all, so 4 more
    assert study.evaluations == 16
    assert study.best.value is not None and study.best.value > 0.95
    assert study.status.reason == "evaluations"


@pytest.mark.usefixtures("one_thread")
def test_minimize_a_problem_and_a_plain_callable(capsys: pytest.CaptureFixture[str]) -> None:
    from zoopt.problems import Rastrigin
    from zoopt.strategies import CBO

    problem = Rastrigin(dim=20)
    result = zoopt.minimize(problem, CBO(), evaluations=200_000, runs=40, device="auto")
    print(result.value, result.x, result.values)
    assert capsys.readouterr().out.startswith(str(result.value))
    assert result.values.shape == (40,) and result.value == result.values.min()
    assert (result.values < 1e-6).all()
    found = zoopt.minimize(lambda x: ((x - 1) ** 2).sum(-1), "cma-es", space=Space({"x": Real(-5, 5, shape=(10,))}), evaluations=5_000)
    assert found.value < 1e-8


def test_batches_journals_rankings_and_points_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = zoopt.Study(space, strategy="cma-es", journal="sqlite:///svm.db", constraints=["size"])
    batch = study.ask(16)
    n = len(batch)
    values, c, sd = np.linspace(0, 1, n - 6), np.zeros((n - 6, 1)) - 1, np.full(n - 6, 0.1)
    study.tell(batch[6:], values, constraints=c, noise=sd)  # c <= 0 is feasible
    study.fail(batch[3], "diverged")
    study.rank([batch[2], [batch[0], batch[1]], batch[5]], rest="worse")  # best first; an inner list is a tie
    assert study.pending == []
    study.enqueue({"C": 1.0, "gamma": 0.01, "kernel": "rbf"})
    trial = study.ask()
    assert trial.params == {"C": pytest.approx(1.0), "gamma": pytest.approx(0.01), "kernel": "rbf"}
    params = {"C": 2.0, "gamma": 0.02, "kernel": "poly"}
    study.add(params, 0.5, constraints=[0.0])
    assert study.recommended is not None
    assert study.recommended.params.keys() == space.variables.keys()
    study.close()
    again = zoopt.Study(space, strategy="cma-es", journal="sqlite:///svm.db", constraints=["size"])  # survives a crash
    assert again.evaluations == n + 1
    assert [t.id for t in again.pending] == [trial.id]
    again.close()


def test_the_names_of_the_file_are_those_of_python() -> None:
    study = zoopt.Study(
        Space({"lr": Real(1e-5, 1e-1, log=True), "depth": Integer(1, 12)}),
        strategy="nsga2",
        objectives={"loss": "minimize", "speed": "maximize"},
        constraints=["heat"],
        deterministic=False,
        name="trees",
        journal=None,
        seed=3,
    )
    for _ in range(3):
        batch = study.ask(20)
        outcome: dict[str, Any] = {"loss": [p["lr"] * p["depth"] for p in batch.params], "speed": torch.rand(len(batch)).tolist()}
        study.tell(batch, outcome, constraints={"heat": [p["depth"] - 10 for p in batch.params]})
    assert all(t.constraints["heat"] <= 0 for t in study.front)
    assert all(math.isfinite(v) for t in study.front for v in t.values.values())
