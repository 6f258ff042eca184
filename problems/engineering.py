"""Fifteen constrained problems, most of them from engineering: what surrogates for constrained optimization are compared on.

They are those of Yu, Picard and Ahmed, "Fast and accurate Bayesian optimization with pre-trained transformers for constrained engineering
problems" (arXiv:2404.04495), with ``c(x) <= 0`` feasible and the objective minimised. Where the code that came with the paper departs
from the sources of a problem, ``variant="fixed"`` is the sources' and ``variant="repo"`` that code's of December 2024. All variables
are continuous. The optima were found by sequential quadratic programming from many starts and agree with the literature where it has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.problem import Optimum, Problem
from zoopt.space import Real, Space

Variant = Literal["fixed", "repo"]

_SEARCHED = "multi-start SLSQP"


def _known(variant: str) -> None:
    if variant not in ("fixed", "repo"):
        raise ConfigError(f"variant must be 'fixed' or 'repo'; got {variant!r}.")


@dataclass(frozen=True)
class JLH1(Problem):
    """A bowl whose bottom is cut off by a line. Jetton, Li and Hoyle (2023). The optimum is on the diagonal of the box."""

    constraints = ("line",)
    optimum = Optimum(0.03125, ((0.375, 0.375),), "closed form; line active")

    @cached_property
    def space(self) -> Space:
        """The unit square."""
        return Space({"x1": Real(0.0, 1.0), "x2": Real(0.0, 1.0)})

    def values(self, x: Tensor) -> Tensor:
        """``(x1 - 1/2)^2 + (x2 - 1/2)^2``, ``(..., n)``."""
        return (x - 0.5).square().sum(-1)

    def violations(self, x: Tensor) -> Tensor:
        """``x1 + x2 - 3/4``, ``(..., n, 1)``."""
        return x.sum(-1, keepdim=True) - 0.75


def _waves(x: Tensor) -> Tensor:
    """``cos(2 x1) cos(x2) + sin(x1)``."""
    return torch.cos(2.0 * x[..., 0]) * torch.cos(x[..., 1]) + torch.sin(x[..., 0])


@dataclass(frozen=True)
class JLH2(Problem):
    """Waves inside an ellipse. Jetton, Li and Hoyle (2023)."""

    constraints = ("ellipse",)
    optimum = Optimum(-1.825439617, ((math.sqrt(10.0) - 5.0, 0.0),), "closed form; ellipse active")

    @cached_property
    def space(self) -> Space:
        """``[-5, 0] x [-5, 5]``."""
        return Space({"x1": Real(-5.0, 0.0), "x2": Real(-5.0, 5.0)})

    def values(self, x: Tensor) -> Tensor:
        """``cos(2 x1) cos(x2) + sin(x1)``, ``(..., n)``."""
        return _waves(x)

    def violations(self, x: Tensor) -> Tensor:
        """``(x1 + 5)^2 / 4 + x2^2 / 100 - 5/2``, ``(..., n, 1)``."""
        return ((x[..., 0] + 5.0).square() / 4.0 + x[..., 1].square() / 100.0 - 2.5).unsqueeze(-1)


@dataclass(frozen=True)
class GKXWC1(Problem):
    """Waves under waves. Gardner, Kusner, Xu, Weinberger and Cunningham (2014), first simulation."""

    constraints = ("wave",)
    optimum = Optimum(-2.0, ((1.5 * math.pi, 0.0),), "closed form; only the box is active")

    @cached_property
    def space(self) -> Space:
        """``[0, 6]^2``."""
        return Space({"x1": Real(0.0, 6.0), "x2": Real(0.0, 6.0)})

    def values(self, x: Tensor) -> Tensor:
        """``cos(2 x1) cos(x2) + sin(x1)``, ``(..., n)``."""
        return _waves(x)

    def violations(self, x: Tensor) -> Tensor:
        """``cos(x1) cos(x2) - sin(x1) sin(x2) - 1/2``, ``(..., n, 1)``."""
        x1, x2 = x[..., 0], x[..., 1]
        return (torch.cos(x1) * torch.cos(x2) - torch.sin(x1) * torch.sin(x2) - 0.5).unsqueeze(-1)


@dataclass(frozen=True)
class GKXWC2(Problem):
    """A slope with two tiny feasible islands, one of them a trap. Gardner et al. (2014), second simulation."""

    constraints = ("islands",)
    optimum = Optimum(math.asin(0.95) - 1.0, ((1.5 * math.pi, math.asin(0.95)),), "closed form; islands active")

    @cached_property
    def space(self) -> Space:
        """``[0, 6]^2``."""
        return Space({"x1": Real(0.0, 6.0), "x2": Real(0.0, 6.0)})

    def values(self, x: Tensor) -> Tensor:
        """``sin(x1) + x2``, ``(..., n)``."""
        return torch.sin(x[..., 0]) + x[..., 1]

    def violations(self, x: Tensor) -> Tensor:
        """``sin(x1) sin(x2) + 0.95``, ``(..., n, 1)``."""
        return (torch.sin(x[..., 0]) * torch.sin(x[..., 1]) + 0.95).unsqueeze(-1)


@dataclass(frozen=True)
class ConstrainedAckley(Problem):
    """Ackley's function under a half-space and a ball. Eriksson and Poloczek (2021). The optimum is on the diagonal of the box."""

    dim: int = 2

    constraints = ("half_space", "ball")

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"dim must be at least 1; got {self.dim!r}.")

    @cached_property
    def optimum(self) -> Optimum:
        """The origin, where the half-space is active."""
        return Optimum(0.0, ((0.0,) * self.dim,), "closed form")

    @cached_property
    def space(self) -> Space:
        """``[-5, 10]^d``."""
        return Space({"x": Real(-5.0, 10.0, shape=(self.dim,))})

    def values(self, x: Tensor) -> Tensor:
        """``20 + e - 20 exp(-0.2 sqrt(mean x_i^2)) - exp(mean cos(2 pi x_i))``, ``(..., n)``."""
        # 1 - exp(-u) as -expm1(-u), and 1 - cos 2 pi x = 2 sin^2(pi x): no digits are lost at the optimum.
        radius = x.square().mean(-1).sqrt()
        ripple = -2.0 * torch.sin(math.pi * x).square().mean(-1)
        return -20.0 * torch.expm1(-0.2 * radius) - math.e * torch.expm1(ripple)

    def violations(self, x: Tensor) -> Tensor:
        """``sum x_i`` and ``|x| - 5``, ``(..., n, 2)``."""
        return torch.stack([x.sum(-1), torch.linalg.vector_norm(x, dim=-1) - 5.0], dim=-1)


