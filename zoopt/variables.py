"""The variables of a search space: what a user writes, what a value must be, and how it becomes columns of numbers.

Every variable describes its columns by one ``Coding``, the constants with which ``zoopt.space`` encodes and
decodes all columns at once. Problem units are what the objective sees (a choice is its index there).
"""

# ruff: noqa: D102  (methods are documented by their base class)
from __future__ import annotations

import difflib
import math
import numbers
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from zoopt.errors import SpaceError

Kind = Literal["real", "integer", "choice"]
Floats = np.ndarray[Any, np.dtype[np.float64]]

MOST_INTEGERS = 2**40  # cells of [0, 1] that double precision tells apart with room to spare, also on a logarithmic scale


@dataclass(frozen=True, slots=True)
class Coding:
    """Constants of one variable's columns.

    ``decode``: ``t = slope x + offset``, then ``exp`` if ``log``, then ``floor(t + half) + shift`` if ``discrete``,
    clamped to ``low .. high`` (problem units). ``encode`` goes back to the middle of the cell.
    """

    kind: Kind
    slope: float | Floats
    offset: float | Floats
    low: float  # bounds in problem units
    high: float
    lower: float  # relaxed bounds of the encoded column
    upper: float
    first: float  # smallest and largest encoded value that snap gives
    last: float
    log: bool = False
    discrete: bool = False
    half: float = 0.0
    shift: float = 0.0
    inverse_slope: float | Floats = 1.0  # x = (t - inverse_offset) / inverse_slope
    inverse_offset: float | Floats = 0.0
    cardinality: int | None = None
    ordered: bool = True


