"""Trials as a user meets them, and the columnar table behind them.

The table keeps one number after the other in fixed-size chunks: a million trials cost little more than their numbers,
and appending never copies what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from zoopt.ledger import Ledger
    from zoopt.study import Study

Array = np.ndarray[Any, Any]

CHUNK_BITS = 12
CHUNK = 1 << CHUNK_BITS
_MASK = CHUNK - 1


class TrialState(IntEnum):
    """Where a trial is: out, or in one of the four states in which it stays."""

    PENDING = 0  # it is out
    COMPLETE = 1  # every objective and constraint was told
    FAILED = 2  # the objective said no
    DROPPED = 3  # given up by the user
    LOST = 4  # its worker vanished three times


class Table:
    """Columns by trial id, in chunks of ``CHUNK`` rows.

    Args:
        columns: Name to (shape of one row, dtype, fill value).
    """

    __slots__ = ("_capacity", "_spec", "chunks", "n")

    def __init__(self, columns: dict[str, tuple[tuple[int, ...], Any, float]]) -> None:
        self._spec = columns
        self.chunks: dict[str, list[Array]] = {name: [] for name in columns}
        self.n = 0
        self._capacity = 0

    def __contains__(self, name: str) -> bool:
        return name in self._spec

    def add_column(self, name: str, shape: tuple[int, ...], dtype: Any, fill: float) -> None:
        """Add a column to all rows, old and new."""
        self.chunks[name] = [np.full((CHUNK, *shape), fill, dtype=dtype) for _ in range(self._capacity >> CHUNK_BITS)]
        self._spec[name] = (shape, dtype, fill)

    def _chunk(self, name: str) -> Array:
        shape, dtype, fill = self._spec[name]
        return np.full((CHUNK, *shape), fill, dtype=dtype)

    def truncate(self, n: int) -> None:
        """Forget all rows but the first n; mends what an interrupt left of growing."""
        count = (n + CHUNK - 1) >> CHUNK_BITS
        self.chunks = {name: self.chunks[name] for name in self._spec}
        for name, chunks in self.chunks.items():
            del chunks[count:]
            chunks.extend(self._chunk(name) for _ in range(count - len(chunks)))
            if n & _MASK:
                chunks[-1][n & _MASK :] = self._spec[name][2]
        self._capacity = count << CHUNK_BITS
        self.n = n

    def grow(self, n: int) -> int:
        """Append n rows holding the fill values; gives the first new id."""
        first = self.n
        self.n += n
        while self._capacity < self.n:
            self._capacity += CHUNK
            for name, chunks in self.chunks.items():
                chunks.append(self._chunk(name))
        return first

    def set_range(self, name: str, first: int, rows: Any) -> None:
        """Write rows ``(n, ...)`` to the ids from ``first`` on."""
        chunks = self.chunks[name]
        done, total = 0, len(rows)
        if total == 1:
            chunks[first >> CHUNK_BITS][first & _MASK] = rows[0]
            return
        while done < total:
            start = (first + done) & _MASK
            take = min(CHUNK - start, total - done)
            chunks[(first + done) >> CHUNK_BITS][start : start + take] = rows[done : done + take]
            done += take

    def fill_range(self, name: str, first: int, n: int, value: float) -> None:
        """Write one value to n ids from ``first`` on."""
        self.set_range(name, first, np.broadcast_to(np.asarray(value), (n, *self._spec[name][0])))

    def set(self, name: str, ids: Array, rows: Any) -> None:
        """Write rows to any ids (the last of repeated ids wins)."""
        if len(ids) == 0:
            return
        rows = np.broadcast_to(np.asarray(rows), (len(ids), *self._spec[name][0]))
        if len(ids) > 1 and ids[-1] - ids[0] == len(ids) - 1 and bool((np.diff(ids) == 1).all()):
            self.set_range(name, int(ids[0]), rows)
            return
        where = ids >> CHUNK_BITS
        for c in np.unique(where):
            mine = where == c
            self.chunks[name][c][ids[mine] & _MASK] = rows[mine]

    def row(self, name: str, i: int) -> Any:
        """One row (a view for vector columns)."""
        return self.chunks[name][i >> CHUNK_BITS][i & _MASK]

    def get(self, name: str, ids: Array) -> Array:
        """Rows of any ids, ``(n, ...)``, copied."""
        shape, dtype, _ = self._spec[name]
        out = np.empty((len(ids), *shape), dtype=dtype)
        where = ids >> CHUNK_BITS
        for c in np.unique(where):
            mine = where == c
            out[mine] = self.chunks[name][c][ids[mine] & _MASK]
        return out

    def column(self, name: str) -> Array:
        """The whole column, ``(n, ...)``, copied."""
        shape, dtype, _ = self._spec[name]
        if self.n == 0:
            return np.empty((0, *shape), dtype=dtype)
        return np.concatenate(self.chunks[name])[: self.n]

    def pieces(self, *names: str) -> Iterator[tuple[int, tuple[Array, ...]]]:
        """``(first id, views)`` chunk by chunk, so that a scan makes no copy."""
        for c in range((self.n + CHUNK - 1) >> CHUNK_BITS):
            n = min(CHUNK, self.n - (c << CHUNK_BITS))
            yield c << CHUNK_BITS, tuple(self.chunks[name][c][:n] for name in names)


class Trial:
    """One proposed, pending or finished evaluation.

    Attributes:
        id: Counts from 0 in a study and is never reused; -1 for a recommended point, which is no trial.
    """

    __slots__ = ("_study", "_x", "id")

    def __init__(self, study: Study, trial_id: int, x: Array) -> None:
        self._study = study
        self._x = x
        self.id = trial_id

    @property
    def _told(self) -> Ledger:
        """The study's ledger, once no other thread is changing it."""
        with self._study._lock:
            return self._study._ledger

    @property
    def params(self) -> dict[str, Any]:
        """Parameters by name, plain Python values in problem units; inactive ones are absent."""
        return self._study.space.row_params(self._x)

    @property
    def encoded(self) -> Tensor:
        """The encoded point, ``(d,)``."""
        return torch.tensor(self._x)

    @property
    def x(self) -> Tensor:
        """The point in problem units, ``(d,)``; choices are indices."""
        return self._study.space.decode(torch.tensor(self._x).unsqueeze(0))[0]

    @property
    def reached(self) -> dict[str, Any]:
        """The setting that was evaluated, as parameters: what was told as reached, else what was asked."""
        setting = self._told.settings.get(self.id)
        return self.params if setting is None else self._study.space.row_params(setting)

    @property
    def values(self) -> dict[str, float]:
        """What was told so far, by objective, in the user's direction."""
        return self._told.values_of(self.id)

    @property
    def value(self) -> float | None:
        """The told value of a single-objective study; None while there is none."""
        return next(iter(self.values.values()), None)

    @property
    def constraints(self) -> dict[str, float]:
        """What was told of the outcome constraints, by name; ``<= 0`` is feasible."""
        return self._told.constraints_of(self.id)

    @property
    def state(self) -> TrialState:
        """Pending, complete, failed, dropped or lost."""
        return self._told.state_of(self.id)

    @property
    def error(self) -> str | None:
        """Why it failed, with the tail of its standard error where there was one."""
        return self._told.errors.get(self.id)

    @property
    def metrics(self) -> dict[str, Any]:
        """Further numbers told with it."""
        return dict(self._told.metrics.get(self.id, {}))

    def __repr__(self) -> str:
        parts = [f"id={self.id}"] if self.id >= 0 else []
        parts.append(f"params={self.params!r}")
        values = self.values if self.id >= 0 else {}
        if len(self._study.task.objectives) == 1:
            parts += [f"value={value!r}" for value in values.values()]
        elif values:
            parts.append(f"values={values!r}")
        if self.id in self._told.settings:
            parts.append(f"reached={self.reached!r}")
        return f"Trial({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trial):
            return NotImplemented
        return self._study is other._study and self.id == other.id and (self.id >= 0 or np.array_equal(self._x, other._x))

    def __hash__(self) -> int:
        return hash((id(self._study), self.id))

    def __index__(self) -> int:
        return self.id


