"""Any executor of concurrent.futures."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoopt import Integer, Real, Study
from zoopt.errors import ConfigError, ObjectiveError
from zoopt.evaluate import OnExecutor, as_evaluator
from zoopt.trials import TrialState


def trial(**params: Any) -> Any:
    return SimpleNamespace(id=0, params=params)


def _fork_pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))


def test_values_and_failures_of_threads() -> None:
    def objective(x: float) -> float:
        if x < 0:
            raise ValueError("negative")
        return x + 1

    with ThreadPoolExecutor(2) as pool:
        evaluator = as_evaluator(objective, 2, executor=pool)
        evaluator.start(2)
        good, bad, wrong = evaluator.submit(trial(x=1.0)), evaluator.submit(trial(x=-1.0)), evaluator.submit(trial(z=1.0))
        assert good.result().values == 2.0
        assert bad.result().error == "ValueError: negative"
        assert "in objective" in bad.result().stderr
        assert "unexpected keyword argument 'z'" in str(wrong.result().error)
        evaluator.close()
        assert pool.submit(int).result() == 0  # the executor is the user's


def test_lambdas_travel_to_a_users_process_pool_and_a_dead_process_is_a_clear_story() -> None:
    with _fork_pool(1) as pool:
        offset = 10
        evaluator = OnExecutor(lambda x: os._exit(1) if x < 0 else x + offset, pool)
        evaluator.start(1)
        assert evaluator.submit(trial(x=1.0)).result().values == 11.0
        with pytest.raises(ObjectiveError, match=r"a process of the executor .* died.*give a new one"):
            evaluator.submit(trial(x=-1.0)).result()
        with pytest.raises(ObjectiveError, match="give a new one"):
            evaluator.submit(trial(x=1.0))


def test_one_death_costs_the_healthy_trials_of_its_pool_nothing_and_the_culprit_is_found(tmp_path: Path) -> None:
    """Trial 1 ends its process each time, and with it the pool; the others that the pool held are evaluated in the next one."""
    folder = str(tmp_path)

    def objective(k: int) -> float:
        if k == 1:
            while len(os.listdir(folder)) < 2:  # until others are being evaluated
                time.sleep(0.01)
            os._exit(1)
        name = os.path.join(folder, str(k))
        Path(name).touch()
        time.sleep(0.2)
        return float(k)

    study = Study({"k": Integer(0, 9)}, "random", seed=0)
    for k in range(4):
        study.enqueue({"k": k})
    for _ in range(3):
        with _fork_pool(3) as pool, pytest.raises(ObjectiveError, match="give a new one"):
            study.run(objective, evaluations=4, parallel=3, executor=pool)
        assert study.failures == 0
        assert study.trial(1).state is TrialState.PENDING
    with _fork_pool(3) as pool:
        study.run(objective, evaluations=4, parallel=3, executor=pool)
    assert [study.trial(k).state.name for k in range(4)] == ["COMPLETE", "LOST", "COMPLETE", "COMPLETE"]


def test_a_function_that_cannot_travel_to_a_process_pool_is_refused_with_nothing_lost() -> None:
    lock = threading.Lock()
    study = Study({"x": Real(0, 1)}, "random", seed=0)
    with _fork_pool(1) as pool, pytest.raises(ConfigError, match="cannot be sent to a worker process") as caught:
        study.run(lambda x: bool(lock), evaluations=3, executor=pool)
    assert str(caught.value).count("cannot be sent") == 1
    assert (study.evaluations, study.pending) == (0, [])
    with ThreadPoolExecutor(1) as threads:  # where nothing travels
        assert study.run(lambda x: x * bool(lock), evaluations=3, executor=threads).failures == 0


def test_an_executor_that_turns_out_not_to_take_the_function_ends_the_run_with_nothing_lost() -> None:
    class Elsewhere(ThreadPoolExecutor):
        """Pickles what it is given, as an executor on other machines does, when the call is on its way."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: pickle.loads(pickle.dumps(fn))(*args, **kwargs))

    lock = threading.Lock()
    study = Study({"x": Real(0, 1)}, "random", seed=0)
    with Elsewhere(1) as pool:
        for _ in range(4):
            with pytest.raises(ConfigError, match="cannot be sent to a worker process"):
                study.run(lambda x: bool(lock), evaluations=3, executor=pool)
        assert study.failures == 0
        assert [t.id for t in study.pending] == [0]
        study.run(lambda x: x, evaluations=3, executor=pool)
    assert (study.evaluations, study.failures) == (3, 0)


def test_a_timeout_fails_the_trial_though_the_call_goes_on() -> None:
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        evaluator = OnExecutor(lambda x: release.wait(30) and x, pool, timeout=0.1)
        evaluator.start(1)
        outcome = evaluator.submit(trial(x=1.0)).result()
        assert outcome.error is not None and outcome.error.startswith("timed out after 0.1 s")
        release.set()
        assert evaluator.submit(trial(x=2.0)).result().values == 2.0


def test_closing_cancels_what_has_not_begun() -> None:
    begun, release = threading.Event(), threading.Event()

    def wait(x: float) -> float:
        begun.set()
        release.wait(30)
        return x

    with ThreadPoolExecutor(1) as pool:
        evaluator = OnExecutor(wait, pool)
        evaluator.start(1)
        first, second = evaluator.submit(trial(x=1.0)), evaluator.submit(trial(x=2.0))
        assert begun.wait(30)
        evaluator.close()
        with pytest.raises(CancelledError):
            second.result(30)
        release.set()
        assert first.result(30).values == 1.0
