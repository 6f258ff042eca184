"""Known constraints between the variables of a space: linear ones, expressions, and any Python predicate.

A constraint is evaluated on columns of values in problem units, all rows at once (a predicate: row by row). It applies
where all the variables that it names are active.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from zoopt.errors import SpaceError
from zoopt.variables import Beyond, Bool, Choice, Fixed, Floats, Integer, Real, Variable

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Columns = Mapping[str, Any]  # by name: (n, *shape) numbers, or (n,) objects for a choice that is not numeric
Evaluator = Callable[[Columns], Any]
Affine = tuple[dict[tuple[str, int], float], float]  # coefficient of each (variable, flat index), constant

TOLERANCE = 1e-6  # of a linear equality, relative to the largest sum of magnitudes; single precision rounds to a tenth of it


class Constraint:
    """A condition on parameters that holds for every point a study asks for.

    Attributes:
        text: How it reads in messages and in the record of a study.
        names: The variables it names; empty for a predicate, which may look at all of them.
        linear: The same as linear inequalities in problem units, where it is that.
        vectorised: Whether many rows cost little more than one.
    """

    text: str
    names: tuple[str, ...]
    linear: Sequence[Linear]
    vectorised: ClassVar[bool] = True

    def check(self, variables: Mapping[str, Variable]) -> None:
        """Raises SpaceError when the constraint does not fit the variables; called once by the space."""

    def holds(self, columns: Columns, rows: Callable[[], list[dict[str, Any]]], n: int) -> Mask:
        """Which of ``n`` rows keep it, ``(n,)``.

        Args:
            columns: Values in problem units by name.
            rows: Gives the parameters of each row; only predicates need them.
            n: Number of rows.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Linear(Constraint):
    """A linear inequality ``lower <= sum_i coefficient_i x_i <= upper`` in problem units.

    Args:
        coefficients: Coefficient of each real or integer variable by name; an array (or one number for all) where shaped.
        upper: Largest value of the sum.
        lower: Smallest value of the sum.

    Attributes:
        target: What the sum is to be, where the bounds are those of an equality that leaves room for rounding.
    """

    coefficients: Mapping[str, Any]
    upper: float | None = None
    lower: float | None = None
    target: float | None = field(init=False, repr=False, default=None)
    text: str = field(init=False, repr=False)
    names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.coefficients, Mapping) or not self.coefficients:
            raise SpaceError(
                f'Linear needs coefficients by name, as in Linear({{"x": 1.0, "y": 2.0}}, upper=3.0); got {self.coefficients!r}.'
            )
        for name, value in self.coefficients.items():
            if np.asarray(value).dtype.kind not in "iuf" or not np.isfinite(value).all():
                raise SpaceError(f"the coefficient of {name} must be a finite number or an array of them; got {value!r}.")
        if self.upper is None and self.lower is None:
            raise SpaceError("Linear needs upper or lower (or both).")
        if self.upper is not None and self.lower is not None and not self.lower < self.upper:
            hint = (
                " An equality leaves no room for rounding: express one variable by the others, or write it as a text, 'x + y == 1'."
                if self.lower == self.upper
                else ""
            )
            raise SpaceError(f"lower must be below upper; got lower={self.lower}, upper={self.upper}.{hint}")
        object.__setattr__(self, "names", tuple(self.coefficients))
        object.__setattr__(self, "text", self._text())

    def _text(self) -> str:
        terms = []
        for name, value in self.coefficients.items():
            array = np.asarray(value, dtype=np.float64)
            if array.ndim == 0:
                terms.append((float(array), name))
            else:
                terms += [(float(c), f"{name}[{', '.join(map(str, i))}]") for i, c in np.ndenumerate(array)]
        total = " + ".join(name if c == 1.0 else f"{c!r}*{name}" for c, name in terms).replace("+ -", "- ")
        lower = "" if self.lower is None else f"{float(self.lower)!r} <= "
        upper = "" if self.upper is None else f" <= {float(self.upper)!r}"
        return f"{lower}{total}{upper}"

    @property
    def linear(self) -> Sequence[Linear]:  # type: ignore[override]
        """Itself."""
        return (self,)

    def check(self, variables: Mapping[str, Variable]) -> None:
        """See the base class."""
        for name, value in self.coefficients.items():
            variable = _named(name, variables, self.text)
            if not isinstance(_inner(variable), Real | Integer):
                raise SpaceError(f"constraint {self.text!r}: {name} is not a number; Linear takes Real and Integer variables.")
            if np.shape(value) not in ((), variable.dims):
                raise SpaceError(f"constraint {self.text!r}: {name} has shape {variable.dims}, its coefficients {np.shape(value)}.")

    def total(self, columns: Columns) -> Floats:
        """The sum for each row, ``(n,)``."""
        total: Any = 0.0
        for name, value in self.coefficients.items():
            terms = columns[name] * np.asarray(value, dtype=np.float64)
            total = total + terms.reshape(len(terms), -1).sum(-1)
        return np.asarray(total)

    def within(self, columns: Columns) -> Any:
        """Whether the sum is between its bounds, for each row."""
        total = self.total(columns)
        above = True if self.lower is None else total >= self.lower
        below = True if self.upper is None else total <= self.upper
        return np.logical_and(above, below)

    def holds(self, columns: Columns, rows: Callable[[], list[dict[str, Any]]], n: int) -> Mask:
        """See the base class."""
        return np.broadcast_to(self.within(columns), (n,))