_KEANE = (
    *(3.16032558, 3.12217704, 3.08467637, 3.04727709, 3.00943674, 2.97054397, 2.92981552, 0.51374391, 0.50539671),
    *(0.49776454, 0.49072206, 0.48417582, 0.47805416, 0.4723008, 0.46687043, 0.46172606, 0.4568371, 0.4521778),
)


@dataclass(frozen=True)
class KeaneBump(Problem):
    """A field of bumps whose best ones lie along a product constraint that spans twelve orders of magnitude. Keane (1994)."""

    dim: int = 18

    constraints = ("product", "sum")
    best: ClassVar[dict[int, float]] = {2: -0.3649797459, 10: -0.7473103615, 18: -0.7971138758, 20: -0.8036191041}  # known, by dimension

    def __post_init__(self) -> None:
        if self.dim < 2:
            raise ConfigError(f"dim must be at least 2; got {self.dim!r}.")

    @cached_property
    def optimum(self) -> Optimum | None:
        """The best value that is known, in 2, 10, 18 and 20 dimensions; the product is active."""
        value = self.best.get(self.dim)
        return None if value is None else Optimum(value, (_KEANE,) if self.dim == 18 else (), f"{_SEARCHED}; Keane (1994)")

    @cached_property
    def space(self) -> Space:
        """``[0, 10]^d``."""
        return Space({"x": Real(0.0, 10.0, shape=(self.dim,))})

    def values(self, x: Tensor) -> Tensor:
        """``-|sum cos^4 x_i - 2 prod cos^2 x_i| / sqrt(sum i x_i^2)``, ``(..., n)``; 0 at the origin."""
        square = torch.cos(x).square()
        number = torch.arange(1, self.dim + 1, dtype=x.dtype, device=x.device)
        length = (number * x.square()).sum(-1)
        some = length > 0
        bump = (square.square().sum(-1) - 2.0 * square.prod(-1)).abs() / torch.where(some, length, 1.0).sqrt()
        return torch.where(some, -bump, 0.0)

    def violations(self, x: Tensor) -> Tensor:
        """``3/4 - prod x_i`` and ``sum x_i - 7.5 d``, ``(..., n, 2)``."""
        return torch.stack([0.75 - x.prod(-1), x.sum(-1) - 7.5 * self.dim], dim=-1)


