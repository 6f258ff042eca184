"""Problems with outcome constraints: a toy, and small designs from mechanical engineering. ``c(x) <= 0`` is feasible."""

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


@dataclass(frozen=True)
class CompressionSpring(Problem):
    """Weight of a coil spring under limits of deflection, shear stress, surge frequency and diameter. Arora (1989), Belegundu (1982)."""

    constraints = ("deflection", "shear", "surge", "diameter")
    optimum = Optimum(
        0.01266523279,
        ((0.0516890595, 0.3567177006, 11.2889680473),),
        "multi-start SLSQP; 0.012665232788 in Kumar et al., CEC 2020 real-world problem 17; deflection and shear active",
    )

    @cached_property
    def space(self) -> Space:
        """Wire diameter, mean coil diameter (inches) and number of active coils."""
        return Space({"wire": Real(0.05, 1.0), "coil": Real(0.25, 1.3), "turns": Real(2.0, 15.0)})

    def values(self, x: Tensor) -> Tensor:
        """``(N + 2) D d^2``, ``(..., n)``."""
        d, coil, turns = x.unbind(-1)
        return (turns + 2.0) * coil * d.square()

    def violations(self, x: Tensor) -> Tensor:
        """The four constraints, ``(..., n, 4)``; the shear formula has a pole at ``D = d``, where it counts as 1e10."""
        d, coil, turns = x.unbind(-1)
        deflection = 1.0 - coil**3 * turns / (71785.0 * d**4)
        shear = (4.0 * coil.square() - d * coil) / (12566.0 * (coil * d**3 - d**4)) + 1.0 / (5108.0 * d.square()) - 1.0
        surge = 1.0 - 140.45 * d / (coil.square() * turns)
        diameter = (coil + d) / 1.5 - 1.0
        stacked = torch.stack([deflection, shear, surge, diameter], dim=-1)
        return torch.where(torch.isfinite(stacked), stacked, torch.full_like(stacked, 1e10))


@dataclass(frozen=True)
class PressureVessel(Problem):
    """Cost of a cylindrical vessel with half-spherical heads: material, forming and welding. Sandgren (1990), all sizes continuous."""

    constraints = ("shell", "head", "volume", "length")
    optimum = Optimum(
        5885.332774,
        ((0.7781686414, 0.3846491626, 40.319618724, 200.0),),
        "multi-start SLSQP; 5885.3328 in the literature of the continuous problem; shell, head and volume active",
    )

    @cached_property
    def space(self) -> Space:
        """Shell thickness, head thickness, inner radius and length of the cylinder, inches."""
        return Space(
            {"shell": Real(0.0625, 6.1875), "head": Real(0.0625, 6.1875), "radius": Real(10.0, 200.0), "length": Real(10.0, 200.0)}
        )

    def values(self, x: Tensor) -> Tensor:
        """``0.6224 Ts R L + 1.7781 Th R^2 + 3.1661 Ts^2 L + 19.84 Ts^2 R``, ``(..., n)``."""
        shell, head, radius, length = x.unbind(-1)
        return (
            0.6224 * shell * radius * length
            + 1.7781 * head * radius.square()
            + 3.1661 * shell.square() * length
            + 19.84 * shell.square() * radius
        )

    def violations(self, x: Tensor) -> Tensor:
        """The four constraints, ``(..., n, 4)``; volume in cubic inches."""
        shell, head, radius, length = x.unbind(-1)
        volume = 1_296_000.0 - math.pi * radius.square() * length - 4.0 / 3.0 * math.pi * radius**3
        return torch.stack([0.0193 * radius - shell, 0.00954 * radius - head, volume, length - 240.0], dim=-1)


@dataclass(frozen=True)
class WeldedBeam(Problem):
    """Cost of a beam welded to a wall under limits of stress, buckling and deflection. Ragsdell & Phillips (1976), form of Deb (2000).

    Not the form with seven constraints whose optimum is 1.7249.
    """

    constraints = ("shear", "bending", "weld", "buckling", "deflection")
    optimum = Optimum(
        2.381134249,
        ((0.2443689847, 6.2186063122, 8.2914712387, 0.2443689847),),
        "multi-start SLSQP; shear, bending, weld and buckling active",
    )

    @cached_property
    def space(self) -> Space:
        """Weld thickness and length, height and thickness of the beam, inches."""
        return Space({"h": Real(0.125, 10.0), "l": Real(0.1, 15.0), "t": Real(0.1, 10.0), "b": Real(0.1, 10.0)})

    def values(self, x: Tensor) -> Tensor:
        """``1.10471 h^2 l + 0.04811 t b (14 + l)``, ``(..., n)``."""
        h, length, t, b = x.unbind(-1)
        return 1.10471 * h.square() * length + 0.04811 * t * b * (14.0 + length)

    def violations(self, x: Tensor) -> Tensor:
        """The five constraints, ``(..., n, 5)``; stresses and loads in psi and pounds."""
        h, length, t, b = x.unbind(-1)
        arm = (h + t).square()
        radius = torch.sqrt(0.25 * (length.square() + arm))
        direct = 6000.0 / (math.sqrt(2.0) * h * length)
        torsion = 6000.0 * (14.0 + 0.5 * length) * radius / (2.0 * 0.707 * h * length * (length.square() / 12.0 + 0.25 * arm))
        shear = torch.sqrt(direct.square() + torsion.square() + length * direct * torsion / radius) - 13_600.0
        bending = 504_000.0 / (t.square() * b) - 30_000.0
        buckling = 6000.0 - 64_746.0 * (1.0 - 0.0282346 * t) * t * b**3
        deflection = 2.1952 / (t**3 * b) - 0.25
        return torch.stack([shear, bending, h - b, buckling, deflection], dim=-1)
