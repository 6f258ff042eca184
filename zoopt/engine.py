"""The strategy of a study at work: its state, the keys of its calls, and what goes in and out of it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import ConfigError, Exhausted, StrategyError
from zoopt.feedback import Candidates, Column, Observations, Ranking
from zoopt.ledger import Ledger, OpenBatch, point_key
from zoopt.random import Random
from zoopt.record import EngineState
from zoopt.state import to_bytes
from zoopt.strategy import Request, Strategy, Task

Array = np.ndarray[Any, Any]

SNAPSHOT_RATIO = 3.0  # strategy time between snapshots, over the time it takes to write one
_FRESH_DRAWS = 64  # tries to replace a point that was asked before; from the 34th on they may lie anywhere
_FLOAT64 = np.dtype(np.float64)
_RESERVED = ("id", "x")  # what stands beside the strategy's columns in the record
_ENUMERATED = 1_000_000  # points of a finite space up to which an unseen one is looked for one by one


class Engine:
    """Calls a strategy on behalf of a study.

    Every call has a number, which keys its random numbers; a call that raises uses up nothing.

    Attributes:
        state: What the strategy has learned.
        calls: Number of the next call.
        epoch: How often the strategy was exchanged over the study's life.
        size: Number of points of a finite space of which none may be asked twice; else None.
    """

    def __init__(self, strategy: Strategy[Any], task: Task, signs: Array, seed: int) -> None:
        self.strategy = strategy
        self.task = task
        self.signs = signs
        self.seed = seed
        self.epoch = 0
        self.calls = 0
        self.state: Any = None
        self.size = task.space.size if task.deterministic else None
        self._all_points: Iterator[Array] | None = None  # of the space; what it has given was seen, but for the last
        self._unseen: Array | None = None  # what it gave last
        self._asking = Random(seed)  # key of the last ask
        self._spent = 0.0  # seconds in the strategy since the last snapshot
        self._snapshot_cost = 0.003

    def random(self) -> Random:
        """The key of the next call."""
        random = Random(self.seed, self.calls)
        return random.child("epoch", self.epoch) if self.epoch else random

    def begin(self) -> None:
        """The state before anything is asked."""
        self.calls = 0
        self._all_points = self._unseen = None
        self.state = self.strategy.begin(self.task, self.random().child("begin"))

    def go_on(self, saved: EngineState) -> None:
        """A state that was saved."""
        self._all_points = self._unseen = None
        self.state, self.calls = saved.strategy, saved.calls

    def ask(self, request: Request) -> Candidates:
        """One call of the strategy's ask."""
        began = time.perf_counter()
        self._asking = random = self.random()
        self.state, candidates = self.strategy.ask(self.task, self.state, request, random)
        self._spent += time.perf_counter() - began
        self.calls += 1
        return candidates

    def tell(self, observations: Observations) -> None:
        """One call of the strategy's tell."""
        began = time.perf_counter()
        self.state = self.strategy.tell(self.task, self.state, observations, self.random())
        self._spent += time.perf_counter() - began
        self.calls += 1

    def due_snapshot(self, ratio: float = SNAPSHOT_RATIO) -> bytes | None:
        """The state as bytes, when the time spent in the strategy since the last one is that many times what it costs; else None.

        Raises:
            ConfigError: It cannot be saved.
        """
        if self._spent < ratio * self._snapshot_cost:
            return None
        self._spent = 0.0
        began = time.perf_counter()
        try:
            data = to_bytes(EngineState(self.calls, self.state))
        except ConfigError:
            raise
        except Exception as error:  # freeze() may raise anything
            raise ConfigError(f"{type(self.state).__name__}.freeze() raised {type(error).__name__}: {error}.") from error
        # Making the bytes is timed; writing them joins a transaction that is paid for anyway: about 2 ns a byte more.
        self._snapshot_cost = time.perf_counter() - began + 1e-4 + 2e-9 * len(data)
        return data

    # ------------------------------------------------------------------ what comes out

    def valid(
        self, candidates: Candidates, n: int, fixed: Mapping[int, float] | None, seen: set[int]
    ) -> tuple[Array, Mapping[str, Column], bool]:
        """What the last ask gave, copied: points that are inside the space whatever the strategy did, ``(1..n, d)``, and columns.

        The last of the three says whether these are the strategy's points to the bit.

        Raises:
            StrategyError: It is not what a strategy must give.
            Exhausted: No point may be asked twice, and none is left.
        """
        task = self.task
        space = task.space
        try:
            proposed, columns = candidates.array, candidates.columns
            shape = proposed.shape
            x: Array = proposed.copy() if proposed.dtype == _FLOAT64 else proposed.astype(np.float64)
            if columns:
                columns = self.kept(columns, len(x))
        except (AttributeError, TypeError):
            raise StrategyError(
                f"{type(self.strategy).__name__}.ask() must give its state and Candidates(x, columns), x a tensor and columns a dict of "
                f"arrays; got {candidates!r}."
            ) from None
        if len(shape) != 2 or not 1 <= shape[0] <= n or shape[1] != space.dim:
            name = type(self.strategy).__name__
            raise StrategyError(f"{name}.ask() must give x of shape (1..{n}, {space.dim}); got {tuple(shape)}.")
        if fixed:
            x[:, list(fixed)] = list(fixed.values())
        same = not fixed
        if not (space.box and _in_unit_box(x)):
            same = False
            if not np.isfinite(x).all():
                raise StrategyError(f"{type(self.strategy).__name__}.ask() gave a point that is not finite.")
            x = np.array(space.repair(torch.from_numpy(x), self._asking.child("study")).numpy())
        if not task.deterministic:
            return x, columns, same
        fresh = self._fresh(x, fixed, seen)
        if len(fresh) < len(x):
            columns = {name: column[: len(fresh)] for name, column in columns.items()}
        return fresh, columns, False

    def kept(self, columns: Mapping[str, Column], n: int) -> dict[str, Column]:
        """Copies of the columns of n points, which may alias the strategy's state.

        Raises:
            StrategyError: One has not n rows.
        """
        kept: dict[str, Column] = {}
        for name, column in columns.items():
            array = isinstance(column, Tensor) or (isinstance(column, np.ndarray) and column.dtype.kind in "biuf")
            if not array or column.ndim == 0 or len(column) != n or name in _RESERVED:
                what = tuple(column.shape) if array else type(column).__name__
                raise StrategyError(
                    f"{type(self.strategy).__name__}.ask() must give column {name!r} as an array of {n} rows of numbers, one a point, "
                    f"and under another name than {' and '.join(_RESERVED)}; got {what}."
                )
            kept[name] = column.clone() if isinstance(column, Tensor) else column.copy()
        return kept

    def _fresh(self, x: Array, fixed: Mapping[int, float] | None, seen: set[int]) -> Array:
        """Replace points that were asked before by new ones, where asking twice tells nothing; fewer when none is left."""
        keys: set[int] = set()  # of this call: what it raises after leaves no trace
        rows: list[Array] = []
        for i, row in enumerate(x):
            fresh: Array | None = row
            if (key := point_key(row)) in seen or key in keys:
                fresh = self._replacement(i, row, fixed, seen, keys)
            if fresh is None:
                break  # nothing is left for the others either
            keys.add(point_key(fresh))
            rows.append(fresh)
        if not rows:
            raise Exhausted("every point of this deterministic space that could be found has been asked.")
        seen |= keys
        return np.stack(rows)

    def _replacement(self, i: int, row: Array, fixed: Mapping[int, float] | None, seen: set[int], more: set[int]) -> Array | None:
        """A point that was not asked, near one that was where possible; None where none was found.

        A duplicate of a converged strategy stays close to where it was: points are drawn in ever larger neighbourhoods.
        """
        space = self.task.space
        held = list(fixed) if fixed else []
        key = self._asking.child("fresh", i)
        there = space.from_unit(key.uniform((_FRESH_DRAWS, space.dim)))
        here = torch.from_numpy(row)
        if held:
            there[:, held] = here[held]
        step = (0.01 * 1.15 ** torch.arange(_FRESH_DRAWS, dtype=torch.float64)).clamp_max(1.0)
        for fresh in space.repair(here + step.unsqueeze(-1) * (there - here), key, held).numpy():
            if (found := point_key(fresh)) not in seen and found not in more:
                return np.array(fresh)
        return self.first_unseen(seen, fixed, more)

    def first_unseen(self, seen: set[int], fixed: Mapping[int, float] | None, more: Collection[int] = ()) -> Array | None:
        """The first point of a finite space that was not asked; None where all were, or there are too many to go through.

        Args:
            seen: Keys of what was asked.
            fixed: Columns that are given.
            more: Keys of what is being asked.
        """
        if self.size is None or self.size > _ENUMERATED:
            return None
        if fixed:
            held, given = list(fixed), list(fixed.values())
            rows = (row for row in self.task.space.enumerate() if bool((row[held] == given).all()))
            return next((np.array(row) for row in rows if (key := point_key(row)) not in seen and key not in more), None)
        if self._all_points is None:
            self._all_points = self.task.space.enumerate()
        while self._unseen is None or (key := point_key(self._unseen)) in seen or key in more:
            self._unseen = next(self._all_points, None)
            if self._unseen is None:
                return None
        return np.array(self._unseen)

    # ------------------------------------------------------------------ what goes in

    def observe(
        self,
        ledger: Ledger,
        ids: Array,
        values: Array | None,
        constraints: Array | None = None,
        noise: Array | None = None,
        *,
        x: Array | None = None,
        failed: bool = False,
        dropped: tuple[int, ...] = (),
        rankings: tuple[Ranking, ...] = (),
        settings: Mapping[int, Array] | None = None,
        gradients: Mapping[int, Array] | None = None,
    ) -> Observations:
        """Results as a strategy sees them: encoded points as evaluated, minimised values, the columns asked with them.

        Args:
            ledger: Where the trials are; their batches still open.
            ids: Trials, ascending.
            values: ``(n, m)`` in the user's direction; None where only a ranking was told or the trials failed.
            constraints: ``(n, c)``.
            noise: ``(n, m)``.
            x: Encoded points of added trials; None: as asked.
            failed: The evaluations failed.
            dropped: Those of the ids that were given up.
            rankings: Orders of these trials.
            settings: Encoded points reached, where they differ from those asked.
            gradients: In problem units, ``(m, d)`` each.
        """
        columns: Any = None
        as_asked = False
        if x is None:
            parts, missing = ledger.parts(ids)
            if len(parts) == 1 and not missing and len(parts[0][1]) == parts[0][0].n:
                x, columns, as_asked = parts[0][0].x, parts[0][0].columns, parts[0][0].as_proposed
            elif not missing:
                x = np.concatenate([batch.x[rows] for batch, rows in parts])
                columns = lambda: gather(parts)  # noqa: E731
            else:  # some are finished already (ranked again): their columns are gone, their points are known
                x = np.stack([point for i in ids.tolist() if (point := ledger.point_of(i)) is not None])
        if settings and not settings.keys().isdisjoint(ids.tolist()):
            x, as_asked = x.copy(), False
            for k, i in enumerate(ids.tolist()):
                if i in settings:
                    x[k] = settings[i]
        slopes = None
        if gradients and not gradients.keys().isdisjoint(ids.tolist()):
            blank = np.full((len(self.signs), self.task.dim), np.nan)
            slopes = np.stack([gradients.get(i, blank) for i in ids.tolist()])
            slopes = slopes * self.signs[:, None] * self.task.space.decoding_slopes(torch.tensor(x)).numpy()[:, None, :]
        if noise is not None and np.isnan(noise).all():
            noise = None
        if failed:
            values = np.full((len(ids), len(self.signs)), np.inf)
        elif values is not None:
            values = values * self.signs
        ok = np.zeros(len(ids), dtype=bool) if failed else None
        if self.task.space.targets and not self.strategy.capabilities.fidelity and not failed:
            away = ~self.task.space.at_target(x)
            if away.any():  # values of another fidelity say nothing to a strategy that does not know of it
                ok, values = ~away, None if values is None else np.where(away[:, None], np.inf, values)
        return Observations(
            ids,
            x,
            values,
            constraints=constraints,
            noise=noise,
            gradients=slopes,
            ok=ok,
            dropped=dropped,
            rankings=rankings,
            columns=columns,
            dtype=self.task.dtype,
            device=self.task.device,
            as_asked=as_asked,
        )

    def given_up(self, x: Array, columns: Mapping[str, Column]) -> Observations:
        """Candidates that nobody will evaluate, as dropped trials without an id."""
        n = len(x)
        values = np.full((n, len(self.signs)), np.inf)
        ids = np.full(n, -1)
        task = self.task
        return Observations(
            ids, x, values, ok=np.zeros(n, dtype=bool), dropped=(-1,), columns=columns, dtype=task.dtype, device=task.device
        )


