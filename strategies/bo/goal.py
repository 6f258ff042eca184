"""What counts of a point where evaluations are made in several ways: its value at the target of every fidelity, over the environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.random import Random

if TYPE_CHECKING:
    from zoopt.space import Space

_F64 = torch.float64
_GRID = 256  # intervals in which the cost of a fidelity is taken for linear in its encoded value
_AT_TARGET = 4  # one point of so many of the first design is at the target
_NODES = 8  # equally likely outcomes of an evaluation
_WORLDS = 16  # joint samples of what a risk is measured of
_JUDGED = 64  # the same, where points are judged by what is known
_ROWS = 4096  # points that are predicted together
_AT_ONCE = 32  # points of which a risk is looked at together: their samples take memory
_LEAST = 1e-300  # of what is positive before its logarithm is taken

Risk = Literal["expectation", "worst", "value-at-risk", "conditional-value-at-risk"]


@dataclass(frozen=True)
class Measure:
    """One number of the values in all scenarios: the expectation, or what happens in the worst of them.

    Args:
        risk: Which.
        level: Part of the scenarios that are no worse than the value at risk; the others make up the conditional one.
    """

    risk: Risk = "expectation"
    level: float = 0.9

    def __post_init__(self) -> None:
        if self.risk not in get_args(Risk):
            raise ConfigError(f"risk must be one of {', '.join(get_args(Risk))}; got {self.risk!r}.")
        if not 0 < self.level < 1:
            raise ConfigError(f"risk_level must lie between 0 and 1; got {self.level!r}.")

    @property
    def linear(self) -> bool:
        """Whether it is an expectation."""
        return self.risk == "expectation"

    def __call__(self, values: Tensor) -> Tensor:
        """Of equally likely ``values: (..., k)``, the smaller the better, ``(...)``. Rockafellar & Uryasev (2002)."""
        if self.linear:
            return values.mean(-1)
        if self.risk == "worst":
            return values.amax(-1)
        k = values.shape[-1]
        worst_first = values.sort(-1, descending=True).values
        beyond = (1.0 - self.level) * k
        if self.risk == "value-at-risk":
            return worst_first[..., min(int(beyond + 1e-9), k - 1)]
        shares = (beyond - torch.arange(k, dtype=values.dtype)).clamp(0.0, 1.0)
        return (worst_first * shares).sum(-1) / beyond


class Goal:
    """Where a point is judged: at the targets of the fidelities, in each of some equally likely scenarios of the environment.

    Args:
        space: The space.
        fixed: Columns that the asker sets.
        scenarios: Most scenarios.
        measure: Of the values in them.

    Attributes:
        columns: Columns beyond what is searched.
        settings: Their values, ``(k, len(columns))``.
        measure: Of k values.
    """

    def __init__(self, space: Space, fixed: Mapping[int, float], scenarios: int, measure: Measure) -> None:
        self.space = space
        targets = {i: value for i, value in space.targets.items() if i not in fixed}
        random = [i for i, column in enumerate(space.columns) if column.role == "environment"]
        self.columns = [*targets, *(i for i in random if i not in fixed)]
        self.measure = measure
        settings = torch.tensor(list(targets.values()), dtype=_F64).unsqueeze(0)
        if len(self.columns) > len(targets):
            law = measure.risk != "worst"  # the worst is so however seldom it comes
            if len(random) == 1:
                u = ((np.arange(scenarios) + 0.5) / scenarios if law else np.linspace(0.0, 1.0, scenarios))[:, None]
            else:
                u = torch.quasirandom.SobolEngine(len(random), scramble=True, seed=0).draw(scenarios, dtype=_F64).numpy()
            columns, values = space.scenarios(u, law)
            kept = torch.from_numpy(values[:, [columns.index(i) for i in self.columns[len(targets) :]]])
            settings = torch.cat([settings.expand(scenarios, -1), kept], -1)
        self.settings = settings
        self.targets = targets
        self._costs = {i: self._log_costs(i) for i in targets}

    @property
    def cheaper(self) -> bool:
        """Whether some evaluation is cheaper than one at the target."""
        target = torch.from_numpy(self.space.start)
        return any(float(costs.min()) < float(self._log_cost(i, target[i : i + 1])) - 1e-9 for i, costs in self._costs.items())

    def _log_costs(self, column: int) -> Tensor:
        """Logarithm of the cost by the level of a choice, or at evenly spaced encoded values of a number."""
        space = self.space
        info = space.columns[column]
        at = np.arange(float(info.cardinality or 0)) if info.kind == "choice" else np.linspace(0.0, 1.0, _GRID + 1)
        x = np.tile(space.start, (len(at), 1))
        x[:, column] = at
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(space.cost(space.snap_numpy(x))))

    def log_cost(self, x: Tensor) -> Tensor:
        """Logarithm of the cost of evaluations at ``x: (m, d)``, ``(m,)``; differentiable, inf where they are never made."""
        total = torch.zeros_like(x[:, 0])
        for column in self._costs:
            total = total + self._log_cost(column, x[:, column])
        return total

    def _log_cost(self, column: int, at: Tensor) -> Tensor:
        costs = self._costs[column]
        if self.space.columns[column].kind == "choice":
            return costs[at.detach().round().long()]
        left = (at.detach() * _GRID).long().clamp(0, _GRID - 1)
        part = at * _GRID - left
        return costs[left] * (1.0 - part) + costs[left + 1] * part

    def judged(self, x: Tensor) -> Tensor:
        """Points ``(..., d)`` in all scenarios, ``(..., k, d)``."""
        k = len(self.settings)
        everywhere = x.unsqueeze(-2).expand(*x.shape[:-1], k, x.shape[-1]).clone()
        everywhere[..., self.columns] = self.settings
        return everywhere

    def plain(self, x: Tensor) -> Tensor:
        """Points ``(..., d)`` without what is beyond them: at the targets, and all in the same environment."""
        alike = x.clone()
        alike[..., self.columns] = torch.from_numpy(self.space.start)[self.columns]
        return alike

    def allowed(self, x: Tensor) -> Tensor:
        """Which points ``(n, d)`` keep the known constraints where they are judged, ``(n,)`` bool."""
        if not self.space.constraints:
            return torch.ones(len(x), dtype=torch.bool)
        return torch.from_numpy(self.space.allowed(self.space.snap_numpy(self.plain(x.detach()).numpy())))

    def first(self, sequence: Callable[[int, int], Tensor], number: int, n: int, random: Random) -> Tensor:
        """``n`` points of the first design, of which ``number`` were made, ``(n, d)``: environments by their law, cheap fidelities oftener.

        Every fourth is the one before it again, at the target, which shows what the fidelity changes.

        Args:
            sequence: Gives points of a design over the whole space by how many and how many are skipped.
            number: Points made before.
            n: How many.
            random: Key.
        """
        numbers = number + torch.arange(n)
        again = (numbers % _AT_TARGET == _AT_TARGET - 1) & bool(self.targets)
        x = torch.stack([sequence(1, int(i) - int(a))[0] for i, a in zip(numbers, again, strict=True)])
        for column, costs in self._costs.items():
            choice = self.space.columns[column].kind == "choice"
            chance = torch.exp(-costs) if choice else torch.exp(-costs[:-1])
            u = torch.stack([random.child(column, int(i)).uniform(()) for i in numbers])
            level = torch.searchsorted(chance.cumsum(0) / chance.sum(), u).clamp_max(len(chance) - 1)
            drawn = level.to(x.dtype) if choice else (level.to(x.dtype) + 0.5) / _GRID
            x[:, column] = torch.where(again, self.targets[column], drawn)
        random_columns = [i for i in self.columns if i not in self.targets]
        if random_columns:
            columns, values = self.space.scenarios(self._uniform(x, random_columns))
            x[:, random_columns] = torch.from_numpy(values[:, [columns.index(i) for i in random_columns]])
        return x

    def _uniform(self, x: Tensor, columns: list[int]) -> np.ndarray[Any, Any]:
        """Numbers in [0, 1] from which encoded columns, spread by their encoding, were made; of unbounded ones by the normal law."""
        u = []
        for column in columns:
            info, at = self.space.columns[column], x[:, column].numpy()
            if info.kind == "choice":
                u.append((at + 0.5) / float(info.cardinality or 1))
            elif math.isinf(self.space.upper[column]):
                u.append(np.asarray(torch.special.ndtr(torch.from_numpy(at))))
            else:
                u.append(at)
        return np.stack(u, -1)


def judgement(model: Any, x: Tensor, goal: Goal) -> Tensor:
    """What is expected of the measure of a model's one output at ``x: (n, d)``, ``(n,)``: a risk over joint samples of the scenarios."""
    everywhere = goal.judged(goal.plain(x))
    n, k, d = everywhere.shape
    with torch.no_grad():
        if goal.measure.linear:
            parts = [model.posterior(part).mean.reshape(-1) for part in everywhere.reshape(n * k, 1, d).split(_ROWS)]
            plain: Tensor = goal.measure(torch.cat(parts).reshape(n, k))
            return plain
        found = []
        drawn = Random(0).child("judgement").normal((_JUDGED, k)).mT
        for some in everywhere.split(64):
            posterior = model.posterior(some)
            values: Tensor = posterior.mean + batch_root(posterior.distribution.covariance_matrix) @ drawn  # (n, k, worlds)
            found.append(goal.measure(values.mT).mean(-1))
        return torch.cat(found)


