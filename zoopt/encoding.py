"""Arithmetic between problem units and encoded points, for all columns at once.

One code path serves numpy arrays and torch tensors, whose functions of the same name are used; an operation that the
columns of a space do not need is left out. Nothing here synchronises with the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from zoopt.variables import Coding, Floats

_NEIGHBOURS = 4  # steps of floating point
FIELDS = ("slope", "offset", "low", "high", "first", "last", "half", "shift", "inverse_slope", "inverse_offset")


@dataclass(frozen=True)
class Condition:
    """One way in which a column switches variables on: it must hold one of these values.

    Attributes:
        column: The parent's column.
        values: What it may hold, in problem units (choices: indices).
        rule: Number of the rule that switches the parent itself on; None: always on.
    """

    column: int
    values: tuple[float, ...]
    rule: int | None


@dataclass(frozen=True)
class Table:
    """Constants of all columns of a space.

    Attributes:
        constants: For each name in ``FIELDS``, and ``log``, ``discrete``, ``choice`` (bool): ``(d,)``.
        start: Encoded default, ``(d,)``.
        rules: For each conditional variable, after its parents, the conditions that must all hold.
        rule_of: For each column 0, or 1 + the number of the rule that switches it on, ``(d,)``.
    """

    constants: dict[str, Any]
    start: Floats
    rules: tuple[tuple[Condition, ...], ...]
    rule_of: np.ndarray[Any, np.dtype[np.int64]]


def constants(codings: Sequence[Coding], sizes: Sequence[int]) -> dict[str, Any]:
    """The constants of several variables, side by side."""
    found: dict[str, Any] = {}
    for name in FIELDS:
        parts = [np.broadcast_to(getattr(coding, name), (size,)) for coding, size in zip(codings, sizes, strict=True)]
        found[name] = np.concatenate([np.empty(0), *parts]).astype(np.float64)
    for name in ("log", "discrete"):
        found[name] = np.repeat([getattr(coding, name) for coding in codings], sizes)
    found["choice"] = np.repeat([coding.kind == "choice" for coding in codings], sizes)
    return found


class Encoding:
    """The encoding for one array library, floating type and device; made by ``for_numpy`` and ``for_torch``."""

    def __init__(
        self,
        table: Table,
        xp: Any,
        array: Callable[[Any], Any],
        clamp: Callable[[Any, Any, Any], Any],
        quantile: Callable[[Any], Any],
        eps: float,
    ) -> None:
        known = table.constants
        self._xp = xp
        self._clamp = clamp
        self._normal_quantile = quantile
        self._open_interval = (eps * eps, 1.0 - eps)  # inside the unit interval in this floating type
        self.slope, self.offset, self.low, self.high = (array(known[name]) for name in ("slope", "offset", "low", "high"))
        self.first, self.last, self.half, self.shift = (array(known[name]) for name in ("first", "last", "half", "shift"))
        self.inverse_slope, self.inverse_offset = array(known["inverse_slope"]), array(known["inverse_offset"])
        self.start = array(table.start)

        def mask(values: Any) -> Any:
            return array(values) if values.any() else None

        self.log, self.discrete, self.choice = mask(known["log"]), mask(known["discrete"]), mask(known["choice"])
        self.log_integer = mask(known["log"] & known["discrete"])
        self.unbounded = mask(np.isinf(known["last"]))
        self.rules = [[(c.column, array(np.array(c.values)), c.rule) for c in rule] for rule in table.rules]
        self.rule_of = array(table.rule_of)

    def decode(self, x: Any) -> Any:
        """Problem units of encoded points, ``(..., d)``."""
        xp = self._xp
        z = x * self.slope
        z += self.offset
        if self.log is None and self.discrete is None:
            return z
        if self.log is not None:
            z = xp.where(self.log, xp.exp(xp.where(self.log, z, 0.0)), z)
        if self.discrete is not None:
            z = xp.where(self.discrete, xp.floor(z + self.half) + self.shift, z)
        return self._clamp(z, self.low, self.high)

    def encode(self, z: Any) -> Any:
        """Encoded points of problem units, ``(..., d)``: the nearest valid ones, conditions aside."""
        xp = self._xp
        z = self._clamp(z, self.low, self.high)
        if self.discrete is not None:
            z = xp.where(self.discrete, xp.floor(z + 0.5), z)
        if self.log is not None:
            t = xp.log(xp.where(self.log, z, 1.0))
            if self.log_integer is not None:  # the middle between log(k - 1/2) and log(k + 1/2)
                t = xp.where(self.log_integer, 0.5 * xp.log(xp.where(self.log_integer, z * z - 0.25, 1.0)), t)
            z = xp.where(self.log, t, z)
        x = (z - self.inverse_offset) / self.inverse_slope
        return self._clamp(x, self.first, self.last)

    def encode_exactly(self, z: Any) -> Any:
        """``encode``, but where some encoded point decodes to the very same numbers, one that does.

        Rounding in ``encode`` may end at a neighbour of all such points; they are at most a few steps of floating point away.
        """
        xp = self._xp
        x = nearest = self.encode(z)
        for _ in range(_NEIGHBOURS):
            reached = self.decode(x)
            if (reached == z).all():
                return x
            x = self._clamp(xp.nextafter(x, xp.where(reached < z, np.inf, xp.where(reached > z, -np.inf, x))), self.first, self.last)
        return xp.where(self.decode(x) == z, x, nearest)

    def snap(self, x: Any) -> Any:
        """The nearest valid encoded points, known constraints aside."""
        xp = self._xp
        x = self._clamp(x, self.first, self.last)
        if self.discrete is not None:
            x = xp.where(self.discrete, self.encode(self.decode(x)), x)
        return xp.where(self.active(x), x, self.start) if self.rules else x

    def active(self, x: Any) -> Any:
        """Which columns are switched on, ``(..., d)``."""
        xp = self._xp
        always = xp.ones_like(x[..., 0], dtype=xp.bool)
        if not self.rules:
            return xp.broadcast_to(always[..., None], x.shape)
        return xp.stack([always, *self.rule_masks(self.decode(x))], -1)[..., self.rule_of]

    def rule_masks(self, z: Any) -> list[Any]:
        """For each rule, where it holds, from points in problem units."""
        masks: list[Any] = []
        for rule in self.rules:
            mask = None
            for column, values, parent in rule:
                holds = (z[..., column, None] == values).any(-1)
                if parent is not None:
                    holds = holds & masks[parent]
                mask = holds if mask is None else mask & holds
            masks.append(mask)
        return masks

    def from_unit(self, u: Any) -> Any:
        """Valid encoded points from the unit cube, uniform in each variable; normal where unbounded."""
        xp = self._xp
        x = u
        if self.choice is not None:
            x = xp.where(self.choice, u * (self.last + 1.0) - 0.5, x)
        if self.unbounded is not None:
            x = xp.where(self.unbounded, self._normal_quantile(xp.clip(u, *self._open_interval)), x)
        return self.snap(x)


def for_numpy(table: Table) -> Encoding:
    """The encoding of float64 arrays."""

    def clamp(x: Any, low: Any, high: Any) -> Any:  # np.clip takes three times as long for one row
        return np.minimum(np.maximum(x, low), high)

    return Encoding(table, np, np.asarray, clamp, ndtri, float(np.finfo(np.float64).eps))


def for_torch(table: Table, dtype: torch.dtype, device: torch.device) -> Encoding:
    """The encoding of tensors of one floating type on one device."""

    def array(values: Any) -> torch.Tensor:
        kinds = {"b": torch.bool, "i": torch.int64}
        return torch.tensor(values.tolist(), dtype=kinds.get(values.dtype.kind, dtype), device=device)

    # clamp, unlike minimum and maximum, keeps the whole derivative on a bound.
    return Encoding(table, torch, array, torch.clamp, torch.special.ndtri, torch.finfo(dtype).eps)
