"""A study that is closed and opened again goes on as if it had never stopped; and what can stand in the way of that."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from zoopt import Bool, Choice, Context, Integer, Real, Space, Study
from zoopt.errors import ConfigError, Exhausted, FeedbackError, JournalError, NotReady, StrategyError, StudyLocked, StudyMismatch
from zoopt.evaluate import Batched
from zoopt.feedback import Candidates, Observations
from zoopt.journal import Journal
from zoopt.random import Random
from zoopt.restore import ReplayWarning, read
from zoopt.state import to_bytes
from zoopt.stop import Evaluations, Stalled, Target
from zoopt.strategies.bo.automatic import Automatic
from zoopt.strategy import Capabilities, Request, State, Strategy, Task, make
from zoopt.study import StudyEvent
from zoopt.trials import TrialState

pytestmark = pytest.mark.filterwarnings("error::zoopt.restore.ReplayWarning")  # here a replay comes out as it was, unless said otherwise

Array = np.ndarray[Any, Any]
PROCESS: dict[str, Any] = {"durability": "process"}  # waiting for the disk is not what is tested here


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path}/study.db"


@dataclass
class LearnerState(State):
    """Ids, points and values in the order told."""

    ids: list[int] = field(default_factory=list)
    x: list[list[float]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    moved: float = 0.0


@dataclass(frozen=True)
class Learner(Strategy[LearnerState]):
    """Remembers all it was told, and counts its calls; proposals depend on all of it."""

    reach: float = 0.1  # how far the last value moves the next proposal
    calls: ClassVar[Counter[str]] = Counter()
    clock: ClassVar[SimpleNamespace] = SimpleNamespace(now=0.0, thinking=0.0)

    capabilities: ClassVar[Capabilities] = Capabilities(objectives=None)

    def begin(self, task: Task, random: Random) -> LearnerState:
        self.calls["begin"] += 1
        return LearnerState()

    def ask(self, task: Task, state: LearnerState, request: Request, random: Random) -> tuple[LearnerState, Candidates]:
        self.calls["ask"] += 1
        self.clock.now += self.clock.thinking
        moved = state.moved + request.pending(task).sum(0) + 0.01 * (request.remaining or 0)
        n = request.n or 1
        columns: dict[str, Any] = {"mark": np.full(n, 7), "weight": torch.full((n, 2), 0.5, dtype=torch.float64)}
        return state, Candidates(task.space.from_unit((random.uniform((n, task.dim)) + moved) % 1.0), columns)

    def tell(self, task: Task, state: LearnerState, observations: Observations, random: Random) -> LearnerState:
        self.calls["tell"] += 1
        state.ids += observations.ids.tolist()
        state.x += observations.x.tolist()
        state.values += observations.values.tolist()
        state.dropped += observations.dropped
        state.moved = 0.5 * state.moved + self.reach * float(observations.values.nan_to_num(posinf=3.0).sum())
        state.columns += [",".join(sorted(observations.columns))] * observations.n
        return state


@pytest.fixture(autouse=True)
def _fresh_counters() -> None:
    Learner.calls.clear()
    Learner.clock.now = Learner.clock.thinking = 0.0


def learned(study: Study) -> LearnerState:
    state = study._engine.state
    assert isinstance(state, LearnerState)
    return state


LINE = {"x": Real(0, 1)}


def loss(params: dict[str, Any]) -> float:
    return float(sum(np.sum(np.square(np.asarray(value, dtype=float) - 0.3)) for value in params.values() if not isinstance(value, str)))


def go(study: Study, n: int) -> Study:
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, loss(trial.params))
    return study


def recorded(path: Path) -> Any:
    """All events and the configuration."""
    with Journal(path, read_only=True) as journal:
        return journal.study("study").events(), journal.config("study")


def points(study: Study) -> list[list[float]]:
    return [study.trial(i).encoded.tolist() for i in study.history()["id"]]


# Opening again at every step


def mixed(context: bool = False) -> Space:
    variables = {
        "x": Real(-4, 4),
        "lr": Real(1e-4, 1.0, log=True),
        "k": Integer(1, 9),
        "b": Bool(),
        "c": Choice("p", "q", "r"),
        "y": Real(0, 2, when={"c": ["q", "r"]}),
        "room": Context(Real(0, 40)),
    }
    if not context:
        del variables["room"]
    return Space(variables, constraints=["x + k <= 12"])


Step = Callable[[Study], None]
ADDED = {"x": 1.0, "lr": 0.01, "k": 3, "b": True, "c": "p"}


def _first(study: Study) -> int:
    return study.pending[0].id


def _last(study: Study) -> int:
    return study.pending[-1].id


def _tell(study: Study, i: int, **more: Any) -> None:
    names = list(study.directions)
    value = float(study.trial(i).encoded.square().sum())
    constraints = [value - 1.0] * len(study.task.constraints)
    study.tell(i, {name: value + k for k, name in enumerate(names)}, constraints=np.array([constraints]) if constraints else None, **more)


def _tell_all(study: Study) -> None:
    for trial in reversed(study.pending):
        _tell(study, trial.id)


def _complete(study: Study, k: int) -> int:
    return [int(i) for i in np.nonzero(study.history()["state"] == "complete")[0]][k]


def steps(study: Study) -> list[Step]:
    """A conversation in which everything comes up."""
    given: dict[str, Any] = {"context": {"room": 21.0}} if study.space.context else {}
    observed = {"room": 21.0} if study.space.context else {}
    constraints = [[-1.0] * len(study.task.constraints)] if study.task.constraints else None
    values = dict.fromkeys(study.directions, 0.125)

    def ask(n: int) -> Step:
        return lambda s: void(s.ask(n, **given) if n > 1 else s.ask(**given))

    def partly(s: Study) -> None:
        s.tell(_last(s), {next(iter(s.directions)): 0.5})

    def two_at_once(s: Study) -> None:  # the numbers of one cannot be used
        ids = [trial.id for trial in s.pending[:2]]
        rows = np.ones((len(ids), len(s.directions)))
        rows[-1, 0] = np.inf
        s.tell(ids, rows, constraints=None if constraints is None else np.array(constraints * len(ids)))

    several = [partly] if len(study.directions) > 1 else []
    return [
        ask(1),
        lambda s: _tell(s, _first(s)),
        ask(3),
        *several,
        lambda s: s.fail(_first(s), "diverged"),
        lambda s: void(s.add(ADDED | observed, values, constraints=constraints, metrics={"why": "known"})),
        ask(1),
        lambda s: _tell(s, _last(s), metrics={"seconds": 1.5, "log": "ü"}),
        lambda s: s.report(_first(s), 3, 0.25),
        lambda s: s.tell(_first(s), dict.fromkeys(s.directions, np.nan), constraints=constraints),
        ask(2),
        lambda s: void(s.retry(_first(s))),
        lambda s: s.enqueue(ADDED | {"k": 5} | observed),
        lambda s: s.amend(_complete(s, 0), dict.fromkeys(s.directions, -2.0)),
        ask(1),
        lambda s: s.drop(_first(s)),
        _tell_all,
        ask(4),
        lambda s: _tell(s, _last(s), noise=0.1),
        *several,
        two_at_once,
        ask(1),
        lambda s: _tell(s, _last(s), at={"x": 0.25}),
        lambda s: s.amend([i for i in s.history()["id"] if s.trial(i).state is TrialState.FAILED][:1], values, constraints=constraints),
        _tell_all,
        ask(5),
        _tell_all,
        ask(2),
    ]


def void(_: Any) -> None:
    return None


TWO: dict[str, Any] = {"objectives": {"loss": "minimize", "speed": "maximize"}}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random"},
    "random-heat": {"strategy": "random", "deterministic": True, "constraints": ["heat"]},
    "sobol-context": {"strategy": "sobol", "context": True},
    "cma-es": {"strategy": "cma-es", "direction": "maximize"},
    "cma-es-heat": {"strategy": "cma-es", "constraints": ["heat"]},
    "nsga2": {"strategy": "nsga2", **TWO, "constraints": ["heat"]},
    "de": {"strategy": "de"},
    "learner": {"strategy": Learner(), **TWO, "context": True, "stop": Evaluations(40)},
    "bo": {"strategy": "bo", "constraints": ["heat"], "stop": Evaluations(30)},
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_opening_again_at_every_step_changes_nothing(name: str, path: Path) -> None:
    options = dict(CONVERSATIONS[name])
    space = mixed(options.pop("context", False))
    strategy = options.pop("strategy")
    strategy = make(strategy, acquisition=Automatic(samples=8), raw_samples=8, restarts=1) if strategy == "bo" else make(strategy)
    plain = Study(space, strategy, seed=3, **options)
    again = Study(space, strategy, seed=3, journal=str(path), **PROCESS, **options)
    snapshots = 0
    every, script = (6, steps(plain)[:18]) if name == "bo" else (1, steps(plain))
    for number, step in enumerate(script):
        if number % every == 0:
            if number % 2:
                again._engine._spent = 1e9  # the next event comes with a snapshot; the others are replayed
                snapshots += 1
            step(again)
            again.close()
            again = Study(space, strategy, seed=3 if number % 4 else None, journal=str(path), **PROCESS, **options)
        else:
            step(again)
        step(plain)
        assert_same(again, plain)
    assert snapshots > 5 or name == "bo"
    again.close()


def assert_same(a: Study, b: Study) -> None:
    ours, theirs = a.history(), b.history()
    assert {name: list(map(repr, ours[name])) for name in ours} == {name: list(map(repr, theirs[name])) for name in theirs}
    assert a.status == b.status
    assert [(t.id, t.values, t.encoded.tolist()) for t in a.pending] == [(t.id, t.values, t.encoded.tolist()) for t in b.pending]
    for i in ours["id"]:
        mine, other = a.trial(i), b.trial(i)
        assert (mine.values, mine.constraints, mine.state, mine.error, mine.metrics) == (
            other.values, other.constraints, other.state, other.error, other.metrics,
        )  # fmt: skip
        assert a.reports(i) == b.reports(i)
    if len(a.directions) == 1:
        assert repr(a.best) == repr(b.best)
    else:
        assert repr(a.front) == repr(b.front)
    assert repr(a.recommended) == repr(b.recommended)
    if isinstance(a.strategy, Learner):
        assert learned(a) == learned(b)


def test_a_study_of_rankings(path: Path) -> None:
    space = Space({"x": Real(0, 1, shape=(3,))})
    plain = Study(space, "cma-es", feedback="ranking", seed=1)
    again = Study(space, "cma-es", feedback="ranking", seed=1, journal=str(path), **PROCESS)
    script: list[Step] = [
        lambda s: void(s.ask(4)),
        lambda s: void(s.ask(3)),
        lambda s: void(s.rank([s.pending[3], [s.pending[5], s.pending[0]]], rest="unseen", rater="Ada")),
        lambda s: void(s.rank([s.pending[1]])),
        lambda s: s.withdraw(0),
        lambda s: void(s.rank([t.id for t in s.pending])),
        lambda s: void(s.ask(7)),
        lambda s: void(s.rank([s.pending[2]])),
        lambda s: void(s.ask(7)),
    ]
    for number, step in enumerate(script):
        if number % 2:
            again._engine._spent = 1e9
        step(again)
        again.close()
        again = Study(space, "cma-es", feedback="ranking", journal=str(path), **PROCESS)
        step(plain)
        assert_same(again, plain)
        assert again.rankings == plain.rankings
        assert repr(again.best) == repr(plain.best)


def test_the_incumbent_of_equals_and_when_it_was_found_are_remembered(path: Path) -> None:
    study = Study(LINE, "random", seed=0, journal=str(path), **PROCESS)
    study.ask(6)
    for i, value in ((4, 2.0), (1, 1.0), (0, 1.0), (2, 1.0)):
        study.tell(i, value)
    study.fail(3)
    assert study.best is not None
    assert study.best.id == 1  # the first to be told, though 0 is as good
    assert study._ledger.improved_at == 2
    study.close()
    study = Study(LINE, "random", journal=str(path), stop=Stalled(4), **PROCESS)
    assert study.best is not None
    assert study.best.id == 1
    assert not study.status.stop  # 3 evaluations since
    study.tell(5, 1.0)
    assert study.status.reason == "stalled"


def test_no_point_of_a_finite_space_comes_twice_however_often_it_is_reopened(path: Path) -> None:
    space = Space({"k": Integer(0, 3), "b": Bool()})
    plain = Study(space, "random", deterministic=True, seed=5)
    plain.enqueue({"k": 2, "b": True})
    plain.add({"k": 0, "b": False}, 1.0)
    for _ in range(7):
        plain.ask()
    with pytest.raises(Exhausted):
        plain.ask()
    again = Study(space, "random", deterministic=True, seed=5, journal=str(path), **PROCESS)
    again.enqueue({"k": 2, "b": True})
    again.add({"k": 0, "b": False}, 1.0)
    for _ in range(7):
        again.close()
        again = Study(space, "random", deterministic=True, journal=str(path), **PROCESS)
        again.ask()
    assert points(again) == points(plain)
    assert len({str(point) for point in points(again)}) == 8
    with pytest.raises(Exhausted):
        again.ask()
    again.close()


def test_pieces_of_a_result_over_several_sessions(path: Path) -> None:
    """One objective now, another later, in records of different layouts, and a failure after the first piece."""
    plain = Study(LINE, Learner(), **TWO, seed=0)
    script: list[Step] = [
        lambda s: void(s.ask(5)),
        lambda s: s.tell(0, [1.0, 2.0], noise=[0.1, 0.1]),  # the first event of that layout, long before the last piece
        lambda s: s.tell(1, {"loss": 1.0}),
        lambda s: s.tell(1, {"loss": 4.0}),  # told again before the other: the last one counts
        lambda s: s.tell(1, {"speed": 3.0}, noise=[0.2, 0.3]),
        lambda s: s.fail(2),
        lambda s: s.tell(3, {"speed": 5.0}),
        lambda s: void(s.ask()),
        lambda s: s.fail(3),
        lambda s: s.tell(4, {"loss": 7.0}, at={"x": 0.5}),
        lambda s: s.tell(4, {"speed": 7.0}),
        lambda s: void(s.ask()),
    ]
    again = Study(LINE, Learner(), **TWO, seed=0, journal=str(path), **PROCESS)
    for number, step in enumerate(script):
        if number == 7:
            again._engine._spent = 1e9  # a snapshot between the first piece and the failure
        step(again)
        step(plain)
        again.close()
        again = Study(LINE, Learner(), **TWO, journal=str(path), **PROCESS)
        assert_same(again, plain)


# Snapshots


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time as the engine sees it: it passes only while the strategy thinks."""
    monkeypatch.setattr("zoopt.engine.time", SimpleNamespace(perf_counter=lambda: Learner.clock.now))
    return Learner.clock


