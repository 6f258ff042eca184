"""Runs of a strategy beside runs of random search, and whether the strategy does better by more than chance explains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoopt.feedback import Evaluation
from zoopt.random import Random
from zoopt.stop import Evaluations
from zoopt.strategy import Example
from zoopt.testing._cases import Case, case_of, ranked
from zoopt.testing._contract import Factory
from zoopt.testing._session import Session

_RANDOM_RUNS = 101
_MOST_POINTS = 400_000  # of random search, in all
_LEVEL = 0.01  # of the rank test
_INFEASIBLE = 1e100  # what a run without a feasible point scores, times one more than its least violation

Drive = Callable[[Session, int, int], None]


@dataclass(frozen=True)
class Run:
    """What came of one run.

    Attributes:
        score: Lower is better.
        failed: Share of its evaluations that failed.
    """

    score: float
    failed: float


@dataclass(frozen=True)
class Race:
    """Runs of a strategy and of random search on one example, each of its budget."""

    example: Example
    ours: list[Run]
    chance: list[Run]

    def lost(self) -> str | None:
        """Why the strategy is not better than random search; None where it is.

        The scores are compared by the rank test of Mann & Whitney (1947), so that one run that went astray does not decide: what
        does not learn passes in 1 of 100 races.
        """
        from scipy.stats import mannwhitneyu

        ours, chance = ([run.score for run in runs] for runs in (self.ours, self.chance))
        p = float(mannwhitneyu(ours, chance, alternative="less").pvalue)
        if p < _LEVEL:
            return None
        reached = ", ".join(f"{score:.4g}" for score in ours)
        tenth, middle = (float(np.quantile(chance, share, method="lower")) for share in (0.1, 0.5))
        return (
            f"after {self.example.evaluations} evaluations its runs reached {reached}, a tenth of the runs of random search {tenth:.4g} "
            f"and half of them {middle:.4g}: that may be chance (rank test: p = {p:.2g}, to be below {_LEVEL})."
        )


def race(factory: Factory, example: Example, seed: int, *, drive: Drive | None = None, rankings: bool = False) -> Race:
    """Run a strategy and random search on an example.

    Args:
        factory: Gives the recipe.
        example: The task, its budget and its score.
        seed: Of the first run.
        drive: Asks and tells so many evaluations; it gets the session, their number and a seed. None: whole generations.
        rankings: Tell nothing but orders.

    Raises:
        CapabilityError: The strategy does not take this task.
    """
    case = case_of(factory(), example, "example")
    if rankings:
        case = ranked(case)
    ours = []
    for k in range(3 if case.expensive else 5):
        session = Session(case, factory(), seed + k, warm=False, stop=Evaluations(example.evaluations))
        (drive or _told_whole)(session, example.evaluations, seed + k)
        ours.append(_run(case, example, torch.from_numpy(np.concatenate(session.asked))))
    return Race(example, ours, [_run(case, example, x) for x in random_points(case, example, seed)])


def _told_whole(session: Session, evaluations: int, seed: int) -> None:
    case, done = session.case, 0
    least = 2 if case.task.feedback == "ranking" else 1  # one point alone has no rank
    while done < evaluations:
        ids = session.ask(min(max(case.size, least), evaluations - done))
        if not ids:
            break
        session.tell(ids)
        done += len(ids)


def random_points(case: Case, example: Example, seed: int) -> Iterator[Tensor]:
    """Encoded points ``(evaluations, d)`` of runs of random search."""
    for run in range(max(min(_RANDOM_RUNS, _MOST_POINTS // example.evaluations), 20)):
        key = Random(seed, run, ("random search",))
        x = case.space.from_unit(key.uniform((example.evaluations, case.space.dim)))
        yield case.space.repair(x, key).to(case.task.dtype)


def _run(case: Case, example: Example, x: Tensor) -> Run:
    """What a run that evaluated these points is worth; feasible points count before all others."""
    result = case.evaluate(x.to(case.task.dtype))
    values, (ok, violation) = result.values, soundness(result)
    feasible = ok & (violation <= 0)
    failed = 1.0 - float(ok.double().mean())
    if example.score is not None:
        return Run(float(example.score(values[feasible])), failed)
    if bool(feasible.any()):
        return Run(float(values[feasible, 0].min()), failed)
    return Run(_INFEASIBLE * (1.0 + float(violation[ok].min())) if bool(ok.any()) else float("inf"), failed)


def soundness(result: Evaluation) -> tuple[Tensor, Tensor]:
    """Which rows did not fail, ``(n,)`` bool, and how far each is from feasible, ``(n,)``; 0: it is."""
    ok = torch.isfinite(result.values).all(-1)
    violation = torch.zeros_like(result.values[:, 0])
    if result.constraints is not None:
        violation = torch.as_tensor(result.constraints).to(violation).clamp_min(0.0).sum(-1)
        ok &= torch.isfinite(violation)
    return ok, violation
