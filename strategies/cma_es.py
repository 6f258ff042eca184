"""CMA-ES on the ``cma`` package (Hansen, arXiv:1604.00772), with restarts by IPOP or BIPOP rules (Hansen 2009).

The package does the search. This module keeps its numbers as data, so that a run goes on from bytes as if it had never
stopped, feeds it ranks where values are missing, failed or constrained, and decides when a run has converged: the
package's own stopping rules read values and wall time, which are not always there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import CapabilityError, ConfigError
from zoopt.feedback import Candidates, Observations
from zoopt.generation import Generational, GenerationState
from zoopt.strategy import Capabilities, State, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random

Array = np.ndarray[Any, np.dtype[Any]]
Restarts = Literal["none", "ipop", "bipop"]

_SMALLEST_STEP = 1e-12  # converged: every standard deviation below this, relative to the width of the space
_FLATTEST = 1e-12  # converged: values of all recent generations differ by less, relative to their size
_WORST_AXES = 1e7  # converged: ratio of the longest axis of the distribution to its shortest
_NEAR = 1 / 30, 1 / 6  # least and largest initial step around points that are known, relative to sigma0
_WAIT = 120, 100  # stalled: no better value for 120 + 100 N^1.5 / popsize generations (the package's rule is the same)


@dataclass
class CMAState(State):
    """One run of CMA-ES, and what is known of the runs before it.

    Coordinates are those of the package: bounded columns scaled to [0, 1], unbounded ones as encoded.

    Attributes:
        start: Initial mean of this run, ``(N,)``; N is d, or 2 where d is 1.
        sigma: Initial step size of this run.
        popsize: Points of a generation in this run.
        run: Number of restarts so far.
        large: How many of them had a larger population; the last one decides the next.
        kind: What this run is: ``"first"``, ``"large"`` or ``"small"``.
        used: Evaluations learned from in this run.
        spent: Evaluations of finished runs: first and large ones, small ones.
        limit: Evaluations after which a small run ends; 0: none.
        best: Violation and value of the best point of this run; empty until one is known.
        best_at: Generation of this run in which that was.
        level: Violation and value of the best point of the last generation; empty where only an order was told.
        settled: Mean of the best finished run, encoded ``(d,)``; None before the first restart.
        settled_level: What that run reached.
        converged: Whether the run is over, where there are no restarts.
        genotype, phenotype: The generation that is out, before and after the package's bounds, ``(n, N)``.
        model: The package's numbers, by their path in its object; empty before the first generation.
    """

    start: Array
    sigma: float
    popsize: int
    run: int = 0
    large: int = 0
    kind: str = "first"
    used: int = 0
    spent: tuple[int, int] = (0, 0)
    limit: int = 0
    best: tuple[float, ...] = ()
    best_at: int = 0
    level: tuple[float, ...] = ()
    settled: Array | None = None
    settled_level: tuple[float, ...] = ()
    converged: bool = False
    genotype: Array | None = None
    phenotype: Array | None = None
    model: dict[str, Any] = field(default_factory=dict)
    alive: _Live | None = live()

    def freeze(self) -> None:
        if self.alive is not None:
            self.model = _numbers(self.alive.es)


# What the package needs to go on exactly as it would have (cma 4.5.0). Left out is what it records for its own plots,
# stopping rules and best solution. Memory order belongs to it: B and C come out of LAPACK in Fortran order.
_PATHS = {
    "": (
        *("mean", "mean_old", "mean_old_old", "sigma", "_sigma_old", "pc", "pc2", "countiter", "countevals", "itereigenupdated"),
        *("_isotropic_mean_shift", "_isotropic_mean_shift_iteration", "number_of_solutions_asked", "number_of_injections"),
        *("evaluations_per_f_value", "_flgtelldone", "_is_independent_sample", "pop_injection_directions"),
    ),
    "sm": (
        *("C", "B", "D", "last_update", "count_tell", "count_eigen", "_inverse_root_C"),
        *("_corr_condition", "_corr_condition_count_eigen", "_beta_diagonal_acceleration"),
    ),
    "adapt_sigma": ("ps", "delta", "_ps_updated_iteration", "_last_multiplier", "s"),
    "sigma_vec": ("scaling", "dim", "is_identity"),
    "fit": ("hist",),
}


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy(order="K")
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _numbers(es: Any) -> dict[str, Any]:
    """Copies of the package's numbers, by path; those it has not made yet are absent."""
    numbers = {}
    for part, names in _PATHS.items():
        known = (getattr(es, part) if part else es).__dict__
        numbers.update({f"{part}.{name}": _copy(known[name]) for name in names if name in known})
    return numbers


