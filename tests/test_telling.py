"""What a study takes as a result, and what becomes of it: pieces, garbage, repetition, constraints, noise, gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from zoopt import Bool, Choice, Integer, Real, Space, Study
from zoopt.errors import AlreadyTold, FeedbackError, SpaceError, TellErrors, UnknownId
from zoopt.feedback import Candidates, Observations
from zoopt.random import Random
from zoopt.strategy import Capabilities, Request, State, Strategy, Task
from zoopt.trials import TrialState


@dataclass
class LogState(State):
    """Everything that was told."""

    told: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Log(Strategy[LogState]):
    """Asks random points and writes down what it is told."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="none", objectives=None)

    def begin(self, task: Task, random: Random) -> LogState:
        return LogState()

    def ask(self, task: Task, state: LogState, request: Request, random: Random) -> tuple[LogState, Candidates]:
        n = request.n or 1
        return state, Candidates(task.space.sample(n, random), {"number": np.arange(n)})

    def tell(self, task: Task, state: LogState, observations: Observations, random: Random) -> LogState:
        o = observations
        state.told.append(
            {
                "ids": o.ids.tolist(),
                "x": o.x.clone(),
                "values": o.values.tolist() if o.has_values else None,
                "ok": o.ok.tolist(),
                "dropped": list(o.dropped),
                "as_asked": o.as_asked,
                **{name: getattr(o, name) for name in ("constraints", "noise", "gradients")},
            }
        )
        return state


def study(**options: Any) -> Study:
    return Study(options.pop("space", {"x": Real(-1, 3), "y": Real(0, 2)}), Log(), seed=0, **options)


def log(s: Study) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = s._engine.state.told
    return told


TWO = {"loss": "minimize", "speed": "maximize"}


# ---------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    "value",
    [
        2.0,
        2,
        np.float32(2),
        np.int64(2),
        np.array(2.0),
        np.array([2.0]),
        np.array([[2.0]]),
        torch.tensor(2.0),
        torch.tensor([2.0]),
        [2.0],
        {"value": 2},
        torch.tensor(2.0, requires_grad=True),
        [torch.tensor(2.0, requires_grad=True)],
    ],
    ids=repr,
)
def test_a_number_in_any_form(value: Any) -> None:
    s = study()
    s.tell(s.ask(), value)
    assert s.trial(0).value == 2.0
    assert type(s.trial(0).value) is float


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, lambda v: np.array(v)[:, None], lambda v: {"value": v}, tuple])
@pytest.mark.parametrize("by", ["batch", "ids", "list", "trials"])
def test_values_of_a_batch_in_any_form(form: Any, by: str) -> None:
    s = study()
    batch = s.ask(3)
    names = {"batch": batch, "ids": batch.ids, "list": batch.ids.tolist(), "trials": list(batch)}
    s.tell(names[by], form([3.0, 1.0, 2.0]))
    assert s.history()["value"].tolist() == [3.0, 1.0, 2.0]


def test_values_of_several_objectives() -> None:
    s = study(objectives=TWO)
    s.tell(s.ask(2), [[1.0, 2.0], [3.0, 4.0]])
    s.tell(s.ask(), [5.0, 6.0])
    s.tell(s.ask(2), {"speed": [7.0, 8.0], "loss": torch.tensor([9.0, 10.0])})
    assert s.history()["loss"].tolist() == [1.0, 3.0, 5.0, 9.0, 10.0]
    assert s.history()["speed"].tolist() == [2.0, 4.0, 6.0, 7.0, 8.0]
    assert log(s)[0]["values"] == [[1.0, -2.0], [3.0, -4.0]]  # minimised inside


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1.0, 2.0], r"shape \(3,\)"),
        (1.0, r"shape \(3,\)"),
        ([[1.0, 2.0, 3.0]], r"shape \(3,\)"),
        ({"value": 1.0}, r"'value' must have shape \(3,\)"),
        ({"valu": [1.0, 2.0, 3.0]}, "no objective 'valu'; this study has value"),
        ({}, "names no objective"),
        ("abc", r"shape \(3,\)"),
        (None, r"shape \(3,\)"),
    ],
)
def test_values_of_another_shape_are_refused_whole(values: Any, match: str) -> None:
    s = study()
    batch = s.ask(3)
    with pytest.raises(FeedbackError, match=match):
        s.tell(batch, values)
    assert s.evaluations == 0 and not log(s)
    s.tell(batch, [1.0, 2.0, 3.0])


