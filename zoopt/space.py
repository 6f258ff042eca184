"""The search space: problem units and encoded points, bounds, snapping, conditions and known constraints.

Every variable becomes columns of a float tensor. Bounded reals and integers lie in ``[0, 1]`` (logarithms taken first,
integers in the middle of cells), choices hold their index, unbounded reals ``(x - start) / scale``. A strategy sees
encoded points only, an objective problem units only. A column that a condition switches off holds its encoded default.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product, repeat
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from zoopt import encoding, repair
from zoopt.beyond import Environment, Fidelity
from zoopt.constraints import Constraint, Expression, Linear, Mask, Predicate, as_constraint, column
from zoopt.errors import SpaceError
from zoopt.random import Random
from zoopt.region import Region
from zoopt.variables import Beyond, Bool, Choice, Context, Fixed, Floats, Integer, Kind, Real, Variable, from_config

__all__ = [
    "Bool",
    "Choice",
    "Column",
    "Context",
    "Environment",
    "Expression",
    "Fidelity",
    "Fixed",
    "Integer",
    "Linear",
    "Predicate",
    "Real",
    "Space",
    "Variable",
]

_REMEMBERED = 16  # regions of the last contexts
_AT_TARGET = 1e-6  # encoded values this near a fidelity's target are it: strategies may work in single precision
_MANY = 10_000  # numbers that are many
_COUNTED = 1_000_000  # combinations of parents up to which a conditional space is counted exactly


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an encoded point.

    Attributes:
        name: The variable it belongs to.
        index: Flat position in that variable.
        kind: ``"real"``, ``"integer"`` or ``"choice"`` (booleans too).
        cardinality: Number of values; None for a real.
        ordered: Whether neighbouring values are alike; False for choices unless the user said so.
        role: What it is beyond a variable that is searched: ``"context"``, ``"fidelity"``, ``"environment"``, or ``""``.
        conditional: Whether it can be inactive.
    """

    name: str
    index: int
    kind: Kind
    cardinality: int | None
    ordered: bool
    role: str
    conditional: bool

    @property
    def context(self) -> bool:
        """Whether it is observed, not chosen."""
        return self.role == "context"


