"""For each contract a twin of a good strategy that breaks it in a way that people do; the contract must catch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from edge_strategies import Clients, ClientsState, RankWalk, RankWalkState, Swarm, SwarmState
from torch import Tensor

from zoopt.errors import Exhausted
from zoopt.feedback import Candidates, Observations, Ranking
from zoopt.generation import GenerationState
from zoopt.random import Random
from zoopt.strategy import Capabilities, Request, Strategy, Task, live
from zoopt.testing import CONTRACTS, Contract, ContractDoesNotApply, Factory, run_contract

TWINS: dict[str, tuple[type[Strategy[Any]], Factory, str]] = {}


def breaks(contract: str, base: Factory, message: str) -> Callable[[type[Strategy[Any]]], type[Strategy[Any]]]:
    """Register a twin of ``base`` for a contract, with what the failure must say."""

    def register(cls: type[Strategy[Any]]) -> type[Strategy[Any]]:
        assert contract not in TWINS
        TWINS[contract] = cls, base, message
        return cls

    return register


# ---------------------------------------------------------------------- asking


@breaks("same_seed_same_asks", Swarm, "with the same seed")
@dataclass(frozen=True)
class Unseeded(Swarm):
    """Draws from a generator that the machine seeds."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        return state, Candidates(candidates.x + 1e-6 * np.random.default_rng().random(), candidates.columns)


@breaks("asks_of_any_size", Swarm, "only .* different")
@dataclass(frozen=True)
class Forgetful(Swarm):
    """Does not remember what it handed out: two asks before a tell give the same particles."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        state.turn = 0
        return state, candidates


@breaks("points_stay_inside", Swarm, "outside \\[0, 1\\]")
@dataclass(frozen=True)
class Boundless(Swarm):
    """Moves its particles without a look at the bounds."""

    @staticmethod
    def _clamped(task: Task, x: Tensor) -> Tensor:
        return x


@breaks("known_constraints_hold", Swarm, "must give x of shape")
@dataclass(frozen=True)
class Picky(Swarm):
    """Leaves out points that break a known constraint, and sometimes nothing remains."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        rows = np.nonzero(task.space.allowed(task.space.snap(candidates.x).numpy()))[0]
        return state, Candidates(candidates.x[rows], {name: column[rows] for name, column in candidates.columns.items()})


@breaks("integers_and_choices_are_valid", Swarm, "not finite")
@dataclass(frozen=True)
class RealsOnly(Swarm):
    """Fills the columns of reals and leaves the others unset."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        x = candidates.x.clone()
        x[..., [k for k, column in enumerate(task.space.columns) if column.kind != "real"]] = torch.nan
        return state, Candidates(x, candidates.columns)


@breaks("context_is_as_given", Swarm, "must give x of shape")
@dataclass(frozen=True)
class Sheltered(Swarm):
    """Gives only the columns that it may choose."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        chosen = [k for k in range(task.dim) if k not in request.fixed]
        return state, Candidates(candidates.x[..., chosen], candidates.columns)


@breaks("finite_space_is_used_up", RankWalk, "of the 6 points")
@dataclass(frozen=True)
class Quitter(RankWalk):
    """Says that it is exhausted when it is only tired."""

    def ask(self, task: Task, state: GenerationState, request: Request, random: Random) -> tuple[GenerationState, Candidates]:
        if state.handed >= 2:
            raise Exhausted("enough.")
        return super().ask(task, state, request, random)


@breaks("not_ready_changes_nothing", RankWalk, "changed the state")
@dataclass(frozen=True)
class Counting(RankWalk):
    """Counts its calls before it knows whether it can answer."""

    def ask(self, task: Task, state: GenerationState, request: Request, random: Random) -> tuple[GenerationState, Candidates]:
        state.inner.generations += 1  # type: ignore[attr-defined]
        return super().ask(task, state, request, random)


# ---------------------------------------------------------------------- telling


@breaks("tells_in_any_order_and_pieces", RankWalk, "whole generations")
@dataclass(frozen=True)
class Wholesale(RankWalk):
    """Takes whole generations only."""

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:
        if observations.n != self.offspring:
            raise ValueError("tell whole generations")
        return super().tell(task, state, observations, random)


