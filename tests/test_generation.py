"""Generational strategies behind the study, against a loop that proposes and updates whole generations itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import zoopt
from zoopt import Choice, Context, Integer, Real, Space, Study, minimize
from zoopt.errors import Exhausted, NotReady, StrategyError
from zoopt.feedback import Candidates, Evaluation, Observations
from zoopt.generation import Generational
from zoopt.random import Random
from zoopt.strategy import Capabilities, Request, State, Task
from zoopt.trials import TrialState

N = 6


@dataclass
class DriftState(State):
    """A mean ``(*runs, d)`` and all generations it was updated with."""

    mean: Tensor
    seen: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    oks: list[Tensor] = field(default_factory=list)
    extras: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Drift(Generational):
    """Normal points around a mean, which moves to the best half; it remembers everything it was told."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="ranking", batched=True)

    def start(self, task: Task, random: Random) -> DriftState:
        return DriftState(torch.full((*task.runs, task.dim), 0.5, dtype=task.dtype))

    def propose(self, task: Task, inner: DriftState, random: Random) -> tuple[State, Candidates]:
        z = random.normal((N, task.dim), runs=task.runs, dtype=task.dtype)
        return inner, Candidates(inner.mean.unsqueeze(-2) + 0.4 * z, {"z": z, "number": np.arange(N) * 10})

    def update(self, task: Task, inner: DriftState, generation: Observations, random: Random) -> State:
        order = generation.ranks.argsort(dim=-1, stable=True)[..., : N // 2]
        inner.mean = generation.x.gather(-2, order.unsqueeze(-1).expand(*order.shape, task.dim)).mean(-2) + 0.01 * random.normal(
            (task.dim,), runs=task.runs, dtype=task.dtype
        )
        inner.seen.append(generation.x.clone())
        inner.values.append(generation.values.clone())
        inner.oks.append(generation.ok.clone())
        inner.extras.append({"number": np.asarray(generation.column("number")).tolist(), "constraints": generation.constraints})
        return inner


BOX = Space({"a": Real(-1, 3), "b": Real(0, 2)})
MIXED = Space({"a": Real(-1, 3), "k": Integer(1, 5), "c": Choice("u", "v")}, constraints=["a + k <= 6"])


def sphere(batch_x: Tensor) -> Tensor:
    return ((batch_x - 0.7) ** 2).sum(-1)


def by_hand(space: Space, generations: int, seed: int = 5) -> DriftState:
    """What the base class promises, written out: keys by generation, repair, latent positions back in slot order."""
    task, random = Task(space), Random(seed)
    inner: Any = Drift().start(task, random.at(-1).child("start"))
    for g in range(generations):
        inner, candidates = Drift().propose(task, inner, random.at(g).child("propose"))
        asked = space.repair(candidates.x, random.at(g).child("repair"))
        values = sphere(space.decode(asked)).unsqueeze(-1)
        told = Observations(np.arange(N), candidates.x, values, columns=candidates.columns)
        inner = Drift().update(task, inner, told, random.at(g).child("update"))
    return inner  # type: ignore[no-any-return]


def inner_of(study: Study) -> DriftState:
    state: DriftState = study._engine.state.inner
    return state


def assert_same(a: DriftState, b: DriftState) -> None:
    assert torch.equal(a.mean, b.mean)
    assert len(a.seen) == len(b.seen)
    for mine, theirs in zip([*a.seen, *a.values], [*b.seen, *b.values], strict=True):
        assert torch.equal(mine, theirs)
    assert [e["number"] for e in a.extras] == [e["number"] for e in b.extras]


@pytest.mark.parametrize("space", [BOX, MIXED], ids=["box", "mixed"])
def test_asks_in_any_pieces_and_tells_in_any_order_are_the_direct_loop(space: Space) -> None:
    study = Study(space, Drift(), seed=5)
    rng = np.random.default_rng(0)
    for _ in range(4):
        trials = []
        while len(trials) < N:
            trials += list(study.ask(int(rng.integers(1, 4))))
        with pytest.raises(NotReady, match="6 of its 6 points have no result yet"):
            study.ask()
        order = rng.permutation(N)
        cut = int(rng.integers(1, N))
        for rows in (order[:cut], order[cut:]):
            x = torch.stack([trials[k].x for k in rows])
            study.tell([trials[k] for k in rows], sphere(x))
    assert_same(inner_of(study), by_hand(space, 4))


@pytest.mark.parametrize("space", [BOX, MIXED], ids=["box", "mixed"])
def test_a_whole_generation_in_one_call_is_the_direct_loop(space: Space) -> None:
    study = Study(space, Drift(), seed=5)
    for _ in range(3):
        batch = study.ask(100)
        assert len(batch) == N
        study.tell(batch, sphere(batch.x))
    assert_same(inner_of(study), by_hand(space, 3))


def test_what_is_proposed_outside_of_a_box_is_evaluated_inside_and_learned_from_where_it_was_proposed() -> None:
    study = Study(BOX, Drift(), seed=5)
    outside = 0
    for _ in range(4):
        batch = study.ask(N)
        assert ((batch.encoded >= 0) & (batch.encoded <= 1)).all()
        study.tell(batch, sphere(batch.x))
        seen = inner_of(study).seen[-1]
        outside += int(((seen < 0) | (seen > 1)).any())
        assert torch.equal(seen.clamp(0, 1), batch.encoded)
    assert outside  # or this test shows nothing


def test_a_setting_reached_elsewhere_is_learned_from_there() -> None:
    study = Study(BOX, Drift(), seed=5)
    batch = study.ask(N)
    study.tell(batch[:1], [1.0], at={"a": 0.0})
    study.tell(batch[1:], sphere(batch[1:].x))
    seen = inner_of(study).seen[0]
    assert seen[0].tolist() == pytest.approx([0.25, batch.encoded[0, 1].item()])


def test_failed_dropped_and_nan_rows_close_their_slots() -> None:
    study = Study(BOX, Drift(), seed=5)
    batch = study.ask(N)
    study.fail(batch[0], "crash")
    study.drop(batch[1])
    study.tell(batch[2], float("nan"))
    study.tell(batch[3:], [3.0, 2.0, 1.0])
    state = inner_of(study)
    assert state.oks[0].tolist() == [False, False, False, True, True, True]
    assert state.values[0][:, 0].tolist() == [torch.inf, torch.inf, torch.inf, 3.0, 2.0, 1.0]
    latent = by_hand(BOX, 1).seen[0]
    noise = 0.01 * Random(5).at(0).child("update").normal((2,))
    assert torch.allclose(state.mean, latent[3:].mean(0) + noise)
    study.ask(N)  # the next generation


def test_a_generation_that_failed_whole_does_not_stop_the_next() -> None:
    study = Study(BOX, Drift(), seed=5)
    study.fail(study.ask(N), "all of them")
    assert inner_of(study).oks[0].tolist() == [False] * N
    assert len(study.ask(N)) == N


def test_added_points_close_no_slot() -> None:
    study = Study(BOX, Drift(), seed=5)
    batch = study.ask(N)
    study.add({"a": 0.0, "b": 0.0}, -1.0)
    study.tell(batch, sphere(batch.x))
    study.add([{"a": 0.0, "b": 0.0}] * 3, [-1.0] * 3)
    assert_same(inner_of(study), by_hand(BOX, 1))


@dataclass
class FromAddedState(DriftState):
    """A drift that notes what it started from."""

    added: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FromAdded(Drift):
    """A drift that starts at the best of what was added."""

    def start(self, task: Task, random: Random) -> FromAddedState:
        return FromAddedState(super().start(task, random).mean)

    def learn_added(self, task: Task, inner: Any, added: Observations, random: Random) -> State:
        inner.mean = added.x[0].clone()
        inner.added = {"x": added.x.tolist(), "values": added.values[:, 0].tolist()}
        if added.constraints is not None:
            inner.added["constraints"] = added.constraints[:, 0].tolist()
        return inner  # type: ignore[no-any-return]


def added_of(study: Study) -> dict[str, Any]:
    state: FromAddedState = study._engine.state.inner
    return state.added


ADDED = [({"a": 0.1 * k - 0.5, "b": 0.2 * k}, float(value)) for k, value in enumerate([3, 1, 2, 1, 5, 1, 0])]


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [2, 5], [3, 1, 1, 2]])
def test_what_was_added_before_the_first_generation_starts_it_in_any_order_and_pieces(pieces: list[int]) -> None:
    order = np.random.default_rng(len(pieces)).permutation(7) if len(pieces) > 1 else np.arange(7)
    study, at = Study(BOX, FromAdded(), seed=5), 0
    for size in pieces:
        rows = [ADDED[k] for k in order[at : at + size]]
        at += size
        study.add([params for params, _ in rows], [value for _, value in rows])
    assert added_of(study) == {}  # not before the first ask
    first = study.ask(N).encoded
    added = added_of(study)
    assert added["values"] == [0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 5.0]
    assert added["x"][0] == BOX.encode_params([ADDED[6][0]])[0].tolist()
    whole = Study(BOX, FromAdded(), seed=5)
    whole.add([params for params, _ in ADDED], [value for _, value in ADDED])
    assert torch.equal(whole.ask(N).encoded, first)


