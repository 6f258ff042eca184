"""A toy with outcome constraints; ``c(x) <= 0`` is feasible. Designs from engineering are in ``engineering``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zoopt.problem import Optimum, Problem
from zoopt.space import Real, Space


@dataclass(frozen=True)
class Gramacy(Problem):
    """A linear objective in a region with a wavy border. Gramacy, Gray, Le Digabel et al. (2016), Technometrics 58(1)."""

    constraints = ("wave", "circle")
    optimum = Optimum(
        0.599788052010067,
        ((0.195122683472072, 0.404665368537996),),
        "Gramacy et al. (2016), digits by the Karush-Kuhn-Tucker equations; wave active",
    )

    @cached_property
    def space(self) -> Space:
        """The unit square."""
        return Space({"x1": Real(0.0, 1.0), "x2": Real(0.0, 1.0)})

    def values(self, x: Tensor) -> Tensor:
        """``x1 + x2``, ``(..., n)``."""
        return x.sum(-1)

    def violations(self, x: Tensor) -> Tensor:
        """``3/2 - x1 - 2 x2 - 1/2 sin(2 pi (x1^2 - 2 x2))`` and ``x1^2 + x2^2 - 3/2``, ``(..., n, 2)``."""
        x1, x2 = x[..., 0], x[..., 1]
        wave = 1.5 - x1 - 2.0 * x2 - 0.5 * torch.sin(2.0 * math.pi * (x1.square() - 2.0 * x2))
        return torch.stack([wave, x.square().sum(-1) - 1.5], dim=-1)
