"""The part of a space that keeps its known constraints, with some columns given: valid points all over it.

Points are drawn uniformly, as in ``Space.from_unit``, and those that keep the constraints are taken, while enough of them
do. Where the linear constraints leave too little for that, the columns that they name are drawn by hit-and-run along
sparse directions (Smith, Operations Research 32, 1984), many chains at once, the others freely, and the remaining
constraints reject. Where those too leave little, chains over all columns set out from the valid points that were found.

What a region remembers (a few valid points, a mixed population of chains) comes from a key of its own, so it depends on
the space and the given columns alone, never on what was asked before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from zoopt.constraints import Constraint, Mask, reach
from zoopt.errors import SpaceError
from zoopt.random import Random
from zoopt.variables import Floats

if TYPE_CHECKING:
    from zoopt.space import Space

Ints = np.ndarray[Any, np.dtype[np.int64]]
Propose = Callable[[int, Random], Floats]

_KEY = Random(0, path=("region",))
_PROBES = (256, 1024)  # points by which chance is judged
_VALID_PROBES = 16  # of them
_SAMPLES = 100_000  # tried before a space counts as having no valid point
_ENOUGH = 8_192  # tried before few valid points are enough
_POOL = 64  # valid points remembered
_CALLS = 64  # of a Python predicate for each valid point before chains set out instead
_FEW_CALLS = 1_024  # of a Python predicate before few valid points are enough
_SOLUTIONS = 12  # in integers, from which chains set out where they do not find as many
_CENTRED = 128  # points around a centre
_FEW = 16  # valid points remembered where a predicate must be called for each
_PARTS = 3  # in which a chain is started: the later ones know more of the region's shape
_BURN_IN = 30  # sweeps of a chain from one point until it may be anywhere; what is left of its start halves with each
_SWEEPS = 5  # the same from a random one of a mixed population
_SWEEPS_OF_CALLS = 2  # where each step calls a predicate a few times
_SHRINKS = 24  # times that a step is shortened before it is given up
_LONG_LINES = 32  # lines of a sweep through two known points, fewer where there are fewer columns
_MOST_HELD = 8  # inequalities along which a step moves at most
_FAR = 40.0  # how far an unbounded column goes, in units of its scale: there is no double beyond in its distribution
_NODES = (200, 5_000)  # of a mixed-integer program for the centre or a solution, and for any; a limit that gives the same everywhere
_NUMBERS = 1 << 20  # drawn at once at most
_THIN = 0.1
_DIGITS = 1e-13
_INSET = 0.01  # how far into a narrow slab a point is moved, in units of its width
_TINY = 1e-9


class Region:
    """The valid part of a space with some columns given.

    Args:
        space: A space with known constraints.
        fixed: Encoded values of the given columns.
        dtype: Floating type in which points must be valid.
    """

    def __init__(self, space: Space, fixed: Mapping[int, float], dtype: torch.dtype) -> None:
        self.space = space
        self.fixed = dict(fixed)
        self.dtype = dtype
        self._cheap = tuple(c for c in space.constraints if c.vectorised)
        self._dear = tuple(c for c in space.constraints if not c.vectorised)
        conditional = {column.name for column in space.columns if column.conditional}
        self._always = tuple(c for c in space.constraints if c.linear and conditional.isdisjoint(c.names))
        self._wanted = _FEW if self._dear else _POOL

    # Points.

    def sample(self, n: int, random: Random) -> Floats:
        """Random valid points, ``(n, d)``: uniform as in ``from_unit`` where chance or the linear constraints lead to them.

        Raises:
            SpaceError: No valid point was found.
        """
        found = np.empty((0, self.space.dim))
        if self._often:
            patience = _CALLS * (n + 1) if self._dear else _ENOUGH * (n + 1)
            found, _ = self._accepted(n, random.child("draw"), patience, patience)
        missing = n - len(found)
        if missing:
            starts = self.pool[random.child("start").integers(len(self.pool), missing).numpy()]
            how = (_SWEEPS_OF_CALLS, random.child("walk")) if self._dear else (_SWEEPS, random.child("walk"), self.pool)
            found = np.concatenate([found, self._everywhere.walk(starts, *how)])
        return found

    def anchors(self, n: int, random: Random) -> Floats:
        """Up to ``n`` of the remembered valid points, ``(a, d)``, ``a >= 1``.

        Raises:
            SpaceError: No valid point was found.
        """
        chosen: Floats = self.pool[random.permutation(len(self.pool)).numpy()[:n]]
        return chosen

    def settled(self, x: Floats) -> tuple[Floats, Mask]:
        """Points ``(n, d)`` snapped and moved onto the linear equalities, and for which of them the bounds left room for that, ``(n,)``.

        Real columns move, by least squares in encoded units.
        """
        settled, within = self._linear.settled(self.space.snap_numpy(x))
        return self._rounded(settled), within

    @cached_property
    def pool(self) -> Floats:
        """Valid points all over the region, ``(a, d)``, ``a >= 1``."""
        first = self._completed(self.space.start[None])  # the user's own default is a good try
        found, tried = self._accepted(self._wanted, _KEY.child("pool"), _SAMPLES, _FEW_CALLS if self._dear else _ENOUGH)
        found = np.concatenate([first[self.space.allowed(first)], found])
        if len(found) < _FEW:
            found = np.concatenate([found, self._widest()])
        if not len(found):
            texts = "; ".join(constraint.text for constraint in self.space.constraints)
            given = {self.space.columns[i].name for i in self.fixed}
            held = f" with {', '.join(sorted(given))} as given" if given else ""
            raise SpaceError(f"no valid point{held} was found in {tried:,} samples: do the constraints leave room? They are: {texts}.")
        if len(found) < _FEW:
            starts = found[np.arange(_FEW) % len(found)]
            found = np.concatenate([found, self._everywhere.walk(starts, _SWEEPS_OF_CALLS if self._dear else _BURN_IN, _KEY.child("walk"))])
        return found[: self._wanted]

    def _widest(self) -> Floats:
        """Valid points at a centre of all linear constraints, which chains do not look at where conditional; other columns are drawn."""
        linear = tuple(c for c in self._cheap if c.linear)
        centre = _solution(self.space, self.fixed, linear) if len(linear) > len(self._always) else None
        if centre is None:
            return np.empty((0, self.space.dim))
        named = self.space.linear_system(linear)[0].any(0)
        x = self._uniform(_CENTRED, _KEY.child("widest"))
        x[:, named] = centre[named]
        x = self._completed(x)
        return x[self.space.allowed(x)][:_FEW]

    # Rejection.

    def _completed(self, x: Floats) -> Floats:
        """Points with the given columns put in, snapped, and rounded as the result will be."""
        x = x.copy()
        x[:, list(self.fixed)] = list(self.fixed.values())
        return self._rounded(self.space.snap_numpy(x))

    def _rounded(self, x: Floats) -> Floats:
        if self.dtype == torch.float64:
            return x
        rounded: Floats = torch.from_numpy(x).to(self.dtype).to(torch.float64).numpy()
        return rounded

    def _uniform(self, n: int, random: Random) -> Floats:
        return self._completed(self.space.from_unit_numpy(random.uniform((n, self.space.dim)).numpy()))

    def _kept(
        self, n: int, propose: Propose, constraints: Sequence[Constraint], random: Random, patience: int, enough: int
    ) -> tuple[Floats, int]:
        """The first n proposals that keep the constraints, fewer once so many were tried (``enough``: once any was found); and how many."""
        found = [np.empty((0, self.space.dim))]
        count = tried = 0
        batch, most = n, max(_POOL, _NUMBERS // self.space.dim)
        while count < n and tried < (enough if count else patience):
            x = propose(min(batch, most, patience - tried), random.child(tried))
            if not len(x):
                break
            tried += len(x)
            found.append(x[self.space.allowed(x, constraints)])
            count += len(found[-1])
            # As many as it should take by what was seen so far, and not more than were tried already.
            batch = min(math.ceil((n - count) * (tried + 1) / (count + 1)), max(n, tried))
        return np.concatenate(found)[:n], tried

    def _accepted(self, n: int, random: Random, patience: int, enough: int) -> tuple[Floats, int]:
        """Up to n valid points by rejection, and how many were tried; a predicate is called for points that keep the rest."""
        propose = self._propose
        if not (self._often and self._dear):
            return self._kept(n, propose, self.space.constraints, random, patience, enough)

        def cheap(m: int, key: Random) -> Floats:
            return self._kept(m, propose, self._cheap, key, _ENOUGH * (m + 1), _ENOUGH * (m + 1))[0]

        return self._kept(n, cheap, self._dear, random, patience, enough)

    @cached_property
    def _uniform_often(self) -> bool:
        """Whether chance alone meets the constraints often enough, predicates aside."""
        return any(self.space.allowed(self._uniform(n, _KEY.child("probe")), self._cheap).sum() >= _VALID_PROBES for n in _PROBES)

    @cached_property
    def _propose(self) -> Propose:
        """Draws points as near to the valid ones as is known here."""
        return self._uniform if self._uniform_often or not self._always or self._centre is None else self._by_chains

    @cached_property
    def _often(self) -> bool:
        """Whether enough of what is proposed keeps the constraints, predicates aside."""
        if self._uniform_often or self._propose == self._uniform:
            return self._uniform_often
        few = _PROBES[0]
        return len(self._always) == len(self._cheap) or bool(
            self.space.allowed(self._by_chains(few, _KEY.child("probe")), self._cheap).sum() >= _VALID_PROBES
        )

    # Chains.

    @cached_property
    def _linear(self) -> Chains:
        """Chains over the columns that linear constraints name."""
        named = np.flatnonzero(self.space.linear_system(self._always)[0].any(0))
        columns = np.array([i for i in named.tolist() if i not in self.fixed], dtype=np.int64)
        return Chains(self.space, self.fixed, self._rounded, self._always, columns, self._always)

    @cached_property
    def _everywhere(self) -> Chains:
        """Chains over all columns that are not given."""
        columns = np.array([i for i in range(self.space.dim) if i not in self.fixed], dtype=np.int64)
        return Chains(self.space, self.fixed, self._rounded, self._always, columns, self.space.constraints)

    @cached_property
    def _mixed(self) -> Floats:
        """Many states of the chains over linear constraints that have forgotten their start, ``(a, d)``."""
        assert self._centre is not None
        x = self._burnt_in(self._centre[None])
        integer = [i for i in self._linear.columns.tolist() if self.space.columns[i].kind == "integer"]
        if integer and len(np.unique(x[:, integer], axis=0)) < _SOLUTIONS:  # chains cannot go from one solution in integers to the next
            directions = _KEY.child("solutions").normal((_SOLUTIONS, self.space.dim)).numpy()
            found = [_solution(self.space, self.fixed, self._always, direction) for direction in directions]
            settled, within = self.settled(self._completed(np.stack([self._centre, *(x for x in found if x is not None)])))
            within[within] = self.space.allowed(settled[within], self._always)
            x = self._burnt_in(settled[within])
        return x

    def _burnt_in(self, starts: Floats) -> Floats:
        """States of chains that set out from these points."""
        x, spread = starts[np.arange(_POOL) % len(starts)], None
        for part in range(_PARTS):
            x = spread = self._linear.walk(x, _BURN_IN // _PARTS, _KEY.child("mixed", part), spread)
        return x

    def _by_chains(self, n: int, random: Random) -> Floats:
        """Points that keep the linear constraints, up to rounding."""
        columns = self._linear.columns
        x = self._uniform(n, random.child("others"))
        x[:, columns] = self._mixed[random.child("start").integers(len(self._mixed), n).numpy()][:, columns]
        return self._linear.walk(x, _SWEEPS, random.child("walk"), self._mixed)

    @cached_property
    def _centre(self) -> Floats | None:
        """A point far inside the linear constraints that always apply, the others aside, ``(d,)``; None where none was found."""
        x = _solution(self.space, self.fixed, self._always)
        if x is None:
            return None
        settled, within = self.settled(self._completed(x[None]))
        return settled[0] if within[0] and self.space.allowed(settled, self._always)[0] else None


class Chains:
    """Markov chains that leave the uniform distribution over the valid points as it is, a point each.

    A chain moves in latent coordinates: encoded columns in which integers and choices are anywhere in their cell, and
    problem units for a logarithmic column in an equality. A step goes along a random line through a few columns, of which one
    comes at each step of a sweep; linear equalities hold along it, and a random number of the inequalities too, so that
    thin regions are crossed lengthwise. The place on the line is drawn between the bounds and linear constraints; where
    that is not all, it is drawn again, ever nearer, until the snapped point is valid and its density above a level drawn
    before (Neal, Annals of Statistics 31, 2003). Where integers or choices were snapped, the real columns of an equality
    or a narrow slab make up for it: a translation within each cell, which changes no volume.

    Args:
        space: The space.
        fixed: Encoded values of the given columns.
        rounded: Brings points to the floating type in which they must be valid.
        constraints: Linear constraints that apply everywhere.
        columns: Columns that move; all free ones that the constraints name are among them.
        inside: The constraints that a valid point keeps.
    """

    def __init__(
        self,
        space: Space,
        fixed: Mapping[int, float],
        rounded: Callable[[Floats], Floats],
        constraints: Sequence[Constraint],
        columns: Ints,
        inside: Sequence[Constraint],
    ) -> None:
        self.columns = columns
        self._space = space
        self._rounded = rounded
        self._inside = inside
        table = {name: values[columns] for name, values in space._table.constants.items()}
        rows, lower, upper, equal, thin = _system(space, constraints)
        held = space.start.copy()
        held[list(fixed)] = list(fixed.values())
        given = rows[:, list(fixed)] @ space.decode_numpy(held)[list(fixed)]
        rows = rows[:, columns]
        kept = rows.any(-1)
        rows, lower, upper, equal, thin = rows[kept], (lower - given)[kept], (upper - given)[kept], equal[kept], thin[kept]

        discrete, log = table["discrete"], table["log"]
        self._bent = log & rows[thin].any(0)  # a straight line in problem units stays in what is thin there
        cell = np.where(discrete, 0.5, 0.0)
        self._scale = np.where(self._bent, table["high"] - table["low"] + 2 * cell, table["inverse_slope"])
        self._origin = np.where(self._bent, table["low"] - cell, table["inverse_offset"])
        self._code = table["inverse_slope"], table["inverse_offset"]
        self._low, self._high = np.where(self._bent, 0.0, space.lower[columns]), np.where(self._bent, 1.0, space.upper[columns])
        self._normal = np.isinf(self._high)
        curved = rows[:, log & ~self._bent].any(-1)
        rows, lower, upper, equal = rows[~curved], lower[~curved], upper[~curved], equal[~curved]
        shift = rows @ self._origin
        rows = rows * self._scale
        length = np.sqrt((rows**2).sum(-1))
        rows, lower, upper = rows / length[:, None], (lower - shift) / length, (upper - shift) / length

        far_low, far_high = np.maximum(self._low, -_FAR), np.minimum(self._high, _FAR)
        least, most = np.minimum(rows * far_low, rows * far_high).sum(-1), np.maximum(rows * far_low, rows * far_high).sum(-1)
        order = np.argsort(np.where(equal, -1.0, np.minimum(upper, most) - np.maximum(lower, least)), kind="stable")
        rows, lower, upper, equal = rows[order], lower[order], upper[order], equal[order]
        self._equalities = int(equal.sum())  # they come first, then the inequalities that leave least room

        half = np.where(discrete, 0.5 / self._scale, 0.0)  # a cell's
        steps = (2 * np.abs(rows) * half).max(-1, initial=0.0)
        narrow = equal | (upper - lower < steps)
        self._real = np.flatnonzero(~discrete & rows[narrow].any(0))
        narrow &= rows[:, self._real].any(-1)
        self._narrow = np.flatnonzero(narrow)
        self._back = np.linalg.pinv(rows[np.ix_(self._narrow, self._real)], rcond=1e-12)
        self._targets = np.where(equal, lower, np.nan)[self._narrow]
        digits = np.where(equal, _DIGITS, 0.0)  # an equality is met to the last of them, though a user's point need not
        self._sides = (lower - digits)[self._narrow], (upper + digits)[self._narrow]
        self._margin = np.where(equal, _DIGITS, _INSET * (upper - lower))[self._narrow]
        self._bounds = self._low[self._real], self._high[self._real]
        # What snapping and making up for it can change at most.
        back = self._back @ (rows[self._narrow] * half)
        change = rows * half
        change = np.abs(change - rows[:, self._real] @ back)
        self._lower, self._upper, self._rows = lower - change.sum(-1), upper + change.sum(-1), rows
        self._low, self._high = far_low, far_high
        self._low[self._real] -= np.abs(back).sum(-1)
        self._high[self._real] += np.abs(back).sum(-1)
        self._weighted = bool((self._bent | self._normal).any())
        self._exact = inside is constraints and not (discrete.any() or curved.any() or self._weighted)

    # Latent coordinates, ``(n, k)``.

    def _latent(self, x: Floats) -> Floats:
        y: Floats = x[:, self.columns]
        if self._bent.any():
            y = np.where(self._bent, (self._space.decode_numpy(x)[:, self.columns] - self._origin) / self._scale, y)
        return y

    def _put(self, x: Floats, y: Floats) -> Floats:
        """The points with these latent coordinates, snapped."""
        x = x.copy()
        if self._bent.any():
            slope, offset = self._code
            z = np.where(self._bent, self._origin + self._scale * np.clip(y, 0.0, 1.0), 1.0)
            y = np.where(self._bent, (np.log(z) - offset) / slope, y)
        x[:, self.columns] = y
        return self._space.snap_numpy(x)

    def _points(self, y: Floats, x: Floats) -> tuple[Floats, Mask]:
        """The points that latent coordinates stand for (other columns are those of ``x (n, d)``), and which are inside the bounds."""
        x = self._put(x, y)
        within = np.ones(len(x), dtype=bool)
        if len(self._narrow):
            total = _sums(y, self._rows[self._narrow])
            snapped = self._latent(x)
            snapped[:, self._real] = y[:, self._real]
            x, within = self._moved(x, snapped, np.where(np.isnan(self._targets), total, self._targets))
        return self._rounded(x), within

    def settled(self, x: Floats) -> tuple[Floats, Mask]:
        """Snapped points ``(n, d)``, those off an equality or a narrow slab moved onto it; and which are inside the bounds then."""
        within = np.ones(len(x), dtype=bool)
        if not len(self._narrow):
            return x, within
        y = self._latent(x)
        total = _sums(y, self._rows[self._narrow])
        lower, upper = self._sides
        off = ((total < lower) | (total > upper)).any(-1)
        x = x.copy()
        x[off], within[off] = self._moved(x[off], y[off], np.clip(total[off], lower + self._margin, upper - self._margin))
        return x, within

    def _moved(self, x: Floats, y: Floats, total: Floats) -> tuple[Floats, Mask]:
        """Points whose real columns were moved until the narrow rows sum up to ``total (n, r)``, and which are inside their bounds then.

        Args:
            x: The points, for the columns that no chain moves.
            y: Their latent coordinates, integers and choices snapped.
            total: What the rows are to sum up to.
        """
        real = y[:, self._real] + _sums(total - _sums(y, self._rows[self._narrow]), self._back)
        y = y.copy()
        y[:, self._real] = real
        lower, upper = self._bounds
        within = (real >= lower - _DIGITS) & (real <= upper + _DIGITS)
        return self._put(x, y), np.asarray(within.all(-1))

    # Steps.

    def walk(self, x: Floats, sweeps: int, random: Random, spread: Floats | None = None) -> Floats:
        """Where chains from valid points ``(n, d)`` are after some sweeps over the columns.

        Args:
            x: The points.
            sweeps: How often every column moves.
            random: Key.
            spread: Valid points of any origin ``(a, d)``; chains move along lines through two of them too, so that they cross
                a region as fast as these points lie apart in it, whatever its shape.
        """
        n, k = len(x), len(self.columns)
        y = np.ascontiguousarray(self._latent(x).T)
        total = self._rows @ y
        for sweep in range(sweeps):
            key = random.child(sweep)
            place = key.child("place").uniform((k + _LONG_LINES, n)).numpy()
            depth = -np.log1p(-key.child("depth").uniform((k + _LONG_LINES, n)).numpy()) if self._weighted else None
            for step, (moving, line, across) in enumerate(self._lines(key.child("line"), spread)):
                first, last = _span(self._low[moving, None] - y[moving], self._high[moving, None] - y[moving], line)
                crossed = np.flatnonzero(across)
                if len(crossed):
                    ends = _span(self._lower[crossed, None] - total[crossed], self._upper[crossed, None] - total[crossed], across[crossed])
                    first, last = np.maximum(first, ends[0]), np.minimum(last, ends[1])
                first, last = np.minimum(first, 0.0), np.maximum(last, 0.0)  # rounding may have put a chain just outside
                along = first + place[step] * (last - first)
                if not self._exact:
                    level = None if depth is None else self._density(moving, y[moving]) - depth[step]
                    along = self._shrunk(x, y, moving, line, along, first, last, level, key.child("again", step))
                y[moving] += line[:, None] * along
                total += across[:, None] * along
        return self._points(y.T, x)[0]

    def _shrunk(
        self,
        x: Floats,
        y: Floats,
        moving: Ints,
        line: Floats,
        along: Floats,
        first: Floats,
        last: Floats,
        level: Floats | None,
        random: Random,
    ) -> Floats:
        """How far each chain goes: places are drawn again between the last ones and where it stands until one is valid."""
        result = np.zeros_like(along)
        left = np.arange(len(along))
        for attempt in range(_SHRINKS):
            trial = y[:, left]
            trial[moving] += line[:, None] * along[left]
            good = np.ones(len(left), dtype=bool) if level is None else self._density(moving, trial[moving]) >= level[left]
            rows = np.flatnonzero(good)
            points, good[rows] = self._points(trial[:, rows].T, x[left[rows]])
            rows, points = rows[good[rows]], points[good[rows]]
            good[rows] = self._space.allowed(points, self._inside)
            result[left[good]] = along[left[good]]
            left = left[~good]
            if not len(left):
                break
            place = along[left]
            first[left] = np.where(place < 0, place, first[left])
            last[left] = np.where(place < 0, last[left], place)
            share = random.child(attempt).uniform(len(along)).numpy()[left]
            along[left] = first[left] + share * (last[left] - first[left])
        return result

    def _density(self, moving: Ints, y: Floats) -> Floats:
        """Logarithm of the density of these latent coordinates ``(s, n)``, up to a constant, ``(n,)``."""
        normal, bent = self._normal[moving, None], self._bent[moving, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            log = -np.log(np.where(bent, self._origin[moving, None] + self._scale[moving, None] * y, 1.0))
        density: Floats = np.where(normal, -0.5 * y * y, log).sum(0)
        return density

    def _lines(self, random: Random, spread: Floats | None) -> Iterator[tuple[Ints, Floats, Floats]]:
        """The lines of a sweep: the columns that move ``(s,)``, by how much, and the rows' change ``(m,)``."""
        k, m, e = len(self.columns), len(self._rows), self._equalities
        if k <= e:
            return
        order = random.child("order").permutation(k).numpy()
        most = min(m - e, k - 1 - e, _MOST_HELD)
        count = random.child("count").integers(most + 1, k).numpy()
        tightest = random.child("tightest").uniform(k).numpy() < 0.5
        others = e + np.argsort(random.child("held").uniform((k, m - e)).numpy(), axis=-1)
        others[tightest] = e + np.arange(m - e)
        for q in range(most + 1):
            own = np.flatnonzero(count == q)
            moving = order[(own[:, None] + np.arange(e + q + 1)) % k]
            held = np.concatenate([np.broadcast_to(np.arange(e), (len(own), e)), others[own, :q]], -1)
            line = np.linalg.svd(self._rows[held[:, :, None], moving[:, None, :]])[2][:, -1, :] if e + q else np.ones((len(own), 1))
            across = np.einsum("isk,is->ik", self._rows.T[moving], line)
            across[np.abs(across) < _TINY] = 0.0
            for columns, step, change in zip(moving, line, across, strict=True):
                used = np.abs(step) > _TINY
                if not change[:e].any():
                    yield columns[used], step[used], change
        if spread is not None:
            ends = self._latent(spread)[random.child("ends").integers(len(spread), (2, min(k, _LONG_LINES))).numpy()]
            for step in ends[0] - ends[1]:
                used = np.abs(step) > _TINY
                change = self._rows @ step
                change[:e] = 0.0
                if used.any():
                    yield np.flatnonzero(used), step[used], change


