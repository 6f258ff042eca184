"""Acquisition functions: recipes that say how much an evaluation at a point promises, given the fitted models.

Each gives the logarithm of what it promises where that is positive (``confidence-bound`` and ``thompson`` without constraints need
none), so that gradients survive where there is next to nothing to gain (Ament et al., Unexpected improvements to expected improvement,
NeurIPS 2023).
Under outcome constraints, and where evaluations fail, the promise is multiplied by the probability of feasibility; while nothing
feasible is known that probability is all that counts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoopt import registry
from zoopt.errors import ConfigError
from zoopt.strategies.bo.improvement import log_h

if TYPE_CHECKING:
    from zoopt.strategies.bo.models import Fitted
    from zoopt.strategy import Task

Function = Callable[[Tensor], Tensor]
"""Takes points one by one, ``(m, 1, d)``, and gives ``(m,)``, the larger the better."""

_JUDGED = 12  # points at which a risk is looked at: so many told ones, so many spread over the space, so many near the best
LEAST = 1e-300  # of what is positive before its logarithm is taken


@dataclass(frozen=True)
class Acquisition:
    """Base class of every acquisition function: a frozen dataclass of hyper-parameters."""

    several: ClassVar[bool | None] = False  # whether it is for several objectives; None: for any number
    any_scale: ClassVar[bool] = False  # whether values may be seen on another scale than their own, if only their order is kept
    takes_derivatives: ClassVar[bool] = True  # whether it works on a model that knows derivatives
    looks_beyond: ClassVar[bool] = False  # whether it chooses fidelities and environment; else fidelities are held at their targets

    def check(self, task: Task) -> None:
        """Refuses, with a ConfigError, a task in which it has no meaning."""
        m = len(task.objectives)
        if task.space.environment and not (self.looks_beyond and m == 1):
            raise ConfigError(
                f"{type(self).__name__} looks over no random environment; take acquisition = 'knowledge-gradient' and one objective."
            )
        if self.several is not None and self.several != (m > 1):
            fitting = "hypervolume-improvement" if m > 1 else "improvement"
            raise ConfigError(
                f"{type(self).__name__} is for {'several objectives' if self.several else 'one objective'}, and this study has {m}; "
                f"take acquisition = 'automatic' or '{fitting}'."
            )

    @abstractmethod
    def function(self, fitted: Fitted, awaited: Tensor | None) -> Function:
        """The function to maximise.

        Args:
            fitted: The models of objective and constraints, and what was told.
            awaited: Points whose results are awaited, ``(p, d)``, or None.
        """

    def title(self, fitted: Fitted) -> str:
        """What it is called in reports."""
        return type(self).__name__


def make_acquisition(acquisition: Acquisition | str) -> Acquisition:
    """The recipe itself, or that of a registered name with its defaults.

    Raises:
        UnknownName: No acquisition function of this name.
        ConfigError: Neither a name nor a recipe.
    """
    made: Any = registry.load(acquisition, "acquisitions")() if isinstance(acquisition, str) else acquisition
    if not isinstance(made, Acquisition):
        raise ConfigError(
            "an acquisition function is a registered name or a recipe, an instance of a class derived from "
            f"zoopt.strategies.bo.acquisitions.Acquisition; got {acquisition!r}."
        )
    return made


@dataclass(frozen=True)
class Sampled(Acquisition):
    """Functions over joint posterior samples, those at points that are awaited among them; feasibility alone while nothing is feasible."""

    samples: int = 128  # joint posterior samples

    def __post_init__(self) -> None:
        at_least(self, samples=2)

    def function(self, fitted: Fitted, awaited: Tensor | None) -> Function:
        from botorch.acquisition.logei import qLogProbabilityOfFeasibility
        from botorch.sampling import SobolQMCNormalSampler

        from zoopt.strategies.bo.search import seed_of

        sampler = SobolQMCNormalSampler(torch.Size([self.samples]), seed=seed_of(fitted.random.child("samples")))
        if not fitted.seeks_feasibility:
            return self.gain(fitted, awaited, sampler)
        made: Function = qLogProbabilityOfFeasibility(fitted.joint, constraints=fitted.scaled_limits, sampler=sampler, X_pending=awaited)
        return made

    @abstractmethod
    def gain(self, fitted: Fitted, awaited: Tensor | None, sampler: Any) -> Function:
        """The function where a feasible point is known, or none is needed."""

    @abstractmethod
    def name(self, fitted: Fitted) -> str:
        """What that function is called in reports."""

    def title(self, fitted: Fitted) -> str:
        return "log probability of feasibility" if fitted.seeks_feasibility else self.name(fitted)


@dataclass(frozen=True)
class NoisyImprovement(Sampled):
    """Noisy log expected improvement: over the best of the told points in each of many joint posterior samples, pending ones among them.

    Letham, Karrer, Ottoni, Bakshy, Constrained Bayesian optimization with noisy experiments, Bayesian Analysis 14(2), 2019.
    """

    any_scale: ClassVar[bool] = True

    def gain(self, fitted: Fitted, awaited: Tensor | None, sampler: Any) -> Function:
        from zoopt.strategies.bo.sampled import LogImprovement

        made: Function = LogImprovement(
            lambda samples: samples[..., 0], fitted.worse, fitted.joint, fitted.baseline, sampler, awaited, fitted.scaled_limits or None
        )
        return made

    def name(self, fitted: Fitted) -> str:
        return "noisy log expected improvement"


@dataclass(frozen=True)
class Weighted(Acquisition):
    """Functions of one point and its own posterior; points that are awaited count as told, with the values that are expected there."""

    def function(self, fitted: Fitted, awaited: Tensor | None) -> Function:
        believed = fitted.believing(awaited)
        limits = believed.limits

        def feasible(x: Tensor) -> Tensor:
            if fitted.goal is not None and len(fitted.goal.settings) == 1:  # what fails in some environment fails there alone
                x = fitted.goal.judged(fitted.goal.plain(x.squeeze(-2)))
            total = x.new_zeros(x.shape[0])
            for limit in limits:
                mean, sd = moments(limit, x)
                total = total + torch.special.log_ndtr(-mean / sd)
            return total

        if fitted.seeks_feasibility:
            return feasible
        promise = self.promise(believed)
        return (lambda x: promise(x) + feasible(x)) if limits else promise

    @abstractmethod
    def promise(self, fitted: Fitted) -> Function:
        """The logarithm of what a feasible point promises; without constraints any increasing function of it will do."""


@dataclass(frozen=True)
class Improvement(Weighted):
    """Log expected improvement over the best value, or under noise over the best expected one. Jones, Schonlau & Welch (1998)."""

    any_scale: ClassVar[bool] = True

    def promise(self, fitted: Fitted) -> Function:
        best = fitted.incumbent_value

        def log_improvement(x: Tensor) -> Tensor:
            mean, sd = moments(fitted.objective, x)
            return log_h((best - mean) / sd) + sd.log()

        return log_improvement

    def title(self, fitted: Fitted) -> str:
        return "log expected improvement"


@dataclass(frozen=True)
class ProbabilityOfImprovement(Weighted):
    """Log probability of an improvement by a margin. Kushner (1964). Greedy with a small margin."""

    margin: float = 0.01  # improvement that counts, as a part of the range of what is expected at the told points

    any_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise ConfigError(f"margin must be 0 or more; got {self.margin!r}.")

    def promise(self, fitted: Fitted) -> Function:
        wanted = fitted.incumbent_value - self.margin * fitted.range_of_values

        def log_probability(x: Tensor) -> Tensor:
            mean, sd = moments(fitted.objective, x)
            value: Tensor = torch.special.log_ndtr((wanted - mean) / sd)
            return value

        return log_probability

    def title(self, fitted: Fitted) -> str:
        return "log probability of improvement"


@dataclass(frozen=True)
class ConfidenceBound(Weighted):
    """Lower confidence bound of what is minimised, known as upper confidence bound. Srinivas, Krause, Kakade, Seeger (2010), Theorem 1."""

    beta: float | None = None  # the bound is sqrt(beta) standard deviations away; None: 2 ln(k t^2 pi^2 / 0.6) for t results, k = 1000

    def __post_init__(self) -> None:
        if self.beta is not None and not 0 <= self.beta < math.inf:
            raise ConfigError(f"beta must be 0 or more, or None; got {self.beta!r}.")

    def promise(self, fitted: Fitted) -> Function:
        t = max(fitted.told, 1)
        beta = self.beta if self.beta is not None else 2.0 * math.log(1000.0 * t**2 * math.pi**2 / (6.0 * 0.1))

        def gain(x: Tensor) -> Tensor:
            mean, sd = moments(fitted.objective, x)
            bound = mean - math.sqrt(beta) * sd
            if not fitted.limits:
                return -bound
            return torch.nn.functional.softplus((fitted.worse - bound) / fitted.range_of_values, beta=20.0).clamp_min(LEAST).log()

        return gain

    def title(self, fitted: Fitted) -> str:
        return "upper confidence bound"


@dataclass(frozen=True)
class KnowledgeGradient(Weighted):
    """Log knowledge gradient: how much the least expected value falls, over the told points and points spread over the space.

    Frazier, Powell, Dayanik, The knowledge-gradient policy for correlated normal beliefs, INFORMS J. Computing 21(4), 2009, exact for a
    finite set; with ``spread = 0`` the set is what was told and the point itself (Scott, Frazier, Powell, SIAM J. Optim. 21(3), 2011),
    which is expected improvement's generalisation to noise in Frazier's tutorial (arXiv:1807.02811, section 4).
    """

    spread: int = 32  # points spread over the space; 0: the told points and the point itself
    kept: int = 24  # told points, those with the least expected value

    looks_beyond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, spread=0, kept=1)

    def promise(self, fitted: Fitted) -> Function:
        told = fitted.settings[torch.argsort(fitted.expected(fitted.settings), stable=True)[: self.kept]]
        fixed = told
        if self.spread:
            fixed = torch.cat([told, fitted.search.spread(self.spread, fitted.random.child("knowledge"))])
        if fitted.goal is not None:
            from zoopt.strategies.bo.goal import knowledge

            key = fitted.random.child("judged")
            if not fitted.goal.measure.linear:
                near = fitted.search.around(told[:1], _JUDGED, key.child("around"))
                fixed = torch.cat([told[:_JUDGED], fixed[len(told) :][:_JUDGED], near])
            return knowledge(fitted.objective, fitted.noise_variance, fitted.goal, fixed, log_expected_gain, key)

        def log_gain(x: Tensor) -> Tensor:
            posterior: Any = fitted.objective.posterior(torch.cat([x, fixed.expand(x.shape[0], -1, -1)], -2))
            mean, covariance = posterior.mean.squeeze(-1), posterior.distribution.covariance_matrix
            slope = covariance[:, 0] / (covariance[:, 0, :1] + fitted.noise_variance).clamp_min(LEAST).sqrt()
            gain = log_expected_gain(-mean, slope)
            if self.spread:
                return gain
            ahead = (mean[:, 1:].amin(-1) - mean[:, 0]).clamp_min(LEAST)  # of all told points, before anything is evaluated
            return torch.logaddexp(gain, ahead.log())

        return log_gain

    def title(self, fitted: Fitted) -> str:
        return "log knowledge gradient"


@dataclass(frozen=True)
class Thompson(Acquisition):
    """A function drawn from the posterior, whose minimum is proposed; each point of a batch draws its own. Thompson (1933).

    Drawn at points spread over the space and continued between them by their posterior mean given these values. Under constraints their
    functions are drawn too, and a point that breaks one in them comes after all that do not.
    """

    spread: int = 256  # points at which functions are drawn, beside the best told ones

    def __post_init__(self) -> None:
        at_least(self, spread=1)

    def function(self, fitted: Fitted, awaited: Tensor | None) -> Function:
        key = fitted.random.child("function", 0 if awaited is None else len(awaited))
        believed = fitted.believing(awaited)
        functions = [
            _continued(model, *believed.sampled(model, self.spread, 1, key.child(k)))
            for k, model in enumerate((believed.objective, *believed.limits))
        ]

        def least(x: Tensor) -> Tensor:
            value, *limits = [function(x.squeeze(-2)) for function in functions]
            if not limits:
                return -value
            broken = torch.stack([limit / scale for limit, scale in zip(limits, believed.scales, strict=True)]).clamp_min(0).sum(0)
            return torch.where(broken > 0, -believed.worse - broken * believed.range_of_values, -value)

        return least

    def title(self, fitted: Fitted) -> str:
        return "Thompson sampling"


@dataclass(frozen=True)
class Guided(Acquisition):
    """Another acquisition function, helped by where a person believes the optimum to be; the belief fades as results come in.

    The logarithm of the promise is raised by ``confidence / n`` times that of a normal density around the point that is named, n results
    being known. Hvarfner, Stoll, Souza, Lindauer, Hutter, Nardi, piBO, ICLR 2022.
    """

    near: Mapping[str, Any] | None = None  # parameters believed to be good, some or all of them
    acquisition: Acquisition | str = "improvement"  # a recipe or a name; in TOML also a table with the name and its fields
    width: float = 0.1  # standard deviation of the belief, in widths of the space
    confidence: float = 10.0  # results after which the belief weighs as much as what is known

    several: ClassVar[bool | None] = None  # as the other one

    @property
    def any_scale(self) -> bool:  # type: ignore[override]
        """As the other one."""
        return self._inner.any_scale

    @property
    def takes_derivatives(self) -> bool:  # type: ignore[override]
        """As the other one."""
        return self._inner.takes_derivatives

    def __post_init__(self) -> None:
        if not isinstance(self.near, Mapping) or not self.near:
            raise ConfigError(f"guided needs near, parameters by name near which the optimum is believed to be; got {self.near!r}.")
        object.__setattr__(self, "near", dict(self.near))
        object.__setattr__(self, "acquisition", make_acquisition(self.acquisition))
        if isinstance(self.acquisition, ConfidenceBound | Thompson):
            raise ConfigError(
                "guided multiplies a promise, and confidence-bound and thompson give none that is positive; "
                "take another acquisition function."
            )
        for name in ("width", "confidence"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0; got {getattr(self, name)!r}.")

    def check(self, task: Task) -> None:
        """Refuses what the other one refuses, and names that the space has not."""
        self._inner.check(task)
        self._belief(task)

    def _belief(self, task: Task) -> tuple[Tensor, Tensor]:
        """Which columns it is about, and their encoded values."""
        space, near = task.space, self.near or {}
        names = [column.name for column in space.columns]
        unknown = [name for name in near if name not in names]
        if unknown:
            raise ConfigError(f"guided: there is no variable {unknown[0]!r}; the space has {', '.join(dict.fromkeys(names))}.")
        middle = space.params(space.snap(torch.from_numpy(space.start).unsqueeze(0)))[0]
        x = torch.from_numpy(space.encode_params([{**middle, **near}])[0])
        return torch.tensor([name in near for name in names]), x

    def function(self, fitted: Fitted, awaited: Tensor | None) -> Function:
        inner = self._inner.function(fitted, awaited)
        about, centre = self._belief(fitted.task)
        discrete = torch.tensor([column.kind == "choice" for column in fitted.task.space.columns])
        weight = self.confidence / max(fitted.told, 1)

        def guided(x: Tensor) -> Tensor:
            away = x.squeeze(-2) - centre
            away = torch.where(discrete, (away != 0).to(away.dtype), away)[:, about] / self.width
            return inner(x) - weight * 0.5 * away.square().clamp_max(100.0).sum(-1)

        return guided

    @property
    def _inner(self) -> Acquisition:
        return self.acquisition  # type: ignore[return-value]  # a name was replaced when the recipe was made

    def title(self, fitted: Fitted) -> str:
        return f"{self._inner.title(fitted)}, guided"


def moments(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation of a model's one output at ``x: (m, 1, d)``, ``(m,)`` each."""
    if getattr(model, "settled", False):
        found: tuple[Tensor, Tensor] = model.moments(x.squeeze(-2))
        return found
    posterior = model.posterior(x)
    return posterior.mean.reshape(-1), posterior.variance.reshape(-1).clamp_min(1e-20).sqrt()


