"""Classic functions with one objective and no constraints, in closed form.

Those of any dimension are shifted by a seed, so that a starting cloud, a centre point or a diagonal does not find the optimum
for nothing. Collection of the formulas: Surjanovic & Bingham, Virtual Library of Simulation Experiments (2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.problem import Constants, Differentiable, Optimum, in_pieces
from zoopt.space import Real, Space


def interior_point(dim: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A point ``(dim,)`` of the unit cube, 0.1 to 0.4 from its centre in every coordinate, each by another distance.

    So it is neither the centre nor on a diagonal nor near a face.
    """
    rng = np.random.default_rng(seed)
    distance = 0.1 + 0.3 * (rng.permutation(dim) + rng.random(dim)) / dim
    point: np.ndarray[tuple[int], np.dtype[np.float64]] = 0.5 + np.where(rng.random(dim) < 0.5, -distance, distance)
    return point


@dataclass(frozen=True)
class Shifted(Differentiable):
    """Base class: one formula in any dimension, on the same interval in every coordinate, moved inside its box.

    A subclass gives ``formula``, ``interval``, ``solution`` (the coordinate of the unshifted optimum) and ``source``.
    """

    dim: int = 10  # number of variables
    shift_seed: int = 0  # where the optimum lies: drawn from this seed, inside the box, off its centre and its diagonals
    shift: bool = True  # False: the formula as published, whose optimum may lie in the centre or on the diagonal

    interval: ClassVar[tuple[float, float]]
    solution: ClassVar[float] = 0.0
    source: ClassVar[str] = ""
    least_dim: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.dim < self.least_dim:
            raise ConfigError(f"{type(self).__name__} needs dim >= {self.least_dim}; got {self.dim}.")

    @cached_property
    def space(self) -> Space:
        """The box, one shaped variable ``x``."""
        return Space({"x": Real(*self.interval, shape=(self.dim,))})

    @cached_property
    def optimum(self) -> Optimum:
        """The known optimum."""
        low, high = self.interval
        if self.shift:
            point = low + (high - low) * interior_point(self.dim, self.shift_seed)
        else:
            point = np.full(self.dim, self.solution)
        return Optimum(self.minimum, (tuple(point.tolist()),), self.source)

    @property
    def minimum(self) -> float:
        """The optimal value."""
        return 0.0

    @cached_property
    def _constants(self) -> Constants:
        return Constants(optimum=self.optimum.x[0])

    def values(self, x: Tensor) -> Tensor:
        """Values ``(..., n)`` at ``x: (..., n, d)``."""
        optimum = self._constants.like("optimum", x)
        return in_pieces(lambda part: self.formula(part - optimum), x)

    def formula(self, z: Tensor) -> Tensor:
        """Values ``(..., n)`` at ``z: (..., n, d)``, the difference from the optimum."""
        raise NotImplementedError(f"{type(self).__name__} does not define formula().")


class Sphere(Shifted):
    """Sum of squares. The easiest of all; what every strategy must solve. De Jong (1975)."""

    interval = (-5.12, 5.12)
    source = "closed form"

    def formula(self, z: Tensor) -> Tensor:
        """``sum z_i^2``."""
        return z.square().sum(-1)


class Ellipsoid(Shifted):
    """Sum of squares with axis weights from 1 to 10^6: badly conditioned. Hansen et al., BBOB f2 without its oscillation (2009)."""

    interval = (-5.0, 5.0)
    source = "closed form"

    @cached_property
    def _constants(self) -> Constants:
        weights = np.logspace(0.0, 6.0, self.dim) if self.dim > 1 else np.ones(1)
        return Constants(optimum=self.optimum.x[0], weights=weights.tolist())

    def formula(self, z: Tensor) -> Tensor:
        """``sum 10^(6 (i - 1)/(d - 1)) z_i^2``."""
        return (self._constants.like("weights", z) * z.square()).sum(-1)


