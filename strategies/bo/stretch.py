"""Outcomes seen through a scale that is fine near the best, and coarse far from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoopt.surrogates.base import TrainingData

LEVELS = (math.inf, 1.0, 0.1, 0.01)
"""Where the scale turns from even to logarithmic, in interquartile ranges from its centre; inf: it is even throughout."""

FEWEST = 5  # outcomes by which a level is chosen


@dataclass(frozen=True)
class Stretch:
    """``asinh((y - centre) / size)``: even within ``size`` of the centre, logarithmic beyond, on either side; ``y`` where size is inf.

    A minimum of values that span orders of magnitude is a hair's breadth in their own units, too narrow for a stationary process.
    """

    centre: float
    size: float

    @classmethod
    def of(cls, y: Tensor, level: float, centre: float | None = None) -> Stretch:
        """The one of a level for outcomes ``y: (n,)``, around the best of them or another centre."""
        spread = float(torch.quantile(y, 0.75) - torch.quantile(y, 0.25))
        if math.isinf(level) or not spread > 0:
            return cls(0.0, math.inf)
        return cls(float(y.min()) if centre is None else centre, level * spread)

    @property
    def even(self) -> bool:
        """Whether it changes nothing."""
        return math.isinf(self.size)

    def __call__(self, y: Tensor) -> Tensor:
        """Outcomes on the scale."""
        return y if self.even else torch.asinh((y - self.centre) / self.size)

    def back(self, t: Tensor) -> Tensor:
        """Outcomes in their own units."""
        return t if self.even else self.centre + self.size * torch.sinh(t.clamp(-600.0, 600.0))

    def log_slope(self, y: Tensor) -> Tensor:
        """Logarithm of the derivative of the scale."""
        if self.even:
            return torch.zeros_like(y)
        return -0.5 * torch.log1p(((y - self.centre) / self.size).square()) - math.log(self.size)

    def data(self, part: TrainingData) -> TrainingData:
        """Training data of one outcome without derivatives on the scale."""
        if self.even:
            return part
        slope = self.log_slope(part.y).exp()
        noise = None if part.noise is None else part.noise * slope
        return TrainingData(part.x, self(part.y), noise)

    def log_jacobian(self, part: TrainingData) -> float:
        """Logarithm of the density of the outcomes in their own units over that on the scale."""
        return float(self.log_slope(part.y).sum())
