"""Acquisition functions over joint posterior samples. Imported when a model is fitted, since it loads BoTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from botorch.acquisition.logei import TAU_RELU, qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.base import MultiObjectiveMCAcquisitionFunction
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.acquisition.utils import compute_best_feasible_objective
from botorch.utils.multi_objective.hypervolume import NoisyExpectedHypervolumeMixin, SubsetIndexCachingMixin
from torch import Tensor

Limits = list[Callable[[Tensor], Tensor]] | None


class LogImprovement(qLogNoisyExpectedImprovement):
    """BoTorch's noisy log expected improvement, but for the worlds in which no baseline point is feasible.

    There BoTorch guesses what a feasible point must improve upon from random points, drawn from torch's global generator.

    Args:
        loss: What is minimised, ``(..., )``, of samples of all models, ``(..., outputs)``.
        worse: A loss worse than all.
        model: All models as one.
        baseline: Points an improvement is measured over, ``(b, d)``.
        sampler: Of the joint posterior.
        awaited: Points whose results are awaited, ``(p, d)``, or None.
        limits: Constraints as functions of samples of all models.
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        worse: float,
        model: Any,
        baseline: Tensor,
        sampler: Any,
        awaited: Tensor | None,
        limits: Limits,
    ) -> None:
        self._worse = worse
        super().__init__(
            model,
            X_baseline=baseline,
            sampler=sampler,
            objective=GenericMCObjective(lambda samples, X: -loss(samples)),
            X_pending=awaited,
            constraints=limits,
            prune_baseline=False,
        )

    def _compute_best_feasible_objective(self, samples: Tensor, obj: Tensor) -> Tensor:
        worse = torch.tensor(-self._worse)
        return compute_best_feasible_objective(samples, obj, self._constraints, infeasible_obj=worse)


class LogHypervolumeImprovement(qLogNoisyExpectedHypervolumeImprovement):
    """BoTorch's noisy log expected hypervolume improvement, without its attempt to compile a C++ kernel in the user's home.

    Args:
        reference: The point that hypervolume is measured from, ``(m,)``.
        size: Of the box between it and the best values of the front, ``(m,)``.
        model: All models as one, the m objectives first.
        baseline: Points an improvement is measured over, ``(b, d)``.
        sampler: Of the joint posterior.
        awaited: Points whose results are awaited, ``(p, d)``, or None.
        limits: Constraints as functions of samples of all models.
    """

    def __init__(
        self, reference: Tensor, size: Tensor, model: Any, baseline: Tensor, sampler: Any, awaited: Tensor | None, limits: Limits
    ) -> None:
        m = reference.numel()
        # In units of that box, which the smoothing of BoTorch expects.
        objective = GenericMCMultiOutputObjective(lambda samples, X: (reference - samples[..., :m]) / size)
        MultiObjectiveMCAcquisitionFunction.__init__(self, model, sampler=sampler, objective=objective, constraints=limits)
        SubsetIndexCachingMixin.__init__(self)
        NoisyExpectedHypervolumeMixin.__init__(
            self, model, [0.0] * m, baseline, sampler=sampler, objective=objective, constraints=limits, X_pending=awaited
        )
        self.tau_relu = TAU_RELU
        self.tau_max = 1e-3
        self.fat = True