class Rosenbrock(Shifted):
    """A curved valley with a flat floor. Rosenbrock (1960)."""

    interval = (-5.0, 10.0)
    solution = 1.0
    source = "closed form; the only global minimum, with a second local one for 4 <= d <= 30 (Kok & Sandrock 2009)"
    least_dim = 2

    def formula(self, z: Tensor) -> Tensor:
        """``sum 100 (y_{i+1} - y_i^2)^2 + (1 - y_i)^2`` with ``y = z + 1``."""
        # y_{i+1} - y_i^2 written in z, which keeps its digits close to the optimum.
        head, tail = z[..., :-1], z[..., 1:]
        return (100.0 * (tail - head * (2.0 + head)).square() + head.square()).sum(-1)


class Rastrigin(Shifted):
    """A paraboloid under a cosine: local minima on a grid of about one per unit. Rastrigin (1974), Muehlenbein et al. (1991)."""

    interval = (-5.12, 5.12)
    source = "closed form"

    def formula(self, z: Tensor) -> Tensor:
        """``10 d + sum z_i^2 - 10 cos(2 pi z_i)``."""
        # 10 (1 - cos 2 pi z) = 20 sin^2(pi z), which keeps its digits close to the optimum.
        wave = torch.mul(z, math.pi).sin_()
        return wave.square_().mul_(20.0).addcmul_(z, z).sum(-1)


class Ackley(Shifted):
    """A nearly flat plain with ripples and one deep hole. Ackley (1987)."""

    interval = (-32.768, 32.768)
    source = "closed form"

    def formula(self, z: Tensor) -> Tensor:
        """``20 + e - 20 exp(-0.2 sqrt(mean z_i^2)) - exp(mean cos(2 pi z_i))``."""
        # Both exponentials as expm1 of what vanishes at the optimum; 1 - cos 2 pi z = 2 sin^2(pi z).
        radius = z.square().mean(-1).sqrt()
        ripple = -2.0 * torch.sin(math.pi * z).square().mean(-1)
        return -20.0 * torch.expm1(-0.2 * radius) - math.e * torch.expm1(ripple)

    def gradient(self, x: Tensor) -> Tensor:
        """Gradients ``(..., n, 1, d)`` at ``x: (..., n, d)``; 0 at the optimum, where there is a kink."""
        z = x - self._constants.like("optimum", x)
        radius = z.square().mean(-1, keepdim=True).sqrt()
        ripple = -2.0 * torch.sin(math.pi * z).square().mean(-1, keepdim=True)
        away = torch.where(radius > 0, z / radius, torch.zeros_like(z))
        slope = 4.0 * torch.exp(-0.2 * radius) * away + 2.0 * math.pi * torch.exp(1.0 + ripple) * torch.sin(2.0 * math.pi * z)
        return (slope / self.dim).unsqueeze(-2)


class Griewank(Shifted):
    """A wide paraboloid with small regular ripples. Griewank (1981)."""

    interval = (-600.0, 600.0)
    source = "closed form"

    @cached_property
    def _constants(self) -> Constants:
        return Constants(optimum=self.optimum.x[0], roots=np.sqrt(np.arange(1, self.dim + 1)).tolist())

    def formula(self, z: Tensor) -> Tensor:
        """``1 + sum z_i^2 / 4000 - prod cos(z_i / sqrt(i))``."""
        return z.square().sum(-1) / 4000.0 + (1.0 - torch.cos(z / self._constants.like("roots", z)).prod(-1))