def test_nobody_forgets_the_values() -> None:
    s = study()
    with pytest.raises(TypeError, match="values"):
        s.tell(s.ask())  # type: ignore[call-arg]


# ---------------------------------------------------------------------- order, pieces, lateness


def test_order_within_a_call_does_not_matter() -> None:
    a, b = study(), study()
    x = a.ask(6), b.ask(6)
    values = np.arange(6.0)
    order = np.array([3, 0, 5, 1, 4, 2])
    a.tell(x[0], values, noise=values / 10, metrics={"m": values.tolist()})
    b.tell(x[1].ids[order], values[order], noise=values[order] / 10, metrics={"m": values[order].tolist()})
    assert log(a)[0]["ids"] == log(b)[0]["ids"] == [0, 1, 2, 3, 4, 5]
    assert log(a)[0]["values"] == log(b)[0]["values"]
    assert torch.equal(log(a)[0]["noise"], log(b)[0]["noise"])
    assert a.history()["m"].tolist() == b.history()["m"].tolist()


def test_pieces_of_several_batches_late_and_mixed() -> None:
    s = study()
    a, b, c = s.ask(3), s.ask(2), s.ask()
    s.tell([c.id, int(a.ids[1]), int(b.ids[0])], [5.0, 1.0, 3.0])
    assert log(s)[0]["ids"] == [1, 3, 5]
    assert torch.equal(log(s)[0]["x"], torch.stack([a.encoded[1], b.encoded[0], c.encoded]))
    s.tell([0, 2, 4], [0.0, 2.0, 4.0])
    assert s.history()["value"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert s.pending == []


def test_a_strategy_is_told_where_the_points_are_all_that_one_ask_gave() -> None:
    s = study()
    s.tell(s.ask(3)[[2, 0, 1]], [1.0, 2.0, 3.0])
    batch = s.ask(3)
    s.tell(batch[:2], [1.0, 2.0])
    s.tell(batch[2:], [3.0])
    s.tell(s.ask(2), [1.0, 2.0], at=[{"x": 0.5}, {}])
    s.tell(s.ask(2), [1.0, math.nan])
    s.fail(s.ask(2), "broken")
    s.enqueue({"x": 0.0, "y": 1.0})
    s.tell(s.ask(1), [1.0])
    s.add({"x": 0.0, "y": 1.0}, 1.0)
    assert [told["as_asked"] for told in log(s)] == [True, False, False, False, False, False, True, False, False]
    outside = Study({"x": Real(-1, 3)}, Outside(), seed=0)
    outside.tell(outside.ask(2), [1.0, 2.0])
    assert [told["as_asked"] for told in log(outside)] == [False]


@dataclass(frozen=True)
class Outside(Log):
    """Asks points that are not in the space."""

    def ask(self, task: Task, state: LogState, request: Request, random: Random) -> tuple[LogState, Candidates]:
        return state, Candidates(torch.full((request.n or 1, task.dim), 1.5, dtype=torch.float64))


def test_the_same_again_is_nothing_new() -> None:
    s = study()
    batch = s.ask(3)
    s.tell(batch, [1.0, 2.0, float("nan")])
    s.tell(batch, [1.0, 2.0, float("nan")])
    s.tell(batch[0], 1.0)
    s.tell([1, 0], [2.0, 1.0])
    s.fail(2)
    assert len(log(s)) == 2  # one of values, one of failures
    assert s.evaluations == 3


def test_another_value_is_refused_and_says_how_to_amend() -> None:
    s = study()
    trial = s.ask()
    s.tell(trial, 1.0)
    with pytest.raises(AlreadyTold, match=r"trial 0 is complete with \{'value': 1.0\}; use study.amend\(0, ...\)"):
        s.tell(trial, 2.0)
    with pytest.raises(AlreadyTold, match="complete"):
        s.tell(trial, float("nan"))
    with pytest.raises(AlreadyTold, match="already complete and cannot be failed"):
        s.fail(trial)
    failed, dropped = s.ask(2)
    s.fail(failed)
    s.drop(dropped)
    with pytest.raises(AlreadyTold, match=r"trial 1 is failed; use study\.amend"):
        s.tell(failed, 1.0)
    with pytest.raises(AlreadyTold, match=r"trial 2 is dropped; record this result with study\.add"):
        s.tell(dropped, 1.0)
    with pytest.raises(AlreadyTold, match="already failed and cannot be dropped"):
        s.drop(failed)
    s.drop(dropped)
    assert trial.value == 1.0


def test_other_constraints_are_another_result() -> None:
    s = study(constraints=["heat"])
    trial = s.ask()
    s.tell(trial, 1.0, constraints=-1.0)
    s.tell(trial, 1.0, constraints=-1.0)
    with pytest.raises(AlreadyTold, match=r"and constraints \{'heat': -1.0\}"):
        s.tell(trial, 1.0, constraints=2.0)


def test_good_rows_of_a_call_are_recorded_and_the_others_named() -> None:
    s = study()
    batch = s.ask(4)
    s.tell(batch[1], 9.0)
    s.drop(batch[2])
    with pytest.raises(TellErrors, match="2 row") as caught:
        s.tell(batch, [0.0, 1.0, 2.0, 3.0])
    assert [(i, type(e)) for i, e in caught.value.errors] == [(1, AlreadyTold), (2, AlreadyTold)]
    assert "study.amend(1" in str(caught.value)
    assert s.history()["value"].tolist()[:2] + s.history()["value"].tolist()[3:] == [0.0, 9.0, 3.0]


def test_unknown_ids_among_good_ones() -> None:
    s = study()
    s.ask(3)
    with pytest.raises(TellErrors) as caught:
        s.tell([0, 99, 2, -1], [1.0, 2.0, 3.0, 4.0])
    assert [(i, type(e)) for i, e in caught.value.errors] == [(-1, UnknownId), (99, UnknownId)]
    assert s.trial(0).value == 1.0 and s.trial(2).value == 3.0
    for wrong in (3, -1, [5], np.array([7])):
        with pytest.raises(UnknownId, match="never gave out trial"):
            s.tell(wrong, 1.0)
    with pytest.raises(UnknownId):
        s.fail([1, 17])
    assert s.trial(1).state is TrialState.PENDING


def test_trials_of_another_study_are_refused() -> None:
    s, other = study(), study()
    mine, theirs = s.ask(), other.ask()
    for wrong in (theirs, [theirs], other.ask(2), [mine, theirs]):
        with pytest.raises(UnknownId, match="another study"):
            s.tell(wrong, [1.0] * (1 if not hasattr(wrong, "__len__") else len(wrong)))
    assert mine.state is TrialState.PENDING


@pytest.mark.parametrize("wrong", ["abc", 1.5, None, [1.5], ["a"], object()])
def test_what_names_no_trial_is_refused(wrong: Any) -> None:
    s = study()
    s.ask(3)
    with pytest.raises(FeedbackError, match="expected a trial, a batch, an id"):
        s.tell(wrong, 1.0)


def test_a_trial_twice_in_one_call_is_refused() -> None:
    s = study()
    s.ask(3)
    with pytest.raises(FeedbackError, match="trial 1 stands twice"):
        s.tell([0, 1, 1], [1.0, 2.0, 3.0])
    assert s.evaluations == 0


def test_nothing_told_is_nothing_done() -> None:
    s = study()
    s.ask()
    s.tell([], [])
    s.fail([])
    s.drop([])
    assert len(s.retry([])) == 0
    assert s.evaluations == 0 and not log(s)


# ---------------------------------------------------------------------- what is no number


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "the objective gave nan, which is not finite"),
        (math.inf, "the objective gave inf, which is not finite"),
        (-math.inf, "the objective gave -inf, which is not finite"),
        (np.float32("nan"), "the objective gave nan, which is not finite"),
        (torch.tensor(math.nan), "the objective gave nan, which is not finite"),
        (None, "the objective gave None, which is not a number"),
        ("oops", "the objective gave 'oops', which is not a number"),
        (1j, "the objective gave 1j, which is not a number"),
        (object, "the objective gave <class 'object'>, which is not a number"),
        (10**400, "which is not finite"),
    ],
    ids=repr,
)
def test_what_is_no_finite_number_is_a_failure_with_its_reason(value: Any, reason: str) -> None:
    s = study()
    trial = s.ask()
    s.tell(trial, value)
    assert trial.state is TrialState.FAILED
    assert trial.error is not None and reason in trial.error
    assert trial.value is None
    assert s.best is None
    told = log(s)[0]
    assert told["ok"] == [False]
    assert told["values"] == [[math.inf]]


