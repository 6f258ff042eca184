"""For each contract twins of good strategies that break it in a way that people do; the contract must catch them."""

from __future__ import annotations

from collections.abc import Callable, Collection
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
from zoopt.strategies.bo.recipe import BO, BOState
from zoopt.strategy import Capabilities, Request, Strategy, Task, live
from zoopt.testing import CONTRACTS, Contract, ContractDoesNotApply, Factory, run_contract


@dataclass(frozen=True)
class Twin:
    """A strategy that breaks a contract, the good one it was made from, and what the failure must say."""

    contract: Contract
    broken: type[Strategy[Any]]
    base: Factory
    message: str


TWINS: list[Twin] = []


def breaks(contract: str, base: Factory, message: str) -> Callable[[type[Strategy[Any]]], type[Strategy[Any]]]:
    """Register a twin of ``base`` for a contract, with what the failure must say."""

    def register(cls: type[Strategy[Any]]) -> type[Strategy[Any]]:
        (broken,) = [known for known in CONTRACTS if known.__name__ == contract]
        TWINS.append(Twin(broken, cls, base, message))
        return cls

    return register


def _changed(told: Observations, **changes: Any) -> Observations:
    """Observations with some of their parts exchanged."""
    parts = {
        "ids": told.ids,
        "x": told.x,
        "values": told.values,
        "constraints": told.constraints,
        "ok": None if told.all_ok else told.ok,
        "columns": told.columns,
        "dtype": told.dtype,
        "device": told.device,
    }
    return Observations(**{**parts, **changes})


# ---------------------------------------------------------------------- asking


@breaks("same_seed_same_asks", Swarm, "with the same seed")
@dataclass(frozen=True)
class Unseeded(Swarm):
    """Draws from a generator that the machine seeds."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        return state, Candidates(candidates.x + 1e-6 * np.random.default_rng().random(), candidates.columns)


@breaks("another_seed_other_points", Swarm, "the same points")
@dataclass(frozen=True)
class Stubborn(Swarm):
    """Draws with a seed of its own."""

    def begin(self, task: Task, random: Random) -> SwarmState:
        return super().begin(task, _reseeded(random))

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        return super().ask(task, state, request, _reseeded(random))

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        return super().tell(task, state, observations, _reseeded(random))


def _reseeded(random: Random) -> Random:
    return Random(7, random.call, random.path, random.labels)


@breaks("asks_of_any_size", Swarm, "only .* different")
@dataclass(frozen=True)
class Forgetful(Swarm):
    """Does not remember what it handed out: two asks before a tell give the same particles."""

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        state, candidates = super().ask(task, state, request, random)
        state.turn = 0
        return state, candidates


@dataclass
class CrowdState(SwarmState):
    """With the last point that is out, ``(1, d)``."""

    last: Tensor | None = None


@breaks("pending_points_are_kept_apart", Swarm, "while others were out")
@dataclass(frozen=True)
class Crowding(Swarm):
    """Asked again before it was told, stays where it is."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values")

    def begin(self, task: Task, random: Random) -> SwarmState:
        return CrowdState(**vars(super().begin(task, random)))

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        assert isinstance(state, CrowdState)
        state, candidates = super().ask(task, state, request, random)
        x = candidates.x
        if state.last is not None:
            x = self._clamped(task, state.last + 1e-4 * random.child("aside").normal(x.shape))
        state.last = x[-1:].clone()
        return state, Candidates(x, {**candidates.columns, "position": x})

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        assert isinstance(state, CrowdState)
        state.last = None
        return super().tell(task, state, observations, random)


@breaks("pending_points_are_kept_apart", BO, "while others were out")
@dataclass(frozen=True)
class Undivided(BO):
    """Proposes as if nothing were out."""

    def ask(self, task: Task, state: BOState, request: Request, random: Random) -> tuple[BOState, Candidates]:
        return super().ask(task, state, Request(request.n, None, request.fixed, request.remaining), random)


@breaks("points_stay_inside", Swarm, "outside \\[0, 1\\]")
@dataclass(frozen=True)
class Boundless(Swarm):
    """Moves its particles without a look at the bounds."""

    @staticmethod
    def _clamped(task: Task, x: Tensor) -> Tensor:
        return x


@dataclass
class PickyState(SwarmState):
    """With whether one of its points was moved."""

    moved: bool = False


