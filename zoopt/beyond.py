"""Variables that say how an evaluation is made, and in which conditions: fidelities with their cost, and a random environment."""

# ruff: noqa: D102  (methods are documented by their base class)
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtr, ndtri

from zoopt.errors import SpaceError
from zoopt.variables import TYPES, Beyond, Floats, Variable, _Indexed, plain

_MOST_LISTED = 1000  # values that may have a weight each


@dataclass(frozen=True, repr=False)
class Fidelity(Beyond):
    """How an evaluation is made: its length, resolution, or source. What counts is the result at the target; other values cost less.

    Args:
        variable: What values it can have: a ``Real``, ``Integer``, ``Bool`` or ``Choice``.
        target: The value that counts; by default the largest number, or the last of ordered choices.
        cost: Cost of an evaluation by value, in any unit. Between numbers it is linear, in the user's units. Choices that are left out are
            never asked: results that are there already. By default in proportion to the number, 1 at the target.
    """

    _: KW_ONLY
    target: Any = None
    cost: Mapping[Any, float] | None = None

    type_name: ClassVar[str] = "fidelity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dims:
            raise SpaceError("a Fidelity is a single number or choice, without a shape.")
        coding = self.coding()
        if math.isinf(coding.upper):
            raise SpaceError("a Fidelity has bounds; give low and high.")
        indexed = isinstance(self.variable, _Indexed)
        if self.target is None:
            if indexed and not coding.ordered:
                raise SpaceError(f"a Fidelity of choices needs its target, the one that counts: {self.expected()}.")
            object.__setattr__(self, "target", self.decode_row([coding.high]))
        self.read("target", [self.target])
        if self.cost is None:
            if indexed or coding.low <= 0:
                example = f"{{{self.decode_row([coding.low])!r}: 1, {self.target!r}: 10}}"
                raise SpaceError(f"a Fidelity needs its cost by value, as in cost={example}; only that of positive numbers is known.")
        else:
            object.__setattr__(self, "cost", self._costs(self.cost))

    def _costs(self, given: Any) -> dict[Any, float]:
        """The cost by value, sorted; texts, as the keys of a file are, stand for the values they spell."""
        if not isinstance(given, Mapping) or not given:
            raise SpaceError(f"cost is a table of numbers by value; got {given!r}.")
        costs: dict[float, tuple[Any, float]] = {}
        for key, cost in given.items():
            value = _spelled(self.variable, key)
            z = float(self.read("a value in cost", [value])[0, 0])
            if isinstance(cost, bool) or not isinstance(cost, int | float | np.number) or not 0 < float(cost) < math.inf:
                raise SpaceError(f"the cost of {key!r} must be a number above 0; got {cost!r}.")
            costs[z] = (value, float(cost))
        target = float(self.read("target", [self.target])[0, 0])
        if isinstance(self.variable, _Indexed):
            if target not in costs:
                raise SpaceError(f"cost says nothing of the target, {self.target!r}.")
        elif min(costs) > self.coding().low or max(costs) < self.coding().high:
            raise SpaceError(f"cost must name the lowest and the highest value, {self.coding().low:g} and {self.coding().high:g}.")
        return {value: cost for _, (value, cost) in sorted(costs.items())}

    @property
    def optional(self) -> bool:
        return True

    def first_guess(self) -> Floats | None:
        guess: Floats = self.read("target", [self.target])[0]
        return guess

    def cost_of(self, z: Floats) -> Floats:
        """Cost of an evaluation with these values in problem units, ``(n,)``; inf where it is never asked."""
        if self.cost is None:
            return np.asarray(z / float(self.read("target", [self.target])[0, 0]))
        known = np.array([self.read("cost", [value])[0, 0] for value in self.cost])
        costs = np.array(list(self.cost.values()))
        if isinstance(self.variable, _Indexed):
            table = np.full(len(self.variable.choices), np.inf)
            table[known.astype(int)] = costs
            return np.asarray(table[z.astype(int)])
        return np.asarray(np.interp(z, known, costs))

    def to_config(self) -> dict[str, Any]:
        config = {**super().to_config(), "target": plain(self.target)}
        return config if self.cost is None else {**config, "cost": {str(plain(value)): cost for value, cost in self.cost.items()}}


