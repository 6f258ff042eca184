"""The models of what was told."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt.random import Random
from zoopt.strategies.bo.goal import Goal, judgement
from zoopt.strategies.bo.search import Search, seed_of
from zoopt.strategies.bo.stretch import FEWEST, LEVELS, Stretch
from zoopt.strategy import Task
from zoopt.surrogates.base import Surrogate, TrainingData

_log = logging.getLogger("zoopt.strategies.bo")

_F64 = torch.float64
_MOST_LOOKED_AT = 300  # points of the least posterior mean among which those are looked for that may be the best
_MOST_BASELINE = 64  # points that may be the best, over which an improvement is measured
_WORLDS = 1024  # joint posterior samples by which they are found
_WORLDS_OF_FRONTS = 128  # with several objectives, where many points may be on the front of a world
_JUDGED_BY = 60  # outcomes by which a scale is chosen
_CONVINCING = 3.0  # logarithm of how much more probable outcomes must be on another scale than their own for it to be taken
_EXACT = 800  # GPyTorch draws random numbers, and approximates, where a covariance has more rows


@dataclass(frozen=True)
class Data:
    """What the models are fitted to."""

    objectives: TrainingData  # (n, m) values
    constraints: Tensor  # (n, c) beside their rows, NaN where not told
    failed: Tensor  # (f, d) points whose evaluation failed


class Fitted:
    """The fitted models, and what acquisition functions need to know of them and of what was told.

    Where the asker fixes columns (a context), an improvement is one over what the models expect there: of the points told, with
    those columns set to the settings that are asked for. What was reached under other settings is no measure. So it is with fidelities
    and a random environment, over which a goal judges.

    Attributes:
        goal: Where points are judged, if not where they are evaluated.
        objectives: Models of what is minimised, one output each.
        limits: Models of the outcome constraints and of failing, one output each; negative is feasible.
        scales: Spread of each limit's outcomes.
        feasible: Whether a feasible point is known.
        incumbents: The best points, ``(k, d)``; with several objectives all that are on the front.
        settings: The points told, in the settings that are asked for, ``(n, d)``.
        units: What the values and models of the objectives are measured in, ``(m,)``.
        stretches: The scales on which the values of the objectives are measured, in these units.
        values: Values at the settings, ``(n, m)``: as told, or as expected where the asker fixes columns or there is a goal.
        violation: Total violation of the limits at the settings, ``(n,)``.
        worse: A value worse than all, of the first objective.
        range_of_values: Largest less smallest value of the first objective, positive.
        told: How many points the models are fitted to.
        awaited: Points whose results are awaited, ``(p, d)``, or None.
        memory: Hyperparameters for a warm start of later fits, by model.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        task: Task,
        data: Data,
        memory: Mapping[str, Tensor],
        search: Search,
        random: Random,
        goal: Goal | None = None,
        stretch: bool = False,
    ) -> None:
        self.task = task
        self.goal = goal
        self.deterministic = task.deterministic
        self.search = search
        self.random = random
        self.told = data.objectives.x.shape[0]
        self.failures = data.failed.shape[0]
        self.awaited: Tensor | None = None
        self.memory: dict[str, Tensor] = {}
        self.limits: list[Any] = []
        self.scales: list[float] = []

        def fit(name: str, part: TrainingData, centre: float | None = None) -> Part:
            fitted = fit_part(surrogate, part, task, memory, name, stretch, centre)
            self.memory.update(fitted.memory)
            return fitted

        x, parts = data.objectives.x, [fit(f"objective {k}", part) for k, part in enumerate(data.objectives.columns)]
        self.objectives = [part.model for part in parts]
        values = torch.stack([part.outcomes for part in parts], -1)
        self.units = torch.tensor([part.unit for part in parts], dtype=_F64)
        self.stretches = [part.stretch for part in parts]
        for j in range(data.constraints.shape[-1]):
            column = data.constraints[:, j]
            told = torch.isfinite(column)
            if int(told.sum()) < 2:
                continue
            part = fit(f"constraint {j}", TrainingData(x[told], winsorised(column[told]).unsqueeze(-1)), 0.0)
            spread = float(part.outcomes.std())
            self.limits.append(part.model)
            self.scales.append(spread if spread > 0 else 1.0)
        if self.failures:
            self.limits.append(_failure_model(surrogate, task, x, data.failed))
            self.scales.append(1.0)

        violation = violation_of(data.constraints)
        if search.fixed or goal is not None:
            x = search.valid(x, random.child("settings")) if search.fixed else x
            x = torch.unique(x if goal is None else goal.plain(x), dim=0)
            if goal is not None and bool((may := goal.allowed(x)).any()):
                x = x[may]
            values, violation = self._expected(x)
        self.feasible = bool((violation <= 0).any())
        self.settings, self.values, self.violation = x, values, violation
        merit = merit_of(values)
        order = best_first(merit, violation)
        kept = 5 if values.shape[1] == 1 else max(5, int((merit <= 0).sum()))
        self.incumbents = x[order[:kept]]
        y = values[:, 0]
        self._best = y[order[0]]
        self.worse = float(2.0 * y.max() - y.min())
        spread = float(y.max() - y.min())
        self.range_of_values = spread if spread > 0 else 1.0

    @property
    def objective(self) -> Any:
        """The model of the only objective."""
        (model,) = self.objectives
        return model

    @property
    def even(self) -> bool:
        """Whether the values of the objectives are seen as they were told, up to their units."""
        return all(scale.even for scale in self.stretches)

    @property
    def seeks_feasibility(self) -> bool:
        """Whether a feasible point is needed before anything else counts."""
        return bool(self.limits) and not self.feasible

    @property
    def joint(self) -> Any:
        """All models as one: the objectives, then the limits."""
        from botorch.models import ModelListGP

        models = [*self.objectives, *self.limits]
        return models[0] if len(models) == 1 else ModelListGP(*models)

    @property
    def scaled_limits(self) -> list[Callable[[Tensor], Tensor]]:
        """The limits as functions of samples of the joint model, in units of their spread."""
        return [_Limit(len(self.objectives) + k, scale) for k, scale in enumerate(self.scales)]

    @property
    def anticipated(self) -> tuple[Tensor, Tensor]:
        """Expected values of the only objective at the settings, and their total violation as far as is expected, ``(n,)`` each."""
        values, violation = self._expected(self.settings)
        return values[:, 0], violation

    @cached_property
    def incumbent_value(self) -> Tensor:
        """The best value, or where values are noisy the least expected one, of the points that are feasible as far as is known."""
        if self.deterministic:
            return self._best
        values, violation = self._expected(self.settings)
        return values[best_first(values[:, 0], violation)[0], 0]

    @cached_property
    def front(self) -> Tensor:
        """Values of the told points that are feasible and that no other feasible one dominates, ``(k, m)``; noise is seen through.

        While nothing feasible is known, they are those of the least violation.
        """
        values, violation = (self.values, self.violation) if self.deterministic else self._expected(self.settings)
        best = values[violation <= violation.min().clamp_min(0.0)]
        return torch.unique(best[merit_of(best) <= 0], dim=0) if best.shape[1] > 1 else best.amin(0, keepdim=True)

    @cached_property
    def corners(self) -> tuple[Tensor, Tensor]:
        """The best values of the front, each objective by itself, and the point that hypervolume is measured from, ``(m,)`` each.

        That is the worst values of the front and a tenth of its range more; where the front has no range, of all values.
        """
        ideal, nadir = self.front.amin(0), self.front.amax(0)
        whole = self.values.amax(0) - self.values.amin(0)
        size = torch.where(nadir - ideal > 1e-9 * whole, nadir - ideal, whole)
        return ideal, nadir + 0.1 * torch.where(size > 0, size, torch.ones_like(size))

    @cached_property
    def noise_variance(self) -> float:
        """Of a value of the objective, beside its model's uncertainty."""
        noise = getattr(getattr(self.objective, "likelihood", None), "noise", None)
        scale = getattr(getattr(self.objective, "outcome_transform", None), "stdvs", torch.ones(()))
        return 0.0 if noise is None or self.deterministic else float(noise.detach().mean() * scale.detach().mean() ** 2)

    def expected(self, x: Tensor) -> Tensor:
        """Posterior mean of the only objective at ``x: (n, d)``, ``(n,)``."""
        return self._expected(x)[0].squeeze(-1)

    def _expected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior means of the objectives, ``(n, m)``, and total violation by those of the limits, ``(n,)``, at ``x: (n, d)``.

        With a goal they are judgements of the points by it.
        """
        with torch.no_grad():
            means = [
                model.posterior(x.unsqueeze(-2)).mean.reshape(-1) if self.goal is None else judgement(model, x, self.goal)
                for model in (*self.objectives, *self.limits)
            ]
        m = len(self.objectives)
        violation = x.new_zeros(x.shape[0])
        for limit, scale in zip(means[m:], self.scales, strict=True):
            violation += limit.clamp_min(0) / scale
        return torch.stack(means[:m], -1), violation

    def believing(self, awaited: Tensor | None) -> Fitted:
        """The same, had the points that are awaited, ``(p, d)``, given the values that are expected of them."""
        if awaited is None:
            return self
        believed = copy(self)
        believed.__dict__.pop("incumbent_value", None)
        believed.objectives = [_conditioned(model, awaited) for model in self.objectives]
        believed.limits = [_conditioned(limit, awaited) for limit in self.limits]
        return believed

    def sampled(self, model: Any, spread: int, samples: int, random: Random) -> tuple[Tensor, Tensor]:
        """Joint posterior samples of a model at points spread over the space and the best told ones: ``(g, d)``, ``(samples, g)``."""
        grid = torch.cat(
            [self.search.spread(spread, random.child("grid")), self.settings[torch.argsort(self.expected(self.settings))[:32]]]
        )
        grid = torch.unique(grid, dim=0)
        with torch.no_grad():
            posterior = model.posterior(grid)
            drawn = random.child("base").normal((samples, len(grid))) @ root_of(posterior.distribution.covariance_matrix).mT
            return grid, posterior.mean.squeeze(-1) + drawn

    @cached_property
    def baseline(self) -> Tensor:
        """Points told that are the best in some of the worlds in which what was told holds, the likeliest first."""
        from botorch.sampling import SobolQMCNormalSampler

        m, models = len(self.objectives), [*self.objectives, *self.limits]
        x: Tensor = torch.unique(self.settings, dim=0)  # told twice, a point would only make the covariance singular
        values, violation = self._expected(x)
        first = best_first(merit_of(values), violation)[: min(_MOST_LOOKED_AT, _EXACT // len(models))]
        if first.numel() < x.shape[0]:
            x, first = x[first], torch.arange(first.numel())
        samples = []
        for k, model in enumerate(models):
            sampler = SobolQMCNormalSampler(
                torch.Size([_WORLDS if m == 1 else _WORLDS_OF_FRONTS]), seed=seed_of(self.random.child("worlds", k))
            )
            with torch.no_grad():
                samples.append(sampler(model.posterior(x))[..., 0])
        drawn = torch.stack(samples[:m], -1)  # (worlds, n, m)
        keeps = torch.stack(samples[m:]).le(0).all(0) if len(samples) > m else torch.ones_like(samples[0], dtype=torch.bool)
        if m == 1:
            best = torch.where(keeps, drawn[..., 0], torch.inf).argmin(-1)[keeps.any(-1)]
            times = torch.bincount(best, minlength=x.shape[0])
        else:
            times = torch.stack(
                [(merit_of(torch.where(k.unsqueeze(-1), y, torch.inf)) <= 0) & k for y, k in zip(drawn, keeps, strict=True)]
            ).sum(0)
        if not bool(times.any()):
            return x[first[:_MOST_BASELINE]]
        order = torch.argsort(times, descending=True, stable=True)[:_MOST_BASELINE]
        return x[order[times[order] > 0]]


@dataclass(frozen=True)
class Part:
    """The model of one outcome: what it is measured in, on which scale, and what a later fit may start from."""

    model: Any
    outcomes: Tensor  # (n,)
    unit: float
    stretch: Stretch
    memory: dict[str, Tensor]


def fit_part(
    surrogate: Surrogate,
    part: TrainingData,
    task: Task,
    memory: Mapping[str, Tensor],
    name: str,
    stretch: bool = False,
    centre: float | None = None,
) -> Part:
    """Fit one outcome, on its own scale or the one that makes it the most probable.

    Args:
        surrogate: The recipe.
        part: The outcome.
        task: The task.
        memory: What earlier fits left, by name.
        name: Of the outcome.
        stretch: Whether another scale than its own may be taken, that of an earlier fit where one is remembered; see ``Stretch``.
        centre: Of the scales; None: the best outcome.
    """
    plain, unit = scaled_to_unit(part)
    level = math.inf
    kept: dict[str, Tensor] = {}
    # Derivatives show a narrow valley on any scale.
    if stretch and len(part.x) >= FEWEST and part.gradients is None:
        remembered = memory.get(f"stretch of {name}")
        level = _best_level(surrogate, plain, task, centre) if remembered is None else float(remembered)
        kept[f"stretch of {name}"] = torch.tensor(level, dtype=_F64)
    scale = Stretch.of(plain.y[:, 0], level, centre)
    own = name if scale.even else f"{name} stretched"  # under which hyperparameters are remembered
    data = scale.data(plain)
    model = surrogate.fit(data, task, memory.get(own))
    found = surrogate.memory(model)
    return Part(model, data.y[:, 0], unit, scale, kept if found is None else {own: found, **kept})


def _best_level(surrogate: Surrogate, plain: TrainingData, task: Task, centre: float | None) -> float:
    """The level of the scale on which outcomes are the most probable, as far as some of them say: the best ones and others evenly."""
    y = plain.y[:, 0]
    if len(y) > _JUDGED_BY:
        order = torch.argsort(y, stable=True)
        best, others = order[: _JUDGED_BY // 3], order[_JUDGED_BY // 3 :].sort().values
        even = torch.linspace(0, len(others) - 1, _JUDGED_BY - len(best)).round().long()
        rows = torch.cat([best, others[even]]).sort().values
        plain = TrainingData(plain.x[rows], plain.y[rows], None if plain.noise is None else plain.noise[rows])
    best_score, chosen, start = -math.inf, math.inf, None
    for level in LEVELS:
        scale = Stretch.of(plain.y[:, 0], level, centre)
        if scale.even and not math.isinf(level):
            break  # outcomes all alike have no other scale
        model = surrogate.fit(scale.data(plain), task, start)
        start = surrogate.memory(model)
        evidence = surrogate.evidence(model)
        if evidence is None:
            break  # there is nothing to choose by
        score = evidence + scale.log_jacobian(plain) - (0.0 if scale.even else _CONVINCING)
        if score > best_score:
            best_score, chosen = score, level
    return chosen


def root_of(covariance: Tensor) -> Tensor:
    """The Cholesky root of a covariance ``(g, g)`` that may be singular, with as little added to its diagonal as it takes."""
    from linear_operator.utils.cholesky import psd_safe_cholesky

    size = float(covariance.diagonal().mean())
    root: Tensor = psd_safe_cholesky(covariance, jitter=1e-10 * size, max_tries=6)
    return root


def _conditioned(model: Any, x: Tensor) -> Any:
    """A model that was told its own posterior mean at ``x: (p, d)``, beside what it is fitted to."""
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood

    with torch.no_grad():
        mean = model.posterior(x).mean
        fixed = isinstance(model.likelihood, FixedNoiseGaussianLikelihood)
        noise = model.likelihood.noise.mean().expand_as(mean) if fixed else None
        return model.condition_on_observations(x, mean, **({} if noise is None else {"noise": noise}))


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


def merit_of(values: Tensor) -> Tensor:
    """What rows of ``values: (n, m)`` are ordered by, ``(n,)``: the value, or with several objectives how many rows dominate each.

    Fonseca & Fleming, Genetic algorithms for multiobjective optimization, ICGA 1993.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    counts = []
    for rows in values.split(1024):
        worse = (rows.unsqueeze(1) >= values).all(-1) & (rows.unsqueeze(1) > values).any(-1)
        counts.append(worse.sum(-1))
    return torch.cat(counts).to(values.dtype)


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
    noise, slopes = (None if part is None else part / unit for part in (data.noise, data.gradients))
    return TrainingData(data.x, y / unit, noise, slopes), unit
