"""Who computes what: the choice of an evaluator, durations, and checks before anything runs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from zoopt.errors import ConfigError
from zoopt.evaluate import Batched, Command, Evaluator, OnExecutor, Outcome, Processes, as_evaluator, check, duration


def plain(x: float, y: float = 0.0) -> float:
    return x + y


class Own:
    batched = False

    def start(self, parallel: int) -> None: ...
    def close(self) -> None: ...
    def submit(self, trial: Any) -> Future[Outcome]:
        raise NotImplementedError


class Sphere:
    space = optimum = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x**2).sum(-1)


def test_each_kind_of_objective_finds_its_evaluator() -> None:
    own = Own()
    batched = Batched(Sphere())
    assert as_evaluator(own) is own
    assert as_evaluator(batched, parallel=4) is batched
    assert type(as_evaluator(plain)) is Processes
    assert type(as_evaluator(Sphere())) is Batched
    with ThreadPoolExecutor(1) as pool:
        assert type(as_evaluator(plain, executor=pool)) is OnExecutor
    for evaluator in (own, batched, as_evaluator(plain), Command("true")):
        assert isinstance(evaluator, Evaluator)


def test_a_timeout_is_handed_on_but_an_objectives_own_comes_first() -> None:
    mine = Command("true")
    assert as_evaluator(mine, timeout="2m").timeout == 120.0  # type: ignore[attr-defined]
    assert mine.timeout is None
    assert as_evaluator(Command("true", timeout=5), timeout="2m").timeout == 5.0  # type: ignore[attr-defined]
    assert as_evaluator(plain, timeout=3).timeout == 3.0  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="cannot be kept"):
        as_evaluator(Batched(Sphere()), timeout=3)


@pytest.mark.parametrize("objective", ["python train.py", ["python", "train.py"], 3, None])
def test_what_is_no_objective_is_refused(objective: Any) -> None:
    with pytest.raises(ConfigError, match="is not an objective"):
        as_evaluator(objective)


def test_a_command_string_is_shown_how_to_become_one() -> None:
    with pytest.raises(ConfigError, match=r"Command\('python train.py'\)"):
        as_evaluator("python train.py")


@pytest.mark.parametrize("parallel", [0, -1, 1.5, True])
def test_parallel_is_a_positive_whole_number(parallel: Any) -> None:
    with pytest.raises(ConfigError, match="parallel"):
        as_evaluator(plain, parallel=parallel)


def test_an_executor_beside_an_evaluator_is_refused() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="leave executor= out"):
        as_evaluator(Command("true"), executor=pool)
    with pytest.raises(ConfigError, match="executor"):
        as_evaluator(plain, executor=4)  # type: ignore[arg-type]


def test_a_function_that_does_not_take_the_parameters_is_refused_before_it_runs() -> None:
    as_evaluator(plain, parameters=["x"])
    as_evaluator(plain, parameters=["x", "y"])
    as_evaluator(lambda **params: 0.0, parameters=["x", "anything"])
    with pytest.raises(ConfigError, match="has no argument z"):
        as_evaluator(plain, parameters=["x", "z"])
    with pytest.raises(ConfigError, match="wants x, which the space does not have"):
        as_evaluator(plain, parameters=["y"])
    with pytest.raises(ConfigError, match="Batched"):
        as_evaluator(lambda points: points, parameters=["a", "b"])
    check(Batched(plain), ["whatever"])  # takes points, no names


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (90, 90.0),
        (0.5, 0.5),
        ("30s", 30.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        (" 1.5 h ", 5400.0),
        ("500ms", 0.5),
        ("2d", 172800.0),
        ("45", 45.0),
    ],
)
def test_durations(given: Any, seconds: float | None) -> None:
    assert duration(given) == seconds


@pytest.mark.parametrize("given", [0, -1, "", "ten", "10 parsecs", "5m!", True, float("nan"), float("inf"), "m", [1]])
def test_what_is_no_duration_is_refused_with_its_name(given: Any) -> None:
    with pytest.raises(ConfigError, match="timeout = "):
        duration(given, "timeout")
