"""The consensus point: the mean of the particles under Gibbs weights, and how sharp these weights are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LINE = 64  # bytes of a cache line; kernels round differently where a matrix begins elsewhere within one
_HALVINGS = 40  # of the interval in which alpha is looked for; 80 octaves to 1e-10 of one
_OCTAVES = 40.0


def level(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values in double precision, above the smallest of their run, and that smallest value.

    The subtraction comes before any multiplication with alpha, so that alpha may be as large as 1e15. A particle that failed has
    the value +inf; where all have, the smallest is +inf and the differences are NaN.

    Args:
        values: ``(*runs, N)``.

    Returns:
        ``(*runs, N)`` and ``(*runs, 1)``.
    """
    f = values.double()
    low = f.amin(-1, keepdim=True)
    return f - low, low


def gibbs(above: Tensor, alpha: Tensor) -> Tensor:
    """Gibbs weights ``softmax(-alpha f)``, ``(*runs, N)``; zero for particles that failed.

    Args:
        above: Values above the smallest, see ``level``.
        alpha: Inverse temperature, ``(*runs,)``, positive.
    """
    return torch.softmax(above * -alpha.unsqueeze(-1), -1)


def consensus(x: Tensor, above: Tensor, low: Tensor, alpha: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of the particles, and the weights; the previous consensus point where every particle of a run failed.

    Pinnau et al., A consensus-based model for global optimization and its mean-field limit, M3AS 27(1), 2017, eq. (1.2).

    Args:
        x: Particles, ``(*runs, N, d)``, aligned (see ``aligned``).
        above: Values above the smallest, ``(*runs, N)``.
        low: The smallest value, ``(*runs, 1)``.
        alpha: Inverse temperature, ``(*runs,)``.
        previous: ``(*runs, d)``.

    Returns:
        ``(*runs, d)`` and ``(*runs, N)``.
    """
    any_good = low < torch.inf
    weights = torch.where(any_good, gibbs(above, alpha), 0.0)
    return torch.where(any_good, mean(x, weights), previous), weights


def mean(x: Tensor, weights: Tensor) -> Tensor:
    """``sum_i weights_i x_i`` of each run, ``(*runs, d)``."""
    *runs, n, d = x.shape
    flat = weights.to(x.dtype).reshape(-1, 1, n)
    return torch.bmm(flat, x.reshape(-1, n, d)).view(*runs, d)


def aligned(x: Tensor) -> Tensor:
    """The same particles with each run at the beginning of a cache line, copied where they are not.

    Then a run's sums are the same to the bit beside any number of other runs.

    Args:
        x: ``(*runs, N, d)``.
    """
    *runs, n, d = x.shape
    per_line = _LINE // x.element_size()
    stride = -(-n * d // per_line) * per_line
    if stride == n * d or not runs:
        return x.contiguous()
    if x.stride(-1) == 1 and x.stride(-2) == d and x.stride(-3) == stride:
        return x
    strides = [stride * math.prod(runs[k + 1 :]) for k in range(len(runs))]
    storage = x.new_empty(math.prod(runs) * stride)
    return storage.as_strided((*runs, n, d), (*strides, d, 1)).copy_(x)


def first_alpha(above: Tensor, scale: float) -> Tensor:
    """``scale / (median f - min f)``: an inverse temperature that does not depend on the units of the objective, ``(*runs,)``.

    Where half of the particles failed or are equally good, the largest finite difference stands in for the median's, and 1 for
    no difference at all.
    """
    finite = torch.where(torch.isfinite(above), above, 0.0)
    middle = above.median(-1).values
    spread = torch.where(torch.isfinite(middle) & (middle > 0), middle, finite.amax(-1))
    return torch.where(spread > 0, scale / spread, 1.0)


def alpha_for_sample_size(above: Tensor, fraction: float) -> Tensor:
    """The inverse temperature at which the effective sample size ``(sum w)^2 / sum w^2`` is a fraction of the particles, ``(*runs,)``.

    Garbuno-Inigo, Carrillo, Hoffmann, Stuart, Vaes: Consensus-based sampling, Studies in Applied Mathematics 148(3), 2022, sec. 2.

    Args:
        above: Values above the smallest, ``(*runs, N)``.
        fraction: Between 0 and 1.
    """
    wanted = fraction * above.shape[-1]
    low = torch.full(above.shape[:-1], -_OCTAVES, dtype=above.dtype, device=above.device)
    high = torch.full_like(low, _OCTAVES)
    above = torch.where(torch.isfinite(above), above, torch.inf)
    for _ in range(_HALVINGS):
        octave = (low + high) / 2
        size = 1.0 / gibbs(above, torch.exp2(octave)).square().sum(-1)
        many = size > wanted  # the weights are too even: sharper ones are needed
        low, high = torch.where(many, octave, low), torch.where(many, high, octave)
    return torch.exp2((low + high) / 2)