class Levy(Shifted):
    """Waves in every coordinate over a bowl. Levy & Montalvo (1985), in the form of Laguna & Marti (2005)."""

    interval = (-10.0, 10.0)
    solution = 1.0
    source = "closed form"

    def formula(self, z: Tensor) -> Tensor:
        """``sin^2(pi w_1) + sum_{i<d} v_i^2 (1 + 10 sin^2(pi w_i + 1)) + v_d^2 (1 + sin^2(2 pi w_d))``, ``v = z / 4``, ``w = 1 + v``."""
        v = z / 4.0  # sin(pi + a) = -sin(a), so every wave is written in v and vanishes exactly at the optimum
        head, last = v[..., :-1], v[..., -1]
        first = torch.sin(math.pi * v[..., 0]).square()
        middle = (head.square() * (1.0 + 10.0 * torch.sin(math.pi * head + 1.0).square())).sum(-1)
        return first + middle + last.square() * (1.0 + torch.sin(2.0 * math.pi * last).square())


class StyblinskiTang(Shifted):
    """A quartic with 2^d local minima of similar depth. Styblinski & Tang (1990)."""

    interval = (-5.0, 5.0)
    solution = -2.903534027771177
    source = "lowest root of 4 y^3 - 32 y + 5, twice the derivative of each coordinate's quartic"

    @property
    def minimum(self) -> float:
        """``-39.166... d``."""
        y = self.solution
        return self.dim * 0.5 * (y**4 - 16.0 * y**2 + 5.0 * y)

    def formula(self, z: Tensor) -> Tensor:
        """``1/2 sum y_i^4 - 16 y_i^2 + 5 y_i`` with ``y = z - 2.9035...``."""
        y = z + self.solution
        square = y.square()
        return 0.5 * (square * (square - 16.0) + 5.0 * y).sum(-1)


@dataclass(frozen=True)
class Branin(Differentiable):
    """Three equal minima in two dimensions. Branin (1972), Dixon & Szegoe (1978)."""

    optimum = Optimum(
        10.0 / (8.0 * math.pi),
        ((-math.pi, 12.275), (math.pi, 2.275), (3.0 * math.pi, 2.475)),
        "closed form: at x1 = (2k + 1) pi the parabola can vanish and the cosine is least",
    )

    @cached_property
    def space(self) -> Space:
        """The box ``[-5, 10] x [0, 15]``."""
        return Space({"x1": Real(-5.0, 10.0), "x2": Real(0.0, 15.0)})

    def values(self, x: Tensor) -> Tensor:
        """``(x2 - 5.1 x1^2 / (4 pi^2) + 5 x1 / pi - 6)^2 + 10 (1 - 1 / (8 pi)) cos(x1) + 10``, ``(..., n)``."""
        x1, x2 = x[..., 0], x[..., 1]
        parabola = x2 - 5.1 / (4.0 * math.pi**2) * x1.square() + 5.0 / math.pi * x1 - 6.0
        return parabola.square() + 10.0 * (1.0 - 1.0 / (8.0 * math.pi)) * torch.cos(x1) + 10.0


@dataclass(frozen=True)
class Hartmann6(Differentiable):
    """Six local minima in six dimensions. Hartman (1973), Dixon & Szegoe (1978)."""

    optimum = Optimum(
        -3.322368011415515,
        ((0.201689511006705, 0.150010691823458, 0.476873974221897, 0.275332430494056, 0.311651616600113, 0.657300534065620),),
        "Dixon & Szegoe (1978), digits by Newton's method",
    )
    _tables: ClassVar[Constants] = Constants(
        alpha=(1.0, 1.2, 3.0, 3.2),
        a=(
            (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
            (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
            (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
            (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
        ),
        p=(
            (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
            (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
            (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
            (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
        ),
    )

    @cached_property
    def space(self) -> Space:
        """The unit cube."""
        return Space({"x": Real(0.0, 1.0, shape=(6,))})

    def values(self, x: Tensor) -> Tensor:
        """``-sum_i alpha_i exp(-sum_j a_ij (x_j - p_ij)^2)``, ``(..., n)``."""
        a, p, alpha = (self._tables.like(name, x) for name in ("a", "p", "alpha"))
        wells = torch.exp(-(a * (x.unsqueeze(-2) - p).square()).sum(-1))
        return -(alpha * wells).sum(-1)