def test_bad_rows_of_a_batch_fail_and_good_ones_count() -> None:
    s = study(direction="maximize")
    batch = s.ask(5)
    s.tell(batch, [1.0, None, math.nan, "bad", 5.0])
    assert [t.state.name for t in batch] == ["COMPLETE", "FAILED", "FAILED", "FAILED", "COMPLETE"]
    assert [t.error for t in batch][1:4] == [
        "the objective gave None, which is not a number",
        "the objective gave nan, which is not finite",
        "the objective gave 'bad', which is not a number",
    ]
    assert s.best is not None and s.best.id == 4
    assert (s.failures, s.evaluations) == (3, 5)


def test_reasons_name_the_objective_of_several() -> None:
    s = study(objectives=TWO)
    s.tell(s.ask(2), [[1.0, "slow"], [2.0, 3.0]])
    assert s.trial(0).error == "the objective gave 'slow' for speed, which is not a number"
    assert s.trial(1).values == {"loss": 2.0, "speed": 3.0}
    s.tell(s.ask(), {"loss": None})
    assert s.trial(2).error == "the objective gave None for loss, which is not a number"
    s.tell(s.ask(), [1.0, math.nan])
    assert s.trial(3).error == "the objective gave nan for speed, which is not finite"


def test_failures_keep_what_people_say() -> None:
    s = study()
    s.fail(s.ask(2), "diverged")
    s.fail(s.ask(), ZeroDivisionError("by zero"))
    assert [t.error for t in s.trials([0, 1, 2])] == ["diverged", "diverged", "ZeroDivisionError: by zero"]
    assert log(s)[0]["ok"] == [False, False]
    assert log(s)[0]["dropped"] == []
    s.drop(s.ask(2)[1])
    assert log(s)[-1]["dropped"] == [4]
    assert s.status.dropped == 1


