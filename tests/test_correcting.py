"""Rankings, taking them back, and amending what was told: the state is what it had been, had it been told right at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from zoopt import Real, Space, Study
from zoopt.errors import AlreadyTold, CapabilityError, FeedbackError, StrategyError, TellErrors, UnknownId
from zoopt.feedback import Candidates, Observations, Ranking
from zoopt.random import Random
from zoopt.state import equal
from zoopt.strategy import Capabilities, Request, State, Strategy, Task
from zoopt.trials import TrialState

SPACE = Space({"x": Real(0, 1), "y": Real(0, 1)})


@dataclass
class LogState(State):
    told: list[Any] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Log(Strategy[LogState]):
    """Proposals depend on everything told so far and on the key of the call."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="none", objectives=None)

    def begin(self, task: Task, random: Random) -> LogState:
        return LogState()

    def ask(self, task: Task, state: LogState, request: Request, random: Random) -> tuple[LogState, Candidates]:
        shift = sum(len(repr(told)) for told in state.told) / 97
        n = request.n or 1
        return state, Candidates(task.space.from_unit((random.uniform((n, task.dim)) + shift) % 1.0), {"number": np.arange(n)})

    def tell(self, task: Task, state: LogState, observations: Observations, random: Random) -> LogState:
        o = observations
        number = o.column("number")
        extras = [None if value is None else value.tolist() for value in (o.constraints, o.noise, o.gradients)]
        state.told.append(
            [
                o.ids.tolist(),
                o.x.tolist(),
                o.values.tolist() if o.has_values else None,
                o.ok.tolist(),
                list(o.dropped),
                [[list(t) for t in r.tiers] for r in o.rankings],
                None if number is None else np.asarray(number).tolist(),
                extras,
            ]
        )
        state.draws.append(float(random.uniform(1)))
        return state


def study(strategy: Any = None, **options: Any) -> Study:
    return Study(SPACE, strategy or Log(), **{"seed": 3, **options})


def told(s: Study) -> list[Any]:
    found: list[Any] = s._engine.state.told
    return found


def assert_same(a: Study, b: Study) -> None:
    """Same knowledge, same counts, same best, same next proposal."""
    assert equal(a._engine.state, b._engine.state)
    assert (a.status, a.best and a.best.id, a.best and a.best.value) == (b.status, b.best and b.best.id, b.best and b.best.value)
    assert a._ledger.improved_at == b._ledger.improved_at
    mine, theirs = a.history(), b.history()
    assert list(mine) == list(theirs)
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name])
    assert a.ask(3).params == b.ask(3).params


# ---------------------------------------------------------------------- rankings


def test_a_ranking_orders_and_finishes_trials() -> None:
    s = study(feedback="ranking")
    batch = s.ask(6)
    s.rank([batch[2], [batch[0], batch[1]], batch[5]])
    assert told(s)[-1][5] == [[[2], [0, 1], [5], [3, 4]]]  # the others of the batch are worse
    assert [t.state for t in batch] == [TrialState.COMPLETE] * 6
    assert s.evaluations == 6
    assert s.rankings == {0: Ranking(((2,), (0, 1), (5,), (3, 4)))}
    assert batch[2].value is None


def test_what_was_not_seen_stays_out_and_ids_of_any_kind_do() -> None:
    s = study(feedback="ranking")
    a, b = s.ask(4), s.ask(2)
    number = s.rank([3, np.int64(0), b[0]], rest="unseen", rater="ada")
    assert s.rankings[number] == Ranking(((3,), (0,), (4,)), unseen=(1, 2, 5), rater="ada")
    assert [t.id for t in s.pending] == [1, 2, 5]
    s.rank([a[1:3]])  # a batch is a tie; nothing else of its batch is left
    assert [t.id for t in s.pending] == [5]
    s.rank(b[1:])
    assert s.pending == []


def test_several_raters_may_order_the_same_trials() -> None:
    s = study(feedback="ranking")
    batch = s.ask(3)
    first = s.rank([0, 1, 2], rater="ada")
    second = s.rank([2, 1, 0], rater="bob")
    assert (first, second) == (0, 1)
    assert [r.rater for r in s.rankings.values()] == ["ada", "bob"]
    assert s.evaluations == 3
    assert told(s)[1][1] == batch.encoded.tolist()