class Batch(Sequence[Trial]):
    """Trials that were asked together."""

    __slots__ = ("_encoded", "_ids", "_study")

    def __init__(self, study: Study, ids: Array, encoded: Array) -> None:
        self._study = study
        self._ids = ids
        self._encoded = encoded

    @property
    def ids(self) -> Array:
        """Trial ids, ``(n,)`` int64."""
        return self._ids

    @property
    def encoded(self) -> Tensor:
        """Encoded points, ``(n, d)``, on the study's device."""
        return torch.tensor(self._encoded, device=self._study.task.device, dtype=self._study.task.dtype)

    @property
    def x(self) -> Tensor:
        """Points in problem units, ``(n, d)``, on the study's device; choices are indices."""
        task = self._study.task
        return task.space.decode(torch.from_numpy(self._encoded).to(device=task.device, dtype=task.dtype))

    @property
    def params(self) -> list[dict[str, Any]]:
        """Parameters of each trial by name."""
        return self._study.space.params(self._encoded)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Array | Tensor) -> Batch: ...
    def __getitem__(self, index: int | slice | Sequence[int] | Array | Tensor) -> Trial | Batch:
        if isinstance(index, int | np.integer):
            return Trial(self._study, int(self._ids[index]), self._encoded[index])
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        rows = index if isinstance(index, slice) else np.arange(len(self))[np.asarray(index, dtype=None if len(index) else np.int64)]
        return Batch(self._study, self._ids[rows], self._encoded[rows])

    def __repr__(self) -> str:
        shown = f"{self._ids[0]}..{self._ids[-1]}" if len(self) > 1 else str(self._ids[0]) if len(self) else "none"
        return f"Batch({len(self)} trials, ids {shown})"
