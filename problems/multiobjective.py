"""Problems with two objectives and a known Pareto front or hypervolume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.problem import Constants, Optimum, Problem
from zoopt.problems.synthetic import Branin, interior_point
from zoopt.space import Real, Space


@dataclass(frozen=True)
class ZDT1(Problem):
    """Two objectives with the convex front ``f2 = 1 - sqrt(f1)``. Zitzler, Deb & Thiele (2000).

    As published, every variable but the first is 0 on the whole front, a face of the box. Here they lie at a point inside it
    that is drawn from ``shift_seed``: the distance from that point takes the place of the variable; the front stays the same.
    """

    dim: int = 30  # number of variables, at least 2
    shift_seed: int = 0  # where the Pareto set lies: drawn from this seed, inside the box
    shift: bool = True  # False: as published, with the Pareto set on a face of the box

    objectives = ("f1", "f2")
    # The rectangle up to the reference point, less the area under the front.
    optimum = Optimum(source="closed form of the front", reference=(1.1, 1.1), hypervolume=1.1 * 1.1 - 1.0 / 3.0)

    def __post_init__(self) -> None:
        if self.dim < 2:
            raise ConfigError(f"ZDT1 needs dim >= 2; got {self.dim}.")

    @cached_property
    def space(self) -> Space:
        """The unit cube."""
        return Space({"x": Real(0.0, 1.0, shape=(self.dim,))})

    @cached_property
    def _constants(self) -> Constants:
        if not self.shift:
            return Constants(centre=[0.0] * (self.dim - 1), reach=[1.0] * (self.dim - 1))
        centre = interior_point(self.dim, self.shift_seed)[1:]
        return Constants(centre=centre.tolist(), reach=[max(c, 1.0 - c) for c in centre.tolist()])

    def pareto_set(self, n: int) -> Tensor:
        """``(n, d)`` points of the Pareto set, problem units, evenly spaced in the first variable."""
        first = torch.linspace(0.0, 1.0, n, dtype=torch.float64).unsqueeze(-1)
        return torch.cat([first, self._constants.like("centre", first).expand(n, -1)], dim=-1)

    def values(self, x: Tensor) -> Tensor:
        """``f1 = x1``, ``f2 = g (1 - sqrt(f1 / g))`` with ``g = 1 + 9 mean_{i>1} x_i``, ``(..., n, 2)``."""
        first = x[..., 0]
        distance = (x[..., 1:] - self._constants.like("centre", x)).abs() / self._constants.like("reach", x)
        g = 1.0 + 9.0 * distance.mean(-1)
        return torch.stack([first, g * (1.0 - torch.sqrt(first / g))], dim=-1)


@dataclass(frozen=True)
class BraninCurrin(Problem):
    """Branin's function against Currin's on the unit square. Belakaria, Deshwal & Doppa (2019)."""

    objectives = ("branin", "currin")
    optimum = Optimum(
        source="hypervolume of the BoTorch test function of the same name, found by NSGA-II there",
        reference=(18.0, 6.0),
        hypervolume=59.36011874867746,
    )

    @cached_property
    def space(self) -> Space:
        """The unit square."""
        return Space({"x1": Real(0.0, 1.0), "x2": Real(0.0, 1.0)})

    @cached_property
    def _branin(self) -> Branin:
        return Branin()

    def values(self, x: Tensor) -> Tensor:
        """Branin of ``(15 x1 - 5, 15 x2)`` and Currin's exponential function of ``x``, ``(..., n, 2)``."""
        x1, x2 = x[..., 0], x[..., 1]
        branin = self._branin.values(torch.stack([15.0 * x1 - 5.0, 15.0 * x2], dim=-1))
        # -1 / 0 is -inf, whose exponential is 0: the limit at the edge x2 = 0.
        factor = -torch.expm1(-1.0 / (2.0 * x2))
        above = ((2300.0 * x1 + 1900.0) * x1 + 2092.0) * x1 + 60.0
        below = ((100.0 * x1 + 500.0) * x1 + 4.0) * x1 + 20.0
        return torch.stack([branin, factor * above / below], dim=-1)
