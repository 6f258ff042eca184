"""The random step of the particles around their consensus point."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zoopt.strategies.cbo.consensus import by_run
from zoopt.strategies.cbo.folding import fold_unit

if TYPE_CHECKING:
    from zoopt.strategies.cbo.numbers import Fill

Noise = Literal["anisotropic", "isotropic", "covariance", "constant"]

_TILE = 64  # particles that are moved as one row, since a kernel's inner loop runs over a row
_FEW = 8  # coordinates of a particle up to which that pays
_WORTH = 1 << 13  # coordinates in all from which it does
_BLOCK = 1 << 16  # coordinates moved at a time on the CPU: what they need stays in a core's cache, and in memory that is held anyway


def interpolate(x: Tensor, c: Tensor, eta: Tensor) -> Tensor:
    """The anisotropic step in one operation, in place: each coordinate's distance is multiplied by a number of its own.

    ``x <- c + eta D`` with ``eta ~ N(m, s^2)`` is ``c + m D + s D z``, which has the law of ``c + m D + s |D| z``.

    Args:
        x: Particles, ``(*runs, N, d)``; overwritten.
        c: Consensus point, ``(*runs, 1, d)``, or one for each particle.
        eta: Shaped like ``x``, of its type.
    """
    *runs, n, d = x.shape
    side_by_side = math.gcd(n, _TILE)
    one_point = c.dim() == x.dim() and c.shape[-2] == 1
    if not one_point or d > _FEW or x.numel() < _WORTH or side_by_side == 1 or x.device.type != "cpu":
        torch.lerp(c, x, eta, out=x)
    else:
        wide = (*runs, n // side_by_side, side_by_side * d)
        torch.lerp(c.repeat_interleave(side_by_side, -2).flatten(-2).unsqueeze(-2), x.view(wide), eta.view(wide), out=x.view(wide))
    return x


def extent(x: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest of each coordinate over the particles, ``(*runs, d)`` each.

    Args:
        x: Particles, ``(*runs, N, d)``, contiguous within each run.
    """
    *runs, n, d = x.shape
    side_by_side = math.gcd(n, _TILE)  # 20 times as fast for 10,000 particles in 20 dimensions
    wide = x.view(*runs, n // side_by_side, side_by_side * d)
    low, high = (end.view(*runs, side_by_side, d) for end in (wide.amin(-2), wide.amax(-2)))
    return low.amin(-2), high.amax(-2)


def step(
    x: Tensor,
    c: Tensor,
    z: Tensor,
    contraction: float | Tensor,
    spread: float,
    noise: Noise,
    *,
    root: Tensor | None = None,
    truncation: float | None = None,
) -> Tensor:
    """One Euler-Maruyama step of all particles, in place: ``x <- c + m D + s noise(D)`` with ``D = x - c``.

    Noise in proportion to each coordinate's distance (anisotropic): Carrillo, Jin, Li, Zhu, ESAIM: COCV 27, 2021; to the distance
    (isotropic): Pinnau et al., M3AS 27(1), 2017; through the weighted covariance of the particles (covariance): Garbuno-Inigo et
    al., Studies in Applied Mathematics 148(3), 2022; truncated: Fornasier, Richtárik, Riedl, Sun, arXiv:2310.16610.

    Args:
        x: Particles, ``(*runs, N, d)``; overwritten.
        c: Consensus point, ``(*runs, 1, d)``, or one for each particle, ``(*runs, N, d)``.
        z: Standard normal numbers, shaped like ``x``, of any floating type; overwritten.
        contraction: m, what is left of the distance after the drift; or one for each particle, ``(*runs, N, 1)``.
        spread: s, the size of the noise.
        noise: Which of the four.
        root: A root of the covariance, ``(*runs, d, k)``, see ``covariance_root``.
        truncation: Largest distance that enters the noise; None: no limit.

    Returns:
        ``x``.
    """
    if noise == "anisotropic" and truncation is None:
        return interpolate(x, c, z.mul_(spread).add_(contraction).to(x.dtype))
    z = z.mul_(spread).to(x.dtype)
    away = x.sub_(c)
    if noise == "covariance":
        if root is None:
            raise ValueError("noise='covariance' needs a root of the covariance.")
        z = by_run(lambda z, root: z @ root.mT, z[..., : root.shape[-1]], root)
    elif noise != "constant":
        size = away.abs() if noise == "anisotropic" else torch.linalg.vector_norm(away, dim=-1, keepdim=True)
        z = z.mul_(size if truncation is None else size.clamp_max(truncation))
    return away.mul_(contraction).add_(z).add_(c)


def covariance_root(away: Tensor, weights: Tensor) -> Tensor:
    """A root R of the weighted covariance ``sum_i w_i D_i D_i^T = R R^T`` of the particles, ``(*runs, d, k)`` with ``k = min(N, d)``.

    By a QR factorisation of the weighted distances, whose covariance is never formed: small axes keep their digits, and no device is
    asked whether it succeeded.

    Args:
        away: Distances from the consensus point, ``(*runs, N, d)``.
        weights: ``(*runs, N)``.
    """
    rows = away * weights.clamp_min(0.0).sqrt().to(away.dtype).unsqueeze(-1)
    root: Tensor = by_run(lambda matrix: torch.linalg.qr(matrix, mode="r").R, rows).mT
    return root


def in_blocks(x: Tensor, fill: Fill, move: Callable[[Tensor, Tensor, tuple[slice, slice]], object], *, fold: bool) -> None:
    """Moves particles block by block on the CPU, with normal numbers for each: no memory is needed for all of them.

    Drawing, moving and folding a block while it is in the cache is quicker than passes through memory.

    Args:
        x: Particles, ``(*runs, N, d)``, contiguous within each run; overwritten.
        fill: Where the numbers come from.
        move: Is given a block ``(runs, rows, d)`` of particles to move in place, as many normal numbers in single precision, and
            which runs (in row-major order) and rows these are.
        fold: Whether the unit box bounds the particles.
    """
    n, d = x.shape[-2:]
    flat = x.flatten(0, -3) if x.dim() > 2 else x.unsqueeze(0)
    rows = min(n, max(1, _BLOCK // (16 * d)) * 16)
    together = max(1, _BLOCK // (n * d))  # small runs move several at a time
    numbers, half = _scratch(together * rows * d, x.dtype)
    for first in range(0, len(flat), together):
        for top in range(0, n, rows):
            at = slice(first, first + together), slice(top, top + rows)
            block = flat[at]
            z = numbers[: block.numel()].view(block.shape)
            fill(z, at)
            move(block, z, at)
            if fold:
                fold_unit(block, half[: block.numel()].view(block.shape))


_kept = threading.local()


def _scratch(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Working memory of this thread for ``size`` normal numbers and as many coordinates.

    It is kept: fresh pages would cost more than the arithmetic in them.
    """
    made: tuple[Tensor, Tensor] | None = getattr(_kept, str(dtype), None)
    if made is None or len(made[0]) < size:
        made = torch.empty(size, dtype=torch.float32), torch.empty(size, dtype=dtype)
        setattr(_kept, str(dtype), made)
    return made


def default_spread(noise: Noise, dim: int, contraction: float) -> float:
    """The noise's size s where the particles still contract, from the law that decides it.

    One coordinate is multiplied by ``m + s z`` at each step, and goes to zero when ``E log|m + s z| < 0``, which holds up to s of
    about 1.5: the noise may be as large as the distance. In many dimensions a smaller one converges within the budget. Isotropic
    noise has the length ``s sqrt(d) |D|``, so that it contracts for ``m^2 + d s^2 <= 1`` only.
    """
    if noise == "isotropic":
        return math.sqrt((1.0 - contraction**2) / dim)
    if noise == "anisotropic":
        return 1.01 if dim <= 20 else 0.7
    return math.sqrt(1.0 - contraction**2)
