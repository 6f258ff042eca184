"""Study in memory: asking, reading back, enqueuing, leases, running trials, callbacks, threads, what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from zoopt import Batch, Choice, Context, Fixed, Integer, Real, Space, Study, Trial
from zoopt.errors import CapabilityError, ConfigError, FeedbackError, SpaceError, UnknownId, UnknownName
from zoopt.study import StudyEvent
from zoopt.trials import TrialState

SPACE = Space({"C": Real(1e-3, 1e3, log=True), "gamma": Real(1e-6, 1e1, log=True), "kernel": Choice("rbf", "poly")})


def study(**options: Any) -> Study:
    return Study(options.pop("space", SPACE), options.pop("strategy", "random"), **{"seed": 0, **options})


# ---------------------------------------------------------------------- asking


def test_a_trial_has_an_id_a_point_and_parameters() -> None:
    s = study()
    trial = s.ask()
    assert isinstance(trial, Trial)
    assert (trial.id, trial.state, trial.value, trial.values, trial.error, trial.metrics) == (0, TrialState.PENDING, None, {}, None, {})
    assert set(trial.params) == {"C", "gamma", "kernel"}
    assert 1e-3 <= trial.params["C"] <= 1e3
    assert type(trial.params["C"]) is float
    assert trial.params["kernel"] in ("rbf", "poly")
    assert trial.x.tolist() == [trial.params["C"], trial.params["gamma"], ["rbf", "poly"].index(trial.params["kernel"])]
    assert s.space.encode_params([trial.params])[0] == pytest.approx(trial.encoded.numpy())


def test_a_batch_is_its_trials() -> None:
    s = study()
    s.ask()
    batch = s.ask(4)
    assert isinstance(batch, Batch)
    assert batch.ids.tolist() == [1, 2, 3, 4]
    assert len(batch) == 4
    assert [t.id for t in batch] == [1, 2, 3, 4]
    assert [t.params for t in batch] == batch.params
    assert torch.equal(torch.stack([t.x for t in batch]), batch.x)
    assert torch.equal(torch.stack([t.encoded for t in batch]), batch.encoded)
    assert batch[-1].id == 4
    assert batch[1:3].ids.tolist() == [2, 3]
    assert batch[[3, 0]].ids.tolist() == [4, 1]
    assert batch[np.array([True, False, False, True])].ids.tolist() == [1, 4]
    assert batch[torch.tensor([False, True, False, False])].ids.tolist() == [2]
    assert len(batch[[]]) == 0
    assert repr(batch) == "Batch(4 trials, ids 1..4)"
    with pytest.raises(IndexError):
        batch[4]


def test_changing_what_was_handed_out_changes_nothing_in_the_study() -> None:
    s = study(space=Space({"x": Real(0, 1, shape=(2,))}))
    batch = s.ask(3)
    before = batch.x.clone()
    batch.x.mul_(0)
    batch.encoded.mul_(0)
    batch[0].encoded.mul_(0)
    batch[0].params["x"][:] = 0
    assert torch.equal(batch.x, before)
    assert torch.equal(s.trial(0).x, before[0])


def test_same_seed_same_points_another_seed_others() -> None:
    assert study().ask(5).params == study().ask(5).params
    assert study().ask(5).params != study(seed=1).ask(5).params
    assert study(seed=None).seed != study(seed=None).seed
    again = study(seed=None)
    assert study(seed=again.seed).ask(3).params == again.ask(3).params


def test_points_asked_one_by_one_are_those_asked_together() -> None:
    a, b = study(), study()
    assert [a.ask().params for _ in range(300)] == b.ask(300).params


@pytest.mark.parametrize("n", [0, -1, 2.5, "3"])
def test_ask_wants_a_whole_number(n: Any) -> None:
    with pytest.raises(FeedbackError, match="whole number"):
        study().ask(n)


def test_context_is_given_and_comes_back_in_every_point() -> None:
    space = Space({"x": Real(0, 1), "temperature": Context(Real(-10, 40))})
    s = study(space=space)
    assert s.ask(context={"temperature": 20.0}).params["temperature"] == pytest.approx(20.0)
    assert [p["temperature"] for p in s.ask(3, context={"temperature": -5.0}).params] == pytest.approx([-5.0] * 3)
    with pytest.raises(SpaceError, match="temperature is missing"):
        s.ask()
    with pytest.raises(SpaceError, match="wind"):
        s.ask(context={"wind": 1, "temperature": 0})
    with pytest.raises(SpaceError):
        s.ask(context={"temperature": 99})
    assert s._ledger.next == 4
    with pytest.raises(SpaceError, match="no Context variable"):
        study().ask(context={"x": 1})


# ---------------------------------------------------------------------- points of the user's own


def test_enqueued_points_come_next_in_their_order() -> None:
    s = study()
    first, second = {"C": 1.0, "gamma": 0.01, "kernel": "rbf"}, {"C": 2.0, "gamma": 0.02, "kernel": "poly"}
    s.enqueue(first)
    s.enqueue(second)
    batch = s.ask(5)
    assert [p["kernel"] for p in batch.params] == ["rbf", "poly"]
    assert [p["C"] for p in batch.params] == pytest.approx([1.0, 2.0])
    s.tell(batch, [1.0, 2.0])
    assert s.ask().params == study().ask().params  # the strategy's first point comes after


def test_enqueue_refuses_what_is_no_point() -> None:
    s = study()
    for wrong, match in [({"C": 1.0}, "gamma is missing"), ({"C": 1e9, "gamma": 1e-3, "kernel": "rbf"}, "C"), ({"D": 1}, "'D'")]:
        with pytest.raises(SpaceError, match=match):
            s.enqueue(wrong)
    for space in (SPACE, Space({"x": Real(0, 1), "day": Context(Integer(1, 7))})):
        with pytest.raises(SpaceError, match=r"params must be a dict of values by name; got \[1\]"):
            study(space=space).enqueue([1])  # type: ignore[arg-type]
    assert s.ask().params == study().ask().params


def test_an_enqueued_point_takes_the_context_of_the_moment() -> None:
    s = study(space=Space({"x": Real(0, 1), "day": Context(Integer(1, 7))}))
    s.enqueue({"x": 0.25})
    assert s.ask(context={"day": 6}).params == {"x": 0.25, "day": 6}


def test_added_results_are_trials_of_their_own() -> None:
    s = study(direction="maximize")
    s.ask()
    trial = s.add({"C": 1.0, "gamma": 0.01, "kernel": "rbf"}, 0.9, metrics={"epochs": 3})
    assert (trial.id, trial.value, trial.state, trial.metrics) == (1, 0.9, TrialState.COMPLETE, {"epochs": 3})
    batch = s.add([{"C": c, "gamma": 0.1, "kernel": "poly"} for c in (1.0, 2.0, 3.0)], [0.5, 0.95, 0.1])
    assert batch.ids.tolist() == [2, 3, 4]
    assert s.best is not None and s.best.id == 3
    assert s.evaluations == 4
    assert len(s.add([], [])) == 0
    assert s.evaluations == 4
    assert s.ask().id == 5


def test_add_refuses_whole_and_says_why() -> None:
    s = study()
    good = {"C": 1.0, "gamma": 0.01, "kernel": "rbf"}
    with pytest.raises(SpaceError, match="row 1"):
        s.add([good, {**good, "C": -1.0}], [1.0, 2.0])
    with pytest.raises(FeedbackError, match="finite value"):
        s.add([good, good], [1.0, float("nan")])
    with pytest.raises(FeedbackError, match=r"shape \(2,\)"):
        s.add([good, good], [1.0])
    assert s.evaluations == 0
    assert s.ask().id == 0


# ---------------------------------------------------------------------- reading


def test_best_is_the_best_in_the_users_direction_and_the_first_of_equals() -> None:
    for direction, best in [("minimize", 1), ("maximize", 2)]:
        s = study(direction=direction)
        assert s.best is None
        assert s.recommended is None
        for value in (3.0, 1.0, 7.0, 1.0, 7.0):
            s.tell(s.ask(), value)
        assert s.best is not None and s.best.id == best
        assert s.recommended == s.best
        t = study(direction=direction)
        t.tell(t.ask(5), [3.0, 1.0, 7.0, 1.0, 7.0])
        assert t.best is not None and t.best.id == best


def test_printed_as_in_the_documentation() -> None:
    s = Study({"a": Real(0, 1), "b": Fixed("x")}, "random", direction="maximize", seed=0)
    trial = s.ask()
    assert repr(trial) == f"Trial(id=0, params={trial.params!r})"
    s.tell(trial, 0.991)
    assert repr(s.best) == f"Trial(id=0, params={trial.params!r}, value=0.991)"
    assert repr(s) == "Study('study', random, 1 evaluations, 0 pending)"
    two = study(objectives={"loss": "minimize", "speed": "maximize"})
    two.tell(two.ask(), {"speed": 2.0})
    assert repr(two.trial(0)).endswith("values={'speed': 2.0})")


def test_trials_are_equal_when_they_are_the_same_trial() -> None:
    s, other = study(), study()
    batch = s.ask(2)
    assert batch[0] == s.trial(0) != batch[1]
    assert batch[0] in s.pending
    assert {batch[0], s.trial(0)} == {batch[0]}
    assert other.ask() != batch[0]
    assert batch[0] != 0


def test_pending_and_trials_by_id() -> None:
    s = study()
    a, b = s.ask(3), s.ask(2)
    s.tell(a[1], 1.0)
    assert [t.id for t in s.pending] == [0, 2, 3, 4]
    assert s.trials([4, 1]).params == [b[1].params, a[1].params]
    assert s.trial(1).value == 1.0
    with pytest.raises(UnknownId, match="never gave out trial 5; its ids run from 0 to 4"):
        s.trial(5)
    with pytest.raises(UnknownId, match="nothing was asked yet"):
        study().trial(0)


def test_the_front_of_several_objectives() -> None:
    s = study(objectives={"loss": "minimize", "speed": "maximize"}, constraints=["heat"])
    rng = np.random.default_rng(0)
    values, heat = rng.integers(0, 6, (40, 2)).astype(float), rng.integers(-3, 2, (40, 1)).astype(float)
    batch = s.ask(40)
    s.tell(batch, values, constraints=heat)
    s.ask(3)
    s.fail(s.ask())
    cost = values * [1, -1]
    feasible = np.nonzero(heat[:, 0] <= 0)[0]
    expected = [i for i in feasible if not any((cost[j] <= cost[i]).all() and (cost[j] < cost[i]).any() for j in feasible)]
    assert [t.id for t in s.front] == expected
    with pytest.raises(FeedbackError, match=r"study\.front"):
        _ = s.best


def test_several_objectives_nobody_finished_have_no_front() -> None:
    s = study(objectives={"a": "minimize", "b": "minimize"}, constraints=["c"])
    assert s.front == []
    s.tell(s.ask(), {"a": 1.0})
    assert s.front == []


def test_recommended_and_predict_are_the_methods_own() -> None:
    from zoopt.strategies import RandomSearch

    class Modelled(RandomSearch):
        def recommend(self, task: Any, state: Any) -> torch.Tensor:
            return torch.tensor([0.9, 0.9])

        def predict(self, task: Any, state: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 3 * x[:, :1], torch.ones(len(x), 1)

    s = Study(Space({"a": Real(0, 1), "b": Real(0, 1)}, constraints=["a + b <= 1"]), Modelled(), direction="maximize", seed=0)
    s.tell(s.ask(), 1.0)
    recommended = s.recommended
    assert recommended is not None and recommended.id == -1
    assert recommended.value is None
    assert recommended.params["a"] + recommended.params["b"] <= 1  # never a point that is not allowed
    assert recommended.params["a"] + recommended.params["b"] > 0.8
    predicted = s.predict([{"a": 0.5, "b": 0.1}, {"a": 0.25, "b": 0.0}])
    assert predicted is not None
    assert predicted[0].tolist() == [[-1.5], [-0.75]]
    assert predicted[1].tolist() == [[1.0], [1.0]]
    single = s.predict({"a": 0.5, "b": 0.1})
    assert single is not None and single[0].shape == (1, 1)
    assert study().predict([]) is None


# ---------------------------------------------------------------------- less history


@pytest.mark.parametrize("history", ["values", "best"])
def test_less_history_asks_and_finds_the_same_with_less_memory(history: Any) -> None:
    space = Space({"x": Real(-1, 1, shape=(50,))})
    full, less = study(space=space, strategy="cma-es"), study(space=space, strategy="cma-es", history=history)
    for _ in range(30):
        a, b = full.ask(5), less.ask(5)
        assert torch.equal(a.x, b.x)
        values = a.x.square().sum(-1)
        full.tell(a, values)
        less.tell(b, values)
    assert less.best is not None and full.best is not None
    assert less.best.id == full.best.id
    assert less.best.value == full.best.value
    assert less.best.params["x"].tolist() == full.best.params["x"].tolist()
    assert less.evaluations == 150
    chunks = [] if less._ledger.table is None else [c for cs in less._ledger.table.chunks.values() for c in cs]
    assert sum(c.nbytes for c in chunks) < 0.1 * sum(c.nbytes for cs in full._ledger.table.chunks.values() for c in cs)  # type: ignore[union-attr]


def test_less_history_refuses_what_needs_more() -> None:
    for history in ("values", "best"):
        s = study(history=history)
        trials = [s.ask() for _ in range(3)]
        s.tell(trials[:2], [2.0, 1.0])
        for call in (lambda s=s: s.front, lambda s=s: s.history(), lambda s=s: s.amend(0, 3.0), lambda s=s: s.trial(0)):
            with pytest.raises(FeedbackError, match=f"history='{history}'"):
                call()
        assert [t.id for t in s.pending] == [2]
        assert s.trial(2).params == trials[2].params
        assert s.best is not None and s.best.id == 1
    assert study(history="values").history_mode == "values"
    s = study(history="values")
    s.tell(s.ask(), 4.0)
    s.tell(0, 4.0)  # the same again
    assert s.best is not None and s.best.value == 4.0


# ---------------------------------------------------------------------- running trials


def test_intermediate_values_are_kept() -> None:
    s = study()
    trial = s.ask()
    s.report(trial, 1, 0.5)
    s.report(trial.id, 2, 0.25)
    assert s.reports(trial) == [(1.0, 0.5), (2.0, 0.25)]
    s.tell(trial, 0.2)
    with pytest.raises(FeedbackError, match="not running"):
        s.report(trial, 3, 0.1)
    with pytest.raises(UnknownId):
        s.report(7, 1, 1.0)
    with pytest.raises(FeedbackError, match="must be numbers"):
        s.report(s.ask(), "first", 1.0)  # type: ignore[arg-type]


def test_ids_that_were_never_given_out_are_refused_everywhere() -> None:
    s = study()
    trial = s.ask()
    calls: list[Callable[[], Any]] = [
        lambda: s.report(7, 1, 0.5),
        lambda: s.reports(7),
        lambda: s.should_stop(7),
        lambda: s.retry([trial.id, 7]),
        lambda: s.fail(7),
        lambda: s.drop(7),
        lambda: s.tell(7, 1.0),
        lambda: s.rank([7]),
        lambda: s.amend(7, 1.0),
        lambda: s.trial(7),
    ]
    for call in calls:
        with pytest.raises(UnknownId, match="trial 7"):
            call()
    assert [t.id for t in s.pending] == [trial.id]
    with pytest.raises(FeedbackError, match="one trial is wanted"):
        s.report([], 1, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_running_trial_that_is_worse_than_the_median_should_stop(direction: str) -> None:
    s = study(direction=direction)
    sign = 1 if direction == "minimize" else -1
    for k in range(5):
        trial = s.ask()
        for step in range(4):
            s.report(trial, step, sign * (k + 10 - step))  # at step 2: 8, 9, 10, 11, 12 in cost
        running = s.ask()
        s.report(running, 2, sign * 1e9)
        assert not s.should_stop(running)  # too few to judge by
        s.drop(running)
        s.tell(trial, sign * k)
    good, bad, equal, nan, silent = s.ask(5)
    s.report(good, 2, sign * 9.0)
    s.report(bad, 2, sign * 10.5)
    s.report(equal, 2, sign * 10.0)
    s.report(nan, 2, float("nan"))
    assert [s.should_stop(t) for t in (good, bad, equal, nan, silent)] == [False, True, False, True, False]
    s.report(bad, 3, sign * 8.0)  # it has caught up
    assert not s.should_stop(bad)
    s.report(good, 9, sign * 1e9)  # no other got this far
    assert not s.should_stop(good)


def test_only_what_is_complete_now_counts_among_the_others() -> None:
    s = study()

    def finished(value: float) -> Trial:
        trial = s.ask()
        s.report(trial, 1, value)
        return trial

    for value in (1.0, 2.0, 3.0, 4.0):
        s.tell(finished(value), 1.0)
    failed, dropped, running = finished(5.0), finished(0.0), s.ask()
    s.report(running, 1, 3.5)
    assert not s.should_stop(running)
    s.fail(failed)
    s.drop(dropped)
    assert not s.should_stop(running)  # four are complete, and five are too few
    s.amend(failed, 1.0)
    assert s.should_stop(running)
    s.tell(finished(6.0), 1.0)
    assert not s.should_stop(running)  # the median is now 3.5
    s.tell(running, 1.0)
    assert not s.should_stop(running)
    several = study(objectives={"a": "minimize", "b": "maximize"})
    with pytest.raises(FeedbackError, match=r"compares the one value that a trial reports, and this study has several objectives"):
        several.should_stop(several.ask())


def test_a_nan_among_the_others_does_not_keep_everything_running() -> None:
    s = study()
    for value in (1.0, 2.0, 3.0, 4.0, float("nan")):
        trial = s.ask()
        s.report(trial, 1, value)
        s.tell(trial, 1.0)
    trial = s.ask()
    s.report(trial, 1, 3.5)
    assert s.should_stop(trial)


def test_an_evaluation_whose_lease_ran_out_is_handed_out_again_and_lost_after_three_attempts(clock: SimpleNamespace) -> None:
    s = study()
    events: list[tuple[str, list[int]]] = []
    s.callbacks.append(lambda _, e: events.append((e.kind, e.ids.tolist())))
    first = s.ask(lease=10)
    other = s.ask(2, lease=100)
    clock.now += 11
    again = s.ask(lease=10)
    assert again == first
    assert again.params == first.params
    assert s.ask(lease=10).id == 3  # it is out again
    clock.now += 11
    assert s.ask(4).ids.tolist() == [0, 3]  # the third attempt of 0, now without a lease
    clock.now += 1000
    assert s.ask(4).ids.tolist() == other.ids.tolist()
    s.retry(first)
    assert first.state is TrialState.LOST
    assert s.failures == s.evaluations == 1
    assert events[1:] == [
        ("asked", [1, 2]),
        ("retried", [0]),
        ("asked", [3]),
        ("retried", [0, 3]),
        ("retried", [1, 2]),
        ("lost", [0]),
    ]


def test_a_lease_is_seconds_or_a_text(clock: SimpleNamespace) -> None:
    s = study()
    short, long = s.ask(lease="30s"), s.ask(lease="1h30m")
    clock.now += 31
    assert s.ask(9).ids.tolist() == [short.id]
    clock.now += 5400
    assert s.ask(9).ids.tolist() == [long.id]
    wrong: list[Any] = ["soon", 0, -1.0, float("nan"), [10], True]
    for lease in wrong:
        with pytest.raises(ConfigError, match=r"lease = .*: a positive number of seconds or a text such as '30s'"):
            s.ask(lease=lease)
    assert s.ask().id == 2


def test_told_trials_are_not_handed_out_again_and_reports_renew_a_lease(clock: SimpleNamespace) -> None:
    s = study()
    told, reported, vanished = s.ask(3, lease=10)
    s.tell(told, 1.0)
    clock.now += 8
    s.report(reported, 1, 0.5)
    clock.now += 8
    assert s.ask(lease=10) == vanished
    assert s.ask().id == 3
    clock.now += 3
    assert s.ask(5).ids.tolist() == [reported.id, vanished.id][:1]
    clock.now += 100
    s.tell([reported, vanished], [1.0, 2.0])  # late answers count as well
    assert s.ask().id == 4


# ---------------------------------------------------------------------- callbacks and threads


def test_every_event_is_called_back_after_it_is_recorded() -> None:
    s = study(space=Space({"x": Real(0, 1)}))
    events: list[tuple[str, list[int]]] = []

    def watch(study: Study, event: StudyEvent) -> None:
        events.append((event.kind, event.ids.tolist()))
        if event.kind == "told":
            assert all(study.trial(i).value is not None for i in event.ids)

    s.callbacks.append(watch)
    s.enqueue({"x": 0.5})
    trial = s.ask()
    s.report(trial, 1, 2.0)
    s.tell(trial, 1.0)
    s.tell(trial, 1.0)  # nothing new
    batch = s.ask(3)
    s.tell(batch[:2], [1.0, None])
    s.fail(batch[2], "x")
    s.drop(s.ask())
    s.add({"x": 0.1}, 2.0)
    s.amend(0, 5.0)
    number = s.rank([s.ask()])
    s.withdraw(number)
    assert events == [
        ("enqueued", []),
        ("asked", [0]),
        ("reported", [0]),
        ("told", [0]),
        ("asked", [1, 2, 3]),
        ("told", [1]),
        ("failed", [2]),
        ("failed", [3]),
        ("asked", [4]),
        ("dropped", [4]),
        ("added", [5]),
        ("amended", [0]),
        ("asked", [6]),
        ("ranked", [6]),
        ("withdrawn", [6]),
    ]


def test_callbacks_may_use_the_study() -> None:
    def more(study: Study, event: StudyEvent) -> None:
        if event.kind == "told" and study.evaluations < 5:
            study.tell(study.ask(), float(study.evaluations))

    s = study(callbacks=[more])
    s.tell(s.ask(), 0.0)
    assert s.evaluations == 5
    assert s.history()["value"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_callback_that_raises_is_heard_and_nothing_is_lost() -> None:
    def angry(study: Study, event: StudyEvent) -> None:
        raise ValueError("no")

    s = study()
    trial = s.ask()
    s.callbacks.append(angry)
    with pytest.raises(ValueError, match="no"):
        s.tell(trial, 1.0)
    s.callbacks.clear()
    assert trial.value == 1.0
    assert s.ask().id == 1


def test_many_threads_share_a_study() -> None:
    s = study(strategy="cma-es", space=Space({"x": Real(-1, 1, shape=(4,))}), stop=())
    gate = threading.Barrier(4)

    def work(k: int) -> list[int]:
        from zoopt.errors import NotReady

        gate.wait()
        mine: list[int] = []
        while len(mine) < 40:
            try:
                trial = s.ask()
            except NotReady:
                continue
            mine.append(trial.id)
            if trial.id % 9 == 4:
                s.fail(trial)
            else:
                s.tell(trial, float(trial.x.square().sum()))
        return mine

    with ThreadPoolExecutor(4) as pool:
        ids = [i for mine in pool.map(work, range(4)) for i in mine]
    assert sorted(ids) == list(range(160))
    assert (s.evaluations, s.status.pending) == (160, 0)
    assert s.history()["id"].tolist() == list(range(160))


# ---------------------------------------------------------------------- what it refuses


def test_a_closed_study_can_be_read_but_not_changed() -> None:
    with study() as s:
        trial = s.ask()
        s.tell(trial, 1.0)
        out = s.ask()
    for call in (
        s.ask,
        lambda: s.tell(out, 1.0),
        lambda: s.tell(out.id, [1.0]),
        lambda: s.fail(out),
        lambda: s.drop(out),
        lambda: s.add(trial.params, 1.0),
        lambda: s.enqueue(trial.params),
        lambda: s.rank([out]),
        lambda: s.amend(0, 1.0),
        lambda: s.report(out, 1, 1.0),
        lambda: s.retry(out),
    ):
        with pytest.raises(FeedbackError, match="study 'study' is closed; open it again to go on"):
            call()
    assert s.best == trial
    assert s.history()["value"][0] == 1.0
    assert [t.id for t in s.pending] == [1]
    s.close()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"direction": "max"}, ConfigError, "'minimize' or 'maximize'; got 'max'"),
        ({"objectives": {}}, ConfigError, "at least one objective"),
        ({"objectives": {"loss": "down"}}, ConfigError, "objective 'loss'"),
        ({"objectives": {"loss": "minimize"}, "direction": "maximize"}, ConfigError, "in objectives"),
        ({"constraints": "heat"}, ConfigError, r"\['heat'\]"),
        ({"constraints": ["heat", "heat"]}, ConfigError, "'heat' is named twice"),
        ({"objectives": {"a": "minimize"}, "constraints": ["a"]}, ConfigError, "'a' is named twice"),
        ({"history": "some"}, ConfigError, "history must be"),
        ({"history": "best", "objectives": {"a": "minimize", "b": "minimize"}}, ConfigError, "no single best"),
        ({"seed": 1.5}, ConfigError, "seed must be an integer"),
        ({"strategy": "cma"}, UnknownName, "did you mean 'cma-es'"),
        ({"space": {"x": 3}}, SpaceError, "'x' must be a"),
        ({"strategy": "cma-es", "objectives": {"a": "minimize", "b": "minimize"}}, CapabilityError, "strategies that can: .*nsga2"),
        ({"strategy": "nsga2", "feedback": "ranking"}, CapabilityError, "strategies that can: .*cma-es"),
        ({"journal": "x.db", "history": "best"}, ConfigError, "a journal keeps everything"),
        ({"device": "gpu"}, ConfigError, r"device must be 'auto' or a torch device .* got 'gpu'"),
        ({"dtype": "float32"}, ConfigError, "dtype must be torch.float64 or torch.float32; got 'float32'"),
        ({"dtype": torch.bfloat16}, ConfigError, "dtype must be .* got torch.bfloat16"),
        (
            {"space": {"value": Real(0, 1)}},
            ConfigError,
            r"'value' is the name of a parameter and of an objective; .*objectives=\{'loss': 'min",
        ),
        ({"objectives": {"C": "maximize"}}, ConfigError, r"'C' is .* of an objective; .* objectives=\{'loss': 'maximize'\}"),
        ({"constraints": ["gamma"]}, ConfigError, "'gamma' is .* of a constraint; rename the parameter or the constraint"),
    ],
)
def test_nonsense_is_refused_when_the_study_is_made(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        study(**options)


def test_seeds_of_numpy_and_plain_variables_are_fine() -> None:
    a = Study({"x": Real(0, 1)}, "random", seed=np.int64(7))  # type: ignore[arg-type]
    assert a.ask().params == Study(Space({"x": Real(0, 1)}), "random", seed=7).ask().params


# ---------------------------------------------------------------------- enqueued points and contexts


def workshop() -> Space:
    return Space({"machine": Context(Choice("a", "b")), "temp": Real(0, 1, when={"machine": "b"}), "z": Real(0, 1)})


@pytest.mark.parametrize("journal", [False, True], ids=["memory", "journal"])
def test_an_enqueued_point_waits_for_a_context_in_which_it_can_be(tmp_path: Path, journal: bool) -> None:
    options: dict[str, Any] = {"journal": str(tmp_path / "s.db")} if journal else {}
    s = Study(workshop(), "random", seed=0, **options)
    s.enqueue({"temp": 0.9, "z": 0.2})
    s.enqueue({"machine": "a", "z": 0.3})
    s.enqueue({"z": 0.4})
    assert s.ask(context={"machine": "b"}).params == {"machine": "b", "temp": pytest.approx(0.9), "z": pytest.approx(0.2)}
    free = s.ask(context={"machine": "b"})  # the second waits for a, the third lacks its temperature here
    assert free.params["z"] not in (0.3, 0.4)
    if journal:
        s.close()
        s = Study(workshop(), "random", **options)
    batch = s.ask(4, context={"machine": "a"})
    assert batch.params == [{"machine": "a", "z": pytest.approx(0.3)}, {"machine": "a", "z": pytest.approx(0.4)}]
    assert batch.encoded.tolist() == s.space.snap(batch.encoded).tolist()
    s.close()


def test_an_enqueued_point_of_wrong_values_is_refused_at_once() -> None:
    s = Study(workshop(), "random", seed=0)
    for wrong, message in (({"temp": 2.0}, "temp"), ({"oven": 1}, "no variable 'oven'"), ({"machine": "c"}, "machine")):
        with pytest.raises(SpaceError, match=message):
            s.enqueue(wrong)


@pytest.mark.parametrize("history", ["all", "best"])
def test_an_impossible_context_is_refused_and_nothing_is_lost(history: Any) -> None:
    space = Space({"x": Real(0, 1), "c": Context(Real(0, 2))}, constraints=["x >= c"])
    s, twin = (Study(space, "cma-es", seed=0, history=history) for _ in range(2))
    for one in (s, twin):
        for _ in range(5):
            one.tell(one.ask(context={"c": 0.5}), 1.0)
    with pytest.raises(SpaceError, match=r"no valid point with c as given"):
        s.ask(context={"c": 1.5})
    assert s.ask(context={"c": 0.25}).params == twin.ask(context={"c": 0.25}).params


# ---------------------------------------------------------------------- names of trials


def test_trials_may_be_named_by_a_generator() -> None:
    s = study()
    batch = s.ask(4)
    s.drop(t for t in batch[:2])
    s.fail(map(int, batch.ids[2:3]))
    s.tell((t for t in batch[3:]), [1.0])
    assert [t.state for t in batch] == [TrialState.DROPPED, TrialState.DROPPED, TrialState.FAILED, TrialState.COMPLETE]


# ---------------------------------------------------------------------- readers


@pytest.mark.parametrize("journal", [False, True], ids=["memory", "journal"])
def test_a_reader_never_sees_a_study_that_is_being_rebuilt(tmp_path: Path, journal: bool) -> None:
    s = study(**({"journal": str(tmp_path / "s.db"), "durability": "process"} if journal else {}))
    batch = s.ask(50)
    s.tell(batch, range(50))
    seen: list[Any] = []
    over = threading.Event()

    def look() -> None:
        trial = batch[7]
        while not over.is_set():
            try:
                seen.append((s.evaluations, trial.value, trial.state, s.failures, len(s.rankings), trial.metrics, trial.error))
            except Exception as error:
                seen.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for k in range(30):
        s.amend(3, float(k))
    over.set()
    reader.join()
    assert set(map(repr, seen)) == {repr((50, 7.0, TrialState.COMPLETE, 0, 0, {}, None))}


def test_what_is_no_params_is_refused_by_a_sentence() -> None:
    s = study()
    for wrong in (5, None, [1], ["x"]):
        with pytest.raises(SpaceError, match="params must be a dict of values by name"):
            s.add(wrong, 1.0)  # type: ignore[call-overload]
        with pytest.raises(SpaceError, match="params must be a dict of values by name"):
            s.predict(wrong)  # type: ignore[arg-type]
    assert s.evaluations == 0
