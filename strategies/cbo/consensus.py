"""The consensus point: the mean of the particles under Gibbs weights, and how sharp these weights are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoopt.threads import one_thread

SHARPNESS = 30.0  # alpha (median - smallest value) at the first step, where nothing is said of alpha
_LINE = 64  # bytes of a cache line; kernels round differently where a matrix begins elsewhere within one
_EXACT = ("cpu", "meta")  # devices on which aligned vectors times aligned matrices are the same in a batch as alone, to the bit
_HALVINGS = 40  # of the octaves in which alpha is looked for; 80 octaves to 1e-10 of one
_SHARPEST = 2.0**40  # alpha that is looked for, and one over the least


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


def consensus(x: Tensor, above: Tensor, low: Tensor, alpha: Tensor, previous: Tensor, *, all_ok: bool = False) -> tuple[Tensor, Tensor]:
    """The weighted mean of the particles, and the weights; the previous consensus point where every particle of a run failed.

    Pinnau et al., A consensus-based model for global optimization and its mean-field limit, M3AS 27(1), 2017, eq. (1.2).

    Args:
        x: Particles, ``(*runs, N, d)``, aligned (see ``aligned``).
        above: Values above the smallest, ``(*runs, N)``.
        low: The smallest value, ``(*runs, 1)``.
        alpha: Inverse temperature, ``(*runs,)``.
        previous: ``(*runs, d)``.
        all_ok: No particle failed, as is known on the host.

    Returns:
        ``(*runs, d)`` and ``(*runs, N)``.
    """
    if all_ok:
        weights = gibbs(above, alpha)
        return mean(x, weights), weights
    any_good = low < torch.inf
    weights = torch.where(any_good, gibbs(above, alpha), 0.0)
    return torch.where(any_good, mean(x, weights), previous), weights


def local_consensus(x: Tensor, above: Tensor, alpha: Tensor, width: float) -> Tensor:
    """A consensus point for each particle, of those near to it: ``c_i = sum_j k(x_i, x_j) w_j x_j / sum_j k(x_i, x_j) w_j``.

    With a Gaussian kernel k. Bungert, Roith, Wacker, Polarized consensus-based dynamics for optimization and sampling, Mathematical
    Programming 211, 2025 (arXiv:2211.05238), eq. (1.4).

    Args:
        x: Particles, ``(*runs, N, d)``.
        above: Values above the smallest, ``(*runs, N)``; +inf for particles that failed.
        alpha: Inverse temperature, ``(*runs,)``.
        width: Standard deviation of the kernel.

    Returns:
        ``(*runs, N, d)``.
    """

    def of_run(x: Tensor, raised: Tensor) -> Tensor:
        square = x.square().sum(-1)
        apart = square.unsqueeze(-1) + square.unsqueeze(-2) - 2.0 * (x @ x.mT)
        near = torch.softmax((apart.clamp_min_(0.0).double() / (-2.0 * width**2)) - raised, -1)
        return near.to(x.dtype) @ x

    centres: Tensor = by_run(of_run, x, above * alpha.unsqueeze(-1))
    return torch.where(torch.isnan(centres), x, centres)  # every particle of the run failed


def mean(x: Tensor, weights: Tensor) -> Tensor:
    """``sum_i weights_i x_i`` of each run, ``(*runs, d)``."""
    *runs, n, d = x.shape
    w = weights.to(x.dtype)
    if x.device.type not in _EXACT:
        return _sum(x * w.unsqueeze(-1))
    w = w.unsqueeze(-2)
    if math.prod(runs) > 1:
        w = aligned(w)
    if len(runs) != 1:
        w, x = w.reshape(-1, 1, n), x.reshape(-1, n, d)
    with one_thread():
        return torch.bmm(w, x).view(*runs, d)


def _sum(x: Tensor) -> Tensor:
    """``sum_i x_i`` of each run in pairs, ``(*runs, d)``; overwrites ``x``.

    An accelerator's sums and products choose their order by the size of the whole batch, so that a run's last bits would depend on
    how many others there are; additions of one number to one do not.
    """
    n = x.shape[-2]
    while n > 1:
        pairs = n // 2
        x[..., :pairs, :].add_(x[..., n - pairs : n, :])
        n -= pairs
    return x[..., 0, :]


def by_run(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """A function of a run's tensors, called run by run on copies of them, so that a run's bits do not depend on the others.

    How a library multiplies a batch of matrices depends on how many there are, on how many threads it may use, and on some processors
    on where in memory each begins.

    Args:
        function: Takes tensors of one run and gives such a tensor.
        tensors: ``(*runs, ...)`` each, with the runs of the first, whose last two dimensions are a run's.
    """
    *runs, _, _ = tensors[0].shape
    if not runs:
        with one_thread():
            return function(*tensors)
    flat = [tensor.flatten(0, len(runs) - 1) for tensor in tensors]
    with one_thread():
        each = torch.stack([function(*(tensor[m].clone() for tensor in flat)) for m in range(math.prod(runs))])
    return each.view(*runs, *each.shape[1:])


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


def first_alpha(above: Tensor, scale: float = SHARPNESS) -> Tensor:
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
    low = torch.full(above.shape[:-1], 1.0 / _SHARPEST, dtype=above.dtype, device=above.device)
    high = torch.full_like(low, _SHARPEST)
    above = torch.where(torch.isfinite(above), above, torch.inf)
    for _ in range(_HALVINGS):
        alpha = (low * high).sqrt()  # the middle octave; rounded as IEEE 754 says, in a vector or alone
        size = 1.0 / gibbs(above, alpha).square().sum(-1)
        many = size > wanted  # the weights are too even: sharper ones are needed
        low, high = torch.where(many, alpha, low), torch.where(many, high, alpha)
    return (low * high).sqrt()
