"""How the functions of several tasks, or sources of information, vary together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SCALE = (0.0, 1.0)  # normal prior of the logarithm of a task's scale, over the target's
_LINK = (1.5, 1.0)  # normal prior of what makes tasks alike: 1.5 is a correlation of .83
_OFFSET = (math.log(0.3), 1.5)  # normal prior of the logarithm of the variance of tasks' offsets

_Vector = np.ndarray[Any, np.dtype[np.float64]]


class Tasks:
    """Covariance between tasks, by a vector of parameters: scales of all but the target, links of all pairs, the offsets' variance.

    A task's function is its scale times one of some correlated functions of the same lengthscales, plus a constant of its own. Bonilla,
    Chai, Williams, Multi-task Gaussian process prediction, NIPS 2007.

    Args:
        count: How many tasks c.
        target: The task whose scale is 1.
    """

    def __init__(self, count: int, target: int) -> None:
        self.count = count
        self.others = [k for k in range(count) if k != target]
        self.rows, self.columns = np.tril_indices(count, -1)
        links = len(self.rows)
        self.size = count - 1 + links + 1
        self.centre = np.array([_SCALE[0]] * (count - 1) + [_LINK[0]] * links + [_OFFSET[0]])
        self.width = np.array([_SCALE[1]] * (count - 1) + [_LINK[1]] * links + [_OFFSET[1]])
        self.bounds = [(-5.0, 5.0)] * (count - 1) + [(-6.0, 6.0)] * links + [(-12.0, 8.0)]

    def covariance(self, parameters: Tensor) -> Tensor:
        """Of the tasks' functions at one place, over the outputscale, ``(c, c)``; differentiable."""
        c = self.count
        root = torch.eye(c, dtype=parameters.dtype).index_put(
            (torch.from_numpy(self.rows), torch.from_numpy(self.columns)), parameters[c - 1 : -1]
        )
        root = root / root.norm(dim=-1, keepdim=True)
        scales = torch.zeros(c, dtype=parameters.dtype).index_put((torch.tensor(self.others),), parameters[: c - 1]).exp()
        covariance: Tensor = (root @ root.mT) * torch.outer(scales, scales)
        return covariance

    def offset(self, parameters: Tensor) -> float:
        """Variance of the offsets."""
        return math.exp(float(parameters[-1]))

    def slopes(self, parameters: Tensor, by_covariance: Tensor, by_offset: float) -> _Vector:
        """Derivatives by the parameters, from those by the entries of the covariance ``(c, c)`` and by the variance of the offsets."""
        with torch.enable_grad():
            leaf = parameters.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad((self.covariance(leaf) * by_covariance).sum(), leaf)
        found: _Vector = gradient.numpy().copy()
        found[-1] = by_offset * self.offset(parameters)
        return found
