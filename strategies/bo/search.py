"""The search for the point of most promise over the space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoopt.random import Random

if TYPE_CHECKING:
    from zoopt.space import Space

_F64 = torch.float64
_SAME = 1e-7  # encoded points closer than this in every column are the same point
_FEW_LEVELS = 16  # integers of more levels are moved by gradient and then rounded; fewer are only ever changed by whole levels
_MOST_LISTED = 1_000_000  # points of a finite space that are gone through one by one when all others seem taken
_MOST_ROWS = 4096  # rows of a pool that are all looked at; of more, so many random ones and those near the incumbents
_STEPS = 50  # most iterations of a climb
_RISE = 5e10  # a climb ends where it rises by less, in units of rounding: the logarithm need not be known to more than 1e-5


class Search:
    """Where candidates may lie: valid points with the asker's columns fixed, and none that is taken."""

    def __init__(self, space: Space, fixed: Mapping[int, float], taken: Tensor, strict: bool, random: Random) -> None:
        self.space = space
        self.fixed = fixed
        self.strict = strict  # a taken point is never proposed again; otherwise it is only avoided
        self.random = random
        d = space.dim
        self.columns = torch.tensor(list(fixed), dtype=torch.int64)
        self.settings = torch.tensor(list(fixed.values()), dtype=_F64)
        kinds = [column.kind for column in space.columns]
        self.discrete = torch.tensor([kind != "real" for kind in kinds])
        self.levels = [column.cardinality or 0 for column in space.columns]
        self.stepped = [j for j in range(d) if kinds[j] != "real" and j not in fixed]
        # Columns that gradients may move.
        self.smooth = torch.tensor(
            [j not in fixed and (kinds[j] == "real" or (kinds[j] == "integer" and self.levels[j] > _FEW_LEVELS)) for j in range(d)]
        )
        self.lower, self.upper = torch.tensor(space.lower, dtype=_F64), torch.tensor(space.upper, dtype=_F64)
        for j in torch.nonzero(~torch.isfinite(self.lower) | ~torch.isfinite(self.upper)).flatten().tolist():
            # An unbounded column is searched somewhat beyond where its points lie so far.
            seen = torch.cat([taken[:, j], torch.tensor([-2.0, 2.0], dtype=_F64)])
            margin = 0.25 * float(seen.max() - seen.min())
            self.lower[j], self.upper[j] = float(seen.min()) - margin, float(seen.max()) + margin
        self._taken = taken
        self.taken = self._places(taken)
        # Levels at which nothing is ever evaluated, by column.
        self.barred = {}
        for j in space.targets:
            at = torch.tensor(space.start, dtype=_F64).repeat(max(self.levels[j], 1), 1)
            if kinds[j] == "choice":
                at[:, j] = torch.arange(self.levels[j], dtype=_F64)
                never = torch.isinf(torch.from_numpy(space.cost(at.numpy())))
                if bool(never.any()):
                    self.barred[j] = never
        self.first: Callable[[int, int], Tensor] | None = None  # another first design, by how many points and how many before them

    def holding(self, more: Mapping[int, float]) -> Search:
        """The same with further columns fixed."""
        return Search(self.space, {**self.fixed, **more}, self._taken, self.strict, self.random)

    def widen(self, x: Tensor) -> None:
        """Let the box of unbounded columns reach beyond ``x: (n, d)`` too."""
        for j in torch.nonzero(~torch.isfinite(torch.tensor(self.space.lower))).flatten().tolist():
            margin = 0.25 * float(self.upper[j] - self.lower[j])
            self.lower[j] = min(float(self.lower[j]), float(x[:, j].min()) - margin)
            self.upper[j] = max(float(self.upper[j]), float(x[:, j].max()) + margin)

    def take(self, point: Tensor) -> None:
        """Mark a point as taken."""
        self._taken = torch.cat([self._taken, point.unsqueeze(0)])
        self.taken = torch.cat([self.taken, self._places(point.unsqueeze(0))])

    def _places(self, x: Tensor) -> Tensor:
        """Points ``x: (m, d)`` as they are told apart: discrete columns by level, since the levels of a long integer lie close."""
        return torch.where(self.discrete, self.space.decode(x), x)

    def free(self, x: Tensor) -> Tensor:
        """Which rows of ``x: (m, d)`` are not taken, ``(m,)`` bool."""
        if self.taken.shape[0] == 0 or x.shape[0] == 0:
            return torch.ones(x.shape[0], dtype=torch.bool)
        return torch.cdist(self._places(x), self.taken, p=torch.inf).amin(-1) > _SAME

    def valid(self, x: Tensor, random: Random) -> Tensor:
        """The nearest valid points of ``x: (m, d)`` that hold the asker's settings."""
        return self.space.repair(self._set(x), random.child("repair"), self.fixed.keys())

    def _set(self, x: Tensor) -> Tensor:
        if self.columns.numel() or self.barred:
            x = x.clone()
            x[:, self.columns] = self.settings
        for j, never in self.barred.items():
            x[:, j] = torch.where(never[x[:, j].round().long().clamp(0, len(never) - 1)], self.space.targets[j], x[:, j])
        return x

    def spread(self, n: int, random: Random, skip: int = 0) -> Tensor:
        """``n`` valid points: of a scrambled Sobol sequence after its first ``skip``, or random ones under known constraints."""
        if self.space.constraints:  # a Sobol point that breaks one would be moved to the border, where many already are
            return self.space.sample(n, random.child(skip), fixed=self.fixed)
        engine = torch.quasirandom.SobolEngine(self.space.dim, scramble=True, seed=seed_of(random))
        if skip:
            engine.fast_forward(skip)
        u = engine.draw(n, dtype=_F64).clamp(2.0**-31, 1.0 - 2.0**-31)  # from_unit wants the open cube
        return self.valid(self.space.from_unit(u), random)

    def design(self, random: Random, skip: int, n: int) -> tuple[list[Tensor], int]:
        """``n`` points of the design after its first ``skip`` that are not taken, fewer where there are none, and how many were passed."""
        points: list[Tensor] = []
        passed = 0
        while len(points) < n and passed < 64 * n + 1024:
            block = n - len(points)
            before = skip + passed
            rows = self.spread(block, random, before) if self.first is None else self.valid(self.first(block, before), random.child(before))
            for row in rows:
                if bool(self.free(row.unsqueeze(0))):
                    self.take(row)
                    points.append(row)
            passed += block
        while len(points) < n:
            row_or_none = self.left_over()
            if row_or_none is None:
                break
            self.take(row_or_none)
            points.append(row_or_none)
        return points, passed

    def left_over(self) -> Tensor | None:
        """Some valid point that is not taken; a taken one where repeating is allowed; None where there is none."""
        x = self.spread(1024, self.random.child("left over"))
        fresh = x[self.free(x)]
        if fresh.shape[0]:
            return fresh[0]
        for block in self.every():
            fresh = block[self.free(block)]
            if fresh.shape[0]:
                return fresh[0]
        return None if self.strict else x[0]

    def every(self) -> Iterator[Tensor]:
        """Every valid point of a finite space that is not too large, in blocks ``(m, d)``; some may come twice."""
        if self.space.listed is not None:
            yield from torch.from_numpy(self.space.listed).split(4096)
            return
        counts = [column.cardinality for column in self.space.columns]
        if None in counts or math.prod(count or 1 for count in counts) > _MOST_LISTED:
            return
        total = math.prod(count or 1 for count in counts)
        for first in range(0, total, 4096):
            levels = np.unravel_index(np.arange(first, min(first + 4096, total)), [count or 1 for count in counts])
            x = self.space.encode(torch.from_numpy(np.stack(levels, -1) + self.space.low))
            x = self.space.snap(self._set(x))
            yield x[torch.from_numpy(self.space.allowed(x.numpy()))]

    def around(self, centres: Tensor, n: int, random: Random) -> Tensor:
        """``n`` valid points near some of ``centres: (k, d)``: some columns moved, at scales from a tenth to a thousandth of the box."""
        d = self.space.dim
        base = centres[random.child("which").integers(centres.shape[0], n)]
        other = self.spread(n, random.child("other"))
        scale = 10.0 ** (-1.0 - 2.0 * random.child("scale").uniform((n, 1)))
        moved = base + scale * random.child("step").normal((n, d)) * (self.upper - self.lower)
        x = torch.where(self.smooth, moved.clamp(self.lower, self.upper), other)
        move = random.child("move").uniform((n, d)) < max(0.3, 1.0 / d)
        return self.valid(torch.where(move, x, base), random)

    def maximise(self, acquisition: Callable[[Tensor], Tensor], centres: Tensor, raw: int, restarts: int, random: Random) -> Tensor | None:
        """The best valid point found that is not taken, ``(d,)``; None where every point is.

        Points spread over the space and around the incumbents are screened; the best and a random selection that favours the
        good ones are refined by gradient and by neighbouring levels in turn.
        """
        self.widen(centres)
        size = self.space.size
        listed = list(self.every()) if size is not None and size <= (4 * raw if self.space.listed is None else _MOST_ROWS) else []
        if self.space.listed is not None and not listed:
            near = self.around(centres, _MOST_ROWS // 4, random.child("around"))
            listed = [self.spread(_MOST_ROWS, random.child("spread")), torch.unique(near, dim=0)]
        if listed:
            x = torch.cat(listed)
        else:
            x = torch.cat([self.spread(raw, random.child("spread")), self.around(centres, max(raw // 4, 8), random.child("around"))])
        value = _values(acquisition, x)
        if not listed:
            starts = _select(x, value, restarts, random.child("starts"))
            refined = self._refine(acquisition, starts, random)
            x, value = torch.cat([refined, x]), torch.cat([_values(acquisition, refined), value])
        fresh = self.free(x)
        if not bool(fresh.any()):
            return self.left_over()
        return x[int(torch.where(fresh, value, -torch.inf).argmax())]

    def _refine(self, acquisition: Callable[[Tensor], Tensor], x: Tensor, random: Random) -> Tensor:
        value = _values(acquisition, x)
        for turn in range(3 if self.stepped else 1):
            before = value
            x, value = self._climb(acquisition, x, value, random.child("climb", turn))
            if self.stepped:
                x, value = self._step(acquisition, x, value, random.child("step", turn))
            if not bool((value > before + 1e-9).any()):
                break
        return x

    def _climb(self, acquisition: Any, x: Tensor, value: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """L-BFGS-B over the smooth active columns of each row, all others held."""
        moving = self.smooth & self.space.active(x)
        moved = x.clone()
        # Rows differ in what is active; those with the same columns moving go together.
        for pattern in torch.unique(moving, dim=0):
            rows = torch.nonzero((moving == pattern).all(-1)).flatten()
            columns = torch.nonzero(pattern).flatten()
            if columns.numel():
                moved[rows] = _climbed(acquisition, x[rows], columns, self.lower[columns], self.upper[columns])
        moved = self.valid(moved, random)
        reached = _values(acquisition, moved)
        better = reached > value
        return torch.where(better.unsqueeze(-1), moved, x), torch.where(better, reached, value)

    def _step(self, acquisition: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """Steepest ascent over neighbouring levels, every row by itself."""
        x, value = x.clone(), value.clone()
        for turn in range(8):
            near, origin = self._neighbours(x, random.child(turn))
            near = self.valid(near, random.child("valid", turn))
            promise = torch.where(self.free(near), _values(acquisition, near), -torch.inf)
            improved = False
            for row in range(x.shape[0]):
                own = torch.nonzero(origin == row).flatten()
                if own.numel() and float(promise[own].max()) > float(value[row]) + 1e-9:
                    best = own[int(promise[own].argmax())]
                    x[row], value[row] = near[best], promise[best]
                    improved = True
            if not improved:
                break
        return x, value

    def _neighbours(self, x: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """Rows of ``x: (k, d)`` with one stepped column at another level, ``(m, d)``, and the row each came from."""
        units = self.space.decode(x)
        rows, origins = [], []
        for j in self.stepped:
            ordered = self.space.columns[j].kind == "integer"
            count = self.levels[j]
            if count <= _FEW_LEVELS:
                options = (self.space.low[j] + torch.arange(count, dtype=_F64)).repeat(x.shape[0], 1)
            elif ordered:
                options = units[:, j : j + 1] + torch.tensor([-1.0, 1.0], dtype=_F64)
            else:
                options = random.child(j).integers(count, (x.shape[0], _FEW_LEVELS)).to(_F64)
            width = options.shape[1]
            changed = units.repeat_interleave(width, 0)
            changed[:, j] = options.flatten()
            near = x.repeat_interleave(width, 0)
            near[:, j] = self.space.encode(changed)[:, j]
            rows.append(near)
            origins.append(torch.arange(x.shape[0]).repeat_interleave(width))
        return torch.cat(rows), torch.cat(origins)


def _climbed(acquisition: Callable[[Tensor], Tensor], x: Tensor, columns: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Rows of ``x: (k, d)``, each at a local maximum over some of its columns within bounds; L-BFGS-B on all of them at once.

    BoTorch's own door to this, ``gen_candidates_scipy``, sets the number of BLAS threads of the whole process for the time being.
    """
    from botorch.optim.batched_lbfgs_b import fmin_l_bfgs_b_batched

    def descent(points: np.ndarray[Any, Any], batch_indices: list[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        part = torch.from_numpy(points).requires_grad_()
        value = acquisition(x[batch_indices].index_copy(1, columns, part).unsqueeze(-2))
        (slope,) = torch.autograd.grad(value.sum(), part)
        return -value.detach().numpy(), -torch.nan_to_num(slope).numpy()

    start = x[:, columns].clamp(lower, upper).numpy()
    bounds = list(zip(lower.tolist(), upper.tolist(), strict=True))
    found, _, _ = fmin_l_bfgs_b_batched(descent, start, bounds, maxiter=_STEPS, factr=_RISE, pass_batch_indices=True)
    return x.index_copy(1, columns, torch.from_numpy(found))


def _values(acquisition: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Acquisition values ``(m,)`` at ``x: (m, d)``; -inf where they are not numbers."""
    with torch.no_grad():
        value = torch.cat([acquisition(part.unsqueeze(-2)) for part in x.split(1024)])
    return torch.nan_to_num(value, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _select(x: Tensor, value: Tensor, n: int, random: Random) -> Tensor:
    """The best row of ``x: (m, d)`` and others drawn without replacement by the exponential of their standardised value."""
    finite = torch.isfinite(value)
    if not bool(finite.any()):
        return x[:n]
    known = value[finite]
    sd = known.std() if known.numel() > 1 else torch.ones(())
    score = 2.0 * (value - known.mean()) / torch.where(sd > 0, sd, torch.ones_like(sd))
    gumbel = -torch.log(-torch.log(random.uniform(value.shape[0]).clamp(1e-300, 1.0 - 1e-16)))
    key = torch.where(finite, score + gumbel, -torch.inf)
    key[int(value.argmax())] = torch.inf
    return x[torch.topk(key, min(n, x.shape[0])).indices]


def seed_of(random: Random) -> int:
    """A seed for a generator of a library."""
    return int(random.integers(2**31 - 1, 1))