def log_expected_gain(a: Tensor, b: Tensor) -> Tensor:
    """``log(E[max_i (a_i + b_i Z)] - max_i a_i)`` for a standard normal Z, exactly; differentiable.

    Line i is the highest between where it overtakes the last flatter line and where the first steeper one overtakes it. At each such
    place c the slope rises by some d, which adds ``d h(-|c|)``, ``h(z) = phi(z) + z Phi(z)``: Frazier, Powell, Dayanik (2009), eq. (14),
    without their sequential scan.

    Args:
        a: Heights, ``(m, k)``.
        b: Slopes, ``(m, k)``.

    Returns:
        ``(m,)``; the logarithm of a tiny number where nothing can be gained.
    """
    rise = b.unsqueeze(-1) - b.unsqueeze(-2)  # of line i over line j, (m, i, j)
    place = (a.unsqueeze(-2) - a.unsqueeze(-1)) / torch.where(rise == 0, 1.0, rise)  # where they cross
    order = torch.arange(a.shape[-1])
    higher = (a.unsqueeze(-2) > a.unsqueeze(-1)) | ((a.unsqueeze(-2) == a.unsqueeze(-1)) & (order < order.unsqueeze(-1)))
    hidden = ((rise == 0) & higher).any(-1)
    begins, before = torch.where(rise > 0, place, -torch.inf).max(-1)
    ends = torch.where(rise < 0, place, torch.inf).amin(-1)
    kept = ~hidden & (begins < ends) & torch.isfinite(begins)
    steeper = torch.where(kept, rise.gather(-1, before.unsqueeze(-1)).squeeze(-1), 1.0).clamp_min(LEAST)
    each = steeper.log() + log_h(-torch.where(kept, begins, 0.0).abs())
    floor = math.log(LEAST)
    return torch.logsumexp(torch.where(kept, each, 2.0 * floor), -1).clamp_min(floor)


def _continued(model: Any, grid: Tensor, values: Tensor) -> Function:
    """The posterior mean of a model at ``(m, d)`` given also its own values at ``grid: (g, d)``, ``values: (1, g)``."""
    from zoopt.strategies.bo.models import root_of

    with torch.no_grad():
        posterior = model.posterior(grid)
        mean, covariance = posterior.mean.squeeze(-1), posterior.distribution.covariance_matrix
        weights = torch.cholesky_solve((values[0] - mean).unsqueeze(-1), root_of(covariance)).squeeze(-1)

    def at(x: Tensor) -> Tensor:
        parts = []
        for part in x.split(256):
            both: Any = model.posterior(torch.cat([part, grid]))
            cross = both.distribution.covariance_matrix[: len(part), len(part) :]
            parts.append(both.mean[: len(part), 0] + cross @ weights)
        return torch.cat(parts)

    return at


def at_least(recipe: Any, **least: int) -> None:
    """Refuses a recipe in which one of these fields is smaller than what is given for it."""
    for name, smallest in least.items():
        if not getattr(recipe, name) >= smallest:
            raise ConfigError(f"{name} must be at least {smallest}; got {getattr(recipe, name)!r}.")