@pytest.mark.parametrize(
    ("order", "options", "error", "match"),
    [
        ([], {}, FeedbackError, "at least one trial"),
        ([[]], {}, FeedbackError, "at least one trial"),
        ([0, 1, 0], {}, FeedbackError, "each once"),
        ([0, [1, 0]], {}, FeedbackError, "each once"),
        ([0, 9], {}, UnknownId, "trial 9"),
        ([0, 1], {"rest": "better"}, FeedbackError, "rest must be 'worse' or 'unseen'"),
        ([0, 3], {}, FeedbackError, "trial 3 is failed and cannot be ranked"),
    ],
)
def test_orders_that_are_none_are_refused_whole(order: Any, options: Any, error: type[Exception], match: str) -> None:
    s = study(feedback="ranking")
    s.ask(3)
    s.fail(s.ask())
    before = len(told(s))
    with pytest.raises(error, match=match):
        s.rank(order, **options)
    assert len(told(s)) == before and s.rankings == {}
    assert len(s.pending) == 3


def test_a_strategy_that_needs_values_says_so() -> None:
    with pytest.raises(CapabilityError, match="strategies that can"):
        study("de", feedback="ranking")
    s = study("de")
    s.ask(3)
    with pytest.raises(FeedbackError, match="de learns from values only"):
        s.rank([0, 1, 2])


def test_a_ranked_trial_has_no_value_to_tell_or_amend() -> None:
    s = study()
    s.ask(3)
    s.rank([0, 1, 2])
    with pytest.raises(AlreadyTold, match=r"was ranked and has no value; record this result with study\.add"):
        s.tell(0, 1.0)
    with pytest.raises(FeedbackError, match="was ranked and has no value to correct"):
        s.amend(0, 1.0)


def test_best_of_rankings_is_what_the_strategy_recommends() -> None:
    s = study("cma-es", feedback="ranking")
    for _ in range(30):
        batch = s.ask(50)
        distance = ((batch.encoded - 0.3) ** 2).sum(-1)
        s.rank([int(batch.ids[k]) for k in distance.argsort()])
    best = s.best
    assert best is not None and best.id == -1 and best.value is None
    assert best.params["x"] == pytest.approx(0.3, abs=0.02)
    assert repr(best).startswith("Trial(params=")


def test_without_a_ranking_that_stands_nothing_is_best() -> None:
    s = study("cma-es", feedback="ranking")
    number = s.rank(s.ask(4))
    assert s.best is not None
    s.withdraw(number)
    assert s.best is None


def test_a_single_trial_is_better_than_the_rest() -> None:
    s = study(Log())
    batch = s.ask(3)
    s.rank(batch[1])
    s.rank(int(batch.ids[0]))
    assert s.rankings == {0: Ranking(((1,), (0, 2))), 1: Ranking(((0,),))}
    with pytest.raises(FeedbackError, match="expected a trial"):
        s.rank(None)  # type: ignore[arg-type]


def test_a_recommended_point_is_no_trial_to_tell() -> None:
    s = study("cma-es", feedback="ranking")
    s.rank(s.ask(4))
    point = s.recommended
    assert point is not None
    calls: list[Callable[[], Any]] = [
        lambda: s.tell(point, 1.0),
        lambda: s.tell([point], [1.0]),
        lambda: s.fail(point),
        lambda: s.rank([point]),
    ]
    for call in calls:
        with pytest.raises(UnknownId, match=r"a recommended point is no trial: study.add\(params, value\) records a result for it"):
            call()
    s = study(Log())
    s.tell(s.ask(), 1.0)
    assert s.recommended == s.best is not None  # where the method has none of its own it is the best trial
    with pytest.raises(AlreadyTold, match=r"trial 0 is complete .*study.add\(params, value\) to record another evaluation of its point"):
        s.tell(s.recommended, 2.0)


# ---------------------------------------------------------------------- withdrawing


