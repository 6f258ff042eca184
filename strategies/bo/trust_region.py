"""Trust regions: local models in a box that moves with the incumbent, grows with success and shrinks without."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from zoopt import registry
from zoopt.errors import ConfigError, Exhausted, ModelWarning
from zoopt.feedback import Candidates, Observations
from zoopt.random import Random
from zoopt.strategies.bo.models import Data, Fitted, best_first, violation_of, winsorised
from zoopt.strategies.bo.record import Record, few_threads, host, numerical
from zoopt.strategies.bo.search import Search
from zoopt.strategy import Capabilities, Example, Request, Strategy, Task, live
from zoopt.surrogates.base import Surrogate, TrainingData, make_surrogate

_F64 = torch.float64
_PERTURBED = 20  # columns of the centre that a candidate changes on average
_LISTED = 1000  # candidates at which functions are drawn exactly, where no quicker way is known
_GAIN = 1e-3  # least improvement that counts as a success, as a part of the incumbent's size


@dataclass
class TuRBOState(Record):
    """What was told and handed out, in which region and batch each."""

    region: Tensor  # (n,) int64, the region each point was asked in; -1 for points that were not asked
    batch: Tensor  # (n,) int64, the call it was asked by, -1 in a design
    current: int = 0  # the region at hand
    designed: int = 0  # points of its design that were handed out
    used: int = 0  # points of the Sobol sequence that are used up
    batches: int = 0  # calls that were answered by a model
    hyperparameters: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, float | str] = live()


@dataclass(frozen=True)
class TuRBO(Strategy[TuRBOState]):
    """Trust-region Bayesian optimization, for many dimensions and budgets of hundreds to thousands; SCBO under constraints.

    A Gaussian process is fitted to what was seen in one box around the incumbent; each point of a batch minimises a function drawn from
    it there. The box doubles after a few batches in a row that improve, halves after as many points that do not as there are variables,
    and where it has become tiny a new one begins elsewhere. Take it above some twenty variables or some hundred evaluations, and for
    large batches; ``bo`` is better with fewer.

    Reference: Eriksson, Pearce, Gardner, Turner, Poloczek, Scalable global optimization via local Bayesian optimization, NeurIPS 2019;
    under constraints Eriksson & Poloczek, Scalable constrained Bayesian optimization, AISTATS 2021.
    """

    surrogate: Surrogate | str = "gp"  # model of the outcomes: a recipe, or the name of a registered one
    initial: int | None = None  # Sobol points of each region; None: 2 per variable, at least 5, at most half of what is left
    length: float = 0.8  # side of a new box, in widths of the space
    shortest: float = 2.0**-7  # side below which a new region begins
    longest: float = 1.6  # largest side
    successes: int = 3  # batches in a row with an improvement, after which the box doubles
    failures: int | None = None  # points in a row without, after which it halves; None: 1 per variable, at least 4
    candidates: int | None = None  # points at which functions are drawn; None: 100 per variable, at most 5,000
    most_points: int = 1000  # most observations of a region that the model is fitted to: the best half and the latest half

    capabilities = Capabilities(feedback="values", objectives=1, constraints=True, unbounded=True, choices=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "surrogate", make_surrogate(self.surrogate))
        for name, least in (("initial", 1), ("successes", 1), ("failures", 1), ("candidates", 10), ("most_points", 10)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"turbo needs {name} >= {least}; got {value!r}.")
        if not 0 < self.shortest <= self.length <= self.longest < math.inf:
            raise ConfigError(
                f"turbo needs 0 < shortest <= length <= longest; got {self.shortest!r}, {self.length!r} and {self.longest!r}."
            )

    @classmethod
    def example_task(cls) -> Example:
        """Ackley's function of six variables within 100 evaluations."""
        ackley = registry.load("ackley", "problems")(dim=6)
        return Example(ackley.space, ackley, evaluations=100, problem=ackley)

    def begin(self, task: Task, random: Random) -> TuRBOState:
        """Nothing told, nothing handed out."""
        none = torch.empty(0, dtype=torch.int64)
        return TuRBOState(**Record.blank(task), region=none, batch=none.clone())

    def tell(self, task: Task, state: TuRBOState, observations: Observations, random: Random) -> TuRBOState:
        """Add the rows; a row whose id is known replaces the earlier one."""
        return state.add(task, observations, "region", "batch")

    def ask(self, task: Task, state: TuRBOState, request: Request, random: Random) -> tuple[TuRBOState, Candidates]:
        """The design of a region, then minimisers of functions drawn in its box."""
        wanted = request.n or 1
        pending = host(request.pending(task))
        region, designed = state.current, state.designed
        box = self._box(task, state, region)
        if box is not None and box.length < self.shortest:
            region, designed, box = region + 1, 0, None
        known = box.told if box is not None else 0
        added = int((state.region[state.ok] < 0).sum()) if region == 0 else 0
        due = self._initial(task, state, request) - designed - added
        first = wanted if known < 2 else min(max(due, 0), wanted)

        taken = torch.cat([state.asked, state.x, pending]) if task.deterministic else pending
        search = Search(task.space, dict(request.fixed), taken, task.deterministic, random)
        key = random.at(0).child("design")  # one sequence, whichever call draws from it
        points, used = search.design(key, state.used, first)
        report: dict[str, float | str] = {"region": float(region)}
        fitted = None
        by_model = 0
        if first < wanted and len(points) == first and box is not None:
            with few_threads(known):
                fitted, chosen = self._drawn(task, state, box, search, wanted - first, random, report)
            by_model = len(chosen)
            points += chosen
            if fitted is None:
                warnings.warn(f"turbo: the model {report['model']}; Sobol points take its place.", ModelWarning, stacklevel=2)
                extra, more = search.design(key, state.used + used, wanted - len(points))
                points, used = points + extra, used + more
        if not points:
            raise Exhausted("every point of this deterministic space has been asked, or breaks a known constraint.")
        x = torch.stack(points)
        n = len(points)
        state.current, state.designed, state.used = region, designed + n - by_model, state.used + used
        state.asked = torch.cat([state.asked, x])
        columns = {
            "region": torch.full((n,), region),
            "batch": torch.tensor([-1] * (n - by_model) + [state.batches] * by_model),
        }
        if fitted is not None:
            state.hyperparameters = fitted.memory
            state.batches += 1
        state.diagnostics = report
        return state, Candidates(x.to(task.device, task.dtype), {name: column.numpy() for name, column in columns.items()})

    def recommend(self, task: Task, state: TuRBOState) -> Tensor | None:
        """The best observed point of all regions: feasible first, then by value."""
        rows = torch.nonzero(state.ok).flatten()
        if rows.numel() == 0:
            return None
        best = best_first(state.values[rows, 0], violation_of(state.constraints[rows]))[0]
        return state.x[rows[best]].to(task.device, task.dtype)

    def info(self, task: Task, state: TuRBOState) -> dict[str, float | str]:
        """The region, the side of its box, and what the last proposal rested on."""
        return dict(state.diagnostics or {})

    def _initial(self, task: Task, state: TuRBOState, request: Request) -> int:
        if self.initial is not None:
            return self.initial
        need = max(5, 2 * (task.dim - len(request.fixed)))
        return need if request.remaining is None else min(need, max(2, (request.remaining + state.designed) // 2))

    def _box(self, task: Task, state: TuRBOState, region: int) -> _Box | None:
        """Where the region stands after all that was told of it, whatever the order; None where nothing was."""
        own = (state.region == region) | ((state.region < 0) if region == 0 else torch.zeros_like(state.ok))
        rows = torch.nonzero(own & state.ok).flatten()
        if rows.numel() == 0:
            return None
        rows = rows[torch.argsort(state.ids[rows], stable=True)]
        failed = torch.nonzero(own & ~state.ok).flatten()
        violation, values = violation_of(state.constraints[rows]), state.values[rows, 0]
        by_batch = sorted({*state.batch[rows].tolist(), *state.batch[failed].tolist()} - {-1})
        length, won, lost = self.length, 0, 0
        tolerance = self.failures or max(4, task.dim)
        best = _least(violation, values, state.batch[rows] < 0)
        for batch in by_batch:
            now = _least(violation, values, state.batch[rows] == batch)
            if now[0] < best[0] or (now[0] == best[0] and now[1] < best[1] - _GAIN * (abs(best[1]) if math.isfinite(best[1]) else 0.0)):
                won, lost = won + 1, 0
            else:
                won, lost = 0, lost + int((state.batch[rows] == batch).sum() + (state.batch[failed] == batch).sum())
            best = min(best, now)
            if won >= self.successes:
                length, won = min(2.0 * length, self.longest), 0
            elif lost >= tolerance:
                length, lost = length / 2.0, 0
        if rows.numel() > self.most_points:
            earlier, latest = rows[: -(self.most_points // 2)], rows[-(self.most_points // 2) :]
            order = best_first(state.values[earlier, 0], violation_of(state.constraints[earlier]))
            rows = torch.cat([earlier[order[: self.most_points - latest.numel()]].sort().values, latest])
        noise = state.noise[rows] if bool(torch.isfinite(state.noise[rows]).any()) else None
        objective = TrainingData(state.x[rows], winsorised(state.values[rows, 0]).unsqueeze(-1), noise)
        limits = state.constraints[rows]
        return _Box(length, Data(objective, _bilog(limits), state.x[failed][-self.most_points :]), int(rows.numel()))

    def _drawn(
        self, task: Task, state: TuRBOState, box: _Box, search: Search, n: int, random: Random, report: dict[str, float | str]
    ) -> tuple[Fitted | None, list[Tensor]]:
        """Up to ``n`` points of the box, each the best of a function drawn from the posterior; no models where the numerics failed."""
        try:
            began = time.perf_counter()
            surrogate = cast(Surrogate, self.surrogate)
            fitted = Fitted(surrogate, task, box.data, state.hyperparameters, search, random)
            known = time.perf_counter()
            x = self._candidates(fitted, box.length, random.child("candidates"))
            functions = [draw(model, x, n, random.child("functions", k)) for k, model in enumerate((*fitted.objectives, *fitted.limits))]
            value = functions[0]
            broken = torch.zeros_like(value)
            for limit, scale in zip(functions[1:], fitted.scales, strict=True):
                broken += limit.clamp_min(0.0) / scale
            points: list[Tensor] = []
            for k in range(n):
                order = best_first(value[k], broken[k])
                fresh = search.free(x[order])
                if not bool(fresh.any()):
                    point = search.left_over()
                    if point is None:
                        break
                else:
                    point = x[order[int(fresh.nonzero()[0])]]
                search.take(point)
                points.append(point)
        except Exception as error:
            if not numerical(error):
                raise
            report["model"] = f"failed: {error}".rstrip(".")
            return None, []
        report.update(
            {
                "model": type(surrogate).__name__,
                "acquisition": "Thompson sampling in a trust region",
                "length": box.length,
                "points": float(fitted.told),
                "failures": float(fitted.failures),
                "fit_seconds": known - began,
                "acquisition_seconds": time.perf_counter() - known,
            }
        )
        return fitted, points

    def _candidates(self, fitted: Fitted, length: float, random: Random) -> Tensor:
        """Valid points of the box: the centre with some columns moved, each within the box."""
        search, space = fitted.search, fitted.task.space
        d = space.dim
        count = self.candidates or min(100 * d, 5000)
        if not can_draw_quickly(fitted):
            count = min(count, _LISTED)
        centre = self._centre(fitted)
        search.widen(fitted.settings)
        weights = torch.ones(d, dtype=_F64)
        lengths = cast(Surrogate, self.surrogate).lengthscales(fitted.objectives[0])
        if lengths is not None:
            lengths = lengths / (search.upper - search.lower)
            known = torch.isfinite(lengths) & (lengths > 0)
            if bool(known.any()):
                logs = lengths[known].log()
                weights[known] = (logs - logs.mean()).exp()
        half = 0.5 * length * weights * (search.upper - search.lower)
        lower, upper = (centre - half).maximum(search.lower), (centre + half).minimum(search.upper)
        engine = torch.quasirandom.SobolEngine(d, scramble=True, seed=int(random.child("sobol").integers(2**31 - 1, 1)))
        moved = lower + (upper - lower) * engine.draw(count, dtype=_F64)
        choices = [j for j, column in enumerate(space.columns) if column.kind == "choice"]
        if choices:
            moved[:, choices] = search.spread(count, random.child("choices"))[:, choices]
        free = torch.tensor([j not in search.fixed for j in range(d)])
        move = (random.child("move").uniform((count, d)) < min(1.0, _PERTURBED / max(int(free.sum()), 1))) & free
        idle = torch.nonzero(~move.any(-1)).flatten()
        if idle.numel() and bool(free.any()):
            columns = torch.nonzero(free).flatten()
            move[idle, columns[random.child("forced").integers(columns.numel(), idle.numel())]] = True
        return search.valid(torch.where(move, moved, centre), random.child("valid"))

    def _centre(self, fitted: Fitted) -> Tensor:
        """The best point of the region; under noise by what the model expects."""
        if fitted.deterministic:
            return fitted.incumbents[0]
        merit, violation = fitted.expected(fitted.settings), fitted.violation
        return fitted.settings[best_first(merit, violation)[0]]


@dataclass(frozen=True)
class _Box:
    """Where a region stands: the side of its box, what its models are fitted to, and how many points that are."""

    length: float
    data: Data
    told: int


def draw(model: object, x: Tensor, n: int, random: Random) -> Tensor:
    """``n`` functions from the posterior of a model of one output, at ``x: (m, d)``, ``(n, m)``."""
    from zoopt.strategies.bo.models import root_of
    from zoopt.surrogates.exact_gp import ExactGP

    if isinstance(model, ExactGP) and model.draws_quickly:
        return model.draw(x, n, random)
    with torch.no_grad():
        posterior = model.posterior(x)  # type: ignore[attr-defined]
        root = root_of(posterior.distribution.covariance_matrix)
        drawn: Tensor = posterior.mean.squeeze(-1) + random.child("base").normal((n, x.shape[0])) @ root.mT
        return drawn


def can_draw_quickly(fitted: Fitted) -> bool:
    """Whether functions are drawn at thousands of points in a moment."""
    from zoopt.surrogates.exact_gp import ExactGP

    return all(isinstance(model, ExactGP) and model.draws_quickly for model in (*fitted.objectives, *fitted.limits))


def _bilog(constraints: Tensor) -> Tensor:
    """Signed logarithms, which bring out where a constraint changes sign (Eriksson & Poloczek 2021)."""
    return constraints.sign() * constraints.abs().log1p()


def _least(violation: Tensor, values: Tensor, rows: Tensor) -> tuple[float, float]:
    """Least violation, and the least value among the rows that have it; infinite where there are none."""
    if not bool(rows.any()):
        return math.inf, math.inf
    least = violation[rows].min()
    return float(least), float(values[rows][violation[rows] <= least].min())