def test_a_slow_strategy_replays_nothing(path: Path, clock: SimpleNamespace) -> None:
    clock.thinking = 60.0
    go(Study(LINE, Learner(), seed=0, journal=str(path), **PROCESS), 20).close()
    Learner.calls.clear()
    study = Study(LINE, Learner(), journal=str(path), **PROCESS)
    assert Learner.calls["ask"] == 0
    assert Learner.calls["begin"] == 0
    assert Learner.calls["tell"] <= 1  # telling takes it no time; the next proposal would come with a snapshot
    assert len(learned(study).ids) == 20
    trial = study.ask()
    study.close()
    Learner.calls.clear()
    study = Study(LINE, Learner(), journal=str(path), **PROCESS)
    assert [t.id for t in study.pending] == [trial.id]
    assert not Learner.calls


def test_a_quick_strategy_replays_a_few_calls_and_writes_few_snapshots(
    path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def counted(state: State) -> bytes:
        written.append(1)
        return to_bytes(state)

    monkeypatch.setattr("zoopt.engine.to_bytes", counted)
    clock.thinking = 2e-5  # a snapshot costs about 100 us here, and is first taken to cost 3 ms
    go(Study(LINE, Learner(), seed=0, journal=str(path), **PROCESS), 400).close()
    clock.thinking = 2e-4
    go(Study(LINE, Learner(), journal=str(path), **PROCESS), 101).close()
    assert 0 < len(written) < 100
    Learner.calls.clear()
    study = Study(LINE, Learner(), journal=str(path), **PROCESS)
    assert 0 < Learner.calls["ask"] < 20
    assert len(learned(study).ids) == 501
    plain = go(Study(LINE, Learner(), seed=0), 501)
    assert study.ask().params == plain.ask().params


def test_a_free_strategy_is_replayed_whole(path: Path, clock: SimpleNamespace) -> None:
    go(Study(LINE, Learner(), seed=0, journal=str(path), **PROCESS), 50).close()
    Learner.calls.clear()
    Study(LINE, Learner(), journal=str(path), **PROCESS)
    assert Learner.calls == {"begin": 1, "ask": 50, "tell": 50}


def test_a_snapshot_that_this_version_cannot_use_is_replaced_by_the_record(
    path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock.thinking = 60.0
    study = go(Study(LINE, Learner(), seed=0, journal=str(path), **PROCESS), 5)
    expected = learned(study)
    study.close()

    def refuse(*_: Any) -> None:
        raise JournalError("a saved state cannot be rebuilt (TypeError: no field 'x'); it was written by another version of the strategy.")

    monkeypatch.setattr("zoopt.restore.from_bytes", refuse)
    study = Study(LINE, Learner(), journal=str(path), **PROCESS)
    assert learned(study) == expected
    assert "rebuilt from its record" in caplog.text


# Another configuration


def test_more_budget_other_workers_and_other_rules_go_on(path: Path) -> None:
    objective = Batched(lambda x: (x**2).sum(-1))
    with Study(LINE, "cma-es", seed=0, journal=str(path), stop=Evaluations(5), **PROCESS) as study:
        assert study.run(objective, evaluations=3).evaluations == 3
        assert study.run(objective, evaluations=10).evaluations == 5
    with Study(LINE, "cma-es", seed=0, journal=str(path), stop=Evaluations(12), **PROCESS) as study:
        assert study.evaluations == 5
        assert study.run(objective, parallel=3).evaluations == 12
    with Study(LINE, "cma-es", journal=str(path), stop=[Target(1e-9), Stalled(500)], history="all") as study:
        assert study.run(objective, evaluations=20, parallel=8).evaluations == 20
        assert study.seed == 0


def test_another_strategy_is_refused_unless_told_to_go_on_with_the_data(path: Path) -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    first = Study(space, "cma-es", seed=0, journal=str(path), constraints=["heat"], **PROCESS)
    first.ask(6)
    for i in (4, 0, 2):
        first.tell(i, float(i), constraints=[i - 3.0], at={"x": 0.5})
    first.fail(1)
    first.add({"x": 0.25, "y": 0.75}, 9.0, constraints=[1.0])
    first.amend(2, -2.0)
    first.close()
    with pytest.raises(StudyMismatch, match=r"recorded with strategy cma-es\(.*now random\(.*resume='data'"):
        Study(space, "random", journal=str(path), constraints=["heat"], **PROCESS)
    with pytest.raises(StudyMismatch, match=r"popsize=None.*popsize=9"):
        Study(space, make("cma-es", popsize=9), journal=str(path), constraints=["heat"], **PROCESS)
    with pytest.raises(ConfigError, match="resume"):
        Study(space, "random", journal=str(path), constraints=["heat"], resume="date", **PROCESS)  # type: ignore[arg-type]

    second = Study(space, Learner(), journal=str(path), constraints=["heat"], resume="data", **PROCESS)
    assert learned(second).ids == [0, 2, 4, 6, 1]
    assert learned(second).values == [[0.0], [-2.0], [4.0], [9.0], [np.inf]]  # that it failed is known of trial 1
    assert [x[0] for x in learned(second).x[:4]] == [0.5, 0.5, 0.5, 0.25]  # where it was reached, not where it was asked
    assert learned(second).x[4] == second.trial(1).encoded.tolist()
    assert [t.id for t in second.pending] == [3, 5]
    second.tell(3, 3.0, constraints=[0.0])  # asked by the other one
    assert learned(second).ids[-1] == 3
    assert learned(second).columns == [""] * 6  # what that one noted beside its points means nothing to this one
    trial = second.ask()
    assert trial.id == 7
    second.close()

    with pytest.raises(StudyMismatch, match="cma-es"):
        Study(space, "cma-es", journal=str(path), constraints=["heat"], **PROCESS)
    for resume in ("same", "data"):  # the new one is the recorded one by now; nothing is told again
        third = Study(space, Learner(), journal=str(path), constraints=["heat"], resume=resume, **PROCESS)
        assert learned(third).ids == [0, 2, 4, 6, 1, 3]
        assert [t.id for t in third.pending] == [5, 7]
        assert third.trial(7).encoded.tolist() == trial.encoded.tolist()
        assert third.seed == 0
        third.close()


@dataclass
class JudgeState(State):
    """What was told: orders, and points that failed."""

    orders: list[list[list[int]]] = field(default_factory=list)
    failed: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Judge(Strategy[JudgeState]):
    """Keeps rankings and failures."""

    version: int = 1
    capabilities: ClassVar[Capabilities] = Capabilities(feedback="ranking")

    def begin(self, task: Task, random: Random) -> JudgeState:
        return JudgeState()

    def ask(self, task: Task, state: JudgeState, request: Request, random: Random) -> tuple[JudgeState, Candidates]:
        return state, Candidates(task.space.from_unit(random.uniform((request.n or 1, task.dim))), {"mark": np.full(request.n or 1, 7)})

    def tell(self, task: Task, state: JudgeState, observations: Observations, random: Random) -> JudgeState:
        state.orders += [[list(tier) for tier in ranking.tiers] for ranking in observations.rankings]
        state.orders += [[["mark"] if observations.column("mark") is not None else []]] if observations.rankings else []  # type: ignore[list-item]
        state.failed += observations.x[~observations.ok].tolist()
        return state


def test_rankings_and_failures_are_data_too(path: Path) -> None:
    first = Study(LINE, Judge(), seed=0, journal=str(path), feedback="ranking", **PROCESS)
    first.ask(5)
    first.rank([2, [0, 1]], rest="unseen")
    taken_back = first.rank([1, 0])
    first.rank([1, 3], rest="unseen")
    first.withdraw(taken_back)
    first.fail(4)
    point = first.trial(4).encoded.tolist()
    first.close()
    second = Study(LINE, Judge(version=2), journal=str(path), feedback="ranking", resume="data", **PROCESS)
    state = second._engine.state
    assert state.orders == [[[2], [0, 1]], [[]], [[1], [3]], [[]]]
    assert state.failed == [point]
    second.close()


def test_a_trial_in_two_rankings_is_finished_by_the_first(path: Path) -> None:
    def live() -> Study:
        study = Study(LINE, Judge(), seed=0, journal=str(path), feedback="ranking", **PROCESS)
        return study

    study = live()
    study.ask(2)
    study.rank([0, 1])
    study._engine._spent = 1e9  # a snapshot is due
    study.report(study.ask(), 1, 0.5)
    study.rank([1, 0])
    orders = study._engine.state.orders
    assert orders == [[[0], [1]], [["mark"]], [[1], [0]], [[]]]
    study.close()
    again = live()
    assert again._engine.state.orders == orders
    again.close()


def test_pending_trials_of_a_generation_that_was_taken_back_do_not_enter_the_one_in_its_place(path: Path) -> None:
    """Trials 7 to 9 are of the second generation; once the first is open again they are of none, whatever was recorded with them."""
    space = {"x": Real(-1, 3, shape=(3,))}

    def beginning(**options: Any) -> Study:
        study = Study(space, "cma-es", seed=1, feedback="ranking", **options)
        ranking = study.rank(study.ask(7))
        study.ask(3)
        study.withdraw(ranking)
        study.rank(list(range(7))[::-1])
        study._engine._spent = 1e9  # a snapshot comes with the next ask
        assert list(study.ask(7).ids) == list(range(10, 17))
        return study

    def end(study: Study) -> list[Any]:
        study.rank([8, 7, 9])  # before the generation that is out
        study.rank(range(10, 17))
        return [study.ask(7).x.tolist(), study.recommended]

    expected = end(beginning())
    beginning(journal=path, **PROCESS).close()
    reopened = Study(space, "cma-es", feedback="ranking", journal=path, **PROCESS)
    assert repr(end(reopened)) == repr(expected)


def test_pending_trials_of_one_generation_do_not_enter_another_strategys(path: Path) -> None:
    space = Space({"x": Real(0, 1), "y": Real(0, 1)})
    first = Study(space, make("cma-es", popsize=4), seed=0, journal=str(path), **PROCESS)
    first.ask(4)
    first.close()
    second = Study(space, make("cma-es", popsize=6), journal=str(path), resume="data", **PROCESS)
    own = second.ask(6)
    for i in range(4):
        second.tell(i, 100.0)  # generation 0, slots 0 to 3: but of the other one
    with pytest.raises(NotReady):
        second.ask()
    second.tell(own, np.arange(6.0))
    plain = Study(space, make("cma-es", popsize=6), seed=0)
    assert second.ask(6).ids.tolist() == list(range(10, 16))
    assert len(plain.ask(6)) == 6


def test_killed_between_two_writes_of_a_change_of_strategy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(Study(LINE, "random", seed=0, journal=str(path), **PROCESS), 3).close()
    with monkeypatch.context() as patch:
        patch.setattr("zoopt.journal.StudyLog.set_config", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Study(LINE, Learner(), journal=str(path), resume="data", **PROCESS)
    with pytest.raises(StudyMismatch, match="Learner"):
        Study(LINE, "random", journal=str(path), **PROCESS)
    with Study(LINE, Learner(), journal=str(path), **PROCESS) as study:
        assert learned(study).ids == [0, 1, 2]
    with Journal(path, read_only=True) as journal:
        config = journal.config("study")
        assert config is not None
        assert "Learner" in config["strategy"]["name"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"space": {"x": Real(0, 2)}}, r"another space: .*x.*(high|2)"),
        ({"space": {"x": Real(0, 1), "z": Bool()}}, r"another space: .*z"),
        ({"space": {"y": Real(0, 1)}}, r"another space: .*x.*y"),
        ({"space": Space({"x": Real(0, 1)}, constraints=["x <= 0.5"])}, r"another space: .*x <= 0.5"),
        ({"direction": "maximize"}, r"objectives = .*minimize.*now.*maximize"),
        ({"objectives": {"value": "minimize", "time": "minimize"}, "strategy": Learner()}, "objectives"),
        ({"constraints": ["heat"]}, r"constraints = \[\], now \['heat'\]"),
        ({"deterministic": True}, "deterministic"),
        ({"seed": 4}, r"seed 3, now 4\. Leave the seed out"),
        ({"dtype": torch.float32}, "dtype"),
    ],
)
def test_another_problem_is_refused_with_the_difference(change: dict[str, Any], sentence: str, path: Path) -> None:
    study = Study(LINE, Learner(), seed=3, journal=str(path), **PROCESS)
    study.ask()
    study.close()
    before = recorded(path)
    options: dict[str, Any] = {"space": LINE, "strategy": Learner(), "seed": 3, "resume": "data"} | change
    with pytest.raises(StudyMismatch, match=sentence) as refused:
        Study(journal=str(path), **PROCESS, **options)
    assert ".." not in str(refused.value) and ".;" not in str(refused.value)
    assert recorded(path) == before
    with Study(LINE, Learner(), seed=3, journal=str(path), **PROCESS) as study:  # its lease was given back
        assert len(study.pending) == 1