@pytest.mark.parametrize("strategy", [Log(), "cma-es"], ids=["log", "cma-es"])
def test_a_ranking_taken_back_was_never_given(strategy: Any) -> None:
    s, never = study(strategy, feedback="ranking"), study(strategy, feedback="ranking")
    for t in (s, never):
        batch = t.ask(50)
        wrong = list(range(len(batch)))[::-1]
        if t is s:
            number = t.rank(wrong)
            t.withdraw(number)
            assert t.rankings == {}
            assert [trial.state for trial in batch] == [TrialState.PENDING] * len(batch)
            assert t.evaluations == 0
        else:
            t._engine.calls += 1  # a call was made and taken back; the keys after it stay
        t.rank(list(range(len(batch))))
    if isinstance(strategy, Log):
        assert_same(s, never)
    else:  # draws by generation
        assert s.ask(3).params == never.ask(3).params
    with pytest.raises(FeedbackError, match="no ranking 0 to withdraw"):
        s.withdraw(0)
    with pytest.raises(FeedbackError, match="no ranking 7 to withdraw"):
        s.withdraw(7)


def test_what_another_ranking_orders_stays_finished() -> None:
    s = study(feedback="ranking")
    s.ask(4)
    first = s.rank([0, 1, 2], rest="unseen")
    s.rank([1, 3], rest="unseen")
    s.withdraw(first)
    assert [t.id for t in s.pending] == [0, 2]
    assert s.evaluations == 2
    s.rank([2, 0, 1])
    assert s.pending == []
    assert s.evaluations == 4


def test_a_measured_trial_that_was_ranked_too_stays_finished() -> None:
    s = study()
    s.ask(2)
    s.tell(0, 1.0)
    number = s.rank([1, 0])
    s.withdraw(number)
    assert [t.id for t in s.pending] == [1]
    assert s.best is not None and s.best.id == 0


# ---------------------------------------------------------------------- amending

Step = Callable[[Study, bool], None]


def conversation(s: Study, right: bool) -> None:
    """Everything a study can be told; some of it wrong the first time."""
    a, b = s.ask(3), s.ask(2)
    s.tell(b[0], 5.0 if right else 50.0, constraints=[-1.0], noise=0.1, at={"x": 0.5})
    s.tell(a, [1.0, 2.0, 3.0] if right else [1.0, -20.0, 3.0], constraints=[[1.0], [0.0], [-1.0]], gradients=np.ones((3, 1, 2)))
    s.add({"x": 0.25, "y": 0.5}, 4.0 if right else 9.0, constraints=[0.0])
    s.fail(b[1], "crash")
    c = s.ask()
    if right:
        s.tell(c, 2.5, constraints=[-2.0])
    else:
        s.tell(c, float("nan"))
        s.amend([3, 5], [5.0, 4.0])
        s.amend(1, 2.0)
        s.amend(6, [2.5], constraints=[-2.0])


def test_amending_is_telling_it_right_at_once() -> None:
    wrong, right = study(constraints=["heat"]), study(constraints=["heat"])
    conversation(right, True)
    conversation(wrong, False)
    mine, theirs = told(wrong), told(right)
    assert mine[:4] == theirs[:4]
    # The last point was proposed after something else had been told, so it is another one; the rest of it is the same.
    assert [part for k, part in enumerate(mine[4]) if k != 1] == [part for k, part in enumerate(theirs[4]) if k != 1]
    assert wrong._engine.state.draws == right._engine.state.draws
    assert wrong.status == right.status
    assert wrong.best is not None and wrong.best.id == 1


def test_amending_before_the_next_ask_is_as_if_it_never_was_wrong() -> None:
    wrong, right = study(direction="maximize"), study(direction="maximize")
    for s in (wrong, right):
        batch = s.ask(4)
        s.tell(batch[:2], [1.0, 2.0])
        s.tell(batch[2], 3.0 if s is right else 99.0)
        s.tell(batch[3], 0.5)
        if s is wrong:
            assert s.best is not None and s.best.value == 99.0
            s.amend(batch[2], 3.0)
    assert_same(wrong, right)


