"""Contracts about learning: better than chance where it learns, and the same through either door."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import CapabilityError, Exhausted, NotReady
from zoopt.feedback import Evaluation
from zoopt.loop import minimize
from zoopt.random import Random
from zoopt.state import from_bytes
from zoopt.stop import Evaluations
from zoopt.strategy import Example, Strategy
from zoopt.testing._cases import Case, case_for, case_of, sphere_example, thinks_long
from zoopt.testing._chance import Race, race, random_points, soundness
from zoopt.testing._contract import ContractDoesNotApply, Factory, contract, learner, require
from zoopt.testing._session import A_LAP, Calls, Session, same_asks

_GOOD = 20  # best points of random search, beside one of which everything fails


@contract
def better_than_random_search(factory: Factory, seed: int) -> None:
    """On its own example, within that example's budget, it beats random search.

    A rank test between several of its runs and many of random search leaves chance a probability below 1 in 100.
    """
    recipe = learner(factory)
    _wins(race(factory, recipe.example_task(), seed))


@contract
def rankings_beat_random_search(factory: Factory, seed: int) -> None:
    """On its own example it beats random search, by the same test, although only orders are told.

    Concerns strategies that learn and whose weakest feedback is a ranking.
    """
    recipe = learner(factory)
    example = recipe.example_task()
    if recipe.capabilities.feedback != "ranking":
        raise ContractDoesNotApply("it does not learn from rankings.")
    if len(example.objectives) > 1 or example.constraints:
        raise ContractDoesNotApply("its example has no hidden order that a person could tell.")
    _wins(race(factory, example, seed, rankings=True))


@contract
def late_and_shuffled_results_teach_the_same(factory: Factory, seed: int) -> None:
    """On its own example it beats random search, by the same test, where results come late, in another order and in pieces."""
    recipe = learner(factory)
    _wins(race(factory, recipe.example_task(), seed, drive=_told_late))


def _told_late(session: Session, evaluations: int, seed: int) -> None:
    """A third of what is out waits for the next turn, unless the strategy waits for it; the rest comes in pieces."""
    done, turn, size = 0, 0, max(session.case.size, 2)
    out: list[int] = []
    while done < evaluations:
        try:
            ids = session.ask_now(min(size, evaluations - done))
        except Exhausted:
            break
        require(ids or out, "ask() raised NotReady though nothing is pending.")
        rng = Random(seed, turn, ("late",)).numpy()
        out = rng.permutation([*out, *(ids or [])]).tolist()
        due, out = (out, []) if ids is None else (out[len(out) // 3 :], out[: len(out) // 3])
        for piece in np.array_split(due, 3):
            session.tell(piece.tolist())
        done, turn = done + len(ids or []), turn + 1


@contract
def failures_are_not_good(factory: Factory, seed: int) -> None:
    """Where half of the space fails, beyond one of the best points, it is not drawn there.

    It beats random search there, by the same rank test, or the share of its evaluations that fail is at most halfway
    between that of random search and all: at such a border every other evaluation of a good method may fail. The border runs
    through one of the best points of random search on the strategy's own example. Values are moved above zero, so that zero in the
    place of a failure would be the best of all.
    """
    recipe = learner(factory)
    example = recipe.example_task()
    if len(example.objectives) > 1 or example.score is not None:
        raise ContractDoesNotApply("its example has several objectives.")
    found = race(factory, _beside_failures(recipe, example, seed), seed)
    ours, chance = (float(np.mean([run.failed for run in runs])) for runs in (found.ours, found.chance))
    lost = found.lost()
    require(
        lost is None or ours <= (1.0 + chance) / 2.0,
        f"where all fails beyond one of the best points, {ours:.0%} of its evaluations fail, of random search {chance:.0%}; {lost}",
    )


def _beside_failures(recipe: Strategy[Any], example: Example, seed: int) -> Example:
    """The example where everything fails that lies, in one column, beyond one of the best points of random search."""
    case = case_of(recipe, example, "example")
    x = torch.cat(list(random_points(case, example, seed)))
    result = case.evaluate(x)
    ok, violation = soundness(result)
    values = torch.where(ok & (violation <= violation[ok].min()), result.values[:, 0], torch.inf)
    good = x[values.argsort()[:_GOOD]].unsqueeze(1)
    beyond = torch.stack([(x > good).double().mean(1), (x < good).double().mean(1)], 1)  # share of the space, (good, side, column)
    point, side, column = (int(k) for k in np.unravel_index(int((beyond - 0.5).abs().argmin()), beyond.shape))
    sign, border = 1.0 - 2.0 * side, good[point, 0, column]
    lift = float(values[torch.isfinite(values)].median()) - 2.0 * float(values.min())

    def objective(z: Tensor) -> Evaluation:
        encoded = case.space.encode(z)
        told = case.evaluate(encoded)
        fails = sign * (encoded[..., column] - border) > 0
        return replace(told, values=torch.where(fails.unsqueeze(-1), torch.nan, told.values + lift))

    return replace(example, objective=objective)


@contract
def outcome_constraints_are_learned(factory: Factory, seed: int) -> None:
    """Where the best values lie outside of the feasible third of a box, its best feasible values beat those of random search.

    By the same test as on its own example, and with that example's budget. Concerns strategies that learn from outcome constraints.
    """
    recipe = learner(factory)
    if not recipe.capabilities.constraints:
        raise ContractDoesNotApply("it does not learn from outcome constraints.")
    sphere = _sphere(recipe)

    def objective(z: Tensor) -> Evaluation:
        return Evaluation(sphere.objective(z), z[..., :1] + 2.0)

    _wins(_race_elsewhere(factory, replace(sphere, objective=objective, constraints=("heat",)), seed))


@contract
def every_objective_counts(factory: Factory, seed: int) -> None:
    """Where only one of two objectives ever changes, it beats random search in that one, whichever of the two it is.

    By the same test as on its own example, and with that example's budget. Concerns strategies for several objectives.
    """
    recipe = learner(factory)
    if recipe.capabilities.objectives == 1:
        raise ContractDoesNotApply("it handles one objective.")
    sphere = _sphere(recipe)
    for k in range(2):
        _wins(_race_elsewhere(factory, _only(sphere, k), seed), f"where only objective {k + 1} of 2 changes, ")


def _only(example: Example, k: int) -> Example:
    """The example with two objectives, of which the other than the k-th is always 1."""

    def objective(z: Tensor) -> Tensor:
        value = example.objective(z)
        return torch.stack([value if j == k else torch.ones_like(value) for j in range(2)], -1)

    def score(values: Tensor) -> float:
        return float(values[:, k].min())

    return replace(example, objective=objective, objectives=("first", "second"), score=score)


@contract
def it_goes_on_learning(factory: Factory, seed: int) -> None:
    """After the whole budget of its own example, what is asked next still depends on what the last points are told."""
    recipe = learner(factory)
    example = recipe.example_task()
    case = case_of(recipe, example, "example")
    ours = Calls(factory(), case.task, seed)
    ours.warm(case, example.evaluations)
    while ours.told < example.evaluations:
        ours.tell(case, ours.ask())
    theirs = Calls(factory(), case.task, seed)
    theirs.state, theirs.number, theirs.told = from_bytes(ours.bytes()), ours.number, ours.told

    def opposite(x: Tensor) -> Evaluation:
        result = case.evaluate(x)
        return replace(result, values=-result.values)

    for _ in range(A_LAP):
        candidates = ours.ask(), theirs.ask()
        if same_asks(*([c.x.numpy()] for c in candidates)) is not None:
            return
        ours.tell(case, candidates[0])
        theirs.tell(replace(case, objective=opposite), candidates[1])
    raise AssertionError(
        f"after {example.evaluations} evaluations, values of opposite sign change nothing in what it asks next: it has stopped learning."
    )


def _wins(found: Race, where: str = "") -> None:
    """Require that the strategy beats random search; ``where`` it did not, as the beginning of a sentence."""
    lost = found.lost()
    require(lost is None, f"{where}{lost}")


def _sphere(recipe: Strategy[Any]) -> Example:
    """The default example with the budget of the strategy's own, in two dimensions where evaluations are few."""
    return sphere_example(recipe.example_task().evaluations, dim=2 if thinks_long(recipe) else 5)