def test_two_studies_in_one_journal_know_nothing_of_each_other(path: Path) -> None:
    with (
        Study(LINE, "random", name="a", seed=1, journal=str(path), **PROCESS) as a,
        Study({"z": Bool()}, "random", name="b", seed=1, journal=str(path), **PROCESS) as b,
    ):
        go(a, 3)
        go(b, 5)
    with Study(LINE, "random", name="a", journal=str(path)) as a:
        assert a.evaluations == 3
    with Journal(path, read_only=True) as journal:
        assert journal.names() == ["a", "b"]


# One driver, many readers


def in_child(action: Callable[[], None]) -> None:
    """Do something in a forked process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn about forking beside threads; ours hold nothing that the child needs
        pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # never left behind
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_second_driver_is_refused_while_the_first_lives(address: str) -> None:
    first = go(Study(LINE, "random", seed=0, journal=address, **PROCESS), 2)
    with pytest.raises(StudyLocked, match=r"already drives study 'study'.*close that one first \(study\.close\(\)\)"):
        Study(LINE, "random", journal=address)
    driver = os.getpid()

    def refused() -> None:
        with pytest.raises(StudyLocked, match=rf"driven by process {driver} on .* since .*kill {driver}.*read_only=True"):
            Study(LINE, "random", journal=address)

    in_child(refused)
    go(first, 1)  # undisturbed
    first.close()
    with Study(LINE, "random", journal=address) as second:
        assert second.evaluations == 3
    with pytest.raises(FeedbackError, match="closed"):
        first.ask()


def test_a_driver_that_was_taken_over_acknowledges_nothing_more(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the first driver had been suspended on a machine that nobody reached for longer than its lease."""
    first = go(Study(LINE, "random", seed=0, journal=address, **PROCESS), 2)
    trial = first.ask()
    with monkeypatch.context() as patch:
        patch.setattr("zoopt.journal.Owner.dead", property(lambda owner: True))
        second = Study(LINE, "random", journal=address, **PROCESS)
    second.tell(trial.id, 0.5)
    with pytest.raises(JournalError, match=r"has taken over.*[Oo]pen the study again"):
        first.tell(trial, 1.0)
    with pytest.raises((JournalError, FeedbackError)):
        first.ask()
    assert second.trial(trial.id).value == 0.5
    second.close()
    with Study(LINE, "random", journal=address) as third:
        assert third.trial(trial.id).value == 0.5