@pytest.mark.parametrize("strategy", ["cma-es", "de", "random"])
def test_amending_a_real_strategy(strategy: str) -> None:
    wrong, right = study(strategy), study(strategy)
    for s in (wrong, right):
        for _ in range(2):
            batch = s.ask(4)
            s.tell(batch, batch.x.square().sum(-1))
        batch = s.ask(3)
        s.tell(batch, [1.0, 2.0, 3.0] if s is right else [1.0, -500.0, 3.0])
        if s is wrong:
            s.amend(batch[1], 2.0)
    assert wrong.best is not None and wrong.best.value is not None and wrong.best.value >= 0
    assert wrong.ask(2).params == right.ask(2).params


def test_a_failure_that_counts_after_all() -> None:
    wrong, right = study(), study()
    for s in (wrong, right):
        batch = s.ask(2)
        s.tell(batch[0], 4.0)
        if s is right:
            s.tell(batch[1], 1.0)
        else:
            s.fail(batch[1], "lost contact")
            s.amend(batch[1], 1.0)
            assert batch[1].error is None
    assert_same(wrong, right)


def test_one_of_several_failures_told_together() -> None:
    s = study()
    batch = s.ask(4)
    s.fail(batch, "power cut")
    s.amend([1, 2], [5.0, 6.0])
    assert [t.state.name for t in batch] == ["FAILED", "COMPLETE", "COMPLETE", "FAILED"]
    assert [entry[0] for entry in told(s)] == [[1, 2], [0, 3]]
    assert told(s)[0][2] == [[5.0], [6.0]]
    assert told(s)[1][3] == [False, False]
    assert s.best is not None and s.best.id == 1
    assert (s.evaluations, s.failures) == (4, 2)


EVERYTHING: dict[str, Any] = {"noise": 0.5, "gradients": [1.0, 2.0], "metrics": {"n": 2, "loss": float("nan")}, "at": {"x": 0.25}}


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("before", [{}, {"noise": 0.1, "gradients": [0.0, 0.0], "metrics": {"n": 1}, "at": {"x": 0.75}}])
def test_all_that_was_told_can_be_amended(before: dict[str, Any], journal: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"journal": str(tmp_path / "study.db"), "durability": "process"} if journal else {}
    right, wrong = study(), study(**options)
    for s in (right, wrong):
        batch = s.ask(2)
        if s is right:
            s.tell(batch[0], 3.0, **EVERYTHING)
        else:
            s.tell(batch[0], 1.0, **before)
        s.fail(batch[1])
    wrong.amend(0, 2.0, noise=9.0, metrics={"n": 9})
    wrong.amend(0, 3.0, gradients=[7.0, 7.0], at={"x": 0.75})  # the last correction counts, whatever the one before was of
    wrong.amend(0, 3.0, **EVERYTHING)
    wrong.amend(1, 4.0, metrics={"late": True})
    right.amend(1, 4.0, metrics={"late": True})
    if journal:
        wrong.close()
        wrong = study(**options)
    assert_same(wrong, right)
    assert wrong.trial(0).metrics["n"] == 2
    assert wrong.trial(0).reached["x"] == 0.25
    assert wrong.trial(1).metrics == {"late": True}
    assert wrong.history()["noise"][0] == 0.5


@pytest.mark.parametrize("journal", [False, True])
def test_what_is_told_again_must_be_what_is_kept_in_all_of_it(journal: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"journal": str(tmp_path / "study.db"), "durability": "process"} if journal else {}
    s = study(**options)
    plain, full = s.ask(2)
    s.tell(plain, 1.0)
    s.tell(full, 1.0, **EVERYTHING)
    if journal:
        s.close()
        s = study(**options)
    before = len(told(s))
    s.tell(0, 1.0, metrics={}, at=s.trial(0).params)  # the setting that was asked, and nothing else
    s.tell(1, 1.0)
    s.tell(1, 1.0, **EVERYTHING)
    for name, value in EVERYTHING.items():
        s.tell(1, 1.0, **{name: value})
        with pytest.raises(AlreadyTold, match=rf"trial 0 is complete .* the {name} told now differ from what is kept; use study.amend\(0"):
            s.tell(0, 1.0, **{name: value})
    with pytest.raises(TellErrors, match=r"1 row\(s\) were refused, .* trial 0: .* the noise and metrics told now differ"):
        s.tell([1, 0], [1.0, 1.0], noise=0.5, metrics={"n": 2})
    changed: dict[str, Any] = {"noise": 0.25, "gradients": [1.0, 3.0], "metrics": {"loss": 2.0}, "at": {"x": 0.5}}
    for name, value in changed.items():
        with pytest.raises(AlreadyTold, match=f"the {name} told now differ from"):
            s.tell(1, 1.0, **{name: value})
    assert len(told(s)) == before
    assert s.trial(0).metrics == {} and s.trial(1).metrics["n"] == 2


