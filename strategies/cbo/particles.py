"""Consensus-based optimization: the particle system itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from zoopt.errors import CapabilityError, ConfigError
from zoopt.feedback import Candidates, Observations
from zoopt.generation import Generational, GenerationState
from zoopt.strategies.cbo.consensus import aligned, alpha_for_sample_size, consensus, first_alpha, level
from zoopt.strategies.cbo.diffusion import Noise, covariance_root, default_spread, in_blocks, interpolate, step
from zoopt.strategies.cbo.folding import fold
from zoopt.strategies.cbo.numbers import Numbers, Table, fresh
from zoopt.strategy import Capabilities, Example, State, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random
    from zoopt.strategies.cbo.numbers import Fill

_ENOUGH = 8000  # normal numbers of a run from which a draw for one step is cheap; smaller steps draw several at once
_LOOK = 50  # steps between looks at whether a run has converged
_SHARPNESS = 30.0  # alpha (median - smallest value) at the first step


@dataclass
class CBOState(State):
    """The particles and what they agree on.

    Attributes:
        x: Particles, ``(*runs, N, d)``.
        c: Consensus point, ``(*runs, d)``.
        alpha: Inverse temperature of the weights at the next step, ``(*runs,)``; 0 before the first.
        settled: Runs in which the weights can be made no sharper and are as even as at the first step, ``(*runs,)`` bool; looked at
            now and then.
        steps: Steps taken.
        order: Order in which mini-batches take the particles, ``(*runs, N)``.
        first: Where the mini-batch that is out begins in that order.
        held: Values above the smallest, the smallest, and the weights, while the consensus point itself is evaluated.
        noise: Normal numbers of several steps, ``(*runs, steps, n, d)``.
        block: Which steps these are for.
        table: Normal numbers that all runs read from.
    """

    x: Tensor
    c: Tensor
    alpha: Tensor
    settled: Tensor
    steps: int = 0
    order: Tensor | None = None
    first: int = 0
    held: dict[str, Tensor] | None = None
    noise: Tensor | None = live()
    block: int = live(-1)
    table: Table | None = live()


@dataclass(frozen=True)
class CBO(Generational):
    """Consensus-based optimization: particles drift to a weighted mean of themselves and explore in proportion to their distance from it.

    For cheap, batched objectives with many local minima and 10,000 evaluations and more; excellent where coordinates matter each
    by themselves (Rastrigin, Ackley, Levy), weak on rotated and ill-conditioned valleys (use cma-es there). All runs and
    particles move as one tensor, on any device.

    Reference: Pinnau, Totzeck, Tse, Martin, M3AS 27(1), 2017; anisotropic noise: Carrillo, Jin, Li, Zhu, ESAIM: COCV 27, 2021;
    as a relaxation of gradient descent: Riedl, Klock, Geldhauser, Fornasier, arXiv:2306.09778.
    """

    particles: int = 100  # N, particles of a run
    noise: Noise = "anisotropic"  # "anisotropic", "isotropic", "covariance" or "constant"
    drift: float = 1.0  # lambda, rate at which particles move to the consensus point
    dt: float | None = None  # length of a time step; None: 0.5 with isotropic noise, else 0.01
    sigma: float | None = None  # size of the noise a unit of time; None: as large as still contracts, see the documentation
    alpha: float | None = None  # inverse temperature of the weights at first; None: 30 / (median - smallest value)
    alpha_growth: float = 1.05  # factor of the inverse temperature a step
    alpha_cap: float = 1e15  # largest inverse temperature; the final accuracy is about one over it
    sample_size: float | None = None  # effective sample size of the weights as a fraction of the particles: decides alpha at each step
    truncation: float | None = None  # largest distance, in widths of the space, that enters the noise; None: no limit
    noise_after_drift: bool = False  # whether the noise is in proportion to the distance after the drift and not before it
    correction: Literal["none", "heaviside", "smooth"] = "none"  # particles better than the consensus point, evaluated too, do not drift
    batch: int | None = None  # particles evaluated a step, in random order; None: all
    batch_moves: Literal["all", "batch"] = "all"  # whether all particles move with a mini-batch's consensus point, or its own only
    cooling: int | None = None  # steps of an epoch: in epoch e the noise is divided by log2(e + 2), e = 0, 1, ...; None: no cooling
    numbers: Numbers = (
        "fresh"  # normal numbers of the noise: drawn anew at each step, or read from a "table" that all runs share, in less time
    )
    restarts: bool = False  # begin again from new particles where all have met
    tolerance: float = 1e-12  # largest distance from the consensus point, in widths of the space, at which a run has converged

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values", batched=True)

    def __post_init__(self) -> None:
        def refuse(wrong: bool, name: str, wanted: str) -> None:
            if wrong:
                raise ConfigError(f"{name} must be {wanted}; got {getattr(self, name)!r}.")

        refuse(self.particles < 2, "particles", "at least 2")
        refuse(
            self.noise not in ("anisotropic", "isotropic", "covariance", "constant"),
            "noise",
            "anisotropic, isotropic, covariance or constant",
        )
        refuse(not self.drift > 0, "drift", "above 0")
        refuse(self.dt is not None and not self.dt > 0, "dt", "above 0")
        refuse(self.sigma is not None and not self.sigma >= 0, "sigma", "0 or more")
        refuse(self.alpha is not None and not 0 < self.alpha < math.inf, "alpha", "above 0")
        refuse(not self.alpha_growth >= 1, "alpha_growth", "at least 1")
        refuse(not 0 < self.alpha_cap < math.inf, "alpha_cap", "above 0 and finite")
        refuse(self.sample_size is not None and not 0 < self.sample_size < 1, "sample_size", "between 0 and 1")
        refuse(self.truncation is not None and not self.truncation > 0, "truncation", "above 0")
        refuse(self.correction not in ("none", "heaviside", "smooth"), "correction", "none, heaviside or smooth")
        refuse(self.numbers not in ("fresh", "table"), "numbers", "fresh or table")
        refuse(self.batch is not None and not 2 <= self.batch <= self.particles, "batch", f"between 2 and the {self.particles} particles")
        refuse(self.batch_moves not in ("all", "batch"), "batch_moves", "all or batch")
        refuse(
            self.correction != "none" and self.batch is not None and self.batch_moves == "all",
            "batch_moves",
            "'batch' with a correction, which compares particles that were evaluated",
        )
        refuse(self.cooling is not None and self.cooling < 1, "cooling", "at least 1 step")

    def check(self, task: Task) -> None:
        super().check(task)
        if self.correction != "none" and task.constraints:
            raise CapabilityError(
                f"cbo with correction={self.correction!r} compares values, but under outcome constraints only an order is learned; "
                "use correction='none'."
            )

    def time_step(self) -> float:
        """Dt."""
        return self.dt if self.dt is not None else 0.5 if self.noise == "isotropic" else 0.01

    def spread(self, dim: int, steps: int = 0) -> float:
        """s, the size of the noise of a step, after so many."""
        dt = self.time_step()
        s = default_spread(self.noise, dim, 1.0 - self.drift * dt) if self.sigma is None else self.sigma * math.sqrt(dt)
        return s if self.cooling is None else s / math.log2(2 + steps // self.cooling)

    def start(self, task: Task, random: Random) -> CBOState:
        alpha = torch.zeros(task.runs, dtype=torch.float64, device=task.device)
        c = torch.zeros((*task.runs, task.dim), dtype=task.dtype, device=task.device)
        return CBOState(aligned(_cloud(task, self.particles, random)), c, alpha, torch.zeros_like(alpha, dtype=torch.bool))

    def propose(self, task: Task, inner: CBOState, random: Random) -> tuple[CBOState, Candidates]:
        if inner.held is not None:
            return inner, Candidates(inner.c.unsqueeze(-2))
        if self.batch is None:
            return inner, Candidates(inner.x)
        if inner.order is None or inner.first + self.batch > self.particles:
            inner.order = random.child("order").permutation(self.particles, runs=task.runs, device=task.device)
            inner.first = 0
        return inner, Candidates(inner.x.gather(-2, self._rows(task, inner)))

    def update(self, task: Task, inner: CBOState, generation: Observations, random: Random) -> CBOState:
        if inner.held is not None:
            held, inner.held = inner.held, None
            self._move(task, inner, held, self._drifting(held, generation), random)
            return inner
        values = generation.ranks if task.constraints else generation.values[..., 0]
        x = self._put_back(task, inner, generation.x)
        above, low = level(values)
        if self.sample_size is not None:
            inner.alpha = alpha_for_sample_size(above, self.sample_size).clamp_max(self.alpha_cap)
        elif inner.steps == 0 or self.restarts:
            first = torch.full_like(inner.alpha, self.alpha) if self.alpha is not None else first_alpha(above, _SHARPNESS)
            inner.alpha = torch.where(inner.alpha == 0, first.clamp_max(self.alpha_cap), inner.alpha)
        previous = x.mean(-2) if inner.steps == 0 else inner.c
        inner.c, weights = consensus(x, above, low, inner.alpha, previous, all_ok=generation.all_ok)
        if inner.steps % _LOOK == 0:
            inner.settled = (inner.alpha >= self.alpha_cap) & ~(inner.alpha * above.median(-1).values > _SHARPNESS)
        if self.sample_size is None:
            inner.alpha.mul_(self.alpha_growth).clamp_max_(self.alpha_cap)
        held = {"weights": weights}
        if self.correction == "none":
            self._move(task, inner, held, 1.0, random)
        else:
            inner.held = {**held, "values": values.double()}
        return inner

    def _rows(self, task: Task, inner: CBOState) -> Tensor:
        """The particles of the mini-batch that is out, as an index of ``x``."""
        assert inner.order is not None and self.batch is not None
        rows = inner.order[..., inner.first : inner.first + self.batch].unsqueeze(-1)
        return rows.expand(*rows.shape[:-1], task.dim)

    def _put_back(self, task: Task, inner: CBOState, told: Tensor) -> Tensor:
        """Where the particles were evaluated, which is where they are from now on; gives those of this step, aligned."""
        if self.batch is not None:
            inner.x.scatter_(-2, self._rows(task, inner), told.to(inner.x))
            return aligned(told.to(inner.x.dtype))
        if told is not inner.x:
            inner.x.copy_(told)
        inner.x = aligned(inner.x)
        return inner.x

    def _drifting(self, held: dict[str, Tensor], generation: Observations) -> Tensor:
        """Which particles drift, ``(*runs, n, 1)``: those worse than the consensus point."""
        worse = held["values"] - generation.values.double()[..., 0]
        worse = torch.where(torch.isnan(worse), 0.0, worse)  # both failed
        share = (worse > 0).double() if self.correction == "heaviside" else (1.0 + torch.tanh(worse / 1e-3)) / 2.0
        return share.unsqueeze(-1).to(generation.x.dtype)

    def _move(self, task: Task, inner: CBOState, held: dict[str, Tensor], drifting: float | Tensor, random: Random) -> None:
        """The step, the bounds, and the next mini-batch."""
        contraction = 1.0 - self.drift * self.time_step() * drifting
        plain = 1.0 - self.drift * self.time_step()
        s, limit = self.spread(task.dim, inner.steps), self.truncation
        if self.noise_after_drift:  # min(m |D|, T) = m min(|D|, T / m)
            s, limit = s * abs(plain), None if limit is None or plain == 0 else limit / abs(plain)
        if self.batch is None or self.batch_moves == "all":
            self._advance(task, inner, inner.x, contraction, s, limit, self._weights(task, inner, held), random)
        else:
            rows = self._rows(task, inner)
            x = inner.x.gather(-2, rows)
            self._advance(task, inner, x, contraction, s, limit, held["weights"], random)
            inner.x.scatter_(-2, rows, x)
        inner.steps += 1
        if self.batch is not None:
            inner.first += self.batch
        if self.restarts and inner.steps % _LOOK == 0:
            over = self._over(inner)
            inner.x = torch.where(over[..., None, None], _cloud(task, self.particles, random.child("restart")), inner.x)
            inner.alpha = torch.where(over, 0.0, inner.alpha)

    def _advance(
        self,
        task: Task,
        inner: CBOState,
        x: Tensor,
        contraction: float | Tensor,
        s: float,
        limit: float | None,
        weights: Tensor,
        random: Random,
    ) -> None:
        """Moves particles ``x: (*runs, n, d)`` in place, and back into the bounds."""
        c, box = inner.c.unsqueeze(-2), task.space.box
        root = covariance_root(x - c, weights) if self.noise == "covariance" else None
        scaled = self.noise == "anisotropic" and limit is None and self.cooling is None and isinstance(contraction, float)
        mean, std = (contraction, s) if scaled and isinstance(contraction, float) else (0.0, 1.0)

        def move(x: Tensor, c: Tensor, z: Tensor, contraction: float | Tensor, root: Tensor | None) -> None:
            if scaled:
                interpolate(x, c, z.to(x.dtype))
            else:
                step(x, c, z, contraction, s, self.noise, root=root, truncation=limit)

        n = x.shape[-2]
        if x.device.type == "cpu" and (self.numbers == "table" or self._ahead(task, n) == 1):
            each = c.reshape(-1, 1, task.dim)
            rates = contraction.reshape(-1, n, 1) if isinstance(contraction, Tensor) else None
            roots = None if root is None else root.reshape(-1, task.dim, task.dim)

            def move_block(block: Tensor, z: Tensor, at: tuple[slice, slice]) -> None:
                own = at[0]
                move(block, each[own], z, contraction if rates is None else rates[at], None if roots is None else roots[own])

            in_blocks(x, self._fill(task, inner, n, random, mean, std), move_block, fold=box)
        else:
            move(x, c, self._normals(task, inner, n, random, mean, std), contraction, root)
            box = False
        if not box:
            fold(x, task.space)

    def _weights(self, task: Task, inner: CBOState, held: dict[str, Tensor]) -> Tensor:
        """The weights of all particles; those that were not evaluated have none."""
        if self.batch is None:
            return held["weights"]
        rows = self._rows(task, inner)[..., 0]
        return torch.zeros(inner.x.shape[:-1], dtype=held["weights"].dtype, device=inner.x.device).scatter_(-1, rows, held["weights"])

    def _fill(self, task: Task, inner: CBOState, n: int, random: Random, mean: float, std: float) -> Fill:
        """Where the normal numbers of this step come from, for ``n`` particles of each run."""
        share = n * task.dim
        if self.numbers == "fresh":
            return fresh(random.child("noise"), task.runs, share, mean, std)
        inner.table = Table.for_step(inner.steps, share, mean, std, random, task.device, inner.table)
        return inner.table.fill(random.child("noise"), task.runs, share)

    def _normals(self, task: Task, inner: CBOState, n: int, random: Random, mean: float, std: float) -> Tensor:
        """Normal numbers of this step, ``(*runs, n, d)``, drawn in single precision: their last bits do not matter, their time does."""
        ahead = self._ahead(task, n)
        if self.numbers == "table":
            z = torch.empty((math.prod(task.runs), n, task.dim), dtype=torch.float32, device=task.device)
            self._fill(task, inner, n, random, mean, std)(z, (slice(None), slice(None)))
            return z.view(*task.runs, n, task.dim)
        if ahead == 1:
            key = random.child("noise")
            return key.normal((n, task.dim), mean=mean, std=std, runs=task.runs, dtype=torch.float32, device=task.device)
        block, row = divmod(inner.steps, ahead)
        if inner.noise is None or inner.block != block:
            key, shape = random.at(block).child("noise"), (ahead, n, task.dim)
            drawn = key.normal(shape, mean=mean, std=std, runs=task.runs, dtype=torch.float32, device=task.device)
            inner.noise, inner.block = drawn.to(task.dtype), block
        return inner.noise.select(-3, row)

    def _ahead(self, task: Task, n: int) -> int:
        """For how many steps normal numbers are drawn at once."""
        return max(1, -(-_ENOUGH // (n * task.dim)))

    def recommend(self, task: Task, state: GenerationState) -> Tensor | None:
        inner: CBOState = state.inner  # type: ignore[assignment]
        return inner.c if inner.steps else None

    def done(self, task: Task, state: GenerationState) -> Tensor | None:
        inner: CBOState = state.inner  # type: ignore[assignment]
        if inner.steps == 0 or self.restarts:
            return torch.zeros(task.runs, dtype=torch.bool, device=task.device)
        return self._over(inner)

    def _over(self, inner: CBOState) -> Tensor:
        """Runs in which all particles have met, or nothing tells the better ones from the others, ``(*runs,)``."""
        return inner.settled | (_spread(inner) < self.tolerance)

    def info(self, task: Task, state: GenerationState) -> dict[str, float | str]:
        inner: CBOState = state.inner  # type: ignore[assignment]
        if inner.steps == 0:
            return {}
        return {
            "distance from consensus": float(_spread(inner).max()),
            "alpha": float(inner.alpha.max()),
            "noise": self.spread(task.dim, inner.steps),
        }

    @classmethod
    def example_task(cls) -> Example:
        from zoopt.testing import sphere_example

        return sphere_example(4000)


def _cloud(task: Task, particles: int, random: Random) -> Tensor:
    """New particles, uniform in the space (normal where it is unbounded), ``(*runs, N, d)``."""
    return task.space.from_unit(random.uniform((particles, task.dim), runs=task.runs, dtype=task.dtype, device=task.device))


def _spread(inner: CBOState) -> Tensor:
    """Largest distance of a particle's coordinate from the consensus point, ``(*runs,)``."""
    return (inner.x - inner.c.unsqueeze(-2)).abs().amax((-1, -2))
