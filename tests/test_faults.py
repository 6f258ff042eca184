"""Strategies that raise or give garbage, interrupts in the middle of a call, and spaces that run out of points."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from zoopt import Bool, Choice, Context, Integer, Real, Space, Study
from zoopt.errors import Exhausted, FeedbackError, JournalWarning, NotReady, StrategyError, StudyMismatch
from zoopt.feedback import Candidates, Observations
from zoopt.generation import Generational
from zoopt.random import Random
from zoopt.record import fingerprint
from zoopt.strategy import Capabilities, Request, State, Strategy, Task
from zoopt.trials import TrialState

BOX = Space({"x": Real(0, 1), "y": Real(0, 1)})


@dataclass
class WalkState(State):
    """Where the walk stands."""

    here: torch.Tensor
    steps: int = 0


@dataclass(frozen=True)
class Walk(Strategy[WalkState]):
    """Walks on from whatever it is told; it fails in the calls named in ``faults`` after it has ruined its state."""

    faults: ClassVar[dict[str, Any]] = {}
    capabilities: ClassVar[Capabilities] = Capabilities(objectives=None)

    def begin(self, task: Task, random: Random) -> WalkState:
        return WalkState(torch.full((task.dim,), 0.5, dtype=task.dtype))

    def ask(self, task: Task, state: WalkState, request: Request, random: Random) -> tuple[WalkState, Candidates]:
        n = request.n or 1
        x = (state.here + random.uniform((n, task.dim))) % 1.0
        state.steps += n
        fault = self.faults.pop("ask", None)
        if fault is not None:
            state.here.fill_(torch.nan)
            state.steps = -1000
            return fault(state, x)  # type: ignore[no-any-return]
        return state, Candidates(x)

    def tell(self, task: Task, state: WalkState, observations: Observations, random: Random) -> WalkState:
        fault = self.faults.pop("tell", None)
        if fault is not None:
            state.here.fill_(torch.nan)
            return fault(state)  # type: ignore[no-any-return]
        state.here = (state.here + observations.x.sum(0) + torch.nan_to_num(observations.values, posinf=0.1).sum()) % 1.0
        return state


@pytest.fixture
def faults() -> Any:
    Walk.faults.clear()
    yield Walk.faults
    Walk.faults.clear()


def throw(error: BaseException) -> Any:
    def fault(*_: Any) -> None:
        raise error

    return fault


def rounds(s: Study, n: int) -> None:
    for k in range(n):
        batch = s.ask(2)
        s.tell(batch[0], float(k))
        s.tell(batch[1], float("nan"))


GARBAGE: dict[str, Any] = {
    "raises": throw(ZeroDivisionError("by zero")),
    "raises an error of ours": throw(FeedbackError("only a ranking was told")),
    "gives None": lambda state, x: None,
    "gives no candidates": lambda state, x: (state, None),
    "gives a tensor": lambda state, x: (state, x),
    "gives an array": lambda state, x: (state, Candidates(x.numpy())),
    "gives too many": lambda state, x: (state, Candidates(torch.zeros(99, 2))),
    "gives none": lambda state, x: (state, Candidates(x[:0])),
    "gives one dimension": lambda state, x: (state, Candidates(x[0])),
    "gives another width": lambda state, x: (state, Candidates(torch.zeros(1, 3))),
    "gives NaN": lambda state, x: (state, Candidates(x * torch.nan)),
    "gives a short column": lambda state, x: (state, Candidates(x, {"slot": np.arange(len(x) - 1)})),
    "gives a column that is none": lambda state, x: (state, Candidates(x, {"slot": [0] * len(x)})),
    "gives a reserved column": lambda state, x: (state, Candidates(x, {"x": np.arange(len(x))})),
    "gives a column of objects": lambda state, x: (state, Candidates(x, {"slot": np.array([None] * len(x))})),
    "gives columns that are none": lambda state, x: (state, Candidates(x, 7)),
}


@pytest.mark.parametrize("history", ["all", "values", "best"])
@pytest.mark.parametrize("what", list(GARBAGE))
def test_an_ask_that_goes_wrong_leaves_no_trace(what: str, history: Any, faults: dict[str, Any]) -> None:
    s, never = (Study(BOX, Walk(), seed=1, history=history) for _ in range(2))
    rounds(s, 3)
    rounds(never, 3)
    out = s.ask(), never.ask()
    faults["ask"] = GARBAGE[what]
    with pytest.raises(StrategyError, match=r"Walk\.ask\(\)") as caught:
        s.ask(2)
    assert not faults
    if history != "all":  # there is nothing to go back to
        assert "the study is closed" in str(caught.value)
        assert s.best is not None and s.best.value == 0.0
        with pytest.raises(FeedbackError, match="closed"):
            s.ask()
        return
    assert str(caught.value).endswith("This call was not recorded; the next one goes on from the study's record.")
    assert s.pending == [out[0]]
    assert s.ask(2).params == never.ask(2).params
    s.tell(out[0], 1.0)
    never.tell(out[1], 1.0)
    assert s.ask().params == never.ask().params
    assert s.status == never.status


def told(s: Study, trial: Any) -> None:
    s.tell(trial, 3.0)


def told_many(s: Study, trial: Any) -> None:
    s.tell([trial], [3.0])


def failed(s: Study, trial: Any) -> None:
    s.fail(trial)


def added(s: Study, trial: Any) -> None:
    s.add({"x": 0.5, "y": 0.5}, 1.0)


@pytest.mark.parametrize("act", [told, told_many, failed, added])
@pytest.mark.parametrize("fault", [throw(RuntimeError("matrix not positive definite")), throw(NotReady("no"))], ids=["error", "not ready"])
def test_a_tell_that_goes_wrong_is_not_recorded_and_can_be_made_again(act: Any, fault: Any, faults: dict[str, Any]) -> None:
    s, never = Study(BOX, Walk(), seed=1), Study(BOX, Walk(), seed=1)
    rounds(s, 3)
    rounds(never, 3)
    out = s.ask(), never.ask()
    faults["tell"] = fault
    with pytest.raises(StrategyError, match=r"Walk\.tell\(\) raised") as caught:
        act(s, out[0])
    assert caught.value.__cause__ is not None
    faults.clear()
    assert out[0].state is TrialState.PENDING
    assert s.status == never.status
    for t, trial in zip((s, never), out, strict=True):
        act(t, trial)
    assert s.ask().params == never.ask().params
    assert s.status == never.status
    assert s.best == s.trial(never.best.id if never.best else -1)


@pytest.mark.parametrize("where", ["ask", "tell"])
def test_an_interrupt_in_the_middle_of_a_call_is_as_if_it_had_not_been_made(where: str, faults: dict[str, Any]) -> None:
    s, never = Study(BOX, Walk(), seed=1), Study(BOX, Walk(), seed=1)
    rounds(s, 3)
    rounds(never, 3)
    out = s.ask(), never.ask()
    faults[where] = throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        s.ask() if where == "ask" else s.tell(out[0], 1.0)
    faults["tell"] = throw(KeyboardInterrupt())  # nobody presses it once: now it hits the way back to the record
    with pytest.raises(KeyboardInterrupt):
        s.ask()
    assert s.pending == [out[0]]
    s.tell(out[0], 1.0)
    never.tell(out[1], 1.0)
    assert s.ask(2).params == never.ask(2).params
    assert s.status == never.status


def test_a_strategy_that_cannot_go_back_either_can_be_read_and_tried_again(faults: dict[str, Any]) -> None:
    s, never = Study(BOX, Walk(), seed=1), Study(BOX, Walk(), seed=1)
    rounds(s, 2)
    rounds(never, 2)
    faults["ask"] = throw(RuntimeError("no room on the device"))
    with pytest.raises(StrategyError):
        s.ask()
    for _ in range(2):
        faults["tell"] = throw(RuntimeError("still no room"))
        with pytest.raises(StrategyError, match="still no room"):
            s.ask()
        assert s.best is not None and s.best.value == 0.0
        assert s.history()["state"].tolist() == ["complete", "failed"] * 2
        assert s.pending == []
    assert s.status == never.status
    assert s.ask().params == never.ask().params


@dataclass
class BaggageState(WalkState):
    """Carries something that cannot be written down."""

    baggage: Any = None


@dataclass(frozen=True)
class Baggage(Walk):
    """Takes a lock along, or freezes wrongly."""

    how: str = "lock"

    def begin(self, task: Task, random: Random) -> BaggageState:
        return BaggageState(torch.full((task.dim,), 0.5, dtype=task.dtype), baggage=threading.Lock() if self.how == "lock" else Frozen())


class Frozen(State):
    """A state that cannot be turned into data."""

    def freeze(self) -> Any:
        raise RuntimeError("no way to freeze this")


@pytest.mark.parametrize("how", ["lock", "freeze"])
def test_a_state_that_cannot_be_saved_is_rebuilt_from_the_record(how: str, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    never = Study(BOX, Baggage(how=how), seed=1)
    with Study(BOX, Baggage(how=how), seed=1, journal=path) as s, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            s._engine._spent = 1e9  # a snapshot is due
            rounds(s, 1)
            rounds(never, 1)
    (warning,) = caught
    assert issubclass(warning.category, JournalWarning)
    assert "state of Baggage cannot be saved" in str(warning.message)
    with Study(BOX, Baggage(how=how), journal=path) as again:
        assert again.status == never.status
        assert again.ask(2).params == never.ask(2).params


@dataclass(frozen=True)
class SlowWalk(Walk):
    """Takes its time, counts its calls, and learns from ranks."""

    calls: ClassVar[list[str]] = []
    capabilities: ClassVar[Capabilities] = Capabilities(feedback="ranking", objectives=None)

    def tell(self, task: Task, state: WalkState, observations: Observations, random: Random) -> WalkState:
        self.calls.append("tell")
        time.sleep(0.002)
        state.here = (state.here + (observations.x * (1 + observations.ranks.unsqueeze(-1))).sum(0)) % 1.0
        return state


@pytest.mark.parametrize("correct", ["amend", "withdraw"])
def test_a_corrected_study_is_rebuilt_once_and_not_at_every_opening(correct: str, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    never = Study(BOX, SlowWalk(), seed=1)
    with Study(BOX, SlowWalk(), seed=1, journal=path) as s:
        for study in (s, never):
            study.rank([study.ask()]) if correct == "withdraw" else None
            rounds(study, 10)
            study.withdraw(0) if correct == "withdraw" else study.amend(2, 7.0)
    SlowWalk.calls.clear()
    with Study(BOX, SlowWalk(), journal=path) as again:
        assert SlowWalk.calls == []
        assert again.status == never.status
        rounds(again, 1)
        rounds(never, 1)
        assert again.ask(2).params == never.ask(2).params


def test_a_correction_whose_state_finds_no_room_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with Study(BOX, SlowWalk(), seed=1, journal=path) as s:
        rounds(s, 10)
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TRIGGER full BEFORE INSERT ON snapshots BEGIN SELECT RAISE(ABORT, 'no room'); END")
        s.amend(2, 7.0)
        assert s.trial(2).value == 7.0
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TRIGGER full")
        rounds(s, 1)
    with Study(BOX, SlowWalk(), journal=path) as again:
        assert again.trial(2).value == 7.0
        assert again.evaluations == 22


def test_not_ready_and_exhausted_leave_the_state_alone() -> None:
    s, never = Study(BOX, "cma-es", seed=1), Study(BOX, "cma-es", seed=1)
    a, b = s.ask(50), never.ask(50)
    for _ in range(3):
        with pytest.raises(NotReady):
            s.ask()
    s.tell(a, a.x.sum(-1))
    never.tell(b, b.x.sum(-1))
    assert s.ask(3).params == never.ask(3).params


# ---------------------------------------------------------------------- no point twice


@dataclass
class StuckState(State):
    asked: int = 0


@dataclass(frozen=True)
class Stuck(Strategy[StuckState]):
    """Always proposes the same point, and numbers its proposals."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="none", objectives=None)

    def begin(self, task: Task, random: Random) -> StuckState:
        return StuckState()

    def ask(self, task: Task, state: StuckState, request: Request, random: Random) -> tuple[StuckState, Candidates]:
        n = request.n or 1
        first, state.asked = state.asked, state.asked + n
        return state, Candidates(torch.full((n, task.dim), 0.5), {"number": np.arange(first, state.asked)})

    def tell(self, task: Task, state: StuckState, observations: Observations, random: Random) -> StuckState:
        numbers = observations.column("number")
        assert numbers is None or len(np.asarray(numbers)) == observations.n
        return state