def _put_back(es: Any, numbers: dict[str, Any]) -> None:
    for path, value in numbers.items():
        part, _, name = path.partition(".")
        setattr(getattr(es, part) if part else es, name, _copy(value))
    es._updateBDfromSM(es.sm)


class _Normals:
    """The package's source of normal numbers: one key for each generation."""

    def __init__(self) -> None:
        self.random: Random | None = None
        self.drawn = 0

    def use(self, random: Random) -> None:
        self.random, self.drawn = random, 0

    def __call__(self, *shape: int) -> Array:
        if self.random is None:
            raise RuntimeError("normal numbers were drawn outside of a generation.")
        key = self.random.child(self.drawn) if self.drawn else self.random
        self.drawn += 1
        numbers: Array = key.normal(shape).numpy()
        return numbers


class _Sent(dict[int, dict[str, Any]]):
    """The package's memory of what it asked. Rows are known as objects here, so that none is hashed or compared."""

    last_iteration = 0

    def remember(self, rows: list[Array], genotypes: Array, iteration: int) -> None:
        self.last_iteration = iteration
        for row, genotype in zip(rows, genotypes, strict=True):
            super().__setitem__(id(row), {"geno": genotype, "iteration": iteration})

    def __getitem__(self, row: Any) -> dict[str, Any]:
        return super().__getitem__(id(row))

    def get(self, row: Any, default: Any = None) -> Any:
        return super().get(id(row), default)

    def pop(self, row: Any, default: Any = None) -> Any:
        return super().pop(id(row), default)

    def truncate_to(self, length: int) -> None:
        """Nothing outlives a generation here."""


class _Live:
    """The package's object for one run in one space, and the way between its coordinates and encoded points."""

    def __init__(self, task: Task, state: CMAState) -> None:
        import cma

        space = task.space
        bounded = np.isfinite(space.lower) & np.isfinite(space.upper)
        self.shift: Array = np.where(bounded, space.lower, 0.0)
        self.width: Array = np.where(bounded, space.width, 1.0)
        self.identity = bool((self.shift == 0.0).all() and (self.width == 1.0).all())
        self.dim = space.dim
        self.unused = len(state.start) - space.dim  # the package cannot search in one dimension
        self.lower: list[float | None] = [0.0 if b else None for b in bounded] + [None] * self.unused
        self.upper: list[float | None] = [1.0 if b else None for b in bounded] + [None] * self.unused
        self.randn = _Normals()
        self.es = cma.CMAEvolutionStrategy(
            state.start,
            state.sigma,
            {
                "bounds": [self.lower, self.upper] if bounded.any() else [None, None],
                "popsize": state.popsize,
                "randn": self.randn,
                "seed": np.nan,  # nothing global is seeded
                "CMA_mirrors": 0,
                "verbose": -9,
                "verb_log": 0,
                "verb_disp": 0,
            },
        )
        self.es.timer = cma.utilities.utils.ElapsedWCTime()
        self.es.sent_solutions = self.sent = _Sent()
        self.es.adapt_sigma.check_consistency = lambda es: None  # the one of two-point adaptation draws from numpy's global state
        if state.model:
            _put_back(self.es, state.model)
        self.into_bounds = self._into_bounds() if bounded.any() else None
        self.x: Tensor | None = None  # the generation that is out as encoded points, recognised by identity

    def _into_bounds(self) -> Any:
        """The package's own bound transformation for a whole generation laid end to end: one call instead of n."""
        from cma.transformations import BoxConstraintsLinQuadTransformation

        n = int(self.es.popsize)
        return BoxConstraintsLinQuadTransformation([list(pair) for pair in zip(self.lower, self.upper, strict=True)] * n)

    def encode(self, y: Array) -> Array:
        """Encoded points ``(..., d)`` of the package's points ``(..., N)``."""
        if self.unused:
            y = y[..., : self.dim]
        return y if self.identity else y * self.width + self.shift

    def tensor(self, y: Array, task: Task) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.encode(y))).to(task.device, task.dtype)

    def mean(self) -> Array:
        """The mean of the distribution, encoded ``(d,)``."""
        return self.encode(np.array(self.es.boundary_handler.repair(self.es.mean.copy()), dtype=float))