def test_what_is_added_after_the_first_generation_was_proposed_starts_nothing() -> None:
    study = Study(BOX, FromAdded(), seed=5)
    batch = study.ask(2)
    study.add({"a": 0.0, "b": 0.0}, -1.0)
    for _ in range(3):
        study.tell(study.pending, sphere(study.trials(study.pending).x))
        study.ask(N)
    assert added_of(study) == {} and len(batch) == 2


@pytest.mark.parametrize("constraints", [{}, {"constraints": ["heat"]}])
def test_enqueued_points_start_it_too_but_not_where_they_failed(constraints: Any) -> None:
    study = Study(BOX, FromAdded(), seed=5, **constraints)
    for a, value in ((0.0, 2.0), (1.0, None), (2.0, 1.0)):
        study.enqueue({"a": a, "b": 0.0})
        trial = study.ask()
        if value is None:
            study.fail(trial, "crash")
        else:
            study.tell(trial, value, constraints=[-1.0] if constraints else None)
    study.ask()
    assert added_of(study)["values"] == [1.0, 2.0]


def test_of_added_points_the_feasible_ones_come_first() -> None:
    study = Study(BOX, FromAdded(), seed=5, constraints=["heat"])
    for value, heat in ((0.0, 2.0), (3.0, -1.0), (1.0, 0.5), (4.0, 0.0), (2.0, 0.5)):
        study.add({"a": value / 4, "b": 0.0}, value, constraints=[heat])
    study.ask()
    assert added_of(study)["values"] == [3.0, 4.0, 1.0, 2.0, 0.0]
    assert added_of(study)["constraints"] == [-1.0, 0.0, 0.5, 0.5, 2.0]