@dataclass(frozen=True)
class StuckGenerations(Generational):
    """The same in generations of seven."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="ranking", objectives=None)

    def start(self, task: Task, random: Random) -> StuckState:
        return StuckState()

    def propose(self, task: Task, inner: Any, random: Random) -> tuple[State, Candidates]:
        return inner, Candidates(torch.full((7, task.dim), 0.5, dtype=task.dtype))

    def update(self, task: Task, inner: Any, generation: Observations, random: Random) -> State:
        return inner  # type: ignore[no-any-return]


FINITE = {
    "integers": Space({"k": Integer(0, 4), "n": Integer(1, 3)}),
    "conditional": Space({"kind": Choice("a", "b", "c"), "k": Integer(1, 4, when={"kind": "b"}), "flag": Bool()}),
    "constrained": Space({"k": Integer(0, 9), "n": Integer(0, 9)}, constraints=["k + n <= 3"]),
}
SIZES = {"integers": 15, "conditional": 12, "constrained": 10}


@pytest.mark.parametrize("name", list(FINITE))
@pytest.mark.parametrize(
    "strategy", [Stuck(), StuckGenerations(), "random", "sobol", "cma-es"], ids=lambda s: s if isinstance(s, str) else type(s).__name__
)
@pytest.mark.parametrize("n", [1, 4])
def test_a_finite_space_gives_every_point_once_and_is_then_exhausted(name: str, strategy: Any, n: int) -> None:
    s = Study(FINITE[name], strategy, deterministic=True, seed=4)
    points: list[Any] = []
    while len(points) <= 100:
        try:
            batch = s.ask(n)
        except Exhausted:
            break
        except NotReady:
            out = s.pending
            s.tell(out, [float(t.id) for t in out])
            continue
        points += [tuple(sorted(p.items())) for p in batch.params]
        if len(points) % 3 == 0:
            s.tell(batch, [1.0] * len(batch))
    assert len(points) == len(set(points)) == SIZES[name]
    out = s.pending
    s.tell(out, [0.0] * len(out))
    assert s.evaluations == SIZES[name]
    for _ in range(2):
        with pytest.raises(Exhausted):
            s.ask(3)


def test_no_point_of_a_continuous_space_twice_and_new_ones_stay_near() -> None:
    s = Study(BOX, Stuck(), deterministic=True, seed=4)
    x = s.ask(20).encoded
    assert len({tuple(row) for row in x.tolist()}) == 20
    assert x[0].tolist() == [0.5, 0.5]
    assert (x - 0.5).abs().max() < 0.05
    assert s.ask(1).encoded.tolist() not in x.tolist()


def test_points_of_the_users_own_are_not_asked_again_either() -> None:
    s = Study(FINITE["integers"], Stuck(), deterministic=True, seed=4)
    s.add({"k": 2, "n": 2}, 1.0)
    s.enqueue({"k": 2, "n": 1})
    asked = [s.ask().params for _ in range(14)]
    assert asked[0] == {"k": 2, "n": 1}
    assert {"k": 2, "n": 2} not in asked
    assert len({tuple(p.values()) for p in asked}) == 14
    with pytest.raises(Exhausted, match="all 15 points"):
        s.ask()


def test_points_are_exhausted_in_each_context_by_itself() -> None:
    s = Study(Space({"k": Integer(1, 3), "day": Context(Integer(1, 2))}), Stuck(), deterministic=True, seed=0)
    monday = [s.ask(context={"day": 1}).params for _ in range(3)]
    assert sorted(p["k"] for p in monday) == [1, 2, 3]
    assert {p["day"] for p in monday} == {1}
    with pytest.raises(Exhausted):
        s.ask(context={"day": 1})
    assert sorted(p["k"] for p in s.ask(9, context={"day": 2}).params) == [1, 2, 3]
    with pytest.raises(Exhausted, match="all 6 points"):
        s.ask(context={"day": 2})


def test_without_deterministic_a_point_may_come_again() -> None:
    s = Study(FINITE["integers"], Stuck(), seed=4)
    batch = s.ask(20)
    assert len({tuple(p.values()) for p in batch.params}) == 1
    assert batch.ids.tolist() == list(range(20))


def test_a_fault_in_a_deterministic_study_marks_no_point_as_asked(faults: dict[str, Any]) -> None:
    space = Space({"k": Integer(0, 3)})
    s = Study(space, Walk(), deterministic=True, seed=1)
    s.tell(s.ask(), 1.0)
    faults["ask"] = throw(RuntimeError("no"))
    with pytest.raises(StrategyError):
        s.ask()
    faults.clear()
    assert len({s.ask().params["k"] for _ in range(3)}) == 3
    with pytest.raises(Exhausted):
        s.ask()


# ---------------------------------------------------------------------- what is the same recipe, and the same constraint


@dataclass(frozen=True)
class Weighted(Walk):
    """Has a field that may be anything."""

    weights: Any = None


class Thing:
    """Says nothing about itself."""


def shift(x: float, by: float) -> float:
    return x + by


def bump(value: float, n: int = 6000) -> torch.Tensor:
    """Differs in the middle only, which a repr leaves out."""
    x = torch.zeros(n)
    x[n // 2] = value
    return x


SAME: dict[str, Any] = {
    "an object": Thing,
    "a function": lambda: shift,
    "a function and some arguments": lambda: partial(shift, by=0.5),
    "a lambda": lambda: lambda x: x,
    "a long tensor": lambda: bump(1.0),
    "a bfloat16 tensor": lambda: bump(1.0, 9).bfloat16(),
    "a long array": lambda: bump(1.0).numpy(),
    "an array of objects": lambda: np.array([None, "a", 1.5], dtype=object),
    "a numpy number": lambda: np.float32(0.5),
    "a set": lambda: {"b", "a", "c"},
    "nested": lambda: {"a": [bump(0.0), (1, Thing())]},
}


@pytest.mark.parametrize("what", list(SAME))
def test_a_recipe_is_itself_when_it_is_made_again(what: str, tmp_path: Path) -> None:
    for _ in range(2):
        Study(BOX, Weighted(weights=SAME[what]()), seed=1, journal=tmp_path / "study.db").close()


DIFFERENT: dict[str, Any] = {
    "long tensors": (bump(0.0), bump(1.0)),
    "long arrays": (bump(0.0).numpy(), bump(1e-7).numpy()),
    "short tensors": (torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.2 + 1e-6])),
    "types of tensors": (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    "shapes": (torch.zeros(100, 3), torch.zeros(3, 100)),
    "sets": ({"a", "b"}, {"a", "c"}),
}


@pytest.mark.parametrize("what", list(DIFFERENT))
def test_another_recipe_is_refused(what: str, tmp_path: Path) -> None:
    before, now = DIFFERENT[what]
    Study(BOX, Weighted(weights=before), seed=1, journal=tmp_path / "study.db").close()
    with pytest.raises(StudyMismatch, match="was recorded with strategy"):
        Study(BOX, Weighted(weights=now), seed=1, journal=tmp_path / "study.db")
    Study(BOX, Weighted(weights=before), seed=1, journal=tmp_path / "study.db").close()


def below(limit: float, depth: int = 0) -> Any:
    def small(p: dict[str, Any], /, *, room: float = 0.5) -> bool:
        return small(p) if depth < 0 else p["x"] + p["y"] < limit + room  # which closes over itself

    return small


def documented() -> Any:
    def small(q: dict[str, Any], /, *, room: float = 0.5) -> bool:
        """The same with other words."""
        # and a comment
        return small(q) if depth < 0 else q["x"] + q["y"] < limit + room

    limit, depth = 1.0, 0
    return small


class Below:
    """A predicate with a state of its own."""

    def __call__(self, p: dict[str, Any]) -> bool:
        return bool(p["x"] in {0.25, 0.5} or p["y"] < 0.75)


def under(p: dict[str, Any], limit: float) -> bool:
    return bool(p["x"] < limit)


PREDICATES: dict[str, tuple[Any, Any, bool]] = {  # before, now, and whether they are the same
    "the same lambda": (lambda p: p["x"] < 0.5, lambda p: p["x"] < 0.5, True),
    "another constant": (lambda p: p["x"] < 0.5, lambda p: p["x"] < 0.25, False),
    "another parameter": (lambda p: p["x"] < 0.5, lambda p: p["y"] < 0.5, False),
    "another comparison": (lambda p: p["x"] < 0.5, lambda p: p["x"] > 0.5, False),
    "another function within": (lambda p: max(p.values()) < 0.5, lambda p: min(p.values()) < 0.5, False),
    "another default": (lambda p, k=0.5: p["x"] < k, lambda p, k=0.25: p["x"] < k, False),
    "the same closure": (below(1.0), below(1.0), True),
    "another closure": (below(1.0), below(2.0), False),
    "an object that is called": (Below(), Below(), True),
    "arguments": (partial(under, limit=0.5), partial(under, limit=0.5), True),
    "other arguments": (partial(under, limit=0.5), partial(under, limit=0.25), False),
}


@pytest.mark.parametrize("what", list(PREDICATES))
def test_a_known_constraint_is_known_by_its_code(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, now, same = PREDICATES[what]
    space, changed = (Space({"x": Real(0, 1), "y": Real(0, 1)}, constraints=[predicate]) for predicate in (before, now))
    Study(space, "random", seed=1, journal=tmp_path / "study.db").close()
    if not same:
        with pytest.raises(StudyMismatch, match=r"another space: the code of the known constraint .* has changed"):
            Study(changed, "random", journal=tmp_path / "study.db")
        monkeypatch.setattr("zoopt.restore.MAGIC_NUMBER", b"another Python")  # which compiles to other code
    Study(changed, "random", journal=tmp_path / "study.db").close()


def test_words_beside_the_code_do_not_count() -> None:
    assert fingerprint(below(1.0)) == fingerprint(documented())
    assert fingerprint(len) is None


SCRIPT = """
import sys
from zoopt import Real, Space, Study
def allowed(p):
    return p["x"] not in {"a", "b", "c", 0.5} or p["x"] < LIMIT
space = Space({"x": Real(0, 1)}, constraints=[allowed, lambda p: p["x"] in (0.0, "u", "v") or p["x"] < 1])
Study(space, "random", seed=1, journal=sys.argv[1]).close()
"""


def test_code_is_the_same_in_every_process(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        script = [sys.executable, "-c", SCRIPT.replace("LIMIT", "1"), str(tmp_path / "study.db")]
        run = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert (run.returncode, run.stderr) == (0, "")
