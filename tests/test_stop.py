"""Stopping rules, alone and combined, and what the study says about them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from zoopt import Real, Space, Study
from zoopt.errors import ConfigError
from zoopt.evaluate import Batched
from zoopt.stop import AllOf, AnyOf, Evaluations, Failures, Reason, Rule, Stalled, Target, Time, from_config
from zoopt.strategy import State, Task
from zoopt.trials import TrialState

SPACE = Space({"x": Real(0, 1)})


def study(stop: Any = (), **options: Any) -> Study:
    return Study(SPACE, "random", seed=0, stop=stop, **options)


def tell(s: Study, *values: float) -> None:
    for value in values:
        s.tell(s.ask(), value)


def test_without_rules_nothing_stops() -> None:
    s = study()
    tell(s, 1.0)
    status = s.status
    assert (status.stop, status.reason, status.detail) == (False, None, "running")
    assert s.budget is None


def test_evaluations_count_what_is_complete_failed_or_lost_but_not_what_was_dropped() -> None:
    s = study(Evaluations(4))
    tell(s, 1.0, 2.0)
    s.drop(s.ask())
    s.fail(s.ask())
    assert not s.status.stop
    lost = s.ask()
    for _ in range(3):
        s.retry(lost)
    assert lost.state is TrialState.LOST
    status = s.status
    assert (status.stop, status.reason, status.detail) == (True, "evaluations", "4 evaluations done of 4")
    assert (status.evaluations, status.complete, status.failed, status.lost, status.dropped, status.pending) == (4, 2, 1, 1, 1, 0)


@pytest.mark.parametrize(("direction", "values"), [("minimize", (3.0, 1.5, 1.0)), ("maximize", (-3.0, 0.5, 1.0))])
def test_target_is_reached_in_the_users_direction(direction: Any, values: tuple[float, ...]) -> None:
    s = study(Target(1.0), direction=direction)
    tell(s, *values[:2])
    assert not s.status.stop
    tell(s, values[2])
    assert s.status.reason == "target"
    assert "1" in s.status.detail


def test_an_infeasible_value_reaches_no_target() -> None:
    s = study(Target(1.0), constraints=["heat"])
    s.tell(s.ask(), 0.0, constraints=2.0)
    assert s.best is not None and not s.status.stop
    s.tell(s.ask(), 0.5, constraints=-2.0)
    assert s.status.reason == "target"


def test_stalled_counts_since_the_last_better_value() -> None:
    s = study(Stalled(3))
    tell(s, 5.0, 6.0, 4.0, 7.0, 4.0)
    assert not s.status.stop
    s.fail(s.ask())
    assert s.status.reason == "stalled"
    assert "3 evaluations" in s.status.detail
    tell(s, 3.0)
    assert not s.status.stop


@pytest.mark.parametrize("n", [1, 4])
def test_stalled_means_the_same_told_one_by_one_and_in_batches(n: int) -> None:
    s = study(Stalled(4))
    for k in range(8 // n):
        s.tell(s.ask(n), torch.arange(n) + 10.0 * k)
    assert s.status.reason == "stalled"
    assert s._ledger.improved_at == n  # the first call held the best


def test_failures_count_failed_and_lost() -> None:
    s = study(Failures(2))
    tell(s, float("nan"), 1.0)
    assert not s.status.stop
    s.fail(s.ask())
    assert s.status.reason == "failures"
    assert s.status.detail == "2 evaluations failed (limit 2)"


def test_time_counts_from_when_the_study_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    s = study(Time(100))
    assert not s.status.stop
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 101)
    assert s.status.reason == "time"
    assert s.status.detail == "101 s passed of 100 s"


def test_the_time_of_a_run_counts_from_its_beginning_and_that_of_the_study_from_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    s = study(Time(1000) | Time(5000))

    def slow(x: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 10.0
        return x.sum(-1)

    now = 100.0
    for done in (5, 10):
        s.run(Batched(slow), stop=[Time(50), Stalled(500) & Time(1)])
        assert (s.evaluations, s.status.reason, s.status.detail) == (done, "time", "50 s passed of 50 s")
        now += 100.0
    s.run(Batched(slow), stop=Time(5000))  # 400 s have passed
    assert (s.evaluations, s.status.detail) == (70, "1000 s passed of 1000 s")


def test_a_run_takes_one_rule_and_one_callback_or_several() -> None:
    seen: list[str] = []
    s = Study(SPACE, "random", seed=0, callbacks=lambda study, event: seen.append("study"))
    s.run(Batched(lambda x: x.sum(-1)), stop=Evaluations(1), callbacks=lambda study, event: seen.append("run"))
    assert seen == ["study", "run"] * 2  # asked and told
    for options in ({"stop": 5}, {"stop": [5]}, {"callbacks": 5}, {"callbacks": "log"}, {"callbacks": [None]}):
        with pytest.raises(ConfigError, match=r"stopping rule was expected.*got 5|callbacks must be a function"):
            s.run(Batched(lambda x: x.sum(-1)), 3, **options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"stopping rule was expected.*got 5|callbacks must be a function"):
            Study(SPACE, "random", **options)  # type: ignore[arg-type]
    assert s.evaluations == 1


def test_whole_numbers_of_any_type() -> None:
    rules: list[Any] = [1e3, np.int64(1000), np.float64(1000)]
    assert [Evaluations(n) for n in rules] == [Evaluations(1000)] * 3
    assert Target(np.float32(0.5)) == Target(0.5)  # type: ignore[arg-type]
    s = study()
    s.run(Batched(lambda x: x.sum(-1)), 4.0)  # type: ignore[arg-type]
    assert s.evaluations == 4


def test_any_of_several_stops_and_the_first_names_the_reason() -> None:
    s = study([Evaluations(3), Target(0.0)])
    tell(s, 1.0, -1.0)
    assert s.status.reason == "target"
    tell(s, 1.0)
    assert s.status.reason == "evaluations"


def test_or_and_and() -> None:
    either, both = Evaluations(2) | Target(0.0), Evaluations(2) & Target(0.0)
    s = study(either)
    tell(s, -1.0)
    assert s.status.reason == "target"
    s = study(both)
    tell(s, 1.0, 1.0)
    assert not s.status.stop
    tell(s, -1.0)
    assert s.status.reason == "evaluations+target"
    assert s.status.detail == "3 evaluations done of 2; best value -1 reached the target 0"
    s = study((Evaluations(1) & Failures(1)) | Evaluations(5))
    tell(s, 1.0, 1.0, 1.0, 1.0)
    assert not s.status.stop
    tell(s, 1.0)
    assert s.status.reason == "evaluations"


def test_the_budget_is_where_the_rules_stop_in_any_case() -> None:
    assert study(Evaluations(7)).budget == 7
    assert study([Evaluations(7), Evaluations(3), Target(0.0)]).budget == 3
    assert study((Evaluations(7) | Target(0.0)) | Time(5)).budget == 7
    assert study(Evaluations(7) & Target(0.0)).budget is None  # it may take more to reach the target
    assert study(Evaluations(7) & Evaluations(9)).budget == 9
    assert study((Evaluations(7) & Target(0.0)) | Evaluations(50)).budget == 50
    assert AllOf(()).budget() is None


def test_strategies_are_told_what_is_left_of_the_budget() -> None:
    from zoopt.feedback import Candidates

    seen: list[int | None] = []

    @dataclass(frozen=True)
    class Curious(type(study().strategy)):  # type: ignore[misc]
        def ask(self, task: Task, state: State, request: Any, random: Any) -> tuple[State, Candidates]:
            seen.append(request.remaining)
            return super().ask(task, state, request, random)  # type: ignore[no-any-return]

    s = Study(SPACE, Curious(), seed=0, stop=Evaluations(6))
    s.tell(s.ask(2), [1.0, 2.0])
    s.ask()
    s.drop(s.ask())
    s.fail(s.ask())
    s.ask(4)
    s.ask()
    assert seen == [6, 4, 3, 3, 2, 0]


def test_a_strategy_that_has_converged_stops_the_study() -> None:
    @dataclass(frozen=True)
    class Short(type(study().strategy)):  # type: ignore[misc]
        def done(self, task: Task, state: Any) -> torch.Tensor:
            return torch.tensor(state.asked >= 2)

    s = Study(SPACE, Short(), seed=0)
    tell(s, 1.0)
    assert not s.status.stop
    tell(s, 1.0)
    assert (s.status.reason, s.status.detail) == ("converged", "Short has converged")


def test_rules_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Even(Rule):
        def reason(self, study: Study) -> Reason | None:
            return Reason("even", "an even number") if study.evaluations % 2 == 0 else None

    s = study(Even() & Evaluations(1))
    tell(s, 1.0)
    assert not s.status.stop
    tell(s, 1.0)
    assert s.status.reason == "even+evaluations"
    with pytest.raises(NotImplementedError, match="does not define reason"):
        Rule().reason(s)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Evaluations(0),
        lambda: Evaluations(2.5),  # type: ignore[arg-type]
        lambda: Stalled(-1),
        lambda: Failures(0),
        lambda: Time(0),
        lambda: Target(float("nan")),
        lambda: Target("low"),  # type: ignore[arg-type]
        lambda: AnyOf((5,)),  # type: ignore[arg-type]
        lambda: Evaluations(5) & 3,  # type: ignore[operator]
        lambda: study(stop=[3]),
        lambda: study(Target(1.0), objectives={"a": "minimize", "b": "minimize"}),
        lambda: study(Evaluations(4) & Stalled(1), objectives={"a": "minimize", "b": "minimize"}),
        lambda: study(Target(1.0), feedback="ranking"),
        lambda: study(Evaluations(4) | Stalled(1), feedback="ranking"),
        lambda: study(feedback="ranking").run(Batched(lambda x: x.sum(-1)), stop=Stalled(1)),
        lambda: Evaluations("5"),  # type: ignore[arg-type]
        lambda: Time("long"),  # type: ignore[arg-type]
    ],
)
def test_nonsense_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_rules_from_a_table() -> None:
    rules = from_config({"target": 1e-3, "stalled": 50, "time": 600, "failures": 10, "evaluations": 5})
    assert rules == [Target(1e-3), Stalled(50), Time(600), Failures(10), Evaluations(5)]
    with pytest.raises(ConfigError, match=r"stop\.patience: there is no such stopping rule; there are evaluations, target"):
        from_config({"patience": 3})
