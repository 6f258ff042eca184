"""The models of what was told, and what they promise."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoopt.random import Random
from zoopt.strategies.bo.search import Search, seed_of
from zoopt.strategy import Task
from zoopt.surrogates.base import Surrogate, TrainingData

if TYPE_CHECKING:
    from botorch.acquisition import AcquisitionFunction

_log = logging.getLogger("zoopt.strategies.bo")

_F64 = torch.float64
_MOST_LOOKED_AT = 300  # points of the least posterior mean among which those are looked for that may be the best
_MOST_BASELINE = 64  # points that may be the best, over which an improvement is measured
_WORLDS = 1024  # joint posterior samples by which they are found
_EXACT = 800  # GPyTorch draws random numbers, and approximates, where a covariance has more rows


@dataclass(frozen=True)
class Data:
    """What the models are fitted to."""

    objective: TrainingData
    constraints: Tensor  # (n, c) beside the objective's rows, NaN where not told
    failed: Tensor  # (f, d) points whose evaluation failed


class Promise:
    """The fitted models, and the acquisition function over them.

    Where the asker fixes columns (a context), an improvement is one over what the models expect there: of the points told, with
    those columns set to the settings that are asked for. What was reached under other settings is no measure.
    """

    def __init__(
        self, surrogate: Surrogate, samples: int, task: Task, data: Data, memory: Mapping[str, Tensor], search: Search, random: Random
    ) -> None:
        self._deterministic = task.deterministic
        self._surrogate = surrogate
        self._samples = samples
        self._random = random
        self._told = data.objective.x.shape[0]
        self.memory: dict[str, Tensor] = {}
        self._models: list[Any] = []
        self._scales: list[float] = []

        def fit(name: str, part: TrainingData) -> Tensor:
            scaled, _ = scaled_to_unit(part)
            model = surrogate.fit(scaled, task, memory.get(name))
            remembered = surrogate.memory(model)
            if remembered is not None:
                self.memory[name] = remembered
            self._models.append(model)
            return scaled.y[:, 0]

        x = data.objective.x
        y = fit("objective", data.objective)
        for j in range(data.constraints.shape[-1]):
            column = data.constraints[:, j]
            told = torch.isfinite(column)
            if int(told.sum()) < 2:
                continue
            spread = float(fit(f"constraint {j}", TrainingData(x[told], winsorised(column[told]).unsqueeze(-1))).std())
            self._scales.append(spread if spread > 0 else 1.0)
        self._failures = data.failed.shape[0]
        if self._failures:
            self._models.append(_failure_model(surrogate, task, x, data.failed))
            self._scales.append(1.0)

        violation = violation_of(data.constraints)
        if search.fixed:
            x = torch.unique(search.valid(x, random.child("settings")), dim=0)
            y, violation = self._expected(x)
        self._feasible = bool((violation <= 0).any())
        order = best_first(y, violation)
        self._best = y[order[0]]
        self._worse = float(2.0 * y.max() - y.min())
        self._x = x
        self.incumbents = x[order[:5]]
        self.name = ""

    def _expected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean of the objective and total violation by the posterior means of the others at ``x: (n, d)``, ``(n,)`` each."""
        with torch.no_grad():
            y, *limits = [model.posterior(x.unsqueeze(-2)).mean.reshape(-1) for model in self._models]
        violation = torch.zeros_like(y)
        for limit, scale in zip(limits, self._scales, strict=True):
            violation += limit.clamp_min(0) / scale
        return y, violation

    @cached_property
    def _baseline(self) -> Tensor:
        """Points told that are the best in some of the worlds in which what was told holds, the likeliest first."""
        from botorch.sampling import SobolQMCNormalSampler

        x: Tensor = torch.unique(self._x, dim=0)  # told twice, a point would only make the covariance singular
        most = min(_MOST_LOOKED_AT, _EXACT // len(self._models))
        if x.shape[0] > most:
            x = x[best_first(*self._expected(x))[:most]]
        samples = []
        for k, model in enumerate(self._models):
            sampler = SobolQMCNormalSampler(torch.Size([_WORLDS]), seed=seed_of(self._random.child("worlds", k)))
            with torch.no_grad():
                samples.append(sampler(model.posterior(x))[..., 0])
        keeps = torch.stack(samples[1:]).le(0).all(0) if len(samples) > 1 else torch.ones_like(samples[0], dtype=torch.bool)
        best = torch.where(keeps, samples[0], torch.inf).argmin(-1)[keeps.any(-1)]
        if best.numel() == 0:
            return x[best_first(*self._expected(x))[:_MOST_BASELINE]]
        times = torch.bincount(best, minlength=x.shape[0])
        order = torch.argsort(times, descending=True, stable=True)[:_MOST_BASELINE]
        return x[order[times[order] > 0]]

    def beside(self, out: Tensor) -> AcquisitionFunction:
        """The acquisition function given the points ``out: (p, d)`` whose results are awaited."""
        from botorch.acquisition import LogExpectedImprovement
        from botorch.acquisition.logei import qLogProbabilityOfFeasibility
        from botorch.models import ModelListGP
        from botorch.sampling import SobolQMCNormalSampler

        from zoopt.strategies.bo.improvement import NoisyImprovement

        sampler = SobolQMCNormalSampler(torch.Size([self._samples]), seed=seed_of(self._random.child("samples")))
        awaited = out if out.shape[0] else None
        limits: list[Callable[[Tensor], Tensor]] = [_Limit(k + 1, scale) for k, scale in enumerate(self._scales)]
        if not limits and awaited is None and self._deterministic:
            self.name = "log expected improvement"
            return LogExpectedImprovement(self._models[0], best_f=self._best, maximize=False)
        model = self._models[0] if not limits else ModelListGP(*self._models)
        if limits and not self._feasible:
            self.name = "log probability of feasibility"
            return qLogProbabilityOfFeasibility(model, constraints=limits, sampler=sampler, X_pending=awaited)
        self.name = "noisy log expected improvement"
        return NoisyImprovement(-self._worse, model, self._baseline, sampler, awaited, limits or None)

    def report(self) -> dict[str, float | str]:
        """What the proposals rest on."""
        return {
            "model": type(self._surrogate).__name__,
            "acquisition": self.name,
            "points": float(self._told),
            "failures": float(self._failures),
        }


@dataclass(frozen=True)
class _Limit:
    """Output ``column`` of the models as a constraint in units of its spread, which the smoothing of BoTorch expects."""

    column: int
    scale: float

    def __call__(self, samples: Tensor) -> Tensor:
        return samples[..., self.column] / self.scale


def _failure_model(surrogate: Surrogate, task: Task, good: Tensor, failed: Tensor) -> Any:
    """A model of +1 where the evaluation failed and -1 where it did not; negative means likely to succeed."""
    x = torch.cat([good, failed])
    y = torch.cat([torch.full((good.shape[0], 1), -1.0, dtype=_F64), torch.ones((failed.shape[0], 1), dtype=_F64)])
    return surrogate.fit(TrainingData(x, y), replace(task, deterministic=False))


def violation_of(constraints: Tensor) -> Tensor:
    """Total violation ``(n,)`` of ``constraints: (n, c)``, each in units of its own size; a limit that was not told counts as broken."""
    n, c = constraints.shape
    if c == 0:
        return torch.zeros(n, dtype=_F64)
    size = (torch.nan_to_num(constraints.abs(), nan=0.0, posinf=0.0) / n).sum(0).clamp_min(torch.finfo(_F64).tiny)
    return torch.nan_to_num(constraints / size, nan=1.0).clamp_min(0).sum(-1)


def best_first(y: Tensor, violation: Tensor) -> Tensor:
    """Row numbers ``(n,)``, the best first: by ``violation: (n,)``, then by ``y: (n,)``."""
    return torch.from_numpy(np.lexsort((y.numpy(), violation.numpy())))


def winsorised(y: Tensor) -> Tensor:
    """``y: (n,)`` with its worst outliers brought to five interquartile ranges above the upper quartile.

    A few enormous values would leave no room for the differences among the good ones.
    """
    if y.numel() < 5:
        return y
    lower, upper = torch.quantile(y, torch.tensor([0.25, 0.75], dtype=_F64))
    limit = upper + 5.0 * (upper - lower)
    if float(upper - lower) <= 0 or not bool((y > limit).any()):
        return y
    _log.info("%d value(s) above %.6g were brought down to it before fitting.", int((y > limit).sum()), float(limit))
    return y.clamp_max(limit)


def scaled_to_unit(data: TrainingData) -> tuple[TrainingData, float]:
    """The same points with outcomes ``y: (n, 1)`` in a unit near half their range, and that unit, a power of two.

    So squares of the smallest and the largest outcomes are numbers too, and what BoTorch adds to a covariance for its
    factorisation, or takes for a negligible improvement, is small beside them.
    """
    y = data.y
    size, spread = float(y.abs().max()), float(y.max() / 2 - y.min() / 2)
    size = spread if spread > 1e-14 * size else size  # a range that is no more than rounding must stay what it is
    unit = math.ldexp(1.0, math.frexp(size)[1] - 1) if size > 0 else 1.0
    return TrainingData(data.x, y / unit, None if data.noise is None else data.noise / unit), unit