@dataclass(frozen=True)
class ThreeTruss(Problem):
    """Volume of a truss of three bars under limits of stress. Nowacki (1974)."""

    constraints = ("stress1", "stress2", "stress3")
    optimum = Optimum(
        263.8958434,
        ((0.7886751346, 0.4082482905),),
        f"{_SEARCHED}; 263.89584338 in Kumar et al., CEC 2020 real-world problem 20; stress1 active",
    )

    @cached_property
    def space(self) -> Space:
        """Cross-sections of the outer bars and of the middle one."""
        return Space({"outer": Real(0.0, 1.0), "middle": Real(0.0, 1.0)})

    def values(self, x: Tensor) -> Tensor:
        """``100 (2 sqrt(2) x1 + x2)``, cross-sections of at least 1e-5, ``(..., n)``."""
        outer, middle = x.clamp_min(1e-5).unbind(-1)
        return 100.0 * (2.0 * math.sqrt(2.0) * outer + middle)

    def violations(self, x: Tensor) -> Tensor:
        """Stresses above 2 under a load of 2, ``(..., n, 3)``."""
        outer, middle = x.clamp_min(1e-5).unbind(-1)
        both = math.sqrt(2.0) * outer.square() + 2.0 * outer * middle
        first = 2.0 * (math.sqrt(2.0) * outer + middle) / both - 2.0
        third = 2.0 / (outer + math.sqrt(2.0) * middle) - 2.0
        return torch.stack([first, 2.0 * middle / both - 2.0, third], dim=-1)


@dataclass(frozen=True)
class ReinforcedConcreteBeam(Problem):
    """Cost of a simply supported concrete beam: steel and concrete. Amir and Hasegawa (1989), all sizes continuous."""

    variant: Variant = "fixed"  # "repo": 7.35 in place of 7.375 in the strength

    constraints = ("slenderness", "strength")

    def __post_init__(self) -> None:
        _known(self.variant)

    @cached_property
    def optimum(self) -> Optimum:
        """Both constraints are active."""
        if self.variant == "repo":
            return Optimum(358.5457034, (), _SEARCHED)
        return Optimum(358.7116413, ((6.46941776, 33.5172352788, 8.3793088197),), _SEARCHED)

    @cached_property
    def space(self) -> Space:
        """Area of the reinforcement (square inches), depth and width of the beam (inches)."""
        return Space({"steel": Real(0.2, 15.0), "depth": Real(28.0, 40.0), "width": Real(5.0, 10.0)})

    def values(self, x: Tensor) -> Tensor:
        """``29.4 As + 0.6 b h``, ``(..., n)``."""
        steel, depth, width = x.unbind(-1)
        return 29.4 * steel + 0.6 * width * depth

    def violations(self, x: Tensor) -> Tensor:
        """``h / b - 4`` and ``180 + 7.375 As^2 / b - As h``, ``(..., n, 2)``."""
        steel, depth, width = x.unbind(-1)
        factor = 7.35 if self.variant == "repo" else 7.375
        return torch.stack([depth / width - 4.0, 180.0 + factor * steel.square() / width - steel * depth], dim=-1)