# ---------------------------------------------------------------------- one objective now, another later


def test_objectives_in_pieces() -> None:
    s = study(objectives=TWO)
    batch = s.ask(3)
    s.tell(batch, {"loss": [1.0, 2.0, 3.0]})
    assert not log(s)
    assert batch[0].values == {"loss": 1.0}
    assert [t.state for t in batch] == [TrialState.PENDING] * 3
    s.tell(batch[[2, 1]], {"speed": [6.0, 5.0]})
    assert log(s)[0]["ids"] == [1, 2]
    assert log(s)[0]["values"] == [[2.0, -5.0], [3.0, -6.0]]
    s.tell(batch[0], {"loss": 7.0})  # until it is finished it may be told anew
    s.tell(batch[0], {"speed": 4.0})
    assert batch[0].values == {"loss": 7.0, "speed": 4.0}
    s.tell(batch, {"speed": [4.0, 5.0, 6.0]})  # the same again
    with pytest.raises(AlreadyTold):
        s.tell(batch[0], {"loss": 1.0})
    assert len(log(s)) == 2


def test_a_piece_that_is_no_number_fails_the_trial() -> None:
    s = study(objectives=TWO)
    trial = s.ask()
    s.tell(trial, {"loss": 1.0})
    s.tell(trial, {"speed": math.nan})
    assert trial.state is TrialState.FAILED
    assert s.evaluations == 1 and s.pending == []


