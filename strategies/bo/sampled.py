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
from botorch.acquisition.predictive_entropy_search import qPredictiveEntropySearch
from botorch.acquisition.utils import compute_best_feasible_objective
from botorch.utils.multi_objective.hypervolume import NoisyExpectedHypervolumeMixin, SubsetIndexCachingMixin
from torch import Tensor

_EP_JITTER = 1e-4  # BoTorch's own
_STEP = 1e-5  # of a central difference, in encoded units

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


def information_about_place(model: Any, places: Tensor) -> Callable[[Tensor], Tensor]:
    """Predictive entropy search: what a value at ``(m, 1, d)`` tells about which of ``places: (k, d)`` is the minimum, ``(m,)``.

    BoTorch's estimate is not differentiable where it is computed from factors: its gradient is taken by central differences.
    """
    estimate = qPredictiveEntropySearch(model, places, maximize=False, ep_jitter=_EP_JITTER, test_jitter=_EP_JITTER)

    def information(x: Tensor) -> Tensor:
        apply: Any = _Differences.apply  # which PyTorch leaves untyped
        found: Tensor = apply(x, estimate)
        return found

    return information


class _Differences(torch.autograd.Function):
    """A function of points ``(m, 1, d)`` with a gradient by central differences."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.function, ctx.x = function, x.detach()
        with torch.no_grad():
            return function(ctx.x).detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        x, d = ctx.x, ctx.x.shape[-1]
        step = _STEP * torch.eye(d, dtype=x.dtype).unsqueeze(1).unsqueeze(1)  # (d, 1, 1, d)
        with torch.no_grad():
            ahead, behind = (ctx.function((x + sign * step).flatten(0, 1)).view(d, -1) for sign in (1.0, -1.0))
        return upstream[0].view(-1, 1, 1) * ((ahead - behind) / (2.0 * _STEP)).mT.unsqueeze(1), None
