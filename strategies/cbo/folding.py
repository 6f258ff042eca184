"""Bounds: a particle that leaves the box comes back as from a mirror.

Cut off at the bound, the particles of a heavy-tailed search would gather there: a run of anisotropic noise leaves the box in a
third of its steps, and solves nothing that has its optimum inside (Rastrigin in 20 dimensions: 0 of 40 runs, against 40 folded).
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoopt.space import Space

_FAR = 1e8  # scales from the start


def fold(x: Tensor, space: Space) -> Tensor:
    """Encoded points moved into their bounds by reflection, in place; ``x: (*runs, N, d)``.

    Where there are none, a noise that does not contract drives particles apart without end: they stay at ``_FAR``, which is finite in
    every floating type.
    """
    if space.box:
        return fold_unit(x, torch.empty_like(x))
    low, width, bounded = (torch.as_tensor(a).to(x.device, non_blocking=True) for a in _bounds(space))
    low, width = low.to(x.dtype), width.to(x.dtype)
    u = (x - low) / width
    u = u.sub_(torch.mul(u, 0.5).round_(), alpha=2.0).abs_()
    return x.copy_(torch.where(bounded, low + u * width, x.clamp(-_FAR, _FAR)))


def fold_unit(x: Tensor, half: Tensor) -> Tensor:
    """Points moved into the unit box by reflection, in place; ``half`` is working memory shaped like them."""
    torch.mul(x, 0.5, out=half).round_()
    return x.sub_(half, alpha=2.0).abs_()


def _bounds(space: Space) -> tuple[Tensor, Tensor, Tensor]:
    """Lower bound, width and whether there is one, for each column."""
    lower, width = torch.from_numpy(space.lower), torch.from_numpy(space.width)
    bounded = torch.isfinite(lower) & torch.isfinite(torch.from_numpy(space.upper)) & (width > 0)
    return torch.where(bounded, lower, 0.0), torch.where(bounded, width, 1.0), bounded
