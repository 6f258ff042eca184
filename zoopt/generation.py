"""Partial asks, late, failed and dropped tells, rankings and added points for strategies that work in generations.

A strategy that proposes a whole generation and learns from a whole generation derives from :class:`Generational` and
writes ``start``, ``propose`` and ``update``; everything that can happen between the two is handled here, once. Each
candidate carries its generation and slot as columns, so results are put where they belong whatever their order. Random
numbers are keyed by the generation's number: the same results in any order and in any pieces give the same next generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import NotReady, StrategyError
from zoopt.feedback import Candidates, Column, Observations, column_rows
from zoopt.strategy import Request, State, Strategy, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random

_OPEN, _OK, _FAILED = 0, 1, 2


@dataclass
class GenerationState(State):
    """The method's own state, the generation that is out, and what has come back of it so far.

    Attributes:
        inner: What the method has learned.
        number: Number of the current generation, from 0; -1 before the first.
        proposed: Its points as the method proposed them, ``(*runs, n, d)``; None between generations.
        asked: The same as handed out, snapped and moved inside the known constraints where needed.
        columns: The method's own columns of the generation.
        handed: Slots handed out so far.
        closed: ``(n,)`` uint8: open, ok or failed; None while nothing has come back.
        x, values, constraints, noise, gradients: What came back, by slot.
        scores: ``(2, n)``: sum and number of normalised ranks from rankings.
    """

    inner: State
    number: int = -1
    proposed: Tensor | None = None
    asked: Tensor | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    handed: int = 0
    closed: np.ndarray[Any, Any] | None = None
    x: Tensor | None = None
    values: Tensor | None = None
    constraints: Tensor | None = None
    noise: Tensor | None = None
    gradients: Tensor | None = None
    scores: np.ndarray[Any, Any] | None = None
    slots: Any = live()  # the slot column of a generation handed out whole, recognised by identity

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

        ``generation.x`` is the proposed (latent) position where the evaluated point is what that position was snapped
        or moved to, and the evaluated point itself otherwise. Failed and dropped slots have value +inf and are not ``ok``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define update().")

    def begin(self, task: Task, random: Random) -> GenerationState:  # noqa: D102
        return GenerationState(self.start(task, random.at(-1).child("start")))

    def ask(  # noqa: D102
        self, task: Task, state: GenerationState, request: Request, random: Random
    ) -> tuple[GenerationState, Candidates]:
        if state.proposed is None:
            _open(self, task, state, request, random.at(state.number + 1))
        size = state.size
        left = size - state.handed
        if left == 0:
            waiting = size if state.closed is None else int((state.closed == _OPEN).sum())
            raise NotReady(f"generation {state.number} is out: {waiting} of its {size} points have no result yet.")
        n = left if request.n is None else min(request.n, left)
        first, state.handed = state.handed, state.handed + n
        assert state.asked is not None and state.proposed is not None
        slots = np.arange(first, first + n)
        columns: dict[str, Column] = {"generation": np.full(n, state.number), "slot": slots}
        if n == size:
            columns.update(state.columns)
            x, latent = state.asked, state.proposed
            state.slots = slots
        else:
            own = slice(first, first + n)
            columns.update({name: column_rows(column, own, len(task.runs)) for name, column in state.columns.items()})
            x, latent = state.asked[..., own, :], state.proposed[..., own, :]
        if state.asked is not state.proposed:
            columns["latent"] = latent
        return state, Candidates(x, columns)

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:  # noqa: D102
        slots = observations.column("slot")
        if slots is None or state.proposed is None:
            return state  # added points, and results of generations that are closed already
        if slots is state.slots and state.closed is None and not observations.rankings:
            generation = observations  # the whole generation, exactly as it was handed out
            if state.asked is not state.proposed:
                generation = _closed(state, observations)
        else:
            numbers = observations.column("generation")
            rows = np.nonzero((np.asarray(numbers) == state.number) & (np.asarray(slots) >= 0))[0]
            if len(rows) == 0:
                return state
            _collect(state, observations, rows, np.asarray(slots)[rows])
            assert state.closed is not None
            if (state.closed == _OPEN).any():
                return state
            generation = _collected(task, state)
        state.inner = self.update(task, state.inner, generation, random.at(state.number).child("update"))
        state.proposed = state.asked = state.slots = state.closed = None
        state.x = state.values = state.constraints = state.noise = state.gradients = state.scores = None
        state.columns = {}
        return state


def _open(strategy: Generational, task: Task, state: GenerationState, request: Request, random: Random) -> None:
    """Propose the next generation and make its points valid."""
    inner, candidates = strategy.propose(task, state.inner, random.child("propose"))
    if candidates.x.shape[-2] == 0:
        raise StrategyError(f"{type(strategy).__name__}.propose() gave an empty generation.")
    state.inner = inner
    state.number += 1
    state.handed = 0
    state.proposed = candidates.x
    asked = candidates.x
    if not task.space.box:
        if request.fixed:
            asked = asked.clone()
            for column, value in request.fixed.items():
                asked[..., column] = value
        asked = task.space.repair(asked, random.child("repair"))
    state.asked = asked
    state.columns = dict(candidates.columns)


def _closed(state: GenerationState, told: Observations) -> Observations:
    """The told generation with latent positions put back where the evaluated point is their repair."""
    assert state.asked is not None and state.proposed is not None
    same = (told.x == state.asked).all(-1, keepdim=True)
    return Observations(
        told.ids,
        torch.where(same, state.proposed, told.x),
        told.values,
        constraints=told.constraints,
        noise=told.noise,
        gradients=told.gradients,
        ok=None if told.all_ok else told.ok,
        columns=state.columns,
        dtype=told.dtype,
        device=told.device,
    )


def _collect(state: GenerationState, told: Observations, rows: Any, slots: Any) -> None:
    """Put the rows of one call into their slots."""
    assert state.asked is not None and state.proposed is not None
    size = state.size
    if state.closed is None:
        state.closed = np.zeros(size, dtype=np.uint8)
        state.x = state.asked.clone()
    assert state.x is not None
    ok = np.ones(told.n, dtype=bool) if told.all_ok else told.ok.cpu().numpy()
    if told.rankings:
        _collect_rankings(state, told, dict(zip(told.ids[rows].tolist(), slots.tolist(), strict=True)))
        ok_rows = np.zeros(told.n, dtype=bool)  # a ranking says which rows are in order; the others stay open
        ranked = {i for ranking in told.rankings for i in ranking.ids}
        ok_rows[rows] = [i in ranked for i in told.ids[rows].tolist()]
        state.closed[slots[ok_rows[rows]]] = _OK
        return
    state.closed[slots] = np.where(ok[rows], _OK, _FAILED)
    at = torch.as_tensor(slots, device=state.x.device)
    take = torch.as_tensor(rows, device=state.x.device)
    state.x[at] = told.x[take].to(state.x)
    for name in ("values", "constraints", "noise", "gradients"):
        if name == "values" and not told.has_values:
            continue
        new: Tensor | None = getattr(told, name)
        if new is None:
            continue
        store: Tensor | None = getattr(state, name)
        if store is None:
            store = torch.full((size, *new.shape[1:]), torch.nan, dtype=new.dtype, device=new.device)
            setattr(state, name, store)
        store[at] = new[take]


def _collect_rankings(state: GenerationState, told: Observations, slot_of: Mapping[int, int]) -> None:
    if state.scores is None:
        state.scores = np.zeros((2, state.size))
    for ranking in told.rankings:
        for i, score in ranking.scores().items():
            if i in slot_of:
                state.scores[:, slot_of[i]] += (score, 1.0)


def _collected(task: Task, state: GenerationState) -> Observations:
    """The closed generation as one set of observations in slot order."""
    assert state.closed is not None and state.x is not None and state.asked is not None and state.proposed is not None
    ok = torch.as_tensor(state.closed == _OK, device=state.x.device)
    x = state.x
    if state.asked is not state.proposed:
        x = torch.where((x == state.asked).all(-1, keepdim=True), state.proposed, x)
    values, constraints = state.values, state.constraints
    if state.scores is not None:
        # Told partly by rankings: the order is all there is. Told values enter by their normalised rank.
        ranked = state.scores[1] > 0
        score = np.divide(state.scores[0], np.maximum(state.scores[1], 1.0))
        if values is not None and not ranked.all():
            order = Observations(np.arange(state.size), x, values, constraints=constraints, ok=ok).ranks.cpu().numpy()
            score = np.where(ranked, score, order / max(state.size - 1, 1))
        values = torch.as_tensor(score, dtype=task.dtype, device=state.x.device).unsqueeze(-1)
        constraints = None
    if values is None:
        values = torch.full((state.size, len(task.objectives)), torch.inf, dtype=task.dtype, device=state.x.device)
    all_ok = bool((state.closed == _OK).all())
    if not all_ok:
        values = torch.where(ok.unsqueeze(-1), values, torch.inf)
    return Observations(
        np.full(state.size, -1),
        x,
        values,
        constraints=constraints,
        noise=state.noise,
        gradients=state.gradients,
        ok=None if all_ok else ok,
        columns=state.columns,
        dtype=task.dtype,
        device=state.x.device,
    )
