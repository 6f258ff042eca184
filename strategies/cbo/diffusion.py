"""The random step of the particles around their consensus point."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Noise = Literal["anisotropic", "isotropic", "covariance", "constant"]


def interpolate(x: Tensor, c: Tensor, eta: Tensor) -> Tensor:
    """The anisotropic step in one operation, in place: each coordinate's distance is multiplied by a number of its own.

    ``x <- c + eta D`` with ``eta ~ N(m, s^2)`` is ``c + m D + s D z``, which has the law of ``c + m D + s |D| z``.

    Args:
        x: Particles, ``(*runs, N, d)``; overwritten.
        c: Consensus point, ``(*runs, d)``.
        eta: Shaped like ``x``, of any floating type.
    """
    torch.lerp(c.unsqueeze(-2), x, eta.to(x.dtype), out=x)
    return x


def step(
    x: Tensor,
    c: Tensor,
    z: Tensor,
    contraction: float | Tensor,
    spread: float,
    noise: Noise,
    *,
    weights: Tensor | None = None,
    truncation: float | None = None,
) -> Tensor:
    """One Euler-Maruyama step of all particles, in place: ``x <- c + m D + s noise(D)`` with ``D = x - c``.

    Noise in proportion to each coordinate's distance (anisotropic): Carrillo, Jin, Li, Zhu, ESAIM: COCV 27, 2021; to the distance
    (isotropic): Pinnau et al., M3AS 27(1), 2017; through the weighted covariance of the particles (covariance): Garbuno-Inigo et
    al., Studies in Applied Mathematics 148(3), 2022; truncated: Fornasier, Richtárik, Riedl, Sun, arXiv:2310.16610.

    Args:
        x: Particles, ``(*runs, N, d)``; overwritten.
        c: Consensus point, ``(*runs, d)``.
        z: Standard normal numbers, shaped like ``x``, of any floating type; overwritten.
        contraction: m, what is left of the distance after the drift; or one for each particle, ``(*runs, N, 1)``.
        spread: s, the size of the noise.
        noise: Which of the four.
        weights: ``(*runs, N)``, for the covariance.
        truncation: Largest distance that enters the noise; None: no limit.

    Returns:
        ``x``.
    """
    z = z.mul_(spread)
    if noise == "anisotropic" and truncation is None:
        return interpolate(x, c, z.add_(contraction))
    z, c = z.to(x.dtype), c.unsqueeze(-2)
    away = x.sub_(c)
    if noise == "covariance":
        if weights is None:
            raise ValueError("noise='covariance' needs the weights of the particles.")
        z = _through_covariance(away, z, weights)
    elif noise != "constant":
        size = away.abs() if noise == "anisotropic" else torch.linalg.vector_norm(away, dim=-1, keepdim=True)
        z = z.mul_(size if truncation is None else size.clamp_max(truncation))
    return away.mul_(contraction).add_(z).add_(c)


def _through_covariance(away: Tensor, z: Tensor, weights: Tensor) -> Tensor:
    """Normal numbers with the weighted covariance of the particles."""
    w = weights.to(away.dtype).unsqueeze(-1)
    covariance = (away * w).mT @ away
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
    jump: Tensor = z @ root.mT
    return jump


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