@dataclass(frozen=True, eq=False)
class Predicate(Constraint):
    """Any Python function of a parameter dict that says whether a point is allowed; called row by row.

    Inactive variables are absent from the dict.

    Args:
        function: ``function(params) -> bool``.
    """

    function: Callable[[dict[str, Any]], Any]

    vectorised: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]
    linear: ClassVar[Sequence[Linear]] = ()  # type: ignore[misc]

    @property
    def text(self) -> str:  # type: ignore[override]
        """The function's name."""
        return str(getattr(self.function, "__qualname__", None) or type(self.function).__qualname__)

    def holds(self, columns: Columns, rows: Callable[[], list[dict[str, Any]]], n: int) -> Mask:
        """See the base class."""
        answers = np.empty(n, dtype=bool)
        for i, params in enumerate(rows()):
            try:
                answers[i] = bool(self.function(params))
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise SpaceError(
                    f"the constraint {self.text} must give True or False for any params; for {params} it raised {what}."
                ) from error
        return answers


@dataclass(frozen=True, eq=False)
class Expression(Constraint):
    """A condition written as text: ``"x + 2*y <= 3"``, ``"low < high and kernel != 'poly'"``.

    Numbers, strings, names of variables (``x[0]`` for an entry of a shaped one), arithmetic, comparisons, ``and``,
    ``or``, ``not``, ``in``, and the functions abs, min, max, sum, exp, log, sqrt, floor, ceil. Nothing else is ever run.

    A linear equality with real variables, alone or among linear comparisons joined by ``and``, holds to within rounding: its
    sides may differ by a millionth of what the magnitudes of their terms can add up to. Any other comparison is exact.

    Args:
        text: The expression.
    """

    text: str
    names: tuple[str, ...] = field(init=False, repr=False)
    linear: Sequence[Linear] = field(init=False, repr=False, default=())
    _evaluate: Evaluator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise SpaceError(f"the constraint {self.text!r} cannot be parsed: {reason}.") from None
        names: dict[str, None] = {}
        evaluate = _Compiler(self.text, names).compile(tree)
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "_evaluate", evaluate)
        if not names:
            raise SpaceError(f"the constraint {self.text!r} names no variable.")

    def __reduce__(self) -> tuple[type[Expression], tuple[str]]:
        return Expression, (self.text,)

    def check(self, variables: Mapping[str, Variable]) -> None:
        """See the base class."""
        for name in self.names:
            _named(name, variables, self.text)
        tree = ast.parse(self.text.strip(), mode="eval").body
        _check_choices(tree, variables, self.text)
        columns = {name: _examples(variables[name]) for name in self.names}
        try:
            answer = self._run(columns)
        except SpaceError:
            raise
        except Exception as error:
            raise SpaceError(f"the constraint {self.text!r} cannot be evaluated: {error}.") from None
        if answer.dtype != np.bool_ or answer.shape not in ((), (2,)):
            what = f"arrays of shape {answer.shape[1:]}" if answer.ndim > 1 else "numbers"
            raise SpaceError(f"the constraint {self.text!r} must be true or false for each point, as in 'x <= 3'; it gives {what}.")
        linear = _inequalities(tree, variables)
        object.__setattr__(self, "linear", tuple(linear))
        if any(_rounded_equality(op, item, variables) for (_, op, _), item in zip(_comparisons(tree), linear, strict=False)):
            compiler = _Compiler(self.text, {})
            parts = [
                item.within if _rounded_equality(op, item, variables) else compiler.compile(ast.Compare(left, [op], [right]))
                for (left, op, right), item in zip(_comparisons(tree), linear, strict=True)
            ]
            object.__setattr__(self, "_evaluate", lambda columns: _reduce(np.logical_and, [part(columns) for part in parts]))

    def _run(self, columns: Columns) -> Any:
        with np.errstate(all="ignore"):  # a division by zero gives inf or NaN, which fails a comparison
            return np.asarray(self._evaluate(columns))

    def holds(self, columns: Columns, rows: Callable[[], list[dict[str, Any]]], n: int) -> Mask:
        """See the base class."""
        try:
            return np.broadcast_to(self._run(columns).astype(bool), (n,))
        except TypeError as error:
            raise SpaceError(f"the constraint {self.text!r} cannot be evaluated: {error}.") from None