def _sums(y: Floats, rows: Floats) -> Floats:
    """``y @ rows.T``, with the same bits for a point whichever others there are."""
    sums: Floats = (y[:, None, :] * rows).sum(-1)
    return sums


def _span(low: Floats, high: Floats, step: Floats) -> tuple[Floats, Floats]:
    """Between which multiples of a step ``(s,)`` all of ``low <= t step <= high`` hold, for ``(s, n)`` bounds, ``(n,)`` each."""
    a, b = low / step[:, None], high / step[:, None]
    return np.minimum(a, b).max(0), np.maximum(a, b).min(0)


def _system(space: Space, constraints: Sequence[Constraint]) -> tuple[Floats, Floats, Floats, Mask, Mask]:
    """Linear constraints as in ``Space.linear_system``, those that bound the same sum as one.

    Returns:
        Rows ``(m, d)`` and their bounds, the same twice for an equality; which are equalities, and which leave little of the room
        that they could, ``(m,)`` each.
    """
    rows, lower, upper = space.linear_system(constraints)
    for i, item in enumerate(item for constraint in constraints for item in constraint.linear):
        if item.target is not None:
            lower[i] = upper[i] = item.target
    named = rows.any(-1)
    rows, lower, upper = rows[named], lower[named], upper[named]
    length = np.sqrt((rows**2).sum(-1))
    length *= np.sign(rows[np.arange(len(rows)), np.argmax(rows != 0, axis=1)])
    _, first, group = np.unique(np.round(rows / length[:, None], 12), axis=0, return_index=True, return_inverse=True)
    a, b = lower / length, upper / length
    least, most = np.full(len(first), -np.inf), np.full(len(first), np.inf)
    group = group.reshape(-1)  # numpy 2.0 gives a column
    np.maximum.at(least, group, np.minimum(a, b))
    np.minimum.at(most, group, np.maximum(a, b))
    rows = rows[first] / length[first, None]
    size = np.abs(rows) @ np.concatenate([reach(variable) for variable in space.variables.values()])
    return rows, least, most, least == most, most - least <= _THIN * size


