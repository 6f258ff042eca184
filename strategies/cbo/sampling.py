"""Consensus-based sampling: particles that end as a sample, not at a point."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.generation import GenerationState
from zoopt.strategies.cbo.diffusion import Noise
from zoopt.strategies.cbo.particles import CBO
from zoopt.strategy import Task


@dataclass(frozen=True)
class CBS(CBO):
    """Consensus-based sampling: particles that end as a sample of ``exp(-f)``, exact for a Gaussian; a Laplace approximation for others.

    For the uncertainty of a calibration or of an inverse problem whose misfit f has no gradients. To optimise with the same noise,
    take cbo with ``noise="covariance"``. The step is exact for a frozen consensus point and covariance, so that the variance does not
    depend on dt.

    Reference: Carrillo, Hoffmann, Stuart, Vaes, Consensus-based sampling, Studies in Applied Mathematics 148(3), 2022
    (arXiv:2106.02519), eq. (2.3) with lambda = 1 / (1 + alpha).
    """

    particles: int = 1000  # N, particles of a run
    noise: Noise = "covariance"  # must be "covariance"
    dt: float | None = 0.5  # length of a time step
    alpha: float | None = 1.0  # inverse temperature of the weights
    alpha_growth: float = 1.0  # must be 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, wanted in (("noise", "covariance"), ("alpha_growth", 1.0), ("sigma", None), ("sample_size", None)):
            if getattr(self, name) != wanted:
                raise ConfigError(f"cbs needs {name}={wanted!r}, without which it samples another law; got {getattr(self, name)!r}.")
        if self.alpha is None:
            raise ConfigError("cbs needs a number for alpha, on the scale of the objective; got None.")

    def spread(self, dim: int, steps: int = 0) -> float:
        """s, which balances the sharpening of the weights: ``sqrt((1 - m^2) (1 + alpha))``."""
        return math.sqrt((1.0 - self.contraction() ** 2) * (1.0 + (self.alpha or 1.0)))

    def done(self, task: Task, state: GenerationState) -> Tensor | None:
        """Never: the particles go on as a sample."""
        return None