def test_readers_beside_a_driver(address: str) -> None:
    driver = Study(LINE, "cma-es", seed=0, journal=address, **PROCESS)
    stop, seen, errors = threading.Event(), [0], []

    def look() -> None:
        try:
            with Journal(address, read_only=True) as journal:
                while not stop.is_set():
                    study = read(journal, "study")
                    history = study.history()
                    assert len(history["id"]) >= seen[-1]
                    done = history["state"] == "complete"
                    assert [loss({"x": x}) for x in history["x"][done]] == history["value"][done].tolist()
                    assert (study.best is None) == (not done.any())
                    if study.best is not None:
                        assert study.best.value == history["value"][done].min()
                    seen.append(len(history["id"]))
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    while len(set(seen)) < 6 and not errors:
        go(driver, 3)
    stop.set()
    reader.join()
    driver.close()
    assert not errors
    with Journal(address, read_only=True) as journal:
        study = read(journal, "study")
        assert study.evaluations == driver.evaluations
        assert repr(study.best) == repr(driver.best)
        with pytest.raises(FeedbackError, match="closed"):
            study.ask()
        with pytest.raises(JournalError, match="holds 'study'"):
            read(journal, "other")


# A replay that comes out differently


@pytest.mark.usefixtures("clock")
def test_a_replay_that_comes_out_differently_follows_the_record_and_says_so_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = go(Study(LINE, Learner(), seed=0, journal=str(path), **PROCESS), 6)
    study.ask(3)
    before, known = points(study), learned(study)
    study.close()
    ask = Learner.ask

    def otherwise(self: Learner, task: Task, state: LearnerState, request: Request, random: Random) -> tuple[LearnerState, Candidates]:
        state, candidates = ask(self, task, state, request, random)
        return state, Candidates(1.0 - candidates.x, candidates.columns)

    monkeypatch.setattr(Learner, "ask", otherwise)
    with pytest.warns(ReplayWarning, match=r"replaying study 'study': trial 0 came out differently .*the record is followed") as caught:
        study = Study(LINE, Learner(), journal=str(path), **PROCESS)
    assert len(caught) == 1
    assert points(study) == before
    assert learned(study) == known
    assert [t.id for t in study.pending] == [6, 7, 8]
    study.tell([6, 7, 8], [1.0, 2.0, 3.0])
    assert learned(study).columns[-1] == "mark,weight"  # as recorded
    go(study, 2)
    study.close()


