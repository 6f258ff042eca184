"""What users of other Bayesian optimizers complain about, a test each: none of it may happen here.

Cholesky failures, awkward values, repeated and duplicated points, failures, pending points, threads and global random numbers are in
``test_bo``; a driver killed while it tells is in ``test_crash``, here once more with a model at work.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from zoopt import Integer, Random, Real, Space, Study, Task
from zoopt.strategies.bo.recipe import BO
from zoopt.surrogates import GP, TrainingData

SQUARE = Space({"x": Real(0, 1), "y": Real(0, 1)})


def test_lengthscales_do_not_degenerate_on_noise() -> None:
    space = Space({f"x{j}": Real(0, 1) for j in range(4)})
    for seed in range(5):
        x = space.sample(40, Random(seed))
        y = Random(seed).child("noise").normal((40, 1))
        lengths = GP().lengthscales(GP().fit(TrainingData(x, y), Task(space)))
        assert float(lengths.min()) > 0.02


_GROWTH = """
import gc, os
import torch
from pathlib import Path
from zoopt import Real, Space, Study
from zoopt.strategies import BO
torch.set_num_threads(1)
study = Study(Space({f"x{j}": Real(0, 1) for j in range(10)}), BO(initial=10, raw_samples=32, restarts=1), seed=0, deterministic=True)
resident = []
for i in range(300):
    trial = study.ask()
    study.tell(trial, sum((x - 0.3) ** 2 for x in trial.params.values()))
    if i in (20, 299):
        gc.collect()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
print(resident[1] - resident[0])
"""


def test_memory_stays_where_it_is_over_300_proposals() -> None:
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # MB; covariances of 300 points and their like


def test_one_fit_answers_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(SQUARE, BO(initial=4), seed=0, deterministic=True)
    study.tell(study.ask(4), [1.0, 2.0, 0.5, 3.0])
    fits = []
    plain = GP.fit
    monkeypatch.setattr(GP, "fit", lambda self, *args: fits.append(1) or plain(self, *args))
    assert len(study.ask(6)) == 6
    assert len(fits) == 1


def test_integers_are_never_proposed_twice_until_all_were() -> None:
    study = Study({"a": Integer(0, 4), "b": Integer(0, 4)}, BO(initial=4, raw_samples=32), seed=0, deterministic=True)
    seen = set()
    for _ in range(25):
        trial = study.ask()
        seen.add((trial.params["a"], trial.params["b"]))
        study.tell(trial, float((trial.params["a"] - 3) ** 2 + trial.params["b"]))
    assert len(seen) == 25


def test_the_same_point_with_different_values_is_noise() -> None:
    study = Study(SQUARE, BO(initial=2), seed=0)
    for value in (1.0, 3.0, 2.0, 2.5, 1.5, 2.0):
        study.add({"x": 0.5, "y": 0.5}, value)
    study.add({"x": 0.1, "y": 0.9}, 5.0)
    assert study.ask().params is not None
    predicted = study.strategy.predict(study.task, study._engine.state, torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    assert predicted is not None
    assert float(predicted[0]) == pytest.approx(2.0, abs=0.5)


def test_a_failed_point_is_modelled_and_nothing_stays_running() -> None:
    study = Study(SQUARE, BO(initial=4), seed=0, deterministic=True)
    for i in range(12):
        trial = study.ask()
        if trial.params["x"] > 0.6:
            study.tell(trial, float("nan") if i % 2 else None)
        else:
            study.tell(trial, trial.params["y"])
    assert not study.pending
    assert study.failures > 0
    later = [study.ask() for _ in range(3)]
    assert np.median([t.params["x"] for t in later]) < 0.65  # few walk into what fails
    assert study.best is not None
    assert study.best.params["y"] < 0.2


def test_a_late_result_counts() -> None:
    study = Study(SQUARE, BO(initial=4), seed=0, deterministic=True)
    first = study.ask(8)
    for trial in list(first)[::-1][:5]:
        study.tell(trial, trial.params["x"])
    study.ask(3)
    study.tell(first[0], -5.0)
    assert study.best is not None
    assert study.best.id == first[0].id
    assert len(study.pending) == 5


def test_some_objectives_may_come_later() -> None:
    study = Study(SQUARE, BO(initial=3), objectives={"a": "minimize", "b": "maximize"}, seed=0)
    trials = study.ask(5)
    study.tell(trials, {"a": [t.params["x"] for t in trials]})
    assert len(study.pending) == 5
    study.tell(trials, {"b": [t.params["y"] for t in trials]})
    assert not study.pending
    assert study.ask() is not None


_DRIVER = """
import os, signal, sys
import numpy as np
from zoopt import Real, Study
from zoopt.strategies import BO
study = Study({"x": Real(0, 1), "y": Real(0, 1)}, BO(initial=4, raw_samples=32), seed=3, deterministic=True, journal=sys.argv[1])
until = int(sys.argv[2])
while True:
    trial = study.ask() if not study.pending else study.pending[0]
    print(trial.id, repr(trial.params), flush=True)
    if trial.id == until:
        os.kill(os.getpid(), signal.SIGKILL)
    study.tell(trial, (trial.params["x"] - 0.3) ** 2 + trial.params["y"])
    if trial.id == 11:
        break
"""


def test_killed_and_resumed_it_asks_what_it_would_have_asked(tmp_path: Path) -> None:
    def run(journal: str, until: int) -> tuple[int, list[str]]:
        done = subprocess.run([sys.executable, "-c", _DRIVER, journal, str(until)], capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()

    code, straight = run(str(tmp_path / "a.db"), -1)
    assert code == 0
    code, before = run(str(tmp_path / "b.db"), 8)
    assert code == -signal.SIGKILL
    code, after = run(str(tmp_path / "b.db"), -1)
    assert code == 0
    assert before[:8] + after == straight


def test_two_studies_of_one_seed_are_one() -> None:
    def proposals() -> list[dict[str, float]]:
        study = Study(SQUARE, BO(initial=3), seed=11)
        found = []
        for _ in range(7):
            trial = study.ask()
            found.append(trial.params)
            study.tell(trial, trial.params["x"] ** 2 + np.sin(9 * trial.params["y"]))
        return found

    before = torch.get_rng_state()
    first = proposals()
    torch.manual_seed(99)
    assert proposals() == first
    torch.set_rng_state(before)


def test_values_of_every_size_at_once() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = Study(SQUARE, BO(initial=3), seed=0)
        for i in range(14):
            trial = study.ask()
            study.tell(trial, [1e-12, 1e12, 0.0, -1e-12, 1.0, 1e6, 1e-6][i % 7])
    assert study.evaluations == 14