def as_constraint(constraint: Any) -> Constraint:
    """A constraint from what a user may write: a ``Linear``, a text or a function.

    Raises:
        SpaceError: It is none of these, or the text cannot be parsed.
    """
    if isinstance(constraint, Constraint):
        return constraint
    if isinstance(constraint, str):
        return Expression(constraint)
    if callable(constraint):
        return Predicate(constraint)
    raise SpaceError(f"a constraint is a Linear, a text such as 'x + y <= 3', or a function of params; got {constraint!r}.")


def column(variable: Variable, z: Floats) -> Any:
    """The values of one variable as expressions see them.

    Args:
        variable: The variable.
        z: Its numbers in problem units, ``(n, size)``.

    Returns:
        ``(n, *shape)`` numbers, ``(n,)`` booleans, or ``(n,)`` objects where choices are not all numbers.
    """
    inner = _inner(variable)
    if isinstance(inner, Fixed):
        if isinstance(inner.value, bool | int | float | np.ndarray):
            return np.broadcast_to(inner.value, (len(z), *np.shape(inner.value)))
        return _objects([inner.value]).repeat(len(z))
    if isinstance(inner, Bool):
        return z[:, 0] > 0.5
    if isinstance(inner, Choice):
        numeric = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in inner.choices)
        table = np.array(inner.choices, dtype=np.float64) if numeric else _objects(inner.choices)
        return table[z[:, 0].astype(np.int64)]
    return z.reshape(len(z), *inner.dims)


def _objects(values: Sequence[Any]) -> Any:
    table = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):  # numpy would make a matrix of equally long tuples
        table[i] = value
    return table


def _examples(variable: Variable) -> Any:
    """Two rows of a variable, its first and its last value."""
    if isinstance(variable, Fixed):
        return column(variable, np.empty((2, 0)))
    coding = variable.coding()
    low = coding.low if math.isfinite(coding.low) else -1.0
    high = coding.high if math.isfinite(coding.high) else 1.0
    return column(variable, np.repeat([[low], [high]], variable.size, axis=1))


def _inner(variable: Variable) -> Variable:
    return variable.variable if isinstance(variable, Beyond) else variable


def _named(name: str, variables: Mapping[str, Variable], text: str) -> Variable:
    variable = variables.get(name)
    if variable is None:
        raise SpaceError(f"the constraint {text!r} names {name!r}, but the variables are {', '.join(variables)}.")
    return variable


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.FloorDiv: np.floor_divide, ast.Mod: np.mod,
    ast.Pow: np.power,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Gt: lambda a, b: a > b, ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil,
}  # fmt: skip
_ACROSS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {  # of one array, entry by entry of several
    "min": (np.min, np.minimum), "max": (np.max, np.maximum), "sum": (np.sum, np.add),
}  # fmt: skip


