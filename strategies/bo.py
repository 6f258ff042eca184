"""Bayesian optimization: a surrogate of everything told so far, and the point whose evaluation promises most."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
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
_MANY_POINTS = 500  # from here on a factorisation gains from more than one thread
_MOST_LOOKED_AT = 300  # points of the least posterior mean among which those are looked for that may be the best
_MOST_BASELINE = 64  # points that may be the best, over which an improvement is measured
_WORLDS = 1024  # joint posterior samples by which they are found
_EXACT = 800  # GPyTorch draws random numbers, and approximates, where a covariance has more rows
_MOST_LISTED = 1_000_000  # points of a finite space that are gone through one by one when all others seem taken
_STEPS = 50  # most iterations of a climb
_RISE = 5e10  # a climb ends where it rises by less, in units of rounding: the logarithm need not be known to more than 1e-5
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
        """Add the rows; a row whose id is known replaces the earlier one. Of what was dropped only that it was asked is kept."""
        if observations.dropped:
            given_up = np.isin(observations.ids, np.asarray(observations.dropped, dtype=np.int64))
            x = _host(observations.take(np.flatnonzero(given_up)).x)
            known = (x.unsqueeze(1) == state.asked).all(-1).any(-1)
            state.asked = torch.cat([state.asked, x[~known]])
            observations = observations.take(np.flatnonzero(~given_up))
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
            with _few_threads(told):
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
        """The observed feasible point of least posterior mean; the least violation where none is feasible.

        Where the space has context variables, it is the best over all contexts seen, and may owe that to its context.
        """
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
        with _few_threads(int(state.ok.sum())), torch.no_grad():
            scaled, unit = _scaled(self._data(task, state).objective)
            model = self._surrogate.fit(scaled, task, state.hyperparameters.get("objective"))
            posterior: Any = model.posterior(_host(x).unsqueeze(-2))
            mean, sd = unit * posterior.mean.squeeze(-2), unit * posterior.variance.squeeze(-2).clamp_min(0).sqrt()
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
            earlier, latest = rows[: -(self.most_points // 2)], rows[-(self.most_points // 2) :]
            best = _order(state.y[earlier], _violation(state.constraints[earlier]))[: self.most_points - latest.numel()]
            rows = torch.cat([earlier[best.sort().values], latest])
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
            promise = _Promise(self, task, self._data(task, state), memory, search, random)
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
    """The fitted models, and the acquisition function over them.

    Where the asker fixes columns (a context), an improvement is one over what the models expect there: of the points told, with
    those columns set to the settings that are asked for. What was reached under other settings is no measure.
    """

    def __init__(self, recipe: BO, task: Task, data: _Data, memory: Mapping[str, Tensor], search: _Search, random: Random) -> None:
        surrogate = recipe._surrogate
        self._deterministic = task.deterministic
        self._recipe = recipe
        self._random = random
        self._told = data.objective.x.shape[0]
        self.memory: dict[str, Tensor] = {}
        self._models: list[Any] = []
        self._scales: list[float] = []

        def fit(name: str, part: TrainingData) -> Tensor:
            scaled, _ = _scaled(part)
            model = surrogate.fit(scaled, task, memory.get(name))
            remembered = surrogate.memory(model)
            if remembered is not None:
                self.memory[name] = remembered
            self._models.append(model)
            return scaled.y[:, 0]

        x = data.objective.x
        y = fit("objective", data.objective)
        for j in range(data.constraints.shape[-1]):
            column = data.constraints[:, j]
            told = torch.isfinite(column)
            if int(told.sum()) < 2:
                continue
            spread = float(fit(f"constraint {j}", TrainingData(x[told], _winsorised(column[told]).unsqueeze(-1))).std())
            self._scales.append(spread if spread > 0 else 1.0)
        self._failures = data.failed.shape[0]
        if self._failures:
            self._models.append(_failure_model(surrogate, task, x, data.failed))
            self._scales.append(1.0)

        violation = _violation(data.constraints)
        if search.fixed:
            x = torch.unique(search.valid(x, random.child("settings")), dim=0)
            y, violation = self._expected(x)
        self._feasible = bool((violation <= 0).any())
        order = _order(y, violation)
        self._best = y[order[0]]
        self._worse = float(2.0 * y.max() - y.min())
        self._x = x
        self.incumbents = x[order[:5]]
        self.name = ""

    def _expected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean of the objective and total violation by the posterior means of the others at ``x: (n, d)``, ``(n,)`` each."""
        with torch.no_grad():
            y, *limits = [model.posterior(x.unsqueeze(-2)).mean.reshape(-1) for model in self._models]
        violation = torch.zeros_like(y)
        for limit, scale in zip(limits, self._scales, strict=True):
            violation += limit.clamp_min(0) / scale
        return y, violation

    @cached_property
    def _baseline(self) -> Tensor:
        """Points told that are the best in some of the worlds in which what was told holds, the likeliest first."""
        from botorch.sampling import SobolQMCNormalSampler

        x: Tensor = torch.unique(self._x, dim=0)  # told twice, a point would only make the covariance singular
        most = min(_MOST_LOOKED_AT, _EXACT // len(self._models))
        if x.shape[0] > most:
            x = x[_order(*self._expected(x))[:most]]
        samples = []
        for k, model in enumerate(self._models):
            sampler = SobolQMCNormalSampler(torch.Size([_WORLDS]), seed=_seed(self._random.child("worlds", k)))
            with torch.no_grad():
                samples.append(sampler(model.posterior(x))[..., 0])
        keeps = torch.stack(samples[1:]).le(0).all(0) if len(samples) > 1 else torch.ones_like(samples[0], dtype=torch.bool)
        best = torch.where(keeps, samples[0], torch.inf).argmin(-1)[keeps.any(-1)]
        if best.numel() == 0:
            return x[_order(*self._expected(x))[:_MOST_BASELINE]]
        times = torch.bincount(best, minlength=x.shape[0])
        order = torch.argsort(times, descending=True, stable=True)[:_MOST_BASELINE]
        return x[order[times[order] > 0]]

    def beside(self, out: Tensor) -> AcquisitionFunction:
        """The acquisition function given the points ``out: (p, d)`` whose results are awaited."""
        from botorch.acquisition import LogExpectedImprovement
        from botorch.acquisition.logei import qLogProbabilityOfFeasibility
        from botorch.models import ModelListGP
        from botorch.sampling import SobolQMCNormalSampler

        sampler = SobolQMCNormalSampler(torch.Size([self._recipe.samples]), seed=_seed(self._random.child("samples")))
        awaited = out if out.shape[0] else None
        limits: list[Callable[[Tensor], Tensor]] = [_Limit(k + 1, scale) for k, scale in enumerate(self._scales)]
        if not limits and awaited is None and self._deterministic:
            self.name = "log expected improvement"
            return LogExpectedImprovement(self._models[0], best_f=self._best, maximize=False)
        model = self._models[0] if not limits else ModelListGP(*self._models)
        if limits and not self._feasible:
            self.name = "log probability of feasibility"
            return qLogProbabilityOfFeasibility(model, constraints=limits, sampler=sampler, X_pending=awaited)
        self.name = "noisy log expected improvement"
        made: AcquisitionFunction = _noisy_improvement()(-self._worse, model, self._baseline, sampler, awaited, limits or None)
        return made

    def report(self) -> dict[str, float | str]:
        """What the proposals rest on."""
        return {
            "model": type(self._recipe.surrogate).__name__,
            "acquisition": self.name,
            "points": float(self._told),
            "failures": float(self._failures),
        }


@dataclass(frozen=True)
class _Limit:
    """Output ``column`` of the models as a constraint in units of its spread, which the smoothing of BoTorch expects."""

    column: int
    scale: float

    def __call__(self, samples: Tensor) -> Tensor:
        return samples[..., self.column] / self.scale


@cache
def _noisy_improvement() -> Any:
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.objective import GenericMCObjective
    from botorch.acquisition.utils import compute_best_feasible_objective

    class NoisyImprovement(qLogNoisyExpectedImprovement):
        """BoTorch's acquisition function, but for the worlds in which no baseline point is feasible.

        There BoTorch guesses what a feasible point must improve upon from random points, drawn from torch's global generator.
        """

        def __init__(
            self,
            worse: float,
            model: Any,
            baseline: Tensor,
            sampler: Any,
            awaited: Tensor | None,
            limits: list[Callable[[Tensor], Tensor]] | None,
        ) -> None:
            self._worse = worse
            super().__init__(
                model,
                X_baseline=baseline,
                sampler=sampler,
                objective=GenericMCObjective(_minus_first),
                X_pending=awaited,
                constraints=limits,
                prune_baseline=False,
            )

        def _compute_best_feasible_objective(self, samples: Tensor, obj: Tensor) -> Tensor:
            worse = torch.tensor(self._worse)
            return compute_best_feasible_objective(samples, obj, self._constraints, infeasible_obj=worse)

    return NoisyImprovement


def _minus_first(samples: Tensor, X: Tensor | None = None) -> Tensor:
    return -samples[..., 0]


def _failure_model(surrogate: Surrogate, task: Task, good: Tensor, failed: Tensor) -> Any:
    """A model of +1 where the evaluation failed and -1 where it did not; negative means likely to succeed."""
    x = torch.cat([good, failed])
    y = torch.cat([torch.full((good.shape[0], 1), -1.0, dtype=_F64), torch.ones((failed.shape[0], 1), dtype=_F64)])
    return surrogate.fit(TrainingData(x, y), replace(task, deterministic=False))


def _violation(constraints: Tensor) -> Tensor:
    """Total violation ``(n,)`` of ``constraints: (n, c)``, each in units of its own size; a limit that was not told counts as broken."""
    n, c = constraints.shape
    if c == 0:
        return torch.zeros(n, dtype=_F64)
    size = (torch.nan_to_num(constraints.abs(), nan=0.0, posinf=0.0) / n).sum(0).clamp_min(torch.finfo(_F64).tiny)
    return torch.nan_to_num(constraints / size, nan=1.0).clamp_min(0).sum(-1)


def _order(y: Tensor, violation: Tensor) -> Tensor:
    """Row numbers ``(n,)``, the best first: by ``violation: (n,)``, then by ``y: (n,)``."""
    return torch.from_numpy(np.lexsort((y.numpy(), violation.numpy())))


def _winsorised(y: Tensor) -> Tensor:
    """``y: (n,)`` with its worst outliers brought to five interquartile ranges above the upper quartile.

    A few enormous values would leave no room for the differences among the good ones.
    """
    if y.numel() < 5:
        return y
    lower, upper = torch.quantile(y, torch.tensor([0.25, 0.75], dtype=_F64))
    limit = upper + 5.0 * (upper - lower)
    if float(upper - lower) <= 0 or not bool((y > limit).any()):
        return y
    _log.info("%d value(s) above %.6g were brought down to it before fitting.", int((y > limit).sum()), float(limit))
    return y.clamp_max(limit)


def _scaled(data: TrainingData) -> tuple[TrainingData, float]:
    """The same points with outcomes ``y: (n, 1)`` in a unit near half their range, and that unit, a power of two.

    So squares of the smallest and the largest outcomes are numbers too, and what BoTorch adds to a covariance for its
    factorisation, or takes for a negligible improvement, is small beside them.
    """
    y = data.y
    size, spread = float(y.abs().max()), float(y.max() / 2 - y.min() / 2)
    size = spread if spread > 1e-14 * size else size  # a range that is no more than rounding must stay what it is
    unit = math.ldexp(1.0, math.frexp(size)[1] - 1) if size > 0 else 1.0
    return TrainingData(data.x, y / unit, None if data.noise is None else data.noise / unit), unit


def _seed(random: Random) -> int:
    return int(random.integers(2**31 - 1, 1))


class _Search:
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
        self.taken = self._places(taken)

    def widen(self, x: Tensor) -> None:
        """Let the box of unbounded columns reach beyond ``x: (n, d)`` too."""
        for j in torch.nonzero(~torch.isfinite(torch.tensor(self.space.lower))).flatten().tolist():
            margin = 0.25 * float(self.upper[j] - self.lower[j])
            self.lower[j] = min(float(self.lower[j]), float(x[:, j].min()) - margin)
            self.upper[j] = max(float(self.upper[j]), float(x[:, j].max()) + margin)

    def take(self, point: Tensor) -> None:
        """Mark a point as taken."""
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
        if self.columns.numel():
            x = x.clone()
            x[:, self.columns] = self.settings
        return x

    def spread(self, n: int, random: Random, skip: int = 0) -> Tensor:
        """``n`` valid points: of a scrambled Sobol sequence after its first ``skip``, or random ones under known constraints."""
        if self.space.constraints:  # a Sobol point that breaks one would be moved to the border, where many already are
            return self.space.sample(n, random.child(skip), fixed=self.fixed)
        engine = torch.quasirandom.SobolEngine(self.space.dim, scramble=True, seed=_seed(random))
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


def _numerical(error: Exception) -> bool:
    """Whether this is what numerics do (not positive definite, NaN, out of memory), and no mistake in the code of a surrogate."""
    from botorch.exceptions.errors import BotorchError

    mistakes = (NotImplementedError, RecursionError)
    # A warning is an error where the user's filters make it one.
    numerics = (RuntimeError, ArithmeticError, ValueError, MemoryError, BotorchError, RuntimeWarning)
    return isinstance(error, numerics) and not isinstance(error, mistakes)


def _host(x: Tensor) -> Tensor:
    return x.detach().to("cpu", _F64)


@cache
def _openmp() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")


@contextmanager
def _few_threads(n: int) -> Iterator[None]:
    """One thread while covariances of ``n`` points are factorised, unless they are many: more make it several times slower.

    The number of OpenMP threads belongs to the calling thread, and MKL follows it. ``torch.set_num_threads`` would set
    that of other threads too: of those that begin in the meantime, and MKL's for all.
    """
    if n > _MANY_POINTS:
        yield
        return
    torch.get_num_threads()  # torch sets a thread up when it is first used, and would undo the limit
    with _openmp().limit(limits=1):
        yield
