"""All trials of a study by column, and the Pareto front of a set of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoopt.errors import ZooptError
from zoopt.trials import Table, TrialState

if TYPE_CHECKING:
    from zoopt.study import Study

Array = np.ndarray[Any, Any]


_FEW = 4096  # pairs of rows up to which all are compared


def pareto_rows(values: Array) -> Array:
    """Rows of ``values: (n, m)`` (minimised, finite) that no other row dominates, ascending; equal rows all stay.

    By divide and conquer (Kung, Luccio and Preparata, JACM 1975): the cost grows little faster than n, however large the front is.
    """
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    order = np.lexsort(values.T[::-1])
    rows = values[order]
    first = np.concatenate(([True], (rows[1:] != rows[:-1]).any(1)))  # of equal rows
    return np.sort(order[_front(rows[first])[np.cumsum(first) - 1]])


def _front(rows: Array) -> Array:
    """Which of ``(n, m)`` different rows in lexicographic order no other dominates: only one that stands before it can, ``(n,)`` bool."""
    n, m = rows.shape
    if m == 1:
        return np.asarray(np.arange(n) == 0)
    if m == 2:
        return np.concatenate(([True], rows[1:, 1] < np.minimum.accumulate(rows[:-1, 1])))
    if n * n <= _FEW:
        others = (rows[:, None] <= rows).all(-1).sum(0) - 1  # that are as good; each row is as good as itself
        return np.asarray(others == 0)
    half = n // 2
    before, after = _front(rows[:half]), _front(rows[half:])
    after[after] = ~_dominated(rows[half:][after, 1:], rows[:half][before, 1:])
    return np.concatenate((before, after))


def _dominated(rows: Array, by: Array) -> Array:
    """Which of ``rows: (n, k)`` are equal to or dominated by some row of ``by: (p, k)``, ``(n,)`` bool."""
    n, k = rows.shape
    if n == 0 or len(by) == 0:
        return np.zeros(n, dtype=bool)
    if k == 1:
        return np.asarray(rows[:, 0] >= by.min())
    if k == 2:
        by = by[np.argsort(by[:, 0])]
        at = np.searchsorted(by[:, 0], rows[:, 0], side="right")
        least = np.concatenate(([np.inf], np.minimum.accumulate(by[:, 1])))
        return np.asarray(least[at] <= rows[:, 1])
    if n * len(by) <= _FEW:
        return np.asarray(np.any(np.all(by <= rows[:, None], axis=-1), axis=1))
    column = np.concatenate((rows[:, 0], by[:, 0]))
    middle = np.partition(column, len(column) // 2)[len(column) // 2]
    if middle == column.max():
        below = column[column < middle]
        if len(below) == 0:  # one value: this column says nothing
            return _dominated(rows[:, 1:], by[:, 1:])
        middle = below.max()
    low, by_low = rows[:, 0] <= middle, by[:, 0] <= middle
    beaten = np.empty(n, dtype=bool)
    beaten[low] = _dominated(rows[low], by[by_low])
    beaten[~low] = _dominated(rows[~low, 1:], by[by_low, 1:])
    left = ~low & ~beaten
    beaten[left] = _dominated(rows[left], by[~by_low])
    return beaten


class History(Mapping[str, Array]):
    """Trials by column: ``id``, ``state``, and a column for each parameter, objective and constraint.

    Where any trial has them, also ``noise`` (``noise_<objective>`` of several), the metrics by name, ``reached`` (the
    parameters evaluated where they differ from those asked) and ``error``. What a trial does not have is NaN in columns of
    numbers and None in others: parameters that are inactive, and what was not told.
    """

    def __init__(self, columns: dict[str, Array]) -> None:
        self._columns = columns

    @classmethod
    def of(cls, study: Study, table: Table) -> History:
        """The history of a study that keeps all of it."""
        ledger, space = study._ledger, study.space
        states = np.array([TrialState(s).name.lower() for s in range(len(TrialState))], dtype=object)
        columns: dict[str, Array] = {"id": np.arange(table.n), "state": states[table.column("state")]}

        def put(name: str, column: Array) -> None:
            columns[_free(name, columns)] = column

        def scattered(found: Mapping[int, Any]) -> Array:
            values: list[Any] = [None] * table.n
            for i, value in found.items():
                values[i] = value
            return _column(values)

        for name, values in space.param_columns(table.column("x")).items():
            put(name, _column(values))
        several = len(study.task.objectives) > 1
        for name, names in (("values", study.task.objectives), ("constraints", study.task.constraints)):
            if names:
                for told, column in zip(names, table.column(name).T, strict=True):
                    put(told, column)
        if "noise" in table:
            for told, column in zip(study.task.objectives, table.column("noise").T, strict=True):
                put(f"noise_{told}" if several else "noise", column)
        for name in {name: None for metrics in ledger.metrics.values() for name in metrics}:
            put(name, scattered({i: metrics[name] for i, metrics in ledger.metrics.items() if name in metrics}))
        if ledger.settings:
            put("reached", scattered({i: space.row_params(x) for i, x in ledger.settings.items()}))
        if ledger.errors:
            put("error", scattered(ledger.errors))
        return cls(columns)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def frame(self) -> Any:
        """A pandas data frame, one row a trial. Needs pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise ZooptError("history().frame() needs pandas: pip install pandas. The columns themselves are there without it.") from None
        return pd.DataFrame(self._columns)


def _column(values: Sequence[Any]) -> Array:
    """Numbers as an array of numbers, with NaN for None; anything else as objects."""
    kinds = {type(value) for value in values}
    if kinds and kinds <= {int, float, type(None)}:
        return np.array(values, dtype=np.int64 if kinds == {int} else np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """A column name not yet taken: a parameter may be called id, and a metric like a parameter."""
    while name in taken:
        name += "_"
    return name