@breaks("known_constraints_hold", Swarm, "gave no point")
@dataclass(frozen=True)
class Picky(Swarm):
    """Gives up once one of its points was moved to keep a known constraint."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values")

    def begin(self, task: Task, random: Random) -> SwarmState:
        return PickyState(**vars(super().begin(task, random)))

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        assert isinstance(state, PickyState)
        if state.moved:
            raise Exhausted("its points are not wanted.")
        return super().ask(task, state, request, random)

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        assert isinstance(state, PickyState)
        position = observations.column("position")
        if task.space.constraints and not task.space.context and isinstance(position, Tensor):
            known = torch.isfinite(position).all(-1)
            state.moved |= bool((task.space.snap(position[known]) != observations.x[known]).any())
        return super().tell(task, state, observations, random)


@breaks("integers_and_choices_are_valid", Swarm, "encode to|is not")
@dataclass(frozen=True)
class Lawless(Swarm):
    """Has the space leave its points as they are, between the levels and the choices."""

    def begin(self, task: Task, random: Random) -> SwarmState:
        vars(task.space)["repair"] = _as_it_is
        return super().begin(task, random)


def _as_it_is(x: Tensor, random: Random, fixed: Collection[int] = ()) -> Tensor:
    return x


@dataclass
class SettledState(SwarmState):
    """With what was fixed in the first ask."""

    home: list[float] | None = None


@breaks("context_is_as_given", Swarm, "gave no points")
@dataclass(frozen=True)
class Homebound(Swarm):
    """Gives points in the context of its first ask, and none in any other."""

    def begin(self, task: Task, random: Random) -> SwarmState:
        return SettledState(**vars(super().begin(task, random)))

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        assert isinstance(state, SettledState)
        here = list(request.fixed.values())
        if state.home is not None and here != state.home:
            raise Exhausted("this context is a new one.")
        state.home = here
        return super().ask(task, state, request, random)


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


@breaks("where_it_was_reached", RankWalk, "learns where it asked")
@dataclass(frozen=True)
class Assuming(RankWalk):
    """Takes for granted that a point was evaluated where it was asked."""

    def propose(self, task: Task, inner: RankWalkState, random: Random) -> tuple[RankWalkState, Candidates]:
        inner, candidates = super().propose(task, inner, random)
        return inner, Candidates(candidates.x, {**candidates.columns, "asked": candidates.x})

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        return super().update(task, inner, _changed(generation, x=generation.column("asked")), random)


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


@breaks("better_than_random_search", RankWalk, "of random search")
@dataclass(frozen=True)
class Contrary(RankWalk):
    """Takes the worst for the best."""

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        return super().update(task, inner, _changed(generation, values=-generation.values), random)


@breaks("better_than_random_search", Swarm, "of random search")
@dataclass(frozen=True)
class Aloof(Swarm):
    """Scatters its particles anew, whatever it is told."""

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        state = super().tell(task, state, observations, random)
        state.x = super().begin(task, random.child("anew")).x
        return state


@dataclass
class QueueState(SwarmState):
    """With what is out, in the order of the asks."""

    particles: list[int] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)


@breaks("late_and_shuffled_results_teach_the_same", Swarm, "of random search")
@dataclass(frozen=True)
class Queueing(Swarm):
    """Takes for granted that results come in the order of the asks."""

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values")

    def begin(self, task: Task, random: Random) -> SwarmState:
        return QueueState(**vars(super().begin(task, random)))

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        assert isinstance(state, QueueState)
        state, candidates = super().ask(task, state, request, random)
        state.particles += np.asarray(candidates.columns["particle"]).tolist()
        state.positions += candidates.x.clone()
        return state, candidates

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        assert isinstance(state, QueueState)
        asked = observations.column("particle")
        if asked is None:
            return state
        particle, x = np.array(asked), observations.x.clone()
        for row in np.nonzero(particle >= 0)[0]:
            particle[row], x[row] = state.particles.pop(0), state.positions.pop(0)
        return super().tell(task, state, _changed(observations, x=x, columns={"particle": particle, "position": x}), random)


@breaks("failures_are_not_good", Swarm, "of its evaluations fail")
@dataclass(frozen=True)
class Misled(Swarm):
    """Takes a failure for the value zero."""

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        values = torch.where(observations.ok.unsqueeze(-1), observations.values, 0.0)
        return super().tell(task, state, _changed(observations, values=values, ok=None), random)


@breaks("outcome_constraints_are_learned", RankWalk, "of random search")
@dataclass(frozen=True)
class Trespasser(RankWalk):
    """Takes the sign of constraints the wrong way."""

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        turned = None if generation.constraints is None else -generation.constraints
        return super().update(task, inner, _changed(generation, constraints=turned), random)


@breaks("every_objective_counts", RankWalk, "only objective 2 of 2")
@dataclass(frozen=True)
class OneEyed(RankWalk):
    """Reads the first objective only."""

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        return super().update(task, inner, _changed(generation, values=generation.values[..., :1]), random)


@breaks("it_goes_on_learning", RankWalk, "stopped learning")
@dataclass(frozen=True)
class Graduate(RankWalk):
    """Learns from its first generations only."""

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        return super().update(task, inner, generation, random) if inner.generations < 40 else inner


@breaks("rankings_beat_random_search", RankWalk, "of random search")
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
    assert {twin.contract.__name__ for twin in TWINS} == {contract.__name__ for contract in CONTRACTS}


@pytest.mark.parametrize("twin", TWINS, ids=lambda t: f"{t.contract.__name__}-{t.broken.__name__}")
def test_broken_twin_is_caught(twin: Twin, seed: int) -> None:
    try:
        twin.contract(twin.base, seed=seed)
    except ContractDoesNotApply as reason:
        if twin.contract.__name__ == "what_does_not_learn_says_so":  # its good twin is one that does not learn
            pass
        elif twin.contract.__name__ == "runs_without_synchronising_cuda":
            pytest.skip(str(reason))
        else:
            raise
    with pytest.raises(AssertionError, match=twin.message):
        run_contract(twin.contract, twin.broken, seed=seed)
