"""Four small strategies that use the contract at its edges; the contracts run over them like over any other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoopt.errors import NotReady
from zoopt.feedback import Candidates, Observations
from zoopt.generation import Generational
from zoopt.random import Random
from zoopt.space import Space
from zoopt.strategy import Capabilities, Example, Request, State, Strategy, Task, live
from zoopt.testing import sphere_example

# ---------------------------------------------------------------------- particles over runs


@dataclass
class SwarmState(State):
    """Particles ``(*runs, N, d)``, their last values and violations ``(*runs, N)``, the consensus ``(*runs, d)``, whose turn it is."""

    x: Tensor
    values: Tensor
    violations: Tensor
    consensus: Tensor
    turn: int = 0
    spread: Tensor | None = live()


def there(values: Any, like: Tensor) -> Tensor:
    """Host numbers beside a tensor: floats in its type, and without a wait for its device."""
    found = torch.as_tensor(values)
    return found.to(like.device, like.dtype if found.is_floating_point() else None, non_blocking=True)


def bounds(space: Space, like: Tensor) -> tuple[Tensor, Tensor]:
    return there(space.lower, like), there(space.upper, like)


@dataclass(frozen=True)
class Swarm(Strategy[SwarmState]):
    """Consensus-based optimization in mini-batches: particles drift to their weighted mean, with noise in proportion to the distance."""

    particles: int = 20  # N
    batch: int | None = None  # particles moved at once; None: all
    alpha: float = 50.0  # inverse temperature of the weights
    drift: float = 0.4  # step towards the consensus
    noise: float = 0.6  # step size of the noise

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values", batched=True)

    def begin(self, task: Task, random: Random) -> SwarmState:
        u = random.uniform((self.particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device)
        x = task.space.from_unit(u)
        values = torch.full(x.shape[:-1], torch.inf, dtype=task.dtype, device=task.device)
        return SwarmState(x, values, torch.zeros_like(values), x.mean(-2))

    def ask(self, task: Task, state: SwarmState, request: Request, random: Random) -> tuple[SwarmState, Candidates]:
        most = self.batch or self.particles
        n = most if request.n is None else min(request.n, most)
        particle = (state.turn + np.arange(n)) % self.particles
        state.turn += n
        lap = state.turn // self.particles
        x = state.x if n == self.particles and lap == 1 else state.x[..., there(particle, state.x), :]
        if state.turn > self.particles:  # asked again before it was told: it takes a step of its own meanwhile
            x = self._clamped(task, x + 0.05 * random.normal((n, task.dim), runs=task.runs, dtype=task.dtype, device=task.device))
        return state, Candidates(x, {"particle": particle, "position": x})

    def tell(self, task: Task, state: SwarmState, observations: Observations, random: Random) -> SwarmState:
        particle, position = observations.column("particle"), observations.column("position")
        if particle is None or not isinstance(position, Tensor):
            return state
        rows = np.nonzero(np.asarray(particle) >= 0)[0]  # the others were added by the user
        if len(rows) == 0:
            return state
        pick = there(rows, state.x)
        at = there(np.asarray(particle)[rows], state.x)
        seen, latent = observations.x[..., pick, :], position[..., pick, :].to(state.x.dtype)
        latent = torch.where((task.space.snap(latent) == seen).all(-1, keepdim=True), latent, seen)
        told = torch.where(observations.ok, observations.values[..., 0], torch.inf)[..., pick]
        values = state.values.index_copy(-1, at, told)
        violations = state.violations
        if observations.constraints is not None:
            violated = torch.where(observations.ok, observations.constraints.clamp_min(0.0).sum(-1), 0.0)[..., pick]
            violations = violations.index_copy(-1, at, violated.to(violations))
        x = state.x.index_copy(-2, at, latent)
        finite = torch.isfinite(values)
        feasible = finite & (violations <= 0)
        worst = torch.where(feasible, values, -torch.inf).amax(-1, keepdim=True)
        level = torch.where(feasible, values, torch.where(torch.isfinite(worst), worst, 0.0) + violations)  # feasible ones first
        low = torch.where(finite, level, torch.inf).amin(-1, keepdim=True)
        weights = torch.where(finite, torch.exp(-self.alpha * torch.where(finite, level - low, 0.0)), 0.0)
        total = weights.sum(-1, keepdim=True)
        consensus = torch.where(total > 0, (weights.unsqueeze(-1) * x).sum(-2) / total.clamp_min(1e-300), x.mean(-2))
        z = random.normal((self.particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device)
        away = x - consensus.unsqueeze(-2)
        moved = self._clamped(task, x - self.drift * away + self.noise * away.abs() * z)
        told_now = torch.zeros_like(values).index_fill(-1, at, 1.0).unsqueeze(-1) > 0
        state.x = torch.where(told_now, moved, x)
        state.values, state.violations, state.consensus = values, violations, consensus
        state.turn = state.turn % self.particles
        state.spread = away.abs().amax(-1).amax(-1)
        return state

    @staticmethod
    def _clamped(task: Task, x: Tensor) -> Tensor:
        low, high = bounds(task.space, x)
        return torch.minimum(torch.maximum(x, low), high)

    def recommend(self, task: Task, state: SwarmState) -> Tensor:
        return state.consensus

    def done(self, task: Task, state: SwarmState) -> Tensor:
        return (state.x - state.consensus.unsqueeze(-2)).abs().amax(-1).amax(-1) < 1e-12

    def info(self, task: Task, state: SwarmState) -> dict[str, float | str]:
        return {} if state.spread is None else {"spread": float(state.spread.max())}

    @classmethod
    def example_task(cls) -> Example:
        return sphere_example(600)


# ---------------------------------------------------------------------- orders only


@dataclass
class RankWalkState(State):
    """Mean ``(*runs, d)``, step size ``(*runs)``, and how many generations were learned from."""

    mean: Tensor
    step: Tensor
    generations: int = 0


@dataclass(frozen=True)
class RankWalk(Generational):
    """An evolution strategy with one step size that reads nothing but the order of a generation; all runs at once."""

    offspring: int = 8  # lambda
    parents: int = 3  # mu
    step: float = 0.25  # first step size, encoded
    window: float = 1.25  # growth or shrinkage of the step size a generation

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="ranking", objectives=None, batched=True)

    def start(self, task: Task, random: Random) -> RankWalkState:
        start = torch.as_tensor(task.space.start, dtype=task.dtype, device=task.device)
        step = torch.full(task.runs, self.step, dtype=task.dtype, device=task.device)
        return RankWalkState(start.expand(*task.runs, task.dim).clone(), step)

    def propose(self, task: Task, inner: RankWalkState, random: Random) -> tuple[RankWalkState, Candidates]:
        z = random.normal((self.offspring, task.dim), runs=task.runs, dtype=task.dtype, device=task.device)
        width = there(task.space.width, inner.mean)
        low, high = bounds(task.space, z)
        x = inner.mean.unsqueeze(-2) + inner.step[..., None, None] * width * z
        return inner, Candidates(torch.minimum(torch.maximum(x, low), high), {"sign": torch.sign(z[..., 0])})

    def update(self, task: Task, inner: RankWalkState, generation: Observations, random: Random) -> RankWalkState:
        ranks = torch.where(generation.ok, generation.ranks, torch.inf)
        best = torch.argsort(ranks, dim=-1, stable=True)[..., : self.parents]
        good = torch.isfinite(ranks.gather(-1, best))
        parents = generation.x.gather(-2, best.unsqueeze(-1).expand(*best.shape, task.dim))
        count = good.sum(-1)
        mean = torch.where(good.unsqueeze(-1), parents, 0.0).sum(-2) / count.clamp_min(1).unsqueeze(-1)
        width = there(task.space.width, inner.mean)
        moved = ((mean - inner.mean) / width).norm(dim=-1)
        factor = torch.where(moved > inner.step * (task.dim / self.parents) ** 0.5, self.window, 1 / self.window)
        inner.step = torch.where(count > 0, (inner.step * factor).clamp(1e-8, 1.0), inner.step)
        inner.mean = torch.where((count > 0).unsqueeze(-1), mean, inner.mean)
        inner.generations += 1
        return inner

    def recommend(self, task: Task, state: Any) -> Tensor:
        mean: Tensor = state.inner.mean
        return mean

    def done(self, task: Task, state: Any) -> Tensor:
        finished: Tensor = state.inner.step <= 1e-8
        return finished


# ---------------------------------------------------------------------- every client's points at once


@dataclass
class ClientsState(State):
    """The server's centre ``(d,)``, each client's last gradient estimate ``(clients, d)``, and the step size."""

    centre: Tensor
    gradients: Tensor
    step: float


@dataclass(frozen=True)
class Clients(Generational):
    """Federated zeroth-order descent: each client estimates a gradient from points of its own, the server averages them."""

    clients: int = 3  # how many there are; each carries its number as a column
    queries: int = 6  # points of each client in one round
    radius: float = 0.1  # how far from the centre they lie, encoded
    step: float = 0.2  # first step along the averaged, normalised direction, encoded

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values", choices=False, constraints=False)

    def start(self, task: Task, random: Random) -> ClientsState:
        centre = torch.as_tensor(task.space.start, dtype=task.dtype)
        return ClientsState(centre, torch.zeros((self.clients, task.dim), dtype=task.dtype), self.step)

    def propose(self, task: Task, inner: ClientsState, random: Random) -> tuple[ClientsState, Candidates]:
        z = torch.cat([random.child("client", k).normal((self.queries, task.dim), dtype=task.dtype) for k in range(self.clients)])
        low, high = bounds(task.space, z)
        x = torch.minimum(torch.maximum(inner.centre + self.radius * z, low), high)
        return inner, Candidates(x, {"client": np.repeat(np.arange(self.clients), self.queries), "direction": z})

    def update(self, task: Task, inner: ClientsState, generation: Observations, random: Random) -> ClientsState:
        client = np.asarray(generation.column("client"))
        for k in range(self.clients):
            mine = torch.as_tensor(np.nonzero(client == k)[0])
            good = generation.ok[mine]
            if not good.any():
                inner.gradients[k] *= -1.0  # nothing comes back from there
                continue
            values = generation.values[mine, 0]
            values = torch.where(good, values, values[good].max())  # to fail is as bad as the worst answer
            centred = values - values.mean()
            shift = generation.x[mine] - inner.centre
            gradient = (centred.unsqueeze(-1) * shift).mean(0)
            inner.gradients[k] = gradient / gradient.norm().clamp_min(1e-12)
        low, high = bounds(task.space, inner.centre)
        moved = inner.centre - inner.step * inner.gradients.mean(0)
        inner.centre = torch.minimum(torch.maximum(moved, low), high)
        inner.step *= 0.95
        return inner

    def recommend(self, task: Task, state: Any) -> Tensor:
        centre: Tensor = state.inner.centre
        return centre


# ---------------------------------------------------------------------- two strategies in one


@dataclass
class RelayState(State):
    """The states of both parts and whose turn it is."""

    first: State
    second: State
    turn: int = 0


@dataclass(frozen=True)
class Relay(Strategy[RelayState]):
    """Two strategies take turns; each learns from the points of its own, and both from points that nobody asked."""

    first: Strategy[Any] = field(default_factory=RankWalk)  # asks in even turns
    second: Strategy[Any] = field(default_factory=Swarm)  # asks in odd turns

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values")
    names: ClassVar[tuple[str, str]] = ("first", "second")

    def begin(self, task: Task, random: Random) -> RelayState:
        return RelayState(*(getattr(self, name).begin(task, random.child(name)) for name in self.names))

    def ask(self, task: Task, state: RelayState, request: Request, random: Random) -> tuple[RelayState, Candidates]:
        for k in (state.turn, state.turn + 1):
            name = self.names[k % 2]
            try:
                inner, candidates = getattr(self, name).ask(task, getattr(state, name), request, random.child(name))
            except NotReady:
                continue  # the other may have something
            setattr(state, name, inner)
            state.turn = k + 1
            return state, candidates.prefixed(name, part=np.full(candidates.x.shape[-2], k % 2))
        raise NotReady("both parts wait for results.")

    def tell(self, task: Task, state: RelayState, observations: Observations, random: Random) -> RelayState:
        part = observations.column("part")
        owner = np.full(observations.n, -1) if part is None else np.asarray(part)
        for k, name in enumerate(self.names):
            rows = np.nonzero((owner == k) | (owner < 0))[0]
            if len(rows):
                told = observations.take(rows, name)
                setattr(state, name, getattr(self, name).tell(task, getattr(state, name), told, random.child(name)))
        return state

    def recommend(self, task: Task, state: RelayState) -> Tensor | None:
        return self.second.recommend(task, state.second)

    @classmethod
    def example_task(cls) -> Example:
        return sphere_example(800)


EDGES: dict[str, Any] = {
    "swarm": Swarm,
    "swarm in mini-batches": lambda: Swarm(batch=5),
    "rank-walk": RankWalk,
    "clients": Clients,
    "relay": Relay,
    "relay of particles and clients": lambda: Relay(Swarm(batch=7), RankWalk(offspring=5, parents=2)),
}