def _solution(
    space: Space, fixed: Mapping[int, float], constraints: Sequence[Constraint], direction: Floats | None = None
) -> Floats | None:
    """A point that keeps linear constraints, ``(d,)``, by a mixed-integer linear program; None where that found none.

    Args:
        space: The space.
        fixed: Encoded values of the given columns.
        constraints: The constraints.
        direction: A point far along this ``(d,)``, in units of the variables' ranges. Without one the middle of a large ball
            inside the constraints in these units, or any point where that is too hard to find.
    """
    rows, lower, upper, equal, _ = _system(space, constraints)
    integer = np.array([column.kind != "real" for column in space.columns])
    free = np.isinf(space.high)
    origin = np.where(free, space.decode_numpy(space.start), space.low)
    span = np.where(free, space.decode_numpy(space.start + 1.0) - origin, space.high - space.low)
    unit = np.where(integer, 1.0, span)  # z = origin + unit y
    far = np.inf if direction is None else _FAR
    least = np.where(free, -far, 0.0)
    most = np.where(free, far, np.where(integer, span, 1.0))
    held = space.start.copy()
    held[list(fixed)] = list(fixed.values())
    for i, z in zip(fixed, space.decode_numpy(held)[list(fixed)], strict=True):
        least[i] = most[i] = (z - origin[i]) / unit[i]

    length = np.sqrt(((rows * span) ** 2).sum(-1))  # how much a step of the ball's radius adds at most
    lower, upper = (lower - rows @ origin) / length, (upper - rows @ origin) / length
    rows = rows * unit / length[:, None]
    with np.errstate(invalid="ignore"):  # nothing times infinitely far
        ends = np.where(rows, rows * least, 0.0), np.where(rows, rows * most, 0.0)
    room = np.minimum(upper, np.maximum(*ends).sum(-1)) - np.maximum(lower, np.minimum(*ends).sum(-1))
    # The solver rounds to a fixed number of digits, so what leaves little room is written in larger units, and so is the radius.
    room = np.where(equal, 1.0, np.clip(room, _TINY, 1.0))
    lower, upper, rows = lower / room, upper / room, rows / room[:, None]
    ball = room.min(initial=1.0)
    radius = np.where(equal, 0.0, ball / room)[:, None]
    bounded = np.eye(space.dim)[~integer & ~free]
    ones = np.full((len(bounded), 1), ball)
    sides = [
        LinearConstraint(np.hstack([rows, radius]), ub=upper),
        LinearConstraint(np.hstack([rows, -radius]), lb=lower),
        LinearConstraint(np.hstack([bounded, ones]), ub=1.0),
        LinearConstraint(np.hstack([bounded, -ones]), lb=0.0),
    ]
    for objective, widest, nodes in (
        ((np.append(np.zeros(space.dim), -1.0), 0.5 / ball, _NODES[0]), (np.zeros(space.dim + 1), 0.0, _NODES[1]))
        if direction is None
        else ((np.append(-direction * unit / span, 0.0), 0.0, _NODES[0]),)
    ):
        result = milp(
            objective,
            integrality=np.append(integer, False),
            bounds=Bounds(np.append(least, 0.0), np.append(most, widest)),
            constraints=[side for side in sides if len(side.A)],
            options={"node_limit": nodes, "mip_rel_gap": 0.5},
        )
        if result.x is not None:
            x: Floats = space.encode_numpy(origin + unit * result.x[:-1])
            return x
    return None
