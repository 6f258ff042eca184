"""Which particles to take, and when to hand over to CMA-ES, where nothing is known of the objective but the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.feedback import Candidates, Observations
from zoopt.generation import as_rows, from_rows
from zoopt.strategies.cbo.particles import CBO
from zoopt.strategies.relay import Relay
from zoopt.strategy import Capabilities, Example, Request, State, Strategy, Task, make

if TYPE_CHECKING:
    from zoopt.random import Random

_LEAST = 20_000  # evaluations below which a cloud of particles does not get far enough
_SEARCH = (0.32, 0.32)  # shares of the two anisotropic searches
_STEPS = 1500  # steps of each of them
_VALLEYS = 0.25  # share of the covariance mode
_ROUNDS = 50  # its steps


@dataclass
class AutoState(State):
    """What is known before the plan is made, and then its state.

    Attributes:
        budget: Evaluations for which it was made; 0 before the first ask.
        inner: Its state.
        added: What was told before the first ask, see ``generation.as_rows``.
    """

    budget: int = 0
    inner: State | None = None
    added: Tensor | None = None


@dataclass(frozen=True)
class AutoCBO(Strategy[AutoState]):
    """Particles first, CMA-ES last: one setting for separable, rotated, ill-conditioned and multimodal objectives.

    Two searches with anisotropic noise, which solve what is multimodal and separable; one with covariance noise, which solves what is
    rotated; then CMA-ES from the best point, with restarts, which solves valleys and polishes. Below 20,000 evaluations CMA-ES alone.
    """

    evaluations: int | None = None  # budget to plan for; None: that of the study, or 10,000 per variable without one

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values")

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise ConfigError(f"evaluations must be at least 1, or None for the budget of the study; got {self.evaluations!r}.")

    def plan(self, task: Task, budget: int) -> Strategy[Any]:
        """What is done with a budget."""
        last = make("cma-es")
        if budget < _LEAST:
            return last
        search = CBO(particles=max(20, round(_SEARCH[0] * budget / _STEPS)))
        valleys = CBO(noise="covariance", particles=max(50, round(_VALLEYS * budget / _ROUNDS)), sample_size=0.2)
        searches, before = sum(_SEARCH), sum(_SEARCH) + _VALLEYS
        twice = Relay(search, search, share=_SEARCH[0] / searches, carry=0)  # none of the searches knows what the others have found
        return Relay(Relay(twice, valleys, share=searches / before, carry=0), last, share=before)

    def begin(self, task: Task, random: Random) -> AutoState:
        return AutoState()

    def ask(self, task: Task, state: AutoState, request: Request, random: Random) -> tuple[AutoState, Candidates]:
        budget = state.budget or self.evaluations or request.remaining or 10_000 * task.dim
        plan, inner = self.plan(task, budget), state.inner
        if inner is None:
            inner = plan.begin(task, random.child("begin"))
            if state.added is not None:
                inner = plan.tell(task, inner, from_rows(task, state.added), random.child("added"))
        inner, candidates = plan.ask(task, inner, request, random)
        state.budget, state.inner, state.added = budget, inner, None
        return state, candidates

    def tell(self, task: Task, state: AutoState, observations: Observations, random: Random) -> AutoState:
        if state.inner is not None:
            state.inner = self.plan(task, state.budget).tell(task, state.inner, observations, random)
        elif observations.has_values:
            rows = as_rows(task, observations)
            state.added = rows if state.added is None else torch.cat([state.added, rows])
        return state

    def recommend(self, task: Task, state: AutoState) -> Tensor | None:
        return None if state.inner is None else self.plan(task, state.budget).recommend(task, state.inner)

    def info(self, task: Task, state: AutoState) -> dict[str, float | str]:
        return {} if state.inner is None else self.plan(task, state.budget).info(task, state.inner)

    @classmethod
    def example_task(cls) -> Example:
        from zoopt.testing import sphere_example

        return sphere_example(4000)
