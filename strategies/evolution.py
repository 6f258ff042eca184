"""What the strategies on pymoo's evolutionary algorithms share (Blank & Deb, pymoo, IEEE Access 2020).

pymoo does the search. Here its random numbers come from the key of each call, its population is kept as arrays from which
the algorithm goes on exactly as it would have, and it is told whole generations of finite numbers only.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import CapabilityError, ConfigError
from zoopt.feedback import Candidates, Observations
from zoopt.generation import Generational
from zoopt.history import pareto_rows
from zoopt.strategy import Capabilities, Example, State, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random

Array = np.ndarray[Any, np.dtype[Any]]

# A failed point is worse than any other, yet finite: NaN and infinity spoil what pymoo computes from a whole population.
_WORST = sys.float_info.max

_GROUPS = ("pop", "particles", "sbest")  # populations that pymoo's algorithms carry from one generation to the next
_NUMBERS = ("is_initialized", "n_iter", "w", "c1", "c2", "f", "strategy")


@dataclass
class EvolutionState(State):
    """pymoo's populations and numbers.

    Attributes:
        groups: By the name of the algorithm's attribute, each population as arrays that lead with its size: ``X`` (encoded
            ``(n, d)``), ``F`` and ``G`` (objectives and constraints) and what the algorithm attached (rank, velocity, ...).
        offspring: The generation that is out, in the same form; empty between generations.
        known: Members of the first population that need no evaluation, in the same form, until they have joined it.
        numbers: The algorithm's numbers by attribute.
    """

    groups: dict[str, dict[str, Array]] = field(default_factory=dict)
    offspring: dict[str, Array] = field(default_factory=dict)
    known: dict[str, Array] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    alive: _Live | None = live()

    def freeze(self) -> None:
        if self.alive is None:
            return
        algorithm = self.alive.algorithm
        carried = {name: getattr(algorithm, name, None) for name in _GROUPS}
        self.groups = {name: _pack(group) for name, group in carried.items() if group is not None and len(group)}
        self.offspring = {} if self.alive.offspring is None else _pack(self.alive.offspring)
        self.numbers = {name: _plain(algorithm.__dict__[name]) for name in _NUMBERS if name in algorithm.__dict__}


class _Live:
    """pymoo's algorithm, the generation that is out, and the same as encoded points, recognised by identity."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm
        self.offspring: Any = None
        self.x: Tensor | None = None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _pack(group: Any) -> dict[str, Array]:
    """A population as arrays; where some members lack an entry, ``name?`` says which have it."""
    arrays: dict[str, Array] = {name: np.array([getattr(member, name) for member in group], dtype=float) for name in ("X", "F", "G")}
    for name in sorted({name for member in group for name in member.data}):
        has = np.array([name in member.data for member in group])
        values = [member.data[name] for member in group if name in member.data]
        packed = np.array(values)
        if has.all():
            arrays[name] = packed
        else:
            arrays[name] = np.zeros((len(group), *packed.shape[1:]), packed.dtype)
            arrays[name][has] = packed
            arrays[f"{name}?"] = has
    return arrays


def _unpack(arrays: dict[str, Array]) -> Any:
    from pymoo.core.population import Population

    group = Population.empty(len(arrays["X"]))
    for name, values in arrays.items():
        if name.endswith("?"):
            continue
        has = arrays.get(f"{name}?")
        for i, member in enumerate(group):
            if has is None or has[i]:
                value = values[i]
                member.set(name, value.copy() if isinstance(value, np.ndarray) else value)
    return group


def _fittest(x: Array, values: Array, constraints: Array, n: int) -> Array:
    """Numbers of the n best of rows that come in order of merit; with several objectives the feasible ones front by front.

    Where a front has too many rows, they are taken evenly along its first objective. Of equal points the first one counts.
    """
    _, first = np.unique(x, axis=0, return_index=True)
    rows = np.sort(first)
    if values.shape[1] == 1 or len(rows) <= n:
        return rows[:n]
    feasible = (constraints[rows] <= 0.0).all(1)
    left, chosen = rows[feasible], rows[:0]
    while len(left) and len(chosen) < n:
        front = pareto_rows(values[left])
        best, left = left[front], np.delete(left, front)
        if len(best) > n - len(chosen):
            best = best[np.argsort(values[best, 0], kind="stable")]
            best = best[np.linspace(0, len(best) - 1, n - len(chosen)).round().astype(int)]
        chosen = np.concatenate([chosen, best])
    return np.concatenate([chosen, rows[~feasible]])[:n]


