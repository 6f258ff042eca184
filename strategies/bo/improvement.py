"""The logarithm of the expected improvement of a standard normal variable, and its slope, to full precision however little it is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_LOG_ROOT = 0.5 * math.log(2.0 * math.pi)
_FAR = -1e3  # below, the slope is given by its expansion
_VERY_FAR = -1.0 / math.sqrt(torch.finfo(torch.float64).eps)  # below, the value is


def log_h(z: Tensor) -> Tensor:
    """``log(phi(z) + z Phi(z))`` for ``z`` in double precision; differentiable.

    Ament, Daulton, Eriksson, Balandat, Bakshy, Unexpected improvements to expected improvement, NeurIPS 2023, eq. (9).
    """
    apply: Any = _LogH.apply  # which PyTorch leaves untyped
    value: Tensor = apply(z)
    return value


class _LogH(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        z = z.detach()
        near, low = z > -1.0, z.clamp_max(-1.0)
        ratio = math.sqrt(0.5 * math.pi) * torch.special.erfcx(low * -math.sqrt(0.5))  # Phi / phi
        high = z.clamp_min(-1.0)
        density = torch.exp(-0.5 * high.square() - _LOG_ROOT)
        mass = torch.special.ndtr(high)
        plain = density + high * mass
        # phi (1 + z Phi / phi), where the bracket is nearly 0.
        rest = torch.where(low > _VERY_FAR, torch.log(-torch.expm1((ratio * -low).clamp_max(1.0 - 1e-16).log())), -2.0 * low.abs().log())
        ctx.slope = torch.where(
            near, mass / plain, torch.where(low > _FAR, ratio / (1.0 + low * ratio).clamp_min(1e-300), low.abs() + 2.0 / low.abs())
        )
        return torch.where(near, plain.log(), -0.5 * low.square() - _LOG_ROOT + rest)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        slope: Tensor = ctx.slope
        return upstream[0] * slope
