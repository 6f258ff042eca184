"""The strategy: a design, then the point of most promise, one after the other."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from zoopt import registry
from zoopt.diagnosis import Diagnosis, Timing
from zoopt.errors import ConfigError, Exhausted, ModelWarning
from zoopt.feedback import Candidates, Observations
from zoopt.random import Random
from zoopt.strategies.bo.acquisitions import Acquisition, make_acquisition
from zoopt.strategies.bo.goal import Goal, Measure, Risk
from zoopt.strategies.bo.models import Data, Fitted, best_first, fit_part, merit_of, violation_of, winsorised
from zoopt.strategies.bo.progress import left_to_gain
from zoopt.strategies.bo.record import Record, few_threads, host, numerical
from zoopt.strategies.bo.search import Search
from zoopt.strategy import Capabilities, Example, Request, Strategy, Task, live
from zoopt.surrogates.base import Surrogate, TrainingData, make_surrogate

_COLD = 5  # every so many fits the hyperparameters are searched from the prior's mode again
_RENEWED = 20  # every so many fits the scale of the outcomes is chosen anew
_MANY = 200  # points from which on that is needed no more, and takes long


@dataclass
class BOState(Record):
    """What was told and handed out, and hyperparameters to start the next fit from."""

    design: int = 0  # points of the Sobol sequence that are used up
    fits: int = 0
    hyperparameters: dict[str, Tensor] = field(default_factory=dict)
    chance: float = 1.0  # that a noticeably better point remains, where the recipe asks for it
    diagnostics: dict[str, float | str] = live()
    timings: list[Timing] = live()


@dataclass(frozen=True)
class BO(Strategy[BOState]):
    """Bayesian optimization: a Gaussian process and log expected improvement, for expensive objectives.

    Starts with a scrambled Sobol design. Then fits the surrogate and maximises noisy log expected improvement (Ament et al.
    2023), of hypervolume with several objectives (Daulton et al. 2021), beside what is pending. Integers and choices are searched by
    whole levels; outcome constraints get a model each; failures lower the promise of their neighbourhood. A proposal costs tenths of a
    second to seconds: take CMA-ES where an evaluation is cheaper, and above some thousand evaluations.
    """

    surrogate: Surrogate | str = "gp"  # model of the outcomes: a recipe, or the name of a registered one
    initial: int | None = None  # Sobol points before the first model; None: 2 per variable, at least 5, at most half the budget
    acquisition: Acquisition | str = "automatic"  # what a point promises: a recipe or a name; in TOML also a table of name and fields
    raw_samples: int = 256  # points at which the acquisition function is looked at before the best are refined
    restarts: int = 4  # points that are refined by gradient and by neighbouring levels
    stretch: bool = True  # make every other proposal on a scale of values that is fine near the best, where that fits better
    most_points: int = 10_000  # most observations a model is fitted to: the best half and the latest half
    finish: float | None = None  # converged once the chance that a noticeably better point remains is below this; None: never
    noticeable: float | None = None  # improvement that counts in that; None: the noise, at least a hundredth of the range of values

    risk: Risk = "expectation"  # over a random environment: that, "worst", "value-at-risk" or "conditional-value-at-risk"
    risk_level: float = 0.9  # part of the environments that the value at risk covers
    scenarios: int = 32  # environments that stand for all

    capabilities = Capabilities(
        feedback="values", objectives=None, constraints=True, unbounded=True, choices=True, fidelity=True, environment=True
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "surrogate", make_surrogate(self.surrogate))
        object.__setattr__(self, "acquisition", make_acquisition(self.acquisition))
        for name, least in (("initial", 1), ("raw_samples", 8), ("restarts", 1), ("most_points", 10), ("scenarios", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"bo needs {name} >= {least}; got {value!r}.")
        self._measure  # noqa: B018  (which refuses what cannot be)
        if self.finish is not None and not 0 < self.finish < 1:
            raise ConfigError(f"bo needs finish between 0 and 1, a probability; got {self.finish!r}.")
        if self.noticeable is not None and not 0 <= self.noticeable < math.inf:
            raise ConfigError(f"bo needs noticeable >= 0, in the units of the objective; got {self.noticeable!r}.")

    def check(self, task: Task) -> None:
        """Refuses what the acquisition function refuses."""
        super().check(task)
        self._acquisition.check(task)
        self._surrogate.check(task)
        named = [name for constraint in task.space.constraints for name in constraint.names if name in task.space.environment]
        if named:
            raise ConfigError(f"a known constraint speaks of {named[0]}, which is random in use: a point cannot keep it.")
        if task.space.environment and task.constraints:
            raise ConfigError("bo does not yet judge constraints over a random environment; put their violation into the objective.")
        if self.finish is not None and (len(task.objectives) > 1 or task.space.beyond):
            raise ConfigError(
                "bo can tell what is left to gain for one objective and without context, fidelities and environment; leave finish out."
            )

    @classmethod
    def example_task(cls) -> Example:
        """Branin's function within 25 evaluations."""
        branin = registry.load("branin", "problems")()
        return Example(branin.space, branin, evaluations=25, problem=branin)

    def begin(self, task: Task, random: Random) -> BOState:
        """Nothing told, nothing handed out."""
        return BOState(**Record.blank(task))

    def tell(self, task: Task, state: BOState, observations: Observations, random: Random) -> BOState:
        """Add the rows; a row whose id is known replaces the earlier one."""
        state.add(task, observations)
        return state

    def ask(self, task: Task, state: BOState, request: Request, random: Random) -> tuple[BOState, Candidates]:
        """Sobol points while the design lasts, then the maximisers of the acquisition function, one after the other."""
        wanted = request.n or 1
        pending = host(request.pending(task))
        told = int(state.ok.sum())
        # A derivative tells as much as a value.
        numbers = told + int(torch.isfinite(state.gradients[state.ok]).sum()) // len(task.objectives)
        due = self._initial(task, state, request) - numbers - pending.shape[0]
        first = wanted if told < 2 else min(max(due, 0), wanted)

        taken = torch.cat([state.asked, state.x, pending]) if task.deterministic else pending
        goal = self._goal(task, request)
        fixed = dict(request.fixed) if goal is not None else {**task.space.targets, **request.fixed}
        search = Search(task.space, fixed, taken, task.deterministic, random)
        key = random.at(0).child("design")  # one sequence, whichever call draws from it
        if goal is not None:
            search.first = lambda n, before: goal.first(lambda k, skip: search.spread(k, key, skip), before, n, key.child("beyond"))
        points, used = search.design(key, state.design, first)
        report: dict[str, float | str] = {"model": "none yet"}
        fitted = None
        if first < wanted and len(points) == first:
            with few_threads(told):
                fitted, report = self._modelled(task, state, pending, search, points, wanted, random, goal)
                if fitted is None:
                    extra, more = search.design(key, state.design + used, wanted - len(points))
                    points, used = points + extra, used + more
            if fitted is None:
                reason = str(report["model"]).rstrip(".")
                warnings.warn(f"bo: the model {reason}; Sobol points take its place.", ModelWarning, stacklevel=2)
        if not points:
            raise Exhausted("every point of this deterministic space has been asked, or breaks a known constraint.")
        x = torch.stack(points)
        state.design += used
        state.asked = torch.cat([state.asked, x])
        if fitted is not None:
            state.hyperparameters = {**state.hyperparameters, **fitted.memory}
            state.fits += 1
        state.diagnostics = report
        if fitted is not None:
            seconds = [float(report[name]) for name in ("fit_seconds", "acquisition_seconds")]
            state.timings = state.timings or []
            state.timings.append(Timing(fitted.told, *seconds))
        return state, Candidates(x.to(task.device, task.dtype))

    def recommend(self, task: Task, state: BOState) -> Tensor | None:
        """The observed feasible point of least posterior mean; the least violation where none is feasible.

        None with several objectives: which trade-off to take is not for the method to say. Where the space has context variables, it
        is the best over all contexts seen, and may owe that to its context.
        """
        rows = torch.nonzero(state.ok).flatten()
        if rows.numel() == 0 or len(task.objectives) > 1:
            return None
        if task.space.targets or task.space.environment:
            return self._recommended_beyond(task, state)
        x, violation = state.x[rows], violation_of(state.constraints[rows])
        if not bool((violation <= 0).any()):
            best = int(violation.argmin())
        else:
            score = state.values[rows, 0]
            if not task.deterministic and rows.numel() > 1:
                try:
                    predicted = self.predict(task, state, x)
                except Exception as error:
                    if not numerical(error):
                        raise
                    predicted = None
                if predicted is not None and bool(torch.isfinite(predicted[0]).all()):
                    score = host(predicted[0])[:, 0]
            best = int(torch.where(violation <= 0, score, torch.inf).argmin())
        return x[best].to(task.device, task.dtype)

    def _recommended_beyond(self, task: Task, state: BOState) -> Tensor | None:
        """The point of the least judgement among those told, at the targets of all fidelities."""
        if int(state.ok.sum()) < 2:
            return None
        goal = Goal(task.space, {}, self.scenarios, self._measure)
        random = Random(0).child("recommend")
        search = Search(task.space, {}, state.x[:0], False, random)
        try:
            with few_threads(int(state.ok.sum())):
                fitted = Fitted(self._surrogate, task, self._data(task, state), state.hyperparameters, search, random, goal)
        except Exception as error:
            if not numerical(error):
                raise
            return None
        return fitted.incumbents[0].to(task.device, task.dtype)

    def predict(self, task: Task, state: BOState, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Posterior mean and standard deviation of the objectives, ``(n, m)`` each; None before two points are told."""
        if int(state.ok.sum()) < 2:
            return None
        with few_threads(int(state.ok.sum())):
            means, sds = [], []
            for k, data in enumerate(self._data(task, state).objectives.columns):
                part = fit_part(self._surrogate, data, task, state.hyperparameters, f"objective {k}")
                with torch.no_grad():
                    posterior: Any = part.model.posterior(host(x).unsqueeze(-2))  # of a model that may follow gradients
                    means.append(part.unit * posterior.mean.squeeze(-2))
                    sds.append(part.unit * posterior.variance.squeeze(-2).clamp_min(0).sqrt())
        return torch.cat(means, -1).to(x), torch.cat(sds, -1).to(x)

    def info(self, task: Task, state: BOState) -> dict[str, float | str]:
        """What the last proposal rested on and cost; for one objective also what is left to gain, see ``left_to_gain``."""
        report = dict(state.diagnostics or {})
        if int(state.ok.sum()) < 2 or len(task.objectives) > 1 or task.space.beyond:
            return report
        random = Random(0).child("info")
        search = Search(task.space, {}, state.asked if task.deterministic else state.asked[:0], False, random)
        try:
            with few_threads(int(state.ok.sum())):
                fitted = Fitted(self._surrogate, task, self._data(task, state), state.hyperparameters, search, random)
                report["chance_of_better"], report["expected_gain"] = left_to_gain(fitted, self.noticeable, random)
        except Exception as error:
            if not numerical(error):
                raise
        return report

    def diagnose(self, task: Task, state: BOState) -> Diagnosis | None:
        """The model of a single objective as it was told, and the acquisition function of the next proposal."""
        told = int(state.ok.sum())
        if told < 2 or len(task.objectives) > 1:
            return None
        from zoopt.strategies.bo.inside import inside

        random = Random(0).child("diagnosis")
        goal = self._goal(task, Request())
        search = Search(task.space, task.space.targets if goal is None else {}, state.x[:0], False, random)
        try:
            with few_threads(told):
                fitted = Fitted(self._surrogate, task, self._data(task, state), state.hyperparameters, search, random, goal)
                promise = self._acquisition.function(fitted, None)
                return inside(task, fitted, self._surrogate, promise, list(state.timings or []), dict(state.diagnostics or {}))
        except Exception as error:
            if not numerical(error):
                raise
            return None

    def done(self, task: Task, state: BOState) -> Tensor | None:
        """Whether, as of the last proposal, a noticeably better point is as unlikely as ``finish`` asks; None: not asked for."""
        return None if self.finish is None else torch.tensor(state.chance < self.finish)

    @property
    def _surrogate(self) -> Surrogate:
        return cast(Surrogate, self.surrogate)  # a name was replaced when the recipe was made

    @property
    def _measure(self) -> Measure:
        return Measure(self.risk, self.risk_level)

    def _goal(self, task: Task, request: Request) -> Goal | None:
        """Where points are judged, if fidelities or the environment are to be chosen."""
        space = task.space
        if len(task.objectives) > 1 or not self._acquisition.looks_beyond:
            return None
        goal = Goal(space, request.fixed, self.scenarios, self._measure)
        return goal if len(goal.columns) > len(goal.targets) or goal.cheaper else None

    @property
    def _acquisition(self) -> Acquisition:
        return cast(Acquisition, self.acquisition)

    def _initial(self, task: Task, state: BOState, request: Request) -> int:
        if self.initial is not None:
            return self.initial
        free = task.dim - len(request.fixed)
        need = max(5, 2 * free)
        if request.remaining is not None:
            need = min(need, max(2, (request.remaining + state.asked.shape[0]) // 2))
        return need

    def _data(self, task: Task, state: BOState) -> Data:
        """What the models are fitted to, in the order of the ids, so that the order of tells does not matter."""
        order = torch.argsort(state.ids, stable=True)
        rows = order[state.ok[order]]
        failed = order[~state.ok[order]]
        if rows.numel() > self.most_points:
            earlier, latest = rows[: -(self.most_points // 2)], rows[-(self.most_points // 2) :]
            order = best_first(merit_of(state.values[earlier]), violation_of(state.constraints[earlier]))
            best = order[: self.most_points - latest.numel()]
            rows = torch.cat([earlier[best.sort().values], latest])
        values = torch.stack([winsorised(column) for column in state.values[rows].T], -1)
        slopes = None
        if state.gradients.shape[1] and self._acquisition.takes_derivatives and not task.space.environment:
            kept = values == state.values[rows]  # the derivatives of a value that was brought down are none of what is fitted
            slopes = state.gradients[rows].view(len(rows), values.shape[1], -1)
            slopes = torch.where(kept.unsqueeze(-1), slopes, torch.nan)
        told = TrainingData(state.x[rows], values, state.noise[rows], slopes)
        return Data(told, state.constraints[rows], state.x[failed][-self.most_points :])

    def _modelled(
        self,
        task: Task,
        state: BOState,
        pending: Tensor,
        search: Search,
        points: list[Tensor],
        wanted: int,
        random: Random,
        goal: Goal | None,
    ) -> tuple[Fitted | None, dict[str, float | str]]:
        """Append points by the model until there are ``wanted``, or fewer where the space has no more.

        Returns:
            The fitted models, None where the numerics failed on the way, and what to report.
        """
        acquisition = self._acquisition
        try:
            began = time.perf_counter()
            data = self._data(task, state)
            cold = state.fits % _COLD == 0 and len(data.objectives.x) < _MANY
            renewed = state.fits % _RENEWED == 1
            memory = {
                name: kept
                for name, kept in state.hyperparameters.items()
                if not (renewed if name.startswith("stretch") else cold)  # scales stay where hyperparameters are searched anew
            }
            # Every other proposal: a scale that is right near the best may be wrong between valleys, and the other way round.
            stretch = self.stretch and goal is None and state.fits % 2 == 1 and self._acquisition.any_scale and len(task.objectives) == 1
            fitted = Fitted(self._surrogate, task, data, memory, search, random, goal, stretch)
            whole = search
            if goal is not None and goal.targets and fitted.seeks_feasibility:
                search = search.holding(goal.targets)  # that a point is feasible counts at the target only
            known = time.perf_counter()
            while len(points) < wanted:
                out = torch.cat([pending, *(p.unsqueeze(0) for p in points)])
                fitted.awaited = out if out.shape[0] else None
                child = random.child("search", len(points))
                function = acquisition.function(fitted, fitted.awaited)
                point = search.maximise(function, fitted.incumbents, self.raw_samples, self.restarts, child)
                if point is None and search is not whole:
                    search = whole  # nothing is left at the target
                    continue
                if point is None:
                    break
                search.take(point)
                points.append(point)
            if self.finish is not None:
                told = fitted if fitted.even else Fitted(self._surrogate, task, data, state.hyperparameters, search, random)
                state.chance = left_to_gain(told, self.noticeable, random.child("progress"))[0]
        except Exception as error:
            if not numerical(error):
                raise
            return None, {"model": f"failed: {error}"}  # whatever the numerics do, the asker gets a point
        report: dict[str, float | str] = {
            "model": type(self._surrogate).__name__,
            "acquisition": acquisition.title(fitted),
            "scale": "even" if fitted.even else f"fine within {fitted.units[0] * fitted.stretches[0].size:.3g}",
            "points": float(fitted.told),
            "failures": float(fitted.failures),
            "fit_seconds": known - began,
            "acquisition_seconds": time.perf_counter() - known,
        }
        return fitted, report
