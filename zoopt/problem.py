"""What is to be optimized, when it is more than a function: a batched objective with its space and its known optimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoopt.errors import SpaceError
from zoopt.feedback import Evaluation

if TYPE_CHECKING:
    from zoopt.space import Space


@dataclass(frozen=True)
class Optimum:
    """What is known about the solution of a problem.

    Attributes:
        value: Smallest feasible value; None with several objectives.
        x: Every known point that reaches it, problem units, ``k`` tuples of ``d`` numbers; empty where none is known.
        source: Where value and points come from.
        reference: With several objectives, the point against which the hypervolume of a front is measured, ``(m,)``.
        hypervolume: With several objectives, the hypervolume of the whole Pareto front.
    """

    value: float | None = None
    x: tuple[tuple[float, ...], ...] = ()
    source: str = ""
    reference: tuple[float, ...] | None = None
    hypervolume: float | None = None


class Problem:
    """A batched objective: a callable on an ``(..., n, d)`` tensor in problem units, of any float type, on any device.

    A subclass sets ``space``, overrides ``values`` and, with outcome constraints, ``violations``. Both are written
    over leading dimensions and never leave the device of ``x``, so that they also run on torch's ``meta`` device. What a
    problem can offer beyond values it offers by further methods (``gradient``, say), which a strategy finds at ``task.problem``.

    Attributes:
        objectives: Names of the objectives, one column of the values each, all minimised.
        constraints: Names of the outcome constraints; ``c(x) <= 0`` is feasible.
    """

    objectives: tuple[str, ...] = ("value",)
    constraints: tuple[str, ...] = ()

    # Cached properties, so that a subclass may as well set them: in its body or on an instance.
    @cached_property
    def space(self) -> Space:
        """The search space."""
        raise NotImplementedError(f"{type(self).__name__} does not set its space.")

    @cached_property
    def optimum(self) -> Optimum | None:
        """What is known about the solution, or None."""
        return None

    @property
    def dim(self) -> int:
        """Number of columns d of a point."""
        return self.space.dim

    def values(self, x: Tensor) -> Tensor:
        """Objective values ``(..., n)``, or ``(..., n, m)`` with m > 1 objectives, at ``x: (..., n, d)``."""
        raise NotImplementedError(f"{type(self).__name__} does not define values().")

    def violations(self, x: Tensor) -> Tensor:
        """Outcome constraints ``(..., n, c)`` at ``x: (..., n, d)``; ``<= 0`` is feasible."""
        raise NotImplementedError(f"{type(self).__name__} names the constraints {self.constraints} but does not define violations().")

    def __call__(self, x: Any) -> Tensor | Evaluation:
        """Evaluate points.

        Args:
            x: ``(..., n, d)`` or ``(d,)``, problem units; a tensor or anything that torch makes one of.

        Returns:
            Values ``(..., n)`` (``(..., n, m)`` with several objectives); with outcome constraints an ``Evaluation`` of both.

        Raises:
            SpaceError: The last dimension is not d.
        """
        points = torch.as_tensor(x)
        if not points.is_floating_point():
            points = points.to(torch.float64)
        if points.ndim == 0 or points.shape[-1] != self.dim:
            raise SpaceError(f"x must have shape (..., n, {self.dim}), a row for each point; got {tuple(points.shape)}.")
        if self.constraints:
            return Evaluation(self.values(points), self.violations(points))
        return self.values(points)


class Differentiable(Problem):
    """A problem whose gradient is available, by automatic differentiation unless a subclass knows better."""

    def gradient(self, x: Tensor) -> Tensor:
        """Gradients of the objectives in problem units, ``(..., n, m, d)``, at ``x: (..., n, d)``."""
        with torch.enable_grad():
            points = x.detach().clone().requires_grad_(True)
            values = self.values(points)
            if len(self.objectives) == 1:
                values = values.unsqueeze(-1)
            # The rows do not depend on each other, so the gradient of their sum holds the gradient of each.
            parts = [torch.autograd.grad(values[..., k].sum(), points, retain_graph=True)[0] for k in range(values.shape[-1])]
        return torch.stack(parts, dim=-2)


_PIECE = 1 << 16  # coordinates whose temporaries stay in a core's cache, and in memory that the allocator has at hand


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, evaluated some rows at a time where that is quicker: on the CPU, with many points and no gradient asked for.

    The temporaries of a large batch go through memory at each operation, and through fresh pages that cost more than the arithmetic.

    Args:
        function: Gives values ``(..., n)`` at points ``(..., n, d)``, each row's from that row alone.
        x: ``(..., n, d)``.
    """
    if x.device.type != "cpu" or x.numel() <= _PIECE or x.requires_grad:
        return function(x)
    rows = x.reshape(-1, x.shape[-1])
    values = x.new_empty(len(rows))
    size = max(1, _PIECE // x.shape[-1])
    for piece, out in zip(rows.split(size), values.split(size), strict=True):
        out.copy_(function(piece))
    return values.view(x.shape[:-1])


class Constants:
    """Number tables of a problem as tensors of the asked type and device, made once for each.

    Making them anew in every call would wait for the device each time.
    """

    def __init__(self, **tables: Any) -> None:
        self._tables = tables
        self._made: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_tables": self._tables, "_made": {}}

    def like(self, name: str, x: Tensor) -> Tensor:
        """Table ``name`` with the type and device of ``x``."""
        key = (name, x.dtype, x.device)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = torch.tensor(self._tables[name], dtype=x.dtype, device=x.device)
        return made
