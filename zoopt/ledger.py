"""Which trials there are, where each stands, and what was told about it. Knows nothing of strategies and journals."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import UnknownId
from zoopt.feedback import Column, Ranking
from zoopt.record import same
from zoopt.strategy import Task
from zoopt.told import Rows
from zoopt.trials import Table, TrialState

Array = np.ndarray[Any, Any]
HistoryMode = Literal["all", "values", "best"]
NEVER = np.iinfo(np.int64).max


def point_key(row: Array) -> int:
    """A number that equal encoded points share (-0.0 equals 0.0)."""
    return hash((row + 0.0).tobytes())


class OpenBatch:
    """A batch of which at least one trial is still pending.

    Attributes:
        start: Id of its first trial; the others follow.
        x: Encoded points as asked, ``(n, d)``.
        columns: What the strategy wants back with each point.
        as_proposed: Whether the points are the strategy's own to the bit.
        left: How many are still pending.
        closed: ``(n,)`` bool, or None while none is closed.
        attempts: Evaluations begun so far by trial id, where more than one.
    """

    __slots__ = ("as_proposed", "attempts", "closed", "columns", "left", "n", "start", "x")

    def __init__(self, start: int, x: Array, columns: Mapping[str, Column], as_proposed: bool = False) -> None:
        self.start = start
        self.n = len(x)
        self.x = x
        self.columns = columns
        self.as_proposed = as_proposed
        self.left = self.n
        self.closed: Array | None = None
        self.attempts: dict[int, int] | None = None

    def pending_rows(self) -> Array:
        """Rows still pending, ascending."""
        return np.arange(self.n) if self.closed is None else np.nonzero(~self.closed)[0]

    def close(self, rows: Array) -> None:
        """Close some pending rows."""
        if self.closed is None:
            self.closed = np.zeros(self.n, dtype=bool)
        self.closed[rows] = True
        self.left -= len(rows)


class Ledger:
    """The bookkeeping of one study.

    Attributes:
        table: Columns by trial id; None with ``history="best"``.
        next: The id of the next trial.
        open: Batches with pending trials, by their first id.
        queue: Encoded points to be tried next.
        seen: Keys of the points asked or added, where no point may be asked twice; see ``point_key``.
        counts: Number of trials by ``TrialState``.
        partial: Values of trials that still wait for some objectives.
        errors, metrics, reports, settings, gradients: What only some trials have, by id. Settings are the encoded points
            reached where they differ from those asked; gradients are in problem units. Without the whole history there are only
            those of pending trials and the incumbent, and the last error.
        rankings: All rankings by id, none without the whole history; ``withdrawn`` holds the ids of those taken back.
        best_id, best_value, best_x: The incumbent of a single-objective study; -1 and None before there is one.
        improved_at: Evaluations done when the incumbent was found.
    """

    __slots__ = (
        "_keeps_x",
        "_starts",
        "best_id",
        "best_key",
        "best_value",
        "best_x",
        "counts",
        "errors",
        "gradients",
        "improved_at",
        "m",
        "metrics",
        "next",
        "next_ranking",
        "open",
        "partial",
        "queue",
        "rankings",
        "reports",
        "seen",
        "settings",
        "sign",
        "table",
        "task",
        "withdrawn",
    )

    def __init__(self, task: Task, sign: float, history: HistoryMode) -> None:
        self.task = task
        self.sign = sign
        self.m = len(task.objectives)
        columns: dict[str, tuple[tuple[int, ...], Any, float]] = {"state": ((), np.int8, TrialState.PENDING)}
        if history != "best":
            columns["values"] = ((self.m,), np.float64, np.nan)
            if task.constraints:
                columns["constraints"] = ((len(task.constraints),), np.float64, np.nan)
        if history == "all":
            columns["x"] = ((task.dim,), np.float64, np.nan)
        self.table: Table | None = Table(columns) if history != "best" else None
        self._keeps_x = history == "all"
        self.next = 0
        self.open: dict[int, OpenBatch] = {}
        self._starts: list[int] = []  # first ids of open batches of more than one trial, sorted
        self.queue: deque[Array] = deque()
        self.seen: set[int] = set()
        self.counts = [0] * len(TrialState)
        self.partial: dict[int, Array] = {}
        self.errors: dict[int, str] = {}
        self.metrics: dict[int, dict[str, Any]] = {}
        self.reports: dict[int, list[tuple[float, float]]] = {}
        self.settings: dict[int, Array] = {}
        self.gradients: dict[int, Array] = {}
        self.rankings: dict[int, Ranking] = {}
        self.withdrawn: set[int] = set()
        self.next_ranking = 0
        self.best_id = -1
        self.best_key = (math.inf, math.inf)  # (total violation, minimised value)
        self.best_value: float | None = None
        self.best_x: Array | None = None
        self.improved_at = 0

    # ------------------------------------------------------------------ trials come and go

    def append(self, x: Array, columns: Mapping[str, Column], as_proposed: bool = False) -> OpenBatch:
        """New pending trials at encoded ``x: (n, d)``; gives their batch."""
        n, first = len(x), self.next
        if self.table is not None:
            self.table.grow(n)
            if self._keeps_x:
                self.table.set_range("x", first, x)
        self.next = first + n
        self.counts[0] += n
        self.open[first] = batch = OpenBatch(first, x, columns, as_proposed)
        if n > 1:
            insort(self._starts, first)
        return batch

    def take_queued(self, places: Sequence[int], x: Array) -> None:
        """The enqueued points at these places of the queue were handed out as ``x: (n, d)``."""
        if list(places) == list(range(len(places))):
            for _ in places:
                self.queue.popleft()
        else:
            taken = set(places)
            self.queue = deque(point for k, point in enumerate(self.queue) if k not in taken)
        if self.task.deterministic:
            self.seen.update(map(point_key, x))

    def reopen(self, first: int, x: Array, columns: Mapping[str, Column], closed: Array | None = None) -> OpenBatch:
        """Open the batch of trials that are in the table already."""
        batch = OpenBatch(first, x, columns)
        if closed is not None and closed.any():
            batch.close(np.nonzero(closed)[0])
        self.open[first] = batch
        if batch.n > 1:
            insort(self._starts, first)
        return batch

    def clear_open(self) -> dict[int, OpenBatch]:
        """Forget all open batches (a replay opens them again); gives them."""
        before, self.open, self._starts = self.open, {}, []
        return before

    def restore_open(self, batches: dict[int, OpenBatch]) -> None:
        """Put back what `clear_open` gave."""
        self.open = batches
        self._starts = sorted(start for start, batch in batches.items() if batch.n > 1)

    def open_now(self) -> tuple[tuple[OpenBatch, Array | None], ...]:
        """The open batches, each with a copy of its closed rows."""
        return tuple((batch, None if batch.closed is None else batch.closed.copy()) for batch in self.open.values())

    def add_complete(self, x: Array, rows: Rows) -> Array:
        """New trials that are complete at once; gives their ids."""
        first = self.next
        ids = np.arange(first, first + len(x))
        self.next += len(x)
        if self.table is not None:
            self.table.grow(len(x))
            if "x" in self.table:
                self.table.set_range("x", first, x)
            self.table.fill_range("state", first, len(x), TrialState.COMPLETE)
        self.counts[TrialState.COMPLETE] += len(x)
        self.store(ids, rows, slice(None))
        self.update_best(ids, rows.values, rows.constraints, x)
        self.let_go(ids)
        if self.task.deterministic:
            self.seen.update(map(point_key, x))
        return ids

    def close(self, ids: Array, state: TrialState) -> None:
        """Move pending trials (ascending ids) to the state in which they stay."""
        self.remove(ids)
        if self.table is not None:
            self.table.set("state", ids, np.int8(state))
        self.counts[TrialState.PENDING] -= len(ids)
        self.counts[state] += len(ids)
        if self.partial:
            for i in ids.tolist():
                self.partial.pop(i, None)
        self.let_go(ids)

    def let_go(self, ids: Array | tuple[int, ...]) -> None:
        """Without the whole history: forget what was told beside the values of finished trials, the incumbent aside."""
        if self._keeps_x:
            return
        kept = [told for told in (self.metrics, self.reports, self.settings, self.gradients) if told]
        if kept:
            finished = set(np.asarray(ids).tolist()) - {self.best_id}
            for told in kept:
                for i in finished.intersection(told):
                    del told[i]
        for i in list(self.errors)[:-1]:
            del self.errors[i]

    def keep_ranking(self, number: int, ranking: Ranking) -> None:
        """A ranking was given."""
        if self._keeps_x:
            self.rankings[number] = ranking

    def remove(self, ids: Array) -> None:
        """Take trials out of their open batches."""
        for batch, rows in self.parts(ids)[0]:
            if batch.closed is not None:
                rows = rows[~batch.closed[rows]]
            if len(rows) < batch.left:
                batch.close(rows)
                continue
            del self.open[batch.start]
            if batch.n > 1:
                self._starts.remove(batch.start)

    def store(self, ids: Array, rows: Rows, which: Any) -> None:
        """Keep what was told about some trials: ``which`` rows of ``rows``, in the order of ``ids``."""
        table = self.table
        if table is not None:
            table.set("values", ids, rows.values[which])
            if rows.constraints is not None and "constraints" in table:
                table.set("constraints", ids, rows.constraints[which])
        if rows.noise is not None:
            self.store_noise(ids, rows.noise[which])
        if rows.at is None and rows.gradients is None and rows.metrics is None:
            return
        for k, i in zip(np.arange(len(rows.values))[which].tolist(), ids.tolist(), strict=True):
            if rows.at is not None:
                self.settings[i] = rows.at[k]
            if rows.gradients is not None:
                self.gradients[i] = rows.gradients[k]
            if rows.metrics is not None and (kept := rows.metrics[k]):
                self.metrics[i] = {**self.metrics.get(i, {}), **kept}

    def differing(self, i: int, rows: Rows, k: int) -> list[str]:
        """What row k of ``rows`` tells otherwise than it is kept of a complete trial, by name; what is not kept does not differ."""
        table = self.table
        if table is None:
            return []
        kept: dict[str, Any] = {name: table.row(name, i) if name in table else None for name in ("values", "constraints", "noise")}
        if self._keeps_x:
            kept |= {"gradients": self.gradients.get(i), "at": self.settings.get(i, self.point_of(i))}
        found = []
        for name, before in kept.items():
            if (now := rows.part(name, k)) is None:
                continue
            told = ~np.isnan(now)
            near = 1e-12 if name == "at" else 0.0  # what is as asked went to parameters and back
            if before is None or not np.allclose(before[told], now[told], rtol=near, atol=near):
                found.append(name)
        if self._keeps_x and rows.metrics is not None:
            before = self.metrics.get(i, {})
            if not same(rows.metrics[k], {name: before.get(name) for name in rows.metrics[k]}):
                found.append("metrics")
        return found

    def amend(self, ids: Array, rows: Rows) -> None:
        """Put corrected results in place of what was told; trials that had failed are complete."""
        table = self.table
        if table is None:
            return
        failed = ids[table.get("state", ids) == TrialState.FAILED]
        self.store(ids, rows, slice(None))
        table.set("state", failed, np.int8(TrialState.COMPLETE))
        self.counts[TrialState.FAILED] -= len(failed)
        self.counts[TrialState.COMPLETE] += len(failed)
        for i in failed.tolist():
            self.errors.pop(i, None)

    def count_attempt(self, i: int, more: int) -> None:
        """Evaluations begun of a pending trial: one more, or one that does not count after all."""
        batch = self.pending_batch(i)
        if batch is not None:
            batch.attempts = batch.attempts or {}
            batch.attempts[i] = batch.attempts.get(i, 1) + more

    def forget(self, ids: Array) -> None:
        """Take back what was told of pending trials, but for the objectives of those that wait for the others."""
        table = self.table
        if table is None:
            return
        if len(ids):
            table.set("values", ids, np.nan)
        for i in ids.tolist():
            if i in self.partial:
                table.set("values", np.array([i]), self.partial[i])
                continue
            if "noise" in table:
                table.set("noise", np.array([i]), np.nan)
            for told in (self.settings, self.gradients, self.metrics, self.errors):
                told.pop(i, None)

    def store_noise(self, ids: Array, noise: Array) -> None:
        """Keep standard deviations; their column is made when the first are told."""
        table = self.table
        if table is not None:
            if "noise" not in table:
                table.add_column("noise", (self.m,), np.float64, np.nan)
            table.set("noise", ids, noise)

    def join(self, ids: Array, rows: Rows) -> None:
        """Put what was told earlier of trials that waited for other objectives into the rows told now."""
        table = self.table
        if table is None or not any(i in self.partial for i in ids.tolist()):
            return
        for k, i in enumerate(ids.tolist()):
            if (before := self.partial.get(i)) is None:
                continue
            rows.fill("values", k, before)
            for name in ("constraints", "noise"):
                if name in table:
                    rows.fill(name, k, table.row(name, i))
            if i in self.gradients:
                rows.fill("gradients", k, self.gradients[i])

    # ------------------------------------------------------------------ finding

    def batch_of(self, i: int) -> OpenBatch | None:
        """The open batch that covers an id, whether or not that trial is still pending."""
        batch = self.open.get(i)
        if batch is not None:
            return batch
        at = bisect_right(self._starts, i) - 1
        if at >= 0 and i < (batch := self.open[self._starts[at]]).start + batch.n:
            return batch
        return None

    def pending_batch(self, i: int) -> OpenBatch | None:
        """The open batch of a trial that is still pending, or None."""
        batch = self.batch_of(i)
        return None if batch is None or (batch.closed is not None and batch.closed[i - batch.start]) else batch

    def parts(self, ids: Array) -> tuple[list[tuple[OpenBatch, Array]], bool]:
        """Ascending ids by open batch, as rows of it; and whether some are in none."""
        parts: list[tuple[OpenBatch, Array]] = []
        missing = False
        k = 0
        while k < len(ids):
            batch = self.batch_of(int(ids[k]))
            if batch is None:
                missing = True
                k += 1
                continue
            end = int(np.searchsorted(ids, batch.start + batch.n))
            parts.append((batch, ids[k:end] - batch.start))
            k = end
        return parts, missing

    def pending_mask(self, ids: Array) -> Array:
        """Which of the ascending ids are pending, ``(n,)`` bool; one that was never given out is not."""
        mask = np.zeros(len(ids), dtype=bool)
        k = 0
        while k < len(ids):
            batch = self.batch_of(int(ids[k]))
            if batch is None:
                k += 1
                continue
            end = int(np.searchsorted(ids, batch.start + batch.n))
            mask[k:end] = True if batch.closed is None else ~batch.closed[ids[k:end] - batch.start]
            k = end
        return mask

    def check_id(self, i: int) -> None:
        """Refuse an id this study never gave out."""
        if not 0 <= i < self.next:
            known = f"its ids run from 0 to {self.next - 1}" if self.next else "nothing was asked yet"
            raise UnknownId(f"this study never gave out trial {i}; {known}.")

    def state_of(self, i: int) -> TrialState:
        """Where a trial stands."""
        self.check_id(i)
        if self.table is not None:
            return TrialState(int(self.table.row("state", i)))
        return TrialState.PENDING if self.pending_batch(i) is not None else TrialState.COMPLETE

    def values_of(self, i: int) -> dict[str, float]:
        """What was told about a trial, by objective, in the user's direction."""
        if self.table is not None and 0 <= i < self.next:
            row = self.table.row("values", i).tolist()
            return {name: v for name, v in zip(self.task.objectives, row, strict=True) if v == v}
        if i == self.best_id and self.best_value is not None:
            return {self.task.objectives[0]: self.best_value}
        return {}

    def constraints_of(self, i: int) -> dict[str, float]:
        """What was told of the outcome constraints of a trial, by name."""
        if self.table is None or "constraints" not in self.table or not 0 <= i < self.next:
            return {}
        row = self.table.row("constraints", i).tolist()
        return {name: c for name, c in zip(self.task.constraints, row, strict=True) if c == c}

    def point_of(self, i: int) -> Array | None:
        """The encoded point of a trial, ``(d,)``; None where it is not kept."""
        row: Array
        batch = self.batch_of(i)
        if batch is not None:
            row = batch.x[i - batch.start]
            return row
        if self.table is not None and "x" in self.table:
            row = self.table.row("x", i)
            return row
        return self.best_x if i == self.best_id else None

    def pending_points(self) -> Tensor:
        """Encoded points that are out, ``(p, d)``."""
        rows = [batch.x if batch.closed is None else batch.x[~batch.closed] for batch in self.open.values()]
        points = np.concatenate(rows) if rows else np.empty((0, self.task.dim))
        return torch.from_numpy(points).to(device=self.task.device, dtype=self.task.dtype)

    @property
    def evaluations(self) -> int:
        """Trials that are complete, failed or lost."""
        counts = self.counts
        return counts[TrialState.COMPLETE] + counts[TrialState.FAILED] + counts[TrialState.LOST]

    # ------------------------------------------------------------------ the incumbent

    def update_best(self, ids: Array, values: Array, constraints: Array | None, x: Array | None = None) -> bool:
        """The incumbent after some trials completed: feasible first, then the smaller violation, then the value, then the first told.

        Returns:
            Whether there is a new one.
        """
        if self.m > 1 or len(ids) == 0:
            return False
        if self.task.space.beyond:
            good = self.comparable(ids, x)
            ids, values, constraints = ids[good], values[good], None if constraints is None else constraints[good]
            x = None if x is None else x[good]
            if len(ids) == 0:
                return False
        signed = values[:, 0] * self.sign
        violation = np.zeros(len(ids)) if constraints is None else np.maximum(constraints, 0.0).sum(1)
        k = int(np.lexsort((signed, violation))[0]) if violation.any() else int(np.argmin(signed))
        key = (float(violation[k]), float(signed[k]))
        if key >= self.best_key:
            return False
        row = self.point_of(int(ids[k])) if x is None else x[k]
        self.set_best(int(ids[k]), key, float(values[k, 0]), row)
        return True

    def comparable(self, ids: Array, x: Array | None = None) -> Array:
        """Which trials have values by which one is better than another: at the target of every fidelity, and not in one environment.

        Args:
            ids: Trials.
            x: Their points ``(n, d)``; None: as they are kept.
        """
        space = self.task.space
        if space.environment:
            return np.zeros(len(ids), dtype=bool)
        if not space.fidelities or len(ids) == 0:
            return np.ones(len(ids), dtype=bool)
        points = x
        if points is None:
            points = np.stack([self.settings.get(i, row) if (row := self.point_of(i)) is not None else space.start for i in ids.tolist()])
        return space.at_target(points)

    def set_best(self, i: int, key: tuple[float, float], value: float, x: Array | None) -> None:
        """Make a trial the incumbent."""
        before = self.best_id
        self.best_id, self.best_key, self.best_value, self.best_x = i, key, value, x
        if before >= 0:
            self.let_go((before,))
        self.improved_at = self.evaluations

    def rescan_best(self, finished_at: Array) -> None:
        """The incumbent by a scan of the whole table.

        Args:
            finished_at: ``(n,)`` numbers that grow in the order in which trials finished; ``NEVER`` for those pending.
        """
        self.best_id, self.best_key, self.best_value, self.best_x, self.improved_at = -1, (math.inf, math.inf), None, None, 0
        table = self.table
        if table is None or self.m > 1:
            return
        states, values = table.column("state"), table.column("values")[:, 0]
        rows = np.nonzero((states == TrialState.COMPLETE) & ~np.isnan(values))[0]
        rows = rows[self.comparable(rows)]
        if len(rows) == 0:
            return
        violation = np.maximum(table.get("constraints", rows), 0.0).sum(1) if "constraints" in table else np.zeros(len(rows))
        signed = values[rows] * self.sign
        k = np.lexsort((finished_at[rows], signed, violation))[0]
        i = int(rows[k])
        self.set_best(i, (float(violation[k]), float(signed[k])), float(values[i]), self.point_of(i))
        counted = np.isin(states, (TrialState.COMPLETE, TrialState.FAILED, TrialState.LOST))
        self.improved_at = int((counted & (finished_at <= finished_at[i])).sum())