def test_one_objective_of_several_is_amended_alone() -> None:
    s = study(objectives={"loss": "minimize", "speed": "maximize"})
    s.tell(s.ask(2), [[1.0, 2.0], [3.0, 4.0]])
    s.amend(1, {"speed": 1.0})
    assert s.trial(1).values == {"loss": 3.0, "speed": 1.0}
    assert told(s)[0][2] == [[1.0, -2.0], [3.0, -1.0]]
    assert [t.id for t in s.front] == [0]


@pytest.mark.parametrize(
    ("ids", "values", "match"),
    [
        (0, float("nan"), "finite"),
        (0, [1.0, 2.0], "shape"),
        (1, 1.0, "trial 1 is pending; only a complete or failed"),
        (2, 1.0, "trial 2 is dropped; only"),
        (9, 1.0, "never gave out trial 9"),
        ([0, 0], [1.0, 2.0], "twice"),
    ],
)
def test_what_cannot_be_amended(ids: Any, values: Any, match: str) -> None:
    s = study()
    batch = s.ask(3)
    s.tell(batch[0], 1.0)
    s.drop(batch[2])
    before = len(told(s))
    with pytest.raises(FeedbackError, match=match):
        s.amend(ids, values)
    assert s.trial(0).value == 1.0 and len(told(s)) == before


def test_a_failure_needs_all_of_a_result() -> None:
    s = study(objectives={"a": "minimize", "b": "minimize"}, constraints=["c"])
    s.fail(s.ask())
    for values, constraints in [({"a": 1.0}, [0.0]), ([1.0, 2.0], None)]:
        with pytest.raises(FeedbackError, match="needs all objectives and constraints"):
            s.amend(0, values, constraints=constraints)
    s.amend(0, [1.0, 2.0], constraints=[0.0])
    assert [t.id for t in s.front] == [0]


# ---------------------------------------------------------------------- the same with a journal, and opened again


def corrections(s: Study) -> None:
    a, b = s.ask(4), s.ask(2)
    s.tell(a[0], 5.0, noise=0.2, metrics={"n": 1})
    s.fail(b, "power cut")
    first = s.rank([a[3], a[1]], rest="unseen", rater="ada")
    s.rank([a[3], a[0]], rest="unseen")
    s.amend(a[0], 4.0)
    s.withdraw(first)
    s.amend(b[1], 2.5)
    s.tell(a[1], 3.0, at={"x": 0.5})
    s.report(a[2], 1, 0.5)
    s.ask()


def test_corrections_in_a_journal_are_those_in_memory(tmp_path: Path) -> None:
    memory = study()
    corrections(memory)
    for times in (1, 2):
        with study(journal=str(tmp_path / f"{times}.db"), durability="process") as written:
            corrections(written)
            assert [t.id for t in written.pending] == [t.id for t in memory.pending] == [2, 6]
            if times == 1:
                expected = study()
                corrections(expected)
                assert_same(written, expected)
        if times == 2:
            with study(journal=str(tmp_path / "2.db"), durability="process") as opened:
                assert opened.trial(0).metrics == {"n": 1}
                assert opened.trial(5).error is None and opened.trial(4).error == "power cut"
                assert opened.rankings == memory.rankings
                assert opened.reports(2) == [(1.0, 0.5)]
                assert_same(opened, memory)


