"""Where the particles live: the box of the space, or a sphere or a simplex in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from zoopt.errors import CapabilityError
from zoopt.strategies.cbo.folding import fold
from zoopt.strategy import Task

if TYPE_CHECKING:
    from zoopt.random import Random
    from zoopt.strategies.cbo.diffusion import Noise

SurfaceName = Literal["box", "sphere", "simplex"]


class Surface:
    """The bounds of the space themselves. Particles are encoded points."""

    name: ClassVar[SurfaceName] = "box"

    def check(self, task: Task) -> None:
        """Refuses spaces in which there is no such surface."""

    def cloud(self, task: Task, particles: int, random: Random) -> Tensor:
        """New particles, uniform (normal where the space is unbounded), ``(*runs, N, d)``."""
        return task.space.from_unit(random.uniform((particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device))

    def onto(self, x: Tensor) -> Tensor:
        """The points of the surface to which points near it belong, ``(*runs, n, d)``."""
        return x

    def encode(self, task: Task, x: Tensor) -> Tensor:
        """Encoded points of particles, ``(*runs, n, d)``."""
        return x

    def decode(self, task: Task, points: Tensor) -> Tensor:
        """Particles at encoded points, ``(*runs, n, d)``."""
        return points

    def move(self, task: Task, x: Tensor, jump: Tensor, away: Tensor, spread: float, noise: Noise) -> Tensor:
        """Particles after a step, in place, ``(*runs, n, d)``.

        Args:
            task: What is solved.
            x: Particles.
            jump: Where they would go in free space.
            away: How far they were from the consensus point.
            spread: The size s of the noise of the step.
            noise: Its kind.
        """
        return fold(x.add_(jump), task.space)


class _InProblemUnits(Surface):
    """Particles are points in problem units, on a surface that the units of the space define."""

    def check(self, task: Task) -> None:
        space = task.space
        plain = all(column.cardinality is None for column in space.columns) and not space.constraints
        if plain:
            ends = space.decode(torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64).expand(3, space.dim))
            plain = bool(torch.isclose(ends[1], (ends[0] + ends[2]) / 2, rtol=1e-9).all())  # no logarithms
        if not plain:
            raise CapabilityError(
                f"cbo with surface={self.name!r} needs real variables without logarithms and without known constraints; the {self.name} "
                "is the constraint."
            )

    def encode(self, task: Task, x: Tensor) -> Tensor:
        low, width = self._units(task, x)
        return (x - low) / width

    def decode(self, task: Task, points: Tensor) -> Tensor:
        low, width = self._units(task, points)
        return self.onto(torch.addcmul(low, points, width))

    def _units(self, task: Task, like: Tensor) -> tuple[Tensor, Tensor]:
        low = task.space.decode(torch.zeros(task.dim, dtype=like.dtype, device=like.device))
        return low, task.space.decode(torch.ones(task.dim, dtype=like.dtype, device=like.device)) - low


class Sphere(_InProblemUnits):
    """The unit sphere ``sum x_i^2 = 1`` in problem units.

    The step is projected onto the tangent space, corrected for the curvature, and brought back to the sphere: Fornasier, Huang, Pareschi,
    Sünnen, Consensus-based optimization on the sphere, JMLR 22, 2021 (Kuramoto-Vicsek); anisotropic: Math. Models Methods Appl. Sci.
    32(12), 2022.
    """

    name = "sphere"

    def cloud(self, task: Task, particles: int, random: Random) -> Tensor:
        return self.onto(random.normal((particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device))

    def onto(self, x: Tensor) -> Tensor:
        return x.div(torch.linalg.vector_norm(x, dim=-1, keepdim=True))

    def move(self, task: Task, x: Tensor, jump: Tensor, away: Tensor, spread: float, noise: Noise) -> Tensor:
        tangent = jump - (jump * x).sum(-1, keepdim=True) * x
        square = away.square()
        if noise == "anisotropic":
            bend = square + square.sum(-1, keepdim=True) - 2.0 * (away * x).square().sum(-1, keepdim=True)
        else:
            bend = (task.dim - 1) * (square.sum(-1, keepdim=True) if noise == "isotropic" else torch.ones_like(square))
        return x.copy_(self.onto(x + tangent - spread**2 / 2.0 * bend * x))


class Simplex(_InProblemUnits):
    """The simplex ``x_i >= 0, sum x_i = 1`` in problem units: shares, mixtures, portfolios.

    A coordinate that would become negative is reflected, and the point divided by its sum; so that a share can come as near to zero as
    a coordinate of a box to its bound, at which particles would gather if they were cut off.
    """

    name = "simplex"

    def cloud(self, task: Task, particles: int, random: Random) -> Tensor:
        u = random.uniform((particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device)
        return self.onto(-torch.log1p(-u))

    def onto(self, x: Tensor) -> Tensor:
        x = x.abs()
        return x / x.sum(-1, keepdim=True)

    def move(self, task: Task, x: Tensor, jump: Tensor, away: Tensor, spread: float, noise: Noise) -> Tensor:
        return x.copy_(self.onto(x + jump))


SURFACES: dict[str, Surface] = {surface.name: surface for surface in (Surface(), Sphere(), Simplex())}
