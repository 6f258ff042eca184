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


def pareto_rows(values: Array) -> Array:
    """Rows of ``values: (n, m)`` (minimised, finite) that no other row dominates, ascending; equal rows all stay.

    The smallest sum belongs to a row that nothing dominates. Each such row takes away what it dominates: the cost is the
    number of rows times the size of the front.
    """
    # Of rows with equal sums (rounding) one that dominates another comes first in lexicographic order.
    left = np.lexsort((*values.T[::-1], values.sum(1)))
    front: list[int] = []
    while len(left):
        row = values[left[0]]
        same = (values[left] == row).all(1)
        front += left[same].tolist()
        left = left[~(same | (values[left] >= row).all(1))]
    return np.sort(np.array(front, dtype=np.int64))


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
    """A column name not yet taken: a parameter may be called like an objective."""
    while name in taken:
        name += "_"
    return name
