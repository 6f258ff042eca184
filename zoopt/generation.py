"""Partial asks, late, failed and dropped tells, rankings and added points for strategies that work in generations.

A strategy that proposes a whole generation and learns from a whole generation derives from ``Generational`` and
writes ``start``, ``propose`` and ``update``; everything that can happen between the two is handled here, once. Each
candidate carries its generation and slot as columns, so results are put where they belong whatever their order. Random
numbers are keyed by the generation's number: the same results in any order and in any pieces give the same next generation.

Results of points the method never proposed (added by the user) start it: those known before the first generation is
proposed go to ``learn_added``, ordered from the best to the worst so that it does not matter how they came. Later ones
teach a method of generations nothing.

Where the objective is deterministic and the space finite, a proposed point that has a result already gets that result
without an evaluation, and equal points of a generation share one: the search is the one that would evaluate them again,
for less. Only where a whole generation is known are points that were never asked evaluated in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import NotReady, StrategyError
from zoopt.feedback import Candidates, Column, Observations, Ranking, column_rows, rank_rows
from zoopt.strategy import Request, State, Strategy, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random


@dataclass
class GenerationState(State):
    """The method's own state, the generation that is out, and what has come back of it so far.

    Attributes:
        inner: What the method has learned.
        number: Number of the current generation, from 0; -1 before the first.
        added: What was told before the first generation, in pieces ``(k, d + m + c + 1)``: points, values, constraints, ok.
        known: In the same form, the results of all points of a finite, deterministic space.
        proposed: Its points as the method proposed them, ``(*runs, n, d)``; None between generations.
        asked: The same as handed out, snapped and moved inside the known constraints where needed.
        columns: The method's own columns of the generation.
        handed: Slots handed out so far.
        free: Slots to hand out, ascending, where the others need no evaluation; None: all of them.
        twins: By slot, the first slot with the same point, whose result it shares; None: each has its own.
        closed: ``(n,)`` bool, the slots that have a result; None while nothing has come back.
        ok: ``(*runs, n)`` bool, results that did not fail; None while none has failed.
        x, values, constraints, noise, gradients: What came back, by slot.
        scores: ``(2, n)``: sum and number of normalised ranks from rankings.
    """

    inner: State
    number: int = -1
    added: list[Tensor] = field(default_factory=list)
    known: list[Tensor] = field(default_factory=list)
    proposed: Tensor | None = None
    asked: Tensor | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    handed: int = 0
    free: np.ndarray[Any, Any] | None = None
    twins: np.ndarray[Any, Any] | None = None
    closed: np.ndarray[Any, Any] | None = None
    ok: Tensor | None = None
    x: Tensor | None = None
    values: Tensor | None = None
    constraints: Tensor | None = None
    noise: Tensor | None = None
    gradients: Tensor | None = None
    scores: np.ndarray[Any, Any] | None = None
    results: Any = live()  # rows of ``known`` by point
    numbers: Any = live()  # the generation column of a generation handed out whole, recognised by identity

    @property
    def size(self) -> int:
        """Number of points in the current generation; 0 between generations."""
        return 0 if self.proposed is None else int(self.proposed.shape[-2])


@dataclass(frozen=True)
class Generational(Strategy[GenerationState]):
    """Base class of strategies that propose and learn from whole generations."""

    def start(self, task: Task, random: Random) -> State:
        """The method's own state before the first generation."""
        raise NotImplementedError(f"{type(self).__name__} does not define start().")

    def propose(self, task: Task, inner: Any, random: Random) -> tuple[State, Candidates]:
        """One whole generation of encoded points, which need be neither snapped nor inside the known constraints."""
        raise NotImplementedError(f"{type(self).__name__} does not define propose().")

    def update(self, task: Task, inner: Any, generation: Observations, random: Random) -> State:
        """Learn from a closed generation, in slot order.

        ``generation.x`` is the proposed (latent) position where the evaluated point is what that position was snapped or
        moved to, in whatever context it was asked, and the evaluated point itself otherwise. Failed and dropped slots have
        value +inf and are not ``ok``. Where an order is all there is, ``generation.rankings`` holds it, by slot, and the
        values are but its scores.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define update().")

    def learn_added(self, task: Task, inner: Any, added: Observations, random: Random) -> State:
        """Start from results of points that were never proposed; called once, before the first generation, where there are any.

        Default: they are ignored.

        Args:
            task: What is solved.
            inner: What ``start`` gave.
            added: Points, values and constraints, the best first: feasible ones by value, then the others by violation; with
                several objectives feasible ones come in an order without meaning. No row has failed, and there is one at least.
            random: The key of this call.
        """
        return inner  # type: ignore[no-any-return]

    def begin(self, task: Task, random: Random) -> GenerationState:  # noqa: D102
        return GenerationState(_checked(self, "start", self.start(task, random.at(-1).child("start"))))

    def ask(  # noqa: D102
        self, task: Task, state: GenerationState, request: Request, random: Random
    ) -> tuple[GenerationState, Candidates]:
        if state.proposed is None:
            _open(self, task, state, request, random.at(state.number + 1))
        size = state.size
        free = _all_slots(size) if state.free is None else state.free
        left = len(free) - state.handed
        if left == 0:
            waiting = size if state.closed is None else int((~state.closed[free]).sum())
            raise NotReady(f"generation {state.number} is out: {waiting} of its {size} points have no result yet.")
        n = left if request.n is None else min(request.n, left)
        slots = free if n == len(free) else free[state.handed : state.handed + n]
        state.handed += n
        assert state.asked is not None and state.proposed is not None
        numbers = np.full(n, state.number)
        columns: dict[str, Column] = {"generation": numbers, "slot": slots}
        if n == size:
            columns.update(state.columns)
            x, latent = state.asked, state.proposed
            state.numbers = numbers
        else:
            own = slice(int(slots[0]), int(slots[0]) + n) if state.free is None else slots
            columns.update({name: column_rows(column, own, len(task.runs)) for name, column in state.columns.items()})
            x, latent = state.asked[..., own, :], state.proposed[..., own, :]
        if state.asked is not state.proposed:
            columns["latent"] = latent
        return state, Candidates(x, columns)

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:  # noqa: D102
        if _recalls(task):
            _remember(task, state, observations)
        if state.number < 0:
            if type(self).learn_added is not Generational.learn_added and observations.has_values:
                _push(state.added, as_rows(task, observations))
            return state
        slots = observations.column("slot")
        if slots is None or state.proposed is None:
            return state  # added points, and results of generations that are closed already
        numbers = observations.column("generation")
        if state.closed is None and not observations.rankings and _whole(state, slots, numbers):
            unchanged = observations.as_asked and not task.runs
            generation = _closed(task, state, observations) if unchanged or state.asked is not state.proposed else observations
        else:
            slots = np.asarray(slots)
            rows = np.nonzero((np.asarray(numbers) == state.number) & (slots >= 0) & (slots < state.size))[0]
            if len(rows) == 0:
                return state
            closed = _collect(task, state, observations, *_shared(state, rows, slots[rows]))
            if not closed.all():
                return state
            generation = _collected(task, state)
        inner = self.update(task, state.inner, generation, random.at(state.number).child("update"))
        state.inner = _checked(self, "update", inner)
        state.proposed = state.asked = state.numbers = state.free = state.twins = state.closed = state.ok = None
        state.x = state.values = state.constraints = state.noise = state.gradients = state.scores = None
        state.columns = {}
        return state


@lru_cache(maxsize=16)
def _all_slots(size: int) -> np.ndarray[Any, Any]:
    """The slots of a generation of this size; nobody may write into them."""
    slots = np.arange(size)
    slots.flags.writeable = False
    return slots


def _checked(strategy: Generational, method: str, inner: Any) -> State:
    """What a method gave as its state: a `State`, and not None because a return was forgotten."""
    if not isinstance(inner, State):
        raise StrategyError(
            f"{type(strategy).__name__}.{method}() must give the method's state, a dataclass derived from zoopt.State; got {inner!r}."
        )
    return inner


def as_rows(task: Task, told: Observations) -> Tensor:
    """What was told without runs, side by side: points, values, constraints and whether they did not fail, ``(n, d + m + c + 1)``."""
    x = told.x
    constraints = x.new_full((len(x), len(task.constraints)), torch.nan) if told.constraints is None else told.constraints
    return torch.cat([x, told.values.to(x), constraints.to(x), told.ok.to(x).unsqueeze(-1)], -1)


def from_rows(task: Task, rows: Tensor) -> Observations:
    """What `as_rows` put side by side, as points that were never asked."""
    d, m = task.dim, len(task.objectives)
    x, values, constraints, ok = rows.split([d, m, len(task.constraints), 1], -1)
    return Observations(
        np.full(len(rows), -1),
        x,
        values,
        constraints=constraints if task.constraints else None,
        ok=None if bool(ok.all()) else ok[:, 0] > 0,
        dtype=task.dtype,
        device=rows.device,
    )


def _push(pieces: list[Tensor], rows: Tensor) -> None:
    """Append rows; pieces double in size, so that many small ones stay cheap."""
    pieces.append(rows)
    while len(pieces) > 1 and len(pieces[-2]) <= len(pieces[-1]):
        pieces[-2:] = [torch.cat(pieces[-2:])]


def _added(task: Task, pieces: list[Tensor]) -> Observations:
    """What was added and did not fail, the best first; rows of equal merit by their numbers, so that no order of tells matters."""
    rows = torch.cat(pieces)
    rows = rows[rows[:, -1] > 0]
    table = rows.cpu().numpy()
    d, m = task.dim, len(task.objectives)
    violation = np.maximum(table[:, d + m : -1], 0.0).sum(-1)
    order = np.lexsort((*table[:, : d + m].T, *([table[:, d]] if m == 1 else []), violation))
    return from_rows(task, rows[torch.from_numpy(order).to(rows.device)])


def _recalls(task: Task) -> bool:
    """Whether results are remembered by point: where evaluating one again says nothing, and one can be met again."""
    space = task.space
    return task.deterministic and not task.runs and not space.beyond and all(column.cardinality is not None for column in space.columns)


def _keys(x: Tensor) -> list[bytes]:
    """What points ``(n, d)`` are known by."""
    return [row.tobytes() for row in (x + 0.0).cpu().numpy()]  # there is but one zero


def _results(task: Task, state: GenerationState) -> dict[bytes, Tensor]:
    """All known results by point."""
    if state.results is None:
        state.results = {key: row for piece in state.known for key, row in zip(_keys(piece[:, : task.dim]), piece, strict=True)}
    results: dict[bytes, Tensor] = state.results
    return results


def _remember(task: Task, state: GenerationState, told: Observations) -> None:
    """Keep the results of points that had none: failures too, but not points that were given up."""
    if not told.has_values:
        return
    results, rows = _results(task, state), as_rows(task, told)
    new = []
    for k, (i, key) in enumerate(zip(told.ids.tolist(), _keys(told.x), strict=True)):
        if key not in results and i not in told.dropped:
            results[key] = rows[k]
            new.append(k)
    if new:
        _push(state.known, rows[new])


def _recall(task: Task, state: GenerationState) -> None:
    """Give slots whose points have a result that result, and let slots with the same point share one.

    A generation of which everything is known is handed out as it is: a method that comes back to the same points only learns
    more from the points never asked that a study puts in their place.
    """
    assert state.asked is not None
    results, keys = _results(task, state), _keys(state.asked)
    first: dict[bytes, int] = {}
    twins = np.array([first.setdefault(key, slot) for slot, key in enumerate(keys)])
    known = np.array([key in results for key in keys])
    free = ~known & (twins == np.arange(len(keys)))
    if free.all() or known.all():
        return
    state.free, state.twins = np.nonzero(free)[0], twins
    slots = np.nonzero(known)[0]
    state.closed, state.x = known & False, state.asked.clone()
    if len(slots):
        told = from_rows(task, torch.stack([results[keys[slot]] for slot in slots]))
        _collect(task, state, told, np.arange(len(slots)), slots)


def _shared(state: GenerationState, rows: Any, slots: Any) -> tuple[Any, Any]:
    """The rows of some slots, and again for the slots that share their results."""
    if state.twins is None or state.closed is None:
        return rows, slots
    row_of = dict(zip(slots.tolist(), rows.tolist(), strict=True))
    both = np.nonzero(np.isin(state.twins, slots) & ~state.closed)[0]
    return np.array([row_of[slot] for slot in state.twins[both].tolist()]), both


def _open(strategy: Generational, task: Task, state: GenerationState, request: Request, random: Random) -> None:
    """Propose the next generation and make its points valid."""
    if state.added:
        added = _added(task, state.added)
        if added.n:  # else all of them failed
            state.inner = _checked(strategy, "learn_added", strategy.learn_added(task, state.inner, added, random.child("added")))
        state.added = []
    inner, candidates = strategy.propose(task, state.inner, random.child("propose"))
    x = candidates.x
    if not isinstance(x, Tensor) or x.dim() != len(task.runs) + 2 or x.shape[-1] != task.dim:
        wanted = f"({', '.join(map(str, (*task.runs, 'n', task.dim)))})"
        got = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise StrategyError(f"{type(strategy).__name__}.propose() must give Candidates(x) with x a tensor {wanted}; got {got}.")
    if x.shape[-2] == 0:
        raise StrategyError(f"{type(strategy).__name__}.propose() gave an empty generation.")
    state.inner = _checked(strategy, "propose", inner)
    state.number += 1
    state.handed = 0
    state.proposed = candidates.x
    asked = candidates.x
    if request.fixed:
        asked = asked.clone()
        for column, value in request.fixed.items():
            asked[..., column] = value
    state.asked = task.space.repair(asked, random.child("repair"), tuple(request.fixed))
    state.columns = dict(candidates.columns)
    if _recalls(task):
        _recall(task, state)


def _as_asked(task: Task, state: GenerationState, x: Tensor) -> Tensor:
    """Which evaluated points are those that were handed out, whatever is beyond what is searched, ``(*runs, n, 1)``."""
    assert state.asked is not None
    same = torch.eq(x, state.asked)
    if task.space.beyond:
        same = same | torch.tensor([bool(column.role) for column in task.space.columns], device=x.device)
    return same.all(-1, keepdim=True)


def _whole(state: GenerationState, slots: Any, numbers: Any) -> bool:
    """Whether these are the slots of the whole generation in their order, as where it was told the way it was handed out."""
    if numbers is state.numbers and slots is _all_slots(state.size):
        return True
    size = state.size
    return len(slots) == size and bool((np.asarray(slots) == np.arange(size)).all() and (np.asarray(numbers) == state.number).all())


def _closed(task: Task, state: GenerationState, told: Observations) -> Observations:
    """The told generation with latent positions put back where the evaluated point is their repair."""
    assert state.asked is not None and state.proposed is not None
    x = state.proposed if told.as_asked else torch.where(_as_asked(task, state, told.x), state.proposed, told.x)
    return Observations(
        told.ids,
        x,
        told.values,
        constraints=told.constraints,
        noise=told.noise,
        gradients=told.gradients,
        ok=None if told.all_ok else told.ok,
        columns=state.columns,
        dtype=told.dtype,
        device=told.device,
    )


def _collect(task: Task, state: GenerationState, told: Observations, rows: Any, slots: Any) -> np.ndarray[Any, Any]:
    """Put the rows of one call into their slots; gives which slots have a result."""
    assert state.asked is not None and state.proposed is not None
    size, runs = state.size, task.runs
    if state.closed is None:
        state.closed = np.zeros(size, dtype=bool)
        state.x = state.asked.clone()
    assert state.x is not None
    if told.rankings:
        _collect_rankings(state, told, list(zip(told.ids[rows].tolist(), slots.tolist(), strict=True)))
        ranked = {i for ranking in told.rankings for i in ranking.ids}
        state.closed[slots[[i in ranked for i in told.ids[rows].tolist()]]] = True  # the others stay open
        return state.closed
    state.closed[slots] = True
    at = torch.as_tensor(slots, device=state.x.device)
    take = torch.as_tensor(rows, device=state.x.device)

    def put(store: Tensor | None, new: Tensor, blank: Any) -> Tensor:
        """Rows of what was told in their slots."""
        if store is None:
            store = torch.full((*runs, size, *new.shape[len(runs) + 1 :]), blank, dtype=new.dtype, device=new.device)
        return store.index_copy_(len(runs), at, new.index_select(len(runs), take).to(store))

    put(state.x, told.x, torch.nan)
    if not (told.all_ok and state.ok is None):
        state.ok = put(state.ok, told.ok, True)
    if told.has_values:
        state.values = put(state.values, told.values, torch.nan)
    for name in ("constraints", "noise", "gradients"):
        new: Tensor | None = getattr(told, name)
        if new is not None:
            setattr(state, name, put(getattr(state, name), new, torch.nan))
    return state.closed


def _collect_rankings(state: GenerationState, told: Observations, slots: Sequence[tuple[int, int]]) -> None:
    """Add the scores of ranked trials to their slots, which come as pairs of trial and slot."""
    if state.scores is None:
        state.scores = np.zeros((2, state.size))
    for ranking in told.rankings:
        scores = ranking.scores()
        for i, slot in slots:
            if i in scores:
                state.scores[:, slot] += (scores[i], 1.0)


def _collected(task: Task, state: GenerationState) -> Observations:
    """The closed generation as one set of observations in slot order."""
    assert state.x is not None and state.asked is not None and state.proposed is not None
    x, values, constraints = state.x, state.values, state.constraints
    rankings: tuple[Ranking, ...] = ()
    if state.asked is not state.proposed:
        x = torch.where(_as_asked(task, state, x), state.proposed, x)
    if state.scores is not None:
        # Told partly by rankings: the order is all there is. Told values enter by their normalised rank.
        ranked = state.scores[1] > 0
        score = state.scores[0] / np.maximum(state.scores[1], 1.0)
        if values is not None and not ranked.all():
            told = ~torch.as_tensor(ranked, device=x.device) if state.ok is None else ~torch.as_tensor(ranked, device=x.device) & state.ok
            order = rank_rows(values, constraints, told).cpu().numpy()
            score = np.where(ranked, score, order / max(int(told.sum()) - 1, 1))
        values = torch.as_tensor(score, dtype=task.dtype, device=x.device).unsqueeze(-1)
        constraints = None
        good = np.ones(state.size, dtype=bool) if state.ok is None else state.ok.cpu().numpy()
        rankings = (Ranking(tuple(tuple(np.nonzero(good & (score == tier))[0].tolist()) for tier in np.unique(score[good]))),)
    if values is None:
        values = torch.full((*x.shape[:-1], len(task.objectives)), torch.inf, dtype=task.dtype, device=x.device)
    if state.ok is not None:
        values = torch.where(state.ok.unsqueeze(-1), values, torch.inf)
    return Observations(
        np.full(state.size, -1),
        x,
        values,
        constraints=constraints,
        noise=state.noise,
        gradients=state.gradients,
        ok=state.ok,
        rankings=rankings,
        columns=state.columns,
        dtype=task.dtype,
        device=x.device,
    )