@dataclass(slots=True)
class _Compiler:
    """Turns a syntax tree of whitelisted nodes into a function of the columns."""

    text: str
    names: dict[str, None]

    def refuse(self, node: ast.AST, hint: str = "") -> SpaceError:
        part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        functions = ", ".join([*_FUNCTIONS, *_ACROSS])
        may = hint or f"only names, numbers, strings, arithmetic, comparisons, and, or, not, in, and {functions}"
        return SpaceError(f"the constraint {self.text!r} contains {part!r}; a constraint may use {may}.")

    def compile(self, node: ast.expr) -> Evaluator:
        match node:
            case ast.Constant(value=bool() | str() | None as value):
                return lambda columns: value
            case ast.Constant(value=int() | float() as value):
                number = float(value)  # so that 9**9**9 overflows to inf instead of filling the memory
                return lambda columns: number
            case ast.Name(id=name):
                self.names[name] = None
                return lambda columns: columns[name]
            case ast.Subscript(value=ast.Name() as target, slice=index):
                return self.subscript(target, index)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.compile(operand)
                return lambda columns: -inner(columns)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.compile(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.compile(operand)
                return lambda columns: np.logical_not(self.truth(inner(columns), operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                function, a, b = _BINARY[type(op)], self.compile(left), self.compile(right)
                return lambda columns: function(a(columns), b(columns))
            case ast.BoolOp(op=op, values=values):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                parts = [(self.compile(value), value) for value in values]
                return lambda columns: _reduce(combine, [self.truth(part(columns), value) for part, value in parts])
            case ast.Compare():
                return self.comparison(node)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if args and (
                name in _ACROSS or (name in _FUNCTIONS and len(args) == 1)
            ):
                return self.call(name, [self.compile(arg) for arg in args])
        raise self.refuse(node)

    def truth(self, value: Any, node: ast.expr) -> Any:
        if np.asarray(value).dtype != np.bool_:
            raise self.refuse(node, "'and', 'or' and 'not' between comparisons and booleans only")
        return value

    def subscript(self, target: ast.Name, index: ast.expr) -> Evaluator:
        try:
            position = ast.literal_eval(index)
        except ValueError:
            raise self.refuse(index, "whole numbers as indices") from None
        where = position if isinstance(position, tuple) else (position,)
        if not all(type(i) is int for i in where):
            raise self.refuse(index, "whole numbers as indices")
        self.names[target.id] = None

        def entry(columns: Columns) -> Any:
            values = columns[target.id]
            if values.ndim != len(where) + 1:
                raise SpaceError(
                    f"the constraint {self.text!r} takes {ast.unparse(target)}[{', '.join(map(str, where))}] of shape {values.shape[1:]}."
                )
            return values[(slice(None), *where)]

        return entry

    def call(self, name: str, arguments: Sequence[Evaluator]) -> Evaluator:
        if name in _FUNCTIONS:
            function, argument = _FUNCTIONS[name], arguments[0]
            return lambda columns: function(argument(columns))
        whole, between = _ACROSS[name]
        if len(arguments) > 1:
            return lambda columns: _reduce(between, [argument(columns) for argument in arguments])

        def over_entries(columns: Columns) -> Any:
            values = np.asarray(arguments[0](columns))
            return whole(values, axis=tuple(range(1, values.ndim)))

        return over_entries

    def comparison(self, node: ast.Compare) -> Evaluator:
        parts: list[Evaluator] = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                    raise self.refuse(right, "a list of values after 'in', as in kernel in ('poly', 'rbf')")
                parts.append(self.membership(left, right.elts, isinstance(op, ast.NotIn)))
            elif type(op) in _COMPARE:
                parts.append(_pair(_COMPARE[type(op)], self.compile(left), self.compile(right)))
            else:
                raise self.refuse(node, "the comparisons <, <=, ==, !=, >=, > and in")
            left = right
        return lambda columns: _reduce(np.logical_and, [part(columns) for part in parts])

    def membership(self, left: ast.expr, values: Sequence[ast.expr], negated: bool) -> Evaluator:
        value, choices = self.compile(left), [self.compile(item) for item in values]

        def contained(columns: Columns) -> Any:
            found = _reduce(np.logical_or, [np.asarray(value(columns) == choice(columns)) for choice in choices])
            return np.logical_not(found) if negated else found

        if not choices:
            raise self.refuse(left, "at least one value after 'in'")
        return contained


def _pair(function: Callable[[Any, Any], Any], a: Evaluator, b: Evaluator) -> Evaluator:
    return lambda columns: function(a(columns), b(columns))


def _reduce(function: Callable[[Any, Any], Any], values: Sequence[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


def _check_choices(tree: ast.expr, variables: Mapping[str, Variable], text: str) -> None:
    """A choice compared with something that is no choice is a slip of the pen."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for name, other in [*pairwise(sides), *pairwise(sides[::-1])]:
            inner = _inner(variables[name.id]) if isinstance(name, ast.Name) else None
            if not isinstance(inner, Choice):
                continue
            for item in other.elts if isinstance(other, ast.Tuple | ast.List | ast.Set) else [other]:
                if isinstance(item, ast.Constant) and isinstance(item.value, str) and inner.index(item.value) is None:
                    raise SpaceError(f"the constraint {text!r} compares {name.id} with {item.value!r}; it is {inner.expected()}.")  # type: ignore[attr-defined]


def _comparisons(tree: ast.expr) -> list[tuple[ast.expr, ast.cmpop, ast.expr]]:
    """Left side, operator and right side of each comparison, of one or several joined by ``and``; empty where there is anything else."""
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        parts = [_comparisons(value) for value in tree.values]
        return [item for part in parts for item in part] if all(parts) else []
    if not isinstance(tree, ast.Compare):
        return []
    return [(left, op, right) for op, (left, right) in zip(tree.ops, pairwise([tree.left, *tree.comparators]), strict=True)]


def _inequalities(tree: ast.expr, variables: Mapping[str, Variable]) -> list[Linear]:
    """The linear inequality that each comparison of an expression says; empty where it says anything else.

    A strict inequality counts as its closure, an equality as two that leave as much room as rounding needs.
    """
    found = []
    for left, op, right in _comparisons(tree):
        if not isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE | ast.Eq):
            return []
        sides = _affine(left, variables), _affine(right, variables)
        if sides[0] is None or sides[1] is None:
            return []
        sign = -1.0 if isinstance(op, ast.Gt | ast.GtE) else 1.0
        terms = _plus(sides[0], sides[1], -1.0)
        bound = -sign * terms[1]
        coefficients: dict[str, Any] = {}
        for (name, position), value in terms[0].items():
            array = coefficients.setdefault(name, np.zeros(variables[name].dims))
            array.reshape(-1)[position] = sign * value
        if not any(np.any(array) for array in coefficients.values()) or not math.isfinite(bound):
            return []
        coefficients = {name: array if array.ndim else float(array) for name, array in coefficients.items()}
        if isinstance(op, ast.Eq):
            size = sum(
                float(np.abs(value).ravel() @ np.broadcast_to(reach(variables[name]), np.size(value)))
                for name, value in coefficients.items()
            )
            room = TOLERANCE * size
            found.append(Linear(coefficients, lower=bound - room, upper=bound + room))
            object.__setattr__(found[-1], "target", bound)
        else:
            found.append(Linear(coefficients, upper=bound))
    return found


def _rounded_equality(op: ast.cmpop, item: Linear, variables: Mapping[str, Variable]) -> bool:
    """Whether a linear comparison is an equality that no rounded numbers meet but by chance."""
    return isinstance(op, ast.Eq) and any(isinstance(_inner(variables[name]), Real) for name in item.names)


def reach(variable: Variable) -> Floats:
    """How large the numbers of a variable are at most, or usually where it is unbounded, in problem units, ``(size,)``."""
    if not variable.size:
        return np.empty(0)
    coding = variable.coding()
    bounded = math.isfinite(coding.high)
    size = np.maximum(np.abs(coding.low), np.abs(coding.high)) if bounded else np.abs(coding.offset) + 10.0 * np.asarray(coding.slope)
    return np.broadcast_to(size, variable.size).astype(np.float64)


def _plus(a: Affine, b: Affine, factor: float) -> Affine:
    terms = dict(a[0])
    for key, value in b[0].items():
        terms[key] = terms.get(key, 0.0) + factor * value
    return terms, a[1] + factor * b[1]


def _affine(node: ast.expr, variables: Mapping[str, Variable]) -> Affine | None:
    """Coefficients and constant of a linear form in real and integer variables; None where it is none."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return {}, float(value)
        case ast.Name(id=name) if isinstance(_inner(variables[name]), Real | Integer) and not variables[name].dims:
            return {(name, 0): 1.0}, 0.0
        case ast.Subscript(value=ast.Name(id=name), slice=index) if isinstance(_inner(variables[name]), Real | Integer):
            where = ast.literal_eval(index)
            dims = variables[name].dims
            positions = np.arange(math.prod(dims)).reshape(dims)
            return {(name, int(positions[where])): 1.0}, 0.0
        case ast.Call(func=ast.Name(id="sum"), args=[ast.Name(id=name)]) if isinstance(_inner(variables[name]), Real | Integer):
            return {(name, i): 1.0 for i in range(variables[name].size)}, 0.0
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            inner = _affine(operand, variables)
            return None if inner is None else _plus(({}, 0.0), inner, -1.0 if isinstance(sign, ast.USub) else 1.0)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=right):
            a, b = _affine(left, variables), _affine(right, variables)
            if a is None or b is None:
                return None
            if isinstance(op, ast.Add | ast.Sub):
                return _plus(a, b, 1.0 if isinstance(op, ast.Add) else -1.0)
            if isinstance(op, ast.Mult) and not a[0]:
                return _plus(({}, 0.0), b, a[1])
            if not b[0] and (isinstance(op, ast.Mult) or b[1] != 0):
                return _plus(({}, 0.0), a, b[1] if isinstance(op, ast.Mult) else 1 / b[1])
    return None
