"""Bayesian optimization: a surrogate of everything told so far, and the point whose evaluation promises most."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from zoopt import registry
from zoopt.errors import ConfigError, Exhausted, ModelWarning
from zoopt.feedback import Candidates, Observations
from zoopt.random import Random
from zoopt.strategy import Capabilities, Example, Request, State, Strategy, Task, live
from zoopt.surrogates.base import Surrogate, TrainingData

if TYPE_CHECKING:
    from botorch.acquisition import AcquisitionFunction

    from zoopt.space import Space

_log = logging.getLogger("zoopt.strategies.bo")

_F64 = torch.float64
_SAME = 1e-7  # encoded points closer than this in every column are the same point
_FEW_LEVELS = 16  # integers of more levels are moved by gradient and then rounded; fewer are only ever changed by whole levels
_HUGE = 1e100  # largest magnitude of an outcome that enters a model
_MANY_POINTS = 500  # from here on a factorisation gains from more than one thread
_MOST_LISTED = 1_000_000  # points of a finite space that are gone through one by one when all others seem taken
_CLIMB = {
    "maxiter": 50,
    "factr": 5e10,
}  # relative change 1e-5 of the acquisition function, whose logarithm need not be known to more digits
_COLD = 5  # every so many fits the hyperparameters are searched from the prior's mode again


@dataclass
class BOState(State):
    """Everything told so far, what has been handed out, and hyperparameters to start the next fit from."""

    ids: Tensor  # (n,) int64
    x: Tensor  # (n, d) encoded
    y: Tensor  # (n,) values, +inf where the evaluation failed
    ok: Tensor  # (n,) bool
    constraints: Tensor  # (n, c), NaN where not told
    noise: Tensor  # (n,) standard deviations, NaN where not told
    asked: Tensor  # (a, d) every point handed out
    design: int = 0  # points of the Sobol sequence that are used up
    fits: int = 0
    hyperparameters: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, float | str] = live()


@dataclass(frozen=True)
class BO(Strategy[BOState]):
    """Bayesian optimization: a Gaussian process and log expected improvement, for expensive objectives.

    Starts with a scrambled Sobol design. Then fits the surrogate and maximises noisy log expected improvement (Ament et al.
    2023) beside what is pending. Integers and choices are searched by whole levels; outcome constraints get a model each;
    failures lower the promise of their neighbourhood. A proposal costs tenths of a second to seconds: take CMA-ES where an
    evaluation is cheaper, and above some thousand evaluations.
    """

    surrogate: Surrogate | str = "gp"  # model of the outcomes: a recipe, or the name of a registered one
    initial: int | None = None  # Sobol points before the first model; None: 2 per variable, at least 5, at most half the budget
    samples: int = 128  # joint posterior samples of the noisy acquisition function
    raw_samples: int = 256  # points at which the acquisition function is looked at before the best are refined
    restarts: int = 4  # points that are refined by gradient and by neighbouring levels
    most_points: int = 1000  # most observations a model is fitted to: the best half and the latest half

    capabilities = Capabilities(feedback="values", objectives=1, constraints=True, unbounded=True, choices=True)

    def __post_init__(self) -> None:
        if isinstance(self.surrogate, str):
            object.__setattr__(self, "surrogate", registry.load(self.surrogate, "surrogates")())
        if not isinstance(self.surrogate, Surrogate):
            raise ConfigError(
                "bo needs surrogate to be the name of a registered surrogate or a recipe, an instance of a class derived from "
                f"zoopt.surrogates.base.Surrogate; got {self.surrogate!r}."
            )
        for name, least in (("initial", 1), ("samples", 2), ("raw_samples", 8), ("restarts", 1), ("most_points", 10)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"bo needs {name} >= {least}; got {value!r}.")

    @classmethod
    def example_task(cls) -> Example:
        """Branin's function within 25 evaluations."""
        branin = registry.load("branin", "problems")()
        return Example(branin.space, branin, evaluations=25, problem=branin)

    def begin(self, task: Task, random: Random) -> BOState:
        """Nothing told, nothing handed out."""
        d, c = task.dim, len(task.constraints)
        return BOState(
            ids=torch.empty(0, dtype=torch.int64),
            x=torch.empty((0, d), dtype=_F64),
            y=torch.empty(0, dtype=_F64),
            ok=torch.empty(0, dtype=torch.bool),
            constraints=torch.empty((0, c), dtype=_F64),
            noise=torch.empty(0, dtype=_F64),
            asked=torch.empty((0, d), dtype=_F64),
        )

    def tell(self, task: Task, state: BOState, observations: Observations, random: Random) -> BOState:
        """Add the rows; a row whose id is known replaces the earlier one."""
        if observations.n == 0 or not observations.has_values:
            return state
        n, c = observations.n, len(task.constraints)
        y = _host(observations.values)[:, 0]
        rows = {
            "ids": torch.from_numpy(np.array(observations.ids)),
            "x": _host(observations.x),
            "y": y,
            "ok": observations.ok.cpu() & torch.isfinite(y),
            "constraints": torch.full((n, c), torch.nan, dtype=_F64)
            if observations.constraints is None
            else _host(observations.constraints),
            "noise": torch.full((n,), torch.nan, dtype=_F64) if observations.noise is None else _host(observations.noise)[:, 0],
        }
        stays = ~torch.isin(state.ids, rows["ids"][rows["ids"] >= 0])
        for name, new in rows.items():
            old = getattr(state, name)
            setattr(state, name, torch.cat([old if bool(stays.all()) else old[stays], new]))
        return state

    def ask(self, task: Task, state: BOState, request: Request, random: Random) -> tuple[BOState, Candidates]:
        """Sobol points while the design lasts, then the maximisers of the acquisition function, one after the other."""
        wanted = request.n or 1
        pending = _host(request.pending(task))
        told = int(state.ok.sum())
        due = self._initial(task, state, request) - told - pending.shape[0]
        first = wanted if told < 2 else min(max(due, 0), wanted)

        taken = torch.cat([state.asked, state.x, pending]) if task.deterministic else pending
        search = _Search(task.space, dict(request.fixed), taken, task.deterministic, random)
        key = random.at(0).child("design")  # one sequence, whichever call draws from it
        points, used = search.design(key, state.design, first)
        report: dict[str, float | str] = {"model": "none yet"}
        promise = None
        if first < wanted and len(points) == first:
            with _apart(random, told):
                promise, report = self._modelled(task, state, pending, search, points, wanted, random)
                if promise is None:
                    extra, more = search.design(key, state.design + used, wanted - len(points))
                    points, used = points + extra, used + more
            if promise is None:
                reason = str(report["model"]).rstrip(".")
                warnings.warn(f"bo: the model {reason}; Sobol points take its place.", ModelWarning, stacklevel=2)
        if not points:
            raise Exhausted("every point of this deterministic space has been asked, or breaks a known constraint.")
        x = torch.stack(points)
        state.design += used
        state.asked = torch.cat([state.asked, x])
        if promise is not None:
            state.hyperparameters = promise.memory
            state.fits += 1
        state.diagnostics = report
        return state, Candidates(x.to(task.device, task.dtype))

    def recommend(self, task: Task, state: BOState) -> Tensor | None:
        """The observed feasible point of least posterior mean; the least violation where none is feasible."""
        rows = torch.nonzero(state.ok).flatten()
        if rows.numel() == 0:
            return None
        x, y, violation = state.x[rows], state.y[rows], _violation(state.constraints[rows])
        if not bool((violation <= 0).any()):
            best = int(violation.argmin())
        else:
            score = y
            if not task.deterministic and rows.numel() > 1:
                try:
                    predicted = self.predict(task, state, x)
                except Exception as error:
                    if not _numerical(error):
                        raise
                    predicted = None
                if predicted is not None and bool(torch.isfinite(predicted[0]).all()):
                    score = _host(predicted[0])[:, 0]
            best = int(torch.where(violation <= 0, score, torch.inf).argmin())
        return x[best].to(task.device, task.dtype)

    def predict(self, task: Task, state: BOState, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Posterior mean and standard deviation of the objective, ``(n, 1)`` each; None before two points are told."""
        if int(state.ok.sum()) < 2:
            return None
        with _apart(Random(0), int(state.ok.sum())), torch.no_grad():
            data = self._data(task, state)
            model = self._surrogate.fit(data.objective, task, state.hyperparameters.get("objective"))
            posterior: Any = model.posterior(_host(x))
            mean, sd = posterior.mean, posterior.variance.clamp_min(0).sqrt()
        return mean.to(x), sd.to(x)

    def info(self, task: Task, state: BOState) -> dict[str, float | str]:
        """What the last proposal rested on, and what it cost."""
        return dict(state.diagnostics or {})

    @property
    def _surrogate(self) -> Surrogate:
        return cast(Surrogate, self.surrogate)  # a name was replaced when the recipe was made

    def _initial(self, task: Task, state: BOState, request: Request) -> int:
        if self.initial is not None:
            return self.initial
        free = task.dim - len(request.fixed)
        need = max(5, 2 * free)
        if request.remaining is not None:
            need = min(need, max(2, (request.remaining + state.asked.shape[0]) // 2))
        return need

    def _data(self, task: Task, state: BOState) -> _Data:
        """What the models are fitted to, in the order of the ids, so that the order of tells does not matter."""
        order = torch.argsort(state.ids, stable=True)
        rows = order[state.ok[order]]
        failed = order[~state.ok[order]]
        if rows.numel() > self.most_points:
            latest = torch.arange(rows.numel()) >= rows.numel() - self.most_points // 2
            keep = latest.clone()
            score = torch.where(latest, torch.inf, _violation(state.constraints[rows]).clamp_min(0) * 1e100 + state.y[rows])
            keep[torch.topk(score, self.most_points - int(latest.sum()), largest=False).indices] = True
            rows = rows[keep]
        noise = state.noise[rows].unsqueeze(-1)
        objective = TrainingData(
            state.x[rows], _winsorised(state.y[rows]).unsqueeze(-1), noise if bool(torch.isfinite(noise).any()) else None
        )
        return _Data(objective, state.constraints[rows], state.x[failed][-self.most_points :])

    def _modelled(
        self, task: Task, state: BOState, pending: Tensor, search: _Search, points: list[Tensor], wanted: int, random: Random
    ) -> tuple[_Promise | None, dict[str, float | str]]:
        """Append points by the model until there are ``wanted``, or fewer where the space has no more.

        Returns:
            The fitted models, None where the numerics failed on the way, and what to report.
        """
        try:
            began = time.perf_counter()
            memory = {} if state.fits % _COLD == 0 else state.hyperparameters
            promise = _Promise(self, task, self._data(task, state), memory, random)
            fitted = time.perf_counter()
            while len(points) < wanted:
                out = torch.cat([pending, *(p.unsqueeze(0) for p in points)])
                child = random.child("search", len(points))
                point = search.maximise(promise.beside(out), promise.incumbents, self.raw_samples, self.restarts, child)
                if point is None:
                    break
                search.take(point)
                points.append(point)
        except Exception as error:
            if not _numerical(error):
                raise
            return None, {"model": f"failed: {error}"}  # whatever the numerics do, the asker gets a point
        seconds = {"fit_seconds": fitted - began, "acquisition_seconds": time.perf_counter() - fitted}
        return promise, {**promise.report(), **seconds}


@dataclass(frozen=True)
class _Data:
    objective: TrainingData
    constraints: Tensor  # (n, c) beside the objective's rows, NaN where not told
    failed: Tensor  # (f, d) points whose evaluation failed


class _Promise:
    """The fitted models, and the acquisition function over them."""

    def __init__(self, recipe: BO, task: Task, data: _Data, memory: Mapping[str, Tensor], random: Random) -> None:
        surrogate = recipe._surrogate
        self._deterministic = task.deterministic
        self._x = data.objective.x
        self._y = data.objective.y[:, 0]
        self._recipe = recipe
        self._random = random
        self.memory: dict[str, Tensor] = {}
        self._models: list[Any] = []
        self._scales: list[float] = []

        def fit(name: str, part: TrainingData) -> None:
            model = surrogate.fit(part, task, memory.get(name))
            remembered = surrogate.memory(model)
            if remembered is not None:
                self.memory[name] = remembered
            self._models.append(model)

        fit("objective", data.objective)
        for j in range(data.constraints.shape[-1]):
            column = data.constraints[:, j]
            told = torch.isfinite(column)
            if int(told.sum()) < 2:
                continue
            fit(f"constraint {j}", TrainingData(self._x[told], _winsorised(column[told]).unsqueeze(-1)))
            spread = float(column[told].std())
            self._scales.append(spread if spread > 0 else max(abs(float(column[told][0])), 1.0))
        self._failures = data.failed.shape[0]
        if self._failures:
            self._models.append(_failure_model(surrogate, task, self._x, data.failed))
            self._scales.append(1.0)

        feasible = _violation(data.constraints) <= 0
        self._feasible = bool(feasible.any())
        order = torch.argsort(torch.where(feasible, self._y, torch.inf) if self._feasible else _violation(data.constraints))
        self.incumbents = self._x[order[:5]]
        self.name = ""

    def beside(self, out: Tensor) -> AcquisitionFunction:
        """The acquisition function given the points ``out: (p, d)`` whose results are awaited."""
        from botorch.acquisition import LogExpectedImprovement
        from botorch.acquisition.logei import qLogNoisyExpectedImprovement, qLogProbabilityOfFeasibility
        from botorch.acquisition.objective import GenericMCObjective
        from botorch.models import ModelListGP
        from botorch.sampling import SobolQMCNormalSampler

        seed = int(self._random.child("samples").integers(2**31 - 1, 1))
        sampler = SobolQMCNormalSampler(torch.Size([self._recipe.samples]), seed=seed)
        awaited = out if out.shape[0] else None
        limits: list[Callable[[Tensor], Tensor]] = [_Limit(k + 1, scale) for k, scale in enumerate(self._scales)]
        if not limits and awaited is None and self._deterministic:
            self.name = "log expected improvement"
            return LogExpectedImprovement(self._models[0], best_f=self._y.min(), maximize=False)
        model = self._models[0] if not limits else ModelListGP(*self._models)
        if not self._feasible:
            self.name = "log probability of feasibility"
            return qLogProbabilityOfFeasibility(model, constraints=limits, sampler=sampler, X_pending=awaited)
        self.name = "noisy log expected improvement"
        return qLogNoisyExpectedImprovement(
            model,
            X_baseline=self._x,
            sampler=sampler,
            objective=GenericMCObjective(_minus_first),
            X_pending=awaited,
            constraints=limits or None,
        )

    def report(self) -> dict[str, float | str]:
        """What the proposals rest on."""
        return {
            "model": type(self._recipe.surrogate).__name__,
            "acquisition": self.name,
            "points": float(self._x.shape[0]),
            "failures": float(self._failures),
        }


@dataclass(frozen=True)
class _Limit:
    """Output ``column`` of the models as a constraint in units of its spread, which the smoothing of BoTorch expects."""

    column: int
    scale: float

    def __call__(self, samples: Tensor) -> Tensor:
        return samples[..., self.column] / self.scale


def _minus_first(samples: Tensor, X: Tensor | None = None) -> Tensor:
    return -samples[..., 0]


def _failure_model(surrogate: Surrogate, task: Task, good: Tensor, failed: Tensor) -> Any:
    """A model of +1 where the evaluation failed and -1 where it did not; negative means likely to succeed."""
    x = torch.cat([good, failed])
    y = torch.cat([torch.full((good.shape[0], 1), -1.0, dtype=_F64), torch.ones((failed.shape[0], 1), dtype=_F64)])
    return surrogate.fit(TrainingData(x, y), replace(task, deterministic=False))


def _violation(constraints: Tensor) -> Tensor:
    """Total violation ``(n,)`` of ``constraints: (n, c)``, each in units of its own spread; a limit that was not told counts as broken."""
    if constraints.shape[-1] == 0:
        return torch.zeros(constraints.shape[0], dtype=_F64)
    size = torch.nan_to_num(constraints.abs(), nan=0.0, posinf=0.0).mean(0).clamp_min(torch.finfo(_F64).tiny)
    return torch.nan_to_num(constraints / size, nan=1.0).clamp_min(0).sum(-1)


def _winsorised(y: Tensor) -> Tensor:
    """``y: (n,)`` with its worst outliers brought to five interquartile ranges above the upper quartile.

    A few enormous values would leave no room for the differences among the good ones. Magnitudes above 1e100 are cut off first:
    the square of a larger one is no number any more.
    """
    y = y.clamp(-_HUGE, _HUGE)
    if y.numel() < 5:
        return y
    lower, upper = torch.quantile(y, torch.tensor([0.25, 0.75], dtype=_F64))
    limit = upper + 5.0 * (upper - lower)
    if float(upper - lower) <= 0 or not bool((y > limit).any()):
        return y
    _log.info("%d value(s) above %.6g were brought down to it before fitting.", int((y > limit).sum()), float(limit))
    return y.clamp_max(limit)


class _Search:
    """Where candidates may lie: valid points with the asker's columns fixed, and none that is taken."""

    def __init__(self, space: Space, fixed: Mapping[int, float], taken: Tensor, strict: bool, random: Random) -> None:
        self.space = space
        self.fixed = fixed
        self.taken = taken
        self.strict = strict  # a taken point is never proposed again; otherwise it is only avoided
        self.random = random
        d = space.dim
        self.columns = torch.tensor(list(fixed), dtype=torch.int64)
        self.settings = torch.tensor(list(fixed.values()), dtype=_F64)
        kinds = [column.kind for column in space.columns]
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

    def widen(self, x: Tensor) -> None:
        """Let the box of unbounded columns reach beyond ``x: (n, d)`` too."""
        for j in torch.nonzero(~torch.isfinite(torch.tensor(self.space.lower))).flatten().tolist():
            margin = 0.25 * float(self.upper[j] - self.lower[j])
            self.lower[j] = min(float(self.lower[j]), float(x[:, j].min()) - margin)
            self.upper[j] = max(float(self.upper[j]), float(x[:, j].max()) + margin)

    def take(self, point: Tensor) -> None:
        """Mark a point as taken."""
        self.taken = torch.cat([self.taken, point.unsqueeze(0)])

    def free(self, x: Tensor) -> Tensor:
        """Which rows of ``x: (m, d)`` are not taken, ``(m,)`` bool."""
        if self.taken.shape[0] == 0 or x.shape[0] == 0:
            return torch.ones(x.shape[0], dtype=torch.bool)
        return torch.cdist(x, self.taken, p=torch.inf).amin(-1) > _SAME

    def valid(self, x: Tensor, random: Random) -> Tensor:
        """The nearest valid points of ``x: (m, d)`` that hold the asker's settings."""
        return self.space.repair(self._set(x), random.child("repair"), self.fixed.keys())

    def _set(self, x: Tensor) -> Tensor:
        if self.columns.numel():
            x = x.clone()
            x[:, self.columns] = self.settings
        return x

    def spread(self, n: int, random: Random, skip: int = 0) -> Tensor:
        """``n`` valid points: of a scrambled Sobol sequence after its first ``skip``, or random ones under known constraints."""
        if self.space.constraints:  # a Sobol point that breaks one would be moved to the border, where many already are
            return self.space.sample(n, random.child(skip), fixed=self.fixed)
        engine = torch.quasirandom.SobolEngine(self.space.dim, scramble=True, seed=int(random.integers(2**31 - 1, 1)))
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
            for row in self.spread(block, random, skip + passed):
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
        listed = list(self.every()) if size is not None and size <= 4 * raw else []
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
        from botorch.generation.gen import gen_candidates_scipy

        moving = self.smooth & self.space.active(x)
        moved = x.clone()
        # Rows differ in what is active; those with the same columns moving go together.
        for pattern in torch.unique(moving, dim=0):
            rows = torch.nonzero((moving == pattern).all(-1)).flatten()
            if not bool(pattern.any()):
                continue
            held = {j: x[rows, j] for j in torch.nonzero(~pattern).flatten().tolist()}
            start = torch.minimum(torch.maximum(x[rows], self.lower), self.upper).unsqueeze(-2)
            found, _ = gen_candidates_scipy(
                start, acquisition, lower_bounds=self.lower, upper_bounds=self.upper, fixed_features=held or None, options=_CLIMB
            )
            moved[rows] = found.detach().squeeze(-2)
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


def _numerical(error: Exception) -> bool:
    """Whether this is what numerics do (not positive definite, NaN, out of memory), and no mistake in the code of a surrogate."""
    from botorch.exceptions.errors import BotorchError

    mistakes = (NotImplementedError, RecursionError)
    return isinstance(error, RuntimeError | ArithmeticError | ValueError | MemoryError | BotorchError) and not isinstance(error, mistakes)


def _host(x: Tensor) -> Tensor:
    return x.detach().to("cpu", _F64)


def _silent(*_: Any, **__: Any) -> None:
    """Take the place of ``warnings.showwarning``."""


@contextmanager
def _apart(random: Random, n: int) -> Iterator[None]:
    """Leave no trace: one thread for small factorisations, and global random numbers as they were.

    More threads make small factorisations several times slower. Some of BoTorch's helpers draw from torch's global generator:
    for the time being it is seeded from the key, so that results repeat, and put back after.
    """
    import botorch  # noqa: F401  (its first import adds warning filters, which must not outlive ours)

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(int(random.child("global").integers(2**31 - 1, 1)))
        if n <= _MANY_POINTS:
            torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about numerics; what matters is logged
            warnings.showwarning = _silent  # also where a library puts its own filter first
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
