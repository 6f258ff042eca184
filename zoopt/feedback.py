"""What goes out to be evaluated and what comes back: batches of tensors, not lists of objects.

Shapes lead with the run dimensions ``*runs``, which are empty in a study.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import FeedbackError

Column = np.ndarray[Any, Any] | Tensor


class Candidates:
    """Points to evaluate, with what the strategy must know about each.

    All of it may alias the strategy's state and is valid until its next call.

    Args:
        x: Encoded points, ``(*runs, n, d)``, on the task's device and in its floating type.
        columns: See below.
        array: The same points where they are on the host anyway, float64 ``(n, d)``; then ``x`` may be left out, and its
            tensor is made when it is read. For tasks without run dimensions, on the CPU and in double precision.

    Attributes:
        columns: Named columns: tensors ``(*runs, n, ...)``, and small integers as numpy arrays ``(n, ...)`` on the host, the
            same in every run.
    """

    __slots__ = ("_array", "_x", "columns")

    def __init__(
        self, x: Tensor | None = None, columns: Mapping[str, Column] | None = None, *, array: np.ndarray[Any, Any] | None = None
    ) -> None:
        self._x = x
        self.columns: Mapping[str, Column] = {} if columns is None else columns
        self._array = array

    @property
    def x(self) -> Tensor:
        """Encoded points, ``(*runs, n, d)``."""
        if self._x is None:
            self._x = torch.from_numpy(self._array)
        return self._x

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The points on the host, ``(*runs, n, d)``."""
        if self._array is None:
            x = self.x
            host: np.ndarray[Any, Any] = (x if x.device.type == "cpu" and not x.requires_grad else x.detach().cpu()).numpy()
            return host
        return self._array

    def prefixed(self, part: str, /, **columns: Column) -> Candidates:
        """The same points from a part of a hybrid: its columns are called ``part.name``, and the hybrid's own are added.

        ``Observations.take`` gives them back under their own names.
        """
        return Candidates(self._x, {**columns, **{f"{part}.{name}": c for name, c in self.columns.items()}}, array=self._array)

    def __repr__(self) -> str:
        return f"Candidates(x={self._x if self._array is None else self._array!r}, columns={self.columns!r})"


def column_rows(column: Column, rows: Any, runs: int) -> Column:
    """Some rows of a column beside points with that many leading run dimensions."""
    return column[rows] if isinstance(column, np.ndarray) else column[(*[slice(None)] * runs, rows)]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A weak order of some trials, as one rater gave it.

    Attributes:
        tiers: Trial ids, best tier first; ids in one tier are tied.
        unseen: Ids that were shown but not compared with the others.
        rater: Who ranked, or None.
    """

    tiers: tuple[tuple[int, ...], ...]
    unseen: tuple[int, ...] = ()
    rater: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids it orders, best first."""
        return tuple(i for tier in self.tiers for i in tier)

    def among(self, ids: Container[int]) -> Ranking:
        """What it says of some ids alone."""
        tiers = (tuple(i for i in tier if i in ids) for tier in self.tiers)
        return Ranking(tuple(tier for tier in tiers if tier), tuple(i for i in self.unseen if i in ids), self.rater)

    def scores(self) -> dict[int, float]:
        """Mean normalised rank of each ordered id: 0 for a sole best, 1 for a sole worst, ties share their mean."""
        total = len(self.ids)
        scores: dict[int, float] = {}
        before = 0
        for tier in self.tiers:
            mean = (before + (len(tier) - 1) / 2) / max(total - 1, 1)
            scores.update(dict.fromkeys(tier, mean))
            before += len(tier)
        return scores


@dataclass(slots=True)
class Evaluation:
    """What a batched objective may return instead of a plain tensor of values.

    Attributes:
        values: ``(*runs, n)`` or ``(*runs, n, m)``.
        constraints: ``(*runs, n, c)``; ``<= 0`` is feasible.
        noise: Standard deviations of the values, ``(*runs, n, m)``.
        gradients: In problem units, ``(*runs, n, m, d)``.
        metrics: Further numbers to keep, each ``(*runs, n)``.
        reached: The setting that was reached where it differs from the one asked, problem units ``(*runs, n, d)``.
    """

    values: Any
    constraints: Any = None
    noise: Any = None
    gradients: Any = None
    metrics: Mapping[str, Any] | None = None
    reached: Any = None