@pytest.mark.parametrize("journal", [False, True])
def test_amended_constraints_decide_what_is_best(journal: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"constraints": ["heat"]}
    if journal:
        options |= {"journal": str(tmp_path / "study.db"), "durability": "process"}
    s = study(**options)
    s.tell(s.ask(2), [1.0, 2.0], constraints=[-1.0, -1.0])
    s.amend(0, 1.0, constraints=[3.0])
    assert s.best is not None and s.best.id == 1
    s.close()
    if journal:
        with study(**options) as opened:
            assert opened.best is not None and opened.best.id == 1
            assert opened.trial(0).constraints == {"heat": 3.0}


def test_withdrawn_rankings_are_pending_again_in_a_reopened_study(tmp_path: Path) -> None:
    options: dict[str, Any] = {"journal": str(tmp_path / "study.db"), "durability": "process", "feedback": "ranking"}
    with study("cma-es", **options) as s:
        n = len(s.ask(50))
        s.withdraw(s.rank(list(range(n))))
    with study("cma-es", **options) as s:
        assert [t.id for t in s.pending] == list(range(n))
        s.rank(list(range(n))[::-1])
        after = s.ask(2).params
    memory = study("cma-es", feedback="ranking")
    memory.ask(50)
    memory.rank(list(range(n))[::-1])
    assert memory.ask(2).params == after


# ---------------------------------------------------------------------- a record that comes out differently


def bowl(trial: Any) -> float:
    return float((trial.params["x"] - 0.3) ** 2 + (trial.params["y"] - 0.6) ** 2)


@pytest.mark.parametrize("journal", [False, True], ids=["memory", "journal"])
@pytest.mark.parametrize("batch", [1, 50])
@pytest.mark.parametrize("seed", [1, 2])
def test_amending_before_restarts_leaves_a_study_that_goes_on(tmp_path: Path, seed: int, batch: int, journal: bool) -> None:
    """With the corrected value the strategy restarts elsewhere, with generations of another size than recorded."""
    options: dict[str, Any] = {"journal": str(tmp_path / "s.db"), "durability": "process"} if journal else {}
    s = study("cma-es", **{**options, "seed": seed})
    while s.evaluations < 1200:
        asked = s.ask(batch)
        s.tell(asked, [bowl(t) for t in asked])
    s.amend(450, 5.0)
    total = s.evaluations
    for _ in range(40):
        asked = s.ask(batch)
        s.tell(asked, [bowl(t) for t in asked])
    assert s.evaluations > total and s.pending == []
    s.amend(450, bowl(s.trial(450)))
    assert s.best is not None and s.best.value is not None and s.best.value < 1e-6
    asked = s.ask(batch)
    s.close()
    if journal:
        again = study("cma-es", **{**options, "seed": seed})
        assert [t.id for t in again.pending] == asked.ids.tolist()
        again.tell(again.pending, [bowl(t) for t in again.pending])
        again.ask(batch)
        again.close()


@dataclass(frozen=True)
class Fragile(Log):
    """Raises at values above 100."""

    def tell(self, task: Task, state: LogState, observations: Observations, random: Random) -> LogState:
        if float(observations.values.max()) > 100:
            raise ArithmeticError("too large for me")
        return super().tell(task, state, observations, random)


@pytest.mark.parametrize("journal", [False, True], ids=["memory", "journal"])
def test_an_amendment_that_the_strategy_cannot_bear_can_be_amended(tmp_path: Path, journal: bool) -> None:
    s = study(Fragile(), **({"journal": str(tmp_path / "s.db")} if journal else {}))
    batch = s.ask(3)
    s.tell(batch, [1.0, 2.0, 3.0])
    with pytest.raises(StrategyError, match="too large for me"):
        s.amend(1, 1000.0)
    with pytest.raises(StrategyError, match="too large for me"):
        s.ask()
    with pytest.raises(FeedbackError, match="finite"):
        s.amend(1, float("nan"))
    s.amend(1, 0.5)
    assert s.ask().id == 3
    assert s.best is not None and s.best.id == 1
    s.close()
