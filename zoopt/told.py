"""What a user tells, read once: numbers, arrays, tensors or dicts become rows of arrays, and unusable rows are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch import Tensor

from zoopt.errors import FeedbackError

if TYPE_CHECKING:
    from zoopt.strategy import Task

Array = np.ndarray[Any, Any]


class Rows:
    """Results of n trials, one row each.

    Attributes:
        values: ``(n, m)`` in the user's direction; NaN where an objective was not told.
        given: ``(m,)`` which objectives were told.
        constraints: ``(n, c)`` or None.
        noise: ``(n, m)``, NaN where it was not told, or None.
        gradients: ``(n, m, d)`` in problem units, or None.
        metrics: One dict a row, or None.
        at: Encoded points reached, ``(n, d)``, or None.

    Raises:
        FeedbackError: Something has another shape or other names than this task, or is no JSON (metrics).
    """

    __slots__ = ("_bad", "_raw", "at", "constraints", "given", "gradients", "metrics", "noise", "values")

    def __init__(
        self,
        task: Task,
        n: int,
        values: Any,
        constraints: Any = None,
        noise: Any = None,
        gradients: Any = None,
        metrics: Mapping[str, Any] | None = None,
        at: Array | None = None,
    ) -> None:
        m = len(task.objectives)
        self._raw: dict[int, Any] = {}  # by objective, what was told where it was not all numbers
        self.given = np.ones(m, dtype=bool)
        self.values = self._values(values, n, task.objectives)
        self.constraints = None
        if task.constraints:
            if constraints is not None:
                self.constraints = _columns(constraints, n, task.constraints, "constraints")
        elif constraints is not None:
            raise FeedbackError("this study names no outcome constraints; make it with constraints=['name', ...] to tell them.")
        self.noise = None if noise is None else _noise(noise, n, task.objectives)
        if self.noise is not None and np.isnan(self.noise).all():
            self.noise = None
        self.gradients = None if gradients is None else _shaped(_array(gradients, "gradients"), (n, m, task.dim), "gradients")
        self.metrics = None if metrics is None else _metrics(metrics, n)
        self.at = at
        self._bad: Array = np.asarray(~np.isfinite(self.values[:, self.given]).all(1))
        if self.constraints is not None:
            self._bad = self._bad | ~np.isfinite(self.constraints).all(1)
        if self.gradients is not None:
            told = self.gradients[~self._bad][:, self.given]
            if np.isinf(told).any() or np.isnan(told).all(-1).any():
                raise FeedbackError(
                    f"gradients must be finite, or NaN for the variables by which they are not known; got {_shown(gradients)}."
                )

    def _values(self, values: Any, n: int, objectives: Sequence[str]) -> Array:
        m = len(objectives)
        if isinstance(values, Mapping):
            unknown = [name for name in values if name not in objectives]
            if unknown or not values:
                told = f"there is no objective {unknown[0]!r}" if unknown else "values names no objective"
                raise FeedbackError(f"{told}; this study has {', '.join(objectives)}.")
            out = np.full((n, m), np.nan)
            self.given = np.array([name in values for name in objectives])
            for k, name in enumerate(objectives):
                if name in values:
                    column = self._numbers(values[name], k)
                    if column.size != n:
                        raise FeedbackError(f"values of {name!r} must have shape ({n},), one for each trial; got {column.shape}.")
                    out[:, k] = column.reshape(n)
            return out
        array = self._numbers(values, -1)
        if array.shape in ((n, m), (n,)) and array.size == n * m:
            return array.reshape(n, m)
        if n == 1 and array.size == m:
            return array.reshape(1, m)
        wanted = f"({n},)" if m == 1 else f"({n}, {m})"
        raise FeedbackError(f"values must have shape {wanted} (trials{', objectives' if m > 1 else ''}); got {array.shape}.")

    def _numbers(self, values: Any, objective: int) -> Array:
        """A new float64 array; NaN for whatever is not a number, which is remembered for the reason."""
        if isinstance(values, Tensor):
            values = _host(values)
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError):  # ragged, or tensors that need a gradient or are on another device
            array = np.array(None)
        if array.dtype.kind in "fiub":
            return np.array(array, dtype=np.float64)
        objects = _objects(values)
        self._raw[objective] = objects
        return np.array([_number(value) for value in objects.ravel()], dtype=np.float64).reshape(objects.shape)

    def take(self, rows: Array) -> Self:
        """These rows only."""
        taken = object.__new__(type(self))
        taken._raw = {k: raw.reshape(len(self.values), -1)[rows] for k, raw in self._raw.items()}
        taken.given = self.given
        taken.values = self.values[rows]
        taken._bad = self._bad[rows]
        for name in ("constraints", "noise", "gradients", "at"):
            part = getattr(self, name)
            setattr(taken, name, None if part is None else part[rows])
        taken.metrics = None if self.metrics is None else [self.metrics[i] for i in rows]
        return taken

    def fill(self, name: str, k: int, row: Array) -> None:
        """Put numbers told earlier where row k of one of the arrays has none."""
        if np.isnan(row).all():
            return
        array: Array | None = getattr(self, name)
        if array is None:
            array = np.full((len(self.values), *np.shape(row)), np.nan)
            setattr(self, name, array)
        array[k] = np.where(np.isnan(array[k]), row, array[k])

    def bad(self) -> Array:
        """``(n,)`` rows that hold something that is not finite."""
        return self._bad

    def reasons(self, which: Array, objectives: Sequence[str]) -> list[str]:
        """Why each of these rows counts as failed."""
        reasons = []
        for i in np.nonzero(which)[0].tolist():
            wrong = [k for k in np.nonzero(self.given)[0].tolist() if not np.isfinite(self.values[i, k])]
            if not wrong:
                reasons.append("a constraint is not finite")
                continue
            k = wrong[0]
            raw = self._raw.get(k, self._raw.get(-1))
            value: Any = float(self.values[i, k])
            if raw is not None:
                row = raw.reshape(len(self.values), -1)[i]
                value = row[0 if k in self._raw else min(k, len(row) - 1)]
            what = "finite" if isinstance(value, float | int) else "a number"
            reasons.append(
                f"the objective gave {_shown(value)}{f' for {objectives[k]}' if len(objectives) > 1 else ''}, which is not {what}"
            )
        return reasons

    def part(self, name: str, which: Any) -> Array | None:
        """Some rows of one of the arrays, or None where it was not told."""
        array: Array | None = getattr(self, name)
        return None if array is None else array[which]

    def fields(self, which: Any) -> dict[str, Array]:
        """The arrays as columns of a journal record."""
        columns = {"values": self.values[which]}
        for name in ("constraints", "noise", "gradients", "at"):
            array = getattr(self, name)
            if array is not None:
                columns[name] = array[which]
        return columns

    def note(self, ids: Array, which: Any, partial: bool = False) -> dict[str, Any] | None:
        """What goes beside the numbers: metrics by id."""
        note: dict[str, Any] = {"partial": True} if partial else {}
        if self.metrics is not None:
            rows = np.arange(len(self.values))[which].tolist()
            note["metrics"] = {str(i): self.metrics[k] for i, k in zip(ids[which].tolist(), rows, strict=True) if self.metrics[k]}
        return note or None


def _number(value: Any) -> float:
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return float("nan")


def _objects(values: Any) -> Array:
    """An object array of whatever was told, as deep as its rows are alike; a text is one value."""
    if isinstance(values, np.ndarray):
        return values.astype(object)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        single = np.empty((), dtype=object)
        single[()] = values
        return single
    rows = [_objects(value) for value in values]
    if rows and all(row.shape == rows[0].shape for row in rows):
        return np.stack(rows)
    ragged = np.empty(len(rows), dtype=object)
    ragged[:] = list(values)
    return ragged


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _host(tensor: Tensor) -> Array:
    """Its numbers, in double precision."""
    tensor = tensor.detach().cpu()
    return np.asarray((tensor if tensor.is_complex() else tensor.double()).numpy())


def _array(value: Any, what: str) -> Array:
    if isinstance(value, Tensor):
        value = _host(value)
    try:
        if np.iscomplexobj(value):
            raise TypeError
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise FeedbackError(f"{what} must be numbers; got {_shown(value)}.") from None


def _shaped(array: Array, shape: tuple[int, ...], name: str) -> Array:
    if array.size != int(np.prod(shape)) or (array.ndim and len(shape) > 1 and array.shape[0] != shape[0] != 1):
        raise FeedbackError(f"{name} must have shape {shape}; got {array.shape}.")
    return array.reshape(shape)


def _columns(told: Any, n: int, names: Sequence[str], what: str) -> Array:
    """``(n, len(names))`` from an array or a dict by name."""
    if isinstance(told, Mapping):
        missing = [name for name in names if name not in told]
        if missing or len(told) != len(names):
            raise FeedbackError(f"{what} must name {', '.join(names)}; got {', '.join(map(str, told)) or 'nothing'}.")
        return np.stack([_shaped(_array(told[name], f"{what}[{name!r}]"), (n,), f"{what}[{name!r}]") for name in names], axis=1)
    return _shaped(_array(told, what), (n, len(names)), what)


def _noise(told: Any, n: int, names: Sequence[str]) -> Array:
    """Standard deviations ``(n, m)``: an array, one number for all, or a dict by name; NaN where it was not told."""
    if isinstance(told, Mapping):
        unknown = [name for name in told if name not in names]
        if unknown:
            raise FeedbackError(f"noise names {unknown[0]!r}, but the objectives are {', '.join(names)}.")
        blank = np.full(n, np.nan)
        noise = np.stack([np.broadcast_to(_array(told[k], "noise"), (n,)) if k in told else blank for k in names], axis=1)
    else:
        array = _array(told, "noise")
        noise = np.full((n, len(names)), array) if array.ndim == 0 else _shaped(array, (n, len(names)), "noise")
    if (noise < 0).any() or np.isinf(noise).any():
        raise FeedbackError(f"noise must be finite standard deviations >= 0; got {_shown(told)}.")
    return noise


def _metrics(told: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """One dict a row of what JSON can hold."""
    if not isinstance(told, Mapping):
        raise FeedbackError(f"metrics must be a dict of numbers by name; got {_shown(told)}.")
    rows = [{str(name): _item(value, i, n) for name, value in told.items()} for i in range(n)]
    try:
        json.dumps(rows)
    except (TypeError, ValueError):
        wrong = next((name for name, value in told.items() if not _writable(_item(value, 0, max(n, 1)))), "?")
        raise FeedbackError(
            f"metrics[{wrong!r}] must be a number, a text, or a list or dict of these; got {_shown(told.get(wrong))}."
        ) from None
    return rows


def _writable(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _item(value: Any, i: int, n: int) -> Any:
    """Row i of a metric; a scalar belongs to every row. Plain Python values, so that they can be written as JSON."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if (isinstance(value, list | tuple) and len(value) == n) or (isinstance(value, np.ndarray) and value.ndim and len(value) == n):
        value = value[i]
    if isinstance(value, Tensor | np.generic | np.ndarray):
        return value.tolist()
    return value