def test_added_points_start_a_study_that_is_only_ranked() -> None:
    study = Study(BOX, FromAdded(), seed=5, feedback="ranking")
    study.add([{"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}], [2.0, 1.0])
    batch = study.ask(N)
    assert added_of(study)["values"] == [1.0, 2.0]
    study.rank(list(batch))
    assert len(study.ask(N)) == N


def test_a_study_reopened_between_adding_and_asking_starts_from_the_same_points(tmp_path: Any) -> None:
    def asked(reopen: bool) -> Tensor:
        options = {"seed": 5, "journal": str(tmp_path / f"{reopen}.db")}
        study = Study(BOX, FromAdded(), **options)  # type: ignore[arg-type]
        for k, (params, value) in enumerate(ADDED):
            study.add(params, value)
            if reopen and k % 3 == 0:
                study.close()
                study = Study(BOX, FromAdded(), **options)  # type: ignore[arg-type]
        first = study.ask(N)
        study.tell(first, sphere(first.x))
        if reopen:
            study.close()
            study = Study(BOX, FromAdded(), **options)  # type: ignore[arg-type]
        with study:
            return torch.cat([first.encoded, study.ask(N).encoded])

    assert torch.equal(asked(False), asked(True))


def test_a_strategy_that_takes_over_starts_from_the_data_so_far(tmp_path: Any) -> None:
    journal = str(tmp_path / "study.db")
    with Study(BOX, "random", seed=5, journal=journal) as study:
        batch = study.ask(10)
        values = sphere(batch.x)
        study.tell(batch, values)
    with Study(BOX, FromAdded(), journal=journal, resume="data") as study:
        study.ask()
        assert added_of(study)["values"] == sorted(values.tolist())


def test_constraints_noise_and_gradients_arrive_by_slot() -> None:
    study = Study(BOX, Drift(), seed=5, constraints=["heat"])
    batch = study.ask(N)
    study.tell(batch[3:], [0.0, 0.0, 0.0], constraints=[1.0, 2.0, 3.0])
    study.fail(batch[0])
    study.tell(batch[1:3], [0.0, 0.0], constraints=[-1.0, -2.0])
    constraints = inner_of(study).extras[0]["constraints"]
    assert constraints[:, 0].tolist()[1:] == [-1.0, -2.0, 1.0, 2.0, 3.0]


def test_rankings_of_several_raters_are_merged() -> None:
    study = Study(BOX, Drift(), seed=5, feedback="ranking")
    batch = study.ask(N)
    study.rank([batch[0], batch[1], batch[2]], rest="unseen", rater="ada")
    assert [t.id for t in study.pending] == [3, 4, 5]
    study.rank([batch[2], batch[1], batch[3]], rest="unseen", rater="bob")
    assert not inner_of(study).seen  # 4 and 5 are out
    study.rank([batch[4], batch[0], batch[5]], rater="cy")
    # mean normalised ranks: 0: (0 + 1/2)/2, 1: (1/2 + 1/2)/2, 2: (1 + 0)/2, 3: 1, 4: 0, 5: 1
    assert inner_of(study).values[0][:, 0].tolist() == [0.25, 0.5, 0.5, 1.0, 0.0, 1.0]


def test_values_and_rankings_of_one_generation_are_put_on_one_scale() -> None:
    study = Study(BOX, Drift(), seed=5)
    batch = study.ask(N)
    study.tell(batch[:3], [30.0, 10.0, 20.0])
    study.rank([batch[3], batch[4], batch[5]])
    assert inner_of(study).values[0][:, 0].tolist() == [1.0, 0.0, 0.5, 0.0, 0.5, 1.0]


def test_all_that_a_ranking_left_out_is_worse_unless_it_was_not_seen() -> None:
    study = Study(BOX, Drift(), seed=5, feedback="ranking")
    batch = study.ask(N)
    study.rank([batch[2], [batch[0], batch[1]], batch[5]])  # 3 and 4 tie behind
    assert inner_of(study).values[0][:, 0].tolist() == [0.3, 0.3, 0.0, 0.9, 0.9, 0.6]
    assert [t.state for t in study.trials([0, 3])] == [TrialState.COMPLETE] * 2


def test_late_results_of_a_generation_that_is_over_change_nothing() -> None:
    recipe, task = Drift(), Task(BOX)
    random = Random(5)
    state = recipe.begin(task, random)
    state, first = recipe.ask(task, state, Request(), random)
    columns = {name: column.clone() if isinstance(column, Tensor) else column.copy() for name, column in first.columns.items()}
    told = Observations(np.arange(N), first.x.clone(), torch.zeros(N, 1), columns=columns)
    state = recipe.tell(task, state, told, random)
    state, _ = recipe.ask(task, state, Request(), random)
    mean = state.inner.mean.clone()  # type: ignore[attr-defined]
    state = recipe.tell(task, state, told, random)
    assert state.closed is None and torch.equal(state.inner.mean, mean)  # type: ignore[attr-defined]


LEVELS = Space({"a": Integer(0, 6), "b": Integer(0, 6)})


def levels(params: Any) -> float:
    return float((params["a"] - 3) ** 2 + (params["b"] - 1) ** 2)


def met_again(generations: int, seed: int = 6, **options: Any) -> tuple[DriftState, list[tuple[Any, ...]]]:
    """Generations of a study that is told one by one, and the points it asked."""
    study, asked = Study(LEVELS, Drift(), seed=seed, **options), []
    while len(inner_of(study).seen) < generations:
        trial = study.ask()
        asked.append(tuple(trial.params.values()))
        study.tell(trial, levels(trial.params))
    return inner_of(study), asked


def test_without_noise_the_search_is_the_same_for_fewer_evaluations() -> None:
    noisy, all_asked = met_again(4)
    certain, asked = met_again(4, deterministic=True)
    assert_same(noisy, certain)
    assert len(set(asked)) == len(asked) == len(set(all_asked)) < len(all_asked)


def test_points_met_again_are_as_they_were_told_in_any_pieces_and_order() -> None:
    rng = np.random.default_rng(1)
    study = Study(LEVELS, Drift(), seed=6, deterministic=True)
    while len(inner_of(study).seen) < 4:
        trials: list[Any] = []
        waiting = ""
        while not waiting:
            try:
                trials += list(study.ask(int(rng.integers(1, 4))))
            except NotReady as error:
                waiting = str(error)
        assert f"{len(trials)} of its 6 points have no result yet" in waiting
        for piece in np.array_split(rng.permutation(len(trials)), 2):
            study.tell([trials[k] for k in piece], [levels(trials[k].params) for k in piece])
    assert_same(inner_of(study), met_again(4, deterministic=True)[0])


FEW = Space({"a": Integer(0, 4), "b": Integer(0, 4)})


def test_a_failure_met_again_is_a_failure_and_a_dropped_twin_is_closed() -> None:
    def oks(end: str) -> list[list[bool]]:
        study = Study(FEW, Drift(), seed=8, deterministic=True)
        while len(inner_of(study).seen) < 2:
            trial = study.ask()
            if trial.id % 2:
                study.tell(trial, 1.0)
            else:
                getattr(study, end)(trial)
        latent = inner_of(study).seen
        points = [list(map(tuple, FEW.snap(x).tolist())) for x in latent]
        of_point: dict[Any, set[bool]] = {}
        for point, ok in zip(points[0], inner_of(study).oks[0].tolist(), strict=True):
            of_point.setdefault(point, set()).add(ok)
        assert len(of_point) < N and all(len(found) == 1 for found in of_point.values())  # twins fare alike
        again = [(point, ok) for point, ok in zip(points[1], inner_of(study).oks[1].tolist(), strict=True) if point in of_point]
        assert again
        if end == "fail":
            assert all({ok} == of_point[point] for point, ok in again)
        return [ok.tolist() for ok in inner_of(study).oks]

    assert not all(oks("fail")[0])
    assert not all(oks("drop")[0])


def test_twins_share_the_place_in_an_order() -> None:
    study = Study(FEW, Drift(), seed=8, deterministic=True)
    batch = study.ask(N)
    assert len(batch) < N
    study.rank(list(batch))
    points, scores = FEW.snap(inner_of(study).seen[0]).tolist(), inner_of(study).values[0][:, 0].tolist()
    for point, score in zip(points, scores, strict=True):
        assert score == scores[points.index(point)]
    assert len(set(scores)) == len(batch)


def test_what_was_added_is_not_asked_again_but_known() -> None:
    study = Study(LEVELS, Drift(), seed=6, deterministic=True, constraints=["heat"])
    first = met_again(1)[1]
    study.add(dict(zip("ab", first[0], strict=True)), 7.0, constraints=[-3.0])
    batch = study.ask(N)
    assert first[0] not in {tuple(params.values()) for params in batch.params}
    study.tell(batch, [1.0] * len(batch), constraints=[[1.0]] * len(batch))
    assert inner_of(study).values[0][0, 0] == 7.0
    assert inner_of(study).extras[0]["constraints"][0, 0] == -3.0


def test_where_a_whole_generation_is_known_other_points_are_asked() -> None:
    study = Study(Space({"a": Integer(0, 2), "b": Integer(0, 2)}), Drift(), seed=6, deterministic=True)
    asked = []
    for _ in range(9):
        trial = study.ask()
        asked.append(tuple(trial.params.values()))
        study.tell(trial, 1.0)
    assert len(set(asked)) == 9
    with pytest.raises(Exhausted, match="all 9 points"):
        study.ask()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_points_survive_reopening_in_either_precision(tmp_path: Any, dtype: torch.dtype) -> None:
    def asked(reopen: bool) -> list[Any]:
        options: dict[str, Any] = {"seed": 6, "deterministic": True, "dtype": dtype, "journal": str(tmp_path / f"{reopen}.db")}
        study, points = Study(LEVELS, Drift(), **options), []
        for k in range(12):
            trial = study.ask()
            points.append(tuple(trial.params.values()))
            study.tell(trial, levels(trial.params))
            if reopen:
                if k % 2:
                    study._engine._spent = 1e9  # the next event comes with a snapshot; the others are replayed
                study.close()
                study = Study(LEVELS, Drift(), **options)
        with study:
            return points

    assert asked(False) == asked(True) == met_again(4, deterministic=True)[1]


def test_context_is_what_was_given_for_each_piece() -> None:
    space = Space({"a": Real(0, 1), "day": Context(Integer(1, 7))})
    study = Study(space, Drift(), seed=5)
    first, second = study.ask(2, context={"day": 3}), study.ask(4, context={"day": 6})
    assert {p["day"] for p in first.params} == {3}
    assert {p["day"] for p in second.params} == {6}


def test_another_context_is_not_another_place() -> None:
    space = Space({"a": Real(0, 1), "k": Integer(0, 4), "day": Context(Integer(1, 7))})

    def seen(days: list[int]) -> tuple[Tensor, Tensor]:
        study = Study(space, Drift(), seed=5)
        for day in days:
            trial = study.ask(context={"day": day})
            study.tell(trial, float(trial.encoded[:2].square().sum()))
        return inner_of(study).seen[0], inner_of(study).mean

    same, other = seen([3] * N), seen([1, 7, 2, 6, 4, 5])
    assert torch.equal(same[0], other[0]) and torch.equal(same[1], other[1])
    assert not torch.equal(space.snap(same[0])[:, :2], same[0][:, :2])  # where they were proposed, not where they were asked


def test_an_empty_generation_is_the_strategys_fault() -> None:
    class Empty(Drift):
        def propose(self, task: Task, inner: Any, random: Random) -> tuple[State, Candidates]:
            return inner, Candidates(torch.empty((0, task.dim), dtype=task.dtype))

    with pytest.raises(StrategyError, match="empty generation"):
        Study(BOX, Empty(), seed=5).ask()


@pytest.mark.parametrize("points", [np.zeros((4, 2)), torch.zeros(2), torch.zeros(4, 3)], ids=["numpy", "one row", "too wide"])
def test_points_of_the_wrong_kind_are_named(points: Any) -> None:
    class Wrong(Drift):
        def propose(self, task: Task, inner: Any, random: Random) -> tuple[State, Candidates]:
            return inner, Candidates(points)

    with pytest.raises(StrategyError, match=r"Wrong.propose\(\) must give .* x a tensor \(n, 2\)"):
        Study(BOX, Wrong(), seed=5).ask()
    with pytest.raises(StrategyError, match=r"Wrong.propose\(\) must give"):
        zoopt.minimize(sphere, Wrong(), space=BOX, evaluations=10)


def test_a_forgotten_return_is_named() -> None:
    class Forgetful(Drift):
        def update(self, task: Task, inner: Any, generation: Observations, random: Random) -> State:
            super().update(task, inner, generation, random)  # type: ignore[return-value]

    study = Study(BOX, Forgetful(), seed=5)
    batch = study.ask(N)
    with pytest.raises(StrategyError, match=r"Forgetful.update\(\) must give the method's state, .*got None"):
        study.tell(batch, sphere(batch.x))


@pytest.mark.parametrize("space", [BOX, Space({"a": Real(-1, 3), "k": Integer(1, 5)})], ids=["box", "mixed"])
def test_runs_side_by_side_are_the_runs_alone_also_when_the_budget_cuts_a_generation(space: Space) -> None:
    def objective(x: Tensor) -> Tensor:
        values = sphere(x)
        return torch.where(x[..., 0] > 2.0, torch.nan, values)  # some fail, in some runs

    budget = 3 * N + 4
    many = minimize(objective, Drift(), space=space, evaluations=budget, runs=5, seed=2, device="cpu")
    few = minimize(objective, Drift(), space=space, evaluations=budget, runs=2, seed=2, device="cpu")
    assert torch.equal(many.values[:2], few.values)
    assert torch.equal(many.xs[:2], few.xs)
    assert len(set(many.values.tolist())) == 5
    assert many.evaluations.tolist() == [budget] * 5


def test_evaluations_with_constraints_reach_every_run() -> None:
    def objective(x: Tensor) -> Evaluation:
        return Evaluation(sphere(x), (x[..., :1] - 0.2))

    result = minimize(objective, Drift(), space=BOX, evaluations=60 * N, runs=3, constraints=["left"], seed=0, device="cpu")
    assert (result.violations == 0).all()
    assert (result.xs[:, 0] <= 0.2 + 1e-9).all()


@pytest.mark.parametrize("name", ["cma-es", "de", "pso", "nsga2", "cbo", "consensus-hopping", "relay", "cbo-auto"])
def test_only_failures_before_the_first_generation_teach_nothing(name: str) -> None:
    """A point that was enqueued and failed is all there is: the search begins as if it had not been."""
    plain = Study({"x": Real(0, 1), "y": Real(0, 1)}, name, seed=0)
    study = Study({"x": Real(0, 1), "y": Real(0, 1)}, name, seed=0)
    study.enqueue({"x": 0.2, "y": 0.3})
    study.fail(study.ask(), "diverged")
    assert study.ask(4).x.shape == plain.ask(4).x.shape
