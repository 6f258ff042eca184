"""Consensus-based optimization: the particle system itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from zoopt.errors import CapabilityError, ConfigError
from zoopt.feedback import Candidates, Observations, rank_rows
from zoopt.generation import Generational, GenerationState
from zoopt.strategies.cbo.consensus import SHARPNESS, aligned, alpha_for_sample_size, consensus, first_alpha, level, local_consensus
from zoopt.strategies.cbo.diffusion import Noise, covariance_root, default_spread, extent, in_blocks, interpolate, step
from zoopt.strategies.cbo.folding import fold
from zoopt.strategies.cbo.numbers import Numbers, Streams, Table
from zoopt.strategies.cbo.surfaces import SURFACES, Surface, SurfaceName
from zoopt.strategy import Capabilities, Example, State, Task, live

if TYPE_CHECKING:
    from zoopt.random import Random
    from zoopt.strategies.cbo.numbers import Fill

_ENOUGH = 8000  # normal numbers of a run from which a draw for one step is cheap; smaller steps draw several at once
_AT_ONCE = 32_000  # how many those draw
_LOOK = 50  # steps between looks at whether a run has converged
_SHAKE = 0.1  # size of the noise that shakes a cloud without progress, a unit of time


@dataclass
class CBOState(State):
    """The particles and what they agree on.

    Attributes:
        x: Particles, ``(*runs, N, d)``, where their surface has them: encoded points in a box.
        c: Consensus point, ``(*runs, d)``, in the same units.
        alpha: Inverse temperature of the weights at the next step, ``(*runs,)``; 0 before the first.
        settled: Runs in which the weights can be made no sharper and are as even as at the first step, ``(*runs,)`` bool; looked at
            now and then.
        steps: Steps taken.
        centres: A consensus point for each particle, ``(*runs, N, d)``, where they agree with their neighbours only.
        own: The best point each particle has seen, ``(*runs, N, d)``.
        own_values: Its value, ``(*runs, N)``.
        velocity: ``(*runs, N, d)``.
        best: Smallest value so far, ``(*runs,)``.
        waited: Steps since it became smaller, ``(*runs,)``.
        still: Runs whose consensus point stands still, ``(*runs,)`` bool.
        order: Order in which mini-batches take the particles, ``(*runs, N)``.
        first: Where the mini-batch that is out begins in that order.
        held: What the step needs that waits for the value of the consensus point.
        noise: Normal numbers of several steps, ``(*runs, steps, n, d)``, single precision.
        block: Which steps these are for.
        table: Normal numbers that all runs read from.
        streams: Generators of the normal numbers of large steps.
    """

    x: Tensor
    c: Tensor
    alpha: Tensor
    settled: Tensor
    steps: int = 0
    centres: Tensor | None = None
    own: Tensor | None = None
    own_values: Tensor | None = None
    velocity: Tensor | None = None
    best: Tensor | None = None
    waited: Tensor | None = None
    still: Tensor | None = None
    order: Tensor | None = None
    first: int = 0
    held: dict[str, Tensor] | None = None
    noise: Tensor | None = live()
    block: int = live(-1)
    table: Table | None = live()
    streams: Streams | None = live()


@dataclass(frozen=True)
class CBO(Generational):
    """Consensus-based optimization: particles drift to a weighted mean of themselves and explore in proportion to their distance from it.

    For cheap, batched objectives with many local minima and 10,000 evaluations and more; excellent where coordinates matter each
    by themselves (Rastrigin, Ackley, Levy); with ``noise="covariance"`` also on rotated ones. Weak in ill-conditioned valleys (use
    cma-es there). All runs and particles move as one tensor, on any device. Results that are added before the first ask start it: the
    best of them are particles, up to half of all. Results added later teach it nothing.

    Reference: Pinnau, Totzeck, Tse, Martin, M3AS 27(1), 2017; anisotropic noise and mini-batches: Carrillo, Jin, Li, Zhu, ESAIM: COCV
    27, 2021; as a relaxation of gradient descent: Riedl, Klock, Geldhauser, Fornasier, arXiv:2306.09778; memory and gradients:
    Riedl, Eur. J. Appl. Math. 35, 2024; with inertia: Grassi, Pareschi, M3AS 31(8), 2021.
    """

    particles: int = 100  # N, particles of a run
    noise: Noise = "anisotropic"  # "anisotropic", "isotropic", "covariance" (consensus-based sampling) or "constant"
    drift: float = 1.0  # lambda, rate at which particles move to the consensus point
    dt: float | None = None  # length of a time step; None: 0.5 with isotropic noise, infinite with covariance noise, else 0.01
    sigma: float | None = None  # size of the noise a unit of time; None: as large as still contracts, see the documentation
    alpha: float | None = None  # inverse temperature of the weights at first; None: 30 / (median - smallest value)
    alpha_growth: float = 1.05  # factor of the inverse temperature a step
    alpha_cap: float = 1e15  # largest inverse temperature; the final accuracy is about one over it
    sample_size: float | None = None  # effective sample size of the weights over N; None: 0.3 with covariance noise, else alpha grows
    truncation: float | None = None  # largest distance, in widths of the space, that enters the noise; None: no limit
    noise_after_drift: bool = False  # whether the noise is in proportion to the distance after the drift and not before it
    correction: Literal["none", "heaviside", "smooth"] = "none"  # particles better than the consensus point, evaluated too, do not drift
    memory: float = 0.0  # lambda_2, rate at which particles move to the best point each of them has seen; consensus is over these then
    reevaluate: bool = False  # evaluate the remembered points anew at each step, for noisy objectives
    inertia: float = 0.0  # mass m < 1 of the particles, which keep moving as in a particle swarm
    gradient: float = 0.0  # rate at which particles move down the gradient (encoded), which the problem offers or the objective gives
    neighbourhood: float | None = None  # width, in widths of the space, of the kernel within which particles agree; None: all agree
    surface: SurfaceName = "box"  # where points lie: the "box" of the space, its unit "sphere", or its unit "simplex" (problem units)
    penalty: float | None = None  # nu: outcome constraints enter as value + sum max(c, 0)^2 / nu; None: feasible points come first
    batch: int | None = None  # particles evaluated a step, in random order; None: all
    batch_moves: Literal["all", "batch"] = "all"  # whether all particles move with a mini-batch's consensus point, or its own only
    repeats: int = 1  # evaluations of each particle, whose mean counts, for noisy objectives
    cooling: int | None = None  # steps of an epoch: in epoch e the noise is divided by log2(e + 2), e = 0, 1, ...; None: no cooling
    patience: int | None = None  # steps without a better value after which the particles are shaken; None: never
    standstill: float | None = None  # movement of the consensus point, in widths of the space, below which they are shaken; None: never
    restarts: bool = False  # begin again from new particles where all have met
    numbers: Numbers = "fresh"  # normal numbers of the noise: "fresh", or from a "table" that all runs share, in less time
    tolerance: float = 1e-12  # largest distance from the consensus point, in widths of the space, at which a run has converged

    capabilities: ClassVar[Capabilities] = Capabilities(feedback="values", batched=True)

    def __post_init__(self) -> None:
        def refuse(wrong: bool, name: str, wanted: str) -> None:
            if wrong:
                raise ConfigError(f"{name} must be {wanted}; got {getattr(self, name)!r}.")

        def one_of(name: str, *choices: str) -> None:
            refuse(getattr(self, name) not in choices, name, f"{', '.join(choices[:-1])} or {choices[-1]}")

        refuse(self.particles < 2, "particles", "at least 2")
        one_of("noise", "anisotropic", "isotropic", "covariance", "constant")
        refuse(not self.drift > 0, "drift", "above 0")
        refuse(self.dt is not None and not self.dt > 0, "dt", "above 0")
        refuse(self.dt == math.inf and self.noise != "covariance", "dt", "finite, but for covariance noise")
        refuse(self.sigma is not None and not 0 <= self.sigma <= 1e6, "sigma", "between 0 and 1e6")
        refuse(self.alpha is not None and not 0 < self.alpha < math.inf, "alpha", "above 0")
        refuse(not self.alpha_growth >= 1, "alpha_growth", "at least 1")
        refuse(not 0 < self.alpha_cap < math.inf, "alpha_cap", "above 0 and finite")
        refuse(self.sample_size is not None and not 0 < self.sample_size < 1, "sample_size", "between 0 and 1")
        refuse(self.truncation is not None and not self.truncation > 0, "truncation", "above 0")
        one_of("correction", "none", "heaviside", "smooth")
        refuse(not 0 <= self.memory < math.inf, "memory", "0 or more")
        refuse(self.reevaluate and not self.memory, "reevaluate", "False without memory")
        refuse(not 0 <= self.inertia < 1, "inertia", "0 or more and below 1")
        refuse(not 0 <= self.gradient < math.inf, "gradient", "0 or more")
        refuse(self.neighbourhood is not None and not 0 < self.neighbourhood < math.inf, "neighbourhood", "above 0")
        one_of("surface", *SURFACES)
        refuse(self.penalty is not None and not 0 < self.penalty < math.inf, "penalty", "above 0")
        refuse(self.batch is not None and not 2 <= self.batch <= self.particles, "batch", f"between 2 and the {self.particles} particles")
        one_of("batch_moves", "all", "batch")
        refuse(self.repeats < 1, "repeats", "at least 1")
        refuse(self.cooling is not None and self.cooling < 1, "cooling", "at least 1 step")
        refuse(self.patience is not None and self.patience < 1, "patience", "at least 1 step")
        refuse(self.standstill is not None and not 0 < self.standstill < math.inf, "standstill", "above 0")
        one_of("numbers", "fresh", "table")
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        """Options that each make sense, but not together."""
        if self.correction != "none" and self.batch is not None and self.batch_moves == "all":
            raise ConfigError("batch_moves must be 'batch' with a correction, which compares particles that were evaluated; got 'all'.")
        if self.batch is not None:
            for name, plain in (("memory", 0.0), ("inertia", 0.0), ("gradient", 0.0), ("neighbourhood", None), ("patience", None)):
                if getattr(self, name) != plain:
                    raise ConfigError(
                        f"batch cannot be combined with {name}, which needs all particles at each step; leave one of them out."
                    )
        if self.neighbourhood is not None and (self.correction != "none" or self.noise == "covariance"):
            raise ConfigError("neighbourhood cannot be combined with a correction or covariance noise, which need one consensus point.")
        if self.surface != "box" and (self.noise == "covariance" or self.gradient or self.inertia):
            raise ConfigError(f"surface={self.surface!r} cannot be combined with covariance noise, gradient or inertia.")
        if self.noise == "covariance" and self.time_step() == math.inf and (self.memory or self.gradient or self.inertia):
            raise ConfigError("covariance noise with memory, gradient or inertia needs a finite dt.")

    def check(self, task: Task) -> None:
        super().check(task)
        if task.constraints and self.penalty is None:
            for name in ("correction", "gradient", "reevaluate"):
                if getattr(self, name) not in ("none", 0.0, False):
                    raise CapabilityError(
                        f"cbo with {name} compares values, but under outcome constraints only an order is learned; leave {name} out, or "
                        "set penalty, which adds the violations to the values."
                    )
        SURFACES[self.surface].check(task)

    # ------------------------------------------------------------------ the schedule

    def time_step(self) -> float:
        """Dt."""
        return self.dt if self.dt is not None else {"isotropic": 0.5, "covariance": math.inf}.get(self.noise, 0.01)

    def contraction(self) -> float:
        """m, what a step's drift leaves of the distance; covariance noise takes the exact step of its linear equation."""
        away = self.drift * self.time_step()
        return math.exp(-away) if self.noise == "covariance" else 1.0 - away

    def spread(self, dim: int, steps: int = 0) -> float:
        """s, the size of the noise of a step, after so many."""
        if self.sigma is None:
            s = default_spread(self.noise, dim, self.contraction())
        elif self.noise == "covariance":  # of the exact step; sigma = 1 keeps the variance of what it forgets
            s = self.sigma * math.sqrt(1.0 - self.contraction() ** 2)
        else:
            s = self.sigma * math.sqrt(self.time_step())
        return s if self.cooling is None else s / math.log2(2 + steps // self.cooling)

    def effective(self) -> float | None:
        """The effective sample size over N that decides alpha, or None where it grows."""
        return 0.3 if self.sample_size is None and self.noise == "covariance" and self.alpha is None else self.sample_size

    # ------------------------------------------------------------------ the generations

    def start(self, task: Task, random: Random) -> CBOState:
        alpha = torch.zeros(task.runs, dtype=torch.float64, device=task.device)
        c = torch.zeros((*task.runs, task.dim), dtype=task.dtype, device=task.device)
        x = aligned(self._surface.cloud(task, self.particles, random))
        state = CBOState(x, c, alpha, torch.zeros_like(alpha, dtype=torch.bool))
        if self.neighbourhood is not None:
            state.centres = aligned(torch.zeros_like(x))
        if self.memory:
            state.own = aligned(x.clone())
            state.own_values = torch.full(x.shape[:-1], torch.inf, dtype=torch.float64, device=task.device)
        if self.inertia:
            state.velocity = torch.zeros_like(x)
        if self.patience is not None:
            state.best, state.waited = torch.full_like(alpha, torch.inf), torch.zeros_like(alpha)
        if self.standstill is not None:
            state.still = torch.zeros_like(alpha, dtype=torch.bool)
        return state

    def learn_added(self, task: Task, inner: CBOState, added: Observations, random: Random) -> CBOState:
        k = min(added.n, self.particles // 2)  # the others keep looking elsewhere
        inner.x[..., :k, :] = self._surface.decode(task, added.x[:k]).to(inner.x)
        if inner.own is not None:
            inner.own.copy_(inner.x)
        return inner

    def propose(self, task: Task, inner: CBOState, random: Random) -> tuple[CBOState, Candidates]:
        if inner.held is not None:
            points = inner.c.unsqueeze(-2)
        elif self.batch is not None:
            if inner.order is None or inner.first + self.batch > self.particles:
                inner.order = random.child("order").permutation(self.particles, runs=task.runs, device=task.device)
                inner.first = 0
            points = inner.x.gather(-2, self._rows(task, inner))
        elif self.reevaluate and inner.own is not None and inner.steps:
            points = torch.cat([inner.x, inner.own], -2)
        else:
            points = inner.x
        points = self._surface.encode(task, points)
        return inner, Candidates(points if self.repeats == 1 else points.repeat_interleave(self.repeats, -2))

    def update(self, task: Task, inner: CBOState, generation: Observations, random: Random) -> CBOState:
        values = self._values(task, generation)
        if inner.held is not None:
            held, inner.held = inner.held, None
            self._move(task, inner, held, self._drifting(held, values).to(inner.x.dtype), random)
            return inner
        told = generation.x if self.repeats == 1 else generation.x[..., :: self.repeats, :]
        seen = self._put_back(task, inner, told)
        held = self._gradients(task, generation, told)
        if self.memory:
            x, values_of = self._remember(inner, seen, values)
        else:
            x, values_of = seen, values
        above, low = level(values_of)
        self._temper(inner, above)
        previous = x.mean(-2) if inner.steps == 0 else inner.c
        all_ok = generation.all_ok and not self.memory
        inner.c, held["weights"] = consensus(x, above, low, inner.alpha, previous, all_ok=all_ok)
        if self.neighbourhood is not None:
            inner.centres = aligned(local_consensus(x, above, inner.alpha, self.neighbourhood))
            leader = above.argmin(-1)[..., None, None].expand(*above.shape[:-1], 1, task.dim)
            inner.c = inner.centres.gather(-2, leader).squeeze(-2)  # theirs who has the best value
        if inner.steps % _LOOK == 0:
            inner.settled = (inner.alpha >= self.alpha_cap) & ~(inner.alpha * above.median(-1).values > SHARPNESS)
        if self.effective() is None:
            inner.alpha.mul_(self.alpha_growth).clamp_max_(self.alpha_cap)
        if self.standstill is not None and inner.steps:
            inner.still = (inner.c - previous).abs().amax(-1) < self.standstill
        if inner.waited is not None:
            assert inner.best is not None
            better = low.squeeze(-1) < inner.best
            inner.best = torch.where(better, low.squeeze(-1), inner.best)
            inner.waited = torch.where(better, 0.0, inner.waited + 1.0)
        if self.correction == "none":
            self._move(task, inner, held, 1.0, random)
        else:
            inner.held = {**held, "values": values[..., : self.particles]}
        return inner

    def _values(self, task: Task, generation: Observations) -> Tensor:
        """What is minimised, ``(*runs, n)``, in double precision; +inf where the evaluation failed."""
        if task.constraints and self.penalty is None:
            if self.repeats == 1:
                return generation.ranks.double()
            constraints = None if generation.constraints is None else self._averaged(generation.constraints, -2)
            ok = None if generation.all_ok else generation.ok.unflatten(-1, (-1, self.repeats)).all(-1)
            return rank_rows(self._averaged(generation.values.double(), -2), constraints, ok)
        values = generation.values[..., 0].double()
        if task.constraints and generation.constraints is not None:
            violation = generation.constraints.double().clamp_min(0.0).square().sum(-1)
            values = values + violation / (self.penalty or 1.0)
            if not generation.all_ok:
                values = torch.where(generation.ok, values, torch.inf)
        return values if self.repeats == 1 else self._averaged(values, -1)

    def _averaged(self, each: Tensor, dim: int) -> Tensor:
        """The mean over the evaluations of each particle."""
        mean: Tensor = each.unflatten(dim, (-1, self.repeats)).mean(dim)
        return mean

    def _temper(self, inner: CBOState, above: Tensor) -> None:
        """The inverse temperature of this step."""
        size = self.effective()
        if size is not None:
            inner.alpha = alpha_for_sample_size(above, size).clamp_max(self.alpha_cap)
        elif inner.steps == 0 or self.restarts:
            first = torch.full_like(inner.alpha, self.alpha) if self.alpha is not None else first_alpha(above)
            inner.alpha = torch.where(inner.alpha == 0, first.clamp_max(self.alpha_cap), inner.alpha)

    def _remember(self, inner: CBOState, x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The best point each particle has seen, and its value."""
        assert inner.own is not None and inner.own_values is not None
        known = inner.own_values
        if values.shape[-1] > self.particles:  # both were evaluated
            values, known = values[..., : self.particles], values[..., self.particles :]
        better = values < known
        inner.own = aligned(torch.where(better.unsqueeze(-1), x, inner.own))
        inner.own_values = torch.where(better, values, known)
        return inner.own, inner.own_values

    def _rows(self, task: Task, inner: CBOState) -> Tensor:
        """The particles of the mini-batch that is out, as an index of ``x``."""
        assert inner.order is not None and self.batch is not None
        rows = inner.order[..., inner.first : inner.first + self.batch].unsqueeze(-1)
        return rows.expand(*rows.shape[:-1], task.dim)

    def _put_back(self, task: Task, inner: CBOState, told: Tensor) -> Tensor:
        """Where the particles were evaluated, which is where they are from now on; gives those of this step, aligned."""
        if self.surface != "box":
            told = self._surface.decode(task, told)
        if self.batch is not None:
            inner.x.scatter_(-2, self._rows(task, inner), told.to(inner.x))
            return aligned(told.to(inner.x.dtype))
        if told is not inner.x:
            inner.x.copy_(told[..., : self.particles, :])
        inner.x = aligned(inner.x)
        return inner.x

    def _gradients(self, task: Task, generation: Observations, told: Tensor) -> dict[str, Tensor]:
        """The gradients at the particles with respect to their coordinates, ``(*runs, N, d)``, where they are asked for."""
        if not self.gradient:
            return {}
        if generation.gradients is not None:
            slopes = generation.gradients[..., 0, :]
            slopes = slopes if self.repeats == 1 else self._averaged(slopes, -2)
        elif hasattr(task.problem, "gradient"):
            slopes = task.problem.gradient(task.space.decode(told))[..., 0, :] * task.space.decoding_slopes(told)
        else:
            raise CapabilityError(
                "cbo with gradient needs gradients: a problem with a method gradient(x), or an objective that gives them beside its values."
            )
        return {"gradients": torch.nan_to_num(slopes[..., : self.particles, :], nan=0.0, posinf=0.0, neginf=0.0)}

    def _drifting(self, held: dict[str, Tensor], value: Tensor) -> Tensor:
        """Which particles drift, ``(*runs, n, 1)``: those worse than the consensus point, whose value is ``(*runs, 1)``."""
        worse = held["values"] - value
        worse = torch.where(torch.isnan(worse), 0.0, worse)  # both failed
        share = (worse > 0).double() if self.correction == "heaviside" else (1.0 + torch.tanh(worse / 1e-3)) / 2.0
        return share.unsqueeze(-1)

    # ------------------------------------------------------------------ the step

    def _move(self, task: Task, inner: CBOState, held: dict[str, Tensor], drifting: float | Tensor, random: Random) -> None:
        """The step, the bounds, and the next mini-batch."""
        plain = self.contraction()
        contraction = 1.0 - (1.0 - plain) * drifting
        s, limit = self.spread(task.dim, inner.steps), self.truncation
        if self.noise_after_drift:  # min(m |D|, T) = m min(|D|, T / m)
            s, limit = s * abs(plain), None if limit is None or plain == 0 else limit / abs(plain)
        if self.memory or self.inertia or self.gradient or self.surface != "box":
            self._move_freely(task, inner, held, contraction, s, limit, random)
        elif self.batch is None or self.batch_moves == "all":
            self._advance(task, inner, inner.x, contraction, s, limit, self._weights(inner, held), random)
        else:
            rows = self._rows(task, inner)
            x = inner.x.gather(-2, rows)
            self._advance(task, inner, x, contraction, s, limit, held["weights"], random)
            inner.x.scatter_(-2, rows, x)
        inner.steps += 1
        if self.batch is not None:
            inner.first += self.batch
        self._shake(task, inner, random)
        if self.restarts and inner.steps % _LOOK == 0:
            self._restart(task, inner, random.child("restart"))

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
        c, n = self._towards(inner), x.shape[-2]
        root = covariance_root(x - c, weights) if self.noise == "covariance" else None
        scaled = self.noise == "anisotropic" and limit is None and self.cooling is None and isinstance(contraction, float)
        mean, std = (contraction, s) if scaled and isinstance(contraction, float) else (0.0, 1.0)

        def move(x: Tensor, c: Tensor, z: Tensor, contraction: float | Tensor, root: Tensor | None) -> None:
            if scaled:
                interpolate(x, c, z.to(x.dtype))
            else:
                step(x, c, z, contraction, s, self.noise, root=root, truncation=limit)

        if x.device.type != "cpu" or (self.numbers == "fresh" and self._ahead(task, n) > 1):
            move(x, c, self._normals(task, inner, n, random, mean, std), contraction, root)
            fold(x, task.space)
            return
        each = c.flatten(0, -3) if task.runs else c.unsqueeze(0)
        one = each.shape[-2] == 1
        rates = contraction.reshape(-1, n, 1) if isinstance(contraction, Tensor) else None
        roots = None if root is None else root.reshape(-1, *root.shape[-2:])

        def move_block(block: Tensor, z: Tensor, at: tuple[slice, slice]) -> None:
            own = at[0]
            where = each[own] if one else each[at]
            move(block, where, z, contraction if rates is None else rates[at], None if roots is None else roots[own])

        in_blocks(x, self._fill(task, inner, x, random, mean, std), move_block, fold=task.space.box)
        if not task.space.box:
            fold(x, task.space)

    def _move_freely(
        self,
        task: Task,
        inner: CBOState,
        held: dict[str, Tensor],
        contraction: float | Tensor,
        s: float,
        limit: float | None,
        random: Random,
    ) -> None:
        """The step with everything that may act on a particle beside the consensus point; all particles at once."""
        x, c = inner.x, self._towards(inner)
        away = x - c
        root = covariance_root(away, held["weights"]) if self.noise == "covariance" else None
        z = self._normals(task, inner, self.particles, random, 0.0, 1.0)
        jump = step(x.clone(), c, z.clone(), contraction, s, self.noise, root=root, truncation=limit) - x
        dt = self.time_step()
        if inner.own is not None:  # noise in proportion to the distance from it, and to the rate
            z = random.child("memory").normal((self.particles, task.dim), runs=task.runs, dtype=torch.float32, device=task.device)
            kind: Noise = "anisotropic" if self.noise == "covariance" else self.noise
            jump += step(x.clone(), inner.own, z, 1.0 - self.memory * dt, self.memory * s, kind, truncation=limit) - x
        if self.gradient:
            jump -= self.gradient * dt * held["gradients"].to(x.dtype)
        before = x.clone() if inner.velocity is not None else x
        if inner.velocity is not None:
            jump = (self.inertia * inner.velocity + jump).mul_(dt / (self.inertia + (1.0 - self.inertia) * dt))
        self._surface.move(task, x, jump, away, s, self.noise)
        if inner.velocity is not None:
            inner.velocity = (x - before) / dt  # as the bounds have turned it

    def _towards(self, inner: CBOState) -> Tensor:
        """Where each particle moves, ``(*runs, N, d)``, or all of them, ``(*runs, 1, d)``."""
        return inner.c.unsqueeze(-2) if inner.centres is None else inner.centres

    def _shake(self, task: Task, inner: CBOState, random: Random) -> None:
        """Noise for runs that have waited too long for a better value (of a fixed size), or whose consensus point stands still (s)."""
        if self.patience is None and self.standstill is None:
            return
        size = torch.zeros_like(inner.alpha)
        if self.patience is not None:
            assert inner.waited is not None
            over = inner.waited >= self.patience
            size = torch.where(over, _SHAKE * math.sqrt(self.time_step()), size)
            inner.waited = torch.where(over, 0.0, inner.waited)
        if inner.still is not None:
            size = torch.where(inner.still, self.spread(task.dim, inner.steps), size)
        z = random.child("shake").normal((self.particles, task.dim), runs=task.runs, dtype=torch.float32, device=task.device)
        jump = z.to(inner.x.dtype) * size.to(inner.x.dtype)[..., None, None]
        self._surface.move(task, inner.x, jump, torch.zeros_like(inner.x), 0.0, self.noise)

    def _restart(self, task: Task, inner: CBOState, random: Random) -> None:
        """New particles for runs in which all have met."""
        over = self._over(inner)
        rows = over[..., None, None]
        inner.x = aligned(torch.where(rows, self._surface.cloud(task, self.particles, random), inner.x))
        inner.alpha = torch.where(over, 0.0, inner.alpha)
        if inner.own_values is not None:
            inner.own_values = torch.where(rows[..., 0], torch.inf, inner.own_values)
        if inner.velocity is not None:
            inner.velocity = torch.where(rows, 0.0, inner.velocity)

    def _weights(self, inner: CBOState, held: dict[str, Tensor]) -> Tensor:
        """The weights of all particles; those that were not evaluated have none."""
        if self.batch is None:
            return held["weights"]
        assert inner.order is not None
        rows = inner.order[..., inner.first : inner.first + self.batch]
        return torch.zeros(inner.x.shape[:-1], dtype=held["weights"].dtype, device=inner.x.device).scatter_(-1, rows, held["weights"])

    # ------------------------------------------------------------------ the numbers

    def _fill(self, task: Task, inner: CBOState, x: Tensor, random: Random, mean: float, std: float) -> Fill:
        """Where the normal numbers of this step come from, for particles ``x: (*runs, n, d)``."""
        share = x.shape[-2] * x.shape[-1]
        if self.numbers == "table":
            inner.table = Table.for_step(inner.steps, share, mean, std, random, task.device, inner.table)
            return inner.table.fill(inner.steps, random.child("noise"), task.runs, share)
        inner.streams = Streams.for_step(inner.steps, share, random, task.runs, inner.streams)
        while inner.streams.steps < inner.steps:  # since the state was saved in between
            in_blocks(x, inner.streams.fill(mean, std), lambda block, z, at: None, fold=False)
        return inner.streams.fill(mean, std)

    def _normals(self, task: Task, inner: CBOState, n: int, random: Random, mean: float, std: float) -> Tensor:
        """Normal numbers of this step, ``(*runs, n, d)``, drawn in single precision: their last bits do not matter, their time does."""
        ahead = self._ahead(task, n)
        if self.numbers == "table":
            z = torch.empty((math.prod(task.runs), n, task.dim), dtype=torch.float32, device=task.device)
            self._fill(task, inner, z, random, mean, std)(z, (slice(None), slice(None)))
            return z.view(*task.runs, n, task.dim)
        if ahead == 1:
            key = random.child("noise")
            return key.normal((n, task.dim), mean=mean, std=std, runs=task.runs, dtype=torch.float32, device=task.device)
        block, row = divmod(inner.steps, ahead)
        if inner.noise is None or inner.block != block:
            key, shape = random.at(block).child("noise"), (ahead, n, task.dim)
            inner.noise = key.normal(shape, mean=mean, std=std, runs=task.runs, dtype=torch.float32, device=task.device)
            inner.block = block
        return inner.noise.select(-3, row).to(task.dtype)

    def _ahead(self, task: Task, n: int) -> int:
        """For how many steps normal numbers are drawn at once."""
        share = n * task.dim
        return 1 if share >= _ENOUGH else -(-_AT_ONCE // share)

    # ------------------------------------------------------------------ what is learned

    @property
    def _surface(self) -> Surface:
        return SURFACES[self.surface]

    def recommend(self, task: Task, state: GenerationState) -> Tensor | None:
        inner: CBOState = state.inner  # type: ignore[assignment]
        return self._surface.encode(task, self._surface.onto(inner.c)) if inner.steps else None

    def done(self, task: Task, state: GenerationState) -> Tensor | None:
        inner: CBOState = state.inner  # type: ignore[assignment]
        if inner.steps == 0 or self.restarts or self.standstill is not None:
            return torch.zeros(task.runs, dtype=torch.bool, device=task.device)
        return self._over(inner)

    def _over(self, inner: CBOState) -> Tensor:
        """Runs in which all particles have met, or nothing tells the better ones from the others, ``(*runs,)``."""
        return inner.settled | (self._largest_distance(inner) < self.tolerance)

    def _largest_distance(self, inner: CBOState) -> Tensor:
        """Of a particle's coordinate from where it moves to, ``(*runs,)``."""
        if inner.centres is not None:
            return (inner.x - inner.centres).abs().amax((-1, -2))
        low, high = extent(inner.x)
        return torch.maximum(high - inner.c, inner.c - low).amax(-1)

    def info(self, task: Task, state: GenerationState) -> dict[str, float | str]:
        inner: CBOState = state.inner  # type: ignore[assignment]
        if inner.steps == 0:
            return {}
        return {
            "distance from consensus": float(self._largest_distance(inner).max()),
            "alpha": float(inner.alpha.max()),
            "noise": self.spread(task.dim, inner.steps),
        }

    @classmethod
    def example_task(cls) -> Example:
        from zoopt.testing import sphere_example

        return sphere_example(4000)