@breaks("telling_twice_changes_nothing", RankWalk, "told twice")
@dataclass(frozen=True)
class Shared(RankWalk):
    """Keeps what it learned in the class, where every study finds it."""

    told: ClassVar[list[float]] = []

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:
        self.told.append(float(observations.values.sum()))
        inner: Any = state.inner
        inner.step = torch.full_like(inner.step, 0.1 + 0.1 * (len(self.told) % 7))
        return super().tell(task, state, observations, random)


@breaks("added_points_are_taken", Swarm, "KeyError")
@dataclass(frozen=True)
class Possessive(Swarm):
    """Expects its own columns with every point."""

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        observations.columns["particle"]
        return super().tell(task, state, observations, random)


@breaks("failures_are_answers", Clients, "NaN")
@dataclass(frozen=True)
class Trusting(Clients):
    """Reads the values of failed evaluations."""

    def update(self, task: Task, inner: ClientsState, generation: Observations, random: Random) -> ClientsState:
        inner.centre = inner.centre - 1e-3 * (generation.values * generation.x).mean(0)
        return inner


@breaks("everything_may_fail", RankWalk, "NaN")
@dataclass(frozen=True)
class Optimist(RankWalk):
    """Averages the parents, of which it takes for granted that there is one."""

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        good = torch.nonzero(generation.ok)[:, 0]
        inner.mean = generation.x[good[torch.argsort(generation.ranks[good])][: self.parents]].mean(0)
        return inner


@breaks("a_dropped_trial_blocks_nothing", RankWalk, "NotReady though")
@dataclass(frozen=True)
class Patient(RankWalk):
    """Waits for results that were given up."""

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:
        return state if observations.dropped else super().tell(task, state, observations, random)


@breaks("order_of_tells_does_not_matter", RankWalk, "told at once or in pieces")
@dataclass(frozen=True)
class CallKeyed(RankWalk):
    """Draws with the key of the call, of which there is one for each piece that is told."""

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:
        inner: Any = state.inner
        inner.mean = inner.mean + 0.01 * random.normal(task.dim)
        return super().tell(task, state, observations, random)


@breaks("rankings_are_enough", RankWalk, "only a ranking was told")
@dataclass(frozen=True)
class Numeric(RankWalk):
    """Says that a ranking is enough, and looks at the values all the same."""

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:
        observations.values  # noqa: B018
        return super().tell(task, state, observations, random)


# ---------------------------------------------------------------------- resuming


@dataclass
class SetState(RankWalkState):
    seen: set[int] = field(default_factory=set)


@breaks("state_round_trips_through_bytes", RankWalk, "cannot be saved")
@dataclass(frozen=True)
class Unwritable(RankWalk):
    """Keeps something in its state that is not data."""

    def start(self, task: Task, random: Random) -> RankWalkState:
        inner = super().start(task, random)
        return SetState(inner.mean, inner.step, seen={1, 2})


@dataclass
class LiveState(RankWalkState):
    momentum: Any = live(0.0)


@breaks("going_on_from_bytes", RankWalk, "going on from bytes")
@dataclass(frozen=True)
class Amnesiac(RankWalk):
    """Learns in a live field, which the bytes leave out, and has no freeze()."""

    def start(self, task: Task, random: Random) -> RankWalkState:
        inner = super().start(task, random)
        return LiveState(inner.mean, inner.step)

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        assert isinstance(inner, LiveState)
        before = inner.mean
        super().update(task, inner, generation, random)
        inner.momentum = 0.5 * inner.momentum + 0.1 * (inner.mean - before)
        inner.mean = inner.mean + inner.momentum
        return inner


@breaks("going_on_from_a_journal", RankWalk, "after reopening")
@dataclass(frozen=True)
class Hoarder(RankWalk):
    """Keeps what it learned in the recipe, which a reopened study makes anew."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_memory", [0.0])

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        super().update(task, inner, generation, random)
        memory: list[float] = self._memory  # type: ignore[attr-defined]
        memory[0] += 0.01
        inner.step = inner.step / (1.0 + memory[0])
        return inner


# ---------------------------------------------------------------------- manners


@breaks("no_global_random_numbers", Swarm, "global generator of torch")
@dataclass(frozen=True)
class Global(Swarm):
    """Draws from torch's global generator."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        return state, Candidates(candidates.x + 1e-6 * torch.rand(()), candidates.columns)


