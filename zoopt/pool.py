"""A finite pool of candidates as a space: what is on the shelf, row by row."""

from __future__ import annotations

import csv
import hashlib
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from zoopt.constraints import Columns, Constraint, Mask
from zoopt.errors import SpaceError
from zoopt.random import Random
from zoopt.space import Space
from zoopt.variables import Beyond, Bool, Choice, Fixed, Floats, Integer, Real, Variable

_log = logging.getLogger("zoopt.pool")

_SAME = 1e-5  # encoded points this close in every column are the same row; single precision rounds to a hundredth of it
_BLOCK = 4_000_000  # distances that are worked out at once


class Pool(Space):
    """A space whose only points are given rows: every point that is asked is one of them.

    Args:
        rows: The candidates, a dict of values by name each, all with the same names.
        variables: Variables for some of the columns, e.g. a logarithmic ``Real``. For the others they are inferred: whole numbers make an
            ``Integer``, numbers a ``Real``, true and false a ``Bool``, one value for all a ``Fixed``, anything else a ``Choice``.
        labels: Columns that name a row and say nothing of it, such as a number on a bottle: they are among the parameters that are asked,
            and no strategy sees them. One of them alone may be given where parameters of a row are wanted.
        source: What the rows are called in messages.

    Attributes:
        rows: Encoded rows, ``(n, d)``, each once.
        labels: Names of the label columns.

    Raises:
        SpaceError: No row, rows of different columns, or a value that its variable cannot have; the message names the row.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Variable] | None = None,
        labels: str | Collection[str] = (),
        source: str = "the pool",
    ) -> None:
        self.labels: tuple[str, ...] = (labels,) if isinstance(labels, str) else tuple(labels)
        given = dict(variables or {})
        names = _names(rows, (*self.labels, *given), source)
        kept = [name for name in names if name not in self.labels]
        found = {name: given.get(name) or _inferred(name, [row[name] for row in rows], source) for name in kept}
        if not any(variable.size for variable in found.values()):
            raise SpaceError(f"{source} has no column in which its rows differ.")
        for name, variable in given.items():
            if isinstance(variable, Beyond) or variable.size != 1:
                raise SpaceError(f"{name}: a column of a pool is one number or one choice, no {type(variable).__name__}.")
        super().__init__(found)
        self.box = False
        self._all = Space(found)  # without the pool's own rule
        encoded = []
        for i, row in enumerate(rows):
            try:
                encoded.append(self._all.encode_params([{name: row[name] for name in kept}])[0])
            except SpaceError as error:
                raise SpaceError(f"row {i + 1} of {source}: {error}") from None
        points, first = np.unique(np.stack(encoded), axis=0, return_index=True)
        order = np.argsort(first)
        self.listed: Floats = points[order]
        self._labelled = [{name: rows[int(i)][name] for name in self.labels} for i in first[order]]
        if len(first) < len(rows):
            _log.warning("%d of %d rows of %s repeat others; each counts once.", len(rows) - len(first), len(rows), source)
        digest = hashlib.sha256(self.listed.tobytes()).hexdigest()[:12]
        self.constraints = (_InPool(self, f"one of the {len(self.listed)} rows of {source} ({digest})"),)

    @classmethod
    def read(
        cls, path: str | Path, variables: Mapping[str, Variable] | None = None, labels: str | Collection[str] = (), delimiter: str = ","
    ) -> Self:
        """The pool of a CSV file whose first line names the columns.

        Raises:
            SpaceError: The file cannot be read, or a cell is empty; the message names the line.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8-sig") as file:
                lines = list(csv.reader(file, delimiter=delimiter))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SpaceError(f"the pool {path} cannot be read: {error}.") from None
        header = [name.strip() for name in lines[0]] if lines else []
        if not header or len(set(header)) < len(header) or "" in header:
            raise SpaceError(f"the first line of {path} must name its columns, each once; got {header!r}.")
        rows: list[dict[str, Any]] = []
        texts = {labels} if isinstance(labels, str) else set(labels)
        for number, cells in enumerate(lines[1:], start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header) or any(not cell.strip() for cell in cells):
                raise SpaceError(f"line {number} of {path} must have a value for each of {', '.join(header)}; got {cells!r}.")
            rows.append({name: cell.strip() for name, cell in zip(header, cells, strict=True)})
        for name in header:
            if name not in texts:
                for row, value in zip(rows, _parsed([row[name] for row in rows]), strict=True):
                    row[name] = value
        return cls(rows, variables, labels, Path(path).name)

    # What of a space is different.

    @property
    def label_values(self) -> dict[str, list[Any]]:
        """The labels of all rows, by column."""
        return {name: [row[name] for row in self._labelled] for name in self.labels}

    @cached_property
    def size(self) -> int:
        """Number of rows, each counted once."""
        return len(self.listed)

    def enumerate(self) -> Iterator[Floats]:
        """Every row, encoded, ``(d,)``."""
        yield from self.listed

    def allowed(self, x: Floats, constraints: Sequence[Constraint] | None = None) -> Mask:
        """Which encoded points are rows, ``(n,)``."""
        if constraints is not None and not constraints:
            return np.ones(len(x), dtype=bool)
        numbers, _ = self._nearest(x)
        found: Mask = (np.abs(self.listed[numbers] - x) <= _SAME).all(-1)
        return found

    def repair(self, x: Tensor, random: Random, fixed: Collection[int] = ()) -> Tensor:
        """The nearest rows of ``x: (..., d)``: numbers by their distance in widths of the space, a choice that differs counts as one."""
        if x.is_meta or not x.numel():
            return self.snap(x)
        points = x.detach().to("cpu", torch.float64).reshape(-1, self.dim).numpy()
        if not np.isfinite(points).all():
            raise SpaceError("expected encoded points to repair, but the strategy gave NaN or an infinite value for some.")
        numbers, _ = self._nearest(points)
        return torch.from_numpy(self.listed[numbers]).to(x).reshape(x.shape)

    def sample(
        self,
        n: int,
        random: Random,
        *,
        fixed: Mapping[int, float] | None = None,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
    ) -> Tensor:
        """``n`` random rows, each once where there are as many, ``(n, d)``."""
        whole, rest = divmod(n, len(self.listed))
        numbers = [*range(len(self.listed))] * whole + random.child("pool").permutation(len(self.listed))[:rest].tolist()
        return torch.from_numpy(self.listed[numbers]).to(device=device, dtype=dtype)

    def encode_params(self, params: Sequence[Mapping[str, Any]]) -> Floats:
        """Encoded rows of parameter dicts, or of labels alone."""
        plain: list[Mapping[str, Any]] = []
        for row in params:
            labels = {name: row[name] for name in self.labels if name in row} if isinstance(row, Mapping) else {}
            if labels and len(labels) == len(row):
                plain.append(self._row_labelled(labels))
            else:
                plain.append({name: value for name, value in row.items() if name not in labels} if labels else row)
        x = self._all.encode_params(plain)
        allowed = self.allowed(x)
        if not allowed.all():
            i = int(np.argmin(allowed))
            near = self.row_params(self.listed[self._nearest(x[i : i + 1])[0][0]])
            raise SpaceError(f"{dict(params[i])!r} is no row of the pool; the nearest is {near!r}.")
        return x

    def row_params(self, row: Floats) -> dict[str, Any]:
        """The parameters of one row, ``(d,)``, and its labels."""
        params = super().row_params(row)
        return {**self._labels_of(row[None])[0], **params} if self.labels else params

    def params(self, x: Floats | Tensor) -> list[dict[str, Any]]:
        """The parameters of rows and their labels, one dict each."""
        found = super().params(x)
        return [{**labels, **row} for labels, row in zip(self._labels_of(x), found, strict=True)] if self.labels else found

    def param_columns(self, x: Floats | Tensor) -> dict[str, list[Any]]:
        """The parameters of rows and their labels, by column."""
        labels = self._labels_of(x) if self.labels else []
        return {**{name: [row[name] for row in labels] for name in self.labels}, **super().param_columns(x)}

    def _labels_of(self, x: Floats | Tensor) -> list[dict[str, Any]]:
        array = x.detach().to("cpu", torch.float64).numpy() if isinstance(x, Tensor) else x
        return [self._labelled[i] for i in self._nearest(array)[0].tolist()]

    def _row_labelled(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        for i, own in enumerate(self._labelled):
            if all(str(own[name]) == str(value) for name, value in labels.items()):
                return super().row_params(self.listed[i])
        raise SpaceError(f"no row of the pool has {', '.join(f'{name} = {value!r}' for name, value in labels.items())}.")

    def _first_broken(self, x: Floats) -> tuple[int, Constraint] | None:
        allowed = self.allowed(x)
        return None if allowed.all() else (int(np.argmin(allowed)), self.constraints[0])

    def _nearest(self, x: Floats) -> tuple[np.ndarray[Any, Any], Floats]:
        """Number of the nearest row of each point ``(n, d)``, and its squared distance."""
        choices = np.array([column.kind == "choice" and not column.ordered for column in self.columns])
        scale = 1.0 / np.where(choices, 1.0, self.width)
        numbers, distances = np.empty(len(x), dtype=np.int64), np.empty(len(x))
        step = max(1, _BLOCK // len(self.listed))
        for a in range(0, len(x), step):
            part = x[a : a + step]
            square = cdist((part * scale)[:, ~choices], (self.listed * scale)[:, ~choices], "sqeuclidean") if not choices.all() else 0.0
            if choices.any():
                nearest = np.rint(part[:, choices])
                square = square + cdist(nearest, self.listed[:, choices], "hamming") * choices.sum()
            numbers[a : a + step] = np.argmin(square, axis=1)
            distances[a : a + step] = np.min(square, axis=1)
        return numbers, distances


class _InPool(Constraint):
    """The rule that a point is a row."""

    def __init__(self, pool: Pool, text: str) -> None:
        self._pool = pool
        self.text = text
        self.names = ()
        self.linear = ()

    def holds(self, columns: Columns, rows: Any, n: int) -> Mask:
        return self._pool.allowed(self._pool._all.encode_params(rows()))


def _names(rows: Sequence[Mapping[str, Any]], wanted: Sequence[str], source: str) -> list[str]:
    """The columns of all rows, those that are wanted among them."""
    if not rows:
        raise SpaceError(f"{source} has no rows.")
    names = list(rows[0])
    for i, row in enumerate(rows):
        if set(row) != set(names):
            raise SpaceError(f"row {i + 1} of {source} has the columns {', '.join(row)}, the first one {', '.join(names)}.")
    for name in wanted:
        if name not in names:
            raise SpaceError(f"{source} has no column {name!r}; its columns are {', '.join(names)}.")
    return names


def _parsed(cells: Sequence[str]) -> list[Any]:
    """Cells of a column as whole numbers, numbers or truth values where all of them are that, else as they are."""
    for read in (int, float):
        try:
            values: list[Any] = [read(cell) for cell in cells]
        except ValueError:
            continue
        if all(math.isfinite(value) for value in values):
            return values
    truths = {"true": True, "false": False}
    lower = [cell.lower() for cell in cells]
    return [truths[cell] for cell in lower] if set(lower) <= truths.keys() else list(cells)


def _inferred(name: str, values: Sequence[Any], source: str) -> Variable:
    """The variable of a column."""
    different = list(dict.fromkeys(values))
    if len(different) == 1:
        return Fixed(different[0])
    if all(isinstance(value, bool | np.bool_) for value in values):
        return Bool()
    numbers = all(isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) for value in values)
    if numbers:
        low, high = min(values), max(values)
        if not all(math.isfinite(value) for value in values):
            raise SpaceError(f"{name}: a value of {source} is not a finite number.")
        whole = all(float(value).is_integer() for value in values) and all(isinstance(value, int | np.integer) for value in values)
        return Integer(int(low), int(high)) if whole else Real(float(low), float(high))
    return Choice(*sorted(different, key=str))
