"""Any executor of concurrent.futures."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from zoopt.errors import ObjectiveError
from zoopt.evaluate import OnExecutor, as_evaluator


def trial(**params: Any) -> Any:
    return SimpleNamespace(id=0, params=params)


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
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        offset = 10
        evaluator = OnExecutor(lambda x: os._exit(1) if x < 0 else x + offset, pool)
        evaluator.start(1)
        assert evaluator.submit(trial(x=1.0)).result().values == 11.0
        dead = evaluator.submit(trial(x=-1.0)).result()
        assert dead.error is not None and "a process of the executor died" in dead.error
        with pytest.raises(ObjectiveError, match="give a new one"):
            evaluator.submit(trial(x=1.0))


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