@dataclass(frozen=True)
class Evolution(Generational):
    """Base class of the strategies on pymoo: a subclass names its algorithm.

    Results that are added before the first ask are members of the first population, the best of them where there are more than
    ``popsize``; only the others are asked. Results added later teach it nothing. Where the study is ``deterministic`` and all
    variables are integers or choices, a point that is met again costs no evaluation. Results are compared as if they all came
    from one context; where the context changes what is good use ``bo``.
    """

    popsize: int = 100  # points of a generation

    capabilities: ClassVar[Capabilities] = Capabilities(unbounded=False)
    smallest: ClassVar[int] = 2  # the least population that the algorithm works with

    def __post_init__(self) -> None:
        if self.popsize < self.smallest:
            raise ConfigError(f"popsize must be at least {self.smallest} for {type(self).__name__}; got {self.popsize!r}.")

    @classmethod
    def example_task(cls) -> Example:
        """The default example within 20 generations: the first few of a large population hardly differ from random search."""
        from zoopt.testing import sphere_example

        return sphere_example(20 * cls.popsize)

    def algorithm(self, task: Task) -> Any:
        """A new algorithm of pymoo with these hyper-parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not define algorithm().")

    def start(self, task: Task, random: Random) -> EvolutionState:
        if task.dim == 0:
            raise CapabilityError(
                f"{type(self).__name__} needs at least one variable to search, but every variable of this space is fixed."
            )
        return EvolutionState()

    def learn_added(self, task: Task, inner: EvolutionState, added: Observations, random: Random) -> EvolutionState:
        x, values = (part.cpu().numpy().astype(float) for part in (added.x, added.values))
        constraints = np.empty((len(x), 0)) if added.constraints is None else added.constraints.cpu().numpy().astype(float)
        rows = _fittest(x, values, constraints, self.popsize)
        inner.known = {"X": x[rows], "F": values[rows], "G": constraints[rows]}
        return inner

    def propose(self, task: Task, inner: EvolutionState, random: Random) -> tuple[EvolutionState, Candidates]:
        alive = self._live(task, inner)
        algorithm = alive.algorithm
        algorithm.random_state = generator = random.numpy()
        if len(known := inner.known.get("X", ())) == self.popsize:
            algorithm.ask()  # takes the place of the points it would begin with
            algorithm.tell(infills=_unpack(inner.known))
            inner.known, known = {}, ()
        algorithm.pop_size = self.popsize - len(known)
        offspring = algorithm.ask()
        algorithm.pop_size = self.popsize
        if offspring is None:  # the whole population is one point, so that only duplicates were born
            from pymoo.core.population import Population

            algorithm.termination.force_termination = False
            low, high = algorithm.problem.bounds()
            offspring = Population.new(X=low + (high - low) * generator.random((self.popsize, task.dim)))
        alive.offspring = offspring
        alive.x = _tensor(offspring, task)
        return inner, Candidates(alive.x)

    def update(self, task: Task, inner: EvolutionState, generation: Observations, random: Random) -> EvolutionState:
        alive = self._live(task, inner)
        offspring = alive.offspring
        if generation.x is not alive.x:
            self._move(task, alive, generation.x)
        values = generation.values.cpu().numpy().astype(float, copy=False)
        constraints = None if generation.constraints is None else generation.constraints.cpu().numpy().astype(float, copy=False)
        bad = ~np.isfinite(values).all(-1)
        if constraints is not None:
            bad |= ~np.isfinite(constraints).all(-1)
        if not generation.all_ok:
            bad |= ~generation.ok.cpu().numpy()
        if bad.any():
            values = np.where(bad[:, None], _WORST, values)
            if constraints is not None:
                constraints = np.where(bad[:, None], 0.0, constraints)
                constraints[bad, 0] = _WORST
        offspring.set("F", values)
        if constraints is not None:
            offspring.set("G", constraints)
        if inner.known:
            from pymoo.core.population import Population

            offspring = Population.merge(_unpack(inner.known), offspring)
            inner.known = {}
        alive.algorithm.random_state = random.numpy()
        alive.algorithm.tell(infills=offspring)
        alive.offspring = alive.x = None
        return inner

    def _move(self, task: Task, alive: _Live, x: Tensor) -> None:
        """Give members that were evaluated elsewhere than proposed the point that was evaluated."""
        if alive.x is None:
            alive.x = _tensor(alive.offspring, task)
        moved = ~(x == alive.x).all(-1).cpu().numpy()
        if moved.any():
            alive.offspring[moved].set("X", x.detach().cpu().to(torch.float64).numpy()[moved])

    def _live(self, task: Task, state: EvolutionState) -> _Live:
        if state.alive is not None:
            return state.alive
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

        problem = Problem(
            n_var=task.dim,
            n_obj=len(task.objectives),
            n_ieq_constr=len(task.constraints),
            xl=np.array(task.space.lower, dtype=float),
            xu=np.array(task.space.upper, dtype=float),
        )
        algorithm = self.algorithm(task)
        algorithm.setup(problem, termination=NoTermination())
        for name, value in state.numbers.items():
            setattr(algorithm, name, value)
        for name, arrays in state.groups.items():
            setattr(algorithm, name, _unpack(arrays))
        if algorithm.is_initialized:
            algorithm._set_optimum()
        state.alive = _Live(algorithm)
        if state.offspring:
            state.alive.offspring = _unpack(state.offspring)
        return state.alive


def _tensor(group: Any, task: Task) -> Tensor:
    return torch.from_numpy(group.get("X").astype(float)).to(task.device, task.dtype)