class Variable:
    """Base class of all variables.

    Attributes:
        type_name: Its ``type`` in a configuration.
    """

    type_name: ClassVar[str]

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of a value; ``()`` for a single number or object."""
        return ()

    @property
    def size(self) -> int:
        """Number of columns."""
        return math.prod(self.dims)

    @property
    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """For each parent, the values with which this variable is active."""
        when: Mapping[str, Any] = getattr(self, "when", None) or {}
        return {name: tuple(values) if isinstance(values, list | set | frozenset) else (values,) for name, values in when.items()}

    @property
    def optional(self) -> bool:
        """Whether a parameter set may leave it out, since it has a default."""
        return getattr(self, "default", None) is not None

    def coding(self) -> Coding:
        """Constants of its columns."""
        raise NotImplementedError

    def first_guess(self) -> Floats | None:
        """The default in problem units, ``(size,)``; None: the middle of the encoded range."""
        raise NotImplementedError

    def expected(self) -> str:
        """What a value must be, for messages."""
        raise NotImplementedError

    def read(self, name: str, values: Sequence[Any]) -> Floats:
        """Values that a user gave, as numbers in problem units, ``(n, size)``.

        Raises:
            SpaceError: A value has the wrong type or shape, is out of range or not a choice.
        """
        raise NotImplementedError

    def decode_row(self, z: list[float]) -> Any:
        """The plain value of one row of numbers in problem units."""
        raise NotImplementedError

    def decode_rows(self, z: Floats) -> list[Any]:
        """The plain values of rows in problem units, ``(n, size)``."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value is not f.default and value != f.default:
                shown.append(repr(value) if f.name in ("low", "high", "value", "variable") else f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def to_config(self) -> dict[str, Any]:
        """The form it has in a TOML file, with defaults left out."""
        config: dict[str, Any] = {"type": self.type_name}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value is not None and value is not False and value != ():
                config[f.name] = plain(value)
        return config


def plain(value: Any) -> Any:
    """A value as JSON would hold it; what JSON cannot hold is described, and cannot be read back."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    name = getattr(value, "__qualname__", None)  # the repr of a function holds its address
    return {"python": f"{value.__module__}:{name}" if name else repr(value)}


def tuples(value: Any) -> Any:
    """A value read from JSON or TOML as a choice can be: lists become tuples.

    Raises:
        SpaceError: It is only the description of a Python object.
    """
    if isinstance(value, list | tuple):
        return tuple(tuples(item) for item in value)
    if isinstance(value, Mapping):
        raise SpaceError(f"choices read from a file must be numbers, strings, booleans or lists of them; got {dict(value)!r}.")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise SpaceError(f"{what} must be a number; got {value!r}.")
    if not math.isfinite(value):
        raise SpaceError(f"{what} must be finite; got {value!r}.")
    return float(value)


def _whole(value: Any, what: str) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_):
        return int(value)
    if not isinstance(value, numbers.Integral) and isinstance(value, numbers.Real) and float(value).is_integer():
        return int(float(value))
    raise SpaceError(f"{what} must be a whole number; got {value!r}.")


def _shape(shape: Any) -> tuple[int, ...]:
    dims = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    dims = tuple(_whole(length, "every length in shape") for length in dims)
    if any(length < 1 for length in dims):
        raise SpaceError(f"every length in shape must be at least 1; got {dims}.")
    return dims


def _when(when: Any) -> Mapping[str, Any] | None:
    if when is None:
        return None
    if not isinstance(when, Mapping) or not when or not all(isinstance(name, str) for name in when):
        raise SpaceError(f'when must map names of variables to values, as in when={{"kernel": "poly"}}; got {when!r}.')
    for name, values in when.items():
        if isinstance(values, list | set | frozenset) and not values:
            raise SpaceError(f"when={{{name!r}: {values!r}}} allows no value, so the variable would never be active; list at least one.")
    return dict(when)


def _array(values: Any, dims: tuple[int, ...], what: str) -> Floats:
    """Numbers of a shape, given as one number or a nested list, flat."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.shape not in ((), dims):
        shape = f" or an array of shape {dims}" if dims else ""
        raise SpaceError(f"{what} must be a number{shape}; got {values!r}.")
    if not np.isfinite(array).all():
        raise SpaceError(f"{what} must be finite; got {values!r}.")
    return np.broadcast_to(array.astype(np.float64), dims).ravel()


def _row(i: int, values: Sequence[Any]) -> str:
    return f" in row {i}" if len(values) > 1 else ""


class _Numeric(Variable):
    """What reals and integers share: shapes, defaults and the reading of values."""

    shape: tuple[int, ...]
    default: Any
    _article: ClassVar[str]
    _noun: ClassVar[str]

    @property
    def dims(self) -> tuple[int, ...]:
        return self.shape

    def _finish(self, **values: Any) -> None:
        """Stores checked values in the frozen instance, then checks the default against them."""
        for name in ("default", "start", "scale"):
            value = getattr(self, name, None)
            if isinstance(value, np.ndarray | np.generic | Tensor):  # plain numbers compare, print and travel better than arrays
                values[name] = value.tolist()
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.default is not None:
            default = _array(self.default, self.shape, "default").reshape(self.shape)
            self.read("default", [default if self.shape else self.default])

    def first_guess(self) -> Floats | None:
        return None if self.default is None else _array(self.default, self.shape, "default")

    def expected(self) -> str:
        coding = self.coding()
        what = f"an array of {self._noun}s of shape {self.shape}" if self.shape else f"{self._article} {self._noun}"
        return f"{what}, finite" if math.isinf(coding.high) else f"{what} between {coding.low:.17g} and {coding.high:.17g}"

    def read(self, name: str, values: Sequence[Any]) -> Floats:
        z = np.empty((len(values), self.size)) if self.shape else self._scalars(name, values)
        if self.shape:
            for i, value in enumerate(values):
                try:
                    array = np.asarray(value)
                except ValueError:  # nested lists of unequal lengths
                    array = np.empty(0)
                if array.shape != self.shape or array.dtype.kind not in "iuf":
                    raise SpaceError(f"{name} must be {self.expected()}; got {value!r}{_row(i, values)}.")
                z[i] = array.reshape(-1)
        coding = self.coding()
        good = (z >= coding.low) & (z <= coding.high) & np.isfinite(z)
        if coding.discrete:
            good &= z == np.floor(z)
        if not good.all():
            i = int(np.argmin(good.all(-1)))
            raise SpaceError(f"{name} must be {self.expected()}; got {values[i]!r}{_row(i, values)}.")
        return z

    def _scalars(self, name: str, values: Sequence[Any]) -> Floats:
        """``(n, 1)``; numpy's and torch's single numbers are welcome, booleans and strings are not."""
        numbers_only = values if set(map(type, values)) <= {float, int} else [_single(value) for value in values]
        try:
            return np.array(numbers_only, dtype=np.float64).reshape(-1, 1)
        except (TypeError, ValueError, OverflowError):
            i = next(i for i, number in enumerate(numbers_only) if number is None or abs(number) > sys.float_info.max)
        raise SpaceError(f"{name} must be {self.expected()}; got {values[i]!r}{_row(i, values)}.")

    def decode_row(self, z: list[float]) -> Any:
        return np.array(z).reshape(self.shape) if self.shape else z[0]

    def decode_rows(self, z: Floats) -> list[Any]:
        if self.shape:
            return list(z.reshape(-1, *self.shape))
        column: list[Any] = z[:, 0].tolist()
        return column


def _single(value: Any) -> int | float | None:
    """A plain number, or None where this is not one."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


@dataclass(frozen=True, repr=False)
class Real(_Numeric):
    """A real number, or an array of them.

    Encoded to ``[0, 1]`` between its bounds (of its logarithm where ``log``); without bounds to ``(x - start) / scale``.

    Args:
        low: Least value, in problem units; None (with ``high``): unbounded.
        high: Largest value.
        log: Search on a logarithmic scale; needs ``low > 0``.
        shape: Shape of the array; ``()`` for a number.
        start: Where an unbounded variable starts, a number or an array (default 0).
        scale: Typical distance of an unbounded variable from its start, ``> 0``, a number or an array (default 1).
        default: Value where none is given, and of the first guess; a number or an array.
        when: Active only where other variables have these values: ``{"kernel": "poly"}`` or ``{"kernel": ["poly", "rbf"]}``.
    """

    low: float | None = None
    high: float | None = None
    _: KW_ONLY
    log: bool = False
    shape: tuple[int, ...] = ()
    start: Any = None
    scale: Any = None
    default: Any = None
    when: Mapping[str, Any] | None = None

    type_name: ClassVar[str] = "real"
    _article: ClassVar[str] = "a"
    _noun: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        shape = _shape(self.shape)
        low, high = self.low, self.high
        if (low is None) != (high is None):
            raise SpaceError(f"low and high must both be given, or neither (unbounded); got low={low}, high={high}.")
        if low is None or high is None:
            if self.log:
                raise SpaceError("log=True needs bounds; give low > 0 and high, or search the logarithm itself.")
            for name in ("start", "scale"):
                if getattr(self, name) is not None:
                    _array(getattr(self, name), shape, name)
            if self.scale is not None and not (_array(self.scale, shape, "scale") > 0).all():
                raise SpaceError(f"scale must be positive; got {self.scale!r}.")
        else:
            low, high = _number(low, "low"), _number(high, "high")
            if self.start is not None or self.scale is not None:
                raise SpaceError("start and scale are for unbounded variables; with bounds give default= instead.")
            if not low < high:
                hint = " (a constant is written Fixed(value))" if low == high else ""
                raise SpaceError(f"low must be below high; got low={low}, high={high}{hint}.")
            if self.log and low <= 0:
                raise SpaceError(f"log=True needs low > 0; got low={low}.")
            if math.isinf(high - low):
                raise SpaceError(f"high - low must be finite; got low={low}, high={high}.")
        self._finish(low=low, high=high, shape=shape, when=_when(self.when))

    def coding(self) -> Coding:
        if self.low is None or self.high is None:
            inf = math.inf
            start = _array(0.0 if self.start is None else self.start, self.shape, "start")
            scale = _array(1.0 if self.scale is None else self.scale, self.shape, "scale")
            return Coding(
                "real", scale, start, -inf, inf, lower=-inf, upper=inf, first=-inf, last=inf, inverse_slope=scale, inverse_offset=start
            )
        if self.log:
            offset = math.log(self.low)
            slope = math.log(self.high) - offset
        else:
            offset = self.low
            slope = self.high - self.low
            while offset + slope > self.high:  # then no rounding can carry slope x + offset past the bound
                slope = math.nextafter(slope, 0.0)
        return Coding(
            "real", slope, offset, self.low, self.high, 0.0, 1.0, 0.0, 1.0, log=self.log, inverse_slope=slope, inverse_offset=offset
        )

    def first_guess(self) -> Floats | None:
        if self.low is None and self.default is None:
            return _array(0.0 if self.start is None else self.start, self.shape, "start")
        return super().first_guess()


@dataclass(frozen=True, repr=False)
class Integer(_Numeric):
    """A whole number, or an array of them.

    Encoded to ``[0, 1]``: every integer gets a cell, all of one width, or between ``log(k - 1/2)`` and ``log(k + 1/2)``.

    Args:
        low: Least value.
        high: Largest value, itself included.
        log: Search on a logarithmic scale; needs ``low >= 1``.
        shape: Shape of the array; ``()`` for a number.
        default: Value where none is given, and of the first guess.
        when: Active only where other variables have these values, as for ``Real``.
    """

    low: int
    high: int
    _: KW_ONLY
    log: bool = False
    shape: tuple[int, ...] = ()
    default: Any = None
    when: Mapping[str, Any] | None = None

    type_name: ClassVar[str] = "integer"
    _article: ClassVar[str] = "a"
    _noun: ClassVar[str] = "whole number"

    def __post_init__(self) -> None:
        low, high = _whole(self.low, "low"), _whole(self.high, "high")
        if not low < high:
            hint = " (a constant is written Fixed(value))" if low == high else ""
            raise SpaceError(f"low must be below high; got low={low}, high={high}{hint}.")
        if self.log and low < 1:
            raise SpaceError(f"log=True needs low >= 1; got low={low}.")
        if high - low >= MOST_INTEGERS or max(-low, high) > 2**52 or (self.log and high > MOST_INTEGERS):
            raise SpaceError(f"an Integer has at most 2**40 values, none beyond 2**52; got low={low}, high={high}. Use Real and round.")
        self._finish(low=low, high=high, shape=_shape(self.shape), when=_when(self.when))

    def coding(self) -> Coding:
        count = self.high - self.low + 1
        if self.log:
            offset = math.log(self.low - 0.5)
            slope = math.log(self.high + 0.5) - offset
            return Coding(
                "integer", slope, offset, self.low, self.high, 0.0, 1.0, 0.0, 1.0,
                log=True, discrete=True, half=0.5, inverse_slope=slope, inverse_offset=offset, cardinality=count,
            )  # fmt: skip
        return Coding(
            "integer", count, 0.0, self.low, self.high, 0.0, 1.0, 0.0, 1.0,
            discrete=True, shift=self.low, inverse_slope=count, inverse_offset=self.low - 0.5, cardinality=count,
        )  # fmt: skip

    def decode_row(self, z: list[float]) -> Any:
        return np.array(z, dtype=np.int64).reshape(self.shape) if self.shape else int(z[0])

    def decode_rows(self, z: Floats) -> list[Any]:
        return super().decode_rows(z.astype(np.int64))


class _Indexed(Variable):
    """What choices and booleans share: one column that holds an index."""

    choices: tuple[Any, ...]

    def coding(self) -> Coding:
        last = len(self.choices) - 1
        ordered = getattr(self, "ordered", False)
        return Coding("choice", 1.0, 0.5, 0.0, last, -0.5, last + 0.5, 0.0, last, discrete=True, cardinality=last + 1, ordered=ordered)

    def index(self, value: Any) -> int | None:
        """Position of a choice; None where it is none."""
        raise NotImplementedError

    def first_guess(self) -> Floats | None:
        default = getattr(self, "default", None)
        middle = (len(self.choices) - 1) // 2 if getattr(self, "ordered", False) else 0
        return np.array([middle if default is None else self.index(default)], dtype=np.float64)

    def read(self, name: str, values: Sequence[Any]) -> Floats:
        indices = [self.index(value) for value in values]
        if None in indices:
            i = indices.index(None)
            raise SpaceError(f"{name} must be {self.expected()}; got {values[i]!r}{_row(i, values)}.")
        return np.array(indices, dtype=np.float64).reshape(-1, 1)

    def decode_row(self, z: list[float]) -> Any:
        return self.choices[int(z[0])]

    def decode_rows(self, z: Floats) -> list[Any]:
        choices = self.choices
        return [choices[i] for i in z[:, 0].astype(np.int64).tolist()]


@dataclass(frozen=True, repr=False)
class Bool(_Indexed):
    """True or False; encoded as 0 and 1.

    Args:
        default: Value where none is given, and of the first guess (else False).
        when: Active only where other variables have these values, as for ``Real``.
    """

    _: KW_ONLY
    default: bool | None = None
    when: Mapping[str, Any] | None = None

    type_name: ClassVar[str] = "bool"
    choices: ClassVar[tuple[Any, ...]] = (False, True)  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.default is not None and self.index(self.default) is None:
            raise SpaceError(f"default must be True or False; got {self.default!r}.")
        object.__setattr__(self, "when", _when(self.when))

    def expected(self) -> str:
        return "True or False"

    def index(self, value: Any) -> int | None:
        return int(value) if isinstance(value, bool | np.bool_) else None

    def to_config(self) -> dict[str, Any]:
        config = super().to_config()
        return config if self.default is None else {**config, "default": bool(self.default)}


@dataclass(frozen=True, init=False, repr=False)
class Choice(_Indexed):
    """One of several objects; encoded as its index.

    Args:
        choices: Strings, numbers, booleans, None, or any hashable objects; all different.
        ordered: The order of the choices means something, so that neighbours are alike.
        default: Choice where none is given, and of the first guess (else the first; the middle one of ordered choices).
        when: Active only where other variables have these values, as for ``Real``.
    """

    choices: tuple[Any, ...]
    ordered: bool
    default: Any
    when: Mapping[str, Any] | None
    _positions: dict[Any, int] = field(compare=False)

    type_name: ClassVar[str] = "choice"

    def __init__(self, *choices: Hashable, ordered: bool = False, default: Any = None, when: Mapping[str, Any] | None = None) -> None:
        positions: dict[Any, int] = {}
        for i, choice in enumerate(choices):
            try:
                hash(choice)
            except TypeError:
                hint = f"; write Choice(*{choice!r})" if len(choices) == 1 and isinstance(choice, list) else "; a tuple would do"
                raise SpaceError(f"choices must be hashable (strings, numbers, tuples, functions...); got {choice!r}{hint}.") from None
            if choice != choice:
                raise SpaceError("NaN cannot be a choice, since it equals nothing, itself included.")
            if choice in positions:
                raise SpaceError(f"choices must differ; {choices[positions[choice]]!r} and {choice!r} are equal.")
            positions[choice] = i
        if len(choices) < 2:
            raise SpaceError(f"Choice needs at least two choices; got {list(choices)!r}. A constant is written Fixed(value).")
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "ordered", bool(ordered))
        object.__setattr__(self, "default", default)
        object.__setattr__(self, "when", _when(when))
        object.__setattr__(self, "_positions", positions)
        if default is not None:
            self.read("default", [default])

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in (("default", self.default), ("when", self.when)) if value is not None]
        return f"Choice({', '.join([*map(repr, self.choices), *(['ordered=True'] if self.ordered else []), *options])})"

    def expected(self) -> str:
        shown = ", ".join(map(repr, self.choices[:10]))
        return f"one of {shown}" + (f" or {len(self.choices) - 10} more" if len(self.choices) > 10 else "")

    def index(self, value: Any) -> int | None:
        try:
            return self._positions.get(tuples(value) if isinstance(value, list) else value)
        except TypeError:  # not hashable
            return None

    def to_config(self) -> dict[str, Any]:
        config = {key: value for key, value in super().to_config().items() if key != "_positions"}
        return config if self.default is None else {**config, "default": plain(self.default)}


@dataclass(frozen=True, repr=False)
class Fixed(Variable):
    """A constant that the objective gets with every point.

    Args:
        value: Any object.
    """

    value: Any

    type_name: ClassVar[str] = "fixed"

    @property
    def size(self) -> int:
        """Number of columns: none."""
        return 0

    def expected(self) -> str:
        return repr(self.value)

    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "value": plain(self.value)}


@dataclass(frozen=True, repr=False)
class Beyond(Variable):
    """Base class of variables beyond what is searched for its own sake: around another one, which says what values it can have."""

    variable: Variable

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.variable, _Numeric | _Indexed):
            raise SpaceError(f"{name} takes a Real, Integer, Bool or Choice; got {self.variable!r}.")
        if self.variable.conditions:
            raise SpaceError(f"a {name} variable cannot be conditional: it has a value whatever is chosen; leave out when=.")

    @property
    def dims(self) -> tuple[int, ...]:
        return self.variable.dims

    @property
    def optional(self) -> bool:
        return self.variable.optional

    def coding(self) -> Coding:
        return self.variable.coding()

    def first_guess(self) -> Floats | None:
        return self.variable.first_guess()

    def expected(self) -> str:
        return self.variable.expected()

    def read(self, name: str, values: Sequence[Any]) -> Floats:
        return self.variable.read(name, values)

    def decode_row(self, z: list[float]) -> Any:
        return self.variable.decode_row(z)

    def decode_rows(self, z: Floats) -> list[Any]:
        return self.variable.decode_rows(z)

    def to_config(self) -> dict[str, Any]:
        return {"type": self.type_name, "variable": self.variable.to_config()}


@dataclass(frozen=True, repr=False)
class Context(Beyond):
    """Something observed rather than chosen, which is given to ``ask`` (a temperature, a customer, a day of the week).

    Args:
        variable: What values it can have: a ``Real``, ``Integer``, ``Bool`` or ``Choice``.
    """

    type_name: ClassVar[str] = "context"


TYPES: dict[str, type[Variable]] = {cls.type_name: cls for cls in (Real, Integer, Bool, Choice, Fixed, Context)}


def from_config(config: Any) -> Variable:
    """A variable from its configuration, as ``to_config`` gives it and a TOML file holds it.

    Raises:
        SpaceError: Which setting is unknown, missing or wrong.
    """
    if not isinstance(config, Mapping) or config.get("type") not in TYPES:
        got = repr(config.get("type", "none")) if isinstance(config, Mapping) else repr(config)
        raise SpaceError(f"expected a table with a type (one of {', '.join(TYPES)}); got {got}.")
    settings = {key: value for key, value in config.items() if key != "type"}
    kind: str = config["type"]
    cls = TYPES[kind]
    known = [f.name for f in fields(cls) if not f.name.startswith("_")]  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}."
            raise SpaceError(f"type {kind!r} has no setting {key!r}; {hint}")
    if issubclass(cls, Beyond):
        if "variable" not in settings:
            raise SpaceError(
                f'type "{kind}" needs a variable, as in {{ type = "{kind}", variable = {{ type = "real", low = 0, high = 1 }} }}.'
            )
        return cls(from_config(settings.pop("variable")), **settings)
    if cls is Choice:
        choices = settings.pop("choices", None)
        if not isinstance(choices, list | tuple):
            raise SpaceError(f'type "choice" needs a list of choices, as in choices = ["a", "b"]; got {choices!r}.')
        if "default" in settings:
            settings["default"] = tuples(settings["default"])
        return Choice(*map(tuples, choices), **_with_conditions(settings))
    try:
        return cls(**_with_conditions(settings))
    except TypeError:
        needed = [f.name for f in fields(cls) if f.default is f.default_factory and f.name not in settings]  # type: ignore[arg-type]
        raise SpaceError(f"type {kind!r} needs {' and '.join(needed)} too.") from None


def _with_conditions(settings: dict[str, Any]) -> dict[str, Any]:
    """In a condition, a list is a list of values; a list inside it is one value that is a tuple."""
    when = settings.get("when")
    if not isinstance(when, Mapping):
        return settings
    return {**settings, "when": {key: [tuples(v) for v in value] if isinstance(value, list) else value for key, value in when.items()}}