@dataclass(frozen=True)
class CompressionSpring(Problem):
    """Weight of a coil spring under limits of deflection, shear stress, surge frequency and diameter. Arora (1989), Belegundu (1982)."""

    constraints = ("deflection", "shear", "surge", "diameter")
    optimum = Optimum(
        0.01266523279,
        ((0.0516890595, 0.3567177006, 11.2889680473),),
        f"{_SEARCHED}; 0.012665232788 in Kumar et al., CEC 2020 real-world problem 17; deflection and shear active",
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

    variant: Variant = "fixed"  # "repo": lengths in [0, 190]

    constraints = ("least_shell", "least_head", "least_volume", "most_length")

    def __post_init__(self) -> None:
        _known(self.variant)

    @cached_property
    def optimum(self) -> Optimum:
        """Shell, head and volume are active."""
        if self.variant == "repo":
            return Optimum(5910.064472, (), _SEARCHED)
        return Optimum(
            5885.332774,
            ((0.7781686414, 0.3846491626, 40.319618724, 200.0),),
            f"{_SEARCHED}; 5885.3328 in the literature of the continuous problem",
        )

    @cached_property
    def space(self) -> Space:
        """Shell thickness, head thickness, inner radius and length of the cylinder, inches."""
        length = Real(0.0, 190.0) if self.variant == "repo" else Real(10.0, 200.0)
        return Space({"shell": Real(0.0625, 6.1875), "head": Real(0.0625, 6.1875), "radius": Real(10.0, 200.0), "length": length})

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
        f"{_SEARCHED}; shear, bending, weld and buckling active",
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


@dataclass(frozen=True)
class SpeedReducer(Problem):
    """Weight of a gear box under limits of stress, deflection and space. Golinski (1970), all sizes continuous."""

    variant: Variant = "fixed"  # "repo": 1.69e6 in the stress of the first shaft, and no limits of the shafts' lengths

    def __post_init__(self) -> None:
        _known(self.variant)

    @cached_property
    def constraints(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the constraints, eleven or, in the variant, nine."""
        teeth = ("bending", "contact")
        shafts = ("deflection1", "deflection2", "stress1", "stress2")
        sizes = ("pinion", "width_low", "width_high")
        return (*teeth, *shafts, *sizes) if self.variant == "repo" else (*teeth, *shafts, *sizes, "shaft1", "shaft2")

    @cached_property
    def optimum(self) -> Optimum:
        """Both stresses, the smallest width and the second shaft's length are active."""
        if self.variant == "repo":
            return Optimum(2885.179266, ((3.5, 0.7, 17.0, 7.3, 7.3, 2.9, 5.2865179217),), _SEARCHED)
        point = (3.5, 0.7, 17.0, 7.3, 7.7153199115, 3.3502146661, 5.286654465)
        return Optimum(2994.471066, (point,), f"{_SEARCHED}; 2994.471066 in the literature")

    @cached_property
    def space(self) -> Space:
        """Face width, module, teeth of the pinion, lengths of both shafts, diameters of both."""
        return Space(
            {
                "width": Real(2.6, 3.6),
                "module": Real(0.7, 0.8),
                "teeth": Real(17.0, 28.0),
                "length1": Real(7.3, 8.3),
                "length2": Real(7.3, 8.3),
                "diameter1": Real(2.9, 3.9),
                "diameter2": Real(5.0, 5.5),
            }
        )

    def values(self, x: Tensor) -> Tensor:
        """Weight, ``(..., n)``."""
        b, m, z, l1, l2, d1, d2 = x.unbind(-1)
        gears = 0.7854 * b * m.square() * (3.3333 * z.square() + 14.9334 * z - 43.0934)
        hubs = -1.508 * b * (d1.square() + d2.square()) + 7.4777 * (d1**3 + d2**3)
        return gears + hubs + 0.7854 * (l1 * d1.square() + l2 * d2.square())

    def violations(self, x: Tensor) -> Tensor:
        """The constraints, each relative to its limit, ``(..., n, 11)`` or ``(..., n, 9)``."""
        b, m, z, l1, l2, d1, d2 = x.unbind(-1)
        first = 1.69e6 if self.variant == "repo" else 16.9e6
        parts = [
            27.0 / (b * m.square() * z) - 1.0,
            397.5 / (b * m.square() * z.square()) - 1.0,
            1.93 * l1**3 / (m * z * d1**4) - 1.0,
            1.93 * l2**3 / (m * z * d2**4) - 1.0,
            torch.sqrt((745.0 * l1 / (m * z)).square() + first) / (110.0 * d1**3) - 1.0,
            torch.sqrt((745.0 * l2 / (m * z)).square() + 157.5e6) / (85.0 * d2**3) - 1.0,
            m * z / 40.0 - 1.0,
            5.0 * m / b - 1.0,
            b / (12.0 * m) - 1.0,
            (1.5 * d1 + 1.9) / l1 - 1.0,
            (1.1 * d2 + 1.9) / l2 - 1.0,
        ]
        return torch.stack(parts[: len(self.constraints)], dim=-1)


@dataclass(frozen=True)
class HeatExchanger(Problem):
    """Area of three heat exchangers in series; seven points in a million are feasible. Avriel and Williams (1971), known as G10."""

    variant: Variant = "fixed"  # "repo": 125 in place of the last 1250 of the second balance, and areas up to 10900

    constraints = ("limit1", "limit2", "limit3", "heat1", "heat2", "heat3")

    def __post_init__(self) -> None:
        _known(self.variant)

    @cached_property
    def optimum(self) -> Optimum:
        """All six constraints are active."""
        if self.variant == "repo":
            return Optimum(8312.911858, (), _SEARCHED)
        areas, cold = (579.306701, 1359.9705328, 5109.9707866), (182.017701, 295.6011685)
        return Optimum(7049.248021, ((*areas, *cold, 217.982299, 286.4165325, 395.6011685),), f"{_SEARCHED}; 7049.24802 in the literature")

    @cached_property
    def space(self) -> Space:
        """Three areas and five temperatures."""
        most = 10_900.0 if self.variant == "repo" else 10_000.0
        areas = {"area1": Real(100.0, 10_000.0), "area2": Real(1000.0, most), "area3": Real(1000.0, most)}
        return Space({**areas, **{f"temperature{k}": Real(10.0, 1000.0) for k in range(1, 6)}})

    def values(self, x: Tensor) -> Tensor:
        """``x1 + x2 + x3``, ``(..., n)``."""
        return x[..., :3].sum(-1)

    def violations(self, x: Tensor) -> Tensor:
        """The six constraints, ``(..., n, 6)``."""
        x1, x2, x3, x4, x5, x6, x7, x8 = x.unbind(-1)
        last = 125.0 if self.variant == "repo" else 1250.0
        parts = [
            0.0025 * (x4 + x6) - 1.0,
            0.0025 * (x5 + x7 - x4) - 1.0,
            0.01 * (x8 - x5) - 1.0,
            833.33252 * x4 + 100.0 * x1 - x1 * x6 - 83_333.333,
            1250.0 * x5 + x2 * x4 - x2 * x7 - last * x4,
            x3 * x5 - 2500.0 * x5 - x3 * x8 + 1_250_000.0,
        ]
        return torch.stack(parts, dim=-1)


@dataclass(frozen=True)
class CantileverBeam(Problem):
    """Volume of a stepped cantilever of five segments under limits of stress, deflection and slenderness. Thanedar, Vanderplaats (1995).

    The value 61914.79 that is often quoted is the optimum without the limit of the deflection.
    """

    variant: Variant = "fixed"  # "repo": a deflection that is a constant 97352022, so that no point is feasible

    constraints = (*(f"stress{i}" for i in (5, 4, 3, 2, 1)), "deflection", *(f"slenderness{i}" for i in (5, 4, 3, 2, 1)))

    def __post_init__(self) -> None:
        _known(self.variant)

    @cached_property
    def optimum(self) -> Optimum | None:
        """Stresses 5, 4 and 3, the deflection and all slendernesses are active; the variant has no feasible point."""
        if self.variant == "repo":
            return None
        widths = (3.0577283194, 2.8132664846, 2.5235862986, 2.2045556915, 1.7497570119)
        heights = (61.1545663887, 56.2653296914, 50.4717259722, 44.0911138308, 34.9951402388)
        return Optimum(63108.74799, ((*widths, *heights),), _SEARCHED)

    @cached_property
    def space(self) -> Space:
        """Widths and heights of the segments, the first at the wall, centimetres."""
        widths = {f"width{i}": Real(1.0, 5.0) for i in range(1, 6)}
        return Space({**widths, **{f"height{i}": Real(30.0, 65.0) for i in range(1, 6)}})

    def values(self, x: Tensor) -> Tensor:
        """``100 sum b_i h_i``, ``(..., n)``."""
        return 100.0 * (x[..., :5] * x[..., 5:]).sum(-1)

    def violations(self, x: Tensor) -> Tensor:
        """Bending stresses (N/cm^2), deflection of the tip (cm) and ratios of height to width above their limits, ``(..., n, 11)``."""
        width, height = x[..., :5].flip(-1), x[..., 5:].flip(-1)  # segment 5, at the tip, first
        place = torch.arange(1, 6, dtype=x.dtype, device=x.device)
        stress = 6.0 * 50_000.0 * 100.0 * place / (width * height.square()) - 14_000.0
        share = 3.0 * place.square() - 3.0 * place + 1.0  # 1, 7, 19, 37, 61: what each segment adds to the deflection
        if self.variant == "repo":
            deflection = torch.full_like(x[..., :1], 97_352_022.22)
        else:
            inertia = width * height**3 / 12.0
            deflection = 50_000.0 * 100.0**3 / (3.0 * 2e7) * (share / inertia).sum(-1, keepdim=True) - 2.7
        return torch.cat([stress, deflection, height / width - 20.0], dim=-1)


@dataclass(frozen=True)
class CarSideImpact(Problem):
    """Weight of a car's side under limits of what a dummy suffers in a crash. Gu, Yang, Tho et al. (2001), all sizes continuous."""

    constraints = (
        "abdomen",
        *("viscous_upper", "viscous_middle", "viscous_lower"),
        *("rib_upper", "rib_middle", "rib_lower"),
        "pubic",
        *("velocity_pillar", "velocity_door"),
    )
    optimum = Optimum(
        22.8429692,
        ((0.5, 1.1163655567, 0.5, 1.3021972409, 0.5, 1.5, 0.5, 0.345, 0.2632768337, -19.561535479, 0.0),),
        f"{_SEARCHED}; 22.84298 in the literature; rib_lower and pubic active, the ninth variable is free within limits",
    )

    @cached_property
    def space(self) -> Space:
        """Seven thicknesses, two strengths of material, height of the barrier and where it hits."""
        thickness = {f"x{k}": Real(0.45, 1.35) if k == 2 else Real(0.5, 1.5) for k in range(1, 8)}
        return Space({**thickness, "x8": Real(0.192, 0.345), "x9": Real(0.192, 0.345), "x10": Real(-20.0, 0.0), "x11": Real(-20.0, 0.0)})

    def values(self, x: Tensor) -> Tensor:
        """Weight, ``(..., n)``."""
        x1, x2, x3, x4, x5, _, x7 = x[..., :7].unbind(-1)
        return 1.98 + 4.90 * x1 + 6.67 * x2 + 6.98 * x3 + 4.01 * x4 + 1.78 * x5 + 2.73 * x7

    def violations(self, x: Tensor) -> Tensor:
        """The ten constraints, ``(..., n, 10)``: response surfaces, less their limits."""
        x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11 = x.unbind(-1)
        abdomen = 1.16 - 0.3717 * x2 * x4 - 0.00931 * x2 * x10 - 0.484 * x3 * x9 + 0.01343 * x6 * x10
        upper = 0.261 - 0.0159 * x1 * x2 - 0.188 * x1 * x8 - 0.019 * x2 * x7 + 0.0144 * x3 * x5 + 0.0008757 * x5 * x10
        upper = upper + 0.08045 * x6 * x9 + 0.00139 * x8 * x11 + 0.00001575 * x10 * x11
        middle = 0.214 + 0.00817 * x5 - 0.131 * x1 * x8 - 0.0704 * x1 * x9 + 0.03099 * x2 * x6 - 0.018 * x2 * x7 + 0.0208 * x3 * x8
        middle = middle + 0.121 * x3 * x9 - 0.00364 * x5 * x6 + 0.0007715 * x5 * x10 - 0.0005354 * x6 * x10 + 0.00121 * x8 * x11
        lower = 0.74 - 0.061 * x2 - 0.163 * x3 * x8 + 0.001232 * x3 * x10 - 0.166 * x7 * x9 + 0.227 * x2.square()
        rib_upper = 28.98 + 3.818 * x3 - 4.2 * x1 * x2 + 0.0207 * x5 * x10 + 6.63 * x6 * x9 - 7.7 * x7 * x8 + 0.32 * x9 * x10
        rib_middle = (
            33.86 + 2.95 * x3 + 0.1792 * x10 - 5.057 * x1 * x2 - 11.0 * x2 * x8 - 0.0215 * x5 * x10 - 9.98 * x7 * x8 + 22.0 * x8 * x9
        )
        rib_lower = 46.36 - 9.9 * x2 - 12.9 * x1 * x8 + 0.1107 * x3 * x10
        pubic = 4.72 - 0.5 * x4 - 0.19 * x2 * x3 - 0.0122 * x4 * x10 + 0.009325 * x6 * x10 + 0.000191 * x11.square()
        pillar = 10.58 - 0.674 * x1 * x2 - 1.95 * x2 * x8 + 0.02054 * x3 * x10 - 0.0198 * x4 * x10 + 0.028 * x6 * x10
        door = 16.45 - 0.489 * x3 * x7 - 0.843 * x5 * x6 + 0.0432 * x9 * x10 - 0.0556 * x9 * x11 - 0.000786 * x11.square()
        parts = [abdomen - 1.0, upper - 0.9, middle - 0.9, lower - 0.9]
        parts += [rib - 32.0 for rib in (rib_upper, rib_middle, rib_lower)]
        return torch.stack([*parts, pubic - 4.0, pillar - 9.9, door - 15.7], dim=-1)
