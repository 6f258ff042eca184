"""Contracts about learning: better than chance where it learns, and the same through either door."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import NotReady
from zoopt.feedback import Evaluation
from zoopt.loop import minimize
from zoopt.random import Random
from zoopt.stop import Evaluations
from zoopt.strategy import Example, Strategy
from zoopt.testing._cases import Case, case_for, ranked
from zoopt.testing._contract import ContractDoesNotApply, Factory, contract, require
from zoopt.testing._session import Session, same_asks

_RANDOM_RUNS = 101
_MOST_POINTS = 400_000  # of random search, in all


@contract
def better_than_random_search(factory: Factory, seed: int) -> None:
    """On its own example, within that example's budget, the median of several runs beats the median of random search."""
    recipe = factory()
    if not recipe.capabilities.learns:
        raise ContractDoesNotApply("it does not learn, and says so.")
    _beats_random(factory, case_for(recipe, "example"), recipe.example_task(), seed)


@contract
def rankings_beat_random_search(factory: Factory, seed: int) -> None:
    """On its own example it beats random search although only orders are told.

    Concerns strategies that learn and whose weakest feedback is a ranking.
    """
    recipe = factory()
    example = recipe.example_task()
    if recipe.capabilities.feedback != "ranking" or not recipe.capabilities.learns:
        raise ContractDoesNotApply("it does not learn from rankings.")
    if len(example.objectives) > 1 or example.constraints:
        raise ContractDoesNotApply("its example has no hidden order that a person could tell.")
    _beats_random(factory, ranked(case_for(recipe, "example")), example, seed)


def _beats_random(factory: Factory, case: Case, example: Example, seed: int) -> None:
    scores = []
    for k in range(3 if case.expensive else 5):
        session = Session(case, factory(), seed + k, warm=False, stop=Evaluations(example.evaluations))
        done = 0
        while done < example.evaluations:
            ids = session.ask(min(max(case.size, 2 if case.task.feedback == "ranking" else 1), example.evaluations - done))
            if not ids:
                break
            session.tell(ids)
            done += len(ids)
        scores.append(_score(case, example, torch.from_numpy(np.concatenate(session.asked))))
    chance = _random_scores(case, example, seed)
    ours, theirs = float(np.median(scores)), float(np.median(chance))
    require(
        ours < theirs,
        f"after {example.evaluations} evaluations the median of {len(scores)} runs is {ours:.6g} "
        f"(runs: {', '.join(f'{s:.4g}' for s in scores)}), that of random search {theirs:.6g}.",
    )


def _random_scores(case: Case, example: Example, seed: int) -> list[float]:
    runs = max(min(_RANDOM_RUNS, _MOST_POINTS // example.evaluations), 5)
    scores = []
    for run in range(runs):
        key = Random(seed, run, ("random search",))
        x = case.space.repair(case.space.from_unit(key.uniform((example.evaluations, case.space.dim))), key)
        scores.append(_score(case, example, x))
    return scores


def _score(case: Case, example: Example, x: Tensor) -> float:
    """What a run that evaluated these points is worth, lower is better."""
    result = case.evaluate(x.to(case.task.dtype))
    values = result.values
    ok = torch.isfinite(values).all(-1)
    if result.constraints is not None:
        ok &= (torch.as_tensor(result.constraints) <= 0).all(-1)
    if example.score is not None:
        return float(example.score(values[ok]))
    return float(values[ok, 0].min()) if bool(ok.any()) else float("inf")


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