def rank_rows(values: Tensor, constraints: Tensor | None = None, ok: Tensor | None = None) -> Tensor:
    """Feasibility-first ranks (Deb 2000): feasible by value, then infeasible by total violation, failures last.

    Works without leaving the device. Ties share their mean rank.

    Args:
        values: ``(*runs, n, m)``; with ``m > 1`` feasible rows are ranked by how many feasible rows dominate them.
        constraints: ``(*runs, n, c)`` or None.
        ok: ``(*runs, n)`` bool or None; numbers of rows that are not ok are ignored. Rows that hold NaN are never ok.

    Returns:
        ``(*runs, n)`` of the dtype of ``values``; 0 is best.
    """
    bad = torch.isnan(values).any(-1)
    if ok is not None:
        bad = bad | ~ok
    violation = torch.zeros_like(values[..., 0])
    if constraints is not None and constraints.shape[-1] > 0:
        violation = constraints.to(values.dtype).clamp_min(0).sum(-1)
        bad = bad | torch.isnan(violation)
    infeasible = violation > 0
    if values.shape[-1] == 1:
        score = values[..., 0]
    else:
        a, b = values.unsqueeze(-3), values.unsqueeze(-2)  # does row a (dim -2) dominate row b (dim -3)?
        dominates = (a <= b).all(-1) & (a < b).any(-1) & ~(bad | infeasible).unsqueeze(-2)
        score = dominates.sum(-1).to(values.dtype)
    score = torch.where(bad, torch.zeros_like(score), torch.where(infeasible, violation, score))
    level = torch.where(bad, 2.0, infeasible.to(values.dtype))
    return _mean_ranks(level, score)


def _mean_ranks(level: Tensor, score: Tensor) -> Tensor:
    """Ranks along the last dimension by ``(level, score)``, ties sharing their mean; sorts, so nothing is quadratic."""
    order = torch.argsort(score, dim=-1, stable=True)
    order = order.gather(-1, torch.argsort(level.gather(-1, order), dim=-1, stable=True))
    level, score = level.gather(-1, order), score.gather(-1, order)
    n = score.shape[-1]
    place = torch.arange(n, device=score.device).expand(score.shape)
    new = torch.ones_like(score, dtype=torch.bool)
    new[..., 1:] = (score[..., 1:] != score[..., :-1]) | (level[..., 1:] != level[..., :-1])
    last = torch.ones_like(new)
    last[..., :-1] = new[..., 1:]
    first = torch.where(new, place, 0).cummax(-1).values
    final = torch.where(last, place, n).flip(-1).cummin(-1).values.flip(-1)
    return torch.empty_like(score).scatter_(-1, order, (first + final).to(score.dtype) / 2)


