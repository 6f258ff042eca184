"""Entropy search: acquisition functions that count what a value tells about the optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoopt.strategies.bo.acquisitions import LEAST, Function, Weighted, at_least, moments

if TYPE_CHECKING:
    from zoopt.strategies.bo.models import Fitted

_LEAST_NOISE = 1e-6  # of a value that is told, as a part of the squared range of values: without noise a value tells endlessly much
_SHARP = 100.0  # how sharply estimates below zero are brought up to it


@dataclass(frozen=True)
class MaxValueEntropy(Weighted):
    """Log of the information that a value gives about the least value. Wang & Jegelka, ICML 2017, eq. (6), for functions without noise."""

    samples: int = 64  # least values, from joint posterior samples
    spread: int = 256  # points at which they are looked for, beside the best told ones

    def __post_init__(self) -> None:
        at_least(self, samples=1, spread=1)

    def promise(self, fitted: Fitted) -> Function:
        _, values = optima(fitted, self.spread, self.samples)
        least = values.minimum(fitted.incumbent_value)  # (samples,); a value that was seen is no less than the least

        def log_information(x: Tensor) -> Tensor:
            mean, sd = moments(fitted.objective, x)
            g = ((mean - least.unsqueeze(-1)) / sd).clamp_min(-30.0)
            log_cdf = torch.special.log_ndtr(g)
            ratio = torch.exp(-0.5 * g.square() - 0.5 * math.log(2.0 * math.pi) - log_cdf)
            information: Tensor = (0.5 * g * ratio - log_cdf).mean(0)
            return information.clamp_min(LEAST).log()

        return log_information

    def title(self, fitted: Fitted) -> str:
        return "log max-value entropy"


@dataclass(frozen=True)
class JointEntropy(Weighted):
    """Log of the information that a value gives about where the least value lies and what it is.

    Hvarfner, Hutter, Nardi, Joint entropy search for maximally-informed Bayesian optimization, NeurIPS 2022; Tu, Gandy, Kantas, Shafei,
    Joint entropy search for multi-objective Bayesian optimization, NeurIPS 2022, whose lower bound, eq. (12), this is.
    """

    samples: int = 64  # optima, from joint posterior samples
    spread: int = 256  # points at which they are looked for, beside the best told ones

    def __post_init__(self) -> None:
        at_least(self, samples=1, spread=1)

    def promise(self, fitted: Fitted) -> Function:
        where, least = optima(fitted, self.spread, self.samples)
        noise = max(fitted.noise_variance, _LEAST_NOISE * fitted.range_of_values**2)

        def log_information(x: Tensor) -> Tensor:
            posterior: Any = fitted.objective.posterior(torch.cat([x, where.expand(x.shape[0], -1, -1)], -2))
            mean, covariance = posterior.mean.squeeze(-1), posterior.distribution.covariance_matrix
            variance, at_optimum = covariance[:, :1, 0], covariance.diagonal(dim1=-2, dim2=-1)[:, 1:] + noise * 1e-6
            # The posterior had the optimum been seen, noise-free, and were nothing below it.
            slope = covariance[:, 0, 1:] / at_optimum
            seen = (variance - slope * covariance[:, 0, 1:]).clamp_min(1e-20)
            g = ((mean[:, :1] + slope * (least - mean[:, 1:]) - least) / seen.sqrt()).clamp_min(-30.0)
            ratio = torch.exp(-0.5 * g.square() - 0.5 * math.log(2.0 * math.pi) - torch.special.log_ndtr(g))
            left = seen * (1.0 - (g + ratio) * ratio).clamp_min(1e-8) + noise
            information = 0.5 * ((variance + noise).log() - left.log()).mean(-1)
            return _above_zero(information)

        return log_information

    def title(self, fitted: Fitted) -> str:
        return "log joint entropy"


@dataclass(frozen=True)
class PredictiveEntropy(Weighted):
    """Log of the information that a value gives about where the least value lies, by expectation propagation.

    Hernandez-Lobato, Hoffman, Ghahramani, Predictive entropy search for efficient global optimization of black-box functions, NeurIPS
    2014, as BoTorch computes it; differentiated by differences.
    """

    takes_derivatives: ClassVar[bool] = False

    samples: int = 32  # places of the optimum, from joint posterior samples
    spread: int = 256  # points at which they are looked for, beside the best told ones

    def __post_init__(self) -> None:
        at_least(self, samples=1, spread=1)

    def promise(self, fitted: Fitted) -> Function:
        from zoopt.strategies.bo.sampled import information_about_place

        where, _ = optima(fitted, self.spread, self.samples)
        information = information_about_place(fitted.objective, torch.unique(where, dim=0))
        return lambda x: _above_zero(information(x))

    def title(self, fitted: Fitted) -> str:
        return "log predictive entropy"


def optima(fitted: Fitted, spread: int, samples: int) -> tuple[Tensor, Tensor]:
    """Places ``(samples, d)`` and values ``(samples,)`` of the least value in joint posterior samples."""
    grid, paths = fitted.sampled(fitted.objective, spread, samples, fitted.random.child("least values"))
    values, rows = paths.min(-1)
    return grid[rows], values


def _above_zero(information: Tensor) -> Tensor:
    """The logarithm of an estimate of what cannot be negative."""
    return (torch.nn.functional.softplus(_SHARP * information) / _SHARP).clamp_min(LEAST).log()