def _race_elsewhere(factory: Factory, example: Example, seed: int) -> Race:
    """A race on another example than the strategy's own, where it takes that one."""
    if factory().capabilities.requires:
        raise ContractDoesNotApply("it needs a problem of its own.")
    try:
        return race(factory, example, seed)
    except CapabilityError as refusal:
        raise ContractDoesNotApply(f"it refuses a box of reals: {refusal}") from refusal


@contract
def what_does_not_learn_says_so(factory: Factory, seed: int) -> None:
    """Where ``capabilities.learns`` is False, what is asked does not depend on what was told."""
    if factory().capabilities.learns:
        raise ContractDoesNotApply("it learns.")
    case = case_for(factory(), "mixed", "integers", "box")
    ours, theirs = (Session(case, factory(), seed) for _ in range(2))
    for _ in range(case.steps):
        ids, others = ours.ask(case.size), theirs.ask(case.size)
        ours.tell(ids)
        theirs.study.tell(others, np.tile(np.arange(len(others), dtype=np.float64)[:, None], (1, len(case.task.objectives))))
    difference = same_asks(ours.asked, theirs.asked)
    require(difference is None, f"it says that it does not learn, but told other values, {difference}.")


@contract
def study_equals_minimize(factory: Factory, seed: int) -> None:
    """A study and the in-memory loop ask the same points of the same seed, whole generations each.

    The loop hands out the strategy's own tensors and hosts all runs at once, the study copies; neither may matter.
    """
    recipe = factory()
    case = case_for(recipe, "mixed", "integers", "box")
    if len(case.task.objectives) > 1:
        raise ContractDoesNotApply("it has no case of one objective.")
    calls: list[Tensor] = []

    def objective(z: Tensor) -> Evaluation:
        calls.append(z.detach().clone().reshape(-1, z.shape[-1]))
        result = case.evaluate(case.space.encode(z))
        return Evaluation(result.values.squeeze(-1), result.constraints)

    budget = case.size * (4 if case.size > 1 else 8)
    task = case.task
    problem = _Problem(objective, case, recipe)
    minimize(problem, factory(), evaluations=budget, space=task.space, seed=seed, device="cpu", dtype=task.dtype, array="torch")
    study = case.study(factory(), seed, stop=Evaluations(budget))
    for k, theirs in enumerate(calls[:-1]):  # the last one may have been cut to the budget
        try:
            batch = study.ask(len(theirs))
        except NotReady as error:
            raise AssertionError(f"in call {k} minimize() asked {len(theirs)} points, but the study was not ready: {error}") from error
        ours = batch.x
        require(len(ours) == len(theirs), f"in call {k} minimize() asked {len(theirs)} points, the study {len(ours)}.")
        close = torch.allclose(ours, theirs, rtol=1e-7, atol=1e-9)
        require(close, f"call {k} of a study and of minimize() differ by up to {float((ours - theirs).abs().max()):.3g}.")
        result = case.evaluate(case.space.encode(ours))
        study.tell(batch, result.values, constraints=result.constraints)


class _Problem:
    """The objective with what the strategy needs of the case's problem."""

    def __init__(self, objective: object, case: Case, recipe: Strategy[Any]) -> None:
        self._objective = objective
        self.space = case.space
        self.objectives = case.task.objectives
        self.constraints = case.task.constraints
        for name in recipe.capabilities.requires:
            setattr(self, name, getattr(case.task.problem, name))

    def __call__(self, z: Tensor) -> Evaluation:
        return self._objective(z)  # type: ignore[operator,no-any-return]
