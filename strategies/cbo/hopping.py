"""Consensus hopping: the scheme that links consensus-based optimization to gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from zoopt.errors import ConfigError
from zoopt.feedback import Candidates, Observations
from zoopt.generation import Generational, GenerationState
from zoopt.strategies.cbo.consensus import aligned, consensus, first_alpha, level
from zoopt.strategies.cbo.folding import fold
from zoopt.strategy import Capabilities, Example, State, Task

if TYPE_CHECKING:
    from zoopt.random import Random


@dataclass
class HoppingState(State):
    """Where the consensus point is, ``(*runs, d)``; the inverse temperature, ``(*runs,)``, 0 before the first step; steps taken."""

    c: Tensor
    alpha: Tensor
    steps: int = 0


@dataclass(frozen=True)
class ConsensusHopping(Generational):
    """Consensus hopping: the consensus point of a fresh normal cloud around the last one; gradient descent without gradients.

    For large alpha a step is the proximal step ``argmin f(x) + |x - c|^2 / (2 tau)`` with ``tau = alpha sigma^2``; at any alpha it is
    ``c - tau E[grad f]``, the mean taken over the Gibbs-tilted cloud (Stein's identity). Clouds of width sigma see past barriers
    of that width. Use it where a local method is wanted that is blind to fine structure; use cbo for a global search.

    Reference: Riedl, Klock, Geldhauser, Fornasier, arXiv:2306.09778, Algorithm 2.
    """

    particles: int = 100  # N, points drawn a step
    sigma: float = 0.1  # standard deviation of the cloud, in widths of the space
    alpha: float | None = None  # inverse temperature of the weights; None: 30 / (median - smallest value) of the first cloud
    shrink: float = 1.0  # factor of sigma a step

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values", batched=True)

    def __post_init__(self) -> None:
        if self.particles < 2:
            raise ConfigError(f"particles must be at least 2; got {self.particles!r}.")
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"sigma must be above 0, in widths of the space; got {self.sigma!r}.")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha must be above 0, or None; got {self.alpha!r}.")
        if not 0 < self.shrink <= 1:
            raise ConfigError(f"shrink must be above 0 and at most 1; got {self.shrink!r}.")

    def start(self, task: Task, random: Random) -> HoppingState:
        start = torch.as_tensor(task.space.start).to(task.device, task.dtype, non_blocking=True)
        alpha = torch.zeros(task.runs, dtype=torch.float64, device=task.device)
        return HoppingState(start.expand(*task.runs, task.dim).clone(), alpha)

    def learn_added(self, task: Task, inner: HoppingState, added: Observations, random: Random) -> HoppingState:
        inner.c = added.x[0].to(inner.c).expand_as(inner.c).clone()  # from the best of them
        return inner

    def propose(self, task: Task, inner: HoppingState, random: Random) -> tuple[HoppingState, Candidates]:
        z = random.child("cloud").normal((self.particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device)
        sigma = self.sigma * self.shrink**inner.steps
        return inner, Candidates(fold(z.mul_(sigma).add_(inner.c.unsqueeze(-2)), task.space))

    def update(self, task: Task, inner: HoppingState, generation: Observations, random: Random) -> HoppingState:
        above, low = level(generation.ranks if task.constraints else generation.values[..., 0])
        if inner.steps == 0:
            inner.alpha = first_alpha(above) if self.alpha is None else torch.full_like(inner.alpha, self.alpha)
        inner.c, _ = consensus(aligned(generation.x), above, low, inner.alpha, inner.c)
        inner.steps += 1
        return inner

    def recommend(self, task: Task, state: GenerationState) -> Tensor | None:
        inner: HoppingState = state.inner  # type: ignore[assignment]
        return inner.c

    def info(self, task: Task, state: GenerationState) -> dict[str, float | str]:
        inner: HoppingState = state.inner  # type: ignore[assignment]
        return {"sigma": self.sigma * self.shrink**inner.steps, "alpha": float(inner.alpha.max())}

    @classmethod
    def example_task(cls) -> Example:
        from zoopt.testing import sphere_example

        return sphere_example(4000)