def test_what_was_told_with_the_first_piece_counts_with_the_last() -> None:
    s = study(objectives=TWO, constraints=["heat"])
    a, b = s.ask(2)
    s.tell(a, {"loss": 1.0}, constraints=[2.5], noise={"loss": 0.1}, metrics={"epochs": 3}, at={"x": 0.0})
    s.tell([a, b], {"speed": [2.0, 3.0]}, noise={"speed": 0.2}, metrics={"cost": 4})
    assert a.state is TrialState.COMPLETE and b.state is TrialState.PENDING
    told = log(s)[0]
    assert told["values"] == [[1.0, -2.0]]
    assert told["constraints"].tolist() == [[2.5]]
    assert told["noise"].tolist() == [[0.1, 0.2]]
    assert told["x"][0, 0].item() == 0.25  # x = 0.0 was reached
    assert a.metrics == {"epochs": 3, "cost": 4}
    assert a.reached["x"] == 0.0
    with pytest.raises(FeedbackError, match="tell the constraints too"):
        s.tell(b, {"loss": 1.0})
    s.tell(b, {"loss": 1.0}, constraints={"heat": -1.0})
    assert [t.id for t in s.front] == [1]


# ---------------------------------------------------------------------- constraints


@pytest.mark.parametrize("form", [lambda c: c, lambda c: c.tolist(), torch.tensor, lambda c: {"load": c[:, 1], "heat": c[:, 0].tolist()}])
def test_constraints_in_any_form_and_feasibility_first(form: Any) -> None:
    s = study(constraints=["heat", "load"])
    c = np.array([[1.0, -1.0], [0.5, 0.25], [-1.0, 0.0], [-2.0, -2.0], [0.1, 0.1]])
    batch = s.ask(5)
    s.tell(batch[[0, 1, 4]], [0.0, 0.0, 0.0], constraints=form(c[[0, 1, 4]]))
    assert s.best is not None and s.best.id == 4  # the smallest total violation
    s.tell(batch[[2, 3]], [7.0, 8.0], constraints=form(c[[2, 3]]))
    assert s.best.id == 2  # feasible, whatever its value
    assert s.best.constraints == {"heat": -1.0, "load": 0.0}
    assert log(s)[0]["constraints"].tolist() == c[[0, 1, 4]].tolist()


def test_constraints_that_do_not_fit_are_refused() -> None:
    s = study(constraints=["heat", "load"])
    batch = s.ask(2)
    for wrong, match in [
        (None, "tell the constraints too: this study names heat, load"),
        ([1.0, 2.0], r"shape \(2, 2\)"),
        ({"heat": [1.0, 2.0]}, "must name heat, load; got heat"),
        ({"heat": [1.0], "load": [1.0, 2.0]}, r"constraints\['heat'\] must have shape \(2,\)"),
        ([["a", 1.0], [1.0, 1.0]], "must be numbers"),
    ]:
        with pytest.raises(FeedbackError, match=match):
            s.tell(batch, [1.0, 2.0], constraints=wrong)
    assert s.evaluations == 0
    plain = study()
    with pytest.raises(FeedbackError, match="names no outcome constraints"):
        plain.tell(plain.ask(), 1.0, constraints=1.0)


def test_a_constraint_that_is_not_finite_is_a_failure() -> None:
    s = study(constraints=["heat"])
    batch = s.ask(2)
    s.tell(batch, [1.0, 2.0], constraints=[math.nan, -1.0])
    assert batch[0].error == "a constraint is not finite"
    assert s.best is not None and s.best.id == 1
    trial = s.ask()
    s.tell(trial, None, constraints=[-1.0])
    s.tell(s.ask(), math.nan)  # a failure needs no constraints
    assert s.failures == 3