@dataclass(frozen=True, repr=False)
class Environment(Beyond):
    """A condition that is chosen while we evaluate, and is random in use: what counts is an expectation, or a risk, over it.

    Uniform over its values (of a logarithmic variable, over their logarithms) unless it says otherwise.

    Args:
        variable: What values it can have: a ``Real``, ``Integer``, ``Bool`` or ``Choice``.
        mean: Of a normal law, cut off at the bounds.
        sd: Standard deviation of that law.
        weights: How often each value comes, by value or in their order; in any unit.
    """

    _: KW_ONLY
    mean: float | None = None
    sd: float | None = None
    weights: Mapping[Any, float] | Sequence[float] | None = None

    type_name: ClassVar[str] = "environment"

    def __post_init__(self) -> None:
        super().__post_init__()
        coding = self.coding()
        if (self.mean is None) != (self.sd is None):
            raise SpaceError("a normal Environment needs mean and sd, both.")
        if self.sd is not None and self.mean is not None:
            if coding.kind == "choice" or self.weights is not None:
                raise SpaceError("mean and sd are for numbers without weights.")
            if not (math.isfinite(self.mean) and 0 < self.sd < math.inf):
                raise SpaceError(f"a normal Environment needs a finite mean and sd > 0; got {self.mean!r} and {self.sd!r}.")
            if not self._mass()[1] > self._mass()[0]:
                raise SpaceError("this normal law never lies within the bounds of the variable.")
        elif math.isinf(coding.upper) and self.weights is None:
            raise SpaceError("an Environment without bounds needs mean and sd.")
        if self.weights is not None:
            if coding.cardinality is None or coding.cardinality > _MOST_LISTED:
                raise SpaceError("weights are for choices, truth values and integers of few values.")
            object.__setattr__(self, "weights", self._listed(self.weights, coding.cardinality))

    def _listed(self, given: Any, count: int) -> tuple[float, ...]:
        """Weights in the order of the values, summing to 1."""
        low = self.coding().low
        values = [self.decode_row([low + i]) for i in range(count)]
        if isinstance(given, Mapping):
            by_value = {_spelled(self.variable, key): weight for key, weight in given.items()}
            unknown = [key for key in by_value if key not in values]
            if unknown:
                raise SpaceError(f"weights name {unknown[0]!r}, which is no value; it must be {self.expected()}.")
            given = [by_value.get(value, 0.0) for value in values]
        given = given.tolist() if isinstance(given, np.ndarray) else given
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != count:
            raise SpaceError(f"weights must be {count} numbers, one for each value; got {given!r}.")
        if not all(isinstance(w, int | float) and 0 <= w < math.inf for w in given) or not sum(given) > 0:
            raise SpaceError(f"weights must be numbers of 0 or more, and not all 0; got {given!r}.")
        total = float(sum(given))
        total = 1.0 if abs(total - 1.0) < 1e-12 else total  # read again, they stay what they are
        return tuple(float(w) / total for w in given)

    def _mass(self) -> tuple[float, float]:
        """Probability below either bound under the normal law without its bounds."""
        assert self.mean is not None
        assert self.sd is not None
        coding = self.coding()
        half = 0.5 if coding.discrete else 0.0
        unbounded = math.isinf(coding.upper)
        ends = (-math.inf, math.inf) if unbounded else (coding.low - half, coding.high + half)
        low, high = (float(ndtr((end - self.mean) / self.sd)) for end in ends)
        return low, high

    @property
    def optional(self) -> bool:
        return True

    def quantiles(self, u: Floats) -> Floats | None:
        """Values in problem units at probabilities ``u: (...)``; None: those of the encoding, whose law is uniform."""
        if self.weights is not None:
            ends: Floats = np.cumsum(np.array(self.weights))
            return np.asarray(self.coding().low + np.minimum(np.searchsorted(ends, u, side="right"), len(ends) - 1))
        if self.mean is None or self.sd is None:
            return None
        low, high = self._mass()
        z = self.mean + self.sd * ndtri(np.clip(low + (high - low) * u, 1e-300, 1.0 - 1e-16))
        return np.asarray(np.rint(z) if self.coding().discrete else z)

    def to_config(self) -> dict[str, Any]:
        config = super().to_config()
        for name in ("mean", "sd", "weights"):
            if getattr(self, name) is not None:
                config[name] = plain(getattr(self, name))
        return config


def _spelled(variable: Variable, key: Any) -> Any:
    """The value that a key of a table means: in a file it is a text."""
    if not isinstance(key, str):
        return key
    if isinstance(variable, _Indexed):
        return next((choice for choice in variable.choices if str(choice) == key or str(choice).lower() == key), key)
    try:
        return float(key)
    except ValueError:
        return key


TYPES |= {cls.type_name: cls for cls in (Fidelity, Environment)}