@pytest.mark.usefixtures("clock")
def test_a_replay_that_fails_does_not_lose_the_study(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(Study(LINE, Learner(), seed=0, journal=str(path), **PROCESS), 3).close()
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "tell", lambda *_: 1 / 0)
        with pytest.raises(StrategyError, match=r"Learner raised ZeroDivisionError.*made again.*resume='data'"):
            Study(LINE, Learner(), journal=str(path), **PROCESS)
        with Journal(path, read_only=True) as journal:
            assert read(journal, "study").evaluations == 3
    with Study(LINE, Learner(), journal=str(path), **PROCESS) as study:
        assert learned(study).ids == [0, 1, 2]


def test_a_strategy_that_raises_leaves_the_study_where_it_was(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = go(Study(LINE, Learner(), seed=0, journal=address, **PROCESS), 3)
    trial = study.ask()
    known = learned(study)

    def broken_once(method: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
        left = [error]

        def broken(self: Learner, task: Task, state: LearnerState, *rest: Any) -> Any:
            if left:
                state.ids.append(-1)  # half done
                raise left.pop()
            return method(self, task, state, *rest)

        return broken

    for error in (ValueError("singular matrix"), KeyboardInterrupt()):  # the second is Ctrl-C in the middle of its thoughts
        ours = isinstance(error, Exception)
        expected, sentence = (StrategyError, "raised ValueError: singular matrix") if ours else (KeyboardInterrupt, None)
        calls: list[tuple[str, Callable[[], Any]]] = [
            ("tell", lambda: study.tell(trial, 0.5)),
            ("tell", lambda: study.tell([trial.id], [0.5])),
            ("ask", study.ask),
            ("ask", lambda: study.ask(3)),
            ("tell", lambda: study.add({"x": 0.5}, 1.0)),
            ("tell", lambda: study.fail(trial)),
        ]
        for method, call in calls:
            with monkeypatch.context() as patch:
                patch.setattr(Learner, method, broken_once(getattr(Learner, method), error))
                with pytest.raises(expected, match=sentence and rf"{method}\(\) {sentence}"):
                    call()
            assert study.status.pending == 1
    assert [t.id for t in study.pending] == [trial.id]
    study.tell(trial, 0.5)
    assert learned(study).ids == [0, 1, 2, 3]
    plain = go(Study(LINE, Learner(), seed=0), 3)
    plain.tell(plain.ask(), 0.5)
    assert learned(study).values == learned(plain).values
    assert study.ask().params == plain.ask().params
    assert known.ids[:3] == [0, 1, 2]
    study.close()


# What the disk does


def test_a_full_disk_in_the_middle_of_a_run(path: Path) -> None:
    """The limit on the size of files stands for the disk. Nothing that was acknowledged is lost, and the run goes on when there is room."""
    study = go(Study(LINE, Learner(), seed=0, journal=str(path)), 2)
    told: dict[int, float] = {}

    def note(told_study: Study, event: StudyEvent) -> None:
        if event.kind == "told":
            told.update((int(i), told_study.trial(int(i)).values["value"]) for i in event.ids)

    study.callbacks.append(note)
    objective = Batched(lambda x: (x**2).sum(-1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (8_000, 50_000):
        wal = Path(f"{path}-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + room, hard))
        try:
            with pytest.raises(JournalError, match=r"the disk of the journal .*study\.db is full or failing .*make room and go on"):
                study.run(objective, evaluations=10_000, parallel=4)
            pending = [t.id for t in study.pending]
            with pytest.raises(JournalError, match="full or failing"):
                go(study, 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert set(pending) <= {t.id for t in study.pending}
        assert study.evaluations == len(told) + 2
        study.run(objective, evaluations=study.evaluations + 9, parallel=4)
    assert study.pending == []
    expected = {i: study.trial(i).value for i in told}
    study.close()
    assert expected == told
    with Study(LINE, Learner(), journal=str(path)) as study:
        assert {i: study.trial(i).value for i in told} == told
        assert sorted(learned(study).ids) == list(range(len(told) + 2))


def test_a_truncated_file_is_refused_and_left_alone(path: Path) -> None:
    study = go(Study(LINE, "random", seed=0, journal=str(path), **PROCESS), 200)
    study.close()
    assert not Path(f"{path}-wal").exists()  # closing a study leaves one whole file, which can be copied
    data = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(data)
    for options in ({}, {"resume": "data"}):
        with pytest.raises(JournalError, match=r"study\.db is damaged .*(Restore a copy|\.recover)"):
            Study(LINE, "random", journal=str(path), **options)  # type: ignore[arg-type]
    assert path.read_bytes() == data


def test_a_file_that_may_not_be_written(path: Path) -> None:
    go(Study(LINE, "random", seed=0, journal=str(path), **PROCESS), 5).close()
    place = Path(tempfile.mkdtemp())  # reached by another user, which tmp_path is not
    try:
        copy = place / "study.db"
        shutil.copy(path, copy)
        copy.chmod(0o444)
        place.chmod(0o755)

        def look() -> None:
            if os.getuid() == 0:  # who may write anything
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            with pytest.raises(JournalError, match=r"study\.db may not be written .*read_only=True"):
                Study(LINE, "random", journal=str(copy))
            with Journal(copy, read_only=True) as journal:
                assert read(journal, "study").evaluations == 5

        in_child(look)
        assert copy.read_bytes() == path.read_bytes()
    finally:
        shutil.rmtree(place)


def test_a_tell_is_on_the_disk_before_it_returns(tmp_path: Path) -> None:
    probe = ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "true"]
    if shutil.which("strace") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("strace cannot run here; test_journal checks the connection's own setting")
    script = """
import os, sys, zoopt
def mark(text): os.write(1, (text + "\\n").encode())
for durability in ("full", "process"):
    study = zoopt.Study({"x": zoopt.Real(0, 1)}, "random", seed=0, journal=f"{sys.argv[1]}/{durability}.db", durability=durability)
    study.tell(study.ask(), 0.0)
    mark("begin")
    for k in range(3):
        one, two = study.ask(), study.ask(2)
        mark(f"asked {durability}")
        study.tell(one, 1.0)
        mark(f"told {durability}")
        study.tell(two, [1.0, float("nan")])
        mark(f"batch {durability}")
        study.fail(study.ask())
        mark(f"failed {durability}")
        study.amend(one, 2.0)
        mark(f"amended {durability}")
    study.close()
"""
    trace = tmp_path / "trace"
    strace = ["strace", "-ff", "--seccomp-bpf", "-y", "-e", "trace=fsync,fdatasync,write", "-o", str(trace)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*strace, sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr
    synced: dict[str, list[bool]] = {}
    seen = False
    (main,) = (text for file in tmp_path.glob("trace.*") if "write(1<" in (text := file.read_text()))  # one file a thread
    for line in main.splitlines():
        if "sync(" in line and "-wal>" in line:
            assert line.rstrip().endswith("= 0")
            seen = True
        elif "write(1<" in line:
            synced.setdefault(line.split('"')[1].removesuffix("\\n"), []).append(seen)
            seen = False
    assert synced["asked full"] == [False] * 3  # durable with the next tell
    for kind in ("told", "batch", "failed", "amended"):
        assert synced[f"{kind} full"] == [True] * 3, kind
        assert synced[f"{kind} process"] == [False] * 3, kind


def test_an_ask_lost_by_a_power_cut_comes_again(path: Path, tmp_path: Path) -> None:
    """What a power cut may leave: all that was synced, and not the ask after it."""
    study = go(Study(LINE, "cma-es", seed=0, journal=str(path)), 5)
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{tmp_path / 'later.db'}{suffix}")
    lost = study.ask()
    study.close()
    copy = Study(LINE, "cma-es", journal=str(tmp_path / "later.db")) if _forget_driver(tmp_path / "later.db") else None
    assert copy is not None
    again = copy.ask()
    assert (again.id, again.params) == (lost.id, lost.params)
    copy.close()


def _forget_driver(path: Path) -> bool:
    """The copy was driven by this very process; after a power cut there is none."""
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE studies SET lease_until = 0")
    connection.close()
    return True


# Threads


@pytest.mark.parametrize("strategy", ["random", "cma-es"])
@pytest.mark.parametrize("journalled", [False, True])
def test_eight_threads_share_a_study(strategy: str, journalled: bool, path: Path) -> None:
    study = Study({"x": Real(0, 1, shape=(3,))}, strategy, seed=0, journal=str(path) if journalled else None, **PROCESS)
    ids: list[list[int]] = [[] for _ in range(8)]
    told: list[dict[int, float]] = [{} for _ in range(8)]
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def work(k: int) -> None:
        try:
            start.wait()
            while len(ids[k]) < 30:
                try:
                    batch = study.ask(1 + k % 3)
                except NotReady:  # the others have not told their part of the generation yet
                    time.sleep(0.001)
                    continue
                ids[k] += batch.ids.tolist()
                values = batch.x.square().sum(-1)
                if k == 5:
                    study.fail(batch)
                elif k % 2:
                    study.tell(batch, values)
                else:
                    for trial, value in zip(batch, values.tolist(), strict=True):
                        study.tell(trial, value)
                told[k].update(zip(batch.ids.tolist(), values.tolist(), strict=True) if k != 5 else ())
                assert study.status.complete >= len(told[k])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    every = sorted(i for own in ids for i in own)
    assert every == list(range(len(every)))
    assert study.status.pending == 0
    assert study.status.failed == len(ids[5])
    assert study.status.complete == len(every) - len(ids[5])
    for own in told:
        assert {i: study.trial(i).value for i in own} == own
    if journalled:
        study.close()
        again = Study({"x": Real(0, 1, shape=(3,))}, strategy, journal=str(path), **PROCESS)
        assert_same(again, study)
        assert again.ask().id == len(every)
        again.close()


# Workers that vanish


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time as the leases of evaluations see it."""
    watch = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("zoopt.leases.time", SimpleNamespace(monotonic=lambda: watch.now))
    return watch


def test_three_attempts_then_lost(address: str, watch: SimpleNamespace) -> None:
    study = Study(LINE, "random", seed=0, journal=address, **PROCESS)
    trial = study.ask(lease=60)
    other = study.ask()  # without a lease: never handed out again
    watch.now += 59
    assert study.ask().id == 2
    watch.now += 2
    again = study.ask(lease=60)
    assert (again.id, again.params, again.state) == (trial.id, trial.params, TrialState.PENDING)  # the second attempt
    assert study.ask().id == 3
    study.tell([2, 3], [1.0, 2.0])
    study.close()
    study = Study(LINE, "random", journal=address, **PROCESS)
    assert [t.id for t in study.pending] == [0, 1]
    assert study.retry(study.pending).ids.tolist() == [0, 1]  # the third of one, the second of the other
    study.close()
    study = Study(LINE, "random", journal=address, **PROCESS)
    assert study.retry([0, 1]).ids.tolist() == [1]
    assert study.trial(0).state is TrialState.LOST
    assert (study.status.lost, study.status.pending, study.evaluations) == (1, 1, 3)
    study.close()
    study = Study(LINE, "random", journal=address, **PROCESS)
    assert study.trial(0).state is TrialState.LOST
    assert study.retry([0, 1]).ids.tolist() == []  # for good, both of them
    assert study.status.lost == 2
    with pytest.raises(FeedbackError, match="lost"):
        study.tell(other.id, 1.0)
    assert study.ask().id == 4
    study.close()


def test_a_lease_runs_out_three_times(path: Path, watch: SimpleNamespace) -> None:
    study = Study(LINE, "cma-es", seed=0, journal=str(path), **PROCESS)
    study.ask(lease=60)
    for _ in range(2):
        watch.now += 61
        assert study.ask(lease=60).id == 0
    watch.now += 61
    assert study.ask(lease=60).id == 1
    assert study.trial(0).state is TrialState.LOST
    study.close()
    with Study(LINE, "cma-es", journal=str(path), **PROCESS) as study:
        assert (study.status.lost, study.failures, [t.id for t in study.pending]) == (1, 1, [1])


def test_a_lease_is_per_trial_and_reports_renew_it(path: Path, watch: SimpleNamespace) -> None:
    study = Study(LINE, "random", seed=0, journal=str(path), **PROCESS)
    batch = study.ask(3, lease=60)
    study.tell(batch[1], 1.0)
    watch.now += 50
    study.report(batch[2], 1, 0.5)  # a sign of life
    watch.now += 50
    assert study.ask(lease=60).id == 0  # its worker vanished
    assert study.ask().id == 3
    study.amend(1, 2.0)  # rebuilds everything, and forgets no lease
    watch.now += 20
    assert study.ask().id == 2
    assert study.ask().id == 4
    study.close()