# ---------------------------------------------------------------------- noise, metrics, settings, gradients


def test_noise_in_any_form() -> None:
    s = study(objectives=TWO)
    s.tell(s.ask(2), [[1.0, 2.0], [3.0, 4.0]], noise=0.5)
    s.tell(s.ask(2), [[1.0, 2.0], [3.0, 4.0]], noise=[[0.1, 0.2], [0.3, 0.4]])
    s.tell(s.ask(), [1.0, 2.0], noise={"speed": 0.3})
    assert log(s)[0]["noise"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert log(s)[1]["noise"].tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert math.isnan(log(s)[2]["noise"][0, 0]) and log(s)[2]["noise"][0, 1] == 0.3
    trial = s.ask()
    for wrong in (-1.0, math.inf, [1.0, 2.0, 3.0], {"size": 1.0}, "much"):
        with pytest.raises(FeedbackError, match="noise"):
            s.tell(trial, [1.0, 2.0], noise=wrong)
    s.tell(trial, [1.0, 2.0], noise=math.nan)  # not known
    assert log(s)[-1]["noise"] is None


def test_metrics_of_one_and_of_many() -> None:
    s = study()
    s.tell(
        s.ask(3), [1.0, 2.0, 3.0], metrics={"epochs": [5, 6, 7], "host": "a", "curve": np.arange(6).reshape(3, 2), "loss": torch.ones(3)}
    )
    assert s.trial(1).metrics == {"epochs": 6, "host": "a", "curve": [2, 3], "loss": 1.0}
    s.tell(s.ask(), 1.0, metrics={"n": np.int64(4), "scalar": np.array(2.5), "curve": [1, 2]})
    assert s.trial(3).metrics == {"n": 4, "scalar": 2.5, "curve": [1, 2]}
    trial = s.ask()
    with pytest.raises(FeedbackError, match=r"metrics\['model'\] must be a number"):
        s.tell(trial, 1.0, metrics={"epochs": 1, "model": object()})
    with pytest.raises(FeedbackError, match="metrics must be a dict"):
        s.tell(trial, 1.0, metrics=[1.0])  # type: ignore[arg-type]
    assert trial.state is TrialState.PENDING


def test_a_setting_that_was_reached_is_learned_from_and_both_are_kept() -> None:
    s = study()
    a, b, c = s.ask(3)
    asked = c.params
    s.tell(a, 1.0, at={"x": 1.0, "y": 0.5})
    s.tell([b, c], [2.0, 3.0], at=[{"x": -1.0, "y": 2.0}, {"y": 1.0}])
    assert log(s)[0]["x"].tolist() == [[0.5, 0.25]]
    assert log(s)[1]["x"][0].tolist() == [0.0, 1.0]
    assert log(s)[1]["x"][1].tolist() == [c.encoded[0].item(), 0.5]
    assert c.params == asked
    assert c.reached == {"x": asked["x"], "y": 1.0}
    assert "reached={'x':" in repr(c)
    plain = s.ask()
    assert plain.reached == plain.params
    for wrong, error in [({"x": 99.0}, SpaceError), ({"z": 1.0}, SpaceError), ([{"x": 1.0}] * 2, FeedbackError), ([1.0], FeedbackError)]:
        with pytest.raises(error):
            s.tell(plain, 1.0, at=wrong)
    assert plain.state is TrialState.PENDING


def test_gradients_follow_the_chain_rule_and_the_direction() -> None:
    space = Space({"x": Real(-1, 3), "lr": Real(1e-4, 1.0, log=True), "free": Real(start=2.0, scale=5.0)})

    def objectives(z: torch.Tensor) -> torch.Tensor:
        a, b = (z**2).sum(-1) + z[..., 0] * z[..., 1], torch.sin(z).sum(-1)
        return torch.stack([a, b], -1)

    s = study(space=space, objectives=TWO)
    batch = s.ask(4)
    leaf = batch.encoded.clone().requires_grad_(True)
    through = objectives(space.decode(leaf)) * torch.tensor([1.0, -1.0])  # speed is maximised
    expected = torch.stack([torch.autograd.grad(through[:, k].sum(), leaf, retain_graph=True)[0] for k in range(2)], 1)
    z = batch.x.clone().requires_grad_(True)
    values = objectives(z)
    told = torch.stack([torch.autograd.grad(values[:, k].sum(), z, retain_graph=True)[0] for k in range(2)], 1)
    s.tell(batch, values, gradients=told)
    assert torch.allclose(log(s)[0]["gradients"], expected, rtol=1e-10)


def test_gradients_told_with_the_first_piece_count_with_the_last() -> None:
    s = study(space={"x": Real(0, 2)}, objectives=TWO)
    a, b = s.ask(2)
    nan = math.nan
    s.tell([a, b], {"loss": [1.0, 2.0]}, gradients=[[[3.0], [nan]], [[4.0], [nan]]])
    s.tell(b, {"speed": 5.0})
    s.tell(a, {"speed": 6.0}, gradients=[[[nan], [7.0]]])
    assert log(s)[0]["gradients"][0, 0].tolist() == [8.0]  # problem units have twice the slope of encoded ones
    assert log(s)[0]["gradients"][0, 1].isnan().all()
    assert log(s)[1]["gradients"].tolist() == [[[6.0], [-14.0]]]  # speed is maximised


def test_gradients_of_one_objective_at_a_reached_setting_and_where_there_are_none() -> None:
    space = Space({"lr": Real(1e-4, 1.0, log=True)})
    s = study(space=space, direction="maximize")
    s.tell(s.ask(), 1.0, gradients=[2.0], at={"lr": 0.01})
    slope = 0.01 * math.log(1e4)  # d lr / d encoded at 0.01
    assert log(s)[0]["gradients"].tolist() == [[[pytest.approx(-2.0 * slope)]]]
    s.tell(s.ask(), 1.0)
    assert log(s)[1]["gradients"] is None
    with pytest.raises(FeedbackError, match=r"gradients must have shape \(1, 1, 1\)"):
        s.tell(s.ask(), 1.0, gradients=[1.0, 2.0])
    s = study(space=Space({"k": Integer(1, 4), "c": Choice("a", "b"), "f": Bool()}))
    s.tell(s.ask(), 1.0, gradients=[1.0, 0.0, 0.0])  # what has no slope in its columns is no error
    assert log(s)[0]["gradients"].shape == (1, 1, 3)


def test_gradients_that_are_not_finite_are_refused_but_for_failures_and_objectives_told_later() -> None:
    s = study(space={"x": Real(0, 1)})
    trial = s.ask()
    for wrong in ([math.nan], [math.inf], torch.tensor([1 + 2j])):
        with pytest.raises(FeedbackError, match="gradients must be"):
            s.tell(trial, 1.0, gradients=wrong)
        assert trial.state is TrialState.PENDING
    s.tell(trial, math.nan, gradients=[math.nan])  # the numbers of a failure are not read
    assert trial.state is TrialState.FAILED
    with pytest.raises(FeedbackError, match="gradients must be finite"):
        s.add({"x": 0.5}, 1.0, gradients=[math.nan])
    s = study(space={"x": Real(0, 1)}, objectives={"a": "minimize", "b": "minimize"})
    trial = s.ask()
    s.tell(trial, {"a": 1.0}, gradients=[[2.0], [math.nan]])
    s.tell(trial, {"b": 1.0}, gradients=[[math.nan], [3.0]])
    assert log(s)[0]["gradients"].tolist() == [[[2.0], [3.0]]]


def test_complex_numbers_are_no_results() -> None:
    s = study()
    for value in (torch.tensor(1 + 2j), np.array(1 + 2j), 1 + 2j, np.array(["high"])):
        s.tell(trial := s.ask(), value)
        assert trial.state is TrialState.FAILED
    with pytest.raises(FeedbackError, match="noise must be numbers"):
        s.tell(s.ask(), 1.0, noise=torch.tensor([1 + 2j]))