def batch_root(covariance: Tensor) -> Tensor:
    """A root ``(..., k, k)`` of covariances that may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
    return root


def knowledge(
    model: Any, noise: float, goal: Goal, places: Tensor, log_gain: Callable[[Tensor, Tensor], Tensor], random: Random
) -> Callable[[Tensor], Tensor]:
    """Logarithm of how much the least judgement of some points is expected to fall by an evaluation at ``(m, 1, d)``, over its cost.

    Poloczek, Wang, Frazier, Multi-information source optimization, NeurIPS 2017; Toscano-Palmerin & Frazier, Bayesian optimization with
    expensive integrands, arXiv:1803.08661; of a risk, over joint samples: Cakmak, Astudillo, Frazier, Zhou, Bayesian optimization of risk
    measures, NeurIPS 2020.

    Args:
        model: Of the objective.
        noise: Variance of an outcome.
        goal: Where points are judged.
        places: Points among which the least is looked for, ``(g, d)``; for an expectation also the one evaluated.
        log_gain: ``log(E[max_i (a_i + b_i Z)] - max_i a_i)`` of ``(m, k)`` heights and slopes.
        random: Key.
    """
    gain = _of_expectation(model, noise, goal, places, log_gain) if goal.measure.linear else _of_risk(model, noise, goal, places, random)
    return lambda x: gain(x.squeeze(-2)) - goal.log_cost(x.squeeze(-2))


def _of_expectation(
    model: Any, noise: float, goal: Goal, places: Tensor, log_gain: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """In closed form."""
    from zoopt.surrogates.exact_gp import across

    kept = goal.allowed(places)
    everywhere = goal.judged(goal.plain(places[kept] if bool(kept.any()) else places))
    g, k, d = everywhere.shape
    with torch.no_grad():
        ahead = model.posterior(everywhere.reshape(g * k, 1, d)).mean.reshape(g, k).mean(-1)
    between = across(model, everywhere.reshape(g * k, d))

    def gain(x: Tensor) -> Tensor:
        there, with_own, variance, own = between(x, goal.judged(goal.plain(x)))
        sd = (variance + noise).clamp_min(1e-300).sqrt().unsqueeze(-1)
        height, slope = own.mean(-1), with_own.mean(-1)
        if goal.space.constraints:  # what may not be at the target is no answer, but tells of others
            may = goal.allowed(x)
            height, slope = torch.where(may, height, ahead.max()), torch.where(may, slope, 0.0)
        a = torch.cat([height.unsqueeze(-1), ahead.expand(len(x), g)], 1)
        b = torch.cat([slope.unsqueeze(-1), there.view(-1, g, k).mean(-1)], 1) / sd
        return log_gain(-a, b)

    return gain


def _of_risk(model: Any, noise: float, goal: Goal, places: Tensor, random: Random) -> Callable[[Tensor], Tensor]:
    """Over joint samples of what is judged, each corrected for what the outcome of the evaluation would show."""
    from zoopt.surrogates.exact_gp import across

    everywhere = goal.judged(goal.plain(places))
    g, k, d = everywhere.shape
    everywhere = everywhere.reshape(g * k, d)
    with torch.no_grad():
        posterior = model.posterior(everywhere)
        covariance = posterior.distribution.covariance_matrix
        size = covariance.diagonal().mean()
        root = torch.linalg.cholesky(covariance + 1e-6 * size * torch.eye(g * k, dtype=_F64))
        drawn = random.child("worlds").normal((g * k, _WORLDS))
        worlds = (posterior.mean + root @ drawn).mT.reshape(_WORLDS, 1, g, k)
        weights = torch.linalg.solve_triangular(root.mT, drawn, upper=True)  # by which they say what the value elsewhere is
    beside = random.child("beside").normal((_WORLDS,))
    between = across(model, everywhere)
    nodes = torch.special.ndtri((torch.arange(_NODES, dtype=_F64) + 0.5) / _NODES)

    def some(x: Tensor) -> Tensor:
        there, _, variance, _ = between(x, x.unsqueeze(1))
        sd = (variance + noise).clamp_min(1e-300).sqrt().unsqueeze(-1)
        known = torch.linalg.solve_triangular(root, there.mT, upper=False).square().sum(0)
        rest = (variance - known).clamp_min(0.0) + noise
        shown = (there @ weights + (rest + 1e-300).sqrt().unsqueeze(-1) * beside) / sd  # (m, worlds)
        moved = nodes - shown.unsqueeze(-1)  # (m, worlds, nodes)
        values = worlds + moved.unsqueeze(-1).unsqueeze(-1) * (there / sd).view(-1, 1, 1, g, k)
        judged = goal.measure(values).mean(1)  # (m, nodes, g)
        fall = judged.mean(1).amin(-1) - judged.amin(-1).mean(-1)
        return fall.clamp_min(_LEAST).log()

    return lambda x: torch.cat([some(part) for part in x.split(_AT_ONCE)])
