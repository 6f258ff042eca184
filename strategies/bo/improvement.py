"""Noisy expected improvement. Imported when a model is fitted, since it loads BoTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.objective import GenericMCObjective
from botorch.acquisition.utils import compute_best_feasible_objective
from torch import Tensor


class NoisyImprovement(qLogNoisyExpectedImprovement):
    """BoTorch's acquisition function, but for the worlds in which no baseline point is feasible.

    There BoTorch guesses what a feasible point must improve upon from random points, drawn from torch's global generator.
    """

    def __init__(
        self,
        worse: float,
        model: Any,
        baseline: Tensor,
        sampler: Any,
        awaited: Tensor | None,
        limits: list[Callable[[Tensor], Tensor]] | None,
    ) -> None:
        self._worse = worse
        super().__init__(
            model,
            X_baseline=baseline,
            sampler=sampler,
            objective=GenericMCObjective(_minus_first),
            X_pending=awaited,
            constraints=limits,
            prune_baseline=False,
        )

    def _compute_best_feasible_objective(self, samples: Tensor, obj: Tensor) -> Tensor:
        worse = torch.tensor(self._worse)
        return compute_best_feasible_objective(samples, obj, self._constraints, infeasible_obj=worse)


def _minus_first(samples: Tensor, X: Tensor | None = None) -> Tensor:
    return -samples[..., 0]