def _live(task: Task, state: CMAState) -> _Live:
    if state.alive is None:
        state.alive = _Live(task, state)
    return state.alive


def _coordinates(task: Task, x: Array) -> Array:
    """Encoded points in the package's coordinates, bounded columns in [0, 1]; a second column where there is but one."""
    space = task.space
    bounded = np.isfinite(space.lower) & np.isfinite(space.upper)
    y = np.where(bounded, np.clip((x - np.where(bounded, space.lower, 0.0)) / space.width, 0.0, 1.0), x)
    return np.concatenate([y, np.full((*y.shape[:-1], 1), 0.5)], axis=-1) if task.dim == 1 else y


@dataclass(frozen=True)
class CMAES(Generational):
    """CMA-ES: adapts a normal distribution to the landscape; restarts when it has converged.

    The default for continuous problems of up to a few hundred columns with some hundreds of evaluations and more; no model
    of the values is made, only their order counts. Integers and choices are searched as if continuous and then snapped,
    which is fine for a few of them; where the study is ``deterministic`` and all variables are such, a point that is met again costs
    no evaluation. With very few evaluations use ``bo``.

    Results that are added before the first ask start it: the mean is the best of them, the step size at most a sixth of ``sigma0``
    and smaller where they lie close together. Results added later teach it nothing. Results are compared as if they all came from one
    context; where the context changes what is good use ``bo``.

    Reference: Hansen, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772; restarts: Hansen, Benchmarking a BI-population
    CMA-ES on the BBOB-2009 function testbed.

    Differences from the package: failed points rank last instead of being sampled again; a generation that failed whole
    teaches nothing; a run ends by rules of our own; one dimension is searched inside two, the second without effect;
    generations of 4 or 5 points have no mirrored ones. From 300 columns on the step size is adapted by the first two points
    of a generation (two-point adaptation), as in the package.
    """

    sigma0: float = 0.3  # initial standard deviation, relative to the width of each variable (to `scale` where unbounded)
    popsize: int | None = None  # points of a generation, at least 4; None: 4 + 3 log(d)
    restarts: Restarts = "bipop"  # after convergence: "none", "ipop" (twice the points), "bipop" (many points and few by turns)

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="ranking")

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma0 < math.inf:
            raise ConfigError(f"sigma0 must be a positive number, a fraction of the width of the space such as 0.3; got {self.sigma0!r}.")
        if self.popsize is not None and self.popsize < 4:
            raise ConfigError(f"popsize must be at least 4, or None for the default of CMA-ES; got {self.popsize!r}.")
        if self.restarts not in ("none", "ipop", "bipop"):
            raise ConfigError(f'restarts must be "none", "ipop" or "bipop"; got {self.restarts!r}.')

    def start(self, task: Task, random: Random) -> CMAState:
        if task.dim == 0:
            raise CapabilityError("cma-es needs at least one variable to search, but every variable of this space is fixed.")
        start = _coordinates(task, np.asarray(task.space.start, dtype=float))
        return CMAState(start, float(self.sigma0), self._popsize(len(start)))

    def learn_added(self, task: Task, inner: CMAState, added: Observations, random: Random) -> CMAState:
        x = added.x.cpu().numpy().astype(float)
        start = _coordinates(task, x[:1])[0]
        return CMAState(start, self._first_step(task, x), inner.popsize)

    def _first_step(self, task: Task, x: Array) -> float:
        """Initial step size around the best of points ``(n, d)``, which are known and come in order of merit.

        Half the typical distance from the best to the better half of the others, within bounds; integers and choices must still be
        able to leave where they are.
        """
        space = task.space
        largest = self.sigma0 * _NEAR[1]
        width = np.where(np.isfinite(space.width), space.width, 1.0)
        away = np.sqrt((((x[1 : max((len(x) + 1) // 2, 2)] - x[0]) / width) ** 2).mean(-1))
        typical = float(np.median(away[away > 0.0])) if away.any() else math.inf
        levels = [0.5 / column.cardinality for column in space.columns if column.cardinality and column.cardinality > 1]
        return min(max(self.sigma0 * _NEAR[0], min(typical / 2.0, largest), *levels), float(self.sigma0))

    def _popsize(self, n: int) -> int:
        return int(4 + 3 * math.log(n)) if self.popsize is None else self.popsize

    def propose(self, task: Task, inner: CMAState, random: Random) -> tuple[CMAState, Candidates]:
        alive = _live(task, inner)
        alive.randn.use(random)
        genotype = phenotype = alive.es.ask_geno()
        if alive.into_bounds is not None:
            phenotype = np.asarray(alive.into_bounds(genotype.ravel())).reshape(genotype.shape)
        inner.genotype, inner.phenotype = genotype, phenotype
        alive.x = alive.tensor(phenotype, task)
        return inner, Candidates(alive.x)

    def update(self, task: Task, inner: CMAState, generation: Observations, random: Random) -> CMAState:
        alive = _live(task, inner)
        es = alive.es
        scores, inner.level = _scores(generation, ordered=task.feedback == "ranking")
        inner.used += inner.popsize
        if scores is None:
            es.number_of_solutions_asked = 0
            _prepare(es)
        else:
            _tell(alive, task, inner, generation.x, scores)
        inner.genotype = inner.phenotype = alive.x = None
        if scores is None:
            return inner
        if inner.level and (not inner.best or inner.level < inner.best):
            inner.best, inner.best_at = inner.level, es.countiter
        if _over(inner, es, scores):
            if self.restarts == "none":
                inner.converged = True
            else:
                return self._restart(task, inner, random.child("restart"))
        return inner

    def _restart(self, task: Task, old: CMAState, random: Random) -> CMAState:
        """The state of a new run from a random point; BIPOP gives many and few points the same share of the evaluations."""
        alive = _live(task, old)
        better = not old.settled_level or (old.level and old.level < old.settled_level)
        settled, level = (alive.mean(), old.level) if old.settled is None or better else (old.settled, old.settled_level)
        small = old.kind == "small"
        spent = (old.spent[0] + (0 if small else old.used), old.spent[1] + (old.used if small else 0))
        default = self._popsize(len(old.start))
        popsize, sigma, large, limit = default * 2 ** (old.large + 1), float(self.sigma0), old.large + 1, 0
        kind = "large"
        if self.restarts == "bipop" and old.large > 0 and spent[1] < spent[0]:
            kind, large = "small", old.large
            u, v = random.uniform(2).tolist()
            popsize = int(default * (0.5 * 2**large) ** (u * u))
            sigma *= 10.0 ** (-2.0 * v)
            limit = max(spent[0] // 2, popsize)
        x = task.space.from_unit(random.child("start").uniform((1, task.dim)))[0]
        start = _coordinates(task, x.numpy().astype(float))
        return CMAState(start, sigma, popsize, old.run + 1, large, kind, spent=spent, limit=limit, settled=settled, settled_level=level)

    def recommend(self, task: Task, state: GenerationState) -> Tensor | None:
        if state.added:
            return None  # it will begin at the best of them
        inner: Any = state.inner
        mean = _live(task, inner).mean()
        if inner.settled is not None and not (inner.level and inner.level < inner.settled_level):
            mean = inner.settled
        return torch.from_numpy(np.array(mean)).to(task.device, task.dtype)

    def done(self, task: Task, state: GenerationState) -> Tensor | None:
        inner: Any = state.inner
        return torch.tensor(inner.converged)

    def info(self, task: Task, state: GenerationState) -> dict[str, float | str]:
        inner: Any = state.inner
        es = _live(task, inner).es
        return {
            "step size": float(es.sigma),
            "axis ratio": float(es.sm.D[-1] / es.sm.D[0]),
            "points a generation": inner.popsize,
            "restarts": inner.run,
            "run": inner.kind,
        }


def _scores(generation: Observations, *, ordered: bool) -> tuple[list[float] | None, tuple[float, ...]]:
    """What the package is told (values, or ranks where they are not all there), and violation and value of the best row.

    None: every row failed. The level is empty where only an order was told.
    """
    plain = generation.all_ok and generation.constraints is None and generation.has_values
    if plain:
        scores: list[float] = generation.values[:, 0].tolist()
        lowest = min(scores)
        if math.isfinite(sum(scores)):
            return scores, () if ordered or generation.rankings else (0.0, lowest)
    if not bool(generation.ok.any()):
        return None, ()
    scores = generation.ranks.tolist()
    if ordered or generation.rankings or not generation.has_values:
        return scores, ()
    first = scores.index(min(scores))
    violation = 0.0 if generation.constraints is None else float(generation.constraints[first].clamp_min(0).sum())
    return scores, (violation, float(generation.values[first, 0]))


def _tell(alive: _Live, task: Task, state: CMAState, x: Tensor, scores: list[float]) -> None:
    """Tell the package a whole generation; rows that are not where it had proposed them go through its injection."""
    es = alive.es
    phenotype, genotype = state.phenotype, state.genotype
    if phenotype is None or genotype is None:
        raise RuntimeError("a generation was told that was never asked.")
    rows = list(phenotype)
    known = rows
    if x is not alive.x:
        same = (x == alive.tensor(phenotype, task)).all(-1).cpu().numpy()
        if not same.all():
            moved = _coordinates(task, x.detach().cpu().to(torch.float64).numpy())
            if alive.unused:
                moved[:, alive.dim :] = phenotype[:, alive.dim :]
            rows = [row if kept else there.copy() for row, kept, there in zip(rows, same, moved, strict=True)]
            known, genotype = [row for row, kept in zip(rows, same, strict=True) if kept], genotype[same]
    alive.sent.remember(known, genotype, es.countiter)
    try:
        es.tell(rows, scores)
    finally:
        alive.sent.clear()
    _prepare(es)


def _prepare(es: Any) -> None:
    """Lay out the two points along the last shift of the mean that two-point adaptation (d >= 300) has in the next generation."""
    if not es.mean_shift_samples or es.countiter == 0:
        return
    shift = es.mean - es.mean_old
    if not shift.any():  # points that were all evaluated in one place; every direction is as good, but it has to be one
        shift = np.ones_like(shift)
    es.pop_injection_directions = [shift, -shift]


def _over(state: CMAState, es: Any, scores: list[float]) -> bool:
    """Whether this run has converged or stalled."""
    axes = es.sm.D
    if axes[-1] > _WORST_AXES * axes[0]:
        return True
    step = es.sigma * axes[-1]
    if step < 1e-6:
        step *= np.max(es.sigma_vec.scaling)
        if step < _SMALLEST_STEP * max(1.0, float(np.abs(es.mean).max())):
            return True
    hist = es.fit.hist
    if len(hist) > 10 + 30 * es.N / state.popsize - 1:  # as long as the package keeps it
        low, high = min(min(hist), min(scores)), max(max(hist), max(scores))
        if high - low <= _FLATTEST * max(abs(low), abs(high)):
            return True
    if state.limit and state.used >= state.limit:
        return True
    return bool(state.best) and es.countiter - state.best_at > _WAIT[0] + _WAIT[1] * es.N**1.5 / state.popsize
