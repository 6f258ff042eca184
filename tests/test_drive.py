"""Study.run: functions in worker processes, executors, batches, commands; failures, interrupts, and going on."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoopt import Batched, Choice, Command, Integer, Real, Space, Study
from zoopt.errors import ConfigError, FeedbackError, NotReady, ObjectiveError
from zoopt.evaluate import Outcome
from zoopt.feedback import Evaluation
from zoopt.stop import Evaluations, Failures, Stalled, Target, Time
from zoopt.trials import TrialState

SPACE = Space({"x": Real(-1, 3), "k": Integer(1, 5), "c": Choice("a", "b")})


def study(**options: Any) -> Study:
    return Study(options.pop("space", SPACE), options.pop("strategy", "random"), **{"seed": 0, **options})


def value_of(x: float, k: int, c: str) -> float:
    return (x - 1) ** 2 + k + (c == "b")


class Here:
    """An evaluator in this process: calls a function of a trial in a thread of its own, and remembers what was out."""

    batched = False

    def __init__(self, function: Any) -> None:
        self.function = function
        self.submitted: list[int] = []
        self.out = 0
        self.most = 0
        self.started: list[int] = []
        self.closed = 0
        self.lock = threading.Lock()

    def start(self, parallel: int) -> None:
        self.started.append(parallel)
        self.pool = ThreadPoolExecutor(parallel)

    def close(self) -> None:
        self.closed += 1
        self.pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, trial: Any) -> Future[Outcome]:
        with self.lock:
            self.submitted.append(trial.id)
            self.out += 1
            self.most = max(self.most, self.out)

        def work() -> Outcome:
            try:
                return Outcome.of(self.function(trial))
            finally:
                with self.lock:
                    self.out -= 1

        return self.pool.submit(work)


# ---------------------------------------------------------------------- functions of one trial


def test_a_function_is_called_with_the_parameters_in_worker_processes() -> None:
    import os

    mine = os.getpid()

    def objective(x: float, k: int, c: str) -> dict[str, Any]:
        import os

        return {"value": (x - 1) ** 2 + k + (c == "b"), "metrics": {"elsewhere": os.getpid() != mine}}

    s = study().run(objective, evaluations=8, parallel=2)
    assert s.evaluations == 8
    assert s.status.reason == "evaluations"
    for i in range(8):
        trial = s.trial(i)
        assert trial.value == pytest.approx(value_of(**trial.params))
        assert trial.metrics == {"elsewhere": 1.0}
    assert s.best is not None and s.best.value == min(s.history()["value"])


def test_objectives_that_raise_hang_die_or_give_garbage_fail_with_their_reason_and_the_run_goes_on() -> None:
    def objective(k: int) -> Any:
        import os
        import sys
        import time

        if k == 1:
            print("about to fail", file=sys.stderr)
            raise ValueError("k is 1")
        if k == 2:
            time.sleep(600)
        if k == 3:
            os._exit(3)
        if k == 4:
            return float("nan")
        if k == 5:
            return "garbage"
        if k == 6:
            return None
        return {7: 7.0, 8: {"loss": 1.0}}.get(k, float(k))

    space = Space({"k": Integer(1, 9)})
    s = study(space=space, deterministic=True)
    s.run(objective, parallel=2, timeout=1.5)
    assert s.status.reason == "exhausted"
    assert s.evaluations == 9
    errors = {t.params["k"]: t.error for t in (s.trial(i) for i in range(9))}
    expected = {
        1: "ValueError: k is 1",
        2: "timed out after 1.5 s",
        3: "exited with code 3",
        4: "returned NaN",
        5: "'garbage'",
        6: "lack a return",
        7: None,
        8: "loss",
        9: None,
    }
    for k, reason in expected.items():
        error = errors[k]
        assert error is None if reason is None else error is not None and reason in error.partition("\n")[0], (k, error)
    assert errors[1] is not None and "about to fail" in errors[1] and "Traceback" in errors[1]
    assert s.best is not None and s.best.value == 7.0


def test_max_failures_stops_with_a_sentence_that_names_the_last_one() -> None:
    s = study()
    with pytest.raises(
        ObjectiveError, match=r"3 evaluations have failed \(max_failures = 3\).*The last failure: .*RuntimeError: no licence"
    ):
        s.run(lambda x, k, c: (_ for _ in ()).throw(RuntimeError("no licence")), evaluations=50, max_failures=3)
    assert s.failures == 3 and s.pending == []
    assert (s.status.stop, s.status.reason) == (True, "max_failures")
    with pytest.raises(ObjectiveError, match="3 evaluations have failed"):  # at once: nothing is evaluated
        s.run(Here(lambda t: 1.0), evaluations=50, max_failures=3)
    assert s.evaluations == 3
    s.run(Here(lambda t: 1.0), evaluations=5, max_failures=4)
    assert s.evaluations == 5 and s.status.reason == "evaluations"


def test_the_last_failure_is_the_latest_and_not_the_one_of_the_latest_trial(tmp_path: Path) -> None:
    with study(journal=str(tmp_path / "study.db"), durability="process") as s:
        assert s.last_failure is None
        trials = s.ask(3)
        s.fail(trials[2], "the first")
        s.fail(trials[0], "the latest")
        with pytest.raises(ObjectiveError, match="The last failure: the latest"):
            s.run(Here(lambda t: 1.0), evaluations=9, max_failures=2)
        assert s.last_failure == trials[0]
    with study(journal=str(tmp_path / "study.db"), durability="process") as s:
        assert s.last_failure is not None and s.last_failure.error == "the latest"
        s.amend(0, 1.0)
        assert s.last_failure.id == 2


# ---------------------------------------------------------------------- how many


def test_evaluations_are_the_studys_total() -> None:
    s = study()
    for _ in range(5):
        trial = s.ask()
        s.tell(trial, value_of(**trial.params))
    s.add({"x": 0.0, "k": 1, "c": "a"}, 2.0)
    here = Here(lambda t: value_of(**t.params))
    s.run(here, evaluations=10)
    assert here.submitted == [6, 7, 8, 9]
    assert s.evaluations == 10
    s.run(here, evaluations=10)
    s.run(here, evaluations=4)
    assert len(here.submitted) == 4
    s.run(here, evaluations=12)
    assert s.evaluations == 12
    assert here.closed == len(here.started)


@pytest.mark.parametrize("parallel", [1, 4])
def test_parallel_is_how_many_are_out_at_once(parallel: int) -> None:
    started = threading.Barrier(parallel, timeout=60)

    def objective(trial: Any) -> float:
        if trial.id < parallel:
            started.wait()  # which needs all of them at once
        return float(trial.id)

    here = Here(objective)
    s = study().run(here, evaluations=13, parallel=parallel)
    assert here.started == [parallel]
    assert here.most == parallel
    assert s.evaluations == 13 and sorted(here.submitted) == list(range(13))


@pytest.mark.parametrize("strategy", ["cma-es", "de", "sobol"])
def test_asynchronous_runs_of_generational_strategies_wait_where_they_must(strategy: str) -> None:
    space = Space({"x": Real(-1, 3), "y": Real(-1, 3)})
    here = Here(lambda t: float(t.x.square().sum()))
    s = study(space=space, strategy=strategy).run(here, evaluations=40, parallel=3)
    assert s.evaluations == 40 and s.pending == []


def test_rules_of_the_study_and_of_the_run_both_count() -> None:
    s = study(stop=Evaluations(6)).run(Here(lambda t: float(t.id)), evaluations=50)
    assert (s.evaluations, s.status.reason) == (6, "evaluations")
    s = study().run(Here(lambda t: -float(t.id)), evaluations=50, stop=Target(-7.0))
    assert (s.evaluations, s.status.reason) == (8, "target")
    assert s.stop.budget() is None  # the run's rules were for the run
    s = study().run(Here(lambda t: float(t.id)), stop=[Stalled(4), Failures(3)])
    assert (s.evaluations, s.status.reason) == (5, "stalled")
    s = study(stop=Evaluations(5) & Target(-9.0)).run(Here(lambda t: -float(t.id)))
    assert (s.evaluations, s.status.reason) == (10, "evaluations+target")


def test_why_a_run_ended_is_known_until_the_study_goes_on() -> None:
    s = study().run(Here(lambda t: 1.0), evaluations=3)
    assert (s.status.stop, s.status.reason, s.status.detail) == (True, "evaluations", "3 evaluations done of 3")
    s.ask()
    assert (s.status.stop, s.status.reason) == (False, None)


# ---------------------------------------------------------------------- kinds of objectives


@pytest.mark.parametrize("n", [1, 7])
def test_batches_are_computed_in_this_process(n: int) -> None:
    sizes: list[int] = []

    def objective(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        values = (x - 1).square().sum(-1)
        return torch.where(x[:, 0] > 2.5, torch.nan, values)

    s = study().run(Batched(objective), evaluations=20, parallel=n)
    assert s.evaluations == 20 and sum(sizes) == 20 and max(sizes) == n
    for i in range(20):
        trial = s.trial(i)
        assert (trial.state is TrialState.FAILED) == (trial.params["x"] > 2.5)


def test_a_batch_that_raises_is_failures_and_max_failures_stops_it() -> None:
    def objective(x: Any) -> Any:
        raise RuntimeError("all of it")

    with pytest.raises(ObjectiveError, match="RuntimeError: all of it"):
        study().run(Batched(objective), evaluations=20, parallel=4, max_failures=3)


def test_problems_run_as_they_are() -> None:
    from zoopt.problems import Gramacy

    problem = Gramacy()
    s = Study(problem.space, "random", constraints=problem.constraints, seed=0).run(problem, evaluations=30, parallel=10)
    assert s.evaluations == 30
    assert s.best is not None and all(c <= 0 for c in s.best.constraints.values())


def test_a_command_is_an_objective() -> None:
    command = Command([sys.executable, "-c", "import sys; print('noise'); print(float(sys.argv[1]) ** 2)", "{x}"])
    s = study(space=Space({"x": Real(-1, 3)})).run(command, evaluations=3, parallel=2)
    assert [s.trial(i).value for i in range(3)] == [pytest.approx(s.trial(i).params["x"] ** 2) for i in range(3)]


def test_any_executor_runs_a_function() -> None:
    with ThreadPoolExecutor(2) as pool:
        s = study().run(value_of, evaluations=5, parallel=2, executor=pool)
    assert s.evaluations == 5 and s.failures == 0
    assert all(s.trial(i).value == pytest.approx(value_of(**s.trial(i).params)) for i in range(5))


def test_everything_an_objective_may_give_arrives() -> None:
    def objective(trial: Any) -> Any:
        x = trial.params["x"]
        return {"loss": x, "speed": -x, "heat": x - 1, "noise": {"loss": 0.1, "speed": 0.2}, "metrics": {"n": 3}, "epochs": 5}

    s = study(objectives={"loss": "minimize", "speed": "maximize"}, constraints=["heat"]).run(Here(objective), evaluations=3)
    trial = s.trial(1)
    assert trial.values == {"loss": trial.params["x"], "speed": -trial.params["x"]}
    assert trial.constraints == {"heat": trial.params["x"] - 1}
    assert trial.metrics == {"n": 3.0, "epochs": 5.0}
    assert s.history()["noise_speed"].tolist() == [0.2] * 3

    def reached(trial: Any) -> Evaluation:
        return Evaluation(1.0, reached=[0.5, 2.0, 0.0])

    s = study().run(Here(reached), evaluations=1)
    assert s.trial(0).reached == {"x": pytest.approx(0.5), "k": 2, "c": "a"}


@pytest.mark.parametrize("name", ["constraints", "noise", "metrics", "gradients", "reached"])
def test_names_that_results_use_are_no_names_of_objectives_or_constraints(name: str) -> None:
    with pytest.raises(ConfigError, match=f"something else under '{name}'.*give this objective another name"):
        study(objectives={"loss": "minimize", name: "minimize"})
    with pytest.raises(ConfigError, match=f"something else under '{name}'.*give this constraint another name"):
        study(constraints=[name])


def test_an_evaluator_of_the_users_own_may_give_outcomes_and_plain_results_alike() -> None:
    results = [Outcome(values=3), Outcome(values=1.5, metrics=None), 2, {"value": 4.0}, Outcome(values=None), "high"]  # type: ignore[arg-type]

    class Own(Here):
        def submit(self, trial: Any) -> Future[Any]:  # type: ignore[override]
            return self.pool.submit(lambda: results[trial.id])

    s = study().run(Own(None), evaluations=6)
    assert [s.trial(i).value for i in range(6)] == [3.0, 1.5, 2.0, 4.0, None, None]
    assert ["returned None" in (s.trial(4).error or ""), "'high'" in (s.trial(5).error or "")] == [True, True]


def test_results_that_do_not_fit_are_failures_of_their_trial() -> None:
    s = study(space=Space({"x": Real(-1, 3)})).run(
        Here(lambda t: [1.0, 2.0] if t.id == 1 else Evaluation(1.0, reached=[1e9])), evaluations=2
    )
    assert [s.trial(i).state for i in range(2)] == [TrialState.COMPLETE, TrialState.FAILED]
    assert s.trial(1).error is not None and "2 values" in s.trial(1).error
    assert s.trial(0).reached == {"x": 3.0}  # as near as the space allows
    s = study(space=Space({"x": Real(-1, 3)})).run(Here(lambda t: Outcome(values=1.0, reached={"x": 1e9})), evaluations=1)
    assert s.trial(0).error is not None and "x" in s.trial(0).error


@pytest.mark.parametrize(
    ("reached", "reason"),
    [
        ([1, 2, 3], "gave a reached setting of 3 numbers; 2 were expected"),
        (0.5, "gave a reached setting of 1 number; 2 were expected"),
        ([[1], [1, 2]], "gave the reached setting [[1.0], [1.0, 2.0]]; 2 numbers were expected"),
        ([0.5, float("nan")], "gave the reached setting [0.5, nan]; 2 finite numbers were expected"),
        ({"x": 0.5, "z": 1.0}, "there is no variable 'z'"),
        ({"x": "far"}, "x must be a number between"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["function", "command"])
def test_a_reached_setting_that_is_none_fails_its_trial_and_the_run_goes_on(kind: str, reached: Any, reason: str) -> None:
    space = Space({"x": Real(-1, 3), "y": Real(-1, 3)})
    result = {"value": 1.0, "reached": reached}
    script = f"import sys; print({json.dumps(result)!r} if sys.argv[1] == '1' else 1)"
    command = Command([sys.executable, "-S", "-c", script.replace("{", "{{").replace("}", "}}"), "{id}", "{x}", "{y}"])
    s = study(space=space).run(Here(lambda t: result if t.id == 1 else 1.0) if kind == "function" else command, evaluations=3)
    assert [s.trial(i).state for i in range(3)] == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE]
    assert s.trial(1).error is not None and reason in s.trial(1).error
    assert s.pending == []


def test_rows_of_a_batch_whose_reached_setting_is_none_fail_alone() -> None:
    space = Space({"x": Real(0, 1), "k": Integer(0, 3)}, constraints=["x + k <= 2"])

    def objective(x: torch.Tensor) -> Evaluation:
        reached = torch.tensor([[0.5, 1.0], [torch.nan, torch.nan], [1.0, 3.0], [0.0, torch.inf]])
        return Evaluation(torch.ones(4), reached=reached)

    s = study(space=space).run(Batched(objective), evaluations=4, parallel=4)
    assert s.trial(0).reached == {"x": 0.5, "k": 1}
    errors = [s.trial(i).error or "" for i in range(4)]
    assert errors[0] == ""
    assert "gave the reached setting [nan, nan]; finite numbers were expected" in errors[1]
    assert "'x + k <= 2' does not hold" in errors[2]
    assert "gave the reached setting [0.0, inf]" in errors[3]
    s.run(Batched(lambda x: Evaluation(x[:, 0], reached=x[:, :1])), evaluations=6, parallel=2)
    assert s.trial(4).error is not None and "reached settings of shape (2, 1); (2, 2) was expected" in s.trial(4).error
    assert s.pending == []


# ---------------------------------------------------------------------- going on


def test_ctrl_c_leaves_what_is_out_pending_and_a_second_run_goes_on() -> None:
    def objective(trial: Any) -> float:
        if trial.id == 4 and first:
            raise KeyboardInterrupt
        if trial.id in (3, 5) and first:
            time.sleep(0.2)
        return float(trial.id)

    s, first = study(), True
    here = Here(objective)
    for _ in range(5):  # five times and more: an interrupt is no failed attempt
        with pytest.raises(KeyboardInterrupt):
            s.run(here, evaluations=9, parallel=3)
        assert {t.id for t in s.pending} >= {4}
        assert here.closed == len(here.started)
    first = False
    here.submitted.clear()
    left = [t.id for t in s.pending]
    s.run(here, evaluations=9, parallel=3)
    assert here.submitted[: len(left)] == left
    assert (s.evaluations, s.failures, s.pending) == (9, 0, [])
    assert s.history()["value"].tolist() == [float(i) for i in range(9)]


def test_ctrl_c_while_the_strategy_thinks(monkeypatch: pytest.MonkeyPatch) -> None:
    s, never = study(strategy="cma-es", space=Space({"x": Real(-1, 3)})), study(strategy="cma-es", space=Space({"x": Real(-1, 3)}))
    here = Here(lambda t: float(t.x.square().sum()))
    s.run(here, evaluations=7)
    ask = s._engine.ask

    def interrupted(request: Any) -> Any:
        ask(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(s._engine, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        s.run(here, evaluations=20)
    monkeypatch.undo()
    s.run(here, evaluations=20)
    never.run(here, evaluations=20)
    assert s.history()["value"].tolist() == never.history()["value"].tolist()


def test_trials_that_were_asked_by_hand_are_evaluated_first() -> None:
    s = study()
    batch = s.ask(3)
    s.tell(batch[1], 1.0)
    here = Here(lambda t: 2.0)
    s.run(here, evaluations=5, parallel=2)
    assert here.submitted == [0, 2, 3, 4]
    t = study()
    t.ask(3)
    t.run(Batched(lambda x: x[:, 0]), evaluations=4, parallel=2)
    assert t.evaluations == 4 and t.pending == []


def test_a_time_that_has_passed_ends_what_runs_and_costs_it_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoopt.drive._LOOK", 0.01)
    release = threading.Event()

    def objective(trial: Any) -> float:
        if trial.id == 1:
            release.wait(60)
        return float(trial.id)

    s = study()
    for _ in range(5):
        here = Here(objective)
        s.run(here, evaluations=3, stop=Time(0.1))
        assert here.closed == 1
        assert (s.status.stop, s.status.reason) == (True, "time")
        assert ([t.id for t in s.pending], s.evaluations, s.failures) == ([1], 1, 0)
    release.set()
    s.run(Here(objective), evaluations=3, stop=Time(600))
    assert (s.evaluations, s.failures, s.status.reason) == (3, 0, "evaluations")


@pytest.mark.parametrize(("rule", "ends"), [(Time(1e-6) | Target(-9.0), True), (Time(1e-6) & Evaluations(1), True), (Target(0.0), False)])
def test_only_rules_of_the_clock_end_what_runs(rule: Any, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoopt.drive._LOOK", 0.01)
    release, begun = threading.Event(), threading.Event()

    def objective(trial: Any) -> float:
        if trial.id == 0:
            assert begun.wait(60)
            return 0.0
        begun.set()
        release.wait(0.5)
        return 1.0

    class Both(Here):
        """Both trials are out before any rule is looked at."""

        def submit(self, trial: Any) -> Future[Outcome]:
            if trial.id == 1:
                s.stop = rule
            return super().submit(trial)

    s = study()
    s.ask(2)
    s.run(Both(objective), evaluations=2, parallel=2)
    assert bool(s.pending) == ends


def test_a_run_that_is_over_already_evaluates_nothing() -> None:
    s = study()
    s.tell(s.ask(), 1.0)
    out = s.ask()
    here = Here(lambda t: 2.0)
    for _ in range(5):
        s.run(here, evaluations=1)
    assert here.submitted == [] and out.state is TrialState.PENDING


def test_an_evaluation_that_takes_everything_down_each_time_is_lost_after_three_attempts(tmp_path: Path) -> None:
    options = {"journal": str(tmp_path / "study.db"), "durability": "process"}
    with study(**options) as s:
        s.ask()
    for _ in range(2):
        child = os.fork()
        if child == 0:
            with study(**options) as s:
                s.run(Here(lambda t: os._exit(9)), evaluations=3)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with study(**options) as s:
        assert s.trial(0).state is TrialState.PENDING
        s.run(Here(lambda t: 1.0), evaluations=3)
        assert s.trial(0).state is TrialState.LOST
        assert (s.evaluations, s.failures) == (3, 1)


def test_a_batch_that_takes_everything_down_is_taken_apart_to_find_the_trial(tmp_path: Path) -> None:
    options = {"journal": str(tmp_path / "study.db"), "durability": "process", "space": Space({"k": Integer(0, 9)})}
    with study(**options) as s:
        for k in range(4):
            s.enqueue({"k": k})

    def objective(x: torch.Tensor) -> torch.Tensor:
        if (x == 1).any():
            os._exit(9)
        return x[:, 0]

    for _ in range(3):
        child = os.fork()
        if child == 0:
            with study(**options) as s:
                s.run(Batched(objective), evaluations=4, parallel=4)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with study(**options) as s:
        s.run(Batched(objective), evaluations=4, parallel=4)
        assert [s.trial(k).state.name for k in range(4)] == ["COMPLETE", "LOST", "COMPLETE", "COMPLETE"]


def _failures_stop_it(s: Study, running: Any) -> None:
    with pytest.raises(ObjectiveError, match="max_failures"):
        s.run(running, evaluations=50, parallel=2, max_failures=s.failures + 1)


def _a_callback_stops_it(kind: str) -> Any:
    def angry(study: Study, event: Any) -> None:
        if event.kind == kind:
            raise FeedbackError("not with me")

    def stop(s: Study, running: Any) -> None:
        with pytest.raises(FeedbackError, match="not with me"):
            s.run(running, evaluations=50, parallel=2, callbacks=[angry])

    return stop


def _an_evaluator_stops_it(s: Study, running: Any) -> None:
    running.submit = lambda trial: (_ for _ in ()).throw(RuntimeError("no more processes"))
    with pytest.raises(RuntimeError, match="no more processes"):
        s.run(running, evaluations=50, parallel=2)


def _a_batch_stops_it(s: Study, running: Any) -> None:
    class Broken(Batched):
        def tell(self, study: Study, batch: Any) -> None:
            raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError, match="a bug of ours"):
        s.run(Broken(lambda x: x), evaluations=50, parallel=2)


@pytest.mark.parametrize(
    "stop",
    [
        _failures_stop_it,
        _a_callback_stops_it("failed"),
        _a_callback_stops_it("asked"),
        _a_callback_stops_it("retried"),
        _an_evaluator_stops_it,
        _a_batch_stops_it,
    ],
)
def test_whatever_ends_a_run_on_our_side_is_no_attempt_of_the_trials_that_were_out(stop: Any) -> None:
    s = study()
    first = s.ask(2)[0]
    release = threading.Event()

    def objective(trial: Any) -> float:
        if trial.id == 0:
            release.wait(60)
            return 5.0
        return float("nan")

    for _ in range(5):
        stop(s, Here(objective))
        assert first.state is TrialState.PENDING
    release.set()
    s.run(Here(objective), evaluations=s.evaluations + len(s.pending))
    assert first.value == 5.0


def test_results_told_from_elsewhere_meanwhile_are_no_error(caplog: pytest.LogCaptureFixture) -> None:
    s = study()

    def objective(trial: Any) -> float:
        if trial.id == 1:
            s.tell(trial, 99.0)
        if trial.id == 2:
            s.drop(trial)
        return 1.0

    with caplog.at_level(logging.WARNING, "zoopt.run"):
        s.run(Here(objective), evaluations=4)
    assert s.trial(1).value == 99.0 and s.trial(2).state is TrialState.DROPPED
    assert s.evaluations == 4
    assert "trial 1 came too late" in caplog.text


def test_callbacks_of_a_run_see_it_and_their_errors_are_not_the_objectives() -> None:
    s = study()
    kinds: list[str] = []
    s.run(Here(lambda t: 1.0), evaluations=2, callbacks=[lambda _, e: kinds.append(e.kind)])
    assert kinds == ["asked", "told", "asked", "told"]
    assert s.callbacks == []

    def angry(study: Study, event: Any) -> None:
        if event.kind == "told":
            raise FeedbackError("not with me")

    with pytest.raises(FeedbackError, match="not with me"):
        s.run(Here(lambda t: 1.0), evaluations=5, callbacks=[angry])
    assert s.trial(2).value == 1.0 and s.failures == 0


def test_a_finite_study_ends_when_nothing_is_left() -> None:
    s = study(space=Space({"k": Integer(1, 6)}), deterministic=True)
    s.run(Here(lambda t: float(t.params["k"])), evaluations=100, parallel=4)
    assert s.evaluations == 6
    assert s.status.stop and s.status.reason == "exhausted"
    assert "6 points" in s.status.detail
    s.run(Batched(lambda x: x[:, 0]), evaluations=100)
    assert s.evaluations == 6 and s.status.reason == "exhausted"


def test_waiting_for_results_that_nobody_computes_is_said() -> None:
    s = study(strategy="cma-es", space=Space({"x": Real(0, 1)}))
    batch = s.ask(50)

    def objective(trial: Any) -> float:
        return 1.0

    s.tell(batch[1:], np.ones(len(batch) - 1))
    s.run(Here(objective), evaluations=len(batch))  # evaluates what is left of it first
    assert s.pending == []
    s.ask(50)
    with pytest.raises(NotReady):
        s.ask()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"parallel": 0}, "parallel"),
        ({"evaluations": 0}, "Evaluations"),
        ({"evaluations": 3, "max_failures": 0}, "max_failures"),
        ({"evaluations": 3, "timeout": "soon"}, "timeout"),
        ({"evaluations": 3, "stop": [7]}, "stopping rule"),
    ],
)
def test_nonsense_is_refused_before_anything_is_evaluated(options: dict[str, Any], match: str) -> None:
    s = study()
    with pytest.raises(ConfigError, match=match):
        s.run(value_of, **options)
    assert s._ledger.next == 0
    with pytest.raises(ConfigError, match="is not an objective"):
        s.run(3, evaluations=1)
    with pytest.raises(ConfigError, match="k"):
        s.run(lambda x, c: 1.0, evaluations=1)
    with pytest.raises(ConfigError, match="does not use k"):
        s.run(Command("echo {x} {c}"), evaluations=1)
    with pytest.raises(ConfigError, match=r"{c:d} does not fit 'a'"):
        s.run(Command("echo {x} {k:d} {c:d}"), evaluations=1)
    assert s._ledger.next == 0


def test_interrupts_are_no_failed_attempts_of_a_reopened_study_either(tmp_path: Any) -> None:
    def objective(trial: Any) -> float:
        raise KeyboardInterrupt

    for _ in range(5):
        with study(journal=str(tmp_path / "study.db"), durability="process") as s, pytest.raises(KeyboardInterrupt):
            s.run(Here(objective), evaluations=3)
    with study(journal=str(tmp_path / "study.db"), durability="process") as s:
        assert [t.id for t in s.pending] == [0]
        s.run(Here(lambda t: 1.0), evaluations=3)
        assert (s.evaluations, s.failures) == (3, 0)