def _in_unit_box(x: Array) -> bool:
    """Whether all numbers are in [0, 1]; False for NaN. For a few numbers Python is quicker than four array operations."""
    if x.size <= 64:
        numbers = x.ravel().tolist()
        total = sum(numbers)
        return min(numbers) >= 0.0 and max(numbers) <= 1.0 and bool(total == total)
    return bool(x.min() >= 0.0 and x.max() <= 1.0)


def padded(like: Column, n: int) -> Column:
    """A column with n rows, those beyond its own blank: -1 for integers, NaN for floats, as of points that were never asked."""
    more = (n - len(like), *like.shape[1:])
    if isinstance(like, Tensor):
        return torch.cat([like, like.new_full(more, torch.nan if like.is_floating_point() else -1)])
    return np.concatenate([like, np.full(more, -1 if like.dtype.kind in "iu" else np.nan, like.dtype)])


def gather(parts: list[tuple[OpenBatch, Array]]) -> Mapping[str, Column]:
    """Columns of rows from several batches; -1 or NaN where a batch does not carry a column."""
    if len(parts) == 1:
        batch, rows = parts[0]
        return {name: column[rows] for name, column in batch.columns.items()}
    gathered: dict[str, Column] = {}
    for name in {name: None for batch, _ in parts for name in batch.columns}:
        like = next(batch.columns[name] for batch, _ in parts if name in batch.columns)
        pieces = [b.columns[name][rows] if name in b.columns else padded(like[:0], len(rows)) for b, rows in parts]
        if isinstance(like, Tensor):
            gathered[name] = torch.cat([torch.as_tensor(piece) for piece in pieces])
        else:
            gathered[name] = np.concatenate([np.asarray(piece) for piece in pieces])
    return gathered