@breaks("inputs_are_not_changed", Swarm, "changed the observations")
@dataclass(frozen=True)
class Scribbler(Swarm):
    """Writes into the points it was lent."""

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        observations.x.clamp_(0.3, 0.7)
        return super().tell(task, state, observations, random)


@breaks("recipe_is_plain_data", Swarm, "no comment")
@dataclass(frozen=True)
class Undocumented(Swarm):
    """Has a hyper-parameter of which nobody knows what it means."""

    kappa: float = 0.3


@breaks("refuses_what_it_excludes", Clients, "but a study was made")
@dataclass(frozen=True)
class Obliging(Clients):
    """Takes every task."""

    def check(self, task: Task) -> None:
        return


@breaks("reports_have_their_shapes", RankWalk, "recommend\\(\\) gave")
@dataclass(frozen=True)
class Rowwise(RankWalk):
    """Recommends a row of a table where a point is wanted."""

    def recommend(self, task: Task, state: Any) -> Tensor:
        return super().recommend(task, state).unsqueeze(0)


# ---------------------------------------------------------------------- learning


@breaks("better_than_random_search", RankWalk, "that of random search")
@dataclass(frozen=True)
class Contrary(RankWalk):
    """Takes the worst for the best."""

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        return super().update(task, inner, _reversed(generation), random)


def _reversed(told: Observations) -> Observations:
    return Observations(told.ids, told.x, -told.values, ok=None if told.all_ok else told.ok, columns=told.columns, dtype=told.dtype)


@breaks("rankings_beat_random_search", RankWalk, "that of random search")
@dataclass(frozen=True)
class BackToFront(RankWalk):
    """Reads a ranking from its end."""

    def tell(self, task: Task, state: GenerationState, observations: Observations, random: Random) -> GenerationState:
        if observations.rankings:
            turned = [Ranking(ranking.tiers[::-1], ranking.unseen, ranking.rater) for ranking in observations.rankings]
            observations = Observations(observations.ids, observations.x, rankings=turned, columns=observations.columns, dtype=task.dtype)
        return super().tell(task, state, observations, random)


@breaks("what_does_not_learn_says_so", Swarm, "says that it does not learn")
@dataclass(frozen=True)
class Modest(Swarm):
    """Learns and denies it."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values", batched=True, learns=False)


@breaks("study_equals_minimize", Swarm, "differ by up to")
@dataclass(frozen=True)
class Hasty(Swarm):
    """Moves its particles before it reads where they were evaluated: in the in-memory loop these are the same tensor."""

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        state.x.mul_(0.5)
        return super().tell(task, state, observations, random)


# ---------------------------------------------------------------------- run dimensions


@breaks("runs_on_the_meta_device", Swarm, "meta")
@dataclass(frozen=True)
class Curious(Swarm):
    """Looks at a number on the way."""

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        if observations.values.min().item() < 0:
            state.turn = 0
        return super().tell(task, state, observations, random)


@breaks("runs_without_synchronising_cuda", Swarm, "synchron")
@dataclass(frozen=True)
class CuriousToo(Curious):
    """Looks at a number on the way."""


@breaks("a_run_does_not_know_the_others", Swarm, "alone and among")
@dataclass(frozen=True)
class Sociable(Swarm):
    """Scales its noise by the spread of all runs together."""

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        state = super().tell(task, state, observations, random)
        state.x = self._clamped(task, state.x + 0.01 * state.x.mean())
        return state


# ----------------------------------------------------------------------


def test_every_contract_has_a_twin() -> None:
    assert TWINS.keys() == {contract.__name__ for contract in CONTRACTS}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_broken_twin_is_caught(contract: Contract, seed: int) -> None:
    twin, base, message = TWINS[contract.__name__]
    try:
        contract(base, seed=seed)
    except ContractDoesNotApply as reason:
        if contract.__name__ == "what_does_not_learn_says_so":  # its good twin is one that does not learn
            pass
        elif contract.__name__ == "runs_without_synchronising_cuda":
            pytest.skip(str(reason))
        else:
            raise
    with pytest.raises(AssertionError, match=message):
        run_contract(contract, twin, seed=seed)