class Observations:
    """Results of some candidates, in the order of their ids within one call.

    Tensors are made when they are first read, so that a strategy which does not look pays nothing for them.

    Attributes:
        as_asked: The points are known to be, to the bit and in this order, all that one ask gave; False where that is not known.
    """

    __slots__ = (
        "_cache",
        "_columns",
        "_constraints",
        "_gradients",
        "_ids",
        "_noise",
        "_ok",
        "_values",
        "_x",
        "as_asked",
        "device",
        "dropped",
        "dtype",
        "rankings",
    )

    def __init__(
        self,
        ids: Any,
        x: Any,
        values: Any = None,
        *,
        constraints: Any = None,
        noise: Any = None,
        gradients: Any = None,
        ok: Any = None,
        dropped: Sequence[int] = (),
        rankings: Sequence[Ranking] = (),
        columns: Mapping[str, Column] | Callable[[], Mapping[str, Column]] | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
        as_asked: bool = False,
    ) -> None:
        self._ids = ids
        self._x = x
        self._values = values
        self._constraints = constraints
        self._noise = noise
        self._gradients = gradients
        self._ok = ok
        self.dropped = dropped
        self.rankings = rankings
        self._columns = columns
        self.dtype = dtype
        self.device = device
        self.as_asked = as_asked
        self._cache: dict[str, Tensor] | None = None

    def _made(self) -> dict[str, Tensor]:
        """Tensors made so far."""
        if self._cache is None:
            self._cache = {}
        return self._cache

    def _tensor(self, name: str, raw: Any) -> Tensor:
        cache = self._made()
        cached = cache.get(name)
        if cached is None:
            if isinstance(raw, Tensor):
                cached = raw
            else:
                cached = torch.as_tensor(raw, dtype=self.dtype, device=self.device)
            cache[name] = cached
        return cached

    @property
    def ids(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Trial ids, ``(n,)``, on the host. A dropped trial is a row that is not ``ok`` and is listed in ``dropped`` too."""
        return np.asarray(self._ids, dtype=np.int64)

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self._x.shape[-2])

    @property
    def x(self) -> Tensor:
        """Encoded points as evaluated, ``(*runs, n, d)``."""
        return self._tensor("x", self._x)

    @property
    def has_values(self) -> bool:
        """Whether numbers were told (and not only an order)."""
        return self._values is not None

    @property
    def values(self) -> Tensor:
        """Objective values, ``(*runs, n, m)``, minimised; rows that are not ``ok`` hold +inf.

        Raises:
            FeedbackError: Only a ranking was told.
        """
        if self._values is None:
            raise FeedbackError("only a ranking was told; read .ranks instead of .values.")
        return self._tensor("values", self._values)

    @property
    def constraints(self) -> Tensor | None:
        """Outcome constraints, ``(*runs, n, c)``; ``<= 0`` is feasible. None where there are none."""
        return None if self._constraints is None else self._tensor("constraints", self._constraints)

    @property
    def noise(self) -> Tensor | None:
        """Standard deviations of the values, ``(*runs, n, m)``, NaN where not told; None where none was."""
        return None if self._noise is None else self._tensor("noise", self._noise)

    @property
    def gradients(self) -> Tensor | None:
        """Gradients with respect to encoded points, ``(*runs, n, m, d)``; None where none was told."""
        return None if self._gradients is None else self._tensor("gradients", self._gradients)

    @property
    def all_ok(self) -> bool:
        """True when no row is known to have failed; answered on the host without looking at tensors."""
        return self._ok is None

    @property
    def ok(self) -> Tensor:
        """``(*runs, n)`` bool; False: the evaluation failed and its numbers are not to be read."""
        cached = self._made().get("ok")
        if cached is None:
            if self._ok is None:
                cached = torch.ones(self._x.shape[:-1], dtype=torch.bool, device=self.device)
            else:
                cached = torch.as_tensor(self._ok, dtype=torch.bool, device=self.device)
            self._made()["ok"] = cached
        return cached

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns that were asked with each point; integers are -1 and floats NaN for points never asked."""
        if callable(self._columns):
            self._columns = self._columns()
        return self._columns or {}

    def column(self, name: str) -> Column | None:
        """One column, or None where no row of this call carries it."""
        return self.columns.get(name)

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any], part: str | None = None) -> Observations:
        """Some of the rows, in the order given; a hybrid hands each of its parts what that part asked.

        Args:
            rows: Row numbers on the host, ``(k,)``.
            part: Gives only the columns called ``part.name``, under their own names (see ``Candidates.prefixed``); None:
                gives all.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        ids, runs = self.ids[chosen], self._x.ndim - 2
        known = set(ids.tolist())
        everything = len(chosen) == self.n and bool((chosen == np.arange(self.n)).all())

        def some(raw: Any) -> Any:
            """Rows of one array, which keeps its kind; all of them are the array itself."""
            if raw is None or everything:
                return raw
            if isinstance(raw, Tensor):
                return raw.index_select(runs, torch.from_numpy(chosen).to(raw.device, non_blocking=True))
            return np.asarray(raw)[chosen]

        def columns() -> Mapping[str, Column]:
            prefix = "" if part is None else f"{part}."
            return {name.removeprefix(prefix): some(column) for name, column in self.columns.items() if name.startswith(prefix)}

        return Observations(
            ids,
            some(self._x),
            some(self._values),
            constraints=some(self._constraints),
            noise=some(self._noise),
            gradients=some(self._gradients),
            ok=some(self._ok),
            dropped=tuple(i for i in self.dropped if i in known),
            rankings=tuple(some_of for ranking in self.rankings if (some_of := ranking.among(known)).tiers),
            columns=columns,
            dtype=self.dtype,
            device=self.device,
        )

    @property
    def ranks(self) -> Tensor:
        """Feasibility-first ranks of the rows, ``(*runs, n)``, 0 best, ties share their mean, failures last.

        Made from the values where they were told, else from the rankings: each orders its own items only, and rows
        in several rankings get their mean normalised rank.
        """
        cached = self._made().get("ranks")
        if cached is None:
            if self._values is not None:
                cached = rank_rows(self.values, self.constraints, None if self._ok is None else self.ok)
            else:
                cached = self._ranks_from_rankings()
            self._made()["ranks"] = cached
        return cached

    def _ranks_from_rankings(self) -> Tensor:
        sums = dict.fromkeys(self.ids.tolist(), 0.0)
        counts = dict.fromkeys(sums, 0)
        for ranking in self.rankings:
            for i, score in ranking.scores().items():
                if i in sums:
                    sums[i] += score
                    counts[i] += 1
        scores = [sums[i] / counts[i] if counts[i] else np.nan for i in sums]
        values = torch.tensor(scores, dtype=self.dtype, device=self.device).unsqueeze(-1)
        return rank_rows(values, ok=None if self._ok is None else self.ok)