class Space:
    """What is searched: variables by name, and known constraints between them.

    Args:
        variables: ``Real``, ``Integer``, ``Bool``, ``Choice``, ``Fixed``, ``Context``, ``Fidelity`` or ``Environment`` by name.
        constraints: Conditions that every asked point must keep, one or several: a ``Linear``, a text such as
            ``"x + 2*y <= 3"`` or ``"low < high and kernel != 'poly'"``, or a function of a parameter dict. A constraint
            applies where all variables that it names are active.

    Attributes:
        variables: The variables by name.
        constraints: The constraints, each with its ``text``.
        dim: Number of encoded columns d.
        columns: One ``Column`` for each.
        lower: Relaxed encoded lower bounds, ``(d,)``: 0 for bounded numbers, -inf for unbounded, -1/2 for choices.
        upper: Relaxed encoded upper bounds, ``(d,)``: 1, inf, or the number of choices less 1/2.
        width: ``upper - lower``, 1 where unbounded, ``(d,)``.
        low: Lower bounds in problem units, ``(d,)``; 0 for choices.
        high: Upper bounds in problem units, ``(d,)``; the last index for choices.
        start: Encoded first guess, ``(d,)``: defaults, else the middle (of unordered choices the first).
        box: Only bounded reals that are searched, unconditional, no constraint: every point of the unit cube is valid as it is.
        unbounded: Names of the unbounded variables.
        choices: Names of the choices and booleans.
        context: Names of the variables that are observed, not chosen.
        fidelities: Names of the variables that say how an evaluation is made.
        environment: Names of the variables that are random in use.
        beyond: Names of all of these.
        targets: Encoded values of the fidelities that count, by column.
        size: Number of distinct points of a finite space (context included, constraints not looked at); None: infinitely
            many, or too many to count.

    Raises:
        SpaceError: A variable, condition or constraint that cannot be; the message names it.
    """

    def __init__(self, variables: Mapping[str, Variable], constraints: Any = ()) -> None:
        self.variables: dict[str, Variable] = _checked(variables)
        several = constraints if isinstance(constraints, Iterable) and not isinstance(constraints, str) else (constraints,)
        self.constraints: tuple[Constraint, ...] = tuple(as_constraint(constraint) for constraint in several)

        encoded = {name: variable for name, variable in self.variables.items() if variable.size}
        codings = {name: variable.coding() for name, variable in encoded.items()}
        sizes = [variable.size for variable in encoded.values()]
        ends = np.cumsum([0, *sizes]).tolist()
        self._slices = {name: slice(a, b) for name, a, b in zip(encoded, ends, ends[1:], strict=False)}
        self._order, parents = _ordered(self.variables)
        conditional = [name for name in self._order if name in parents]
        self._rule_numbers = {name: number for number, name in enumerate(conditional)}
        self.columns: list[Column] = [
            Column(name, i, c.kind, c.cardinality, c.ordered, _role(encoded[name]), name in parents)
            for name, c in codings.items()
            for i in range(encoded[name].size)
        ]
        self.dim: int = len(self.columns)
        self.lower: Floats = np.repeat([c.lower for c in codings.values()], sizes).astype(np.float64)
        self.upper: Floats = np.repeat([c.upper for c in codings.values()], sizes).astype(np.float64)
        self.width: Floats = np.where(np.isfinite(self.upper), self.upper - self.lower, 1.0)
        self.unbounded: list[str] = [name for name, c in codings.items() if math.isinf(c.upper)]
        self.choices: list[str] = [name for name, c in codings.items() if c.kind == "choice"]
        self.context: list[str] = [name for name, variable in encoded.items() if isinstance(variable, Context)]
        self.fidelities: list[str] = [name for name, variable in encoded.items() if isinstance(variable, Fidelity)]
        self.environment: list[str] = [name for name, variable in encoded.items() if isinstance(variable, Environment)]
        self.beyond: list[str] = [name for name, variable in encoded.items() if isinstance(variable, Beyond)]
        kinds = {c.kind for c in codings.values()}
        self.box: bool = kinds == {"real"} and not (self.unbounded or conditional or self.beyond or self.constraints)

        constants = encoding.constants(list(codings.values()), sizes)
        rules = tuple(
            tuple(
                encoding.Condition(self._slices[parent].start, values, self._rule_numbers.get(parent))
                for parent, values in parents[name].items()
            )
            for name in conditional
        )
        rule_of = np.array([1 + self._rule_numbers.get(c.name, -1) for c in self.columns], dtype=np.int64)
        table = encoding.Table(constants, np.zeros(self.dim), rules, rule_of)
        self.low: Floats = constants["low"]
        self.high: Floats = constants["high"]
        self.start: Floats = self._first_guess(encoded, replace(table, rules=()))
        self.targets: dict[int, float] = {i: float(self.start[i]) for i, c in enumerate(self.columns) if c.role == "fidelity"}
        self._table = replace(table, start=self.start)
        self._numpy = encoding.for_numpy(self._table)
        self._torch: dict[tuple[torch.dtype, torch.device], encoding.Encoding] = {}
        self._regions: dict[tuple[torch.dtype, tuple[tuple[int, float], ...]], Region] = {}
        self._names: list[str] = list(self.variables)
        self._plain = not conditional and kinds == {"real"} and all(v.size == 1 and v.dims == () for v in self.variables.values())
        self._logs = np.flatnonzero(constants["log"]) if constants["log"].any() else None
        bent = constants["log"] | constants["discrete"]  # columns that are not just scaled
        parts = [constants[name][bent].tolist() for name in ("discrete", "half", "shift", "low", "high")]
        self._bent = list(zip(np.flatnonzero(bent).tolist(), *parts, strict=True))
        straight = self._plain and self._logs is None
        self._straight = (constants["slope"].tolist(), constants["offset"].tolist()) if straight else None
        for constraint in self.constraints:
            constraint.check(self.variables)

    def _first_guess(self, encoded: Mapping[str, Variable], unconditional: encoding.Table) -> Floats:
        arithmetic = encoding.for_numpy(unconditional)
        z = arithmetic.decode(np.full(self.dim, 0.5))
        for name, variable in encoded.items():
            guess = variable.first_guess()
            if guess is not None:
                z[self._slices[name]] = guess
        return np.asarray(arithmetic.encode(z))

    def __repr__(self) -> str:
        texts = f", constraints={[constraint.text for constraint in self.constraints]!r}" if self.constraints else ""
        return f"Space({self.variables!r}{texts})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_numpy", "_torch", "_regions")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._numpy = encoding.for_numpy(self._table)
        self._torch = {}
        self._regions = {}
        for constraint in self.constraints:  # a text that was pickled is read anew
            constraint.check(self.variables)

    # Encoded points and problem units.

    def _arithmetic(self, x: Any) -> encoding.Encoding:
        if not isinstance(x, Tensor):
            return self._numpy
        key = (x.dtype, x.device)
        found = self._torch.get(key)
        if found is None:
            found = self._torch[key] = encoding.for_torch(self._table, *key)
        return found

    def decode(self, x: Tensor) -> Tensor:
        """Problem units of encoded points.

        Args:
            x: Encoded points inside their bounds, ``(..., d)``.

        Returns:
            ``(..., d)``: reals and integers as they are, choices as indices; fixed variables have no column.
        """
        z: Tensor = self._arithmetic(x).decode(x)
        return z

    def encode(self, z: Tensor) -> Tensor:
        """Encoded points of problem units, the inverse of ``decode``; what is out of range goes to the nearest valid value.

        Args:
            z: ``(..., d)``.
        """
        x: Tensor = self._arithmetic(z).encode(z)
        return x

    def snap(self, x: Tensor) -> Tensor:
        """The nearest valid encoded points, known constraints aside.

        Reals go to their bounds, integers to the middle of their cell, choices to an index, inactive columns to their default.

        Args:
            x: ``(..., d)``.
        """
        nearest: Tensor = self._arithmetic(x).snap(x)
        return nearest

    def from_unit(self, u: Tensor) -> Tensor:
        """Valid encoded points, known constraints aside, from points of the unit cube.

        Uniform ``u`` give uniform encoded values of each variable, and standard normal ones where unbounded.

        Args:
            u: ``(..., d)`` in ``[0, 1]``.
        """
        x: Tensor = self._arithmetic(u).from_unit(u)
        return x

    def active(self, x: Tensor) -> Tensor:
        """Which columns are switched on by their conditions.

        Args:
            x: Encoded points, ``(..., d)``.

        Returns:
            ``(..., d)`` bool.
        """
        mask: Tensor = self._arithmetic(x).active(x)
        return mask

    def decode_numpy(self, x: Floats) -> Floats:
        """``decode`` for float64 arrays on the host."""
        z: Floats = self._numpy.decode(x)
        return z

    def encode_numpy(self, z: Floats) -> Floats:
        """``encode`` for float64 arrays on the host."""
        x: Floats = self._numpy.encode(z)
        return x

    def snap_numpy(self, x: Floats) -> Floats:
        """``snap`` for float64 arrays on the host."""
        nearest: Floats = self._numpy.snap(x)
        return nearest

    def active_numpy(self, x: Floats) -> Mask:
        """``active`` for float64 arrays on the host."""
        mask: Mask = self._numpy.active(x)
        return mask

    def from_unit_numpy(self, u: Floats) -> Floats:
        """``from_unit`` for float64 arrays on the host."""
        x: Floats = self._numpy.from_unit(u)
        return x

    def affine(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Offset and slope with which ``offset + slope x`` decodes a box space without logarithms; None for other spaces.

        Returns:
            Two tensors ``(d,)``.
        """
        if not self.box or self._table.constants["log"].any():
            return None
        arithmetic = self._arithmetic(torch.empty(0, dtype=dtype, device=device))
        return arithmetic.offset, arithmetic.slope

    def decoding_slopes(self, x: Tensor) -> Tensor:
        """Derivatives of problem units with respect to encoded columns, each of which is mapped by itself; 0 where it is discrete.

        Args:
            x: ``(..., d)``.

        Returns:
            ``(..., d)``.
        """
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            (slopes,) = torch.autograd.grad(self.decode(leaf).sum(), leaf)
        return slopes

    # Parameters by name.

    def row_params(self, row: Floats) -> dict[str, Any]:
        """The parameters of one valid encoded point, ``(d,)``; inactive variables are left out."""
        # This is paid for every trial: the same arithmetic as decode, with no array operation that one row can do without.
        if self._straight is not None:
            return {name: x * slope + offset for name, x, slope, offset in zip(self._names, row.tolist(), *self._straight, strict=True)}
        values = row * self._numpy.slope + self._numpy.offset
        if self._logs is not None:
            values[self._logs] = np.exp(values[self._logs])
        z: list[float] = values.tolist()
        for i, discrete, half, shift, low, high in self._bent:
            value = math.floor(z[i] + half) + shift if discrete else z[i]
            z[i] = min(max(value, low), high)
        if self._plain:
            return dict(zip(self._names, z, strict=True))
        rules: list[bool] = []
        for rule in self._table.rules:
            rules.append(all(z[c.column] in c.values and (c.rule is None or rules[c.rule]) for c in rule))
        params: dict[str, Any] = {}
        for name, variable in self.variables.items():
            if isinstance(variable, Fixed):
                params[name] = variable.value
            elif name not in self._rule_numbers or rules[self._rule_numbers[name]]:
                params[name] = variable.decode_row(z[self._slices[name]])
        return params

    def params(self, x: Floats | Tensor) -> list[dict[str, Any]]:
        """The parameters of valid encoded points, one dict a row.

        Values are plain Python ones (numpy arrays where a variable has a shape); inactive variables are left out.

        Args:
            x: ``(n, d)``.
        """
        array = _as_array(x)
        z = self._numpy.decode(array)
        columns: list[Iterable[Any]] = []
        for name, variable in self.variables.items():
            if isinstance(variable, Fixed):
                columns.append(repeat(variable.value, len(z)))
            else:
                columns.append(variable.decode_rows(z[:, self._slices[name]]))
        names = self._names
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        if self._rule_numbers:
            masks = self._numpy.rule_masks(z)
            for name, number in self._rule_numbers.items():
                for i in np.flatnonzero(~masks[number]).tolist():
                    del rows[i][name]
        return rows

    def param_columns(self, x: Floats | Tensor) -> dict[str, list[Any]]:
        """The parameters of valid encoded points by variable, as ``params`` gives them; None where inactive.

        Args:
            x: ``(n, d)``.
        """
        z = self._numpy.decode(_as_array(x))
        masks = self._numpy.rule_masks(z) if self._rule_numbers else []
        columns: dict[str, list[Any]] = {}
        for name, variable in self.variables.items():
            if isinstance(variable, Fixed):
                values = [variable.value] * len(z)
            else:
                values = list(variable.decode_rows(z[:, self._slices[name]]))
            for i in np.flatnonzero(~masks[self._rule_numbers[name]]).tolist() if name in self._rule_numbers else ():
                values[i] = None
            columns[name] = values
        return columns

    def encode_params(self, params: Sequence[Mapping[str, Any]]) -> Floats:
        """Encoded points of parameter dicts; what ``params`` gave of a point decodes to the same parameters again.

        A variable may be left out where it is inactive (what is given for it there is not looked at) or has a default.

        Args:
            params: One dict a point.

        Returns:
            ``(n, d)`` float64.

        Raises:
            SpaceError: A name that is unknown or missing, a value of the wrong type, out of range or not a choice, or a
                broken constraint; the message says which and what was expected.
        """
        self._check_names(params)
        z = np.tile(self._numpy.decode(self.start), (len(params), 1))
        masks: list[Mask] = []
        for name in self._order:
            variable = self.variables[name]
            given = np.array([name in row for row in params], dtype=bool)
            if isinstance(variable, Fixed):
                self._check_fixed(name, variable, params, given)
                continue
            if name in self._rule_numbers:
                rule = self._table.rules[self._rule_numbers[name]]
                mask = np.ones(len(params), dtype=bool)
                for condition in rule:
                    mask &= np.isin(z[:, condition.column], condition.values)
                    if condition.rule is not None:
                        mask &= masks[condition.rule]
                masks.append(mask)
            else:
                mask = np.ones(len(params), dtype=bool)
            missing = mask & ~given
            if missing.any() and not variable.optional:
                i = int(np.argmax(missing))
                raise SpaceError(f"{name} is missing{_row(i, params)}; it must be {variable.expected()}.")
            used = np.flatnonzero(mask & given)
            values = [params[i][name] for i in used.tolist()]
            try:
                z[used, self._slices[name]] = variable.read(name, values)
            except SpaceError:
                if len(params) == len(values):
                    raise
                for i, value in zip(used.tolist(), values, strict=True):  # so that the message counts rows as the caller does
                    _read_one(variable, name, value, i)
                raise
        x = self.snap_numpy(self._numpy.encode_exactly(z))
        if self.constraints:
            broken = self._first_broken(x)
            if broken is not None:
                i, constraint = broken
                raise SpaceError(f"the constraint {constraint.text!r} does not hold for {dict(params[i])!r}{_row(i, params)}.")
        return x

    def _check_names(self, params: Sequence[Mapping[str, Any]]) -> None:
        known = self.variables.keys()
        for i, row in enumerate(params):
            if not isinstance(row, Mapping):
                raise SpaceError(f"params must be a dict of values by name; got {row!r}{_row(i, params)}.")
            if row.keys() <= known:
                continue
            for name in row.keys() - known:
                close = difflib.get_close_matches(str(name), self.variables, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the variables are {', '.join(self.variables)}."
                raise SpaceError(f"there is no variable {name!r}{_row(i, params)}; {hint}")

    def encode_given(self, params: Mapping[str, Any]) -> Floats:
        """An encoded point of which only some parameters are known, ``(d,)`` float64; NaN for the others.

        Raises:
            SpaceError: A name that is unknown, or a value of the wrong type, out of range or not a choice.
        """
        self._check_names([params])
        z = self._numpy.decode(self.start)
        given = np.zeros(self.dim, dtype=bool)
        for name, value in params.items():
            variable = self.variables[name]
            if isinstance(variable, Fixed):
                self._check_fixed(name, variable, [params], np.ones(1, dtype=bool))
                continue
            z[self._slices[name]] = variable.read(name, [value])[0]
            given[self._slices[name]] = True
        return np.where(given, self.encode_numpy(z), np.nan)

    def complete(self, x: Floats, context: Mapping[int, float]) -> Floats:
        """The point ``(d,)`` that `encode_given` gave, in a context: observed columns put in, the rest at its default.

        Args:
            x: Encoded, NaN where not known.
            context: Encoded values of the observed columns, see `fixed_columns`.

        Raises:
            SpaceError: It was meant for another context, lacks a parameter that is active in this one, or breaks a known constraint.
        """
        for i, value in context.items():
            if not math.isnan(x[i]) and x[i] != value:
                raise SpaceError(f"{self.columns[i].name} was given another value than it has in this context.")
        whole: Floats = np.where(np.isnan(x), self.start, x)
        whole[list(context)] = list(context.values())
        whole = np.array(self.snap_numpy(whole[None])[0])
        active = self.active_numpy(whole[None])[0]
        for i in np.flatnonzero(np.isnan(x) & active).tolist():
            name = self.columns[i].name
            if i not in context and not self.variables[name].optional:
                raise SpaceError(f"{name} is missing; it must be {self.variables[name].expected()}.")
        broken = self._first_broken(whole[None]) if self.constraints else None
        if broken is not None:
            raise SpaceError(f"the constraint {broken[1].text!r} does not hold for {self.row_params(whole)!r}.")
        return whole

    def _check_fixed(self, name: str, variable: Fixed, params: Sequence[Mapping[str, Any]], given: Mask) -> None:
        for i in np.flatnonzero(given).tolist():
            value = params[i][name]
            if not np.array_equal(value, variable.value) if isinstance(variable.value, np.ndarray) else value != variable.value:
                raise SpaceError(f"{name} is fixed at {variable.value!r}; got {value!r}{_row(i, params)}.")

    def fixed_columns(self, context: Mapping[str, Any]) -> dict[int, float]:
        """Encoded values of the observed variables, by column, and of others beyond what is searched that are given.

        Args:
            context: The value of each ``Context`` variable; those with a default may be left out. Fidelities and environment if wanted.

        Raises:
            SpaceError: One is unknown, missing, or has a value that cannot be.
        """
        for name in context:
            if name not in self.beyond:
                names = f"what can be given is {', '.join(self.beyond)}" if self.beyond else "this space has no Context variable"
                raise SpaceError(f"{name!r} cannot be given as context: {names}.")
        z = self._numpy.decode(self.start)
        for name in self.beyond:
            variable = self.variables[name]
            if name in context:
                z[self._slices[name]] = variable.read(name, [context[name]])[0]
            elif name in self.context and not variable.optional:
                raise SpaceError(f"the context variable {name} is missing; ask(context={{{name!r}: ...}}) must give {variable.expected()}.")
        x = self._numpy.encode(z)
        return {i: float(x[i]) for i, c in enumerate(self.columns) if c.role == "context" or (c.role and c.name in context)}

    # Fidelities and environment.

    def at_target(self, x: Floats) -> Mask:
        """Which encoded points ``(n, d)`` are evaluated as counts, all fidelities at their targets, ``(n,)`` bool."""
        columns = list(self.targets)
        return np.asarray((np.abs(x[:, columns] - self.start[columns]) < _AT_TARGET).all(-1))

    def cost(self, x: Floats) -> Floats:
        """Cost of an evaluation at encoded points ``(n, d)``: the product of those of the fidelities, 1 without any, ``(n,)``."""
        z = self.decode_numpy(x)
        total = np.ones(len(x))
        for name in self.fidelities:
            variable = self.variables[name]
            assert isinstance(variable, Fidelity)
            total = total * variable.cost_of(z[:, self._slices[name].start])
        return total

    def scenarios(self, u: Floats, law: bool = True) -> tuple[list[int], Floats]:
        """Values of the environment by the law it has in use.

        Args:
            u: Uniform numbers, ``(k, e)`` for e columns of the environment.
            law: False: all that have bounds evenly over their values, whatever their law.

        Returns:
            The columns, and their encoded values ``(k, e)``.
        """
        columns = [i for i, c in enumerate(self.columns) if c.role == "environment"]
        whole = np.full((len(u), self.dim), 0.5)
        whole[:, columns] = np.clip(u, 2.0**-53, 1.0 - 2.0**-53)
        x = self.from_unit_numpy(whole)
        z = self.decode_numpy(x)
        for name in self.environment:
            variable = self.variables[name]
            assert isinstance(variable, Environment)
            even = not law and name not in self.unbounded
            found = None if even else variable.quantiles(whole[:, self._slices[name]])
            if found is not None:
                z[:, self._slices[name]] = found
        return columns, np.asarray(self._numpy.encode(z)[:, columns])

    # Known constraints.

    def _holds(self, constraint: Constraint, x: Floats, z: Floats) -> Mask:
        names = constraint.names
        columns = {name: column(self.variables[name], z[:, self._slices.get(name, slice(0, 0))]) for name in names}
        holds = constraint.holds(columns, lambda: self.params(x), len(x))
        rules = [self._rule_numbers[name] for name in names if name in self._rule_numbers]
        if rules:
            masks = self._numpy.rule_masks(z)
            holds = holds | ~np.logical_and.reduce([masks[number] for number in rules])
        return holds

    def _first_broken(self, x: Floats) -> tuple[int, Constraint] | None:
        z = self.decode_numpy(x)
        for constraint in self.constraints:
            holds = self._holds(constraint, x, z)
            if not holds.all():
                return int(np.argmin(holds)), constraint
        return None

    def allowed(self, x: Floats, constraints: Sequence[Constraint] | None = None) -> Mask:
        """Which valid encoded points keep every known constraint.

        Args:
            x: ``(n, d)`` float64.
            constraints: Some of the space's constraints, to look at these alone.

        Returns:
            ``(n,)`` bool.
        """
        allowed = np.ones(len(x), dtype=bool)
        z = self.decode_numpy(x)
        for constraint in sorted(self.constraints if constraints is None else constraints, key=_calls):
            left = np.flatnonzero(allowed)  # a predicate is not called for points that are out already
            if len(left):
                allowed[left] = self._holds(constraint, x[left], z[left])
        return allowed

    def linear_system(self, constraints: Sequence[Constraint] | None = None) -> tuple[Floats, Floats, Floats]:
        """The linear constraints, ``lower <= A z <= upper`` for points ``z`` in problem units.

        Args:
            constraints: Some of the space's constraints, to look at these alone.

        Returns:
            ``A (m, d)``, ``lower (m,)`` and ``upper (m,)``, with infinities where a side is open. Linear texts are among them.
        """
        items = [item for constraint in (self.constraints if constraints is None else constraints) for item in constraint.linear]
        rows = np.zeros((len(items), self.dim))
        for row, item in zip(rows, items, strict=True):
            for name, coefficient in item.coefficients.items():
                row[self._slices[name]] = np.broadcast_to(coefficient, self.variables[name].dims).ravel()
        lower = np.array([-np.inf if item.lower is None else item.lower for item in items], dtype=np.float64)
        upper = np.array([np.inf if item.upper is None else item.upper for item in items], dtype=np.float64)
        return rows, lower, upper

    def region(self, fixed: Mapping[int, float], dtype: torch.dtype) -> Region:
        """The part of the space that keeps its known constraints with some columns given; there must be constraints.

        Args:
            fixed: Encoded values of the given columns.
            dtype: Floating type in which its points must be valid.
        """
        key = (dtype, tuple(sorted(fixed.items())))
        found = self._regions.get(key)
        if found is None:
            if len(self._regions) >= _REMEMBERED:
                self._regions.clear()
            found = self._regions[key] = Region(self, fixed, dtype)
        return found

    def repair(self, x: Tensor, random: Random, fixed: Collection[int] = ()) -> Tensor:
        """Valid encoded points near the given ones: snapped, and moved where they break a known constraint.

        A point that breaks one moves along the segment to one of a few random valid points until it is just inside. On
        the CPU a box space gives back the same tensor when nothing is outside; without known constraints nothing is
        synchronised on other devices.

        Args:
            x: ``(..., d)``.
            random: Key for the random valid points.
            fixed: Columns that must not move; those beyond what is searched never do.

        Raises:
            SpaceError: NaN (seen on the CPU only), or no valid point was found.
        """
        if x.device.type == "cpu" and x.numel():
            low, high = _ends(x)
            if self.box and low >= 0 and high <= 1:
                return x
            if math.isnan(low) or (self.unbounded and math.isinf(max(-low, high))):
                raise SpaceError("expected encoded points to repair, but the strategy gave NaN or an infinite value for some.")
        snapped = self.snap(x)
        if not self.constraints or x.is_meta or not x.numel():
            return snapped
        return repair.move(self, snapped, random, {*fixed, *(i for i, c in enumerate(self.columns) if c.role)})

    def sample(
        self,
        n: int,
        random: Random,
        *,
        fixed: Mapping[int, float] | None = None,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
    ) -> Tensor:
        """Random valid encoded points, uniform as in ``from_unit`` among those that keep the known constraints.

        Where linear constraints leave too little to be met by chance, hit-and-run finds it (``zoopt.region``), and what it gives
        is as good as uniform. Where other constraints do, random walks set out from the few valid points that were found.

        Args:
            n: How many.
            random: Key.
            fixed: Encoded values of columns that are given, context among them.
            dtype: Floating type.
            device: Where the tensor lives.

        Returns:
            ``(n, d)``.

        Raises:
            SpaceError: No valid point was found.
        """
        if self.constraints and not (device is not None and torch.device(device).type == "meta"):
            found = self.region(fixed or {}, dtype).sample(n, random)
            return torch.from_numpy(found).to(device=device, dtype=dtype)
        x = self.from_unit(random.uniform((n, self.dim), dtype=dtype, device=device))
        if fixed:
            for i, value in fixed.items():
                x[:, i] = value
            x = self.snap(x)
        return x

    # The space as a whole.

    listed: Floats | None = None
    """Every valid encoded point, ``(n, d)``, where they are given one by one (see ``Pool``); None elsewhere."""

    @property
    def label_values(self) -> dict[str, list[Any]]:
        """Values of what names a point and is no variable, by name (see ``Pool``)."""
        return {}

    @property
    def names(self) -> list[str]:
        """Names of all parameters of a point."""
        return [*self.label_values, *self.variables]

    @cached_property
    def size(self) -> int | None:
        """Number of distinct points; see the class."""
        counts = {}
        for name, where in self._slices.items():
            cardinality = self.columns[where.start].cardinality
            if cardinality is None:
                return None
            counts[name] = cardinality ** (where.stop - where.start)
        if not self._rule_numbers:
            return int(math.prod(counts.values()))
        columns = sorted({condition.column for rule in self._table.rules for condition in rule})
        if math.prod(self.columns[i].cardinality or 1 for i in columns) > _COUNTED:
            return None
        # Every combination of parents; those where an inactive parent differs from its default stand for the same point.
        start = self._numpy.decode(self.start)
        grid = np.array(list(product(*(self.low[i] + np.arange(self.columns[i].cardinality or 1) for i in columns))))
        z = np.tile(start, (len(grid), 1))
        z[:, columns] = grid
        masks = self._numpy.rule_masks(z)
        points = np.ones(len(z), dtype=object)
        for name, count in counts.items():
            active = masks[self._rule_numbers[name]] if name in self._rule_numbers else np.ones(len(z), dtype=bool)
            i = self._slices[name].start
            if i in columns:
                points = points * (active | (z[:, i] == start[i])).astype(object)
            else:
                points = points * np.where(active, np.array(count, dtype=object), 1)
        return int(points.sum())

    def enumerate(self) -> Iterator[Floats]:
        """Every point of a finite space that keeps the known constraints, once each, encoded, ``(d,)``.

        Raises:
            SpaceError: The space is not finite.
        """
        levels = []
        for i, info in enumerate(self.columns):
            if info.cardinality is None:
                raise SpaceError(f"only a finite space can be enumerated, but {info.name} is a real number.")
            levels.append(self.low[i] + np.arange(info.cardinality))
        combinations = product(*levels)
        while chunk := list(islice(combinations, 4096)):
            x = self.encode_numpy(np.array(chunk))
            whole = (self.snap_numpy(x) == x).all(-1)  # others only differ where a column is inactive
            yield from x[whole & self.allowed(x)]

    def to_config(self) -> dict[str, Any]:
        """The variables as JSON would hold them, which is their form in a TOML file; constraints are kept by their texts."""
        return {name: variable.to_config() for name, variable in self.variables.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], constraints: Any = ()) -> Self:
        """The space of a configuration: ``{"lr": {"type": "real", "low": 1e-5, "high": 0.1, "log": True}, ...}``.

        Args:
            config: Settings of each variable by name.
            constraints: As for the class.

        Raises:
            SpaceError: Which variable has an unknown, missing or wrong setting.
        """
        if not isinstance(config, Mapping):
            raise SpaceError(f"a space is a table of variables by name; got {config!r}.")
        variables = {}
        for name, settings in config.items():
            try:
                variables[name] = from_config(settings)
            except SpaceError as error:
                raise SpaceError(f"{name}: {error}") from None
        return cls(variables, constraints)

    def difference(self, other: Space) -> list[str]:
        """What changed from this space to another, a sentence for each; empty: nothing."""
        mine, theirs = self.to_config(), other.to_config()
        found = [f"the variable {name!r} is gone." for name in mine if name not in theirs]
        found += [f"the variable {name!r} is new." for name in theirs if name not in mine]
        for name in mine:
            before, after = mine[name], theirs.get(name, mine[name])
            for key in dict.fromkeys([*before, *after]):
                if before.get(key) != after.get(key):
                    found.append(f"{name}: {key} was {before.get(key, 'not set')!r} and is now {after.get(key, 'not set')!r}.")
        if not found and list(mine) != list(theirs):
            found.append(f"the order of the variables was {', '.join(mine)} and is now {', '.join(theirs)}.")
        texts, others = [c.text for c in self.constraints], [c.text for c in other.constraints]
        found += [f"the constraint {text!r} is gone." for text in texts if text not in others]
        found += [f"the constraint {text!r} is new." for text in others if text not in texts]
        return found


def _role(variable: Variable) -> str:
    """What a variable is beyond one that is searched; see ``Column``."""
    return variable.type_name if isinstance(variable, Beyond) else ""


def _calls(constraint: Constraint) -> bool:
    """Whether a constraint is a predicate, which has to be called for each point."""
    return not constraint.vectorised


def _ends(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest number of a tensor on the CPU; NaN where one is. NumPy finds those of many numbers in half the time."""
    if x.numel() < _MANY or x.dtype not in (torch.float64, torch.float32):
        low, high = torch.aminmax(x)
        return low.item(), high.item()
    array = x.detach().numpy()
    return float(array.min()), float(array.max())


def _as_array(x: Floats | Tensor) -> Floats:
    if isinstance(x, Tensor):
        x = x.detach().cpu().to(torch.float64).numpy()
    return np.asarray(x, dtype=np.float64)


def _row(i: int, rows: Sequence[Any]) -> str:
    return f" in row {i}" if len(rows) > 1 else ""


def _read_one(variable: Variable, name: str, value: Any, i: int) -> None:
    try:
        variable.read(name, [value])
    except SpaceError as error:
        raise SpaceError(f"row {i}: {error}") from None


def _checked(variables: Any) -> dict[str, Variable]:
    if not isinstance(variables, Mapping) or not variables:
        raise SpaceError(f'Space takes variables by name, as in Space({{"x": Real(0, 1)}}); got {variables!r}.')
    for name, variable in variables.items():
        if not isinstance(name, str) or not name:
            raise SpaceError(f"names of variables are strings; got {name!r}.")
        if not isinstance(variable, Variable):
            kinds = "Real, Integer, Bool, Choice, Fixed, Context, Fidelity or Environment"
            raise SpaceError(f"{name!r} must be a {kinds}; got {variable!r}. A constant is written Fixed(value).")
    if all(isinstance(variable, Fixed | Beyond) for variable in variables.values()):
        kinds = "Fixed, Context, Fidelity or Environment"
        raise SpaceError(f"there is nothing to choose: every variable is {kinds}; add a Real, Integer, Bool or Choice.")
    return dict(variables)


def _ordered(variables: Mapping[str, Variable]) -> tuple[list[str], dict[str, dict[str, tuple[float, ...]]]]:
    """Names with parents before children; and for each conditional variable the numbers its parents must hold."""
    parents = {name: _conditions(name, variable, variables) for name, variable in variables.items()}
    order: list[str] = []
    while len(order) < len(variables):
        ready = [name for name in variables if name not in order and all(parent in order for parent in parents[name])]
        if not ready:
            stuck = {name for name in variables if name not in order}
            cycle = [next(name for name in variables if name in stuck)]
            while cycle[-1] not in cycle[:-1]:
                cycle.append(next(parent for parent in parents[cycle[-1]] if parent in stuck))
            cycle = cycle[cycle.index(cycle[-1]) :]
            raise SpaceError(f"conditions form a cycle: {' depends on '.join(cycle)}; remove one of these when=.")
        order += ready
    return order, {name: found for name, found in parents.items() if found}


def _conditions(name: str, variable: Variable, variables: Mapping[str, Variable]) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}
    for parent, values in variable.conditions.items():
        other = variables.get(parent)
        if other is None:
            raise SpaceError(f"{name}: when= names {parent!r}, but the variables are {', '.join(variables)}.")
        inner = other.variable if isinstance(other, Context) else other
        if isinstance(inner, Fixed):
            if inner.value not in values:
                raise SpaceError(f"{name} can never be active: {parent} is fixed at {inner.value!r}; remove {name} or its when=.")
            continue
        if isinstance(inner, Real) or inner.dims:
            raise SpaceError(f"{name}: a condition needs a single Choice, Bool or Integer, but {parent} is a {type(inner).__name__}.")
        try:
            found[parent] = tuple(sorted(set(inner.read(parent, values)[:, 0].tolist())))
        except SpaceError as error:
            raise SpaceError(f"{name}: when= asks for a value that cannot be: {error}") from None
    return found
