"""Two strategies, one after the other: the second goes on from what the first has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import ConfigError, Exhausted
from zoopt.feedback import Candidates, Observations, rank_rows
from zoopt.generation import as_rows, from_rows
from zoopt.strategy import Capabilities, Example, Request, State, Strategy, Task, make

if TYPE_CHECKING:
    from zoopt.random import Random

_LOOK = 16  # asks between looks at whether the first part has converged
_STRENGTH = ("none", "ranking", "values")  # of feedback


@dataclass
class RelayState(State):
    """Which part is at work, and what it knows.

    Attributes:
        inner: The state of the part at work.
        turn: 0 while the first part is at work, then 1.
        share: Points that the first part may hand out; -1 before the first ask, and without a budget.
        handed: Points it has handed out.
        asks: Calls of ask.
        best: The best rows seen while it was at work, see ``generation.as_rows``, ``(k, d + m + c + 1)``.
    """

    inner: State
    turn: int = 0
    share: int = -1
    handed: int = 0
    asks: int = 0
    best: Tensor | None = None


@dataclass(frozen=True)
class Relay(Strategy[RelayState]):
    """Two strategies one after the other: a global search, then a local one from the best points of the first.

    Any two strategies, and a relay may be a part of another. The first is at work for a share of the evaluations, or until it has
    converged; then the second begins, and the best points so far are told to it as points that are known already.
    """

    first: Strategy[Any] | str = "cbo"  # a recipe or a name; in TOML also a table with the name and its fields
    then: Strategy[Any] | str = "cma-es"  # the second, in the same forms
    share: float = 0.5  # of the evaluations left at the first ask, those of the first part; without a budget it works until it converges
    carry: int = 3  # best points of the first part from which the second starts; 0: it starts anew

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values")

    def __post_init__(self) -> None:
        for name in ("first", "then"):
            object.__setattr__(self, name, make(getattr(self, name)))
        if not 0 < self.share < 1:
            raise ConfigError(f"share must be between 0 and 1; got {self.share!r}.")
        if not (isinstance(self.carry, int) and self.carry >= 0):
            raise ConfigError(f"carry must be a number of points, 0 or more; got {self.carry!r}.")
        object.__setattr__(self, "capabilities", _both(*(part.capabilities for part in self.parts)))

    @property
    def parts(self) -> tuple[Strategy[Any], Strategy[Any]]:
        """Both recipes."""
        return self.first, self.then  # type: ignore[return-value]

    def check(self, task: Task) -> None:
        super().check(task)
        for part in self.parts:
            part.check(task)

    def begin(self, task: Task, random: Random) -> RelayState:
        return RelayState(self.parts[0].begin(task, random.child("first")))

    def ask(self, task: Task, state: RelayState, request: Request, random: Random) -> tuple[RelayState, Candidates]:
        if state.turn == 0:
            share = state.share
            if share < 0 and request.remaining is not None:
                share = max(1, round(self.share * (state.handed + request.remaining)))
            if not (0 <= share <= state.handed or self._converged(task, state)):
                left = None if share < 0 else share - state.handed
                n = left if request.n is None or (left is not None and left < request.n) else request.n
                try:
                    inner, candidates = self.parts[0].ask(task, state.inner, request.limited(n, left), random.child("first"))
                except Exhausted:
                    pass
                else:
                    state.inner, state.share, state.asks = inner, share, state.asks + 1
                    state.handed += int(candidates.x.shape[-2])
                    return state, self._marked(candidates, 0)
            return self._hand_over(task, state, request, random)
        state.inner, candidates = self.parts[1].ask(task, state.inner, request, random.child("then"))
        return state, self._marked(candidates, 1)

    def tell(self, task: Task, state: RelayState, observations: Observations, random: Random) -> RelayState:
        part = observations.column("part")
        owner = np.full(observations.n, -1) if part is None else np.asarray(part)
        if state.turn == 0:
            self._remember(task, state, observations)
            rows, name = np.nonzero(owner < 1)[0], "first"
        else:  # what still comes of the first part is an added point to the second, whose columns it does not have
            rows, name = np.arange(observations.n), "then"
        if len(rows):
            state.inner = self.parts[state.turn].tell(task, state.inner, observations.take(rows, name), random.child(name))
        return state

    def recommend(self, task: Task, state: RelayState) -> Tensor | None:
        return self.parts[state.turn].recommend(task, state.inner)

    def predict(self, task: Task, state: RelayState, x: Tensor) -> tuple[Tensor, Tensor] | None:
        return self.parts[state.turn].predict(task, state.inner, x)

    def done(self, task: Task, state: RelayState) -> Tensor | None:
        return self.parts[1].done(task, state.inner) if state.turn else None

    def info(self, task: Task, state: RelayState) -> dict[str, float | str]:
        part = self.parts[state.turn]
        return {"part": type(part).__name__, **part.info(task, state.inner)}

    def _converged(self, task: Task, state: RelayState) -> bool:
        """Whether the first part says so; looked at now and then."""
        if state.asks % _LOOK or not state.asks:
            return False
        done = self.parts[0].done(task, state.inner)
        return done is not None and bool(done.all())

    def _marked(self, candidates: Candidates, turn: int) -> Candidates:
        """Points that say which part they are from."""
        return candidates.prefixed(("first", "then")[turn], part=np.full(candidates.x.shape[-2], turn))

    def _hand_over(self, task: Task, state: RelayState, request: Request, random: Random) -> tuple[RelayState, Candidates]:
        """The second part begins, with what it is told to begin from."""
        second, key = self.parts[1], random.child("then")
        inner = second.begin(task, key.child("begin"))
        if state.best is not None and self.carry:
            inner = second.tell(task, inner, from_rows(task, state.best), key.child("carry"))
        inner, candidates = second.ask(task, inner, request, key)
        state.inner, state.turn, state.best = inner, 1, None
        return state, self._marked(candidates, 1)

    def _remember(self, task: Task, state: RelayState, observations: Observations) -> None:
        """Keep the best rows."""
        if not self.carry or not observations.has_values:
            return
        rows = as_rows(task, observations)
        if state.best is not None:
            rows = torch.cat([state.best, rows])
        rows = rows[rows[:, -1] > 0]
        d, m = task.dim, len(task.objectives)
        constraints = rows[:, d + m : -1] if task.constraints else None
        rows = rows[torch.argsort(rank_rows(rows[:, d : d + m], constraints), stable=True)]
        new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        new[1:] = (rows[1:, :d] != rows[:-1, :d]).any(-1)  # a point that was met again says nothing of the scale there
        state.best = rows[new][: self.carry].clone()

    @classmethod
    def example_task(cls) -> Example:
        from zoopt.testing import sphere_example

        return sphere_example(4000)


def _both(a: Capabilities, b: Capabilities) -> Capabilities:
    """What two strategies can do together, one run at a time."""
    counts = [c.objectives for c in (a, b) if c.objectives is not None]
    return Capabilities(
        feedback=max(a.feedback, b.feedback, key=_STRENGTH.index),
        objectives=min(counts) if counts else None,
        constraints=a.constraints and b.constraints,
        batched=False,
        unbounded=a.unbounded and b.unbounded,
        choices=a.choices and b.choices,
        requires=tuple(dict.fromkeys((*a.requires, *b.requires))),
        learns=a.learns or b.learns,
        stochastic=a.stochastic or b.stochastic,
    )
